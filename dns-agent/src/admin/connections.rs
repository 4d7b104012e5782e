//! Connections to the admin endpoints: how many, for how long, and how large a request may be.
//!
//! On every node a pod can reach them, and must not be able to use up the agent's memory, nor to
//! keep others out.

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

use super::{lookup::Known, router};

/// Connections from other machines and from pods that are open at once.
const FROM_OUTSIDE: usize = 64;
/// Connections from this machine that are open at once: probes and `dns-agent status` get through.
const FROM_HERE: usize = 256;
/// Octets of a request's head.
const MAX_HEAD: usize = 16 << 10;
/// How long a client may take to send it.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection lasts, whatever it is used for.
const LIFETIME: Duration = Duration::from_secs(300);
/// How long to wait after the system refused to accept, for it is out of something.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves the endpoints until dropped.
pub async fn serve(listener: TcpListener, known: Arc<Known>) -> Infallible {
    let router = router(known);
    let mut outside = Places::new(FROM_OUTSIDE);
    let mut here = Places::new(FROM_HERE);
    let mut connections = JoinSet::new();
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, "can't accept a connection to the admin endpoints");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let places = match is_here(peer) {
            true => &mut here,
            false => &mut outside,
        };
        places.make_room(peer.ip());
        let router = router.clone();
        let task = connections.spawn(async move {
            if timeout(LIFETIME, serve_connection(stream, peer, router))
                .await
                .is_err()
            {
                debug!(%peer, "a connection to the admin endpoints lasted too long");
            }
        });
        places.take(peer.ip(), task);
        // Those that ended are forgotten.
        while connections.try_join_next().is_some() {}
    }
}

/// Whether a peer is this machine.
pub(super) fn is_here(peer: SocketAddr) -> bool {
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

/// The places for connections, shared fairly among the peers that want some.
///
/// While there is room, a peer may have as many as it likes. When there is none, a peer takes the
/// oldest place of the peer that has the most, if it has none itself, or if that peer has more than
/// one more; or else the oldest of its own. So one peer keeps no other out, as many peers as there are
/// places have one each, and of several clients that count as one peer a new one gets in.
struct Places {
    most: usize,
    /// The oldest first.
    taken: Vec<Place>,
}

/// An open connection.
struct Place {
    peer: Peer,
    task: AbortHandle,
}

/// Who is counted as one: an IPv4 address, or the first 64 bits of an IPv6 address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Peer(IpAddr);

impl Places {
    fn new(most: usize) -> Places {
        Places {
            most,
            taken: Vec::new(),
        }
    }

    /// Makes room for one more connection of a peer, by ending another one if it must.
    fn make_room(&mut self, address: IpAddr) {
        self.taken.retain(|place| !place.task.is_finished());
        if self.taken.len() < self.most {
            return;
        }
        let mut counts: HashMap<Peer, usize> = HashMap::new();
        for place in &self.taken {
            *counts.entry(place.peer).or_default() += 1;
        }
        let own = counts.get(&Peer::of(address)).copied().unwrap_or_default();
        let largest = counts.values().max().copied().unwrap_or_default();
        let loses = |peer: Peer| match own > 0 && largest <= own + 1 {
            true => peer == Peer::of(address),
            false => counts.get(&peer) == Some(&largest),
        };
        let oldest = self.taken.iter().position(|place| loses(place.peer));
        if let Some(oldest) = oldest {
            self.taken.remove(oldest).task.abort();
        }
    }

    /// Notes a connection for which there is room.
    fn take(&mut self, address: IpAddr, task: AbortHandle) {
        let peer = Peer::of(address);
        self.taken.push(Place { peer, task });
    }
}

impl Peer {
    fn of(address: IpAddr) -> Peer {
        const FIRST_64_BITS: u128 = u128::MAX << 64;
        match address.to_canonical() {
            IpAddr::V6(address) if !address.is_loopback() => {
                Peer(IpAddr::V6((address.to_bits() & FIRST_64_BITS).into()))
            }
            address => Peer(address),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    /// Who has places, and how many, after these peers asked for one each, in order.
    fn shares(most: usize, asking: &[&str]) -> Vec<(Peer, usize)> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let mut tasks = JoinSet::new();
        let mut places = Places::new(most);
        for peer in asking {
            let address = peer.parse().unwrap();
            places.make_room(address);
            let task = tasks.spawn_on(pending::<()>(), runtime.handle());
            places.take(address, task);
            assert!(places.taken.len() <= most);
        }
        let mut shares: Vec<(Peer, usize)> = Vec::new();
        for place in &places.taken {
            match shares.iter_mut().find(|(peer, _)| *peer == place.peer) {
                Some((_, count)) => *count += 1,
                None => shares.push((place.peer, 1)),
            }
        }
        shares.sort_by_key(|(peer, _)| peer.0);
        shares
    }

    fn of(peer: &str, count: usize) -> (Peer, usize) {
        (Peer::of(peer.parse().unwrap()), count)
    }

    #[test]
    fn places_are_shared() {
        let many = |peer: &'static str| vec![peer; 20];
        let (a, b, c) = ("10.0.0.1", "10.0.0.2", "10.0.0.3");
        assert_eq!(shares(8, &many(a)), [of(a, 8)]);
        assert_eq!(
            shares(8, &[&many(a)[..], &[b]].concat()),
            [of(a, 7), of(b, 1)]
        );
        let both = [many(a), many(b)].concat();
        assert_eq!(shares(8, &both), [of(a, 4), of(b, 4)]);
        assert_eq!(
            shares(8, &[&both[..], &[c], &many(a)].concat()),
            [of(a, 3), of(b, 4), of(c, 1)]
        );
        // Each has one: who comes anew takes the oldest, and nobody takes another one.
        assert_eq!(shares(2, &[a, b, c]), [of(b, 1), of(c, 1)]);
        assert_eq!(shares(2, &[a, b, a, b]), [of(a, 1), of(b, 1)]);
    }

    #[test]
    fn a_peer_that_has_all_places_gets_another_one_for_its_oldest() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let mut tasks = JoinSet::new();
        let mut places = Places::new(2);
        let peer = "10.0.0.1".parse().unwrap();
        let mut spawn = || tasks.spawn_on(pending::<()>(), runtime.handle());
        let spawned = [spawn(), spawn(), spawn()];
        for task in &spawned {
            places.make_room(peer);
            places.take(peer, task.clone());
        }
        let kept: Vec<_> = places.taken.iter().map(|place| place.task.id()).collect();
        assert_eq!(kept, [spawned[1].id(), spawned[2].id()]);
    }

    #[test]
    fn an_ipv6_network_is_one_peer() {
        let asking = [
            "2001:db8::1",
            "2001:db8::2",
            "2001:db8::3",
            "2001:db8:0:1::1",
        ];
        assert_eq!(
            shares(3, &asking),
            [of("2001:db8::", 2), of("2001:db8:0:1::", 1)]
        );
        assert_eq!(
            Peer::of("::ffff:10.0.0.1".parse().unwrap()),
            of("10.0.0.1", 1).0
        );
    }
}
