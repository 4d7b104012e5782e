//! Connections to the admin endpoints: how many, for how long, and how large a request may be.
//!
//! On every node a pod can reach them, and must not be able to use up the agent's memory.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, body::Body, extract::ConnectInfo};
use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
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
    let outside = Arc::new(Semaphore::new(FROM_OUTSIDE));
    let here = Arc::new(Semaphore::new(FROM_HERE));
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
        let permits = match is_here(peer) {
            true => &here,
            false => &outside,
        };
        let Ok(permit) = permits.clone().try_acquire_owned() else {
            debug!(%peer, "too many connections to the admin endpoints");
            continue;
        };
        let router = router.clone();
        connections.spawn(async move {
            if timeout(LIFETIME, serve_connection(stream, peer, router))
                .await
                .is_err()
            {
                debug!(%peer, "a connection to the admin endpoints lasted too long");
            }
            drop(permit);
        });
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
