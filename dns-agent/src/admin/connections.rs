//! Connections to the admin endpoints, with limits on their number, lifetime and request size.
//!
//! In a cluster the endpoints listen on all addresses of the node (deploy/kustomize/config.yaml),
//! so any pod can reach them. The limits keep one pod from using up the agent's memory or locking
//! out other clients.

use std::{
    collections::HashMap,
    convert::Infallible,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use axum::{Router, body::Body, extract::ConnectInfo};
use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinSet},
    time::{sleep, timeout},
};
use tower_service::Service as _;
use tracing::{debug, warn};

use super::{router, state::AdminState};

/// Maximum number of open connections from addresses other than loopback: from pods, from other
/// machines, and from this machine by another address of its own.
const MAX_REMOTE: usize = 64;
/// Maximum number of open connections from loopback addresses, counted separately so that probes
/// and `dns-agent status` get through.
const MAX_LOCAL: usize = 256;
/// Maximum size of a request's head, in bytes.
const MAX_HEAD: usize = 16 << 10;
/// The time within which a client must send a request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest lifetime of a connection.
const LIFETIME: Duration = Duration::from_secs(300);
/// The pause after accept(2) failed. While a resource, such as file descriptors, is exhausted, each
/// attempt fails at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves the endpoints until the future is dropped.
pub async fn serve(listener: TcpListener, admin_state: Arc<AdminState>) -> Infallible {
    let router = router(admin_state);
    let mut remote_slots = ConnectionSlots::new(MAX_REMOTE);
    let mut local_slots = ConnectionSlots::new(MAX_LOCAL);
    let mut connections = JoinSet::new();
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(
                    %error,
                    "can't accept a connection to the admin endpoints: probes and `dns-agent \
                     status` may fail; the agent retries after {ACCEPT_PAUSE:?}; \
                     if this repeats, raise the limit on open files"
                );
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let slots = if is_loopback_peer(peer) {
            &mut local_slots
        } else {
            &mut remote_slots
        };
        slots.make_room(peer.ip());
        let router = router.clone();
        let task = connections.spawn(async move {
            if timeout(LIFETIME, serve_connection(stream, peer, router))
                .await
                .is_err()
            {
                debug!(%peer, "a connection to the admin endpoints is closed after {LIFETIME:?}");
            }
        });
        slots.add(peer.ip(), task);
        // Forgets the tasks that have ended.
        while connections.try_join_next().is_some() {}
    }
}

/// Whether a peer has a loopback address.
pub(super) fn is_loopback_peer(peer: SocketAddr) -> bool {
    peer.ip().to_canonical().is_loopback()
}

async fn serve_connection(stream: TcpStream, peer: SocketAddr, router: Router) {
    let service = service_fn(move |request: Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(ConnectInfo(peer));
        router.clone().call(request)
    });
    let mut server = http1::Builder::new();
    server
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD);
    if let Err(error) = server.serve_connection(TokioIo::new(stream), service).await {
        debug!(%peer, %error, "a connection to the admin endpoints ended");
    }
}

/// The slots for connections, shared fairly among peers.
///
/// While slots are free, a peer may take any number. When no slot is free, a new connection
/// replaces an old one:
///
/// * the oldest connection of the peers with the most connections, if the new connection's peer has
///   no connection, or at least two fewer than they have;
/// * otherwise the oldest connection of the new connection's peer.
///
/// So one peer can't lock out another, and each of `max_open` peers can have a connection. Clients
/// that count as one peer can't lock out each other, because a new connection is always accepted.
struct ConnectionSlots {
    max_open: usize,
    /// The open connections, oldest first. Some may have ended.
    open: Vec<OpenConnection>,
}

/// An open connection.
struct OpenConnection {
    peer: PeerNetwork,
    task: AbortHandle,
}

/// The clients that count as one peer: an IPv4 address, the first 64 bits of an IPv6 address, or
/// the IPv6 loopback address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct PeerNetwork(IpAddr);

impl ConnectionSlots {
    fn new(max_open: usize) -> ConnectionSlots {
        ConnectionSlots {
            max_open,
            open: Vec::new(),
        }
    }

    /// Makes sure that a slot is free for a new connection of a peer, by aborting an old connection
    /// if necessary.
    fn make_room(&mut self, address: IpAddr) {
        self.open
            .retain(|connection| !connection.task.is_finished());
        if self.open.len() < self.max_open {
            return;
        }
        let mut counts: HashMap<PeerNetwork, usize> = HashMap::new();
        for connection in &self.open {
            *counts.entry(connection.peer).or_default() += 1;
        }
        let own = counts
            .get(&PeerNetwork::containing(address))
            .copied()
            .unwrap_or_default();
        let largest = counts.values().max().copied().unwrap_or_default();
        let may_be_replaced = |peer: PeerNetwork| {
            if own > 0 && largest <= own + 1 {
                peer == PeerNetwork::containing(address)
            } else {
                counts.get(&peer) == Some(&largest)
            }
        };
        let oldest = self
            .open
            .iter()
            .position(|connection| may_be_replaced(connection.peer));
        if let Some(oldest) = oldest {
            self.open.remove(oldest).task.abort();
        }
    }

    /// Puts a connection into a free slot.
    fn add(&mut self, address: IpAddr, task: AbortHandle) {
        let peer = PeerNetwork::containing(address);
        self.open.push(OpenConnection { peer, task });
    }
}

impl PeerNetwork {
    fn containing(address: IpAddr) -> PeerNetwork {
        const FIRST_64_BITS: u128 = u128::MAX << 64;
        match address.to_canonical() {
            IpAddr::V6(address) if !address.is_loopback() => {
                PeerNetwork(IpAddr::V6((address.to_bits() & FIRST_64_BITS).into()))
            }
            address => PeerNetwork(address),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    /// The number of slots of each peer after these peers have opened one connection each, in this
    /// order.
    fn shares(max_open: usize, peers: &[&str]) -> Vec<(PeerNetwork, usize)> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let mut tasks = JoinSet::new();
        let mut slots = ConnectionSlots::new(max_open);
        for peer in peers {
            let address = peer.parse().unwrap();
            slots.make_room(address);
            let task = tasks.spawn_on(pending::<()>(), runtime.handle());
            slots.add(address, task);
            assert!(slots.open.len() <= max_open);
        }
        let mut shares: Vec<(PeerNetwork, usize)> = Vec::new();
        for connection in &slots.open {
            match shares.iter_mut().find(|(peer, _)| *peer == connection.peer) {
                Some((_, count)) => *count += 1,
                None => shares.push((connection.peer, 1)),
            }
        }
        shares.sort_by_key(|(peer, _)| peer.0);
        shares
    }

    fn peer_count(peer: &str, count: usize) -> (PeerNetwork, usize) {
        (PeerNetwork::containing(peer.parse().unwrap()), count)
    }

    #[test]
    fn slots_are_shared_fairly() {
        let many = |peer: &'static str| vec![peer; 20];
        let (a, b, c) = ("10.0.0.1", "10.0.0.2", "10.0.0.3");
        assert_eq!(shares(8, &many(a)), [peer_count(a, 8)]);
        assert_eq!(
            shares(8, &[&many(a)[..], &[b]].concat()),
            [peer_count(a, 7), peer_count(b, 1)]
        );
        let both = [many(a), many(b)].concat();
        assert_eq!(shares(8, &both), [peer_count(a, 4), peer_count(b, 4)]);
        // `c` replaces a connection of `a`. Then `a` has only one fewer than `b`, so it replaces
        // its own connections.
        assert_eq!(
            shares(8, &[&both[..], &[c], &many(a)].concat()),
            [peer_count(a, 3), peer_count(b, 4), peer_count(c, 1)]
        );
        // Each peer has one connection. A new peer replaces the oldest connection; a peer with a
        // connection replaces its own.
        assert_eq!(shares(2, &[a, b, c]), [peer_count(b, 1), peer_count(c, 1)]);
        assert_eq!(
            shares(2, &[a, b, a, b]),
            [peer_count(a, 1), peer_count(b, 1)]
        );
    }

    #[test]
    fn a_peer_that_has_all_slots_replaces_its_oldest_connection() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let mut tasks = JoinSet::new();
        let mut slots = ConnectionSlots::new(2);
        let peer = "10.0.0.1".parse().unwrap();
        let mut spawn = || tasks.spawn_on(pending::<()>(), runtime.handle());
        let spawned = [spawn(), spawn(), spawn()];
        for task in &spawned {
            slots.make_room(peer);
            slots.add(peer, task.clone());
        }
        let kept: Vec<_> = slots
            .open
            .iter()
            .map(|connection| connection.task.id())
            .collect();
        assert_eq!(kept, [spawned[1].id(), spawned[2].id()]);
    }

    #[test]
    fn an_ipv6_network_is_one_peer() {
        let peers = [
            "2001:db8::1",
            "2001:db8::2",
            "2001:db8::3",
            "2001:db8:0:1::1",
        ];
        assert_eq!(
            shares(3, &peers),
            [peer_count("2001:db8::", 2), peer_count("2001:db8:0:1::", 1)]
        );
        assert_eq!(
            PeerNetwork::containing("::ffff:10.0.0.1".parse().unwrap()),
            peer_count("10.0.0.1", 1).0
        );
    }
}
