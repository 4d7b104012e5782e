//! The queries of the fault tests, and the right replies.

use std::ops::Range;

use rand::{Rng, RngExt as _};
use zerohop_contract::{
    addresses::{POD, SERVED},
    packet::{self, QueryPacket},
};

use crate::kernel::fixture::rcode;

/// Number of services that are looked up. The cluster may have more.
pub(super) const LOOKED_UP: u16 = 40;

/// The TTL of answers of the stand-in for the cluster's DNS.
pub(super) const STAND_IN_TTL: u32 = 77;

/// A question that the pod asks. Services are numbered.
#[derive(Clone, Copy, Debug)]
pub(super) enum PodQuestion {
    /// A service's IPv4 address.
    Service(u16),
    /// The IPv6 address of a service that has none.
    NoData(u16),
    /// A nonexistent service.
    NotThere(u16),
    /// A name outside of the cluster.
    Outside,
}

/// The sender of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answerer {
    Kernel,
    StandIn,
}

/// Length of the DNS header, in bytes.
const HEADER: usize = 12;
/// The address of the name outside of the cluster.
const OUTSIDE: [u8; 4] = [203, 0, 113, 7];

impl PodQuestion {
    pub(super) fn message(self, id: u16) -> Vec<u8> {
        let (name, rtype) = match self {
            PodQuestion::Service(number) => (format!("s{number}.shop.svc.cluster.local"), 1),
            PodQuestion::NoData(number) => (format!("s{number}.shop.svc.cluster.local"), 28),
            PodQuestion::NotThere(number) => (format!("none{number}.shop.svc.cluster.local"), 1),
            PodQuestion::Outside => ("www.example.com".to_owned(), 1),
        };
        QueryPacket {
            id,
            ..QueryPacket::new(POD[0], SERVED[0], &name, rtype)
        }
        .message()
    }

    /// Checks a reply. Returns its sender, or a description of what is wrong.
    pub(super) fn check_reply(self, query: &[u8], reply: &[u8]) -> Result<Answerer, String> {
        let wrong = |what: &str| Err(format!("{self:?}: wrong {what} in {reply:02x?}"));
        let end = query.len();
        if reply.len() < end || reply[2] & 0x80 == 0 || reply[HEADER..end] != query[HEADER..] {
            return wrong("header or question");
        }
        if rcode(reply) != self.rcode() {
            return wrong("RCODE");
        }
        let answers = u16::from_be_bytes([reply[6], reply[7]]);
        let Some(address) = self.address() else {
            // Byte 9 counts authority records: the kernel's SOA record, which the stand-in omits.
            return match (answers, reply[9]) {
                (0, 1) => Ok(Answerer::Kernel),
                (0, 0) => Ok(Answerer::StandIn),
                _ => wrong("number of records"),
            };
        };
        // The record has 16 bytes: a compressed owner name, type and class (6), TTL (4), length (2)
        // and address (4).
        if answers != 1 || !reply.ends_with(&address) || reply.len() != end + 16 {
            return wrong("answer record");
        }
        let ttl = &reply[end + 6..end + 10];
        Ok(if ttl == STAND_IN_TTL.to_be_bytes() {
            Answerer::StandIn
        } else {
            Answerer::Kernel
        })
    }

    /// Recognizes a query by its first label and its type. `None`: the pod asks no such question.
    fn parse(query: &[u8]) -> Option<PodQuestion> {
        let length = usize::from(*query.get(HEADER)?);
        let label = query.get(HEADER + 1..HEADER + 1 + length)?;
        let label = std::str::from_utf8(label).ok()?;
        // The low byte of the type; type and class end the query.
        let rtype = query.get(query.len().checked_sub(4)?..)?[1];
        let number = |prefix| label.strip_prefix(prefix)?.parse().ok();
        match rtype {
            _ if label == "www" => Some(PodQuestion::Outside),
            1 => {
                let service = number("s").map(PodQuestion::Service);
                service.or_else(|| number("none").map(PodQuestion::NotThere))
            }
            28 => number("s").map(PodQuestion::NoData),
            _ => None,
        }
    }

    fn rcode(self) -> u8 {
        match self {
            PodQuestion::NotThere(_) => 3,
            _ => 0,
        }
    }

    fn address(self) -> Option<[u8; 4]> {
        match self {
            PodQuestion::Service(number) => Some(service_address(number)),
            PodQuestion::Outside => Some(OUTSIDE),
            PodQuestion::NoData(_) | PodQuestion::NotThere(_) => None,
        }
    }
}

/// The ClusterIP of a service.
pub(super) fn service_address(number: u16) -> [u8; 4] {
    let [high, low] = number.to_be_bytes();
    [10, 97, high, low]
}

/// Manifests of `count` services.
pub(super) fn services(count: u16) -> String {
    services_named("s", 0..count)
}

/// Manifests of services, one for each number. Their names are `name` with the number appended.
pub(super) fn services_named(name: &str, numbers: Range<u16>) -> String {
    let service = |number| {
        let [a, b, c, d] = service_address(number);
        format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}{number}, namespace: shop}}\n\
             spec: {{clusterIP: {a}.{b}.{c}.{d}, clusterIPs: [{a}.{b}.{c}.{d}], ports: [{{name: http, port: 80}}]}}\n"
        )
    };
    numbers.map(service).collect()
}

/// The reply of the stand-in for the cluster's DNS. `None`: no reply.
pub(super) fn stand_in_reply(query: &[u8]) -> Option<Vec<u8>> {
    let question = PodQuestion::parse(query)?;
    // QR, AA and RD.
    let bits = 0x8500 | u16::from(question.rcode());
    match question.address() {
        Some(address) => packet::address_reply(query, bits, STAND_IN_TTL, address.into()),
        None => packet::empty_reply(query, bits),
    }
}

/// A random query that is malformed in most cases.
pub(super) fn malformed_message(random: &mut impl Rng) -> Vec<u8> {
    let mut message =
        PodQuestion::Service(random.random_range(0..LOOKED_UP)).message(random.random());
    match random.random_range(0..4) {
        // A truncated message.
        0 => message.truncate(random.random_range(0..message.len())),
        // One byte of the name is changed. A length of a label that becomes 64 to 191 is invalid,
        // and 192 or more begins a compression pointer.
        1 => {
            let at = random.random_range(HEADER..message.len() - 4);
            message[at] = random.random_range(64..=255);
        }
        // Additional bytes.
        2 => message.extend((0..random.random_range(1..400)).map(|_| random.random::<u8>())),
        // A random header after the ID.
        _ => message[2..HEADER].fill_with(|| random.random()),
    }
    message
}
