//! Growth: larger tables replace tables that are nearly full.
//!
//! The new tables are measured and filled in steps of limited time, while the current tables
//! answer, and while changes are published to these. Then each hook's program is replaced
//! atomically, as in an update of the agent.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use zerohop_zone::{Name, Window, ZoneData};

use super::{
    Datapath, DatapathConfig,
    interfaces::Device,
    publication::{NeededSpace, Retry},
    records,
};

/// The most names that are filled in before the clock is read.
const BATCH: usize = 256;

/// Longer than any publication takes.
const UNLIMITED: Duration = Duration::from_secs(3600);

/// How many times the names that have changed meanwhile are filled in by steps.
const MAX_CATCH_UPS: usize = 8;

/// A growth that has begun.
pub struct Growth {
    /// The names that are not measured, or not in the new tables.
    remaining: BTreeSet<Name>,
    /// Names that have changed in the current tables since the beginning, or since they were filled
    /// into the new ones.
    changed: BTreeSet<Name>,
    /// How many times changed names were filled in.
    catch_ups: usize,
    /// The names that are measured. They are filled into the new tables next.
    measured: Vec<Name>,
    phase: GrowthPhase,
}

enum GrowthPhase {
    /// The space that the names need is measured.
    Measuring(NeededSpace),
    /// The new tables are filled.
    Filling(Box<Datapath>),
}

/// The result of [`Datapath::continue_growth`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrowthStep {
    /// More steps are necessary.
    Unfinished,
    /// The current tables have little room but hold all names, and new tables would not be larger.
    /// So the current ones stay in use.
    NotLarger,
    /// The hooks now use new tables, which hold all names.
    Moved,
    /// The hooks now use new tables, but names were left out of these.
    MovedButFull,
}

impl Growth {
    /// Records that names were published to the current tables, so that they are published to the
    /// new ones too.
    pub fn note_changes(&mut self, names: &BTreeSet<Name>) {
        self.changed.extend(names.iter().cloned());
    }
}

impl Datapath {
    /// Begins a growth if the current tables are full or nearly full and no capacity is configured.
    /// Until [`Datapath::end_growth`], names that were left out are not tried again.
    #[must_use]
    pub fn begin_growth(&mut self, data: &dyn ZoneData) -> Option<Growth> {
        if self.config.capacity.is_some() || !self.tables.are_nearly_full() {
            return None;
        }
        self.tables.set_retry(Retry::Never);
        Some(Growth {
            remaining: all_names(data),
            changed: BTreeSet::new(),
            catch_ups: 0,
            measured: Vec::new(),
            phase: GrowthPhase::Measuring(NeededSpace::default()),
        })
    }

    /// Ends a growth, whether or not it has moved to new tables.
    pub fn end_growth(&mut self) {
        self.tables.set_retry(Retry::EachTime);
    }

    /// Continues a growth for about `limit`. `config` is the configuration for the new tables.
    /// `passed_names` gives the names that pass until they are published; they pass in the new
    /// tables, too. The zones of `data` must be those of the beginning.
    ///
    /// The kernel's counters start again at zero when the hooks have moved.
    ///
    /// # Errors
    ///
    /// As for [`Datapath::start`]. The old tables stay in use, and the growth must be dropped.
    pub fn continue_growth(
        &mut self,
        growth: &mut Growth,
        config: &DatapathConfig,
        devices: &[Device],
        data: &dyn ZoneData,
        passed_names: &dyn Fn() -> BTreeSet<Name>,
        limit: Duration,
    ) -> anyhow::Result<GrowthStep> {
        let deadline = Instant::now() + limit;
        if let GrowthPhase::Measuring(space) = &mut growth.phase {
            // The new tables are created in a step of their own, because that takes long.
            if !growth.remaining.is_empty() {
                let measured = measure(&mut growth.remaining, space, data, deadline);
                growth.measured.extend(measured);
                return Ok(GrowthStep::Unfinished);
            }
            let size = space.table_size(None);
            // When names were left out, even new tables of the same size may have room, because
            // the free slots of the current tables may be too small for new records.
            if !size.exceeds(self.size) && !self.tables.are_full() {
                return Ok(GrowthStep::NotLarger);
            }
            // `None`: `move_to` below brings the pins.
            let mut larger = Datapath::with_empty_tables(config.clone(), size, None, devices)?;
            larger.tables.begin_filling(data)?;
            growth.remaining = growth.measured.drain(..).collect();
            growth.phase = GrowthPhase::Filling(Box::new(larger));
            return Ok(GrowthStep::Unfinished);
        }
        let GrowthPhase::Filling(larger) = &mut growth.phase else {
            return Ok(GrowthStep::Unfinished);
        };
        while growth.catch_ups < MAX_CATCH_UPS {
            if growth.remaining.is_empty() {
                if growth.changed.is_empty() {
                    break;
                }
                growth.remaining = std::mem::take(&mut growth.changed);
                growth.catch_ups += 1;
            }
            let now = Instant::now();
            if now >= deadline {
                return Ok(GrowthStep::Unfinished);
            }
            let batch: BTreeSet<Name> = take_names(&mut growth.remaining).collect();
            let filled = larger.publish_names(data, &batch, deadline - now)?;
            growth.remaining.extend(filled.left);
        }
        // If names change faster than they are filled in, the last ones are filled in one piece.
        growth.remaining.append(&mut growth.changed);
        larger.publish_names(data, &growth.remaining, UNLIMITED)?;
        larger.pass_names(data, &passed_names())?;
        larger.tables.finish_filling(data)?;
        larger.publish_clients(data, self.tables.clients().clone())?;
        larger.publish_served_addresses(data, self.config.served_addresses.clone())?;
        if self.is_leased() {
            larger.renew_lease(self.leased_until.saturating_duration_since(Instant::now()))?;
        }
        larger.publish_card_addresses(devices);
        larger.hooks = self.hooks.move_to(&mut larger.object);
        // Foreign programs don't change with the tables. The next `reconcile` searches for them
        // again.
        std::mem::swap(&mut larger.foreign_programs, &mut self.foreign_programs);
        larger.foreign_programs_found = std::mem::take(&mut self.foreign_programs_found);
        std::mem::swap(self, larger);
        Ok(if self.tables.are_full() {
            GrowthStep::MovedButFull
        } else {
            GrowthStep::Moved
        })
    }
}

fn all_names(data: &dyn ZoneData) -> BTreeSet<Name> {
    let mut names = BTreeSet::new();
    data.visit(Window::EXISTENCE, &mut |name, _| {
        names.insert(name.clone());
    });
    names
}

/// Measures names until the deadline, and removes them from `remaining`. Returns them.
fn measure(
    remaining: &mut BTreeSet<Name>,
    space: &mut NeededSpace,
    data: &dyn ZoneData,
    deadline: Instant,
) -> Vec<Name> {
    let mut measured = Vec::new();
    while !remaining.is_empty() && Instant::now() < deadline {
        for name in take_names(remaining) {
            if let Some(entry) = data.entry_within(&name, records::WINDOW) {
                space.add(data, &name, &entry);
            }
            measured.push(name);
        }
    }
    measured
}

/// Removes the first names of a set.
fn take_names(names: &mut BTreeSet<Name>) -> impl Iterator<Item = Name> {
    std::iter::from_fn(|| names.pop_first()).take(BATCH)
}
