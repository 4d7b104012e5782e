//! Asks the running agent, as `dns-agent status` does.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, bail};
use http_body_util::{BodyExt, Empty};
use hyper::{Request, StatusCode, body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};

use super::status::Status;

/// How long the agent may take to answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The status of the agent whose admin endpoints listen there.
///
/// # Errors
/// When no agent answers there; says where it was asked and what to do.
pub async fn status(admin: SocketAddr) -> anyhow::Result<Status> {
    let advice = || {
        format!(
            "no agent answers at {admin}: is `dns-agent run` running on this machine, and is this the address of its --admin?"
        )
    };
    let (code, body) = timeout(TIMEOUT, get(admin, "/status"))
        .await
        .with_context(advice)?
        .with_context(advice)?;
    if code != StatusCode::OK {
        bail!(
            "the agent at {admin} answers {code}: {}",
            String::from_utf8_lossy(&body).trim_end()
        );
    }
    serde_json::from_slice(&body).with_context(|| {
        format!("what answers at {admin} is no agent of version {}: is another program listening there?", env!("CARGO_PKG_VERSION"))
    })
}

async fn get(address: SocketAddr, path: &str) -> anyhow::Result<(StatusCode, Bytes)> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get(path)
        .header("host", address.to_string())
        .body(Empty::<Bytes>::new())?;
    // The connection does the reading and writing; it ends with the exchange.
    let exchange = async {
        let response = sender.send_request(request).await?;
        let code = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        anyhow::Ok((code, body))
    };
    tokio::select! {
        answer = exchange => answer,
        ended = connection => {
            ended?;
            bail!("the connection was closed")
        }
    }
}
