//! Master files (RFC 1035 §5): all records of a model as text.
//!
//! The lines are sorted, so two files of the same model are equal. What a master file
//! can't say stands in comments: names that exist without records, names that
//! are computed, and records outside all zones.

use std::io::{self, Write};

use super::node::RecordSet;
use super::{Answer, Below, Model, Name, Node, Rdata, Record, Rtype, ZoneData};

/// The name server of a zone that has none with an address: nobody's, by RFC 6761 §6.4.
const NO_SERVER: &str = "ns.invalid.";

/// Writes one zone, an index into [`Model::zones`].
///
/// # Errors
/// Those of the output.
pub fn write_zone(model: &Model, zone: usize, out: &mut impl Write) -> io::Result<()> {
    let nodes = model.nodes();
    let nodes = nodes.filter(|(name, _)| model.zone_of(name) == Some(zone));
    let nodes = sorted(nodes.map(|(name, node)| (zone, name, node)));
    zone_file(model, &nodes, out)
}

/// Writes every zone, one after the other, and what lies outside them.
///
/// # Errors
/// Those of the output.
pub fn write_all(model: &Model, out: &mut impl Write) -> io::Result<()> {
    let (inside, outside): (Vec<_>, Vec<_>) = model
        .nodes()
        .map(|(name, node)| (model.zone_of(name), name, node))
        .partition(|(zone, ..)| zone.is_some());
    let inside = inside
        .into_iter()
        .filter_map(|(zone, name, node)| Some((zone?, name, node)));
    for nodes in sorted(inside).chunk_by(|(a, ..), (b, ..)| a == b) {
        zone_file(model, nodes, out)?;
    }

    for passed in model.passed() {
        writeln!(
            out,
            "; passed: {passed} and all below are not ours (--pass)"
        )?;
    }
    let outside = sorted(outside.into_iter().map(|(_, name, node)| (0, name, node)));
    if outside.is_empty() {
        return Ok(());
    }
    writeln!(out, "; outside all zones, and answered all the same:")?;
    for (_, name, node) in outside {
        for record in records(name, node) {
            writeln!(out, ";{record}")?;
        }
    }
    Ok(())
}

/// A name with its zone.
type Place<'a> = (usize, &'a Name, &'a Node);

/// The zone with the shortest name first, each in canonical order (RFC 4034 §6.1): its apex
/// first, and every name before the names below it.
fn sorted<'a>(places: impl Iterator<Item = Place<'a>>) -> Vec<Place<'a>> {
    let mut places: Vec<_> = places.collect();
    places.sort_by_cached_key(|(zone, name, _)| {
        let mut labels: Vec<&'a [u8]> = name.labels().collect();
        labels.reverse();
        (std::cmp::Reverse(*zone), labels)
    });
    places
}

/// Writes the names of one zone, which come in order.
fn zone_file(model: &Model, nodes: &[Place<'_>], out: &mut impl Write) -> io::Result<()> {
    let Some(apex) = nodes
        .first()
        .and_then(|(zone, ..)| model.zones().get(*zone))
    else {
        return Ok(());
    };
    writeln!(out, "; zone {}, serial {}", apex.name, apex.soa.serial)?;
    writeln!(out, "$ORIGIN {}", apex.name)?;
    for (at, (zone, name, node)) in nodes.iter().enumerate() {
        for record in records(name, node) {
            match &record.data {
                Rdata::Ns(server) if !can_serve(model, *zone, server) => {
                    writeln!(out, "; no address of {server} is known:\n;{record}")?;
                }
                _ => writeln!(out, "{record}")?,
            }
        }
        for set in node.sets.iter().filter(|set| set.data.is_empty()) {
            writeln!(out, "; passed: {name} {} is not ours to answer", set.rtype)?;
        }
        if **name == apex.name {
            stand_in(model, *zone, node, out)?;
        }
        let is_last = nodes
            .get(at + 1)
            .is_none_or(|(_, next, _)| !next.is_at_or_below(name));
        match &node.below {
            Below::Nothing if node.sets.is_empty() && is_last => {
                writeln!(out, "; {name} exists, without records")?;
            }
            below => computed(name, below, out)?,
        }
    }
    writeln!(out)
}

/// A master file needs a name server (RFC 1035 §5.2) and, if it is in the zone, its address.
/// Without one of that kind another stands in, which can't be mistaken for a real one.
fn stand_in(model: &Model, zone: usize, apex: &Node, out: &mut impl Write) -> io::Result<()> {
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
fn can_serve(model: &Model, zone: usize, server: &Name) -> bool {
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
    use crate::zone::ModelBuilder;

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

    fn text(write: impl Fn(&mut Vec<u8>) -> io::Result<()>) -> String {
        let mut out = Vec::new();
        write(&mut out).unwrap();
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
            text(|out| write_all(&model, out)),
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
        let all = text(|out| write_all(&model, out));
        assert!(!all.contains("invalid"), "{all}");
        let zones = [1, 0].map(|zone| text(|out| write_zone(&model, zone, out)));
        assert_eq!(zones.concat(), all);
        assert!(all.starts_with("; zone z., serial 7\n"), "{all}");
    }

    #[test]
    fn two_files_of_the_same_records_are_equal() {
        let file = |numbers: &mut dyn Iterator<Item = u8>| {
            let mut builder = builder();
            for number in numbers {
                let owner = format!("{number}.z");
                builder.add(record(&owner, Rdata::A([10, 0, 0, number].into())));
                builder.add(record("many.z", Rdata::A([10, 0, 0, number].into())));
            }
            let model = builder.build();
            text(|out| write_all(&model, out))
        };
        assert_eq!(file(&mut (0..200)), file(&mut (0..200).rev()));
    }
}
