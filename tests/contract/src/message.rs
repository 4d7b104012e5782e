//! Parses a DNS message into lines of text, similar to the output of `dig`.
//!
//! This module follows only the RFCs, and shares no code with the code under test.

use std::{
    fmt::Write as _,
    net::{Ipv4Addr, Ipv6Addr},
};

use anyhow::{Context as _, Result, bail, ensure};

/// A parsed message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The ID.
    pub id: u16,
    /// Bytes 2 and 3 of the header: QR, opcode, flags and RCODE.
    pub bits: u16,
    /// Name, class and type of each question, as text.
    pub question: Vec<String>,
    /// Answer, authority and additional section, one line for each record, without the OPT record.
    pub sections: [Vec<String>; 3],
    /// The OPT record. `None` if the message has none.
    pub edns: Option<ReplyEdns>,
}

/// The fields of a received OPT record (RFC 6891 section 6.1.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplyEdns {
    /// The sender's UDP payload size, in bytes.
    pub size: u16,
    /// The upper eight bits of the extended RCODE.
    pub extended_rcode: u8,
    /// The version.
    pub version: u8,
    /// DO (0x8000) and the Z bits.
    pub flags: u16,
    /// The options in wire form.
    pub options: Vec<u8>,
}

/// The names of the sections, in order.
pub const SECTIONS: [&str; 3] = ["answer", "authority", "additional"];

impl Message {
    /// Parses a message that ends with the last byte.
    ///
    /// # Errors
    ///
    /// If the bytes are not a well-formed message, or bytes follow the message.
    pub fn read(bytes: &[u8]) -> Result<Message> {
        let mut reader = MessageReader { bytes, at: 0 };
        let [id, bits, questions, answers, authorities, additionals] = [
            reader.read_u16()?,
            reader.read_u16()?,
            reader.read_u16()?,
            reader.read_u16()?,
            reader.read_u16()?,
            reader.read_u16()?,
        ];
        let mut message = Message {
            id,
            bits,
            question: Vec::new(),
            sections: Default::default(),
            edns: None,
        };
        for _ in 0..questions {
            let name = reader.read_name()?;
            let rtype = type_name(reader.read_u16()?);
            let class = class_name(reader.read_u16()?);
            message.question.push(format!("{name} {class} {rtype}"));
        }
        let counts = [answers, authorities, additionals];
        for ((count, records), section) in
            counts.into_iter().zip(&mut message.sections).zip(SECTIONS)
        {
            for number in 0..count {
                match reader
                    .read_record()
                    .with_context(|| format!("record {number} of the {section} section"))?
                {
                    ParsedRecord::Line(line) => records.push(line),
                    ParsedRecord::Opt(edns) => {
                        ensure!(
                            section == "additional",
                            "an OPT record in the {section} section"
                        );
                        ensure!(message.edns.is_none(), "two OPT records");
                        message.edns = Some(edns);
                    }
                }
            }
        }
        ensure!(
            reader.at == bytes.len(),
            "{} bytes after the message",
            bytes.len() - reader.at
        );
        Ok(message)
    }

    /// The name of the RCODE, including the extended bits.
    #[must_use]
    pub fn rcode(&self) -> String {
        let extended = self.edns.as_ref().map_or(0, |edns| edns.extended_rcode);
        match u16::from(extended) << 4 | self.bits & 15 {
            0 => "NOERROR".to_owned(),
            1 => "FORMERR".to_owned(),
            2 => "SERVFAIL".to_owned(),
            3 => "NXDOMAIN".to_owned(),
            4 => "NOTIMP".to_owned(),
            5 => "REFUSED".to_owned(),
            16 => "BADVERS".to_owned(),
            other => format!("RCODE{other}"),
        }
    }

    /// The names of the flags that are set in the header, except QR.
    #[must_use]
    pub fn flags(&self) -> Vec<&'static str> {
        FLAGS
            .into_iter()
            .filter(|(_, bit)| self.bits & bit != 0)
            .map(|(name, _)| name)
            .collect()
    }

    /// The reply as lines: the RCODE and the flags, then each record after the name of its section,
    /// then the OPT record.
    ///
    /// Records of one owner and type have no order (RFC 2181 section 5), so they are sorted.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let mut head = vec![self.rcode()];
        head.extend(self.flags().into_iter().map(str::to_owned));
        let mut lines = vec![head.join(" ")];
        for (section, records) in SECTIONS.into_iter().zip(&self.sections) {
            lines.extend(records.iter().map(|record| format!("{section} {record}")));
        }
        if let Some(edns) = &self.edns {
            lines.push(edns.line());
        }
        sort_rrsets(&mut lines);
        lines
    }
}

/// Sorts the lines inside each RRset: runs of lines with equal section, owner and type.
pub fn sort_rrsets(lines: &mut [String]) {
    // `answer shop.svc.cluster.local. 5 IN A 10.0.0.1`
    let set = |line: &str| {
        let mut words = line.split(' ');
        let section_and_owner = [words.next(), words.next()].map(|word| word.map(str::to_owned));
        (section_and_owner, words.nth(2).map(str::to_owned))
    };
    for run in lines.chunk_by_mut(|a, b| set(a) == set(b)) {
        run.sort();
    }
}

impl ReplyEdns {
    fn line(&self) -> String {
        let mut line = format!("edns {}", self.size);
        if self.version != 0 {
            write!(line, " version={}", self.version).ok();
        }
        match self.flags {
            0 => {}
            0x8000 => line.push_str(" do"),
            other => {
                write!(line, " flags={other:04x}").ok();
            }
        }
        if !self.options.is_empty() {
            write!(line, " options={:02x?}", self.options).ok();
        }
        line
    }
}

/// The number of a record type, by its name or in the form of RFC 3597, `TYPE64`.
///
/// # Errors
///
/// If the name is neither a known name nor in that form.
pub fn type_number(name: &str) -> Result<u16> {
    if let Some((number, _)) = TYPES.iter().find(|(_, known)| *known == name) {
        return Ok(*number);
    }
    name.strip_prefix("TYPE")
        .and_then(|number| number.parse().ok())
        .with_context(|| format!("{name} is not a record type"))
}

const TYPES: [(u16, &str); 14] = [
    (1, "A"),
    (2, "NS"),
    (5, "CNAME"),
    (6, "SOA"),
    (12, "PTR"),
    (13, "HINFO"),
    (15, "MX"),
    (16, "TXT"),
    (28, "AAAA"),
    (33, "SRV"),
    (65, "HTTPS"),
    (251, "IXFR"),
    (252, "AXFR"),
    (255, "ANY"),
];

/// RFC 1035 section 4.1.1, RFC 4035 section 3.
const FLAGS: [(&str, u16); 7] = [
    ("aa", 0x0400),
    ("tc", 0x0200),
    ("rd", 0x0100),
    ("ra", 0x0080),
    ("z", 0x0040),
    ("ad", 0x0020),
    ("cd", 0x0010),
];

const OPT: u16 = 41;

fn type_name(number: u16) -> String {
    TYPES
        .iter()
        .find(|(known, _)| *known == number)
        .map_or_else(|| format!("TYPE{number}"), |(_, name)| (*name).to_owned())
}

fn class_name(number: u16) -> String {
    match number {
        1 => "IN".to_owned(),
        3 => "CH".to_owned(),
        other => format!("CLASS{other}"),
    }
}

enum ParsedRecord {
    Line(String),
    Opt(ReplyEdns),
}

/// A cursor over a message.
struct MessageReader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl MessageReader<'_> {
    fn read_bytes(&mut self, count: usize) -> Result<&[u8]> {
        let bytes = self.bytes.get(self.at..self.at + count);
        let bytes = bytes
            .with_context(|| format!("the message ends inside the {count} bytes at {}", self.at))?;
        self.at += count;
        Ok(bytes)
    }

    fn read_u16(&mut self) -> Result<u16> {
        let bytes = self.read_bytes(2)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    fn read_u32(&mut self) -> Result<u32> {
        Ok(u32::from(self.read_u16()?) << 16 | u32::from(self.read_u16()?))
    }

    /// Reads a name and follows its compression pointers (RFC 1035 section 4.1.4).
    fn read_name(&mut self) -> Result<String> {
        let mut text = String::new();
        let mut at = self.at;
        let mut end = None;
        // A pointer leads to a prior occurrence of a name, so each one must lead further back.
        // Otherwise a pointer to a label before it would be followed without end.
        let mut pointer_limit = at;
        loop {
            let first = self
                .bytes
                .get(at)
                .context("the message ends inside a name")?;
            let length = usize::from(*first);
            match length {
                0 => break,
                1..=63 => {
                    let label = self.bytes.get(at + 1..at + 1 + length);
                    push_label(&mut text, label.context("the message ends inside a label")?);
                    at += 1 + length;
                }
                0xc0.. => {
                    let low = self.bytes.get(at + 1);
                    let low = low.context("the message ends inside a pointer")?;
                    let target = (length & 0x3f) << 8 | usize::from(*low);
                    ensure!(
                        target < pointer_limit,
                        "a pointer at {at} to {target}, which is not before the name"
                    );
                    end.get_or_insert(at + 2);
                    pointer_limit = target;
                    at = target;
                }
                other => bail!("a label with the reserved length byte {other:02x}"),
            }
        }
        self.at = end.unwrap_or(at + 1);
        if text.is_empty() {
            text.push('.');
        }
        Ok(text)
    }

    fn read_record(&mut self) -> Result<ParsedRecord> {
        let owner = self.read_name()?;
        let rtype = self.read_u16()?;
        let class = self.read_u16()?;
        let ttl = self.read_u32()?;
        let length = usize::from(self.read_u16()?);
        let end = self.at + length;
        if rtype == OPT {
            ensure!(owner == ".", "an OPT record with the owner {owner}");
            let [extended_rcode, version, high, low] = ttl.to_be_bytes();
            return Ok(ParsedRecord::Opt(ReplyEdns {
                size: class,
                extended_rcode,
                version,
                flags: u16::from_be_bytes([high, low]),
                options: self.read_bytes(length)?.to_vec(),
            }));
        }
        let data = self.read_data(rtype, length)?;
        ensure!(
            self.at == end,
            "the rdata has {length} bytes, but {data:?} has another length"
        );
        Ok(ParsedRecord::Line(format!(
            "{owner} {ttl} {} {} {data}",
            class_name(class),
            type_name(rtype)
        )))
    }

    /// Reads rdata. The caller checks that it has `length` bytes.
    fn read_data(&mut self, rtype: u16, length: usize) -> Result<String> {
        Ok(match type_name(rtype).as_str() {
            "A" => {
                let bytes: [u8; 4] = self.read_bytes(4)?.try_into()?;
                Ipv4Addr::from(bytes).to_string()
            }
            "AAAA" => {
                let bytes: [u8; 16] = self.read_bytes(16)?.try_into()?;
                Ipv6Addr::from(bytes).to_string()
            }
            "CNAME" | "NS" | "PTR" => self.read_name()?,
            "SRV" => {
                let numbers = format!(
                    "{} {} {}",
                    self.read_u16()?,
                    self.read_u16()?,
                    self.read_u16()?
                );
                let start = self.at;
                let target = self.read_name()?;
                // RFC 2782: the target must not be compressed. An uncompressed name without escapes
                // has one byte more than its text.
                ensure!(
                    self.at - start == target.trim_start_matches('.').len() + 1,
                    "an SRV target that is compressed, or has escapes: {target}"
                );
                format!("{numbers} {target}")
            }
            "SOA" => {
                let mut text = format!("{} {}", self.read_name()?, self.read_name()?);
                for _ in 0..5 {
                    write!(text, " {}", self.read_u32()?)?;
                }
                text
            }
            "TXT" => {
                let end = self.at + length;
                let mut strings = Vec::new();
                while self.at < end {
                    let count = usize::from(self.read_bytes(1)?[0]);
                    strings.push(format!("\"{}\"", self.read_bytes(count)?.escape_ascii()));
                }
                strings.join(" ")
            }
            _ => format!("{:02x?}", self.read_bytes(length)?),
        })
    }
}

/// Appends a label in presentation form (RFC 1035 section 5.1).
fn push_label(text: &mut String, label: &[u8]) {
    for &byte in label {
        match byte {
            b'.' | b'\\' => write!(text, "\\{}", char::from(byte)),
            b'!'..=b'~' => write!(text, "{}", char::from(byte)),
            _ => write!(text, "\\{byte:03}"),
        }
        .ok();
    }
    text.push('.');
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A reply whose owner names are compression pointers to the question (RFC 1035 section 4.1.4).
    fn reply() -> Vec<u8> {
        let mut bytes = vec![0x12, 0x34, 0x85, 0x00, 0, 1, 0, 2, 0, 0, 0, 1];
        bytes.extend(b"\x01a\x05Local\x00\x00\x01\x00\x01");
        for last in [2, 1] {
            bytes.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4, 10, 0, 0, last]);
        }
        bytes.extend([0, 0, 41, 4, 0xd0, 0, 0, 0x80, 0, 0, 0]);
        bytes
    }

    #[test]
    fn a_reply_is_printed_in_lines() {
        let message = Message::read(&reply()).unwrap();
        assert_eq!(message.question, ["a.Local. IN A"]);
        assert_eq!(
            message.lines(),
            [
                "NOERROR aa rd",
                "answer a.Local. 5 IN A 10.0.0.1",
                "answer a.Local. 5 IN A 10.0.0.2",
                "edns 1232 do",
            ]
        );
    }

    #[test]
    fn malformed_messages_are_errors() {
        let whole = reply();
        for length in 0..whole.len() {
            assert!(
                Message::read(&whole[..length]).is_err(),
                "the reply cut to {length} bytes is accepted"
            );
        }
        // A pointer to a label before it, in the same name, would be followed without end.
        let circle =
            b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01a\xc0\x0c\x00\x01\x00\x01";
        assert!(
            Message::read(circle).is_err(),
            "a pointer back to its own name is accepted"
        );
        assert!(
            Message::read(&[&whole[..], &[0]].concat()).is_err(),
            "a byte after the message is accepted"
        );
        let mut looping = whole;
        // The first record starts at byte 25. Its owner becomes a pointer to itself.
        looping[26] = 25;
        assert!(
            Message::read(&looping).is_err(),
            "a compression pointer to itself is accepted"
        );
    }
}
