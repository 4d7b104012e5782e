//! Turns responses of upstreams into replies to clients, and checks the replies.

use std::{net::Ipv4Addr, sync::LazyLock};

use domain::{
    base::{
        Message, Name as WireName, ParsedRecord, ToName,
        iana::{OptRcode, Rtype},
    },
    rdata::A,
};
use zerohop_contract::packet::QueryPacket;
use zerohop_resolver::{
    bailiwick::LocalNames,
    message::{QueryAction, respond},
    query::{Query, Transport},
    response::{Response, UpstreamQuery},
};
use zerohop_zone::{Answer, Name, Rdata, ZoneData};

use super::{input::FuzzInput, model::MODEL, reply};

/// What became of an upstream's message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ResponseOutcome {
    /// It was rejected, because it is malformed or doesn't answer the upstream query.
    Rejected,
    /// The client gets a reply made from it, or SERVFAIL.
    Relayed,
    /// It ends the chase of a local alias, possibly with SERVFAIL.
    Completed,
    /// It leads to a name that needs another upstream query.
    NeedsQuery,
}

/// Queries that need an upstream: for names outside the model's zones, and for an alias whose
/// target is outside. Some have upper-case letters, because the reply must repeat the question
/// unchanged.
static QUERIES: LazyLock<[QueryPacket; 4]> = LazyLock::new(|| {
    [
        ("WWW.example.com", 1),
        ("away.shop.svc.cluster.local", 1),
        ("away.SHOP.svc.cluster.local", 28),
        ("example.com", 16),
    ]
    .map(question)
});

/// Turns an upstream's message into the client's reply, and checks the reply.
///
/// The bits of the input's first byte:
///
/// * Bits 0 and 1 are the number of the client's query in `QUERIES`.
/// * If bit 2 is set, the query has EDNS, and bit 7 is its DO bit.
/// * If bit 3 is set, the client uses TCP.
/// * If bit 4 is set, all bytes of the upstream's message come from the input. Otherwise
///   `build_response` makes the message.
///
/// # Panics
///
/// When the reply breaks a rule of [`reply::check`] or of this target.
pub fn check(input: &[u8]) -> ResponseOutcome {
    let mut input = FuzzInput(input);
    let flags = input.byte();
    let mut query = QUERIES[usize::from(flags % 4)].clone();
    query.id = input.word();
    if flags & 4 != 0 {
        query = query.with_edns(input.word(), u32::from(flags >> 7), &[]);
    }
    let transport = transport(flags, 8);
    let message = query.message();
    let action = respond(&message, &*MODEL, transport, 0);
    let upstream_query = match &action {
        QueryAction::Forward(query) => UpstreamQuery::forwarding(query),
        QueryAction::Chase(chase) => UpstreamQuery::chasing(chase),
        other => panic!("no upstream is queried: {other:?}"),
    }
    .with_id(input.word());

    let bytes = if flags & 16 == 0 {
        build_response(&upstream_query, &mut input)
    } else {
        input.0.to_vec()
    };
    let Some(response) = Response::parse(&bytes, &upstream_query) else {
        return ResponseOutcome::Rejected;
    };
    let local_names = LocalNames {
        data: &*MODEL,
        domains: &[],
    };
    let (action, outcome) = match action {
        QueryAction::Forward(query) => (
            query.relay(&response, &local_names, 0),
            ResponseOutcome::Relayed,
        ),
        QueryAction::Chase(chase) => (
            chase.complete(Some(&response), &local_names, 0),
            ResponseOutcome::Completed,
        ),
        // Other actions query no upstream, see above.
        other => unreachable!("{other:?}"),
    };
    let bytes = match action {
        QueryAction::Send(bytes) => bytes,
        QueryAction::Chase(_) => return ResponseOutcome::NeedsQuery,
        other => panic!("the resolver must reply or query again, not {other:?}"),
    };
    let reply = reply::check(&message, transport, &bytes);
    check_addresses(&reply);
    if outcome == ResponseOutcome::Completed {
        check_completed_alias(&message, &reply);
    }
    outcome
}

/// A query for this name and type. Only the message is used, so the addresses do not matter.
pub(super) fn question((name, rtype): (&str, u16)) -> QueryPacket {
    let any = Ipv4Addr::UNSPECIFIED.into();
    QueryPacket::new(any, any, name, rtype)
}

/// The transport that a bit of an input's flags selects.
pub(super) fn transport(flags: u8, bit: u8) -> Transport {
    match flags & bit {
        0 => Transport::Udp,
        _ => Transport::Tcp,
    }
}

/// The query that a message is forwarded as.
pub(super) fn forwarded(message: &[u8], transport: Transport, data: &dyn ZoneData) -> Query {
    match respond(message, data, transport, 0) {
        QueryAction::Forward(query) => query,
        other => panic!("no upstream is queried: {other:?}"),
    }
}

/// Checks that the local alias comes first, and that the authority section has only SOA records.
/// With SERVFAIL, AA must be clear and the authority section empty. Otherwise AA must be set.
fn check_completed_alias(query: &[u8], reply: &reply::ParsedReply<'_>) {
    reply::check_local_reply(query, reply);
    let first = reply.answers.first().map(ParsedRecord::rtype);
    assert_eq!(
        first,
        Some(Rtype::CNAME),
        "the first answer is not the alias"
    );
    let failed = reply.message.opt_rcode() == OptRcode::SERVFAIL;
    assert_eq!(
        reply.message.header().aa(),
        !failed,
        "AA must be set, except with SERVFAIL"
    );
    let is_soa = |record: &ParsedRecord<'_, [u8]>| record.rtype() == Rtype::SOA;
    assert!(
        reply.authorities.iter().all(is_soa),
        "an authority record is not a SOA record"
    );
    assert!(
        !failed || reply.authorities.is_empty(),
        "SERVFAIL with authority records"
    );
}

/// Checks that each IPv4 address of a name in a local zone is in the model.
fn check_addresses(reply: &reply::ParsedReply<'_>) {
    for record in reply.message.iter() {
        let (record, _) = record.expect("`reply::check` has parsed every record");
        let owner: WireName<Vec<u8>> = record.owner().to_name();
        let owner = Name::from_wire(owner.as_slice()).expect("the owner is not a name");
        let is_local = MODEL.zone_of(&owner).is_some();
        let Ok(Some(address)) = record.to_record::<A>() else {
            continue;
        };
        let data = Rdata::A(address.data().addr());
        let has_data = |answer: Answer| match answer {
            Answer::Data { answer, .. } => answer.iter().any(|known| known.data == data),
            _ => false,
        };
        assert!(
            !is_local || has_data(MODEL.answer(&owner, Rtype::A)),
            "{owner} is local, but the model has no {data}"
        );
    }
}

/// Builds a response with the ID and the question of `upstream_query`, and the opcode QUERY. The
/// flags, the RCODE, the counts of records (at most 31 in each section) and the records come from
/// the input.
pub(super) fn build_response(upstream_query: &[u8], input: &mut FuzzInput<'_>) -> Vec<u8> {
    let sent = Message::from_slice(upstream_query).expect("the upstream query has no header");
    let mut question = sent.question();
    question.next();
    let mut bytes = upstream_query[..question.pos()].to_vec();
    bytes[2] = 0x80 | input.byte() & 0x07;
    bytes[3] = input.byte();
    for count in bytes[6..12].chunks_mut(2) {
        count.copy_from_slice(&u16::from(input.byte() % 32).to_be_bytes());
    }
    bytes.extend_from_slice(input.0);
    bytes
}
