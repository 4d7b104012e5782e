//! A reply, as far as it is compared.

use anyhow::{Context as _, Result};
use zerohop_tests::message::{Message, SECTIONS};

use crate::questions::is_at_or_below;

/// A reply. Records of a section have no order, and an OPT record says nothing of names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) rcode: String,
    /// Whether it comes from the zone's own data.
    pub(crate) authoritative: bool,
    /// Whether it was cut.
    pub(crate) truncated: bool,
    /// Answer, authority, additional.
    pub(crate) sections: [Vec<Record>; 3],
}

/// A record, as text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Record {
    pub(crate) owner: String,
    /// None where CoreDNS's cache may have counted it down: outside the cluster's zone, and in
    /// answers that lead there, all of whose records have the lowest one.
    pub(crate) ttl: Option<u32>,
    pub(crate) rtype: String,
    /// Without the serial, if it is a SOA record's.
    pub(crate) data: String,
}

impl Reply {
    /// Reads a reply. `zone` is the cluster's.
    pub(crate) fn read(octets: &[u8], zone: &str) -> Result<Reply> {
        let message = Message::read(octets).with_context(|| format!("{octets:02x?}"))?;
        let mut sections: [Vec<Record>; 3] = Default::default();
        for (lines, records) in message.sections.iter().zip(&mut sections) {
            let read = lines.iter().map(|line| Record::read(line, zone));
            *records = read.collect::<Result<_>>()?;
        }
        if sections[0].iter().any(|record| record.ttl.is_none()) {
            sections[0].iter_mut().for_each(|record| record.ttl = None);
        }
        sections.iter_mut().for_each(|records| records.sort());
        let flags = message.flags();
        Ok(Reply {
            rcode: message.rcode(),
            authoritative: flags.contains(&"aa"),
            truncated: flags.contains(&"tc"),
            sections,
        })
    }

    pub(crate) fn answer(&self) -> &[Record] {
        &self.sections[0]
    }

    pub(crate) fn is_nxdomain(&self) -> bool {
        self.rcode == "NXDOMAIN"
    }

    pub(crate) fn is_nodata(&self) -> bool {
        self.rcode == "NOERROR" && self.answer().is_empty()
    }

    /// Whether there are records in the answer.
    pub(crate) fn has_data(&self) -> bool {
        self.rcode == "NOERROR" && !self.answer().is_empty()
    }

    /// Which parts differ from another's.
    pub(crate) fn differences(&self, other: &Reply) -> Vec<String> {
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
        let differing = sections.filter(|((ours, theirs), _)| ours != theirs);
        parts.extend(differing.map(|(_, section)| section.to_owned()));
        parts
    }

    /// The reply in lines, for people.
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

impl Record {
    /// `shop.svc.cluster.local. 5 IN A 10.0.0.1`
    fn read(line: &str, zone: &str) -> Result<Record> {
        let words: Vec<&str> = line.splitn(5, ' ').collect();
        let [owner, ttl, _, rtype, data] = words[..] else {
            anyhow::bail!("no record: {line}");
        };
        let name = owner.trim_end_matches('.').to_ascii_lowercase();
        let ttl = is_at_or_below(&name, zone)
            .then(|| ttl.parse())
            .transpose()?;
        let data = match rtype {
            "SOA" => without_serial(data),
            _ => data.to_owned(),
        };
        Ok(Record {
            owner: owner.to_owned(),
            ttl,
            rtype: rtype.to_owned(),
            data,
        })
    }

    /// The record with all names in lower case.
    pub(crate) fn lowered(&self) -> Record {
        Record {
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
