//! A fake API server. The test supplies every response.
//!
//! This file uses no item of the crate, so that integration tests can include it by its path. Its
//! router is called directly by kube's client, or serves a socket.

use std::{collections::BTreeMap, io, time::Duration};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::Request,
    http::{StatusCode, header},
    response::Response,
};
use futures_util::stream;
use serde_json::{Value, json};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, timeout},
};

/// The fake API server's requests, in order of arrival.
pub(crate) struct FakeApi(mpsc::Receiver<PendingRequest>);

/// A request that waits for its response. Dropping it responds with 503.
pub(crate) struct PendingRequest {
    pub(crate) path: String,
    /// The query parameters of the URL.
    pub(crate) query: BTreeMap<String, String>,
    /// When the request arrived.
    pub(crate) arrived_at: Instant,
    response_sender: oneshot::Sender<Response>,
}

/// Writes a response body. Dropping the writer ends the body.
pub(crate) struct BodyWriter(mpsc::Sender<io::Result<Bytes>>);

impl FakeApi {
    pub(crate) fn new() -> (Router, FakeApi) {
        let (sender, requests) = mpsc::channel(64);
        let router = Router::new()
            .fallback(move |request: Request| forward_request(sender.clone(), request));
        (router, FakeApi(requests))
    }

    /// The next request, which must come within an hour.
    pub(crate) async fn next_request(&mut self) -> PendingRequest {
        let request = timeout(Duration::from_secs(3600), self.0.recv()).await;
        request
            .expect("no request within an hour")
            .expect("the client is gone")
    }
}

impl PendingRequest {
    /// The value of a query parameter.
    pub(crate) fn parameter(&self, name: &str) -> Option<&str> {
        self.query.get(name).map(String::as_str)
    }

    /// Responds with a complete list.
    pub(crate) fn respond_with_list(self, version: &str, items: &[Value]) {
        let list = json!({
            "kind": "List",
            "apiVersion": "v1",
            "metadata": {"resourceVersion": version},
            "items": items
        });
        self.respond(StatusCode::OK, &[], list.to_string().into());
    }

    /// Responds with a document that isn't a list of objects.
    pub(crate) fn respond_with_document(self, document: &Value) {
        self.respond(StatusCode::OK, &[], document.to_string().into());
    }

    /// Responds with an error in the API server's format.
    pub(crate) fn refuse(self, code: u16, reason: &str, message: &str) {
        self.refuse_with(code, reason, message, &[]);
    }

    /// Responds with an error in the API server's format, and with additional headers.
    pub(crate) fn refuse_with(
        self,
        code: u16,
        reason: &str,
        message: &str,
        headers: &[(header::HeaderName, &str)],
    ) {
        let body = status(code, reason, message).to_string();
        self.respond(StatusCode::from_u16(code).unwrap(), headers, body.into());
    }

    /// Starts a response with a body that the test writes in chunks.
    pub(crate) fn start_body(self) -> BodyWriter {
        // Only one chunk is in flight at a time, so that a slow reader blocks the writer.
        let (sender, receiver) = mpsc::channel(1);
        let chunks = stream::unfold(receiver, async |mut receiver| {
            receiver.recv().await.map(|chunk| (chunk, receiver))
        });
        self.respond(StatusCode::OK, &[], Body::from_stream(chunks));
        BodyWriter(sender)
    }

    pub(crate) fn respond(
        self,
        code: StatusCode,
        headers: &[(header::HeaderName, &str)],
        body: Body,
    ) {
        let mut response = Response::builder().status(code);
        for (name, value) in headers {
            response = response.header(name, *value);
        }
        // The client may have closed the connection.
        let _ = self.response_sender.send(response.body(body).unwrap());
    }
}

impl BodyWriter {
    /// Sends a watch event.
    pub(crate) async fn send_event(&self, (event_type, object): (&str, Value)) {
        self.send_text(&format!(
            "{}\n",
            json!({"type": event_type, "object": object})
        ))
        .await;
    }

    /// Sends a chunk of text.
    pub(crate) async fn send_text(&self, text: &str) {
        // The client may have closed the connection.
        let _ = self.0.send(Ok(text.to_owned().into())).await;
    }

    /// Breaks the connection in the middle of the body.
    pub(crate) async fn cut(self) {
        let _ = self
            .0
            .send(Err(io::Error::from(io::ErrorKind::ConnectionReset)))
            .await;
    }

    /// Waits until the client has closed the connection.
    pub(crate) async fn wait_until_closed(&self) {
        self.0.closed().await;
    }
}

/// A `Status` object of an API server's error.
pub(crate) fn status(code: u16, reason: &str, message: &str) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "code": code, "reason": reason, "message": message,
    })
}

/// Passes a request to the test, and waits for the test's response.
async fn forward_request(requests: mpsc::Sender<PendingRequest>, request: Request) -> Response {
    let query = request.uri().query().unwrap_or_default();
    let (response_sender, response) = oneshot::channel();
    let pending = PendingRequest {
        path: request.uri().path().to_owned(),
        query: form_urlencoded::parse(query.as_bytes())
            .into_owned()
            .collect(),
        arrived_at: Instant::now(),
        response_sender,
    };
    let unavailable = || {
        let response = Response::builder().status(StatusCode::SERVICE_UNAVAILABLE);
        response.body(Body::empty()).unwrap()
    };
    if requests.send(pending).await.is_err() {
        return unavailable();
    }
    response.await.unwrap_or_else(|_| unavailable())
}
