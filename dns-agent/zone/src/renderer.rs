//! Renders answers in wire form, for both planes.

use std::collections::HashMap;

use super::{Answer, Apex, Name, Rdata, Record, Rtype, Soa};

/// Bytes of a message's header (RFC 1035 §4.1.1). The question follows it.
const HEADER: usize = 12;
/// Bytes of type and class after the name in a question (RFC 1035 §4.1.2).
const TYPE_AND_CLASS: usize = 4;
/// The class IN (RFC 1035 §3.2.4).
const CLASS_IN: u16 = 1;
/// The two bits that mark a compression pointer (RFC 1035 §4.1.4).
const POINTER: u16 = 0xc000;
/// The first offset that a compression pointer can't hold.
const POINTER_END: u16 = 0x4000;

/// The sections of a message after its question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sections {
    /// ANCOUNT. This and the other counts are at most 65535, even if there are more records.
    pub answers: u16,
    /// NSCOUNT.
    pub authorities: u16,
    /// ARCOUNT without the OPT record.
    pub additionals: u16,
    /// The records of the three sections. If they are too long for a message, the sender truncates
    /// the message and sets TC (RFC 2181 §9).
    pub bytes: Vec<u8>,
}

/// Builds a query with RD set, as stub resolvers send it (RFC 1035 section 4.1).
pub fn build_query(id: u16, name: &Name, rtype: Rtype) -> Vec<u8> {
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

/// Renders everything after the question of a message. `question` is the name in the question,
/// which starts at offset 12.
///
/// Names are compressed against the question and earlier names (RFC 1035 §4.1.4). SRV data is not
/// compressed (RFC 2782), and the SOA record of a negative answer only to its fixed length of 54
/// bytes. Each run of addresses of one owner and type in the answer section is rotated: it starts
/// with the address at `rotation` modulo the run's length, and keeps its cyclic order.
pub fn render(question: &Name, answer: &Answer, zones: &[Apex], rotation: usize) -> Sections {
    let mut writer = WireWriter::after_question(question);
    let mut counts = [0; 3];
    match answer {
        Answer::Data { answer, additional } => {
            for record in rotated(answer, rotation).chain(additional) {
                writer.write_record(record);
            }
            counts = [answer.len(), 0, additional.len()];
        }
        Answer::Alias { chain, .. } => {
            for record in chain {
                writer.write_record(record);
            }
            counts = [chain.len(), 0, 0];
        }
        Answer::NoData { zone } | Answer::NxDomain { zone } => {
            if let Some(zone) = zones.get(*zone) {
                writer.write_negative_soa(zone);
                counts = [0, 1, 0];
            }
        }
        Answer::NoDataAtName { soa } => {
            writer.write_record(soa);
            counts = [0, 1, 0];
        }
        Answer::NotYetKnown | Answer::NotAuthoritative => {}
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

/// Renders records of any origin, such as those of an upstream server, as [`render`] does.
/// `records` has the answer, authority and additional sections.
pub fn render_sections(question: &Name, records: [&[Record]; 3], rotation: usize) -> Sections {
    let mut writer = WireWriter::after_question(question);
    let [answer, authority, additional] = records;
    for record in rotated(answer, rotation).chain(authority).chain(additional) {
        writer.write_record(record);
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

/// The number of rotations with which an answer section is rendered: the length of its longest run
/// of addresses of one owner and type. 1 if it has no addresses.
pub fn count_rotations(records: &[Record]) -> usize {
    let runs = records.chunk_by(are_in_one_run).map(<[Record]>::len);
    runs.max().unwrap_or(1)
}

/// The records, with each run of addresses of one owner and type rotated.
fn rotated(records: &[Record], rotation: usize) -> impl Iterator<Item = &Record> {
    records.chunk_by(are_in_one_run).flat_map(move |run| {
        let (last, first) = run.split_at(rotation % run.len());
        first.iter().chain(last)
    })
}

fn are_in_one_run(a: &Record, b: &Record) -> bool {
    is_address(a) && a.data.rtype() == b.data.rtype() && a.owner == b.owner
}

fn is_address(record: &Record) -> bool {
    matches!(record.data, Rdata::A(_) | Rdata::Aaaa(_))
}

/// Writes records, and remembers the offsets of names for compression.
struct WireWriter<'a> {
    bytes: Vec<u8>,
    /// The offset of `bytes` in the message.
    start: usize,
    /// The offsets of names in the message, by their wire form.
    offsets: HashMap<&'a [u8], u16>,
}

impl<'a> WireWriter<'a> {
    fn after_question(question: &'a Name) -> WireWriter<'a> {
        let name_end = HEADER + question.wire().len();
        let mut writer = WireWriter {
            bytes: Vec::new(),
            start: name_end + TYPE_AND_CLASS,
            offsets: HashMap::new(),
        };
        for suffix in question.suffixes() {
            writer.remember_offset(suffix, name_end - suffix.len());
        }
        writer
    }

    fn write_record(&mut self, record: &'a Record) {
        self.write_name(&record.owner);
        self.write_type_class_ttl(record.data.rtype(), record.ttl);
        self.write_rdata(|writer| match &record.data {
            Rdata::A(address) => writer.bytes.extend(address.octets()),
            Rdata::Aaaa(address) => writer.bytes.extend(address.octets()),
            Rdata::Cname(name) | Rdata::Ns(name) | Rdata::Ptr(name) => writer.write_name(name),
            Rdata::Soa(soa) => {
                writer.write_name(&soa.mname);
                writer.write_name(&soa.rname);
                writer.write_soa_numbers(soa);
            }
            Rdata::Srv(srv) => {
                writer.write_u16(srv.priority);
                writer.write_u16(srv.weight);
                writer.write_u16(srv.port);
                writer.write_uncompressed_name(&srv.target);
            }
            Rdata::Txt(text) => {
                let length = u8::try_from(text.len()).unwrap_or(u8::MAX);
                writer.bytes.push(length);
                writer.bytes.extend(&text[..usize::from(length)]);
            }
            Rdata::Opaque(_, bytes) => writer.bytes.extend(bytes),
        });
    }

    /// Writes the SOA record of a negative answer (RFC 2308 §3). Its 54 bytes are the same for all
    /// names of a zone, except for the pointers to the zone's name. For a question such as
    /// `ns.dns.<zone>`, full compression would give a shorter record.
    fn write_negative_soa(&mut self, zone: &'a Apex) {
        self.write_name(&zone.name);
        self.write_type_class_ttl(Rtype::SOA, zone.negative_ttl);
        self.write_rdata(|writer| {
            writer.write_name_below(&zone.soa.mname, &zone.name);
            writer.write_name_below(&zone.soa.rname, &zone.name);
            writer.write_soa_numbers(&zone.soa);
        });
    }

    /// Writes type, class and TTL.
    fn write_type_class_ttl(&mut self, rtype: Rtype, ttl: u32) {
        self.write_u16(rtype.to_int());
        self.write_u16(CLASS_IN);
        self.write_u32(ttl);
    }

    /// Writes RDLENGTH and the rdata. `write` writes the rdata.
    fn write_rdata(&mut self, write: impl FnOnce(&mut Self)) {
        let at = self.bytes.len();
        self.write_u16(0);
        write(self);
        // The agent's records have at most two names and some numbers, or 256 bytes of text.
        // Records of an upstream server were in a message. All are below 65536 bytes.
        let length = (self.bytes.len() - at - 2) as u16;
        self.bytes[at..at + 2].copy_from_slice(&length.to_be_bytes());
    }

    fn write_soa_numbers(&mut self, soa: &Soa) {
        for number in [soa.serial, soa.refresh, soa.retry, soa.expire, soa.minimum] {
            self.write_u32(number);
        }
    }

    /// Writes a name, compressed as far as possible.
    fn write_name(&mut self, name: &'a Name) {
        for suffix in name.suffixes() {
            if let Some(offset) = self.offsets.get(suffix) {
                return self.write_u16(POINTER | offset);
            }
            self.write_label(suffix);
        }
        self.bytes.push(0);
    }

    /// Writes a name of a zone: all labels below the apex in full, then the apex compressed.
    fn write_name_below(&mut self, name: &'a Name, apex: &'a Name) {
        let apex_length = apex.wire().len();
        for suffix in name.suffixes().take_while(|rest| rest.len() > apex_length) {
            self.write_label(suffix);
        }
        self.write_name(apex);
    }

    /// Writes a name without compression. Later names may point into it.
    fn write_uncompressed_name(&mut self, name: &'a Name) {
        for suffix in name.suffixes() {
            self.write_label(suffix);
        }
        self.bytes.push(0);
    }

    /// Writes the first label of a suffix, and remembers the suffix's offset.
    fn write_label(&mut self, suffix: &'a [u8]) {
        self.remember_offset(suffix, self.start + self.bytes.len());
        self.bytes.extend(&suffix[..=usize::from(suffix[0])]);
    }

    /// Remembers the first offset of a suffix, if a pointer can hold it.
    fn remember_offset(&mut self, suffix: &'a [u8], offset: usize) {
        if let Ok(offset) = u16::try_from(offset)
            && offset < POINTER_END
        {
            self.offsets.entry(suffix).or_insert(offset);
        }
    }

    fn write_u16(&mut self, value: u16) {
        self.bytes.extend(value.to_be_bytes());
    }

    fn write_u32(&mut self, value: u32) {
        self.bytes.extend(value.to_be_bytes());
    }
}
