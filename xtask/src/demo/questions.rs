//! The questions, and their right answers.
//!
//! The names and addresses are those of examples/.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use zerohop_contract::addresses::SERVED;

use super::{
    answer::{AnswerSource, DemoAnswer},
    upstream,
};

/// All questions, in the order of the table: calls first.
pub(crate) fn all() -> Vec<DemoQuestion> {
    let kube_dns = SERVED.map(|address| address.to_string());
    vec![
        call("frontend", data(&[FRONTEND])),
        call("cart.shop", data(&[CART, CART6])),
        call("database.data", data(&DATABASE)),
        call("db-0.database.data", data(&DATABASE[..1])),
        call("kube-dns.kube-system", data(&kube_dns)),
        call(upstream::NAME, data(&[upstream::ADDRESS])).outside(),
        packet("frontend.shop.svc.cluster.local", A, data(&[FRONTEND])),
        packet("frontend.shop.svc.cluster.local", AAAA, DemoAnswer::NoData),
        packet("frontend.shop.svc.cluster.local", TXT, DemoAnswer::NoData),
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
        packet("shop.svc.cluster.local", A, DemoAnswer::NoData),
        packet("basket.shop.svc.cluster.local", A, DemoAnswer::NxDomain),
        packet("basket.shop.svc.cluster.local", AAAA, DemoAnswer::NxDomain).over_ipv6(),
        packet("www.example.com.svc.cluster.local", A, DemoAnswer::NxDomain),
        pointer([10, 96, 12, 7], data(&["frontend.shop.svc.cluster.local."])),
        pointer(
            [0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0x403],
            data(&["cart.shop.svc.cluster.local."]),
        ),
        pointer([10, 96, 99, 99], DemoAnswer::NxDomain),
        packet(upstream::NAME, A, data(&[upstream::ADDRESS])).outside(),
        packet("nowhere.example.com", A, DemoAnswer::NxDomain).outside(),
    ]
}

/// A question, with its right answer.
pub(crate) struct DemoQuestion {
    pub(super) method: AskMethod,
    pub(super) source: AnswerSource,
    pub(super) expected: DemoAnswer,
}

/// How a question is asked.
pub(crate) enum AskMethod {
    /// A program calls getaddrinfo() with this name.
    Call(&'static str),
    /// The demo sends one query.
    Query(DemoQuery),
}

/// A query.
pub(crate) struct DemoQuery {
    pub(super) subject: QuerySubject,
    pub(super) rtype: u16,
    pub(super) server: IpAddr,
    pub(super) edns: Option<u16>,
}

/// The name that a query asks for.
pub(crate) enum QuerySubject {
    Name(&'static str),
    /// The reverse name of an address.
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

/// The EDNS payload size in bytes that most resolvers send (RFC 9715 section 3.1).
const EDNS_SIZE: u16 = 1232;

fn call(name: &'static str, expected: DemoAnswer) -> DemoQuestion {
    DemoQuestion {
        method: AskMethod::Call(name),
        source: AnswerSource::Cluster,
        expected,
    }
}

fn packet(name: &'static str, rtype: u16, expected: DemoAnswer) -> DemoQuestion {
    query(QuerySubject::Name(name), rtype, expected)
}

fn pointer(address: impl Into<IpAddr>, expected: DemoAnswer) -> DemoQuestion {
    query(QuerySubject::Address(address.into()), PTR, expected)
}

fn query(subject: QuerySubject, rtype: u16, expected: DemoAnswer) -> DemoQuestion {
    let [server, _] = SERVED;
    DemoQuestion {
        method: AskMethod::Query(DemoQuery {
            subject,
            rtype,
            server,
            edns: None,
        }),
        source: AnswerSource::Cluster,
        expected,
    }
}

fn data<T: ToString>(data: &[T]) -> DemoAnswer {
    DemoAnswer::Data(data.iter().map(ToString::to_string).collect())
}

impl DemoQuestion {
    fn outside(mut self) -> DemoQuestion {
        self.source = AnswerSource::Outside;
        self
    }

    fn with_edns(mut self) -> DemoQuestion {
        if let AskMethod::Query(query) = &mut self.method {
            query.edns = Some(EDNS_SIZE);
        }
        self
    }

    fn over_ipv6(mut self) -> DemoQuestion {
        if let AskMethod::Query(query) = &mut self.method {
            let [_, server] = SERVED;
            query.server = server;
        }
        self
    }
}

impl QuerySubject {
    /// The name asked for.
    pub(super) fn name(&self) -> String {
        match self {
            QuerySubject::Name(name) => (*name).to_owned(),
            QuerySubject::Address(IpAddr::V4(address)) => reverse4(*address),
            QuerySubject::Address(IpAddr::V6(address)) => reverse6(*address),
        }
    }
}

/// The reverse name of an IPv4 address (RFC 1035 section 3.5).
fn reverse4(address: Ipv4Addr) -> String {
    let [a, b, c, d] = address.octets();
    format!("{d}.{c}.{b}.{a}.in-addr.arpa")
}

/// The reverse name of an IPv6 address (RFC 3596 section 2.5).
fn reverse6(address: Ipv6Addr) -> String {
    let digits = format!("{:032x}", address.to_bits());
    let labels = digits.chars().rev().map(|digit| format!("{digit}."));
    labels.collect::<String>() + "ip6.arpa"
}

impl fmt::Display for DemoQuestion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match &self.method {
            AskMethod::Call(name) => format!("getaddrinfo(\"{name}\")"),
            AskMethod::Query(query) => query.to_string(),
        };
        // `pad` applies a width in the format.
        f.pad(&text)
    }
}

impl fmt::Display for DemoQuery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rtype = match self.rtype {
            A => "A",
            AAAA => "AAAA",
            PTR => "PTR",
            _ => "TXT",
        };
        match &self.subject {
            QuerySubject::Name(name) => write!(f, "{rtype:<5}{name}")?,
            QuerySubject::Address(address) => write!(f, "{rtype:<5}{address}")?,
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
