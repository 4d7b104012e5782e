//! Zone files (RFC 1035 §5 calls them master files): all records as text.
//!
//! Names are written in the order in which the caller gives them. Comments describe what a zone
//! file can't express: names that exist without records, computed names, names and single types
//! whose queries pass, name servers whose address is not in the file, and records outside all
//! zones. The [`OtherTypes`](super::OtherTypes) of a
//! name are not described.

use std::io::{self, Write};

use super::name_entry::RrSet;
use super::{Answer, ComputedNames, Name, NameEntry, Rdata, Record, Rtype, ZoneData};

/// The placeholder name server, for zones without a name server that the zone's file can list. This
/// name never exists (RFC 6761 §6.4).
const NO_SERVER: &str = "ns.invalid.";

/// Writes the file of one zone, name by name. The caller gives each name before the names below it,
/// with no other names in between.
#[derive(Debug)]
pub struct ZoneFile {
    /// An index into [`ZoneData::zones`].
    zone: usize,
    /// The last name, if it has neither records nor computed names. If no name below it follows, a
    /// comment says that it exists.
    bare_name: Option<Name>,
}

impl ZoneFile {
    /// Begins the file of a zone, given by its index into [`ZoneData::zones`].
    ///
    /// # Errors
    /// Errors of `out`.
    pub fn begin(data: &dyn ZoneData, zone: usize, out: &mut impl Write) -> io::Result<ZoneFile> {
        if let Some(apex) = data.zones().get(zone) {
            writeln!(out, "; zone {}, serial {}", apex.name, apex.soa.serial)?;
            writeln!(out, "$ORIGIN {}", apex.name)?;
        }
        Ok(ZoneFile {
            zone,
            bare_name: None,
        })
    }

    /// Writes the next name of the zone.
    ///
    /// # Errors
    /// Errors of `out`.
    pub fn write_entry(
        &mut self,
        data: &dyn ZoneData,
        (name, entry): (&Name, &NameEntry),
        out: &mut impl Write,
    ) -> io::Result<()> {
        if let Some(bare) = self.bare_name.take()
            && !name.is_at_or_below(&bare)
        {
            write_bare_name(&bare, out)?;
        }
        for record in records_of(name, entry) {
            match &record.data {
                Rdata::Ns(server) if !can_list_server(data, self.zone, server) => {
                    writeln!(out, "; this file has no address of {server}:\n;{record}")?;
                }
                _ => writeln!(out, "{record}")?,
            }
        }
        for set in entry.rrsets.iter().filter(|set| set.data.is_empty()) {
            writeln!(out, "; passed: {name} {} is not answered here", set.rtype)?;
        }
        if *name == data.zones()[self.zone].name {
            write_placeholder_server(data, self.zone, entry, out)?;
        }
        if entry.is_bare() {
            self.bare_name = Some(name.clone());
        }
        write_computed_names(name, &entry.computed_names, out)
    }

    /// Ends the file.
    ///
    /// # Errors
    /// Errors of `out`.
    pub fn end(self, out: &mut impl Write) -> io::Result<()> {
        if let Some(bare) = &self.bare_name {
            write_bare_name(bare, out)?;
        }
        writeln!(out)
    }
}

/// Writes the delegated names and the names outside all zones, as comments.
#[derive(Debug, Default)]
pub struct OutsideZones {
    has_names: bool,
}

impl OutsideZones {
    /// Writes the delegated names, which are in zones but not in their files.
    ///
    /// # Errors
    /// Errors of `out`.
    pub fn begin(data: &dyn ZoneData, out: &mut impl Write) -> io::Result<OutsideZones> {
        for passed in data.delegated_names() {
            writeln!(
                out,
                "; passed: {passed} and all names below are not answered here"
            )?;
        }
        Ok(OutsideZones::default())
    }

    /// Writes the records of the next name outside all zones.
    ///
    /// # Errors
    /// Errors of `out`.
    pub fn write_entry(
        &mut self,
        (name, entry): (&Name, &NameEntry),
        out: &mut impl Write,
    ) -> io::Result<()> {
        if !std::mem::replace(&mut self.has_names, true) {
            writeln!(out, "; outside all zones, but answered:")?;
        }
        for record in records_of(name, entry) {
            writeln!(out, ";{record}")?;
        }
        Ok(())
    }
}

fn write_bare_name(name: &Name, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "; {name} exists, without records")
}

/// Writes a placeholder for the name server if the zone has no name server that its file can list.
/// Every zone needs a name server (RFC 2181 §6.1). If its name is in the zone, BIND loads the file
/// only with its address.
fn write_placeholder_server(
    data: &dyn ZoneData,
    zone: usize,
    apex: &NameEntry,
    out: &mut impl Write,
) -> io::Result<()> {
    let name = &data.zones()[zone].name;
    let servers = apex.rrsets.iter().filter(|set| set.rtype == Rtype::NS);
    let has_server = servers
        .flat_map(|set| &set.data)
        .any(|rdata| matches!(rdata, Rdata::Ns(server) if can_list_server(data, zone, server)));
    if has_server {
        return Ok(());
    }
    writeln!(
        out,
        "; placeholder, not answered: a zone file needs a name server, and this one can't exist \
         (RFC 6761):"
    )?;
    writeln!(
        out,
        "{name} {} IN NS {NO_SERVER}",
        data.zones()[zone].soa.minimum
    )
}

/// Whether the zone's file can list this name server: the server is outside the zone, or has an
/// address in the file.
fn can_list_server(data: &dyn ZoneData, zone: usize, server: &Name) -> bool {
    let has = |rtype| matches!(data.answer(server, rtype), Answer::Data { .. });
    if !server.is_at_or_below(&data.zones()[zone].name) {
        return true;
    }
    // Delegated names and names of other zones are not in this file.
    data.zone_of(server) == Some(zone) && (has(Rtype::A) || has(Rtype::AAAA))
}

/// Describes the computed names below a name.
fn write_computed_names(
    name: &Name,
    computed: &ComputedNames,
    out: &mut impl Write,
) -> io::Result<()> {
    match computed {
        ComputedNames::Nothing => Ok(()),
        ComputedNames::Empty => writeln!(
            out,
            "; computed: <any label>.{name} exists, without records"
        ),
        ComputedNames::Addresses(_) => write_computed_addresses(&name.to_string(), out),
        ComputedNames::EmptyThenAddresses(_) => {
            writeln!(
                out,
                "; computed: <any label>.{name} exists, without records"
            )?;
            write_computed_addresses(&format!("<any label>.{name}"), out)
        }
        ComputedNames::Unknown => {
            writeln!(out, "; passed: <any label>.{name} is not answered here")
        }
        ComputedNames::Like(other) => {
            writeln!(
                out,
                "; computed: <any other label>.{name} has the records of {other}"
            )
        }
    }
}

fn write_computed_addresses(parent: &str, out: &mut impl Write) -> io::Result<()> {
    writeln!(
        out,
        "; computed: <address>.{parent} has that address (10-0-0-1 has 10.0.0.1)"
    )
}

/// The records of a name, SOA first.
fn records_of(name: &Name, entry: &NameEntry) -> impl Iterator<Item = Record> {
    let mut sets: Vec<&RrSet> = entry.rrsets.iter().collect();
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
    use crate::{Model, ModelBuilder};

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

    /// The files of all zones, starting with the shortest name, and the names outside all zones.
    fn file(model: &Model) -> String {
        let mut entries: Vec<(&Name, &NameEntry)> = model.entries().collect();
        entries.sort_by_cached_key(|(name, _)| {
            let mut labels: Vec<Vec<u8>> = name.labels().map(<[u8]>::to_vec).collect();
            labels.reverse();
            labels
        });
        let mut out = Vec::new();
        for zone in (0..model.zones().len()).rev() {
            let mut file = ZoneFile::begin(model, zone, &mut out).unwrap();
            for entry in entries
                .iter()
                .filter(|it| model.zone_of(it.0) == Some(zone))
            {
                file.write_entry(model, *entry, &mut out).unwrap();
            }
            file.end(&mut out).unwrap();
        }
        let mut outside = OutsideZones::begin(model, &mut out).unwrap();
        for entry in entries.iter().filter(|it| model.zone_of(it.0).is_none()) {
            outside.write_entry(*entry, &mut out).unwrap();
        }
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn names_are_in_order_and_comments_describe_the_rest() {
        let mut builder = builder();
        builder.add(record("z", Rdata::Ns(name("ns.dns.z"))));
        builder.add(record("b.z", Rdata::A([10, 0, 0, 2].into())));
        builder.add(record("b.z", Rdata::A([10, 0, 0, 1].into())));
        builder.add(record(
            "a.b.z",
            Rdata::Txt(b"say \"\\\xff".as_slice().into()),
        ));
        builder.add(record("a.z", Rdata::Cname(name("semi;colon.example"))));
        builder.add_name(name("empty.z"));
        builder.set_computed_names(name("pod.z"), ComputedNames::EmptyThenAddresses(5));
        builder.set_computed_names(name("prefer.z"), ComputedNames::Like(name("b.z")));
        builder.add(record("1.0.0.10.in-addr.arpa", Rdata::Ptr(name("b.z"))));
        let model = builder.build();
        assert_eq!(
            file(&model),
            r#"; zone z., serial 7
$ORIGIN z.
z. 5 IN SOA ns.dns.z. hostmaster.z. 7 7200 1800 86400 5
; this file has no address of ns.dns.z.:
;z. 5 IN NS ns.dns.z.
; placeholder, not answered: a zone file needs a name server, and this one can't exist (RFC 6761):
z. 5 IN NS ns.invalid.
a.z. 5 IN CNAME semi\;colon.example.
b.z. 5 IN A 10.0.0.1
b.z. 5 IN A 10.0.0.2
a.b.z. 5 IN TXT "say \"\\\255"
; empty.z. exists, without records
; computed: <any label>.pod.z. exists, without records
; computed: <address>.<any label>.pod.z. has that address (10-0-0-1 has 10.0.0.1)
; computed: <any other label>.prefer.z. has the records of b.z.

; outside all zones, but answered:
;1.0.0.10.in-addr.arpa. 5 IN PTR b.z.
"#
        );
    }

    #[test]
    fn servers_with_an_address_or_outside_the_zone_need_no_placeholder() {
        let mut builder = builder();
        builder.add_zone(name("10.in-addr.arpa"), 5).unwrap();
        builder.add(record("z", Rdata::Ns(name("dns.z"))));
        builder.add(record("10.in-addr.arpa", Rdata::Ns(name("ns.dns.z"))));
        builder.add(record("dns.z", Rdata::A([10, 0, 0, 1].into())));
        let model = builder.build();
        let all = file(&model);
        assert!(!all.contains("invalid"), "{all}");
        // `file` writes the zone with the shorter name first.
        assert!(all.starts_with("; zone z., serial 7\n"), "{all}");
    }

    #[test]
    fn two_files_of_the_same_records_are_equal() {
        let file_of = |numbers: &mut dyn Iterator<Item = u8>| {
            let mut builder = builder();
            for number in numbers {
                let owner = format!("{number}.z");
                builder.add(record(&owner, Rdata::A([10, 0, 0, number].into())));
                builder.add(record("many.z", Rdata::A([10, 0, 0, number].into())));
            }
            file(&builder.build())
        };
        assert_eq!(file_of(&mut (0..200)), file_of(&mut (0..200).rev()));
    }
}
