//! The one task that publishes.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use tracing::{debug, warn};

use super::kernel::Kernel;

use crate::{
    admin::status::{Board, ZoneStatus},
    cluster::{Changes, Index, Objects, Problem},
    config::Config,
    zone::ZoneData,
};

/// How often the serial of the zones may change: it is in every negative answer, so the kernel's
/// settings change with it.
const SERIAL: Duration = Duration::from_secs(1);

/// Brings what sources tell into the index, and the index into the kernel's tables.
pub(super) struct Writer {
    index: Arc<RwLock<Index>>,
    /// What is wrong with objects; said once each.
    problems: BTreeSet<Problem>,
    kernel: Kernel,
    /// Whether anything changed since the serial did.
    is_newer: bool,
    renumbered: Instant,
    ticked: Instant,
}

impl Writer {
    /// Publishes these objects.
    ///
    /// # Errors
    /// When the kernel plane would answer strangers.
    pub(super) fn new(config: &Config, objects: Objects) -> anyhow::Result<Writer> {
        let mut index = Index::of(objects, config.zone.clone(), serial_after(0));
        index.take_changes();
        let kernel = Kernel::start(config, &index.view())?;
        let mut writer = Writer {
            index: Arc::new(RwLock::new(index)),
            problems: BTreeSet::new(),
            kernel,
            is_newer: false,
            renumbered: Instant::now(),
            ticked: Instant::now(),
        };
        writer.note_problems();
        Ok(writer)
    }

    /// The kernel plane, to be shown.
    pub(super) fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    /// What is answered, and where it came from.
    pub(super) fn index(&self) -> &Arc<RwLock<Index>> {
        &self.index
    }

    /// Publishes what is loaded, until nobody is left who loads; then takes the kernel
    /// plane down.
    ///
    /// The lease is renewed here and nowhere else, after everything that was waiting has
    /// been published: so it is fresh only while this works.
    pub(super) fn run(mut self, loaded: &Receiver<Objects>, board: &Board) {
        loop {
            let mut next = match loaded.recv_timeout(self.kernel.interval()) {
                Ok(objects) => Some(objects),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => break,
            };
            // Only the newest counts: what changes faster than it can be published must
            // not keep the lease from being renewed.
            while let Ok(newer) = loaded.try_recv() {
                next = Some(newer);
            }
            if let Some(objects) = next {
                write(&self.index).replace(objects);
            }
            if self.publish() {
                self.note_problems();
                self.show(board);
            }
            if self.ticked.elapsed() >= self.kernel.interval() {
                self.kernel.tick();
                self.ticked = Instant::now();
            }
            self.show_kernel(board);
        }
        self.kernel.stop();
    }

    /// Publishes what has changed; says whether anything has.
    fn publish(&mut self) -> bool {
        let changes = write(&self.index).take_changes();
        let has_changed = changes.everything || !changes.names.is_empty();
        if has_changed {
            self.bring(&changes);
        }
        self.is_newer |= has_changed;
        let is_due = self.is_newer && self.renumbered.elapsed() >= SERIAL;
        if is_due {
            self.renumber();
        }
        has_changed || is_due
    }

    /// Brings changes to the kernel.
    fn bring(&mut self, changes: &Changes) {
        let index = read(&self.index);
        if changes.everything {
            self.kernel.publish(&index.view());
        } else {
            debug!(names = changes.names.len(), "publishing changes");
            self.kernel.update(&index.view(), &changes.names);
        }
    }

    /// Gives the zones the serial of this moment.
    fn renumber(&mut self) {
        let changes = {
            let mut index = write(&self.index);
            let serial = serial_after(index.serial());
            index.set_serial(serial);
            index.take_changes()
        };
        self.bring(&changes);
        self.is_newer = false;
        self.renumbered = Instant::now();
    }

    /// Says what is wrong with objects, if it has not been said before.
    fn note_problems(&mut self) {
        let problems = read(&self.index).problems();
        for problem in problems.difference(&self.problems) {
            warn!("{problem}; it is left out");
        }
        self.problems = problems;
    }

    /// Puts up what is published.
    pub(super) fn show(&self, board: &Board) {
        let zones = {
            let index = read(&self.index);
            let view = index.view();
            let zones = view.zones().iter();
            zones
                .map(|zone| ZoneStatus {
                    name: zone.name.to_string(),
                    serial: zone.soa.serial,
                })
                .collect()
        };
        let objects = read(&self.index).counts();
        let problems = self.problems.iter().map(ToString::to_string).collect();
        board.update(|status| {
            status.zones = zones;
            status.objects = objects;
            status.source.problems = problems;
        });
        self.show_kernel(board);
    }

    fn show_kernel(&self, board: &Board) {
        let (missing, degraded) = (self.kernel.missing(), self.kernel.degraded());
        board.update(|status| {
            status.missing = missing;
            status.degraded = degraded;
        });
    }
}

/// A writer that panicked has ended the agent, so nobody sees what it left behind.
fn read(index: &RwLock<Index>) -> RwLockReadGuard<'_, Index> {
    index.read().unwrap_or_else(PoisonError::into_inner)
}

fn write(index: &RwLock<Index>) -> RwLockWriteGuard<'_, Index> {
    index.write().unwrap_or_else(PoisonError::into_inner)
}

/// The serial of a change: the time of day in Unix seconds, and more than the one
/// before.
fn serial_after(previous: u32) -> u32 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    u32::try_from(now)
        .unwrap_or(u32::MAX)
        .max(previous.saturating_add(1))
}
