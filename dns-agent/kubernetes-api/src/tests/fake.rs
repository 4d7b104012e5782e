//! A fake API server. The test supplies every response.
//!
//! This file uses nothing of the crate, so that integration tests can include it by its path. It
//! provides a router, which works with kube's client directly or behind a socket.

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

/// A request that waits for its response.
pub(crate) struct PendingRequest {
    pub(crate) path: String,
    pub query: BTreeMap<String, String>,
    /// When the request arrived.
    pub(crate) at: Instant,
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
    pub(crate) async fn next(&mut self) -> PendingRequest {
        let request = timeout(Duration::from_secs(3600), self.0.recv()).await;
        request.expect("no request").expect("the client is gone")
    }
}

impl PendingRequest {
    pub(crate) fn get(&self, parameter: &str) -> Option<&str> {
        self.query.get(parameter).map(String::as_str)
    }

    /// Responds with a complete list.
    pub(crate) fn list(self, version: &str, items: &[Value]) {
        let list = json!({
            "kind": "List",
            "apiVersion": "v1",
            "metadata": {"resourceVersion": version},
            "items": items
        });
        self.respond(StatusCode::OK, &[], list.to_string().into());
    }

    /// Responds with a document that isn't a list of objects.
    pub(crate) fn document(self, document: &Value) {
        self.respond(StatusCode::OK, &[], document.to_string().into());
    }

    /// Responds with an error in the API server's format.
    pub(crate) fn refuse(self, code: u16, reason: &str, message: &str) {
        self.refuse_with(code, reason, message, &[]);
    }

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

    /// Starts a streamed response.
    pub(crate) fn open(self) -> BodyWriter {
        // Only one chunk is in flight at a time, so that the writer notices a slow reader.
        let (sender, receiver) = mpsc::channel(1);
        let pieces = stream::unfold(receiver, async |mut receiver| {
            receiver.recv().await.map(|piece| (piece, receiver))
        });
        self.respond(StatusCode::OK, &[], Body::from_stream(pieces));
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
        // The client may have gone.
        let _ = self.response_sender.send(response.body(body).unwrap());
    }
}

impl BodyWriter {
    /// Sends a watch event.
    pub(crate) async fn event(&self, (verb, object): (&str, Value)) {
        self.text(&format!("{}\n", json!({"type": verb, "object": object})))
            .await;
    }

    /// Sends a chunk of text.
    pub(crate) async fn text(&self, text: &str) {
        // The client may have gone.
        let _ = self.0.send(Ok(text.to_owned().into())).await;
    }

    /// Breaks the connection.
    pub(crate) async fn cut(self) {
        let _ = self
            .0
            .send(Err(io::Error::from(io::ErrorKind::ConnectionReset)))
            .await;
    }

    /// Waits until the client has closed the connection.
    pub(crate) async fn closed(&self) {
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

async fn forward_request(requests: mpsc::Sender<PendingRequest>, request: Request) -> Response {
    let query = request.uri().query().unwrap_or_default();
    let (sender, response_sender) = oneshot::channel();
    let pending = PendingRequest {
        path: request.uri().path().to_owned(),
        query: form_urlencoded::parse(query.as_bytes())
            .into_owned()
            .collect(),
        at: Instant::now(),
        response_sender: sender,
    };
    let unavailable = || {
        let response = Response::builder().status(StatusCode::SERVICE_UNAVAILABLE);
        response.body(Body::empty()).unwrap()
    };
    if requests.send(pending).await.is_err() {
        return unavailable();
    }
    response_sender.await.unwrap_or_else(|_| unavailable())
}
