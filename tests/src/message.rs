//! A message as text, as `dig` prints it.
//!
//! Written against the RFCs alone: nothing here is shared with the code under test.

use std::{
    fmt::Write as _,
    net::{Ipv4Addr, Ipv6Addr},
};

use anyhow::{Context as _, Result, bail, ensure};

/// A message taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The ID.
    pub id: u16,
    /// The header's second 16 bits.
    pub bits: u16,
    /// Name, class and type of each question, as text.
    pub question: Vec<String>,
    /// Answer, authority and additional section, a record a line; without the OPT record.
    pub sections: [Vec<String>; 3],
    /// The OPT record.
    pub edns: Option<Edns>,
}

/// What an OPT record says (RFC 6891 section 6.1.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edns {
    /// The sender's size.
    pub size: u16,
    /// The upper bits of the response code.
    pub extended_rcode: u8,
    /// The version.
    pub version: u8,
    /// DO and the bits beside it.
    pub flags: u16,
    /// The octets of the options.
    pub options: Vec<u8>,
}

/// The names of the sections, in order.
pub const SECTIONS: [&str; 3] = ["answer", "authority", "additional"];

impl Message {
    /// Takes a message apart, to its last octet.
    ///
    /// # Errors
    ///
    /// When it is none.
    pub fn read(octets: &[u8]) -> Result<Message> {
        let mut reader = Reader { octets, at: 0 };
        let [id, bits, questions, answers, authorities, additionals] = [
            reader.u16()?,
            reader.u16()?,
            reader.u16()?,
            reader.u16()?,
            reader.u16()?,
            reader.u16()?,
        ];
        let mut message = Message {
            id,
            bits,
            question: Vec::new(),
            sections: Default::default(),
            edns: None,
        };
        for _ in 0..questions {
            let name = reader.name()?;
            let rtype = type_name(reader.u16()?);
            let class = class_name(reader.u16()?);
            message.question.push(format!("{name} {class} {rtype}"));
        }
        let counts = [answers, authorities, additionals];
        for ((count, records), section) in
            counts.into_iter().zip(&mut message.sections).zip(SECTIONS)
        {
            for number in 0..count {
                match reader
                    .record()
                    .with_context(|| format!("{section} {number}"))?
                {
                    Record::Line(line) => records.push(line),
                    Record::Opt(edns) => {
                        ensure!(section == "additional", "an OPT record in {section}");
                        ensure!(message.edns.is_none(), "two OPT records");
                        message.edns = Some(edns);
                    }
                }
            }
        }
        ensure!(
            reader.at == octets.len(),
            "{} octets behind the message",
            octets.len() - reader.at
        );
        Ok(message)
    }

    /// The response code's name.
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

    /// The names of the header's bits that are set, QR aside.
    #[must_use]
    pub fn flags(&self) -> Vec<&'static str> {
        FLAGS
            .into_iter()
            .filter(|(_, bit)| self.bits & bit != 0)
            .map(|(name, _)| name)
            .collect()
    }

    /// The reply in lines: response code and flags, the records with their section in front, EDNS.
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
        sort_sets(&mut lines);
        lines
    }
}

/// Sorts each run of records of one section, owner and type.
pub fn sort_sets(lines: &mut [String]) {
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

impl Edns {
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

/// A record type by its name; also in the form of RFC 3597, `TYPE64`.
///
/// # Errors
///
/// When there is no such type here.
pub fn type_number(name: &str) -> Result<u16> {
    if let Some((number, _)) = TYPES.iter().find(|(_, known)| *known == name) {
        return Ok(*number);
    }
    name.strip_prefix("TYPE")
        .and_then(|number| number.parse().ok())
        .with_context(|| format!("{name} is no record type"))
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

enum Record {
    Line(String),
    Opt(Edns),
}

/// Reads a message from its start to its end.
struct Reader<'a> {
    octets: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn octets(&mut self, count: usize) -> Result<&[u8]> {
        let octets = self.octets.get(self.at..self.at + count);
        let octets = octets
            .with_context(|| format!("the message ends before {count} octets at {}", self.at))?;
        self.at += count;
        Ok(octets)
    }

    fn u16(&mut self) -> Result<u16> {
        let octets = self.octets(2)?;
        Ok(u16::from_be_bytes([octets[0], octets[1]]))
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from(self.u16()?) << 16 | u32::from(self.u16()?))
    }

    /// A name, with what its compression pointers lead to (RFC 1035 section 4.1.4).
    fn name(&mut self) -> Result<String> {
        let mut text = String::new();
        let mut at = self.at;
        let mut end = None;
        loop {
            let length = usize::from(*self.octets.get(at).context("a name without an end")?);
            match length {
                0 => break,
                1..=63 => {
                    let label = self.octets.get(at + 1..at + 1 + length);
                    push_label(&mut text, label.context("half a label")?);
                    at += 1 + length;
                }
                0xc0.. => {
                    let low = *self.octets.get(at + 1).context("half a pointer")?;
                    let target = (length & 0x3f) << 8 | usize::from(low);
                    ensure!(
                        target < at,
                        "a pointer at {at} to {target}, which is not before it"
                    );
                    end.get_or_insert(at + 2);
                    at = target;
                }
                other => bail!("a label of type {other:02x}"),
            }
        }
        self.at = end.unwrap_or(at + 1);
        if text.is_empty() {
            text.push('.');
        }
        Ok(text)
    }

    fn record(&mut self) -> Result<Record> {
        let owner = self.name()?;
        let rtype = self.u16()?;
        let class = self.u16()?;
        let ttl = self.u32()?;
        let length = usize::from(self.u16()?);
        let end = self.at + length;
        if rtype == OPT {
            ensure!(owner == ".", "an OPT record of {owner}");
            let [extended_rcode, version, high, low] = ttl.to_be_bytes();
            return Ok(Record::Opt(Edns {
                size: class,
                extended_rcode,
                version,
                flags: u16::from_be_bytes([high, low]),
                options: self.octets(length)?.to_vec(),
            }));
        }
        let data = self.data(rtype, length)?;
        ensure!(self.at == end, "data of {length} octets, but {data:?} read");
        Ok(Record::Line(format!(
            "{owner} {ttl} {} {} {data}",
            class_name(class),
            type_name(rtype)
        )))
    }

    fn data(&mut self, rtype: u16, length: usize) -> Result<String> {
        Ok(match type_name(rtype).as_str() {
            "A" => {
                let octets: [u8; 4] = self.octets(4)?.try_into()?;
                Ipv4Addr::from(octets).to_string()
            }
            "AAAA" => {
                let octets: [u8; 16] = self.octets(16)?.try_into()?;
                Ipv6Addr::from(octets).to_string()
            }
            "CNAME" | "NS" | "PTR" => self.name()?,
            "SRV" => {
                let numbers = format!("{} {} {}", self.u16()?, self.u16()?, self.u16()?);
                let start = self.at;
                let target = self.name()?;
                // RFC 2782: not to be compressed.
                ensure!(
                    self.at - start == target.trim_start_matches('.').len() + 1,
                    "a compressed target: {target}"
                );
                format!("{numbers} {target}")
            }
            "SOA" => {
                let mut text = format!("{} {}", self.name()?, self.name()?);
                for _ in 0..5 {
                    write!(text, " {}", self.u32()?)?;
                }
                text
            }
            "TXT" => {
                let end = self.at + length;
                let mut strings = Vec::new();
                while self.at < end {
                    let count = usize::from(self.octets(1)?[0]);
                    strings.push(format!("\"{}\"", self.octets(count)?.escape_ascii()));
                }
                strings.join(" ")
            }
            _ => format!("{:02x?}", self.octets(length)?),
        })
    }
}

/// A label in presentation form (RFC 1035 section 5.1).
fn push_label(text: &mut String, label: &[u8]) {
    for &octet in label {
        match octet {
            b'.' | b'\\' => write!(text, "\\{}", char::from(octet)),
            b'!'..=b'~' => write!(text, "{}", char::from(octet)),
            _ => write!(text, "\\{octet:03}"),
        }
        .ok();
    }
    text.push('.');
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 1035 section 4.1.4's way of writing: the owner points into the question.
    fn reply() -> Vec<u8> {
        let mut octets = vec![0x12, 0x34, 0x85, 0x00, 0, 1, 0, 2, 0, 0, 0, 1];
        octets.extend(b"\x01a\x05Local\x00\x00\x01\x00\x01");
        for last in [2, 1] {
            octets.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4, 10, 0, 0, last]);
        }
        octets.extend([0, 0, 41, 4, 0xd0, 0, 0, 0x80, 0, 0, 0]);
        octets
    }

    #[test]
    fn a_reply_in_lines() {
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
    fn what_is_no_message() {
        let whole = reply();
        for length in 0..whole.len() {
            assert!(Message::read(&whole[..length]).is_err(), "{length} octets");
        }
        assert!(Message::read(&[&whole[..], &[0]].concat()).is_err());
        let mut forward = whole;
        // The first record's owner points to itself.
        forward[26] = 25;
        assert!(Message::read(&forward).is_err());
    }
}
