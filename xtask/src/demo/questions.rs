//! What is asked, and what must come.
//!
//! The names and addresses are those of examples/.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use zerohop_tests::topology::SERVED;

use super::{
    answer::{Answer, Source},
    upstream,
};

/// All questions, in the order of the table: calls first.
pub(crate) fn all() -> Vec<Question> {
    let kube_dns = SERVED.map(|address| address.to_string());
    vec![
        call("frontend", data(&[FRONTEND])),
        call("cart.shop", data(&[CART, CART6])),
        call("database.data", data(&DATABASE)),
        call("db-0.database.data", data(&DATABASE[..1])),
        call("kube-dns.kube-system", data(&kube_dns)),
        call(upstream::NAME, data(&[upstream::ADDRESS])).outside(),
        packet("frontend.shop.svc.cluster.local", A, data(&[FRONTEND])),
        packet("frontend.shop.svc.cluster.local", AAAA, Answer::NoData),
        packet("frontend.shop.svc.cluster.local", TXT, Answer::NoData),
        packet("FrontEnd.SHOP.svc.Cluster.Local", A, data(&[FRONTEND])),
        packet("cart.shop.svc.cluster.local", A, data(&[CART])),
        packet("cart.shop.svc.cluster.local", AAAA, data(&[CART6])),
        packet("cart.shop.svc.cluster.local", AAAA, data(&[CART6])).with_edns(),
        packet("cart.shop.svc.cluster.local", AAAA, data(&[CART6])).over_ipv6(),
        packet("database.data.svc.cluster.local", A, data(&DATABASE)),
        packet(
            "db-1.database.data.svc.cluster.local",
            A,
            data(&DATABASE[1..2]),
        ),
        packet(
            "10-244-0-2.shop.pod.cluster.local",
            A,
            data(&["10.244.0.2"]),
        ),
        packet("shop.svc.cluster.local", A, Answer::NoData),
        packet("basket.shop.svc.cluster.local", A, Answer::NxDomain),
        packet("basket.shop.svc.cluster.local", AAAA, Answer::NxDomain).over_ipv6(),
        packet("www.example.com.svc.cluster.local", A, Answer::NxDomain),
        pointer([10, 96, 12, 7], data(&["frontend.shop.svc.cluster.local."])),
        pointer(
            [0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0x403],
            data(&["cart.shop.svc.cluster.local."]),
        ),
        pointer([10, 96, 99, 99], Answer::NxDomain),
        packet(upstream::NAME, A, data(&[upstream::ADDRESS])).outside(),
        packet("nowhere.example.com", A, Answer::NxDomain).outside(),
    ]
}

/// One question.
pub(crate) struct Question {
    pub(super) asked: Asked,
    pub(super) source: Source,
    pub(super) expected: Answer,
}

/// The ways to ask.
pub(crate) enum Asked {
    /// A program calls getaddrinfo() with this name.
    Call(&'static str),
    /// A query is sent as it is.
    Packet(Packet),
}

/// A query.
pub(crate) struct Packet {
    pub(super) subject: Subject,
    pub(super) rtype: u16,
    pub(super) server: IpAddr,
    pub(super) edns: Option<u16>,
}

/// What a query is about.
pub(crate) enum Subject {
    Name(&'static str),
    /// The name that belongs to an address in the reverse tree.
    Address(IpAddr),
}

const FRONTEND: &str = "10.96.12.7";
const CART: &str = "10.96.40.3";
const CART6: &str = "fd00:10:96::403";
const DATABASE: [&str; 3] = ["10.244.1.1", "10.244.1.2", "10.244.1.3"];

// Types, RFC 1035 section 3.2.2 and RFC 3596 section 2.1.
const A: u16 = 1;
const PTR: u16 = 12;
const TXT: u16 = 16;
const AAAA: u16 = 28;

/// The size that most resolvers give (RFC 9715 section 3.1).
const EDNS_SIZE: u16 = 1232;

fn call(name: &'static str, expected: Answer) -> Question {
    Question {
        asked: Asked::Call(name),
        source: Source::Cluster,
        expected,
    }
}

fn packet(name: &'static str, rtype: u16, expected: Answer) -> Question {
    query(Subject::Name(name), rtype, expected)
}

fn pointer(address: impl Into<IpAddr>, expected: Answer) -> Question {
    query(Subject::Address(address.into()), PTR, expected)
}

fn query(subject: Subject, rtype: u16, expected: Answer) -> Question {
    let [server, _] = SERVED;
    Question {
        asked: Asked::Packet(Packet {
            subject,
            rtype,
            server,
            edns: None,
        }),
        source: Source::Cluster,
        expected,
    }
}

fn data<T: ToString>(data: &[T]) -> Answer {
    Answer::Data(data.iter().map(ToString::to_string).collect())
}

impl Question {
    fn outside(mut self) -> Question {
        self.source = Source::Outside;
        self
    }

    fn with_edns(mut self) -> Question {
        if let Asked::Packet(packet) = &mut self.asked {
            packet.edns = Some(EDNS_SIZE);
        }
        self
    }

    fn over_ipv6(mut self) -> Question {
        if let Asked::Packet(packet) = &mut self.asked {
            let [_, server] = SERVED;
            packet.server = server;
        }
        self
    }
}

impl Subject {
    /// The name asked for.
    pub(super) fn name(&self) -> String {
        match self {
            Subject::Name(name) => (*name).to_owned(),
            Subject::Address(IpAddr::V4(address)) => reverse4(*address),
            Subject::Address(IpAddr::V6(address)) => reverse6(*address),
        }
    }
}

/// RFC 1035 section 3.5.
fn reverse4(address: Ipv4Addr) -> String {
    let [a, b, c, d] = address.octets();
    format!("{d}.{c}.{b}.{a}.in-addr.arpa")
}

/// RFC 3596 section 2.5.
fn reverse6(address: Ipv6Addr) -> String {
    let digits = format!("{:032x}", address.to_bits());
    let labels = digits.chars().rev().map(|digit| format!("{digit}."));
    labels.collect::<String>() + "ip6.arpa"
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match &self.asked {
            Asked::Call(name) => format!("getaddrinfo(\"{name}\")"),
            Asked::Packet(packet) => packet.to_string(),
        };
        // So that a width is obeyed.
        f.pad(&text)
    }
}

impl fmt::Display for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rtype = match self.rtype {
            A => "A",
            AAAA => "AAAA",
            PTR => "PTR",
            _ => "TXT",
        };
        match &self.subject {
            Subject::Name(name) => write!(f, "{rtype:<5}{name}")?,
            Subject::Address(address) => write!(f, "{rtype:<5}{address}")?,
        }
        if self.edns.is_some() {
            f.write_str(" (EDNS)")?;
        }
        if self.server.is_ipv6() {
            f.write_str(" (IPv6)")?;
        }
        Ok(())
    }
}
