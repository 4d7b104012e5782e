//! The upstream outside the cluster: a server that knows one name.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Result;
use domain::{
    base::{Message, MessageBuilder, Rtype, Ttl, iana::Rcode},
    rdata::A,
};
use zerohop_tests::{netns::NetworkNamespace, udp::UdpServer};

/// The only name that exists.
pub(crate) const NAME: &str = "www.example.com";
/// That name's address.
pub(crate) const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 80);

/// A server that runs until it is dropped.
pub(crate) struct ScriptedUpstream(UdpServer);

impl ScriptedUpstream {
    pub(crate) fn start(node: &NetworkNamespace) -> Result<ScriptedUpstream> {
        let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        UdpServer::start(node, any_port, reply).map(ScriptedUpstream)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.0.address()
    }
}

/// Answers with the address of [`NAME`], NODATA for other types, and NXDOMAIN for other names.
fn reply(query: &[u8]) -> Option<Vec<u8>> {
    let query = Message::from_octets(query).ok()?;
    let question = query.sole_question().ok()?;
    let name = question.qname();
    let known = name.to_string().eq_ignore_ascii_case(NAME);
    let rcode = if known {
        Rcode::NOERROR
    } else {
        Rcode::NXDOMAIN
    };
    let mut answer = MessageBuilder::new_vec().start_answer(&query, rcode).ok()?;
    if known && question.qtype() == Rtype::A {
        let ttl = Ttl::from_secs(300);
        answer.push((name, ttl, A::new(ADDRESS))).ok()?;
    }
    Some(answer.finish())
}
