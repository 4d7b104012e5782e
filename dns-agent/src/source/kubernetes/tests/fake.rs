//! An API server whose every answer the test gives.
//!
//! This file needs nothing of the crate, so that other tests can take it in by its path; what it gives is a
//! router, for kube's client as it is, or for a socket.

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

/// The requests, in the order in which they arrived.
pub(crate) struct FakeApi(mpsc::Receiver<Asked>);

/// A request that waits for its answer.
pub(crate) struct Asked {
    pub(crate) path: String,
    pub(crate) query: BTreeMap<String, String>,
    /// When it arrived.
    pub(crate) at: Instant,
    answer: oneshot::Sender<Response>,
}

/// An answer's body, as it is written. It ends when this is dropped.
pub(crate) struct Writer(mpsc::Sender<io::Result<Bytes>>);

impl FakeApi {
    pub(crate) fn new() -> (Router, FakeApi) {
        let (sender, asked) = mpsc::channel(64);
        let router = Router::new().fallback(move |request: Request| ask(sender.clone(), request));
        (router, FakeApi(asked))
    }

    /// The next request, which must come within an hour.
    pub(crate) async fn next(&mut self) -> Asked {
        let asked = timeout(Duration::from_secs(3600), self.0.recv()).await;
        asked.expect("no request").expect("the client is gone")
    }
}

impl Asked {
    pub(crate) fn get(&self, parameter: &str) -> Option<&str> {
        self.query.get(parameter).map(String::as_str)
    }

    /// Answers with a whole list.
    pub(crate) fn list(self, version: &str, items: &[Value]) {
        let list = json!({
            "kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": version}, "items": items
        });
        self.respond(StatusCode::OK, &[], list.to_string().into());
    }

    /// Answers with a document that is no list of objects.
    pub(crate) fn document(self, document: &Value) {
        self.respond(StatusCode::OK, &[], document.to_string().into());
    }

    /// Answers with an error as API servers write them.
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

    /// Starts an answer.
    pub(crate) fn open(self) -> Writer {
        // One piece is on its way at a time, so that a slow reader is noticed.
        let (sender, receiver) = mpsc::channel(1);
        let pieces = stream::unfold(receiver, async |mut receiver| {
            receiver.recv().await.map(|piece| (piece, receiver))
        });
        self.respond(StatusCode::OK, &[], Body::from_stream(pieces));
        Writer(sender)
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
        let _ = self.answer.send(response.body(body).unwrap());
    }
}

impl Writer {
    /// Sends a watch's event.
    pub(crate) async fn event(&self, (verb, object): (&str, Value)) {
        self.text(&format!("{}\n", json!({"type": verb, "object": object})))
            .await;
    }

    /// Sends any text.
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

/// An error as API servers write it.
pub(crate) fn status(code: u16, reason: &str, message: &str) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "code": code, "reason": reason, "message": message,
    })
}

async fn ask(asked: mpsc::Sender<Asked>, request: Request) -> Response {
    let query = request.uri().query().unwrap_or_default();
    let (sender, answer) = oneshot::channel();
    let ask = Asked {
        path: request.uri().path().to_owned(),
        query: form_urlencoded::parse(query.as_bytes())
            .into_owned()
            .collect(),
        at: Instant::now(),
        answer: sender,
    };
    let unanswered = || {
        let response = Response::builder().status(StatusCode::SERVICE_UNAVAILABLE);
        response.body(Body::empty()).unwrap()
    };
    if asked.send(ask).await.is_err() {
        return unanswered();
    }
    answer.await.unwrap_or_else(|_| unanswered())
}
