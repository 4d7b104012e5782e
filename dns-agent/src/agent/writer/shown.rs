//! What the writer says of itself: in the log, and on the board.

use std::time::Duration;

use tracing::warn;

use super::{Because, Trust, Writer, read_lock};
use crate::{
    admin::{board::Board, status::ZoneStatus},
    cluster::Key,
    source::Event,
    zone::ZoneData as _,
};

/// How long it may take to look at the files.
const LOOK_TIMEOUT: Duration = Duration::from_secs(60);

impl Writer {
    /// Says what is wrong with an object that a feed can't use, if it has not been said before.
    pub(super) fn note_unusable(&mut self, event: &Event) {
        match event {
            Event::Unusable { feed, problem, .. } => {
                let key = Key::new(&*problem.namespace, &*problem.name);
                self.unlisted.remove(&(*feed, key.clone()));
                let before = self.unusable.insert((*feed, key), problem.clone());
                if before.as_ref() != Some(problem) {
                    warn!("{problem}; its names are left to the cluster's DNS");
                }
            }
            Event::Listing(feed) => {
                let keys = self.unusable.keys().filter(|(of, _)| of == feed);
                self.unlisted.extend(keys.cloned());
            }
            // What the list did not bring is gone.
            Event::Listed(feed) => {
                for gone in self.unlisted.extract_if(.., |(of, _)| of == feed) {
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

    /// Says what is wrong with objects, if it has not been said before.
    fn note_problems(&mut self) {
        let problems = read_lock(&self.index).problems();
        for problem in problems.difference(&self.problems) {
            warn!("{problem}; it is left out");
        }
        self.problems = problems;
    }

    /// Puts up what is published.
    pub(in crate::agent) fn show(&mut self, board: &Board) {
        self.note_problems();
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
            status.network_policy = self.guard.status();
        });
        self.show_state(board);
    }

    fn show_state(&self, board: &Board) {
        let (mut missing, mut degraded) = (self.kernel.missing(), self.kernel.degraded());
        missing.extend(self.guard.missing());
        degraded.extend(self.guard.degraded());
        if self.api.is_none() {
            if !read_lock(&self.index).is_complete() {
                missing.push("the files of --manifests are not loaded yet".to_owned());
            }
            if let Some(age) = board.age_of_files().filter(|age| *age > LOOK_TIMEOUT) {
                degraded.push(format!(
                    "the files of --manifests were last looked at {} s ago, so reading them takes long or hangs: what was loaded before is served",
                    age.as_secs()
                ));
            }
        }
        if let Some(api) = &self.api {
            let awaited: Vec<_> = api.awaited.iter().map(|feed| feed.name()).collect();
            if !awaited.is_empty() {
                missing.push(format!("no list yet of {}", awaited.join(", ")));
            }
            let index = read_lock(&self.index);
            if !index.is_complete() && api.feeds.is_empty() {
                missing.push("CoreDNS's Corefile has not been read yet".to_owned());
            }
            let uncovered = index.count_uncovered();
            if index.is_complete() && uncovered > 0 {
                degraded.push(format!(
                    "{uncovered} headless Services are delegated to the cluster's DNS, because not all of their EndpointSlices are watched yet"
                ));
            }
            if index.is_complete() && index.view().zones().is_empty() {
                degraded.push(
                    "the cluster's DNS is asked everything, for the reasons below".to_owned(),
                );
            }
            match self.trust {
                Trust::Stale(Because::Held) => degraded.extend(api.holds().map(|hold| {
                    let reason = &hold.reason;
                    format!("{reason}: the kernel passes everything on to the cluster's DNS")
                })),
                Trust::Stale(Because::Silence) => degraded.push(
                    "the API has said nothing for --max-age: the kernel passes everything on to the cluster's DNS"
                        .to_owned(),
                ),
                // That is missing.
                Trust::Stale(Because::Unlisted) | Trust::Current => {}
            }
        }
        let limits = self.kernel.limits();
        board.update(|status| {
            status.missing = missing;
            status.degraded = degraded;
            status.limits = limits;
        });
    }
}
