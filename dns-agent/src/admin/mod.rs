//! The admin endpoints: is the agent alive, is it ready, does it answer, what is it doing.
//!
//! [`health`] asks both planes, [`metrics`] has the numbers, [`status`] is what there is to know and [`board`] where tasks say it, [`lookup`] what there is to know about one
//! question, [`dump`] every record; [`client`] asks a running agent for them.

pub mod board;
pub mod client;
mod connections;
mod dump;
pub mod health;
mod host;
pub mod lookup;
pub mod metrics;
pub mod status;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{ConnectInfo, Path, Request, State},
    http::{StatusCode, header::CONTENT_TYPE},
    middleware::{Next, from_fn},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::{
    sync::Semaphore,
    task::{JoinError, spawn_blocking},
};

pub use self::connections::serve;
use self::{board::Board, lookup::Known};
use crate::zone::{Name, Rtype};

/// What strangers may ask for takes the lock of the kernel plane: one at a time, so that the writer, which
/// wants it too, never has to wait for more than one.
static TURN: Semaphore = Semaphore::const_new(1);

/// What every peer is told. Everything else names objects and hosts, and is for this machine's own eyes.
const PUBLIC: [&str; 4] = ["/metrics", "/healthz", "/livez", "/readyz"];

fn router(known: Arc<Known>) -> Router {
    let board = known.board.clone();
    let asked = Router::new()
        .route("/healthz", get(healthz))
        .route("/lookup/{name}/{type}", get(lookup))
        .route("/dump", get(dump_all))
        .route("/dump/{zone}", get(dump_zone))
        .route("/metrics", get(measured))
        .with_state(known);
    Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/status", get(status))
        .with_state(board)
        .merge(asked)
        .layer(from_fn(only_public))
}

/// Lets strangers see nothing but [`PUBLIC`], and nothing else be asked by another name than
/// this machine's own: a web page may lead a browser here by a name of its own, by way of
/// `kubectl port-forward` (DNS rebinding).
async fn only_public(
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
    next: Next,
) -> Response {
    if PUBLIC.contains(&request.uri().path()) {
        return next.run(request).await;
    }
    let body = if !connections::is_here(peer) {
        "this is given to loopback peers only: ask from this machine, at 127.0.0.1 or ::1\n"
    } else if !host::is_loopback(&request) {
        "this is given only where the request's Host is localhost or a loopback address: ask at 127.0.0.1, [::1] or localhost\n"
    } else {
        return next.run(request).await;
    };
    (StatusCode::FORBIDDEN, body).into_response()
}

/// How long the writer may be at one thing.
const WEDGED: Duration = Duration::from_secs(120);

/// The process is alive, its runtime turns, and what writes the tables does its rounds.
async fn livez(State(board): State<Arc<Board>>) -> Response {
    let silence = board.silence();
    if silence < WEDGED {
        return "ok\n".into_response();
    }
    let reason = format!("the writer has done nothing for {} s\n", silence.as_secs());
    (StatusCode::SERVICE_UNAVAILABLE, reason).into_response()
}

/// Both planes answer: each is asked.
async fn healthz(State(known): State<Arc<Known>>) -> Response {
    let Ok(_turn) = TURN.acquire().await else {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    };
    let lines = match health::check(known).await {
        Ok(lines) => lines,
        Err(error) => return failed("asking", &error),
    };
    let code = match lines.iter().all(Result::is_ok) {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    let body: String = lines
        .into_iter()
        .map(|line| line.unwrap_or_else(|wrong| wrong) + "\n")
        .collect();
    (code, body).into_response()
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

/// Everything known.
async fn status(State(board): State<Arc<Board>>) -> Response {
    // Reading the kernel's counters takes a lock that the writer may hold for a while.
    match spawn_blocking(move || board.read()).await {
        Ok(status) => Json(status).into_response(),
        Err(error) => failed("reading the status", &error),
    }
}

/// What a question would be answered, and why.
async fn lookup(
    State(known): State<Arc<Known>>,
    Path((name, rtype)): Path<(String, String)>,
) -> Response {
    let (name, rtype) = match (Name::parse(&name), rtype.parse::<Rtype>()) {
        (Ok(name), Ok(rtype)) => (name, rtype),
        (Err(error), _) => {
            return bad_request(format!("{name:?} is not a domain name: {error}\n"));
        }
        (_, Err(_)) => return bad_request(format!("{rtype:?} is not a record type\n")),
    };
    match known.lookup(name, rtype).await {
        Ok(lookup) => Json(lookup).into_response(),
        Err(error) => failed("the look-up", &error),
    }
}

/// The numbers of this moment, for Prometheus.
async fn measured(State(known): State<Arc<Known>>) -> Response {
    const FORM: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    let Ok(_turn) = TURN.acquire().await else {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    };
    // As above.
    match spawn_blocking(move || known.metrics.text(&known.board)).await {
        Ok(Ok(text)) => ([(CONTENT_TYPE, FORM)], text).into_response(),
        Ok(Err(error)) => {
            let reason = format!("the metrics can't be written: {error}\n");
            (StatusCode::INTERNAL_SERVER_ERROR, reason).into_response()
        }
        Err(error) => failed("measuring", &error),
    }
}

/// Every record, zone by zone.
async fn dump_all(State(known): State<Arc<Known>>) -> Response {
    dump::all(known.index.clone())
}

/// Every record of one zone.
async fn dump_zone(State(known): State<Arc<Known>>, Path(zone): Path<String>) -> Response {
    match Name::parse(&zone) {
        Ok(zone) => dump::zone(known.index.clone(), &zone),
        Err(error) => bad_request(format!("{zone:?} is not a domain name: {error}\n")),
    }
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
