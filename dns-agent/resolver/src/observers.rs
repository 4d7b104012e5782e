//! What observes the queries of clients: dnstap, and the log of queries.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{
    counters::ResolverCounters,
    dnstap::{Dnstap, DnstapSettings, QueryPath, ResolverSide, TappedQuery},
    query::{HEADER_LEN, Transport},
    query_log::{LoggedQuery, QueryLog, QueryLogSettings},
    traffic::{ConnectionProtocol, QueryLabels, ReplySource},
};

/// QR in the third byte of a message's header.
const IS_RESPONSE: u8 = 0x80;
/// CD in the fourth byte of a message's header.
const CHECKING_DISABLED: u8 = 0x10;

/// Who observes queries. By default, none does.
#[derive(Clone, Debug, Default)]
pub struct ObserverSettings {
    /// The collector of DNS messages. `None`: there is none.
    pub dnstap: Option<DnstapSettings>,
    /// The log of queries. `None`: no query is logged.
    pub query_log: Option<QueryLogSettings>,
}

/// The observers of queries. At least one is there.
#[derive(Debug)]
pub(super) struct Observers {
    dnstap: Option<Arc<Dnstap>>,
    query_log: Option<Arc<QueryLog>>,
}

/// The addresses of a client and of this server.
#[derive(Clone, Copy, Debug)]
pub(super) struct ClientPath {
    pub(super) transport: Transport,
    pub(super) client: SocketAddr,
    pub(super) server: SocketAddr,
}

/// A query that is observed, and that has no reply yet.
#[derive(Debug)]
pub(super) struct ObservedQuery {
    path: ClientPath,
    arrived: SystemTime,
    is_checking_disabled: bool,
    tapped: Option<TappedQuery>,
    query_log: Option<Arc<QueryLog>>,
}

/// A reply to a query that is observed.
#[derive(Debug)]
pub(super) struct ObservedReply<'a> {
    /// The labels of the query.
    pub(super) labels: &'a QueryLabels,
    pub(super) source: ReplySource,
    /// As in [`LoggedQuery`].
    pub(super) upstream: Option<SocketAddr>,
    pub(super) message: &'a [u8],
    /// The time from the query's arrival until now.
    pub(super) took: Duration,
}

impl Observers {
    /// `None`: there is no observer.
    pub(super) fn new(
        settings: &ObserverSettings,
        counters: &Arc<ResolverCounters>,
    ) -> Option<Observers> {
        let ObserverSettings { dnstap, query_log } = settings;
        if dnstap.is_none() && query_log.is_none() {
            return None;
        }
        let start_tap = |settings| Arc::new(Dnstap::new(settings, counters.clone()));
        let start_log = |settings: &QueryLogSettings| {
            Arc::new(QueryLog::new(settings.clone(), counters.clone()))
        };
        Some(Observers {
            dnstap: dnstap.as_ref().map(start_tap),
            query_log: query_log.as_ref().map(start_log),
        })
    }

    pub(super) fn dnstap(&self) -> Option<&Arc<Dnstap>> {
        self.dnstap.as_ref()
    }

    /// Observes a message that has just arrived. `None`: it is not a query.
    pub(super) fn receive(&self, message: &[u8], path: ClientPath) -> Option<Box<ObservedQuery>> {
        if message.len() < HEADER_LEN || message[2] & IS_RESPONSE != 0 {
            return None;
        }
        let arrived = SystemTime::now();
        let record = |dnstap| {
            let side = ResolverSide::Client;
            TappedQuery::record(dnstap, side, path.into(), arrived, message)
        };
        let tapped = self.dnstap.as_ref().map(record);
        Some(Box::new(ObservedQuery {
            path,
            arrived,
            is_checking_disabled: message[3] & CHECKING_DISABLED != 0,
            tapped,
            query_log: self.query_log.clone(),
        }))
    }
}

impl ObservedQuery {
    /// Observes the reply.
    pub(super) fn finish(&self, reply: &ObservedReply<'_>) {
        if let Some(tapped) = &self.tapped {
            tapped.record_response(self.arrived + reply.took, reply.message);
        }
        if let Some(query_log) = &self.query_log {
            query_log.log(&LoggedQuery {
                client: self.path.client,
                transport: self.path.transport,
                labels: reply.labels,
                is_checking_disabled: self.is_checking_disabled,
                reply: reply.message,
                source: reply.source,
                upstream: reply.upstream,
                took: reply.took,
            });
        }
    }
}

impl From<ClientPath> for QueryPath {
    fn from(path: ClientPath) -> QueryPath {
        QueryPath {
            protocol: match path.transport {
                Transport::Udp => ConnectionProtocol::Udp,
                Transport::Tcp => ConnectionProtocol::Tcp,
            },
            initiator: path.client,
            responder: path.server,
        }
    }
}
