//! The publisher's part of the log and of the status board.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use tracing::warn;
use zerohop_zone::{Provider, ZoneData as _};

use super::{Freshness, Publisher, StaleReason};
use crate::{
    admin::status::{PublicationStatus, ZoneStatus},
    admin::status_board::StatusBoard,
    agent::intake::IntakeReport,
};

/// The most objects that a message about passed names lists.
const SHOWN_OWNERS: usize = 3;

/// The time between two searches for names that another provider decides about.
const OUTRANKED_INTERVAL: Duration = Duration::from_secs(5);

/// The most such names that are listed one by one.
const SHOWN_OUTRANKED: usize = 20;

/// The names that are not answered because a provider of higher precedence decides about them.
#[derive(Debug, Default)]
pub(super) struct OutrankedNames {
    /// When they were last searched for; `None` before the first search.
    found: Option<Instant>,
    problems: BTreeSet<String>,
}

impl Publisher {
    /// Writes the publisher's state to the status board.
    pub(in crate::agent) fn update_board(&mut self, board: &StatusBoard) {
        let (mut missing, mut degraded) =
            (self.kernel_plane.missing(), self.kernel_plane.degraded());
        let mut unusable = Vec::new();
        for intake in &mut self.intakes {
            let report = intake.report(board);
            let IntakeReport {
                missing: also_missing,
                degraded: also_degraded,
                problems,
            } = report;
            missing.extend(also_missing);
            degraded.extend(also_degraded);
            unusable.extend(problems);
        }
        self.log_new_problems();
        self.find_outranked_names();
        let problems = self.problems.iter().chain(&self.outranked.problems);
        let problems = problems.cloned().chain(unusable).collect();
        let zones = {
            let providers = self.providers.read();
            let union = providers.union();
            let zones = union.zones().iter();
            let zones = zones.map(|zone| ZoneStatus {
                name: zone.name.to_string(),
                serial: zone.soa.serial,
            });
            zones.collect()
        };
        let publication = self.publication_status();
        if self.freshness == Freshness::Stale(StaleReason::Unpublished) {
            missing.push(format!(
                "the kernel passes everything, and CoreDNS answers, because a change of {} was \
                 received {:.1} s ago and is not published yet",
                publication.delayed, publication.delay_seconds
            ));
        }
        if !publication.passed.is_empty() {
            let shown = publication.passed.iter().take(SHOWN_OWNERS).cloned();
            let shown = shown.collect::<Vec<_>>().join(", ");
            let more = publication.passed.len().saturating_sub(SHOWN_OWNERS);
            let more = match more {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            degraded.push(format!(
                "CoreDNS answers changed names of {shown}{more}, because they change more often, \
                 or have more names, than the agent can publish in time"
            ));
        }
        let limits = self.kernel_plane.limits();
        board.update(|status| {
            status.zones = zones;
            status.problems = problems;
            status.missing = missing;
            status.degraded = degraded;
            status.limits = limits;
            status.publication = publication;
        });
    }

    /// Finds the names that are not answered because another provider decides about them, and logs
    /// new ones.
    fn find_outranked_names(&mut self) {
        let OutrankedNames { found, problems } = &self.outranked;
        if found.is_some_and(|found| found.elapsed() < OUTRANKED_INTERVAL) {
            return;
        }
        let providers = self.providers.read();
        let (now, count) = providers.outranked_problems(SHOWN_OUTRANKED);
        let mut now: BTreeSet<String> = now.into_iter().collect();
        if count > now.len() {
            let more = count - now.len();
            now.insert(format!(
                "{more} more names are not answered for the same reason"
            ));
        }
        for problem in now.difference(problems) {
            warn!("{problem}");
        }
        self.outranked = OutrankedNames {
            found: Some(Instant::now()),
            problems: now,
        };
    }

    /// Logs new problems of objects.
    fn log_new_problems(&mut self) {
        let providers = self.providers.read();
        let problems = providers.iter().flat_map(Provider::problems);
        let problems: BTreeSet<String> = problems.collect();
        drop(providers);
        for problem in problems.difference(&self.problems) {
            warn!("{problem}");
        }
        self.problems = problems;
    }

    fn publication_status(&self) -> PublicationStatus {
        let passed = self.queue.passed().into_iter();
        let passed = passed.map(ToString::to_string).collect();
        match self.oldest_unpublished() {
            Some((delayed, since)) => PublicationStatus {
                delay_seconds: since.elapsed().as_secs_f64(),
                delayed,
                passed,
            },
            None => PublicationStatus {
                passed,
                ..PublicationStatus::default()
            },
        }
    }
}
