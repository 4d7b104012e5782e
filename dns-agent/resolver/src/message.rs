//! Decides what to do with a message from a client.
//!
//! [`respond`] makes the whole decision. It is a pure function of the query's bytes and the model,
//! without sockets or time. A query that needs an upstream is returned as an action for the caller.

use domain::base::{Message, iana::OptRcode};
use zerohop_zone::{Answer, Name, Record, ZoneData, render};

use super::{
    compose,
    header::AUTHORITATIVE,
    query::{Query, Transport},
};

/// What to do with a received message.
#[derive(Debug)]
pub enum QueryAction {
    /// Send this reply.
    Send(Vec<u8>),
    /// The name is in no local zone: query an upstream and relay its response.
    Forward(Query),
    /// An alias leads out of the local zones: query an upstream for its target.
    Chase(Chase),
    /// The message is not a query: send nothing.
    Ignore,
}

/// An alias whose target is resolved by an upstream.
#[derive(Debug)]
pub struct Chase {
    /// The client's query.
    pub query: Query,
    /// The CNAME records found so far, in order.
    pub chain: Vec<Record>,
    /// The target of the last CNAME.
    pub target: Name,
    /// Flags of the reply's header.
    pub(super) flags: u16,
    /// Number of upstream queries sent for the client's query so far.
    pub(super) upstream_queries: usize,
}

/// Decides what to do with a message from a client.
///
/// `rotation` selects the first of several addresses, modulo their number. A different value for
/// each query spreads the load.
pub fn respond(
    bytes: &[u8],
    model: &dyn ZoneData,
    transport: Transport,
    rotation: usize,
) -> QueryAction {
    let Ok(message) = Message::from_slice(bytes) else {
        return QueryAction::Ignore;
    };
    if message.header().qr() {
        return QueryAction::Ignore;
    }
    let query = match Query::parse(message, transport) {
        Ok(query) => query,
        Err(rcode) => return QueryAction::Send(compose::header_only(message.header(), rcode)),
    };
    if let Some(rcode) = query.refusal_code() {
        return QueryAction::Send(query.error(rcode));
    }

    let answer = model.answer(&query.name, query.qtype);
    let rcode = match answer {
        Answer::Data { .. } | Answer::NoData { .. } => OptRcode::NOERROR,
        Answer::NxDomain { .. } => OptRcode::NXDOMAIN,
        Answer::Alias { chain, target } => {
            return QueryAction::Chase(Chase::new(query, chain, target));
        }
        Answer::NotYetKnown => return QueryAction::Send(query.error(OptRcode::SERVFAIL)),
        Answer::NotAuthoritative => return QueryAction::Forward(query),
    };
    let sections = render(&query.name, &answer, model.zones(), rotation);
    QueryAction::Send(query.reply(rcode, AUTHORITATIVE, &sections))
}
