//! Requests to the API server, and what becomes of them.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http_body_util::BodyExt;
use hyper::{HeaderMap, Request, Response, StatusCode, body::Bytes, header::RETRY_AFTER};
use kube::{Client, client::Body, core::Status};
use serde::{Deserialize, de::DeserializeOwned};
use tokio::time::timeout;
use tracing::debug;

use super::{
    health::{Health, Verb},
    selection::Selection,
};

/// A body that brings nothing for this long is given up: API servers send a bookmark about once a minute.
pub(super) const SILENCE: Duration = Duration::from_secs(180);
/// An answer that doesn't begin for this long is given up. API servers allow requests, other than
/// watches that have begun, 60 seconds by default.
const PATIENCE: Duration = Duration::from_secs(70);
/// No longer wait is accepted from an API server.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(300);
/// As much is read of an answer that tells an error.
const MAX_ERROR: usize = 64 << 10;
/// No larger document is read that is not a list of objects.
const MAX_DOCUMENT: usize = 8 << 20;

/// The API server, as all feeds see it.
pub(super) struct Api {
    client: Client,
    pub(super) health: Arc<Health>,
    streams_lists: AtomicBool,
}

/// A body, as it arrives.
pub(super) struct Stream(Body);

/// Why a request did not bring what it was for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The API server doesn't have the version asked for: no more, or not yet.
    Expired(String),
    /// It answers that it can't or won't.
    Refused {
        /// The HTTP status, or that of an event.
        code: u16,
        /// How long not to ask again.
        retry_after: Duration,
        reason: String,
    },
    /// There was no answer, it broke off, or it is not what was asked for.
    Broken(String),
    /// Nothing came for [`SILENCE`].
    Silent,
}

impl Api {
    pub(super) fn new(client: Client, health: Arc<Health>) -> Api {
        Api {
            client,
            health,
            streams_lists: AtomicBool::new(false),
        }
    }

    /// Asks for the API server's version, to know whether it sends lists as streams. One that can't be
    /// asked is taken to be old.
    pub(super) async fn discovered(self) -> Api {
        match self.version().await {
            Ok(version) if version.streams_lists() => self.stream_lists(),
            Ok(_) => {}
            Err(failure) => debug!(%failure, "the API server doesn't tell its version"),
        }
        self
    }

    /// Whether lists should be asked for as watches that begin with them: they cost the API server less.
    pub(super) fn streams_lists(&self) -> bool {
        self.streams_lists.load(Ordering::Relaxed)
    }

    pub(super) fn stream_lists(&self) {
        self.streams_lists.store(true, Ordering::Relaxed);
    }

    /// No more lists as streams, of no feed.
    pub(super) fn stream_no_lists(&self) {
        self.streams_lists.store(false, Ordering::Relaxed);
    }

    /// Sends a request for a selection, and waits until its answer begins.
    pub(super) async fn open(
        &self,
        verb: Verb,
        selection: &Selection,
        request: Result<Request<Vec<u8>>, kube::core::request::Error>,
    ) -> Result<Stream, Failure> {
        let request = request.map_err(Failure::of)?;
        self.health.requested(selection.feed, verb);
        self.send(request)
            .await
            .map_err(|failure| failure.explained(verb, selection))
    }

    async fn version(&self) -> Result<Version, Failure> {
        self.get("/version").await
    }

    /// Gets a document that is not a list of objects.
    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        let request = Request::get(path).body(Vec::new());
        self.health.got();
        let mut stream = self.send(request.map_err(Failure::of)?).await?;
        let mut body = Vec::new();
        while let Some(octets) = stream.next().await? {
            body.extend_from_slice(&octets);
            if body.len() > MAX_DOCUMENT {
                let size = MAX_DOCUMENT >> 20;
                return Err(Failure::broken(format!("{path} has more than {size} MiB")));
            }
        }
        serde_json::from_slice(&body).map_err(Failure::of)
    }

    async fn send(&self, request: Request<Vec<u8>>) -> Result<Stream, Failure> {
        let answer = timeout(PATIENCE, self.client.send(request.map(Body::from)))
            .await
            .map_err(|_| Failure::broken(format!("no answer for {} s", PATIENCE.as_secs())))?
            .map_err(Failure::of)?;
        if answer.status().is_success() {
            return Ok(Stream(answer.into_body()));
        }
        Err(refusal(answer).await)
    }
}

impl Stream {
    /// What arrives next; none at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        loop {
            let Ok(frame) = timeout(SILENCE, self.0.frame()).await else {
                return Err(Failure::Silent);
            };
            match frame.transpose().map_err(Failure::of)? {
                None => return Ok(None),
                Some(frame) => {
                    if let Ok(octets) = frame.into_data() {
                        return Ok(Some(octets));
                    }
                }
            }
        }
    }
}

impl Failure {
    pub(super) fn broken(reason: impl Into<String>) -> Failure {
        Failure::Broken(reason.into())
    }

    /// An error and what caused it.
    fn of(error: impl Into<anyhow::Error>) -> Failure {
        Failure::Broken(format!("{:#}", error.into()))
    }

    /// What an API server says of an error, in an answer or an event.
    pub(super) fn told(status: Status) -> Failure {
        // As client-go tells them apart: by cause, and of old API servers by message.
        let too_large = |text: &str| text.contains("Too large resource version");
        let is_ahead = too_large(&status.message)
            || status
                .details
                .iter()
                .flat_map(|details| &details.causes)
                .any(|cause| {
                    cause.reason == "ResourceVersionTooLarge" || too_large(&cause.message)
                });
        let is_gone = status.code == StatusCode::GONE.as_u16()
            || matches!(status.reason.as_str(), "Expired" | "Gone");
        let reason = match status.message {
            message if message.is_empty() => status.reason,
            message => message,
        };
        if is_gone || is_ahead {
            return Failure::Expired(reason);
        }
        let seconds = status
            .details
            .map_or(0, |details| details.retry_after_seconds);
        Failure::Refused {
            code: status.code,
            retry_after: Duration::from_secs(seconds.into()).min(MAX_RETRY_AFTER),
            reason,
        }
    }

    /// Says what to do, where that is known.
    pub(super) fn explained(self, verb: Verb, selection: &Selection) -> Failure {
        let Failure::Refused {
            code,
            retry_after,
            reason,
        } = self
        else {
            return self;
        };
        let resource = selection.resource;
        let (place, role) = match &selection.namespace {
            Some(namespace) => (
                format!(" in the namespace {namespace}"),
                "Role or ClusterRole",
            ),
            None => (String::new(), "ClusterRole"),
        };
        let reason = match code {
            401 => format!(
                "the API server does not accept who asks to {verb} {resource}{place} ({reason}): \
                 check the ServiceAccount's token, or the kubeconfig's user"
            ),
            403 => format!(
                "the API server does not permit to {verb} {resource}{place} ({reason}): \
                 bind a {role} with the verbs list and watch on {resource} to the agent's ServiceAccount"
            ),
            _ => format!("the API server can't {verb} {resource}{place}: {code} {reason}"),
        };
        Failure::Refused {
            code,
            retry_after,
            reason,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Expired(reason) => write!(f, "a new list is needed: {reason}"),
            Failure::Refused { reason, .. } | Failure::Broken(reason) => f.write_str(reason),
            Failure::Silent => write!(f, "nothing came for {} s", SILENCE.as_secs()),
        }
    }
}

/// What an answer says that is no success.
async fn refusal(answer: Response<Body>) -> Failure {
    let code = answer.status();
    let asked_wait = retry_after(answer.headers());
    let mut body = Vec::new();
    let mut stream = Stream(answer.into_body());
    while let Ok(Some(octets)) = stream.next().await {
        body.extend_from_slice(&octets);
        if body.len() > MAX_ERROR {
            break;
        }
    }
    let status = serde_json::from_slice(&body).unwrap_or_else(|_| {
        // A proxy's answer, for example.
        let text = String::from_utf8_lossy(&body)
            .chars()
            .take(200)
            .collect::<String>();
        Status::failure(text.trim(), code.canonical_reason().unwrap_or_default())
    });
    match Failure::told(status.with_code(code.as_u16())) {
        Failure::Refused {
            code,
            retry_after,
            reason,
        } => Failure::Refused {
            code,
            retry_after: retry_after.max(asked_wait),
            reason,
        },
        failure => failure,
    }
}

/// The wait that an answer asks for, in its form of seconds, the only one API servers use.
fn retry_after(headers: &HeaderMap) -> Duration {
    let text = headers
        .get(RETRY_AFTER)
        .and_then(|value| value.to_str().ok());
    let seconds = text.and_then(|text| text.parse().ok()).unwrap_or(0);
    Duration::from_secs(seconds).min(MAX_RETRY_AFTER)
}

/// The API server's version, as it tells it.
#[derive(Debug, Deserialize)]
struct Version {
    major: String,
    /// May end with a plus sign.
    minor: String,
}

impl Version {
    /// From this version on it does, by default.
    fn streams_lists(&self) -> bool {
        let number = |text: &str| -> u32 {
            let end = text
                .find(|c: char| !c.is_ascii_digit())
                .unwrap_or(text.len());
            text[..end].parse().unwrap_or(0)
        };
        (number(&self.major), number(&self.minor)) >= (1, 34)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_that_stream_lists() {
        for (major, minor, streams) in [
            ("1", "33", false),
            ("1", "34", true),
            ("1", "34+", true),
            ("1", "35", true),
            ("2", "0", true),
            ("1", "", false),
            ("", "34", false),
        ] {
            let (major, minor) = (major.to_owned(), minor.to_owned());
            let version = Version { major, minor };
            assert_eq!(version.streams_lists(), streams, "{version:?}");
        }
    }
}
