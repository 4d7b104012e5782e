//! What upstreams send.

use std::{net::Ipv4Addr, sync::LazyLock};

use dns_agent::{
    resolver::{
        bailiwick::OwnNames,
        message::{Reply, Transport, respond},
        response::{Response, UpstreamQuery},
    },
    zone::{Answer, Name, Rdata, ZoneData},
};
use domain::{
    base::{
        Message, Name as WireName, ParsedRecord, ToName,
        iana::{OptRcode, Rtype},
    },
    rdata::A,
};
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
    /// It leads to a name that is asked for next.
    LedOn,
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
    let own = OwnNames {
        data: &*MODEL,
        domains: &[],
    };
    let (reply, ended) = match reply {
        Reply::Forward(query) => (query.relay(&response, &own, 0), Ended::Relayed),
        Reply::Chase(chase) => (chase.complete(Some(&response), &own, 0), Ended::Completed),
        _ => return Ended::Unheard,
    };
    let octets = match reply {
        Reply::Message(octets) => octets,
        Reply::Chase(_) => return Ended::LedOn,
        other => panic!("no reply but {other:?}"),
    };
    let reply = reply::check(&message, transport, &octets);
    check_addresses(&reply);
    if ended == Ended::Completed {
        check_completed(&message, &reply);
    }
    ended
}

/// An alias of ours comes first, and only what an upstream knows is said with authority.
fn check_completed(query: &[u8], reply: &reply::Reply<'_>) {
    reply::check_own(query, reply);
    let first = reply.answers.first().map(ParsedRecord::rtype);
    assert_eq!(first, Some(Rtype::CNAME));
    let failed = reply.message.opt_rcode() == OptRcode::SERVFAIL;
    assert_eq!(reply.message.header().aa(), !failed);
    let is_soa = |record: &ParsedRecord<'_, [u8]>| record.rtype() == Rtype::SOA;
    assert!(reply.authorities.iter().all(is_soa));
    assert!(!failed || reply.authorities.is_empty());
}

/// Addresses of names in our zones are ours.
fn check_addresses(reply: &reply::Reply<'_>) {
    for record in reply.message.iter() {
        let (record, _) = record.expect("walked over before");
        let owner: WireName<Vec<u8>> = record.owner().to_name();
        let owner = Name::from_wire(owner.as_slice()).expect("a name");
        let is_ours = MODEL.zone_of(&owner).is_some();
        let Ok(Some(address)) = record.to_record::<A>() else {
            continue;
        };
        let data = Rdata::A(address.data().addr());
        let knows = |answer: Answer| match answer {
            Answer::Data { answer, .. } => answer.iter().any(|known| known.data == data),
            _ => false,
        };
        assert!(
            !is_ours || knows(MODEL.answer(&owner, Rtype::A)),
            "{owner} has {data}"
        );
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
