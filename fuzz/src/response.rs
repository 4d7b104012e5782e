//! What upstreams send.

use std::{net::Ipv4Addr, sync::LazyLock};

use dns_agent::resolver::{
    message::{Reply, Transport, respond},
    response::{Response, UpstreamQuery},
};
use domain::base::{Message, ParsedRecord, iana::Rtype};
use zerohop_tests::packet::Query;

use super::{model::MODEL, reader::Reader, reply};

/// How an upstream's message ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ended {
    /// It is not the answer to what was asked.
    Unheard,
    /// The client got it as it was.
    Relayed,
    /// The client got an alias of ours with what it says.
    Completed,
}

/// Queries that need an upstream: a name that is not ours, and an alias.
static QUERIES: LazyLock<[Query; 4]> = LazyLock::new(|| {
    let any = Ipv4Addr::UNSPECIFIED.into();
    [
        ("WWW.example.com", 1),
        ("away.shop.svc.cluster.local", 1),
        ("away.SHOP.svc.cluster.local", 28),
        ("example.com", 16),
    ]
    .map(|(name, rtype)| Query::new(any, any, name, rtype))
});

/// Makes a client's reply of an upstream's message.
///
/// # Panics
///
/// When the reply is not what it must be.
pub fn check(input: &[u8]) -> Ended {
    let mut input = Reader(input);
    let how = input.octet();
    let mut query = QUERIES[usize::from(how % 4)].clone();
    query.id = input.word();
    if how & 4 != 0 {
        query = query.with_edns(input.word(), u32::from(how >> 7), &[]);
    }
    let transport = match how & 8 {
        0 => Transport::Udp,
        _ => Transport::Tcp,
    };
    let message = query.message();
    let reply = respond(&message, &*MODEL, transport, 0);
    let asked = match &reply {
        Reply::Forward(query) => UpstreamQuery::forwarding(query),
        Reply::Chase(chase) => UpstreamQuery::chasing(chase),
        other => panic!("no upstream is asked: {other:?}"),
    }
    .with_id(input.word());

    let octets = if how & 16 == 0 {
        answer(&asked, &mut input)
    } else {
        input.0.to_vec()
    };
    let Some(response) = Response::parse(&octets, &asked) else {
        return Ended::Unheard;
    };
    match reply {
        Reply::Forward(query) => {
            reply::check(&message, transport, &query.relay(response));
            Ended::Relayed
        }
        Reply::Chase(chase) => {
            let octets = chase.complete(Some(&response), &*MODEL, 0);
            let reply = reply::check(&message, transport, &octets);
            reply::check_own(&message, &reply);
            let first = reply.answers.first().map(ParsedRecord::rtype);
            assert_eq!(first, Some(Rtype::CNAME));
            assert!(reply.authorities.is_empty());
            Ended::Completed
        }
        _ => Ended::Unheard,
    }
}

/// The question, answered with the header's other fields and the records of the input.
fn answer(asked: &[u8], input: &mut Reader<'_>) -> Vec<u8> {
    let sent = Message::from_slice(asked).expect("what was asked");
    let mut question = sent.question();
    question.next();
    let mut octets = asked[..question.pos()].to_vec();
    octets[2] = 0x80 | input.octet() & 0x07;
    octets[3] = input.octet();
    for count in octets[6..12].chunks_mut(2) {
        count.copy_from_slice(&u16::from(input.octet() % 32).to_be_bytes());
    }
    octets.extend_from_slice(input.0);
    octets
}
