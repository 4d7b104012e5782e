//! Answers in wire form: the one renderer both planes use.

use std::collections::HashMap;

use super::{Answer, Apex, Name, Rdata, Record, Rtype, Soa};

/// Octets of the header of a message (RFC 1035 §4.1.1); the question follows it.
const HEADER: usize = 12;
/// Octets of type and class after the name in a question (RFC 1035 §4.1.2).
const TYPE_AND_CLASS: usize = 4;
/// The class IN (RFC 1035 §3.2.4).
const CLASS_IN: u16 = 1;
/// What makes two octets a compression pointer, and the first offset it cannot
/// hold (RFC 1035 §4.1.4).
const POINTER: u16 = 0xc000;
const POINTER_END: u16 = 0x4000;

/// The sections of a message after its question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sections {
    /// ANCOUNT. Like the other counts it stays at 65535 when there is more, which
    /// no message could hold.
    pub answers: u16,
    /// NSCOUNT.
    pub authorities: u16,
    /// ARCOUNT without the OPT record.
    pub additionals: u16,
    /// The records of the three sections. They can be longer than a message may
    /// be: whoever sends them cuts and sets TC (RFC 2181 §9).
    pub bytes: Vec<u8>,
}

/// A query with RD, as stub resolvers send it (RFC 1035 section 4.1).
pub(crate) fn query(id: u16, name: &Name, rtype: Rtype) -> Vec<u8> {
    const RECURSION_DESIRED: u16 = 0x0100;
    let mut message = Vec::new();
    for word in [id, RECURSION_DESIRED, 1, 0, 0, 0] {
        message.extend(word.to_be_bytes());
    }
    message.extend(name.wire());
    message.extend(rtype.to_int().to_be_bytes());
    message.extend(CLASS_IN.to_be_bytes());
    message
}

/// Everything after the question, as it stands in a message whose question
/// (this name) starts at offset 12.
///
/// Names are compressed against the question and the names written before
/// (RFC 1035 §4.1.4), except inside SRV data (RFC 2782). Of several addresses of
/// one owner and type in the answer section, the one at `rotation`, modulo their
/// number, comes first; their cyclic order stays.
pub fn render(question: &Name, answer: &Answer, zones: &[Apex], rotation: usize) -> Sections {
    let mut writer = Writer::after(question);
    let mut counts = [0; 3];
    match answer {
        Answer::Data { answer, additional } => {
            for record in rotated(answer, rotation).chain(additional) {
                writer.record(record);
            }
            counts = [answer.len(), 0, additional.len()];
        }
        Answer::Alias { chain, .. } => {
            for record in chain {
                writer.record(record);
            }
            counts = [chain.len(), 0, 0];
        }
        Answer::NoData { zone } | Answer::NxDomain { zone } => {
            if let Some(zone) = zones.get(*zone) {
                writer.negative(zone);
                counts = [0, 1, 0];
            }
        }
        Answer::NotYetKnown | Answer::NotOurs => {}
    }
    let [answers, authorities, additionals] =
        counts.map(|count| u16::try_from(count).unwrap_or(u16::MAX));
    Sections {
        answers,
        authorities,
        additionals,
        bytes: writer.bytes,
    }
}

/// The same for records of any origin, a slice for each section.
pub fn render_sections(question: &Name, records: [&[Record]; 3], rotation: usize) -> Sections {
    let mut writer = Writer::after(question);
    let [answer, authority, additional] = records;
    for record in rotated(answer, rotation).chain(authority).chain(additional) {
        writer.record(record);
    }
    let [answers, authorities, additionals] =
        records.map(|records| u16::try_from(records.len()).unwrap_or(u16::MAX));
    Sections {
        answers,
        authorities,
        additionals,
        bytes: writer.bytes,
    }
}

/// In how many orders an answer section may be given: of its runs of addresses of one owner and type
/// the longest one's length.
pub fn orders(records: &[Record]) -> usize {
    let runs = records.chunk_by(is_one_run).map(<[Record]>::len);
    runs.max().unwrap_or(1)
}

/// The records, each run of addresses of one owner and type turned.
fn rotated(records: &[Record], rotation: usize) -> impl Iterator<Item = &Record> {
    records.chunk_by(is_one_run).flat_map(move |run| {
        let (last, first) = run.split_at(rotation % run.len());
        first.iter().chain(last)
    })
}

fn is_one_run(a: &Record, b: &Record) -> bool {
    is_address(a) && a.data.rtype() == b.data.rtype() && a.owner == b.owner
}

fn is_address(record: &Record) -> bool {
    matches!(record.data, Rdata::A(_) | Rdata::Aaaa(_))
}

/// Writes records and remembers where names stand.
struct Writer<'a> {
    bytes: Vec<u8>,
    /// Where `bytes` starts in the message.
    start: usize,
    /// Names that can be pointed at, by their wire form.
    offsets: HashMap<&'a [u8], u16>,
}

impl<'a> Writer<'a> {
    fn after(question: &'a Name) -> Writer<'a> {
        let mut writer = Writer {
            bytes: Vec::new(),
            start: HEADER,
            offsets: HashMap::new(),
        };
        let whole = question.wire().len();
        for suffix in question.suffixes() {
            writer.remember(suffix, HEADER + whole - suffix.len());
        }
        writer.start = HEADER + whole + TYPE_AND_CLASS;
        writer
    }

    fn record(&mut self, record: &'a Record) {
        self.name(&record.owner);
        self.fixed(record.data.rtype(), record.ttl);
        self.with_length(|writer| match &record.data {
            Rdata::A(address) => writer.bytes.extend(address.octets()),
            Rdata::Aaaa(address) => writer.bytes.extend(address.octets()),
            Rdata::Cname(name) | Rdata::Ns(name) | Rdata::Ptr(name) => writer.name(name),
            Rdata::Soa(soa) => {
                writer.name(&soa.mname);
                writer.name(&soa.rname);
                writer.soa_numbers(soa);
            }
            Rdata::Srv(srv) => {
                writer.u16(srv.priority);
                writer.u16(srv.weight);
                writer.u16(srv.port);
                writer.name_in_full(&srv.target);
            }
            Rdata::Txt(text) => {
                let length = u8::try_from(text.len()).unwrap_or(u8::MAX);
                writer.bytes.push(length);
                writer.bytes.extend(&text[..usize::from(length)]);
            }
            Rdata::Opaque(_, octets) => writer.bytes.extend(octets),
        });
    }

    /// The SOA record of a negative answer (RFC 2308 §3). It has the same 54
    /// octets for every name of a zone but for where the zone's name stands: also
    /// for `ns.dns.<zone>`, which plain compression would make shorter.
    fn negative(&mut self, zone: &'a Apex) {
        self.name(&zone.name);
        self.fixed(Rtype::SOA, zone.negative_ttl);
        self.with_length(|writer| {
            writer.name_below(&zone.soa.mname, &zone.name);
            writer.name_below(&zone.soa.rname, &zone.name);
            writer.soa_numbers(&zone.soa);
        });
    }

    /// Type, class and TTL.
    fn fixed(&mut self, rtype: Rtype, ttl: u32) {
        self.u16(rtype.to_int());
        self.u16(CLASS_IN);
        self.u32(ttl);
    }

    /// RDLENGTH, and what `data` writes.
    fn with_length(&mut self, data: impl FnOnce(&mut Self)) {
        let at = self.bytes.len();
        self.u16(0);
        data(self);
        // A record of ours holds at most two names and some numbers, far below 65536 octets, and an
        // upstream's came in a message.
        let length = (self.bytes.len() - at - 2) as u16;
        self.bytes[at..at + 2].copy_from_slice(&length.to_be_bytes());
    }

    fn soa_numbers(&mut self, soa: &Soa) {
        for number in [soa.serial, soa.refresh, soa.retry, soa.expire, soa.minimum] {
            self.u32(number);
        }
    }

    /// A name, as short as it can be.
    fn name(&mut self, name: &'a Name) {
        for suffix in name.suffixes() {
            if let Some(offset) = self.offsets.get(suffix) {
                return self.u16(POINTER | offset);
            }
            self.label(suffix);
        }
        self.bytes.push(0);
    }

    /// A name of a zone: all its labels up to the apex, then the apex.
    fn name_below(&mut self, name: &'a Name, apex: &'a Name) {
        let apex_length = apex.wire().len();
        for suffix in name.suffixes().take_while(|rest| rest.len() > apex_length) {
            self.label(suffix);
        }
        self.name(apex);
    }

    /// A name without compression; later names may point into it.
    fn name_in_full(&mut self, name: &'a Name) {
        for suffix in name.suffixes() {
            self.label(suffix);
        }
        self.bytes.push(0);
    }

    /// The first label of a suffix, which from now on can be pointed at.
    fn label(&mut self, suffix: &'a [u8]) {
        self.remember(suffix, self.start + self.bytes.len());
        self.bytes.extend(&suffix[..=usize::from(suffix[0])]);
    }

    fn remember(&mut self, suffix: &'a [u8], offset: usize) {
        if let Ok(offset) = u16::try_from(offset)
            && offset < POINTER_END
        {
            self.offsets.entry(suffix).or_insert(offset);
        }
    }

    fn u16(&mut self, value: u16) {
        self.bytes.extend(value.to_be_bytes());
    }

    fn u32(&mut self, value: u32) {
        self.bytes.extend(value.to_be_bytes());
    }
}
