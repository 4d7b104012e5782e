//! Master files (RFC 1035 §5): all records of a model as text.
//!
//! They come in the order in which names are told. What a master file can't say stands in
//! comments: names that exist without records, names that
//! are computed, and records outside all zones.

use std::io::{self, Write};

use super::node::RecordSet;
use super::{Answer, Below, Name, Node, Rdata, Record, Rtype, ZoneData};

/// The name server of a zone that has none with an address: nobody's, by RFC 6761 §6.4.
const NO_SERVER: &str = "ns.invalid.";

/// One zone's file, written name by name: a name before those below it, which follow it at once.
#[derive(Debug)]
pub struct ZoneFile {
    /// An index into [`ZoneData::zones`].
    zone: usize,
    /// The last name, if nothing is known but that it exists: it is written if none below it follows.
    bare: Option<Name>,
}

impl ZoneFile {
    /// Begins the file of a zone, an index into [`ZoneData::zones`].
    ///
    /// # Errors
    /// Those of the output.
    pub fn begin(data: &dyn ZoneData, zone: usize, out: &mut impl Write) -> io::Result<ZoneFile> {
        if let Some(apex) = data.zones().get(zone) {
            writeln!(out, "; zone {}, serial {}", apex.name, apex.soa.serial)?;
            writeln!(out, "$ORIGIN {}", apex.name)?;
        }
        Ok(ZoneFile { zone, bare: None })
    }

    /// Writes the next name of the zone.
    ///
    /// # Errors
    /// Those of the output.
    pub fn write(
        &mut self,
        data: &dyn ZoneData,
        (name, node): (&Name, &Node),
        out: &mut impl Write,
    ) -> io::Result<()> {
        if let Some(bare) = self.bare.take()
            && !name.is_at_or_below(&bare)
        {
            exists(&bare, out)?;
        }
        for record in records(name, node) {
            match &record.data {
                Rdata::Ns(server) if !can_serve(data, self.zone, server) => {
                    writeln!(out, "; no address of {server} is known:\n;{record}")?;
                }
                _ => writeln!(out, "{record}")?,
            }
        }
        for set in node.sets.iter().filter(|set| set.data.is_empty()) {
            writeln!(out, "; passed: {name} {} is not ours to answer", set.rtype)?;
        }
        if *name == data.zones()[self.zone].name {
            stand_in(data, self.zone, node, out)?;
        }
        if node.is_bare() {
            self.bare = Some(name.clone());
        }
        computed(name, &node.below, out)
    }

    /// Ends the file.
    ///
    /// # Errors
    /// Those of the output.
    pub fn end(self, out: &mut impl Write) -> io::Result<()> {
        if let Some(bare) = &self.bare {
            exists(bare, out)?;
        }
        writeln!(out)
    }
}

/// What lies outside all zones, written name by name.
#[derive(Debug, Default)]
pub struct Outside {
    has_names: bool,
}

impl Outside {
    /// Says what is passed.
    ///
    /// # Errors
    /// Those of the output.
    pub fn begin(data: &dyn ZoneData, out: &mut impl Write) -> io::Result<Outside> {
        for passed in data.passed() {
            writeln!(
                out,
                "; passed: {passed} and all below are not ours (--pass)"
            )?;
        }
        Ok(Outside::default())
    }

    /// Writes the next name.
    ///
    /// # Errors
    /// Those of the output.
    pub fn write(&mut self, (name, node): (&Name, &Node), out: &mut impl Write) -> io::Result<()> {
        if !std::mem::replace(&mut self.has_names, true) {
            writeln!(out, "; outside all zones, and answered all the same:")?;
        }
        for record in records(name, node) {
            writeln!(out, ";{record}")?;
        }
        Ok(())
    }
}

fn exists(name: &Name, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "; {name} exists, without records")
}

/// A master file needs a name server (RFC 1035 §5.2) and, if it is in the zone, its address.
/// Without one of that kind another stands in, which can't be mistaken for a real one.
fn stand_in(
    model: &dyn ZoneData,
    zone: usize,
    apex: &Node,
    out: &mut impl Write,
) -> io::Result<()> {
    let name = &model.zones()[zone].name;
    let servers = apex.sets.iter().filter(|set| set.rtype == Rtype::NS);
    let is_served = servers
        .flat_map(|set| &set.data)
        .any(|data| matches!(data, Rdata::Ns(server) if can_serve(model, zone, server)));
    if is_served {
        return Ok(());
    }
    writeln!(
        out,
        "; not answered, but a zone file needs a name server; this one can't exist (RFC 6761):"
    )?;
    writeln!(
        out,
        "{name} {} IN NS {NO_SERVER}",
        model.zones()[zone].soa.minimum
    )
}

/// Whether a file of the zone can name this server: outside the zone, or with an address.
fn can_serve(model: &dyn ZoneData, zone: usize, server: &Name) -> bool {
    let has = |rtype| matches!(model.answer(server, rtype), Answer::Data { .. });
    if !server.is_at_or_below(&model.zones()[zone].name) {
        return true;
    }
    // What is passed, or in a zone of its own, is not in this file.
    model.zone_of(server) == Some(zone) && (has(Rtype::A) || has(Rtype::AAAA))
}

/// Says what exists below a name without being stored.
fn computed(name: &Name, below: &Below, out: &mut impl Write) -> io::Result<()> {
    match below {
        Below::Nothing => Ok(()),
        Below::Empty => writeln!(
            out,
            "; computed: <any label>.{name} exists, without records"
        ),
        Below::Addresses(_) => addresses(&name.to_string(), out),
        Below::EmptyThenAddresses(_) => {
            writeln!(
                out,
                "; computed: <any label>.{name} exists, without records"
            )?;
            addresses(&format!("<any label>.{name}"), out)
        }
        Below::Unknown => writeln!(out, "; passed: <any label>.{name} is not ours to answer"),
        Below::Like(other) => {
            writeln!(
                out,
                "; computed: <any other label>.{name} has the records of {other}"
            )
        }
    }
}

fn addresses(parent: &str, out: &mut impl Write) -> io::Result<()> {
    writeln!(
        out,
        "; computed: <address>.{parent} has that address (10-0-0-1 has 10.0.0.1)"
    )
}

/// The records of a name, SOA first.
fn records(name: &Name, node: &Node) -> impl Iterator<Item = Record> {
    let mut sets: Vec<&RecordSet> = node.sets.iter().collect();
    sets.sort_unstable_by_key(|set| (set.rtype != Rtype::SOA, set.rtype.to_int()));
    sets.into_iter().flat_map(move |set| {
        set.data.iter().map(move |data| Record {
            owner: name.clone(),
            ttl: set.ttl,
            data: data.clone(),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zone::{Model, ModelBuilder};

    fn name(text: &str) -> Name {
        Name::parse(text).unwrap()
    }

    fn record(owner: &str, data: Rdata) -> Record {
        Record {
            owner: name(owner),
            ttl: 5,
            data,
        }
    }

    fn builder() -> ModelBuilder {
        let mut builder = ModelBuilder::new(7);
        builder.add_zone(name("z"), 5).unwrap();
        builder
    }

    /// All zones, the one with the shortest name first, and what lies outside them.
    fn file(model: &Model) -> String {
        let mut nodes: Vec<(&Name, &Node)> = model.nodes().collect();
        nodes.sort_by_cached_key(|(name, _)| {
            let mut labels: Vec<Vec<u8>> = name.labels().map(<[u8]>::to_vec).collect();
            labels.reverse();
            labels
        });
        let mut out = Vec::new();
        for zone in (0..model.zones().len()).rev() {
            let mut file = ZoneFile::begin(model, zone, &mut out).unwrap();
            for node in nodes.iter().filter(|it| model.zone_of(it.0) == Some(zone)) {
                file.write(model, *node, &mut out).unwrap();
            }
            file.end(&mut out).unwrap();
        }
        let mut outside = Outside::begin(model, &mut out).unwrap();
        for node in nodes.iter().filter(|it| model.zone_of(it.0).is_none()) {
            outside.write(*node, &mut out).unwrap();
        }
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn names_are_in_order_and_what_can_not_be_said_is_a_comment() {
        let mut builder = builder();
        builder.add(record("z", Rdata::Ns(name("ns.dns.z"))));
        builder.add(record("b.z", Rdata::A([10, 0, 0, 2].into())));
        builder.add(record("b.z", Rdata::A([10, 0, 0, 1].into())));
        builder.add(record(
            "a.b.z",
            Rdata::Txt(b"say \"\\\xff".as_slice().into()),
        ));
        builder.add(record("a.z", Rdata::Cname(name("semi;colon.example"))));
        builder.exists(name("empty.z"));
        builder.compute_below(name("pod.z"), Below::EmptyThenAddresses(5));
        builder.compute_below(name("prefer.z"), Below::Like(name("b.z")));
        builder.add(record("1.0.0.10.in-addr.arpa", Rdata::Ptr(name("b.z"))));
        let model = builder.build();
        assert_eq!(
            file(&model),
            r#"; zone z., serial 7
$ORIGIN z.
z. 5 IN SOA ns.dns.z. hostmaster.z. 7 7200 1800 86400 5
; no address of ns.dns.z. is known:
;z. 5 IN NS ns.dns.z.
; not answered, but a zone file needs a name server; this one can't exist (RFC 6761):
z. 5 IN NS ns.invalid.
a.z. 5 IN CNAME semi\;colon.example.
b.z. 5 IN A 10.0.0.1
b.z. 5 IN A 10.0.0.2
a.b.z. 5 IN TXT "say \"\\\255"
; empty.z. exists, without records
; computed: <any label>.pod.z. exists, without records
; computed: <address>.<any label>.pod.z. has that address (10-0-0-1 has 10.0.0.1)
; computed: <any other label>.prefer.z. has the records of b.z.

; outside all zones, and answered all the same:
;1.0.0.10.in-addr.arpa. 5 IN PTR b.z.
"#
        );
    }

    #[test]
    fn servers_with_addresses_and_servers_elsewhere_stay() {
        let mut builder = builder();
        builder.add_zone(name("10.in-addr.arpa"), 5).unwrap();
        builder.add(record("z", Rdata::Ns(name("dns.z"))));
        builder.add(record("10.in-addr.arpa", Rdata::Ns(name("ns.dns.z"))));
        builder.add(record("dns.z", Rdata::A([10, 0, 0, 1].into())));
        let model = builder.build();
        let all = file(&model);
        assert!(!all.contains("invalid"), "{all}");
        assert!(all.starts_with("; zone z., serial 7\n"), "{all}");
    }

    #[test]
    fn two_files_of_the_same_records_are_equal() {
        let of = |numbers: &mut dyn Iterator<Item = u8>| {
            let mut builder = builder();
            for number in numbers {
                let owner = format!("{number}.z");
                builder.add(record(&owner, Rdata::A([10, 0, 0, number].into())));
                builder.add(record("many.z", Rdata::A([10, 0, 0, number].into())));
            }
            file(&builder.build())
        };
        assert_eq!(of(&mut (0..200)), of(&mut (0..200).rev()));
    }
}
