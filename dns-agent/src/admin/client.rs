//! The HTTP client of `dns-agent status`, `lookup` and `dump`, which send requests to a running
//! agent.

use std::{fmt::Write as _, net::SocketAddr, time::Duration};

use anyhow::{Context, bail};
use http_body_util::{BodyExt, Empty};
use hyper::{
    Request, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1,
};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::{net::TcpStream, time::timeout};
use zerohop_zone::{Name, Rtype};

use super::{lookup::Lookup, status::Status};

/// The longest time until the agent's response begins. In a look-up, the resolver alone may take
/// 4.5 seconds.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest time until the next piece of the body arrives.
const PIECE_TIMEOUT: Duration = Duration::from_secs(60);

/// The status of the agent whose admin endpoints listen at `admin`.
///
/// # Errors
/// When no agent answers at that address in time, when it answers with an error, when the answer
/// stops before its end, or when this version can't read the answer.
pub async fn status(admin: SocketAddr) -> anyhow::Result<Status> {
    get_json(admin, "/status").await
}

/// How the agent answers a question: the answer, the plane that gives it, and the objects that it
/// comes from.
///
/// # Errors
/// As for [`status`].
pub async fn lookup(admin: SocketAddr, name: &Name, rtype: Rtype) -> anyhow::Result<Lookup> {
    get_json(admin, &format!("/lookup/{}/{rtype}", path_segment(name))).await
}

/// Every record of a zone. Without a zone, every record of the agent.
///
/// # Errors
/// When no agent answers at that address in time, or when it answers with an error, for example
/// because it has no such zone.
pub async fn dump(admin: SocketAddr, zone: Option<&Name>) -> anyhow::Result<ResponseText> {
    match zone {
        Some(zone) => get_checked(admin, &format!("/dump/{}", path_segment(zone))).await,
        None => get_checked(admin, "/dump").await,
    }
}

/// The body of a response, in pieces.
#[derive(Debug)]
pub struct ResponseText {
    admin: SocketAddr,
    body: Incoming,
}

impl ResponseText {
    /// The next piece; `None` at the end.
    ///
    /// # Errors
    /// When the connection closes before the end, or a piece takes longer than 60 seconds.
    pub async fn next(&mut self) -> anyhow::Result<Option<Bytes>> {
        let stopped = || {
            format!(
                "the answer from the agent at {} stopped before its end: try again, and see the \
                 agent's log",
                self.admin
            )
        };
        loop {
            let frame = timeout(PIECE_TIMEOUT, self.body.frame())
                .await
                .with_context(stopped)?;
            match frame.transpose().with_context(stopped)? {
                None => return Ok(None),
                Some(frame) => match frame.into_data() {
                    Ok(piece) => return Ok(Some(piece)),
                    // Trailers.
                    Err(_) => continue,
                },
            }
        }
    }

    async fn read_all(mut self) -> anyhow::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        while let Some(piece) = self.next().await? {
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes)
    }
}

async fn get_json<T: DeserializeOwned>(admin: SocketAddr, path: &str) -> anyhow::Result<T> {
    let body = get_checked(admin, path).await?.read_all().await?;
    serde_json::from_slice(&body).with_context(|| {
        format!(
            "the answer from {admin} is not from an agent of version {}: an agent of another \
             version or another program may listen there; give the address of the agent's --admin",
            env!("CARGO_PKG_VERSION")
        )
    })
}

/// Sends a GET request, and returns an error unless the status code is 200.
async fn get_checked(admin: SocketAddr, path: &str) -> anyhow::Result<ResponseText> {
    let advice = || {
        format!(
            "no agent answers at {admin}: check that `dns-agent run` runs on this machine, and \
             give the address of its --admin"
        )
    };
    let (code, body) = timeout(RESPONSE_TIMEOUT, get(admin, path))
        .await
        .with_context(|| {
            format!(
                "no answer from {admin} within {RESPONSE_TIMEOUT:?}: the agent may be busy or \
                 stuck; try again, and see the agent's log"
            )
        })?
        .with_context(advice)?;
    let text = ResponseText { admin, body };
    if code != StatusCode::OK {
        let reason = text.read_all().await?;
        bail!(
            "the agent at {admin} answers {code}: {}",
            String::from_utf8_lossy(&reason).trim_end()
        );
    }
    Ok(text)
}

/// Sends a GET request, without a time limit.
///
/// # Errors
/// When no HTTP server answers at that address.
pub(crate) async fn get(address: SocketAddr, path: &str) -> anyhow::Result<(StatusCode, Incoming)> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // This task reads and writes the connection. Its result is not needed, because `send_request`
    // and the response's body return the connection's errors.
    tokio::spawn(connection);
    // Always localhost, because an agent refuses most paths to other hosts (DNS rebinding).
    let request = Request::get(path)
        .header("host", format!("localhost:{}", address.port()))
        .body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await?;
    Ok((response.status(), response.into_body()))
}

/// A name as a percent-encoded path segment (RFC 3986 section 2.1).
fn path_segment(name: &Name) -> String {
    let mut segment = String::new();
    for byte in name.to_string().bytes() {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' => segment.push(char::from(byte)),
            _ => write!(segment, "%{byte:02X}").unwrap_or_default(),
        }
    }
    segment
}
