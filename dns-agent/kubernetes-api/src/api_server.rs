//! Requests to the API server, and their failures.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http_body_util::BodyExt;
use hyper::{
    HeaderMap, Request, Response, StatusCode,
    body::Bytes,
    header::{CONTENT_TYPE, RETRY_AFTER},
};
use kube::{Client, client::Body, core::Status};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use tokio::time::timeout;
use tracing::debug;

use super::{
    health::{RequestVerb, SourceHealth},
    selection::FeedSelection,
};

/// A response body is abandoned if it has no data for this long. API servers send a bookmark about
/// once a minute, so this allows for two missing bookmarks.
pub(super) const MAX_SILENCE: Duration = Duration::from_secs(180);
/// A request is abandoned if its response doesn't begin within this time. By default, API servers
/// end requests other than watches after 60 seconds.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(70);
/// Upper bound on the delay that an API server requests, by the header `Retry-After` or in a
/// `Status`.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(300);
/// Reading the body of an error response ends after this many bytes.
const MAX_ERROR_BODY: usize = 64 << 10;
/// Upper bound on an error text that isn't a `Status` object, in characters.
const MAX_ERROR_TEXT: usize = 200;
/// Upper bound on a document that isn't a list of objects, in bytes.
const MAX_DOCUMENT: usize = 8 << 20;

/// The API server. All feeds of a source share it.
pub(super) struct ApiServer {
    client: Client,
    pub(super) health: Arc<SourceHealth>,
    /// Whether feeds request streamed lists.
    streams_lists: AtomicBool,
}

/// A response body that is read in chunks as they arrive.
pub(super) struct ResponseBody(Body);

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The API server doesn't have the requested resource version any more, or doesn't have it yet.
    Expired(String),
    /// The API server refused the request.
    Refused {
        /// The HTTP status code, of the response or in an error event.
        code: u16,
        /// How long the API server asks the client to wait, at most [`MAX_RETRY_AFTER`]. Zero if it
        /// doesn't say.
        retry_after: Duration,
        /// The API server's message, or its short reason if there is no message. After
        /// [`Failure::with_advice`] also the request and, for the codes 401 and 403, what to do.
        reason: String,
    },
    /// Any other failure. In most cases there was no response, or it broke off, or it is malformed.
    Broken(String),
    /// The response body had no data for [`MAX_SILENCE`].
    Silent,
}

impl ApiServer {
    pub(super) fn new(client: Client, health: Arc<SourceHealth>) -> ApiServer {
        ApiServer {
            client,
            health,
            streams_lists: AtomicBool::new(false),
        }
    }

    /// Reads the API server's version, and enables streamed lists if that version supports them. If
    /// the version can't be read, lists stay plain.
    pub(super) async fn with_version_features(self) -> ApiServer {
        match self.version().await {
            Ok(version) if version.streams_lists() => self.enable_streamed_lists(),
            Ok(_) => {}
            Err(failure) => {
                debug!(%failure, "can't read the API server's version: using plain lists");
            }
        }
        self
    }

    /// Whether to request lists as the first events of a watch, which costs the API server less.
    pub(super) fn streams_lists(&self) -> bool {
        self.streams_lists.load(Ordering::Relaxed)
    }

    pub(super) fn enable_streamed_lists(&self) {
        self.streams_lists.store(true, Ordering::Relaxed);
    }

    /// Makes all feeds request plain lists from now on.
    pub(super) fn disable_streamed_lists(&self) {
        self.streams_lists.store(false, Ordering::Relaxed);
    }

    /// Sends a request for a selection, and waits until the response begins. A `request` that kube
    /// couldn't build is a failure too.
    pub(super) async fn open_stream(
        &self,
        verb: RequestVerb,
        selection: &FeedSelection,
        request: Result<Request<Vec<u8>>, kube::core::request::Error>,
    ) -> Result<ResponseBody, Failure> {
        let request = request.map_err(Failure::from_error)?;
        self.health.count_request(selection.feed, verb);
        self.send(request)
            .await
            .map_err(|failure| failure.with_advice(verb, selection))
    }

    async fn version(&self) -> Result<ServerVersion, Failure> {
        self.get("/version").await
    }

    /// Gets a JSON document that isn't a list of objects, of at most [`MAX_DOCUMENT`] bytes.
    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.health.count_get();
        self.document(path, Request::get(path).body(Vec::new()))
            .await
    }

    /// Posts a JSON document. Returns the document of the response, of at most [`MAX_DOCUMENT`]
    /// bytes.
    pub(super) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        document: &Value,
    ) -> Result<T, Failure> {
        let request = Request::post(path).header(CONTENT_TYPE, "application/json");
        let request = request.body(document.to_string().into_bytes());
        self.document(path, request).await
    }

    async fn document<T: DeserializeOwned>(
        &self,
        path: &str,
        request: hyper::http::Result<Request<Vec<u8>>>,
    ) -> Result<T, Failure> {
        let mut stream = self.send(request.map_err(Failure::from_error)?).await?;
        let mut body = Vec::new();
        while let Some(bytes) = stream.next().await? {
            body.extend_from_slice(&bytes);
            if body.len() > MAX_DOCUMENT {
                let size = MAX_DOCUMENT >> 20;
                return Err(Failure::broken(format!("{path} is larger than {size} MiB")));
            }
        }
        serde_json::from_slice(&body).map_err(Failure::from_error)
    }

    async fn send(&self, request: Request<Vec<u8>>) -> Result<ResponseBody, Failure> {
        let response = timeout(RESPONSE_TIMEOUT, self.client.send(request.map(Body::from)))
            .await
            .map_err(|_| {
                let seconds = RESPONSE_TIMEOUT.as_secs();
                Failure::broken(format!("the API server didn't respond within {seconds} s"))
            })?
            .map_err(Failure::from_error)?;
        if response.status().is_success() {
            return Ok(ResponseBody(response.into_body()));
        }
        Err(read_refusal(response).await)
    }
}

impl ResponseBody {
    /// The next chunk, or `None` at the end of the body.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        loop {
            let Ok(frame) = timeout(MAX_SILENCE, self.0.frame()).await else {
                return Err(Failure::Silent);
            };
            match frame.transpose().map_err(Failure::from_error)? {
                None => return Ok(None),
                Some(frame) => {
                    if let Ok(bytes) = frame.into_data() {
                        return Ok(Some(bytes));
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

    /// A failure with an error and its causes as the reason.
    fn from_error(error: impl Into<anyhow::Error>) -> Failure {
        Failure::Broken(format!("{:#}", error.into()))
    }

    /// The failure that a `Status` in an error response or an error event describes.
    pub(super) fn from_status(status: Status) -> Failure {
        // The API server doesn't have the version yet. Detected as in client-go: by cause or, for
        // old API servers, by message.
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

    /// Adds the request to the reason of a refusal, and for the codes 401 and 403 advice for the
    /// operator. Returns other failures unchanged.
    pub(super) fn with_advice(self, verb: RequestVerb, selection: &FeedSelection) -> Failure {
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
                "the API server rejects the agent's credentials when the agent tries to {verb} \
                 {resource}{place} ({reason}): \
                 check the ServiceAccount's token, or the kubeconfig's user"
            ),
            403 => format!(
                "the API server doesn't permit the agent to {verb} {resource}{place} ({reason}): \
                 bind a {role} with the verbs list and watch on {resource} \
                 to the agent's ServiceAccount"
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
            Failure::Expired(reason) => {
                write!(
                    f,
                    "the API server doesn't have the resource version: {reason}"
                )
            }
            Failure::Refused { reason, .. } | Failure::Broken(reason) => f.write_str(reason),
            Failure::Silent => {
                let seconds = MAX_SILENCE.as_secs();
                write!(f, "the API server sent no data for {seconds} s")
            }
        }
    }
}

/// Converts an unsuccessful response to a failure.
async fn read_refusal(response: Response<Body>) -> Failure {
    let code = response.status();
    let requested_wait = retry_after(response.headers());
    let mut body = Vec::new();
    let mut stream = ResponseBody(response.into_body());
    while let Ok(Some(bytes)) = stream.next().await {
        body.extend_from_slice(&bytes);
        if body.len() > MAX_ERROR_BODY {
            break;
        }
    }
    let status = serde_json::from_slice(&body).unwrap_or_else(|_| {
        // A proxy may send plain text instead of an API server's `Status`.
        let text = String::from_utf8_lossy(&body)
            .chars()
            .take(MAX_ERROR_TEXT)
            .collect::<String>();
        Status::failure(text.trim(), code.canonical_reason().unwrap_or_default())
    });
    match Failure::from_status(status.with_code(code.as_u16())) {
        Failure::Refused {
            code,
            retry_after,
            reason,
        } => Failure::Refused {
            code,
            retry_after: retry_after.max(requested_wait),
            reason,
        },
        failure => failure,
    }
}

/// The response's `Retry-After`, at most [`MAX_RETRY_AFTER`]. Zero if there is none, or it isn't a
/// number of seconds, the only form that API servers use.
fn retry_after(headers: &HeaderMap) -> Duration {
    let text = headers
        .get(RETRY_AFTER)
        .and_then(|value| value.to_str().ok());
    let seconds = text.and_then(|text| text.parse().ok()).unwrap_or(0);
    Duration::from_secs(seconds).min(MAX_RETRY_AFTER)
}

/// The API server's response to `/version`.
#[derive(Debug, Deserialize)]
struct ServerVersion {
    major: String,
    /// A number, which some providers follow with a plus sign.
    minor: String,
}

impl ServerVersion {
    /// Whether this version streams lists by default: from 1.34 on.
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
    fn lists_are_streamed_since_version_1_34() {
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
            let version = ServerVersion { major, minor };
            assert_eq!(version.streams_lists(), streams, "{version:?}");
        }
    }
}
