//! A cluster's names, and what is right about them.

use std::ops::Range;

use rand::{Rng, RngExt as _};
use zerohop_tests::{
    packet::Query,
    topology::{POD, SERVED},
};

/// How many services are looked up; there may be more.
pub(super) const LOOKED_UP: u16 = 40;

/// The TTL of whatever the cluster's own DNS answers.
pub(super) const STAND_IN_TTL: u32 = 77;

/// What a pod may ask.
#[derive(Clone, Copy, Debug)]
pub(super) enum Question {
    /// A service's IPv4 address.
    Service(u16),
    /// Its IPv6 address, which it has not.
    NoData(u16),
    /// A service that there is not.
    NotThere(u16),
    /// A name outside of the cluster.
    Outside,
}

/// Who answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    Kernel,
    StandIn,
}

/// Where the answers of a reply without EDNS begin.
const HEADER: usize = 12;
const OUTSIDE: [u8; 4] = [203, 0, 113, 7];

impl Question {
    pub(super) fn message(self, id: u16) -> Vec<u8> {
        let (name, rtype) = match self {
            Question::Service(number) => (format!("s{number}.shop.svc.cluster.local"), 1),
            Question::NoData(number) => (format!("s{number}.shop.svc.cluster.local"), 28),
            Question::NotThere(number) => (format!("none{number}.shop.svc.cluster.local"), 1),
            Question::Outside => ("www.example.com".to_owned(), 1),
        };
        Query {
            id,
            ..Query::new(POD[0], SERVED[0], &name, rtype)
        }
        .message()
    }

    /// What is wrong about a reply, or whose it is.
    pub(super) fn check(self, query: &[u8], reply: &[u8]) -> Result<By, String> {
        let wrong = |what: &str| Err(format!("{self:?}: {what} in {reply:02x?}"));
        let end = query.len();
        if reply.len() < end || reply[2] & 0x80 == 0 || reply[HEADER..end] != query[HEADER..] {
            return wrong("another question");
        }
        if reply[3] & 15 != self.rcode() {
            return wrong("the RCODE");
        }
        let answers = u16::from_be_bytes([reply[6], reply[7]]);
        let Some(address) = self.address() else {
            // The stand-in leaves out the SOA.
            return match (answers, reply[9]) {
                (0, 1) => Ok(By::Kernel),
                (0, 0) => Ok(By::StandIn),
                _ => wrong("records"),
            };
        };
        if answers != 1 || !reply.ends_with(&address) || reply.len() != end + 16 {
            return wrong("the address");
        }
        let ttl = &reply[end + 6..end + 10];
        Ok(match ttl == STAND_IN_TTL.to_be_bytes() {
            true => By::StandIn,
            false => By::Kernel,
        })
    }

    /// What a query asks, if it is one of these questions.
    fn of(query: &[u8]) -> Option<Question> {
        let length = usize::from(*query.get(HEADER)?);
        let label = query.get(HEADER + 1..HEADER + 1 + length)?;
        let label = std::str::from_utf8(label).ok()?;
        let rtype = query.get(query.len().checked_sub(4)?..)?[1];
        let number = |prefix| label.strip_prefix(prefix)?.parse().ok();
        match rtype {
            _ if label == "www" => Some(Question::Outside),
            1 => {
                let service = number("s").map(Question::Service);
                service.or_else(|| number("none").map(Question::NotThere))
            }
            28 => number("s").map(Question::NoData),
            _ => None,
        }
    }

    fn rcode(self) -> u8 {
        match self {
            Question::NotThere(_) => 3,
            _ => 0,
        }
    }

    fn address(self) -> Option<[u8; 4]> {
        match self {
            Question::Service(number) => Some(address(number)),
            Question::Outside => Some(OUTSIDE),
            Question::NoData(_) | Question::NotThere(_) => None,
        }
    }
}

/// A service's address.
pub(super) fn address(number: u16) -> [u8; 4] {
    let [high, low] = number.to_be_bytes();
    [10, 97, high, low]
}

/// So many services, as manifests.
pub(super) fn services(count: u16) -> String {
    services_called("s", 0..count)
}

/// Services with these numbers, and whatever names that end in them.
pub(super) fn services_called(name: &str, numbers: Range<u16>) -> String {
    let service = |number| {
        let [a, b, c, d] = address(number);
        format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}{number}, namespace: shop}}\n\
             spec: {{clusterIP: {a}.{b}.{c}.{d}, clusterIPs: [{a}.{b}.{c}.{d}], ports: [{{name: http, port: 80}}]}}\n"
        )
    };
    numbers.map(service).collect()
}

/// What the cluster's own DNS says.
pub(super) fn reply(query: &[u8]) -> Option<Vec<u8>> {
    let question = Question::of(query)?;
    let mut reply = query.to_vec();
    reply[2] |= 0x84;
    reply[3] = question.rcode();
    if let Some(address) = question.address() {
        reply[7] = 1;
        reply.extend([0xc0, 12, 0, 1, 0, 1]);
        reply.extend(STAND_IN_TTL.to_be_bytes());
        reply.extend([0, 4]);
        reply.extend(address);
    }
    Some(reply)
}

/// A query with something wrong about it, or no query at all.
pub(super) fn malformed(random: &mut impl Rng) -> Vec<u8> {
    let mut message = Question::Service(random.random_range(0..LOOKED_UP)).message(random.random());
    match random.random_range(0..4) {
        0 => message.truncate(random.random_range(0..message.len())),
        1 => {
            let at = random.random_range(HEADER..message.len() - 4);
            message[at] = random.random_range(64..=255);
        }
        2 => message.extend((0..random.random_range(1..400)).map(|_| random.random::<u8>())),
        _ => message[2..HEADER].fill_with(|| random.random()),
    }
    message
}
