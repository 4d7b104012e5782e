//! `dns-agent dump`: all records, sent while they are written.

use std::{
    io::{self, BufWriter, Write},
    sync::Arc,
};

use axum::{
    body::{Body, Bytes},
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use futures_util::stream;
use tokio::{
    sync::{Semaphore, mpsc},
    task::spawn_blocking,
};

use crate::zone::{Model, Name, master};

/// Octets in a piece.
const PIECE: usize = 64 * 1024;
/// Pieces that wait for the client.
const WAITING: usize = 4;

/// Dumps at once. Each holds a thread and a model until its client has read it all.
static SLOTS: Semaphore = Semaphore::const_new(4);

/// Every zone, and what lies outside them.
pub(super) fn all(model: Arc<Model>) -> Response {
    respond(move |out| master::write_all(&model, out))
}

/// One zone.
pub(super) fn zone(model: Arc<Model>, name: &Name) -> Response {
    let zones = model.zones();
    if let Some(zone) = zones.iter().position(|zone| zone.name == *name) {
        return respond(move |out| master::write_zone(&model, zone, out));
    }
    let names: Vec<String> = zones.iter().map(|zone| zone.name.to_string()).collect();
    let reason = format!("{name} is none of the zones: {}\n", names.join(" "));
    (StatusCode::NOT_FOUND, reason).into_response()
}

/// A response with what `write` writes. It is written no faster than it is read.
fn respond(
    write: impl FnOnce(&mut BufWriter<Pieces>) -> io::Result<()> + Send + 'static,
) -> Response {
    let Ok(slot) = SLOTS.try_acquire() else {
        let reason = "too many dumps at once: end one of those that are being read\n";
        return (StatusCode::SERVICE_UNAVAILABLE, reason).into_response();
    };
    let (sender, pieces) = mpsc::channel(WAITING);
    spawn_blocking(move || {
        let _slot = slot;
        let mut out = BufWriter::with_capacity(PIECE, Pieces(sender.clone()));
        if let Err(error) = write(&mut out).and_then(|()| out.flush()) {
            // Else the client would take what there is for all of it.
            sender.blocking_send(Err(error)).ok();
        }
    });
    let pieces = stream::unfold(pieces, |mut pieces| async {
        Some((pieces.recv().await?, pieces))
    });
    let text = [(CONTENT_TYPE, "text/dns")];
    (text, Body::from_stream(pieces)).into_response()
}

/// Sends what is written.
struct Pieces(mpsc::Sender<io::Result<Bytes>>);

impl Write for Pieces {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        self.0
            .blocking_send(Ok(Bytes::copy_from_slice(octets)))
            .map_err(|_| io::ErrorKind::BrokenPipe)?;
        Ok(octets.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
