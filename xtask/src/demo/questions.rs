//! The questions, and their right answers.
//!
//! The names and addresses are those of examples/.

use zerohop_contract::{
    addresses::{POD, SERVED},
    packet::QueryPacket,
};

/// All questions, in the order of the printed tables: calls first.
pub(crate) fn all() -> Vec<DemoQuestion> {
    vec![
        call("frontend", FRONTEND),
        call("cart.shop", "10.96.40.3, fd00:10:96::403"),
        call("database.data", DATABASE),
        call("db-0.database.data", "10.244.1.1"),
        call("kube-dns.kube-system", "10.96.0.10, fd00:10:96::a"),
        call(OUTSIDE_NAME, OUTSIDE_ADDRESS).outside(),
        query(A, "frontend.shop.svc.cluster.local", FRONTEND),
        query(AAAA, "frontend.shop.svc.cluster.local", NODATA),
        query(TXT, "frontend.shop.svc.cluster.local", NODATA),
        query(A, "FrontEnd.SHOP.svc.Cluster.Local", FRONTEND),
        query(A, "cart.shop.svc.cluster.local", "10.96.40.3"),
        query(AAAA, "cart.shop.svc.cluster.local", CART6),
        query(AAAA, "cart.shop.svc.cluster.local", CART6).with_edns(),
        query(AAAA, "cart.shop.svc.cluster.local", CART6).over_ipv6(),
        query(A, "database.data.svc.cluster.local", DATABASE),
        query(A, "db-1.database.data.svc.cluster.local", "10.244.1.2"),
        query(A, "10-244-0-2.shop.pod.cluster.local", "10.244.0.2"),
        query(A, "shop.svc.cluster.local", NODATA),
        query(A, "basket.shop.svc.cluster.local", NXDOMAIN),
        query(AAAA, "basket.shop.svc.cluster.local", NXDOMAIN).over_ipv6(),
        query(A, "www.example.com.svc.cluster.local", NXDOMAIN),
        pointer(
            FRONTEND,
            FRONTEND_REVERSE,
            "frontend.shop.svc.cluster.local.",
        ),
        pointer(CART6, CART6_REVERSE, "cart.shop.svc.cluster.local."),
        pointer("10.96.99.99", "99.99.96.10.in-addr.arpa", NXDOMAIN),
        query(A, OUTSIDE_NAME, OUTSIDE_ADDRESS).outside(),
        query(A, "nowhere.example.com", NXDOMAIN).outside(),
    ]
}

/// A question, with its right answer.
pub(crate) struct DemoQuestion {
    /// The question as the printed tables show it.
    pub(super) text: String,
    pub(super) method: AskMethod,
    pub(super) source: AnswerSource,
    /// The rdata of all records, sorted and joined by commas; or [`NODATA`] or `NXDOMAIN`.
    pub(super) answer: &'static str,
}

/// How a question is asked.
pub(crate) enum AskMethod {
    /// A program calls getaddrinfo() with this name.
    Call(&'static str),
    /// The demo sends this query.
    Query(QueryPacket),
}

/// The source of the answer to a question.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum AnswerSource {
    /// The cluster: names in its zone, and reverse names in the network of its Services.
    Cluster,
    /// The upstream, which the agent must ask.
    Outside,
}

/// The only name that the upstream knows.
pub(super) const OUTSIDE_NAME: &str = "www.example.com";
pub(super) const OUTSIDE_ADDRESS: &str = "192.0.2.80";
/// The name exists, the type does not (RFC 2308 section 2.2).
pub(super) const NODATA: &str = "NODATA";
/// The name does not exist (RFC 2308 section 2.1).
const NXDOMAIN: &str = "NXDOMAIN";

const FRONTEND: &str = "10.96.12.7";
const FRONTEND_REVERSE: &str = "7.12.96.10.in-addr.arpa";
const CART6: &str = "fd00:10:96::403";
const CART6_REVERSE: &str =
    "3.0.4.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.6.9.0.0.0.1.0.0.0.0.d.f.ip6.arpa";
const DATABASE: &str = "10.244.1.1, 10.244.1.2, 10.244.1.3";

// Types, RFC 1035 section 3.2.2 and RFC 3596 section 2.1.
const A: (&str, u16) = ("A", 1);
const PTR: (&str, u16) = ("PTR", 12);
const TXT: (&str, u16) = ("TXT", 16);
const AAAA: (&str, u16) = ("AAAA", 28);

/// The EDNS payload size in bytes that most resolvers send, as DNS flag day 2020 proposed.
const EDNS_SIZE: u16 = 1232;

fn call(name: &'static str, answer: &'static str) -> DemoQuestion {
    DemoQuestion {
        text: format!("getaddrinfo(\"{name}\")"),
        method: AskMethod::Call(name),
        source: AnswerSource::Cluster,
        answer,
    }
}

fn query((rtype, number): (&str, u16), name: &str, answer: &'static str) -> DemoQuestion {
    let ([client, _], [server, _]) = (POD, SERVED);
    DemoQuestion {
        text: format!("{rtype:<5}{name}"),
        method: AskMethod::Query(QueryPacket::new(client, server, name, number)),
        source: AnswerSource::Cluster,
        answer,
    }
}

/// Asks for the name of an address.
fn pointer(address: &str, reverse_name: &str, answer: &'static str) -> DemoQuestion {
    DemoQuestion {
        text: format!("PTR  {address}"),
        ..query(PTR, reverse_name, answer)
    }
}

impl DemoQuestion {
    fn outside(mut self) -> DemoQuestion {
        self.source = AnswerSource::Outside;
        self
    }

    fn with_edns(mut self) -> DemoQuestion {
        self.text += " (EDNS)";
        if let AskMethod::Query(query) = self.method {
            self.method = AskMethod::Query(query.with_edns(EDNS_SIZE, 0, &[]));
        }
        self
    }

    fn over_ipv6(mut self) -> DemoQuestion {
        self.text += " (IPv6)";
        if let AskMethod::Query(query) = &mut self.method {
            // The client's address is not used: the kernel chooses the socket's address.
            query.server.0 = SERVED[1];
        }
        self
    }
}
