//! The records of a message from an upstream.

use domain::{
    base::{
        Message, Name as WireName, ParsedName, ParsedRecord, ToName,
        iana::{Class, Rtype},
        message::Section,
        rdata::ComposeRecordData,
    },
    rdata::{A, Aaaa, AllRecordData, Cname},
};
use zerohop_zone::{Name, Rdata, Record};

/// The records of a message.
#[derive(Debug, Default)]
pub struct Records {
    /// The records of class IN in the answer, authority and additional section.
    pub sections: [Vec<Record>; 3],
    /// Number of records of all classes, in all three sections.
    pub(crate) count: usize,
}

impl Records {
    /// Parses a message. `None`: the message is malformed.
    pub fn read(message: &[u8]) -> Option<Records> {
        let message = Message::from_slice(message).ok()?;
        let mut records = Records::default();
        for entry in message.iter() {
            let (parsed, section) = entry.ok()?;
            let section = match section {
                Section::Answer => 0,
                Section::Authority => 1,
                Section::Additional => 2,
            };
            records.count += 1;
            if parsed.class() == Class::IN {
                records.sections[section].push(convert_record(&parsed)?);
            }
        }
        Some(records)
    }
}

/// Converts a parsed record. `None`: its data can't be parsed.
fn convert_record(parsed: &ParsedRecord<'_, [u8]>) -> Option<Record> {
    let data = match parsed.rtype() {
        Rtype::A => Rdata::A(parsed.to_record::<A>().ok()??.data().addr()),
        Rtype::AAAA => Rdata::Aaaa(parsed.to_record::<Aaaa>().ok()??.data().addr()),
        Rtype::CNAME => {
            let parsed = parsed.to_record::<Cname<ParsedName<&[u8]>>>().ok()??;
            Rdata::Cname(convert_name(parsed.data().cname())?)
        }
        rtype => Rdata::Opaque(rtype, uncompressed_data(parsed)?.into()),
    };
    Some(Record {
        owner: convert_name(&parsed.owner())?,
        ttl: parsed.ttl().as_secs(),
        data,
    })
}

/// A record's data with uncompressed names.
fn uncompressed_data(parsed: &ParsedRecord<'_, [u8]>) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let any = parsed.to_any_record::<AllRecordData<&[u8], ParsedName<&[u8]>>>();
    any.ok()?.data().compose_rdata(&mut bytes).ok()?;
    Some(bytes)
}

fn convert_name(parsed: &impl ToName) -> Option<Name> {
    let wire: WireName<Vec<u8>> = parsed.try_to_name().ok()?;
    Name::from_wire(wire.as_slice()).ok()
}
