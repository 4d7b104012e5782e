//! `dns-agent dump`: all records, made piece by piece as the client reads them.
//!
//! Nothing is held while a client is slow, but the piece that it reads, and where the next one begins. So a
//! dump is not of one moment: each of its pieces is.

use std::{
    io,
    sync::{Arc, PoisonError, RwLock},
};

use axum::{
    body::{Body, Bytes},
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use futures_util::stream;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    task::spawn_blocking,
};

use crate::{
    cluster::{Index, View, WalkPosition},
    zone::{
        Name, ZoneData as _,
        master::{Outside, ZoneFile},
    },
};

/// Bytes of a piece, or somewhat more: what is below one service stays together.
const PIECE: usize = 64 * 1024;

/// Steps of a walk without a pause for whoever changes names: many of them may write nothing.
const STEPS: usize = 512;

/// Dumps at once.
static SLOTS: Semaphore = Semaphore::const_new(8);

/// Every zone, and what lies outside them.
pub(super) fn all(index: Arc<RwLock<Index>>) -> Response {
    let zones = zones(&index);
    let at = match zones.len().checked_sub(1) {
        Some(last) => At::Before(last),
        None => At::BeforeOutside,
    };
    respond(index, zones, at, Extent::All)
}

/// One zone.
pub(super) fn zone(index: Arc<RwLock<Index>>, name: &Name) -> Response {
    let zones = zones(&index);
    if let Some(zone) = zones.iter().position(|zone| zone == name) {
        return respond(index, zones, At::Before(zone), Extent::OneZone);
    }
    let names: Vec<String> = zones.iter().map(Name::to_string).collect();
    let reason = format!("{name} is none of the zones: {}\n", names.join(" "));
    (StatusCode::NOT_FOUND, reason).into_response()
}

fn zones(index: &RwLock<Index>) -> Vec<Name> {
    // A writer that panicked has ended the agent, so nobody sees what it left behind.
    let index = index.read().unwrap_or_else(PoisonError::into_inner);
    names_of_zones(&index.view())
}

fn names_of_zones(view: &View<'_>) -> Vec<Name> {
    view.zones().iter().map(|zone| zone.name.clone()).collect()
}

fn respond(index: Arc<RwLock<Index>>, zones: Vec<Name>, at: At, extent: Extent) -> Response {
    let Ok(slot) = SLOTS.try_acquire() else {
        let reason = "too many dumps at once: end one of those that are being read\n";
        return (StatusCode::SERVICE_UNAVAILABLE, reason).into_response();
    };
    let dump = Dump {
        index,
        zones,
        at,
        extent,
        _slot: slot,
    };
    // Asked for the next piece when the one before is on its way.
    let pieces = stream::try_unfold(dump, |mut dump| async {
        let made = spawn_blocking(move || {
            let piece = dump.piece();
            (piece, dump)
        });
        let (piece, dump) = made.await?;
        Ok::<_, io::Error>(piece?.map(|piece| (piece, dump)))
    });
    let text = [(CONTENT_TYPE, "text/dns")];
    (text, Body::from_stream(pieces)).into_response()
}

/// A dump that is being read.
struct Dump {
    index: Arc<RwLock<Index>>,
    /// The zones at its start.
    zones: Vec<Name>,
    at: At,
    extent: Extent,
    _slot: SemaphorePermit<'static>,
}

/// How much is dumped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extent {
    OneZone,
    All,
}

/// What is written next.
enum At {
    /// A zone, by its number.
    Before(usize),
    Inside(usize, ZoneFile, WalkPosition),
    BeforeOutside,
    Outside(Outside, WalkPosition),
    End,
}

impl Dump {
    /// The next piece; none at the end.
    fn piece(&mut self) -> io::Result<Option<Bytes>> {
        let mut text = Vec::new();
        while text.is_empty() && !matches!(self.at, At::End) {
            self.take_steps(&mut text)?;
        }
        Ok((!text.is_empty()).then(|| text.into()))
    }

    /// Writes some names, all of one moment.
    fn take_steps(&mut self, text: &mut Vec<u8>) -> io::Result<()> {
        let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
        let view = index.view();
        if names_of_zones(&view) != self.zones {
            // The client is told by the missing end.
            return Err(io::Error::other("the zones changed while they were dumped"));
        }
        for _ in 0..STEPS {
            if text.len() >= PIECE {
                break;
            }
            let at = std::mem::replace(&mut self.at, At::End);
            self.at = step(at, self.extent, &view, text)?;
        }
        Ok(())
    }
}

/// Writes a few names, and says what comes next.
fn step(at: At, extent: Extent, view: &View<'_>, out: &mut Vec<u8>) -> io::Result<At> {
    match at {
        At::Before(zone) => {
            let file = ZoneFile::begin(view, zone, out)?;
            Ok(At::Inside(zone, file, WalkPosition::START))
        }
        At::Inside(zone, mut file, position) => match view.walk(Some(zone), &position) {
            Some((names, next)) => {
                for (name, node) in &names {
                    file.write(view, (name, node), out)?;
                }
                Ok(At::Inside(zone, file, next))
            }
            None => {
                file.end(out)?;
                Ok(match (extent, zone.checked_sub(1)) {
                    (Extent::OneZone, _) => At::End,
                    (Extent::All, Some(next)) => At::Before(next),
                    (Extent::All, None) => At::BeforeOutside,
                })
            }
        },
        At::BeforeOutside => {
            let outside = Outside::begin(view, out)?;
            Ok(At::Outside(outside, WalkPosition::ADDRESSES))
        }
        At::Outside(mut outside, position) => match view.walk(None, &position) {
            Some((names, next)) => {
                for (name, node) in &names {
                    outside.write((name, node), out)?;
                }
                Ok(At::Outside(outside, next))
            }
            None => Ok(At::End),
        },
        At::End => Ok(At::End),
    }
}
