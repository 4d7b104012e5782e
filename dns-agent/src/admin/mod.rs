//! The admin endpoints: liveness, readiness, health, status, metrics, look-ups and dumps.
//!
//! [`health`] queries both planes. [`metrics`] encodes the metrics. [`lookup`] explains the answer
//! to one question, [`dump`] prints every record, and [`probes`] reports on probed servers. These
//! five read an [`AdminState`]. Status, liveness and readiness need only the [`status_board`], to
//! which tasks write the [`status`]. [`client`] sends requests to the endpoints of a running agent.

pub mod client;
mod connections;
mod dump;
pub mod health;
mod host;
pub mod lookup;
pub mod metrics;
pub mod probes;
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
    sync::Mutex,
    task::{JoinError, spawn_blocking},
};

use zerohop_zone::{Name, Rtype};

pub use self::connections::serve;
use self::{state::AdminState, status_board::StatusBoard};

/// Lets the public endpoints that lock the kernel plane run one at a time, so that many requests
/// don't keep the publisher waiting.
static KERNEL_PLANE_TURN: Mutex<()> = Mutex::const_new(());

/// The paths that every peer may request. All other responses contain names of objects and hosts,
/// so only this machine gets them.
const PUBLIC_PATHS: [&str; 4] = ["/metrics", "/healthz", "/livez", "/readyz"];

/// Every peer may also request the paths that begin with this.
const PUBLIC_PREFIX: &str = "/healthcheck/";

fn router(admin_state: Arc<AdminState>) -> Router {
    let board = admin_state.board.clone();
    let state_routes = Router::new()
        .route("/healthz", get(healthz))
        .route("/healthcheck/{label}", get(healthcheck))
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

/// Refuses paths outside [`PUBLIC_PATHS`] and [`PUBLIC_PREFIX`] to remote peers, and to requests
/// whose host is neither `localhost` nor a loopback address. The check of the host prevents DNS
/// rebinding: a web page's own host name may lead a browser here through `kubectl port-forward`.
async fn refuse_private_paths(
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
    next: Next,
) -> Response {
    let path = request.uri().path();
    if PUBLIC_PATHS.contains(&path) || path.starts_with(PUBLIC_PREFIX) {
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

/// The longest time that a round of the publisher's loop may take. A round that publishes 100,000
/// names takes less than a second (docs/benchmarks.md), so a round of minutes is stuck. The
/// kubelet kills the agent when four probes at intervals of 30 seconds have failed
/// (deploy/kustomize/daemon-set.yaml).
const MAX_ROUND: Duration = Duration::from_secs(120);

/// Succeeds if the publisher has finished a round, or the agent has started, within [`MAX_ROUND`].
async fn livez(State(board): State<Arc<StatusBoard>>) -> Response {
    let since_round = board.time_since_round();
    if since_round < MAX_ROUND {
        return "ok\n".into_response();
    }
    let reason = format!(
        "the publisher's loop has finished no round for {} s, so the publisher is busy or stuck\n",
        since_round.as_secs()
    );
    (StatusCode::SERVICE_UNAVAILABLE, reason).into_response()
}

/// Fails if a plane that should answer does not. [`health`] says which silent planes are healthy.
async fn healthz(State(admin_state): State<Arc<AdminState>>) -> Response {
    let lines = match take_turn(health::query_planes(admin_state)).await {
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

/// Fails if the last probe with this label failed, and before the first probe.
async fn healthcheck(
    State(admin_state): State<Arc<AdminState>>,
    Path(label): Path<String>,
) -> Response {
    match admin_state.probes.report(&label) {
        Ok(report) if report.is_ok => Json(report).into_response(),
        Ok(report) => (StatusCode::SERVICE_UNAVAILABLE, Json(report)).into_response(),
        Err(reason) => (StatusCode::NOT_FOUND, reason + "\n").into_response(),
    }
}

/// Succeeds if nothing is missing. An agent that is only degraded is ready.
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

/// How the agent answers a question, and which plane answers it, as JSON.
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
    // On a blocking thread, because it locks the kernel plane.
    let encode = move || {
        admin_state
            .metrics
            .text(&admin_state.board, &admin_state.probes)
    };
    let text = async { spawn_blocking(encode).await };
    match take_turn(text).await {
        Ok(Ok(text)) => ([(CONTENT_TYPE, OPENMETRICS)], text).into_response(),
        Ok(Err(error)) => {
            let reason = format!("the metrics can't be written: {error}\n");
            (StatusCode::INTERNAL_SERVER_ERROR, reason).into_response()
        }
        Err(error) => failed("reading the metrics", &error),
    }
}

/// Every record: zone by zone, then the records outside the zones.
async fn dump_all(State(admin_state): State<Arc<AdminState>>) -> Response {
    dump::dump_all(admin_state.providers.clone())
}

/// Every record of one zone.
async fn dump_zone(
    State(admin_state): State<Arc<AdminState>>,
    Path(zone): Path<String>,
) -> Response {
    match Name::parse(&zone) {
        Ok(zone) => dump::dump_zone(admin_state.providers.clone(), &zone),
        Err(error) => bad_request(format!("{zone:?} is not a domain name: {error}\n")),
    }
}

/// Runs a task that locks the kernel plane, after other such tasks. If the client disconnects, the
/// task goes on and keeps its turn, because a blocking thread may still wait for the lock.
async fn take_turn<T: Send + 'static>(
    task: impl Future<Output = Result<T, JoinError>> + Send + 'static,
) -> Result<T, JoinError> {
    let turn = KERNEL_PLANE_TURN.lock().await;
    let task = async move {
        let result = task.await;
        drop(turn);
        result
    };
    tokio::spawn(task).await?
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
