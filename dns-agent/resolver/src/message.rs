//! Decides what to do with a message from a client.
//!
//! [`respond`] is a pure function of its arguments: it does no I/O and reads no clock. If a query
//! needs an upstream, it returns an action that tells the caller to query one.

use domain::base::{Message, header::Flags, iana::OptRcode};
use zerohop_zone::{Answer, Name, Record, ZoneData, render};

use super::{
    compose::{self, ExtendedError},
    query::{Query, Transport, is_nxname},
};

/// What to do with a received message.
#[derive(Debug, Default)]
pub enum QueryAction {
    /// Send this reply.
    Send(Vec<u8>),
    /// The local data doesn't decide the answer: query an upstream and relay its response.
    Forward(Query),
    /// An alias leads to a target that the local data doesn't decide: query an upstream for the
    /// target.
    Chase(Chase),
    /// The message is a response, or shorter than a header: send nothing.
    #[default]
    Ignore,
}

/// The state of a query whose chain of CNAMEs is continued by an upstream.
#[derive(Debug)]
pub struct Chase {
    /// The client's query.
    pub query: Query,
    /// The records of the chain found so far, in order: CNAMEs, and what upstreams add to them,
    /// such as signatures.
    pub chain: Vec<Record>,
    /// The target of the last CNAME.
    pub target: Name,
    /// AA and RA of the reply. A SERVFAIL reply clears AA.
    pub(super) flags: Flags,
    /// Number of upstream queries sent for the client's query so far.
    pub(super) upstream_queries: usize,
    /// What a SERVFAIL reply says about the last upstream query.
    pub(super) error: Option<ExtendedError>,
}

/// Decides what to do with a message from a client.
///
/// If the answer has several addresses, `rotation` modulo their number selects the first one. A
/// different value for each query spreads the load.
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
        return QueryAction::Send(query.error_reply(rcode));
    }
    if is_nxname(query.qtype) {
        let error = Some(ExtendedError::InvalidQueryType);
        return QueryAction::Send(query.error_reply_about(OptRcode::FORMERR, error));
    }
    respond_to_query(query, model, rotation)
}

/// Decides what to do with a query that is not refused. `rotation` is as in [`respond`].
pub(super) fn respond_to_query(query: Query, model: &dyn ZoneData, rotation: usize) -> QueryAction {
    let is_dnssec_ok = query.edns.is_some_and(|edns| edns.dnssec_ok);
    if is_dnssec_ok && model.passes_dnssec_ok(&query.name) {
        return QueryAction::Forward(query);
    }
    let answer = model.answer_within(&query.name, query.qtype, query.window(rotation));
    let rcode = match answer {
        Answer::Data { .. } | Answer::NoData { .. } | Answer::NoDataAtName { .. } => {
            OptRcode::NOERROR
        }
        Answer::NxDomain { .. } => OptRcode::NXDOMAIN,
        Answer::Alias { chain, target } => {
            return Chase::new(query, chain, target).start(model, rotation);
        }
        Answer::NotYetKnown => return QueryAction::Send(query.error_reply(OptRcode::SERVFAIL)),
        Answer::NotAuthoritative => return QueryAction::Forward(query),
    };
    let sections = render(&query.name, &answer, model.zones(), rotation);
    let flags = Flags {
        aa: true,
        ..Flags::default()
    };
    QueryAction::Send(query.reply(rcode, flags, &sections, None))
}
