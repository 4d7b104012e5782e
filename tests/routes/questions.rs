//! The questions, from a seed.

use rand::{Rng as _, RngExt as _, rngs::StdRng, seq::IndexedRandom as _};
use zerohop_contract::packet::wire_name;

use crate::{
    corefile::RouteShape,
    script::{A, AAAA, ANY, CNAME, DS, HTTPS, MX, NS, PTR, SOA, SRV, TXT},
};

/// Types, as often as they are asked for.
const TYPES: [(u16, u32); 12] = [
    (A, 34),
    (AAAA, 18),
    (MX, 7),
    (TXT, 8),
    (SRV, 8),
    (PTR, 4),
    (NS, 4),
    (SOA, 4),
    (CNAME, 4),
    (ANY, 3),
    (HTTPS, 4),
    (DS, 2),
];

/// A question, with everything that may change the answer.
#[derive(Clone, Debug)]
pub(crate) struct RouteQuestion {
    /// With mixed letter case, and without a final dot.
    pub(crate) name: String,
    pub(crate) rtype: u16,
    pub(crate) transport: AskedTransport,
    /// The size in the OPT record. `None`: no OPT record, and so no DO bit.
    pub(crate) edns: Option<u16>,
    pub(crate) flags: QuestionFlags,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AskedTransport {
    Udp,
    Tcp,
}

/// Header bits, and the DO bit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QuestionFlags {
    pub(crate) dnssec_ok: bool,
    checking_disabled: bool,
    pub(crate) authentic_data: bool,
}

impl RouteQuestion {
    /// Questions about the names of a shape, in pairs: the second one of a pair is for the same
    /// name, type, DO and CD bits.
    pub(crate) fn pairs(
        shape: &RouteShape,
        count: usize,
        random: &mut StdRng,
    ) -> Vec<[RouteQuestion; 2]> {
        let mut pairs = Vec::new();
        for _ in 0..count {
            let first = RouteQuestion::draw(shape, random);
            let mut second = RouteQuestion {
                name: mix_case(&first.name, random),
                ..first.clone()
            };
            second.draw_transport(random);
            pairs.push([first, second]);
        }
        pairs
    }

    /// A question for the IPv4 addresses of a name, over UDP without EDNS.
    pub(crate) fn address(name: &str) -> RouteQuestion {
        RouteQuestion {
            name: name.to_owned(),
            rtype: A,
            transport: AskedTransport::Udp,
            edns: None,
            flags: QuestionFlags {
                dnssec_ok: false,
                checking_disabled: false,
                authentic_data: false,
            },
        }
    }

    fn draw(shape: &RouteShape, random: &mut StdRng) -> RouteQuestion {
        let chance = |random: &mut StdRng, percent: u32| random.random_range(0..100) < percent;
        let names = &shape.text.names;
        let below = &shape.text.below;
        let name = match (names.choose(random), below.choose(random)) {
            (Some(name), _) if chance(random, 25) => name.clone(),
            (_, Some(zone)) => {
                let number = random.random_range(0..2000);
                match random.random_range(0..4) {
                    0 => format!("b{}.a{number}.{zone}", number % 7),
                    1 => format!("mail{number}.{zone}"),
                    _ => format!("n{number}.{zone}"),
                }
            }
            (name, None) => name.cloned().unwrap_or_default(),
        };
        let mut question = RouteQuestion {
            name: mix_case(&name, random),
            rtype: draw_type(random),
            transport: AskedTransport::Udp,
            edns: None,
            flags: QuestionFlags {
                dnssec_ok: chance(random, 15),
                checking_disabled: chance(random, 10),
                authentic_data: chance(random, 20),
            },
        };
        question.draw_transport(random);
        question
    }

    fn draw_transport(&mut self, random: &mut StdRng) {
        self.transport = match random.random_range(0..5) {
            0 => AskedTransport::Tcp,
            _ => AskedTransport::Udp,
        };
        self.edns = [None, None, Some(512), Some(1232), Some(4096)][random.random_range(0..5)];
        if self.flags.dnssec_ok && self.edns.is_none() {
            self.edns = Some(1232);
        }
    }

    /// In lower case.
    pub(crate) fn lower_name(&self) -> String {
        self.name.to_ascii_lowercase()
    }

    /// The message, with a random ID.
    pub(crate) fn message(&self) -> Vec<u8> {
        let flags = self.flags;
        let bits =
            0x0100 | u16::from(flags.authentic_data) << 5 | u16::from(flags.checking_disabled) << 4;
        let mut bytes = Vec::new();
        let words = [rand::rng().next_u32() as u16, bits, 1, 0, 0];
        for word in words.into_iter().chain([u16::from(self.edns.is_some())]) {
            bytes.extend(word.to_be_bytes());
        }
        bytes.extend(wire_name(&self.name));
        bytes.extend(self.rtype.to_be_bytes());
        bytes.extend([0, 1]);
        if let Some(size) = self.edns {
            bytes.push(0);
            for word in [41, size, 0, u16::from(flags.dnssec_ok) << 15, 0] {
                bytes.extend(word.to_be_bytes());
            }
        }
        bytes
    }
}

fn draw_type(random: &mut StdRng) -> u16 {
    let total = TYPES.iter().map(|(_, weight)| weight).sum();
    let mut number = random.random_range(0..total);
    for (rtype, weight) in TYPES {
        if number < weight {
            return rtype;
        }
        number -= weight;
    }
    A
}

fn mix_case(name: &str, random: &mut StdRng) -> String {
    let bits = random.next_u64();
    let change = |(index, c): (usize, char)| match bits >> (index % 64) & 1 {
        0 => c.to_ascii_lowercase(),
        _ => c.to_ascii_uppercase(),
    };
    name.chars().enumerate().map(change).collect()
}
