//! Answers messages as the user plane does, and checks the replies.

use domain::base::{
    Message,
    iana::{OptRcode, Rcode},
};
use zerohop_resolver::{
    message::{QueryAction, respond},
    query::Transport,
};

use super::{model::MODEL, reply};

/// Answers the input's message. Bit 0 of the first byte selects the transport, and the other bits
/// are the rotation.
///
/// # Panics
///
/// When a query is ignored, or the reply breaks a rule of [`reply::check`],
/// [`reply::check_local_reply`] or this module.
pub fn check(input: &[u8]) -> QueryAction {
    let (flags, query) = input.split_first().unwrap_or((&0, &[]));
    let transport = match flags & 1 {
        0 => Transport::Udp,
        _ => Transport::Tcp,
    };
    let action = respond(query, &*MODEL, transport, usize::from(flags >> 1));
    match &action {
        QueryAction::Send(message) => check_message(query, transport, message),
        QueryAction::Ignore => assert!(
            query.len() < reply::HEADER || query[2] & 0x80 != 0,
            "a query was ignored"
        ),
        // The fuzz target `response` covers these.
        QueryAction::Forward(_) | QueryAction::Chase(_) => {}
    }
    action
}

fn check_message(query: &[u8], transport: Transport, bytes: &[u8]) {
    let header = Message::from_slice(bytes)
        .expect("a reply without a header")
        .header();
    if bytes.len() == reply::HEADER {
        assert!(
            matches!(header.rcode(), Rcode::FORMERR | Rcode::NOTIMP),
            "a reply without a question has the RCODE {}",
            header.rcode()
        );
        assert_eq!(bytes[..2], query[..2], "the reply has another ID");
        assert!(header.qr(), "a reply without QR");
        assert_eq!(bytes[4..], [0; 8], "only the header, but a count is not 0");
        return;
    }
    let reply = reply::check(query, transport, bytes);
    reply::check_local_reply(query, &reply);
    // `opt_rcode` includes the upper bits of the RCODE, which are in the OPT record.
    let rcode = reply.message.opt_rcode();
    let is_answer = [OptRcode::NOERROR, OptRcode::NXDOMAIN].contains(&rcode);
    assert_eq!(header.aa(), is_answer, "AA is wrong for {rcode}");
    assert!(
        transport == Transport::Udp || !header.tc(),
        "TC is set over TCP"
    );
    if header.aa() && !header.tc() {
        assert_eq!(
            reply.answers.is_empty(),
            reply::has_soa(&reply),
            "a reply must have either answers or a SOA record"
        );
    }
    if header.rcode() == Rcode::NXDOMAIN {
        assert!(reply.answers.is_empty(), "NXDOMAIN with answers");
    }
}
