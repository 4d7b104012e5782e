//! What the scripted upstream servers answer: a function of the server's group, and of the name and
//! the type of the question.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use zerohop_contract::packet::wire_name;

/// The names that lead into the cluster.
pub(crate) const CLUSTER_TARGETS: [&str; 3] = [
    "web.shop.svc.cluster.local",
    "absent.shop.svc.cluster.local",
    "out.shop.svc.cluster.local",
];

pub(crate) const A: u16 = 1;
pub(crate) const NS: u16 = 2;
pub(crate) const CNAME: u16 = 5;
pub(crate) const SOA: u16 = 6;
pub(crate) const PTR: u16 = 12;
pub(crate) const MX: u16 = 15;
pub(crate) const TXT: u16 = 16;
pub(crate) const AAAA: u16 = 28;
pub(crate) const SRV: u16 = 33;
pub(crate) const DS: u16 = 43;
pub(crate) const HTTPS: u16 = 65;
pub(crate) const ANY: u16 = 255;
const OPT: u16 = 41;
const RRSIG: u16 = 46;
const NSEC: u16 = 47;

const NOERROR: u16 = 0;
const FORMERR: u16 = 1;
const SERVFAIL: u16 = 2;
const NXDOMAIN: u16 = 3;
const NOTIMP: u16 = 4;
const REFUSED: u16 = 5;

/// Header bits (RFC 1035 section 4.1.1, RFC 4035 section 3).
const QR: u16 = 0x8000;
const AA: u16 = 0x0400;
const TC: u16 = 0x0200;
const RD: u16 = 0x0100;
const RA: u16 = 0x0080;
const AD: u16 = 0x0020;
const CD: u16 = 0x0010;
const DO: u16 = 0x8000;

const HEADER_LENGTH: usize = 12;
/// The longest datagram without EDNS, in bytes.
const PLAIN_LIMIT: usize = 512;
/// TTLs of records, in seconds.
const TTLS: [u32; 11] = [0, 1, 3, 4, 30, 60, 300, 3600, 86_400, 604_800, 0x7fff_ffff];
/// Minimum fields of SOA records, in seconds.
const MINIMUMS: [u32; 6] = [0, 2, 5, 30, 300, 7200];

/// The script of a server.
#[derive(Clone, Copy)]
pub(crate) struct ServerScript {
    /// Servers of one group give the same answers.
    pub(crate) group: u8,
    pub(crate) reliability: Reliability,
}

/// Whether a server answers what the others of its group answer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reliability {
    Full,
    /// It fails for some names.
    Partial,
}

/// How a query reached a server.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum QueryTransport {
    Udp,
    Tcp,
}

/// How a name behaves.
#[derive(Clone, Copy, PartialEq, Eq)]
enum NameManner {
    /// It has records of some types.
    Host,
    /// An unreliable server fails for it. For other servers it is as `Host`.
    Unsteady,
    Alias,
    AliasToCluster,
    Denied,
    DeniedWithoutSoa,
    EmptyWithoutSoa,
    Error(u16),
    /// Over UDP, all answers are truncated.
    Truncated,
    Large,
    /// Answers have records of other names.
    OutOfBailiwick,
}

/// A query that a server received.
struct ScriptedQuery<'a> {
    message: &'a [u8],
    /// In lower case, without a final dot.
    name: String,
    rtype: u16,
    /// The end of the question.
    end: usize,
    /// The size and the flags of the OPT record.
    edns: Option<(u16, u16)>,
}

/// A reply without its header.
#[derive(Default)]
struct ScriptedReply {
    bits: u16,
    answer: Vec<ScriptedRecord>,
    authority: Vec<ScriptedRecord>,
    additional: Vec<ScriptedRecord>,
}

struct ScriptedRecord {
    owner: String,
    rtype: u16,
    ttl: u32,
    data: Vec<u8>,
}

impl ServerScript {
    /// The reply to a query. `None` for what is no query.
    pub(crate) fn respond(self, message: &[u8], transport: QueryTransport) -> Option<Vec<u8>> {
        let query = ScriptedQuery::read(message)?;
        let mut reply = self.reply(&query);
        let manner = self.manner(&query.name);
        let do_bit = query.edns.is_some_and(|(_, flags)| flags & DO != 0);
        if do_bit && draw(&query.name, "signed").is_multiple_of(2) {
            reply.sign();
        }
        let request = u16::from_be_bytes([message[2], message[3]]);
        let traits = draw(&query.name, "flags");
        reply.bits |= QR | RA | request & (RD | CD);
        if (request & AD != 0 || do_bit) && traits.is_multiple_of(3) {
            reply.bits |= AD;
        }
        if traits.is_multiple_of(5) {
            reply.bits |= AA;
        }
        let opt = query.edns.filter(|_| !traits.is_multiple_of(7));
        let whole = query.assemble(&reply, opt);
        let limit = query
            .edns
            .map_or(PLAIN_LIMIT, |(size, _)| usize::from(size).max(PLAIN_LIMIT));
        let is_cut = manner == NameManner::Truncated || whole.len() > limit;
        if transport == QueryTransport::Tcp || !is_cut {
            return Some(whole);
        }
        let cut = ScriptedReply {
            bits: reply.bits | TC,
            ..ScriptedReply::default()
        };
        Some(query.assemble(&cut, opt))
    }

    fn manner(self, name: &str) -> NameManner {
        // The zones themselves exist, so that a server is found to answer.
        if name.matches('.').count() < 2 {
            return NameManner::Host;
        }
        match draw(name, "manner") % 100 {
            0..36 => NameManner::Host,
            36..39 => NameManner::Unsteady,
            39..54 => NameManner::Alias,
            54..57 => NameManner::AliasToCluster,
            57..68 => NameManner::Denied,
            68..71 => NameManner::DeniedWithoutSoa,
            71..74 => NameManner::EmptyWithoutSoa,
            74..77 => NameManner::Error(SERVFAIL),
            77..79 => NameManner::Error(REFUSED),
            79 => NameManner::Error(FORMERR),
            80 => NameManner::Error(NOTIMP),
            81..87 => NameManner::Truncated,
            87..93 => NameManner::Large,
            _ => NameManner::OutOfBailiwick,
        }
    }

    fn reply(self, query: &ScriptedQuery<'_>) -> ScriptedReply {
        let (name, rtype) = (query.name.as_str(), query.rtype);
        match self.manner(name) {
            NameManner::Unsteady if self.reliability == Reliability::Partial => {
                ScriptedReply::code(SERVFAIL)
            }
            NameManner::Host | NameManner::Unsteady | NameManner::Truncated => {
                self.host(name, rtype)
            }
            NameManner::Large => self.large(name, rtype),
            NameManner::OutOfBailiwick => {
                let mut reply = self.host(name, rtype);
                reply.answer.push(record("stray.example", A, 60, &[6; 4]));
                let ns = wire_name("ns.stray.example");
                reply.authority.push(record("stray.example", NS, 60, &ns));
                reply
            }
            NameManner::Alias => self.alias(name, rtype),
            NameManner::AliasToCluster => {
                let target = CLUSTER_TARGETS[draw(name, "target") as usize % 3];
                let alias = record(name, CNAME, ttl(name), &wire_name(target));
                let is_denied =
                    draw(name, "denied").is_multiple_of(2) && !matches!(rtype, CNAME | ANY);
                let mut reply = ScriptedReply::code(if is_denied { NXDOMAIN } else { NOERROR });
                reply.answer.push(alias);
                if is_denied {
                    reply.authority.push(soa("."));
                }
                reply
            }
            NameManner::Denied => ScriptedReply {
                bits: NXDOMAIN,
                authority: vec![soa(&zone(name))],
                ..ScriptedReply::default()
            },
            NameManner::DeniedWithoutSoa => ScriptedReply::code(NXDOMAIN),
            NameManner::EmptyWithoutSoa => ScriptedReply::code(NOERROR),
            NameManner::Error(code) => ScriptedReply::code(code),
        }
    }

    /// The reply about a name with records.
    fn host(self, name: &str, rtype: u16) -> ScriptedReply {
        let mut reply = ScriptedReply::default();
        let types = if rtype == ANY {
            vec![A, TXT, MX]
        } else {
            vec![rtype]
        };
        for rtype in types {
            let records = self.record_data(name, rtype).into_iter();
            reply
                .answer
                .extend(records.map(|data| record(name, rtype, ttl(name), &data)));
        }
        if reply.answer.is_empty() {
            reply.authority.push(soa(&zone(name)));
        } else if draw(name, "servers").is_multiple_of(3) {
            let server = format!("ns.{}", zone(name));
            let data = wire_name(&server);
            reply.authority.push(record(&zone(name), NS, 3600, &data));
            let address = record(&server, A, 3600, &[10, self.group, 53, 53]);
            reply.additional.push(address);
        }
        reply
    }

    /// The data of the records of a name that exists. Empty: it has none of this type.
    fn record_data(self, name: &str, rtype: u16) -> Vec<Vec<u8>> {
        let number = draw(name, &format!("type {rtype}"));
        let percent = match rtype {
            A => 90,
            AAAA => 60,
            PTR | TXT | MX | SRV | HTTPS => 45,
            NS | SOA => 20,
            DS => 10,
            _ => 0,
        };
        if number % 100 >= percent {
            return Vec::new();
        }
        let count = match rtype {
            SOA => 1,
            A | AAAA => 1 + number / 100 % 8,
            _ => 1 + number / 100 % 3,
        };
        let is_below = (number / 1000).is_multiple_of(2);
        let host = |role: &str, index: u8| {
            let parent = if is_below {
                name.to_owned()
            } else {
                zone(name)
            };
            wire_name(&format!("{role}{index}.{parent}"))
        };
        let data = |index: u8| match rtype {
            A => vec![10, self.group, number.to_be_bytes()[3], index],
            AAAA => [&[0x20, 1, 0xd, 0xb8][..], &[self.group; 11], &[index]].concat(),
            MX => [&[0, 10 * index][..], &host("mx", index)].concat(),
            SRV => [&[0, 1, 0, index, 1, 187][..], &host("srv", index)].concat(),
            TXT => {
                let text = vec![b'a' + index; number as usize / 10 % 250];
                [&[text.len() as u8][..], &text].concat()
            }
            NS => host("ns", index),
            PTR => host("ptr", index),
            DS => [&[0, index, 13, 2][..], &[index; 32]].concat(),
            HTTPS => [
                &[0, 1][..],
                &host("web", index),
                &[0, 1, 0, 3, 2, b'h', b'2'],
            ]
            .concat(),
            _ => soa_data(name),
        };
        (0..count as u8).map(data).collect()
    }

    fn large(self, name: &str, rtype: u16) -> ScriptedReply {
        let count = 20 + draw(name, "count") as u8 % 60;
        let data = |index: u8| match rtype {
            A => vec![10, self.group, 77, index],
            AAAA => [&[0x20, 1, 0xd, 0xb8][..], &[77; 11], &[index]].concat(),
            _ => [&[100][..], &[b'a' + index % 20; 99], &[index]].concat(),
        };
        if !matches!(rtype, A | AAAA | TXT) {
            return self.host(name, rtype);
        }
        let records = (0..count).map(|index| record(name, rtype, ttl(name), &data(index)));
        ScriptedReply {
            answer: records.collect(),
            ..ScriptedReply::default()
        }
    }

    /// A chain of CNAMEs, and what is at its end.
    fn alias(self, name: &str, rtype: u16) -> ScriptedReply {
        let number = draw(name, "alias");
        let mut reply = ScriptedReply::default();
        let mut owner = name.to_owned();
        for index in 0..1 + number % 3 {
            let target = match number / 10 % 4 {
                0 => format!("c{index}.{owner}"),
                1 => format!("c{index}.{}", zone(name)),
                2 => format!("c{index}-{}.corp.example", number % 100),
                _ => format!("c{index}-{}.example.net", number % 100),
            };
            let data = wire_name(&target);
            reply.answer.push(record(&owner, CNAME, ttl(&owner), &data));
            if matches!(rtype, CNAME | ANY) {
                return reply;
            }
            owner = target;
        }
        match number / 100 % 10 {
            // The server doesn't know the end.
            0 => {}
            1 => {
                reply.bits = NXDOMAIN;
                reply.authority.push(soa(&zone(&owner)));
            }
            2 => reply.authority.push(soa(&zone(&owner))),
            _ => {
                let end = self.host(&owner, rtype);
                reply.answer.extend(end.answer);
                reply.authority = end.authority;
                reply.additional = end.additional;
            }
        }
        reply
    }
}

impl ScriptedReply {
    fn code(rcode: u16) -> ScriptedReply {
        ScriptedReply {
            bits: rcode,
            ..ScriptedReply::default()
        }
    }

    /// Adds signatures, and a proof to a negative answer.
    fn sign(&mut self) {
        let signature = |of: &ScriptedRecord| {
            let times = [[0; 4], [0x70; 4], [0x10; 4]].concat();
            let data = [
                &of.rtype.to_be_bytes()[..],
                &[13, 2],
                &times,
                &[1, 2],
                &wire_name(&zone(&of.owner)),
                &[7; 64],
            ];
            record(&of.owner, RRSIG, of.ttl, &data.concat())
        };
        if let [soa] = self.authority.as_slice()
            && soa.rtype == SOA
        {
            let next = wire_name(&format!("zz.{}", soa.owner));
            let data = [&next[..], &[0, 1, 0x40]].concat();
            let nsec = record(&soa.owner, NSEC, soa.ttl, &data);
            self.authority.push(nsec);
        }
        for records in [&mut self.answer, &mut self.authority] {
            let mut signed: Vec<(String, u16)> = Vec::new();
            let mut signatures = Vec::new();
            for record in records.iter() {
                let set = (record.owner.clone(), record.rtype);
                if !signed.contains(&set) {
                    signed.push(set);
                    signatures.push(signature(record));
                }
            }
            records.extend(signatures);
        }
    }
}

impl<'a> ScriptedQuery<'a> {
    fn read(message: &'a [u8]) -> Option<ScriptedQuery<'a>> {
        let mut labels = Vec::new();
        let mut at = HEADER_LENGTH;
        loop {
            let length = usize::from(*message.get(at)?);
            at += 1;
            if length == 0 {
                break;
            }
            let label = message.get(at..at + length)?;
            labels.push(String::from_utf8_lossy(label).to_ascii_lowercase());
            at += length;
        }
        let rtype = u16::from_be_bytes(message.get(at..at + 2)?.try_into().ok()?);
        let end = at + 4;
        let edns = match message.get(end..)? {
            [0, high, low, a, b, _, _, c, d, ..] if u16::from_be_bytes([*high, *low]) == OPT => {
                Some([[*a, *b], [*c, *d]].map(u16::from_be_bytes))
            }
            _ => None,
        };
        Some(ScriptedQuery {
            message,
            name: labels.join("."),
            rtype,
            end,
            edns: edns.map(|[size, flags]| (size, flags)),
        })
    }

    fn assemble(&self, reply: &ScriptedReply, opt: Option<(u16, u16)>) -> Vec<u8> {
        let mut bytes = self.message[..2].to_vec();
        let sections = [&reply.answer, &reply.authority, &reply.additional];
        let [answers, authorities, additionals] = sections.map(|section| section.len() as u16);
        let additionals = additionals + u16::from(opt.is_some());
        for word in [reply.bits, 1, answers, authorities, additionals] {
            bytes.extend(word.to_be_bytes());
        }
        bytes.extend(&self.message[HEADER_LENGTH..self.end]);
        // Known names, with their offsets. The letter case of the question is that of the first
        // owner.
        let mut names = vec![(self.name.clone(), HEADER_LENGTH)];
        for record in sections.into_iter().flatten() {
            match names.iter().find(|(name, _)| *name == record.owner) {
                Some((_, offset)) => bytes.extend((0xc000 | *offset as u16).to_be_bytes()),
                None => {
                    if bytes.len() < 0x4000 {
                        names.push((record.owner.clone(), bytes.len()));
                    }
                    bytes.extend(wire_name(&record.owner));
                }
            }
            bytes.extend(record.rtype.to_be_bytes());
            bytes.extend([0, 1]);
            bytes.extend(record.ttl.to_be_bytes());
            bytes.extend((record.data.len() as u16).to_be_bytes());
            bytes.extend(&record.data);
        }
        if let Some((_, flags)) = opt {
            bytes.push(0);
            for word in [OPT, 4096, 0, flags & DO, 0] {
                bytes.extend(word.to_be_bytes());
            }
        }
        bytes
    }
}

/// A number that depends on a name and a purpose.
fn draw(name: &str, purpose: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    (name, purpose).hash(&mut hasher);
    hasher.finish() >> 8
}

fn ttl(name: &str) -> u32 {
    TTLS[draw(name, "ttl") as usize % TTLS.len()]
}

fn record(owner: &str, rtype: u16, ttl: u32, data: &[u8]) -> ScriptedRecord {
    ScriptedRecord {
        owner: owner.to_owned(),
        rtype,
        ttl,
        data: data.to_vec(),
    }
}

/// The zone that a name is in: its last two labels.
fn zone(name: &str) -> String {
    let labels: Vec<&str> = name.split('.').collect();
    labels[labels.len().saturating_sub(2)..].join(".")
}

fn soa(zone: &str) -> ScriptedRecord {
    let zone = zone.trim_end_matches('.');
    record(zone, SOA, ttl(zone), &soa_data(zone))
}

fn soa_data(name: &str) -> Vec<u8> {
    let minimum = MINIMUMS[draw(name, "minimum") as usize % MINIMUMS.len()];
    let host = |label: &str| match name {
        "" => wire_name(label),
        name => wire_name(&format!("{label}.{name}")),
    };
    let numbers = [1, 7200, 900, 1_209_600, minimum].map(u32::to_be_bytes);
    [host("ns"), host("admin"), numbers.concat()].concat()
}
