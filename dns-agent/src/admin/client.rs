//! Asks the running agent, as `dns-agent status` does.

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

use super::{lookup::Lookup, status::Status};
use crate::zone::{Name, Rtype};

/// How long the agent may take to answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How long it may take for each piece of a long answer: before the first one it sorts them all.
const STALL: Duration = Duration::from_secs(60);

/// The status of the agent whose admin endpoints listen there.
///
/// # Errors
/// When no agent answers there; says where it was asked and what to do.
pub async fn status(admin: SocketAddr) -> anyhow::Result<Status> {
    json(admin, "/status").await
}

/// What the agent would answer, and why.
///
/// # Errors
/// See [`status`].
pub async fn lookup(admin: SocketAddr, name: &Name, rtype: Rtype) -> anyhow::Result<Lookup> {
    json(admin, &format!("/lookup/{}/{rtype}", segment(name))).await
}

/// Every record of a zone, or of all.
///
/// # Errors
/// See [`status`]; and when there is no such zone.
pub async fn dump(admin: SocketAddr, zone: Option<&Name>) -> anyhow::Result<Text> {
    match zone {
        Some(zone) => ask(admin, &format!("/dump/{}", segment(zone))).await,
        None => ask(admin, "/dump").await,
    }
}

/// A text that comes in pieces.
#[derive(Debug)]
pub struct Text {
    admin: SocketAddr,
    body: Incoming,
}

impl Text {
    /// The next piece; none at the end.
    ///
    /// # Errors
    /// When the agent ends or stalls before the end.
    pub async fn next(&mut self) -> anyhow::Result<Option<Bytes>> {
        let cut = || format!("the agent at {} ended before its answer did", self.admin);
        loop {
            let frame = timeout(STALL, self.body.frame()).await.with_context(cut)?;
            match frame.transpose().with_context(cut)? {
                None => return Ok(None),
                Some(frame) => match frame.into_data() {
                    Ok(piece) => return Ok(Some(piece)),
                    // Trailers.
                    Err(_) => continue,
                },
            }
        }
    }

    async fn all(mut self) -> anyhow::Result<Vec<u8>> {
        let mut all = Vec::new();
        while let Some(piece) = self.next().await? {
            all.extend_from_slice(&piece);
        }
        Ok(all)
    }
}

async fn json<T: DeserializeOwned>(admin: SocketAddr, path: &str) -> anyhow::Result<T> {
    let body = ask(admin, path).await?.all().await?;
    serde_json::from_slice(&body).with_context(|| {
        format!("what answers at {admin} is no agent of version {}: is another program listening there?", env!("CARGO_PKG_VERSION"))
    })
}

/// Asks, and sees to it that the answer is one.
async fn ask(admin: SocketAddr, path: &str) -> anyhow::Result<Text> {
    let advice = || {
        format!(
            "no agent answers at {admin}: is `dns-agent run` running on this machine, and is this the address of its --admin?"
        )
    };
    let (code, body) = timeout(TIMEOUT, get(admin, path))
        .await
        .with_context(|| {
            format!("nobody at {admin} answers within {TIMEOUT:?}: the agent there may be busy publishing, or stuck; try again, and see its log")
        })?
        .with_context(advice)?;
    let text = Text { admin, body };
    if code != StatusCode::OK {
        let reason = text.all().await?;
        bail!(
            "the agent at {admin} answers {code}: {}",
            String::from_utf8_lossy(&reason).trim_end()
        );
    }
    Ok(text)
}

/// One GET, without a limit of time.
///
/// # Errors
/// When nobody answers there in HTTP.
pub(crate) async fn get(address: SocketAddr, path: &str) -> anyhow::Result<(StatusCode, Incoming)> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // The connection does the reading and writing. What goes wrong with it, the exchange says too.
    tokio::spawn(connection);
    // Whatever the address is: the agent takes other hosts for a web page's.
    let request = Request::get(path)
        .header("host", format!("localhost:{}", address.port()))
        .body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await?;
    Ok((response.status(), response.into_body()))
}

/// A name as a segment of a path (RFC 3986 section 2.1).
fn segment(name: &Name) -> String {
    let mut segment = String::new();
    for octet in name.to_string().bytes() {
        match octet {
            b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' => segment.push(char::from(octet)),
            _ => write!(segment, "%{octet:02X}").unwrap_or_default(),
        }
    }
    segment
}
