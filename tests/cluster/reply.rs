//! The parts of a reply that are compared.

use anyhow::{Context as _, Result};
use zerohop_contract::message::{Message, SECTIONS};

use crate::questions::is_at_or_below;

/// A reply, with the records of each section sorted, and without its OPT record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ComparedReply {
    pub(crate) rcode: String,
    /// The AA bit.
    pub(crate) authoritative: bool,
    /// The TC bit.
    pub(crate) truncated: bool,
    /// Answer, authority, additional.
    pub(crate) sections: [Vec<ReplyRecord>; 3],
}

/// A record, as text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ReplyRecord {
    pub(crate) owner: String,
    /// In seconds. `None` if CoreDNS's cache may have counted it down: the record is outside the
    /// cluster's zone, for which the suite's Corefile turns the cache off, or another record of the
    /// same answer is outside, because CoreDNS gives all records of an answer their lowest TTL.
    pub(crate) ttl: Option<u32>,
    pub(crate) rtype: String,
    /// The rdata. In a SOA record, `*` replaces the serial.
    pub(crate) data: String,
}

/// Which TTLs of Zerohop are right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TtlRule {
    /// Those of CoreDNS.
    Equal,
    /// Those of CoreDNS, and lower ones. CoreDNS's cache counts TTLs down, and gives all records of
    /// a message their lowest TTL.
    AtMost,
}

impl TtlRule {
    /// Removes the TTLs from two replies to the same question, if they are right although they
    /// differ. CoreDNS has asked its cache for the records behind a CNAME and for the rest of a
    /// truncated reply, so these may be counted down.
    pub(crate) fn settle(self, coredns: &mut ComparedReply, zerohop: &mut ComparedReply) {
        let is_counted_down = coredns.truncated
            || zerohop.truncated
            || coredns
                .answer()
                .iter()
                .any(|record| record.rtype == "CNAME");
        let ttls = |reply: &ComparedReply| {
            let records = reply.sections.iter().flatten();
            records.filter_map(|record| record.ttl).collect::<Vec<_>>()
        };
        let lowest = ttls(coredns).into_iter().min();
        let highest = ttls(zerohop).into_iter().max();
        if self == TtlRule::AtMost && (is_counted_down || highest <= lowest) {
            coredns.remove_ttls();
            zerohop.remove_ttls();
        }
    }
}

impl ComparedReply {
    /// Reads a reply. `zone` is the cluster domain.
    pub(crate) fn read(bytes: &[u8], zone: &str) -> Result<ComparedReply> {
        let message =
            Message::read(bytes).with_context(|| format!("cannot read the reply {bytes:02x?}"))?;
        let mut sections: [Vec<ReplyRecord>; 3] = Default::default();
        for (lines, records) in message.sections.iter().zip(&mut sections) {
            let read = lines.iter().map(|line| ReplyRecord::read(line, zone));
            *records = read.collect::<Result<_>>()?;
        }
        if sections[0].iter().any(|record| record.ttl.is_none()) {
            sections[0].iter_mut().for_each(|record| record.ttl = None);
        }
        sections.iter_mut().for_each(|records| records.sort());
        let flags = message.flags();
        Ok(ComparedReply {
            rcode: message.rcode(),
            authoritative: flags.contains(&"aa"),
            truncated: flags.contains(&"tc"),
            sections,
        })
    }

    /// Makes the reply equal to one with other TTLs.
    pub(crate) fn remove_ttls(&mut self) {
        let records = self.sections.iter_mut().flatten();
        records.for_each(|record| record.ttl = None);
        self.sections.iter_mut().for_each(|records| records.sort());
    }

    pub(crate) fn answer(&self) -> &[ReplyRecord] {
        &self.sections[0]
    }

    pub(crate) fn is_nxdomain(&self) -> bool {
        self.rcode == "NXDOMAIN"
    }

    pub(crate) fn is_nodata(&self) -> bool {
        self.rcode == "NOERROR" && self.answer().is_empty()
    }

    /// Whether the RCODE is NOERROR and the answer section has records.
    pub(crate) fn has_data(&self) -> bool {
        self.rcode == "NOERROR" && !self.answer().is_empty()
    }

    /// The parts in which `other` differs from this reply, as text.
    pub(crate) fn differences(&self, other: &ComparedReply) -> Vec<String> {
        let mut parts = Vec::new();
        if self.rcode != other.rcode {
            parts.push(format!("{} instead of {}", other.rcode, self.rcode));
        }
        if self.authoritative != other.authoritative {
            parts.push("AA".to_owned());
        }
        if self.truncated != other.truncated {
            parts.push("TC".to_owned());
        }
        let sections = self.sections.iter().zip(&other.sections).zip(SECTIONS);
        let differing = sections.filter(|((mine, other), _)| mine != other);
        parts.extend(differing.map(|(_, section)| section.to_owned()));
        parts
    }

    /// The reply as printable lines.
    pub(crate) fn lines(&self) -> Vec<String> {
        let mut head = self.rcode.clone();
        if self.authoritative {
            head.push_str(" aa");
        }
        if self.truncated {
            head.push_str(" tc");
        }
        let sections = self.sections.iter().zip(SECTIONS);
        let records = sections.flat_map(|(records, section)| {
            let lines = records.iter();
            lines.map(move |record| format!("{section} {}", record.line()))
        });
        std::iter::once(head).chain(records).collect()
    }
}

impl ReplyRecord {
    /// Reads a line such as `shop.svc.cluster.local. 5 IN A 10.0.0.1`.
    fn read(line: &str, zone: &str) -> Result<ReplyRecord> {
        let words: Vec<&str> = line.splitn(5, ' ').collect();
        let [owner, ttl, _, rtype, data] = words[..] else {
            anyhow::bail!("not a record: {line}");
        };
        let name = owner.trim_end_matches('.').to_ascii_lowercase();
        let ttl = is_at_or_below(&name, zone)
            .then(|| ttl.parse())
            .transpose()?;
        let data = match rtype {
            "SOA" => without_serial(data),
            _ => data.to_owned(),
        };
        Ok(ReplyRecord {
            owner: owner.to_owned(),
            ttl,
            rtype: rtype.to_owned(),
            data,
        })
    }

    /// The record with owner and rdata in lower case.
    pub(crate) fn in_lower_case(&self) -> ReplyRecord {
        ReplyRecord {
            owner: self.owner.to_ascii_lowercase(),
            data: self.data.to_ascii_lowercase(),
            ..self.clone()
        }
    }

    fn line(&self) -> String {
        let ttl = self.ttl.map_or("*".to_owned(), |ttl| ttl.to_string());
        format!("{} {ttl} {} {}", self.owner, self.rtype, self.data)
    }
}

fn without_serial(data: &str) -> String {
    let words = data.split(' ').enumerate();
    let words: Vec<&str> = words
        .map(|(at, word)| if at == 2 { "*" } else { word })
        .collect();
    words.join(" ")
}
