//! The admin endpoints: liveness, readiness, health, status, metrics, look-ups and dumps.
//!
//! [`health`] queries both planes. [`metrics`] encodes the metrics. [`status`] is the agent's
//! state, which tasks write to the [`status_board`]. [`lookup`] explains the answer to one
//! question, and [`dump`] prints every record. All of them read the [`state`]. [`client`] sends
//! requests to the endpoints of a running agent.

pub mod client;
mod connections;
mod dump;
pub mod health;
mod host;
pub mod lookup;
pub mod metrics;
pub mod state;
pub mod status;
pub mod status_board;

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

use zerohop_zone::{Name, Rtype};

pub use self::connections::serve;
use self::{state::AdminState, status_board::StatusBoard};

/// Lets the public endpoints that lock the kernel plane run one at a time, so that the publisher
/// never waits for more than one of them.
static KERNEL_PLANE_TURN: Semaphore = Semaphore::const_new(1);

/// The paths that every peer may request. All other responses contain names of objects and hosts,
/// so only this machine gets them.
const PUBLIC_PATHS: [&str; 4] = ["/metrics", "/healthz", "/livez", "/readyz"];

fn router(admin_state: Arc<AdminState>) -> Router {
    let board = admin_state.board.clone();
    let state_routes = Router::new()
        .route("/healthz", get(healthz))
        .route("/lookup/{name}/{type}", get(lookup))
        .route("/dump", get(dump_all))
        .route("/dump/{zone}", get(dump_zone))
        .route("/metrics", get(metrics_text))
        .with_state(admin_state);
    Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/status", get(status))
        .with_state(board)
        .merge(state_routes)
        .layer(from_fn(refuse_private_paths))
}

/// Refuses paths outside [`PUBLIC_PATHS`] to remote peers, and to requests whose host is not this
/// machine. The check of the host prevents DNS rebinding: a web page's own host name may lead a
/// browser here through `kubectl port-forward`.
async fn refuse_private_paths(
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
    next: Next,
) -> Response {
    if PUBLIC_PATHS.contains(&request.uri().path()) {
        return next.run(request).await;
    }
    let body = if !connections::is_loopback_peer(peer) {
        "only loopback peers may request this path: send the request from this machine to \
         127.0.0.1 or ::1\n"
    } else if !host::is_loopback(&request) {
        "this path needs a request whose Host is localhost or a loopback address: send the \
         request to 127.0.0.1, [::1] or localhost\n"
    } else {
        return next.run(request).await;
    };
    (StatusCode::FORBIDDEN, body).into_response()
}

/// The longest time that a round of the publisher's loop may take.
const MAX_ROUND: Duration = Duration::from_secs(120);

/// Succeeds if the runtime works and the publisher finishes its rounds.
async fn livez(State(board): State<Arc<StatusBoard>>) -> Response {
    let idle = board.time_since_round();
    if idle < MAX_ROUND {
        return "ok\n".into_response();
    }
    let reason = format!(
        "the publisher's loop has finished no round for {} s, so the publisher is busy or stuck\n",
        idle.as_secs()
    );
    (StatusCode::SERVICE_UNAVAILABLE, reason).into_response()
}

/// Succeeds if each plane that is on answers a query.
async fn healthz(State(admin_state): State<Arc<AdminState>>) -> Response {
    let Ok(_turn) = KERNEL_PLANE_TURN.acquire().await else {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    };
    let lines = match health::query_planes(admin_state).await {
        Ok(lines) => lines,
        Err(error) => return failed("querying the planes", &error),
    };
    let code = if lines.iter().all(Result::is_ok) {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let body: String = lines
        .into_iter()
        .map(|line| line.unwrap_or_else(|failure| failure) + "\n")
        .collect();
    (code, body).into_response()
}

/// Succeeds if everything that the configuration asks for is in place.
async fn readyz(State(board): State<Arc<StatusBoard>>) -> Response {
    let missing = board.missing();
    if missing.is_empty() {
        return "ready\n".into_response();
    }
    let body: String = missing
        .iter()
        .map(|reason| format!("missing: {reason}\n"))
        .collect();
    (StatusCode::SERVICE_UNAVAILABLE, body).into_response()
}

/// The status as JSON.
async fn status(State(board): State<Arc<StatusBoard>>) -> Response {
    // On a blocking thread, because the publisher may hold the kernel plane's lock for long.
    match spawn_blocking(move || board.read()).await {
        Ok(status) => Json(status).into_response(),
        Err(error) => failed("reading the status", &error),
    }
}

/// How the agent answers a question, as JSON.
async fn lookup(
    State(admin_state): State<Arc<AdminState>>,
    Path((name, rtype)): Path<(String, String)>,
) -> Response {
    let (name, rtype) = match (Name::parse(&name), rtype.parse::<Rtype>()) {
        (Ok(name), Ok(rtype)) => (name, rtype),
        (Err(error), _) => {
            return bad_request(format!("{name:?} is not a domain name: {error}\n"));
        }
        (_, Err(_)) => return bad_request(format!("{rtype:?} is not a record type\n")),
    };
    match admin_state.lookup(name, rtype).await {
        Ok(lookup) => Json(lookup).into_response(),
        Err(error) => failed("the look-up", &error),
    }
}

/// The metrics, for Prometheus.
async fn metrics_text(State(admin_state): State<Arc<AdminState>>) -> Response {
    const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    let Ok(_turn) = KERNEL_PLANE_TURN.acquire().await else {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    };
    // On a blocking thread, because it locks the kernel plane.
    match spawn_blocking(move || admin_state.metrics.text(&admin_state.board)).await {
        Ok(Ok(text)) => ([(CONTENT_TYPE, OPENMETRICS)], text).into_response(),
        Ok(Err(error)) => {
            let reason = format!("the metrics can't be written: {error}\n");
            (StatusCode::INTERNAL_SERVER_ERROR, reason).into_response()
        }
        Err(error) => failed("reading the metrics", &error),
    }
}

/// Every record, zone by zone.
async fn dump_all(State(admin_state): State<Arc<AdminState>>) -> Response {
    dump::dump_all(admin_state.index.clone())
}

/// Every record of one zone.
async fn dump_zone(
    State(admin_state): State<Arc<AdminState>>,
    Path(zone): Path<String>,
) -> Response {
    match Name::parse(&zone) {
        Ok(zone) => dump::dump_zone(admin_state.index.clone(), &zone),
        Err(error) => bad_request(format!("{zone:?} is not a domain name: {error}\n")),
    }
}

fn bad_request(reason: String) -> Response {
    (StatusCode::BAD_REQUEST, reason).into_response()
}

fn failed(operation: &str, error: &JoinError) -> Response {
    let reason = format!("{operation} failed: {error}\n");
    (StatusCode::INTERNAL_SERVER_ERROR, reason).into_response()
}

#[cfg(test)]
mod tests;
