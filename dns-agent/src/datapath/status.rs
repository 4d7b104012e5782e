//! The kernel plane in numbers, as `status` and `/metrics` tell them.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    net::SocketAddr,
    time::Duration,
};

use dns_common::{
    Outcome,
    outcomes::{Hook, NOTHING_COUNTED, Source},
};
use serde::Serialize;

use super::{
    Datapath, Published,
    hooks::{AttachedStatus, Failed, LeftAlone, PODS},
    object::{Object, Program},
    others::Other,
    table::Fill,
};

/// The kernel plane.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// What is attached.
    pub attached: Vec<AttachedStatus>,
    /// What matches, but is not attached.
    pub failed: Vec<Failed>,
    /// What matches, but is somebody else's.
    pub left_alone: Vec<LeftAlone>,
    /// Other people's programs on the interfaces that match.
    pub others: Vec<Other>,
    /// Addresses and ports that the kernel answers for.
    pub serve: Vec<SocketAddr>,
    /// How full the tables are.
    pub tables: Fill,
    /// What the last change of the model did to them.
    pub published: Published,
    /// The lease.
    pub lease: LeaseStatus,
    /// How many packets ended in each way, by hook and interface.
    pub outcomes: Vec<OutcomeStatus>,
}

/// The lease.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct LeaseStatus {
    /// Seconds since it was renewed.
    pub age_seconds: f64,
    /// Seconds for which the kernel answers, should it not be renewed; 0 when it has run out or was ended.
    pub remaining_seconds: f64,
    /// Seconds after which the kernel passes everything.
    pub stale_after_seconds: f64,
}

/// A counter.
#[derive(Clone, Debug, Serialize)]
pub struct OutcomeStatus {
    /// `xdp` or `tc`.
    pub hook: &'static str,
    /// Where the packets came in: a device's name, or [`PODS`], whose veths are counted together.
    pub interface: String,
    /// See [`Outcome::name`].
    pub outcome: &'static str,
    /// Whether the kernel answered.
    pub answered: bool,
    /// Packets since the start.
    pub packets: u64,
}

impl Datapath {
    /// The numbers at this moment.
    ///
    /// # Errors
    ///
    /// When the kernel refuses to read the counters.
    pub fn status(&self) -> anyhow::Result<Status> {
        Ok(Status {
            outcomes: counted(&self.object, self.hooks.running())?,
            attached: self.hooks.attached().cloned().collect(),
            failed: self.hooks.failed().cloned().collect(),
            left_alone: self.hooks.left_alone().cloned().collect(),
            others: self
                .others_found
                .iter()
                .map(|(_, other)| other.clone())
                .collect(),
            serve: self.config.serve.clone(),
            tables: self.tables.table.fill(),
            published: self.tables.published,
            lease: self.lease(),
        })
    }

    fn lease(&self) -> LeaseStatus {
        let age = self.renewed.elapsed();
        let remaining = match self.tables.publisher.lease() {
            0 => Duration::ZERO,
            _ => self.config.stale_after.saturating_sub(age),
        };
        LeaseStatus {
            age_seconds: age.as_secs_f64(),
            remaining_seconds: remaining.as_secs_f64(),
            stale_after_seconds: self.config.stale_after.as_secs_f64(),
        }
    }
}

/// All counters of what is attached, and of all pods if any packet of theirs was seen.
fn counted<'a>(
    object: &Object,
    running: impl Iterator<Item = (Program, &'a AttachedStatus)>,
) -> anyhow::Result<Vec<OutcomeStatus>> {
    let mut lines = BTreeMap::new();
    for hook in Hook::ALL {
        let counters = object.counters(hook, Source::Veths)?;
        if counters != NOTHING_COUNTED {
            lines.insert(hook.line(Source::Veths), (hook, PODS.to_owned(), counters));
        }
    }
    for (program, attached) in running {
        let (hook, source) = (program.hook(), program.source(attached.index));
        let name = match source {
            Source::Device(_) | Source::TestRun => attached.interface.as_str(),
            Source::Veths => PODS,
        };
        match lines.entry(hook.line(source)) {
            Entry::Vacant(line) => {
                line.insert((hook, name.to_owned(), object.counters(hook, source)?));
            }
            Entry::Occupied(mut line) => {
                let (_, names, _) = line.get_mut();
                if names != name {
                    *names = format!("{names}+{name}");
                }
            }
        }
    }
    let outcomes = lines.into_values().flat_map(|(hook, interface, counters)| {
        Outcome::ALL.map(|outcome| OutcomeStatus {
            hook: hook.name(),
            interface: interface.clone(),
            outcome: outcome.name(),
            answered: outcome.is_answer(),
            packets: counters[outcome as usize],
        })
    });
    Ok(outcomes.collect())
}
