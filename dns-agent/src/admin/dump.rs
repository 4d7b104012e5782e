//! `dns-agent dump`: all records, rendered piece by piece as the client reads them.
//!
//! While a client is slow, the agent keeps only the current piece and the position of the next
//! piece. Each piece is a consistent snapshot, but the dump as a whole is not.

use std::{io, sync::Arc};

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
use zerohop_zone::{
    Name, NameEntry, Providers, ReadProviders, Union, WalkPosition, ZoneData as _,
    zone_file::{OutsideZones, ZoneFile},
};

/// A piece ends when it has this many bytes, or after [`MAX_STEPS`] unless it is still empty. It
/// may be somewhat larger, because the names of one Service stay together.
const PIECE_BYTES: usize = 64 * 1024;

/// Maximum number of steps while the providers are locked, so that the publisher need not wait
/// long. [`PIECE_BYTES`] does not limit the steps, because a step may write nothing.
const MAX_STEPS: usize = 512;

/// Limits the number of dumps at the same time, because each dump locks the providers again and
/// again.
static DUMP_SLOTS: Semaphore = Semaphore::const_new(8);

/// Dumps every zone, and the records outside the zones.
pub(super) fn dump_all(providers: Providers) -> Response {
    let zones = zones(&providers);
    // The zones are in the order of `ZoneData::zones`, the longest name first, and are dumped from
    // the last to the first.
    let position = match zones.len().checked_sub(1) {
        Some(last) => DumpPosition::Before(last),
        None => DumpPosition::BeforeOutside,
    };
    start_dump(providers, zones, position, DumpExtent::All)
}

/// Dumps one zone.
pub(super) fn dump_zone(providers: Providers, name: &Name) -> Response {
    let zones = zones(&providers);
    if let Some(zone) = zones.iter().position(|zone| zone == name) {
        return start_dump(
            providers,
            zones,
            DumpPosition::Before(zone),
            DumpExtent::OneZone,
        );
    }
    let names: Vec<String> = zones.iter().map(Name::to_string).collect();
    let reason = if names.is_empty() {
        format!("{name} is not a zone of this agent, which has no zones: see `dns-agent status`\n")
    } else {
        format!(
            "{name} is not a zone of this agent; its zones are: {}\n",
            names.join(" ")
        )
    };
    (StatusCode::NOT_FOUND, reason).into_response()
}

fn zones(providers: &Providers) -> Vec<Name> {
    names_of_zones(&providers.read().union())
}

fn names_of_zones(union: &Union<'_>) -> Vec<Name> {
    union.zones().iter().map(|zone| zone.name.clone()).collect()
}

fn start_dump(
    providers: Providers,
    zones: Vec<Name>,
    position: DumpPosition,
    extent: DumpExtent,
) -> Response {
    let Ok(slot) = DUMP_SLOTS.try_acquire() else {
        let reason = "too many dumps run at the same time: end one of them, and try again\n";
        return (StatusCode::SERVICE_UNAVAILABLE, reason).into_response();
    };
    let dump = Dump {
        providers,
        zones,
        position,
        extent,
        _slot: slot,
    };
    // The next piece is rendered after the previous one is sent.
    let pieces = stream::try_unfold(dump, |mut dump| async {
        let task = spawn_blocking(move || {
            let piece = dump.next_piece();
            (piece, dump)
        });
        let (piece, dump) = task.await?;
        Ok::<_, io::Error>(piece?.map(|piece| (piece, dump)))
    });
    let text = [(CONTENT_TYPE, "text/dns")];
    (text, Body::from_stream(pieces)).into_response()
}

/// A dump in progress.
struct Dump {
    providers: Providers,
    /// The zones at the start of the dump.
    zones: Vec<Name>,
    position: DumpPosition,
    extent: DumpExtent,
    /// Released when the dump ends or the client is gone.
    _slot: SemaphorePermit<'static>,
}

/// The extent of a dump.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DumpExtent {
    OneZone,
    All,
}

/// The position of the next piece.
enum DumpPosition {
    /// Before a zone, by its index.
    Before(usize),
    /// Inside a zone, by its index.
    Inside(usize, ZoneFile, NamePosition),
    /// Before the records outside the zones.
    BeforeOutside,
    /// Inside the records outside the zones.
    Outside(OutsideZones, NamePosition),
    End,
}

/// The position of the next names in a zone, or outside all zones.
#[derive(Default)]
struct NamePosition {
    /// The number of the provider whose names are next.
    provider: usize,
    position: WalkPosition,
}

/// Names with their entries.
type Entries = Vec<(Name, Arc<NameEntry>)>;

impl Dump {
    /// The next piece; `None` at the end.
    fn next_piece(&mut self) -> io::Result<Option<Bytes>> {
        let mut text = Vec::new();
        while text.is_empty() && !matches!(self.position, DumpPosition::End) {
            self.take_steps(&mut text)?;
        }
        Ok((!text.is_empty()).then(|| text.into()))
    }

    /// Writes names from one state of the providers, up to the limits [`PIECE_BYTES`] and
    /// [`MAX_STEPS`].
    fn take_steps(&mut self, text: &mut Vec<u8>) -> io::Result<()> {
        let providers = self.providers.read();
        let union = providers.union();
        if names_of_zones(&union) != self.zones {
            // The client notices the error, because the last chunk of the body is missing.
            return Err(io::Error::other("the zones changed while they were dumped"));
        }
        for _ in 0..MAX_STEPS {
            if text.len() >= PIECE_BYTES {
                break;
            }
            let position = std::mem::replace(&mut self.position, DumpPosition::End);
            self.position = write_step(position, self.extent, (&providers, &union), text)?;
        }
        Ok(())
    }
}

/// Writes a few names and returns the next position.
fn write_step(
    position: DumpPosition,
    extent: DumpExtent,
    (providers, union): (&ReadProviders<'_>, &Union<'_>),
    out: &mut Vec<u8>,
) -> io::Result<DumpPosition> {
    match position {
        DumpPosition::Before(zone) => {
            let file = ZoneFile::begin(union, zone, out)?;
            Ok(DumpPosition::Inside(zone, file, NamePosition::default()))
        }
        DumpPosition::Inside(zone, mut file, position) => {
            match next_names(providers, union, Some(zone), position) {
                Some((names, next)) => {
                    for (name, entry) in &names {
                        file.write_entry(union, (name, entry), out)?;
                    }
                    Ok(DumpPosition::Inside(zone, file, next))
                }
                None => {
                    file.end(out)?;
                    Ok(match (extent, zone.checked_sub(1)) {
                        (DumpExtent::OneZone, _) => DumpPosition::End,
                        (DumpExtent::All, Some(next)) => DumpPosition::Before(next),
                        (DumpExtent::All, None) => DumpPosition::BeforeOutside,
                    })
                }
            }
        }
        DumpPosition::BeforeOutside => {
            let outside = OutsideZones::begin(union, out)?;
            Ok(DumpPosition::Outside(outside, NamePosition::default()))
        }
        DumpPosition::Outside(mut outside, position) => {
            match next_names(providers, union, None, position) {
                Some((names, next)) => {
                    for (name, entry) in &names {
                        outside.write_entry((name, entry), out)?;
                    }
                    Ok(DumpPosition::Outside(outside, next))
                }
                None => Ok(DumpPosition::End),
            }
        }
        DumpPosition::End => Ok(DumpPosition::End),
    }
}

/// The next names of a zone, or outside all zones, from the first provider that has more, and the
/// position after them. `None` after the last name.
fn next_names(
    providers: &ReadProviders<'_>,
    union: &Union<'_>,
    zone: Option<usize>,
    NamePosition { provider, position }: NamePosition,
) -> Option<(Entries, NamePosition)> {
    let walked = providers.iter().nth(provider)?;
    let apex = zone.and_then(|zone| union.zones().get(zone));
    let Some((names, position)) = walked.walk(apex.map(|apex| &apex.name), &position) else {
        let next = NamePosition {
            provider: provider + 1,
            position: WalkPosition::default(),
        };
        return Some((Entries::new(), next));
    };
    let names = names.into_iter();
    let here = names
        .filter(|name| union.zone_of(name) == zone && union.provider_of(name) == Some(provider));
    let entries = here.filter_map(|name| Some((name.clone(), union.entry(&name)?)));
    Some((entries.collect(), NamePosition { provider, position }))
}
