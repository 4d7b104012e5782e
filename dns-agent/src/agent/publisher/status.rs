//! The publisher's part of the log and of the status board.

use std::time::Duration;

use tracing::warn;
use zerohop_kubernetes::{Event, ObjectKey};
use zerohop_zone::ZoneData as _;

use super::{Freshness, Publisher, StaleReason, read_lock};
use crate::{
    admin::status::{PublicationStatus, ZoneStatus},
    admin::status_board::StatusBoard,
};

/// The most objects that a message about passed names lists.
const SHOWN_OWNERS: usize = 3;

/// A check of the manifests that takes longer than this is reported.
const FILES_CHECK_TIMEOUT: Duration = Duration::from_secs(60);

impl Publisher {
    /// Keeps the problems of objects that can't be read, and logs new problems.
    pub(super) fn track_unusable_objects(&mut self, event: &Event) {
        match event {
            Event::Unusable { feed, problem, .. } => {
                let key = ObjectKey::new(&*problem.namespace, &*problem.name);
                self.unusable_unlisted.remove(&(*feed, key.clone()));
                let before = self.unusable.insert((*feed, key), problem.clone());
                if before.as_ref() != Some(problem) {
                    warn!("{problem}; the object's names are delegated to CoreDNS");
                }
            }
            Event::ListStarted(feed) => {
                let keys = self.unusable.keys().filter(|(of, _)| of == feed);
                self.unusable_unlisted.extend(keys.cloned());
            }
            // Objects that the list did not report are gone.
            Event::ListEnded(feed) => {
                for gone in self.unusable_unlisted.extract_if(.., |(of, _)| of == feed) {
                    self.unusable.remove(&gone);
                }
            }
            Event::Applied { feed, object, .. } if !self.unusable.is_empty() => {
                self.unusable.remove(&(*feed, object.key()));
            }
            Event::Deleted { feed, key } => {
                self.unusable.remove(&(*feed, key.clone()));
            }
            _ => {}
        }
    }

    /// Logs new problems of objects in the index.
    fn log_new_problems(&mut self) {
        let problems = read_lock(&self.index).problems();
        for problem in problems.difference(&self.problems) {
            warn!("{problem}");
        }
        self.problems = problems;
    }

    /// Writes the publisher's state to the status board.
    pub(in crate::agent) fn update_board(&mut self, board: &StatusBoard) {
        self.log_new_problems();
        let (zones, objects) = {
            let index = read_lock(&self.index);
            let view = index.view();
            let zones = view.zones().iter();
            let zones = zones.map(|zone| ZoneStatus {
                name: zone.name.to_string(),
                serial: zone.soa.serial,
            });
            (zones.collect(), index.counts())
        };
        let problems = self.problems.iter().chain(self.unusable.values());
        let problems = problems.map(ToString::to_string).collect();
        board.update(|status| {
            status.zones = zones;
            status.objects = objects;
            status.problems = problems;
            status.network_policy = self.client_policy.status();
        });
        self.update_board_state(board);
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

    fn update_board_state(&self, board: &StatusBoard) {
        let (mut missing, mut degraded) =
            (self.kernel_plane.missing(), self.kernel_plane.degraded());
        missing.extend(self.client_policy.missing());
        degraded.extend(self.client_policy.degraded());
        if self.api.is_none() {
            if !read_lock(&self.index).is_complete() {
                missing.push("the files of --manifests are not loaded yet".to_owned());
            }
            if let Some(age) = board
                .time_since_file_check()
                .filter(|age| *age > FILES_CHECK_TIMEOUT)
            {
                degraded.push(format!(
                    "the files of --manifests were last checked {} s ago, so reading them takes \
                     long or hangs: the objects of the previous load stay published until the \
                     files can be read",
                    age.as_secs()
                ));
            }
        }
        if let Some(api) = &self.api {
            let awaited: Vec<_> = api.unlisted_feeds.iter().map(|feed| feed.name()).collect();
            if !awaited.is_empty() {
                missing.push(format!(
                    "the first list of {} is not complete yet",
                    awaited.join(", ")
                ));
            }
            let index = read_lock(&self.index);
            if !index.is_complete() && api.planned_feeds.is_empty() {
                missing.push("CoreDNS's Corefile has not been read yet".to_owned());
            }
            let uncovered = index.count_uncovered();
            if index.is_complete() && uncovered > 0 {
                degraded.push(format!(
                    "CoreDNS answers the names of {uncovered} headless Services, because not all \
                     of their EndpointSlices are watched yet"
                ));
            }
            if index.is_complete() && index.view().zones().is_empty() {
                degraded.push(
                    "the kernel passes everything, and CoreDNS answers, because there is no zone \
                     to answer for: see the reasons below"
                        .to_owned(),
                );
            }
            match self.freshness {
                Freshness::Stale(StaleReason::Held) => {
                    let reasons = api.active_holds().map(|hold| &hold.reason);
                    degraded.extend(reasons.map(|reason| {
                        format!("{reason}: the kernel passes everything, and CoreDNS answers")
                    }));
                }
                Freshness::Stale(StaleReason::Silence) => degraded.push(
                    "nothing was received from the API for --max-age, so the kernel passes \
                     everything, and CoreDNS answers: see the feeds in `dns-agent status`"
                        .to_owned(),
                ),
                // Reported as missing.
                Freshness::Stale(StaleReason::Unlisted | StaleReason::Unpublished)
                | Freshness::Current => {}
            }
        }
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
            status.missing = missing;
            status.degraded = degraded;
            status.limits = limits;
            status.publication = publication;
        });
    }
}
