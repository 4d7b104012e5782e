//! The admin endpoints: is the agent alive, is it ready, what is it doing.
//!
//! [`status`] is what there is to know, [`lookup`] what there is to know about one
//! question, [`dump`] every record; [`client`] asks a running agent for them.

pub mod client;
mod dump;
pub mod lookup;
pub mod metrics;
pub mod status;

use std::{io, net::SocketAddr, sync::Arc};

use axum::{
    Json, Router,
    extract::{ConnectInfo, Path, State},
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::{
    net::TcpListener,
    task::{JoinError, spawn_blocking},
};

use self::{lookup::Known, status::Board};
use crate::zone::{Name, Rtype};

/// Serves the endpoints until dropped.
///
/// # Errors
/// When the listener fails for good.
pub async fn serve(listener: TcpListener, known: Arc<Known>) -> io::Result<()> {
    let service = router(known).into_make_service_with_connect_info::<SocketAddr>();
    axum::serve(listener, service).await
}

fn router(known: Arc<Known>) -> Router {
    let board = known.board.clone();
    let questions = Router::new()
        .route("/lookup/{name}/{type}", get(lookup))
        .route("/dump", get(dump_all))
        .route("/dump/{zone}", get(dump_zone))
        .route("/metrics", get(measured))
        .with_state(known);
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/status", get(status))
        .with_state(board)
        .merge(questions)
}

/// The process is alive and its runtime turns.
async fn healthz() -> &'static str {
    "ok\n"
}

/// Everything asked for is in place.
async fn readyz(State(board): State<Arc<Board>>) -> Response {
    let missing = board.missing();
    if missing.is_empty() {
        return "ready\n".into_response();
    }
    let body: String = missing
        .iter()
        .map(|part| format!("missing: {part}\n"))
        .collect();
    (StatusCode::SERVICE_UNAVAILABLE, body).into_response()
}

/// Everything known, for this machine's own eyes: it names objects and hosts.
async fn status(
    State(board): State<Arc<Board>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
) -> Response {
    if !is_local(peer) {
        return for_local_peers();
    }
    // Reading the kernel's counters takes a lock that the writer may hold for a while.
    match spawn_blocking(move || board.read()).await {
        Ok(status) => Json(status).into_response(),
        Err(error) => failed("reading the status", &error),
    }
}

/// What a question would be answered, and why.
async fn lookup(
    State(known): State<Arc<Known>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Path((name, rtype)): Path<(String, String)>,
) -> Response {
    if !is_local(peer) {
        return for_local_peers();
    }
    let (name, rtype) = match (Name::parse(&name), rtype.parse::<Rtype>()) {
        (Ok(name), Ok(rtype)) => (name, rtype),
        (Err(error), _) => {
            return bad_request(format!("{name:?} is not a domain name: {error}\n"));
        }
        (_, Err(_)) => return bad_request(format!("{rtype:?} is not a record type\n")),
    };
    // As above.
    match spawn_blocking(move || known.lookup(&name, rtype)).await {
        Ok(lookup) => Json(lookup).into_response(),
        Err(error) => failed("the look-up", &error),
    }
}

/// What was measured since the start, for Prometheus.
async fn measured(State(known): State<Arc<Known>>) -> Response {
    const FORM: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    match known.metrics.text() {
        Ok(text) => ([(CONTENT_TYPE, FORM)], text).into_response(),
        Err(error) => {
            let reason = format!("the metrics can't be written: {error}\n");
            (StatusCode::INTERNAL_SERVER_ERROR, reason).into_response()
        }
    }
}

/// Every record, zone by zone.
async fn dump_all(
    State(known): State<Arc<Known>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
) -> Response {
    if !is_local(peer) {
        return for_local_peers();
    }
    dump::all(known.index.clone())
}

/// Every record of one zone.
async fn dump_zone(
    State(known): State<Arc<Known>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Path(zone): Path<String>,
) -> Response {
    if !is_local(peer) {
        return for_local_peers();
    }
    match Name::parse(&zone) {
        Ok(zone) => dump::zone(known.index.clone(), &zone),
        Err(error) => bad_request(format!("{zone:?} is not a domain name: {error}\n")),
    }
}

fn is_local(peer: SocketAddr) -> bool {
    peer.ip().to_canonical().is_loopback()
}

fn for_local_peers() -> Response {
    let body = "this is given to loopback peers only: ask from this machine, at 127.0.0.1 or ::1\n";
    (StatusCode::FORBIDDEN, body).into_response()
}

fn bad_request(reason: String) -> Response {
    (StatusCode::BAD_REQUEST, reason).into_response()
}

fn failed(what: &str, error: &JoinError) -> Response {
    let reason = format!("{what} failed: {error}\n");
    (StatusCode::INTERNAL_SERVER_ERROR, reason).into_response()
}

#[cfg(test)]
mod tests;
