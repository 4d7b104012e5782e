//! What observes the queries of clients: dnstap.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{
    counters::ResolverCounters,
    dnstap::{Dnstap, DnstapSettings, QueryPath, ResolverSide, TappedQuery},
    query::{HEADER_LEN, Transport},
    traffic::ConnectionProtocol,
};

/// QR in the third byte of a message's header.
const IS_RESPONSE: u8 = 0x80;

/// Who observes queries. By default, none does.
#[derive(Clone, Debug, Default)]
pub struct ObserverSettings {
    /// The collector of DNS messages. `None`: there is none.
    pub dnstap: Option<DnstapSettings>,
}

/// The observers of queries. At least one is there.
#[derive(Debug)]
pub(super) struct Observers {
    dnstap: Option<Arc<Dnstap>>,
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
    arrived: SystemTime,
    tapped: Option<TappedQuery>,
}

impl Observers {
    /// `None`: there is no observer.
    pub(super) fn new(
        settings: &ObserverSettings,
        counters: &Arc<ResolverCounters>,
    ) -> Option<Observers> {
        let dnstap = settings.dnstap.as_ref()?;
        Some(Observers {
            dnstap: Some(Arc::new(Dnstap::new(dnstap, counters.clone()))),
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
        Some(Box::new(ObservedQuery { arrived, tapped }))
    }
}

impl ObservedQuery {
    /// Observes the reply, which was made in this time.
    pub(super) fn finish(&self, reply: &[u8], took: Duration) {
        if let Some(tapped) = &self.tapped {
            tapped.record_response(self.arrived + took, reply);
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
