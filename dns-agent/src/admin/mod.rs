//! The admin endpoints: is the agent alive, is it ready, what is it doing.
//!
//! [`status`] is what there is to know, [`client`] asks a running agent for it.

pub mod client;
pub mod status;

use std::{io, net::SocketAddr, sync::Arc};

use axum::{
    Json, Router,
    extract::{ConnectInfo, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::{net::TcpListener, task::spawn_blocking};

use self::status::Board;

/// Serves the endpoints until dropped.
///
/// # Errors
/// When the listener fails for good.
pub async fn serve(listener: TcpListener, board: Arc<Board>) -> io::Result<()> {
    let service = router(board).into_make_service_with_connect_info::<SocketAddr>();
    axum::serve(listener, service).await
}

fn router(board: Arc<Board>) -> Router {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/status", get(status))
        .with_state(board)
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
    if !peer.ip().to_canonical().is_loopback() {
        let body = "the status is given to loopback peers only: ask from this machine, at 127.0.0.1 or ::1\n";
        return (StatusCode::FORBIDDEN, body).into_response();
    }
    // Reading the kernel's counters takes a lock that the writer may hold for a while.
    match spawn_blocking(move || board.read()).await {
        Ok(status) => Json(status).into_response(),
        Err(error) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("reading the status failed: {error}\n"),
        )
            .into_response(),
    }
}

#[cfg(test)]
mod tests;
