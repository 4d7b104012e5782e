//! Whatever comes to the user plane's sockets.

use dns_agent::resolver::message::{Reply, Transport, respond};
use domain::base::{Message, iana::Rcode};

use super::{model::MODEL, reply};

/// Answers an input's message, the first octet saying how it came.
///
/// # Panics
///
/// When the reply is not what it must be.
pub fn check(input: &[u8]) -> Reply {
    let (how, query) = input.split_first().unwrap_or((&0, &[]));
    let transport = match how & 1 {
        0 => Transport::Udp,
        _ => Transport::Tcp,
    };
    let reply = respond(query, &*MODEL, transport, usize::from(how >> 1));
    match &reply {
        Reply::Message(message) => check_message(query, transport, message),
        Reply::Ignore => assert!(
            query.len() < reply::HEADER || query[2] & 0x80 != 0,
            "a query was ignored"
        ),
        // The target `response` goes on from here.
        Reply::Forward(_) | Reply::Chase(_) => {}
    }
    reply
}

fn check_message(query: &[u8], transport: Transport, octets: &[u8]) {
    let header = Message::from_slice(octets).expect("no header").header();
    if octets.len() == reply::HEADER {
        assert!(matches!(header.rcode(), Rcode::FORMERR | Rcode::NOTIMP));
        assert_eq!(octets[..2], query[..2], "another ID");
        assert!(header.qr() && octets[4..] == [0; 8]);
        return;
    }
    let reply = reply::check(query, transport, octets);
    reply::check_own(query, &reply);
    let is_answer = reply.message.opt_rcode().to_int() <= 3;
    assert_eq!(header.aa(), is_answer && header.rcode() != Rcode::FORMERR);
    assert!(transport == Transport::Udp || !header.tc(), "TC over TCP");
    if header.aa() && !header.tc() {
        assert_eq!(reply.answers.is_empty(), reply::has_soa(&reply));
    }
    if header.rcode() == Rcode::NXDOMAIN {
        assert!(reply.answers.is_empty());
    }
}
