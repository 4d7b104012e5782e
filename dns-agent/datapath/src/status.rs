//! The state of the kernel plane for `status` and `/metrics`.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    net::SocketAddr,
    time::{Duration, Instant},
};

use dns_common::{
    Outcome,
    outcomes::{Hook, NO_COUNTS, PacketSource},
};
use serde::Serialize;

use super::{
    Datapath, PublicationCounts,
    foreign_programs::ForeignProgram,
    hash_table::TableUsage,
    hooks::{AttachedStatus, FailedAttachment, PODS, SkippedDevice},
    program::{EbpfObject, HookProgram},
};

/// The state of the kernel plane. The field names in JSON are part of the `/status` endpoint.
#[derive(Clone, Debug, Serialize)]
pub struct DatapathStatus {
    /// Attached programs.
    pub attached: Vec<AttachedStatus>,
    /// Matching devices to which attaching failed.
    pub failed: Vec<FailedAttachment>,
    /// Matching devices that are skipped because of a foreign program.
    #[serde(rename = "left_alone")]
    pub skipped: Vec<SkippedDevice>,
    /// Foreign programs on matching devices.
    #[serde(rename = "others")]
    pub foreign_programs: Vec<ForeignProgram>,
    /// Server addresses (IP and port) at which the kernel answers queries.
    #[serde(rename = "serve")]
    pub served_addresses: Vec<SocketAddr>,
    /// Usage of the tables.
    pub tables: TableUsage,
    /// Counts of the last publication.
    pub published: PublicationCounts,
    /// The state of the lease.
    pub lease: LeaseStatus,
    /// Packets by outcome, hook and interface.
    pub outcomes: Vec<OutcomeStatus>,
}

/// The state of the lease.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct LeaseStatus {
    /// Seconds since the last renewal; before the first renewal, since the tables were created.
    pub age_seconds: f64,
    /// Seconds until the lease expires; 0 before its first renewal, and when it has expired or was
    /// ended.
    pub remaining_seconds: f64,
    /// The lease's duration in seconds.
    pub stale_after_seconds: f64,
}

/// The packets with one outcome, in one line of counters.
#[derive(Clone, Debug, Serialize)]
pub struct OutcomeStatus {
    /// `xdp` or `tc`.
    pub hook: &'static str,
    /// The device's name, or [`PODS`] for pods' veths and all veths at XDP, which are counted
    /// together. `eth0+eth1` for two devices that share their counters, because their indexes
    /// differ by a multiple of [`COUNTED_DEVICES`](dns_common::outcomes::COUNTED_DEVICES).
    pub interface: String,
    /// The label of the outcome ([`Outcome::name`]).
    pub outcome: &'static str,
    /// Whether the outcome is an answer of the kernel.
    pub answered: bool,
    /// Packets since the tables were created.
    pub packets: u64,
}

impl Datapath {
    /// The current state.
    ///
    /// # Errors
    ///
    /// When the counters can't be read.
    pub fn status(&self) -> anyhow::Result<DatapathStatus> {
        Ok(DatapathStatus {
            outcomes: outcome_counts(&self.object, self.hooks.attached_programs())?,
            attached: self.hooks.attached().cloned().collect(),
            failed: self.hooks.failed().cloned().collect(),
            skipped: self.hooks.skipped().cloned().collect(),
            foreign_programs: self
                .foreign_programs_found
                .iter()
                .map(|(_, program)| program.clone())
                .collect(),
            served_addresses: self.config.served_addresses.clone(),
            tables: self.tables.table.usage(),
            published: self.tables.published,
            lease: self.lease(),
        })
    }

    /// Reasons why the kernel plane answers less than configured, or why missing pins can't be
    /// restored. Failed attachments ([`Datapath::failed_attachments`]) and exceeded size limits
    /// ([`Datapath::limits`]) are not among them. The agent reports these reasons as degraded.
    #[must_use]
    pub fn degradations(&self) -> Vec<String> {
        let mut degraded = Vec::new();
        let mut skipped = self.hooks.skipped();
        if let Some(first) = skipped.next() {
            let SkippedDevice { interface, reason } = first;
            degraded.push(match skipped.count() {
                0 => format!(
                    "interface {interface} is skipped, so CoreDNS answers its queries: {reason}"
                ),
                others => format!(
                    "{} interfaces are skipped, so CoreDNS answers their queries; the first is \
                     {interface}: {reason}",
                    others + 1
                ),
            });
        } else if !self.is_attached() && self.hooks.failed().next().is_none() {
            let values: Vec<&str> = self
                .config
                .interfaces
                .iter()
                .map(|interface| interface.name.as_str())
                .collect();
            degraded.push(format!(
                "no interface matches --interface {} yet, so CoreDNS answers all queries: compare \
                 --interface with `ip link`",
                values.join(",")
            ));
        }
        degraded.extend(self.hooks.pinning_error().map(str::to_owned));
        let left_out = self.tables.published.left_out;
        if left_out > 0 {
            let remedy = match self.config.capacity {
                Some(_) => "give a larger --capacity, or leave it out to let the tables grow",
                // The time is `REGROWTH_DELAY` of the agent.
                None => "the agent tries again every 60 s: raise the pod's memory limit",
            };
            let names = self.tables.usage().names;
            degraded.push(format!(
                "the tables are full: {names} names are in them, {left_out} are not; CoreDNS \
                 answers these {left_out} names and, in their zones, every name that is not in \
                 the tables; {remedy}",
            ));
        }
        degraded
    }

    fn lease(&self) -> LeaseStatus {
        let age = self.renewed.elapsed();
        let remaining = match self.tables.settings.lease() {
            0 => Duration::ZERO,
            _ => self.leased_until.saturating_duration_since(Instant::now()),
        };
        LeaseStatus {
            age_seconds: age.as_secs_f64(),
            remaining_seconds: remaining.as_secs_f64(),
            stale_after_seconds: self.config.stale_after.as_secs_f64(),
        }
    }
}

/// The counters of all attached programs. The counters of pods' veths are included even if no
/// program is attached to a veth now, unless all are zero, so that totals don't vanish with the
/// last pod.
fn outcome_counts<'a>(
    object: &EbpfObject,
    attached_programs: impl Iterator<Item = (HookProgram, &'a AttachedStatus)>,
) -> anyhow::Result<Vec<OutcomeStatus>> {
    let mut lines = BTreeMap::new();
    for hook in Hook::ALL {
        let counters = object.counters(hook, PacketSource::Veths)?;
        if counters != NO_COUNTS {
            lines.insert(
                hook.line(PacketSource::Veths),
                (hook, PODS.to_owned(), counters),
            );
        }
    }
    for (program, attached) in attached_programs {
        let (hook, source) = (program.hook(), program.source(attached.index));
        // The source of an attached program is never `TestRun`.
        let name = match source {
            PacketSource::Device(_) | PacketSource::TestRun => attached.interface.as_str(),
            PacketSource::Veths => PODS,
        };
        match lines.entry(hook.line(source)) {
            Entry::Vacant(line) => {
                line.insert((hook, name.to_owned(), object.counters(hook, source)?));
            }
            // All devices with the source `Veths` share a line. Other devices share one if their
            // indexes differ by a multiple of `COUNTED_DEVICES`.
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
