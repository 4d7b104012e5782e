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

use crate::zone::{Live, Model, Name, ZoneData, master};

/// Octets in a piece.
const PIECE: usize = 64 * 1024;
/// Pieces that wait for the client.
const WAITING: usize = 4;

/// Dumps at once. Each holds a thread and all names until its client has read it.
static SLOTS: Semaphore = Semaphore::const_new(2);

/// Every zone, and what lies outside them.
pub(super) fn all(data: Arc<dyn Live>) -> Response {
    respond(move |out| master::write_all(&stored(&*data), out))
}

/// One zone.
pub(super) fn zone(data: Arc<dyn Live>, name: &Name) -> Response {
    let mut zones = Vec::new();
    data.look(&mut |data| zones = data.zones().iter().map(|zone| zone.name.clone()).collect());
    if zones.contains(name) {
        let name = name.clone();
        return respond(move |out| {
            let model = stored(&*data);
            let zone = model.zones().iter().position(|zone| zone.name == name);
            zone.map_or(Ok(()), |zone| master::write_zone(&model, zone, out))
        });
    }
    let names: Vec<String> = zones.iter().map(Name::to_string).collect();
    let reason = format!("{name} is none of the zones: {}\n", names.join(" "));
    (StatusCode::NOT_FOUND, reason).into_response()
}

/// All names of one moment: a client takes its time, and nobody waits for it.
fn stored(data: &dyn Live) -> Model {
    let mut model = None;
    data.look(&mut |data| model = Some(Model::of(data)));
    model.unwrap_or_default()
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
