//! The parts of a reply that are compared.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use anyhow::{Context as _, Result};
use domain::{
    base::{Message, ParsedName, ParsedRecord, iana::Rtype},
    rdata::AllRecordData,
};

/// The cluster's zone.
const CLUSTER_ZONE: &str = "cluster.local.";

/// A reply. All names are in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RouteReply {
    pub(crate) rcode: String,
    pub(crate) authoritative: bool,
    pub(crate) truncated: bool,
    pub(crate) authentic_data: bool,
    pub(crate) answer: BTreeSet<RouteRecord>,
    /// The largest TTL of each owner name in the answer section, in seconds.
    pub(crate) max_ttls: BTreeMap<String, u32>,
    /// The SOA records of the authority section.
    pub(crate) soa: BTreeSet<RouteRecord>,
}

/// A record without its TTL.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RouteRecord {
    /// With a final dot.
    pub(crate) owner: String,
    pub(crate) rtype: String,
    pub(crate) data: String,
}

impl RouteReply {
    pub(crate) fn read(bytes: &[u8]) -> Result<RouteReply> {
        let message = Message::from_octets(bytes).context("no header")?;
        let header = message.header();
        let mut max_ttls: BTreeMap<String, u32> = BTreeMap::new();
        let mut answer = BTreeSet::new();
        for record in message.answer()? {
            let record = record?;
            let ttl = record.ttl().as_secs();
            let record = RouteRecord::read(&record)?;
            let max_ttl = max_ttls.entry(record.owner.clone()).or_default();
            *max_ttl = ttl.max(*max_ttl);
            answer.insert(record);
        }
        let mut soa = BTreeSet::new();
        for record in message.authority()? {
            let record = record?;
            if record.rtype() == Rtype::SOA {
                soa.insert(RouteRecord::read(&record)?);
            }
        }
        for record in message.additional()? {
            RouteRecord::read(&record?)?;
        }
        Ok(RouteReply {
            rcode: message.opt_rcode().to_string(),
            authoritative: header.aa(),
            truncated: header.tc(),
            authentic_data: header.ad(),
            answer,
            max_ttls,
            soa,
        })
    }

    pub(crate) fn has_data(&self) -> bool {
        self.rcode == "NOERROR" && !self.answer.is_empty()
    }

    /// Whether this is a negative answer of the cluster's zone.
    pub(crate) fn is_about_cluster(&self) -> bool {
        let mut soa = self.soa.iter();
        soa.any(|it| it.owner == CLUSTER_ZONE)
    }

    /// The name at the end of the CNAMEs from a name on, both with a final dot.
    pub(crate) fn chain_end(&self, name: &str) -> String {
        self.chain(name).pop().unwrap_or_else(|| name.to_owned())
    }

    /// The names that the CNAMEs from a name on lead to, with it.
    fn chain(&self, name: &str) -> Vec<String> {
        let aliases = self.answer.iter().filter(|it| it.rtype == "CNAME");
        let aliases: BTreeMap<&str, &str> = aliases.map(|it| (&*it.owner, &*it.data)).collect();
        let mut chain = vec![name.to_owned()];
        while let Some(target) = chain.last().and_then(|last| aliases.get(&**last))
            && !chain.iter().any(|name| name == target)
        {
            chain.push((*target).to_owned());
        }
        chain
    }

    /// The records of the answer section at the names that a name leads to.
    pub(crate) fn relevant_answer(&self, name: &str) -> BTreeSet<RouteRecord> {
        let chain = self.chain(name);
        let records = self.answer.iter();
        records
            .filter(|it| chain.contains(&it.owner))
            .cloned()
            .collect()
    }
}

impl RouteRecord {
    fn read(record: &ParsedRecord<'_, &[u8]>) -> Result<RouteRecord> {
        let whole = record.to_record::<AllRecordData<_, ParsedName<_>>>()?;
        let data = whole.map(|whole| whole.data().to_string());
        let owner = with_final_dot(&record.owner().to_string().to_ascii_lowercase());
        let data = data.unwrap_or_default().to_ascii_lowercase();
        let data = match record.rtype() {
            Rtype::CNAME => with_final_dot(&data),
            Rtype::SOA if owner == CLUSTER_ZONE => without_serial(&data),
            _ => data,
        };
        Ok(RouteRecord {
            owner,
            rtype: record.rtype().to_string(),
            data,
        })
    }
}

fn with_final_dot(name: &str) -> String {
    format!("{}.", name.trim_end_matches('.'))
}

/// The data of a SOA record without its serial, which is the time of the latest change.
fn without_serial(data: &str) -> String {
    let words = data.split(' ').enumerate();
    let words: Vec<&str> = words
        .filter(|(at, _)| *at != 2)
        .map(|(_, word)| word)
        .collect();
    words.join(" ")
}

impl fmt::Display for RouteReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flags = [
            (self.authoritative, " aa"),
            (self.truncated, " tc"),
            (self.authentic_data, " ad"),
        ];
        let max_ttl = self.max_ttls.values().max();
        let flags: String = flags.iter().filter(|it| it.0).map(|it| it.1).collect();
        writeln!(f, "    {}{flags}, TTL at most {:?}", self.rcode, max_ttl)?;
        for (section, records) in [("answer", &self.answer), ("authority", &self.soa)] {
            for RouteRecord { owner, rtype, data } in records.iter().take(6) {
                let data: String = data.chars().take(80).collect();
                writeln!(f, "    {section} {owner} {rtype} {data}")?;
            }
            if records.len() > 6 {
                writeln!(f, "    {section}: {} records", records.len())?;
            }
        }
        Ok(())
    }
}
