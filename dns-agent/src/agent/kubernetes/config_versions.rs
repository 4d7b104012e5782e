//! The configurations that CoreDNS or NodeLocal DNSCache may run with after an edit.
//!
//! An edit of a ConfigMap reaches a program in two steps: the kubelet writes the new text into the
//! pod's volume, and the program checks the file. The text that the program runs with says how
//! often it checks, so the previous text matters as much as the new one.

use std::time::{Duration, Instant, SystemTime};

use zerohop_kubernetes::{Reload, WriteTime};

use super::dns_path::PodStarts;

/// The longest time that the kubelet takes to write an edited ConfigMap into the pods. The kubelet
/// syncs each pod every 60 to 90 s (`syncFrequency` of 1m, `workerResyncIntervalJitterFactor`
/// of 0.5 in Kubernetes, `pkg/kubelet`). At a sync the kubelet knows the newest ConfigMap, because
/// it watches the ConfigMap (`configMapAndSecretChangeDetectionStrategy: Watch`, the default). With
/// any strategy, a pod that starts later than this time after an edit has the new text, because the
/// kubelet caches a ConfigMap for 60 s at most.
pub(super) const KUBELET_DELAY: Duration = Duration::from_secs(90);

/// Maximum number of versions kept. Older versions are merged into one version with the slowest
/// `reload` of these versions.
const MAX_VERSIONS: usize = 8;

/// The versions of a configuration that a program may run with, from the oldest to the newest.
#[derive(Debug)]
pub(super) struct ConfigVersions<T> {
    versions: Vec<ConfigVersion<T>>,
    /// How long an edit takes to reach the file that the program reads.
    delay: Duration,
}

#[derive(Clone, Debug)]
struct ConfigVersion<T> {
    text: VersionText<T>,
    /// How often a program that runs with this version checks for a new one.
    reload: Reload,
    /// When this version replaced the previous one. Only the newest version's is read.
    edited_at: EditTime,
}

/// The text of a version, as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
enum VersionText<T> {
    /// This agent has read it.
    Known(T),
    /// It was replaced before this agent ran, or it stands for several merged versions.
    Unknown,
    /// The version before the ConfigMap's creation at this time. It existed only if a pod was
    /// started before that time, because no pod starts before its ConfigMap exists.
    IfStartedBefore(SystemTime),
}

/// The time of an edit.
#[derive(Clone, Copy, Debug)]
struct EditTime {
    /// By the wall clock of the API server or of this node.
    at: SystemTime,
    /// When this agent read the new text.
    first_seen: Instant,
    /// The time from the edit until `first_seen`. Zero for an edit that replaces a text in force,
    /// because the watch reports such an edit at once, and if the time of the edit isn't known.
    age: Duration,
}

/// The pods that run with a configuration.
#[derive(Clone, Copy, Debug)]
pub(super) enum RunningPods<'a> {
    /// Pods are not watched, because there is no kernel plane.
    NotWatched,
    /// Pods are watched, but not known: they are not listed yet, or CoreDNS's Service does not
    /// exist or never had a selector.
    Unknown,
    /// The start times of the pods.
    Started(&'a PodStarts),
}

/// A time during which the kernel passes all queries, because a program may run with an older
/// version of its configuration than the newest, or its configuration is not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hold {
    /// The end of the hold; `None` when only an event can end it, such as the restart of a pod.
    pub(super) until: Option<Instant>,
    /// The reason, for the log and the status.
    pub(super) reason: String,
}

impl<T: Clone + PartialEq> ConfigVersions<T> {
    pub(super) fn new(delay: Duration) -> ConfigVersions<T> {
        ConfigVersions {
            versions: Vec::new(),
            delay,
        }
    }

    /// The text of the newest version; `None` before the first one is read.
    pub(super) fn newest(&self) -> Option<&T> {
        match &self.versions.last()?.text {
            VersionText::Known(text) => Some(text),
            VersionText::Unknown | VersionText::IfStartedBefore(_) => None,
        }
    }

    /// Adds the current text, unless it is already the newest. `reload` says how often a program
    /// that runs with the text checks for a new one, `written` when the ConfigMap was written, if
    /// known, and `pods` are the pods that run with the configuration.
    pub(super) fn add_version(
        &mut self,
        text: T,
        reload: Reload,
        written: Option<WriteTime>,
        pods: RunningPods<'_>,
    ) {
        let text = VersionText::Known(text);
        if self.versions.last().is_some_and(|last| last.text == text) {
            return;
        }
        self.drop_abandoned(pods);
        // A program that refuses a text keeps running with an earlier one. If all known texts are
        // refused, the earlier one is unknown.
        let was_in_force = |version: &ConfigVersion<T>| version.reload != Reload::Refused;
        let edited_at = match self.versions.last() {
            Some(last) if self.versions.iter().any(was_in_force) => {
                EditTime::after(last.edited_at, written)
            }
            _ => self.add_prior_version(reload, written),
        };
        self.versions.push(ConfigVersion {
            text,
            reload,
            edited_at,
        });
        if self.versions.len() > MAX_VERSIONS {
            self.merge_oldest();
        }
    }

    /// Whether a text is not the newest, while the program may still run with a version before the
    /// newest.
    pub(super) fn is_unsettled(&mut self, text: &T, pods: RunningPods<'_>) -> bool {
        self.drop_abandoned(pods);
        self.versions.len() > 1 && self.newest() != Some(text)
    }

    /// Adds a version with an unknown text, which the program may have read after the newest one.
    /// Only a restart of the program ends it: CoreDNS may miss an edit of an imported file that is
    /// made while it reloads (coredns/coredns issue 6243).
    pub(super) fn add_unknown(&mut self) {
        let Some(newest) = self.versions.last() else {
            return;
        };
        self.versions.push(ConfigVersion {
            text: VersionText::Unknown,
            reload: Reload::Never,
            edited_at: newest.edited_at,
        });
    }

    /// The hold while `program`, in `pods`, may run with an older version than the newest. `None`
    /// before the first text, when the program runs with the newest version, or when all older
    /// versions that the program accepts lead to the same answers as the newest. `is_harmless`
    /// tells whether a text leads to these answers.
    pub(super) fn hold(
        &mut self,
        program: &str,
        pods: RunningPods<'_>,
        mut is_harmless: impl FnMut(&T) -> bool,
    ) -> Option<Hold> {
        let adoption_time = self.drop_abandoned(pods);
        let (newest, older) = self.versions.split_last()?;
        let leads_to_other_answers = |version: &&ConfigVersion<T>| match &version.text {
            VersionText::Known(text) => !is_harmless(text),
            VersionText::Unknown | VersionText::IfStartedBefore(_) => true,
        };
        let mut others = older
            .iter()
            .filter(|version| version.reload != Reload::Refused);
        // Without such a version there is no hold.
        others.find(leads_to_other_answers)?;
        // The program never runs with a version that it refuses.
        let adoption_time = adoption_time.filter(|_| newest.reload != Reload::Refused);
        let reload = self.slowest_reload();
        let reason = match adoption_time {
            Some(adoption_time) => {
                let left = adoption_time.saturating_duration_since(Instant::now());
                let time = format_time_of_day(SystemTime::now() + left);
                format!("{program} may still run with the previous version until {time} ({reload})")
            }
            None if newest.reload == Reload::Refused => format!(
                "{program} can't load the newest version, so it may still run with the previous \
                 version until its ConfigMap is corrected"
            ),
            None => {
                let seconds = self.delay.as_secs();
                format!(
                    "{program} may still run with the previous version until its pods are \
                     restarted, {seconds} s after the change or later ({reload})"
                )
            }
        };
        Some(Hold {
            until: adoption_time,
            reason,
        })
    }

    /// Adds an unknown version before a new text, for the case that no known text was in force, and
    /// returns the time of the edit. The unknown version's `reload` is assumed to be that of the
    /// new text. `written` is `None` if there is no ConfigMap; then no version is added.
    fn add_prior_version(&mut self, reload: Reload, written: Option<WriteTime>) -> EditTime {
        let now = EditTime::now();
        let (text, at) = match written {
            None => return now,
            Some(WriteTime::Edited(at)) => (VersionText::Unknown, at),
            Some(WriteTime::Created(at)) => (VersionText::IfStartedBefore(at), at),
        };
        self.versions.push(ConfigVersion {
            text,
            reload,
            // Not read, because the new text follows.
            edited_at: now,
        });
        EditTime {
            at,
            // If the clocks differ, the hold is too long or too short. It is never longer than
            // after an edit that this agent saw.
            age: now.at.duration_since(at).unwrap_or_default(),
            ..now
        }
    }

    /// Drops the versions that the program no longer runs with. Returns
    /// [`ConfigVersions::adoption_time`].
    fn drop_abandoned(&mut self, pods: RunningPods<'_>) -> Option<Instant> {
        self.drop_uncreated(pods);
        let adoption_time = self.adoption_time(pods);
        if adoption_time.is_some_and(|adoption_time| adoption_time <= Instant::now()) {
            self.drop_all_but_newest();
        }
        adoption_time
    }

    /// Drops a version from before the ConfigMap's creation if pods are not watched, or if pods are
    /// listed and none of them is known to have been started before the creation.
    fn drop_uncreated(&mut self, pods: RunningPods<'_>) {
        self.versions.retain(|version| match (&version.text, pods) {
            (VersionText::IfStartedBefore(created), RunningPods::Started(starts)) => {
                starts.any_before(*created)
            }
            (VersionText::IfStartedBefore(_), RunningPods::NotWatched) => false,
            _ => true,
        });
    }

    /// The time at which the program runs with the newest version at the latest, if it accepts that
    /// version; `None` when the time isn't known.
    fn adoption_time(&self, pods: RunningPods<'_>) -> Option<Instant> {
        let (newest, older) = self.versions.split_last()?;
        let EditTime {
            at,
            first_seen,
            age,
        } = newest.edited_at;
        if let RunningPods::Started(starts) = pods
            && starts.all_since(at + self.delay)
        {
            // Every pod started with the newest version, so the time is in the past.
            return Some(first_seen);
        }
        // The program checks at the interval of the older version that it runs with. Counting the
        // newest version's interval, too, is a precaution.
        let mut longest = newest.reload.period().unwrap_or_default();
        for version in older
            .iter()
            .filter(|version| version.reload != Reload::Refused)
        {
            let period = match (version.reload.period(), pods) {
                // Without a kernel plane a hold is only reported, and the report must end.
                (None, RunningPods::NotWatched) => Some(Duration::ZERO),
                (period, _) => period,
            };
            longest = longest.max(period?);
        }
        Some(first_seen + (self.delay + longest).saturating_sub(age))
    }

    /// Drops all versions but the newest, unless the program refuses the newest.
    fn drop_all_but_newest(&mut self) {
        let is_loadable = |version: &ConfigVersion<T>| version.reload != Reload::Refused;
        if self.versions.last().is_some_and(is_loadable) {
            self.versions.drain(..self.versions.len() - 1);
        }
    }

    /// The `reload` that delays the adoption of the newest version longest.
    fn slowest_reload(&self) -> Reload {
        let reloads = || self.versions.iter().map(|version| version.reload);
        let (_, older) = self.versions.split_last().unzip();
        let mut endless = older.into_iter().flatten().map(|version| version.reload);
        let endless = endless.find(|reload| matches!(reload, Reload::Never | Reload::Unknown));
        let longest = || reloads().max_by_key(Reload::period);
        endless.or_else(longest).unwrap_or(Reload::Unknown)
    }

    fn merge_oldest(&mut self) {
        let oldest = self.versions.remove(0);
        let Some(next) = self.versions.first_mut() else {
            return;
        };
        let is_endless = |reload: Reload| matches!(reload, Reload::Never | Reload::Unknown);
        let is_slower = oldest.reload.period() > next.reload.period();
        if is_endless(oldest.reload) || (is_slower && !is_endless(next.reload)) {
            next.reload = oldest.reload;
        }
        next.text = VersionText::Unknown;
    }
}

impl EditTime {
    /// An edit that this agent sees at once.
    fn now() -> EditTime {
        EditTime {
            at: SystemTime::now(),
            first_seen: Instant::now(),
            age: Duration::ZERO,
        }
    }

    /// An edit that this agent sees at once. Its time is `written` if that is later than the
    /// previous edit, otherwise the current time.
    fn after(previous: EditTime, written: Option<WriteTime>) -> EditTime {
        let now = EditTime::now();
        let at = written.map(|(WriteTime::Created(at) | WriteTime::Edited(at))| at);
        EditTime {
            at: at.filter(|at| *at > previous.at).unwrap_or(now.at),
            ..now
        }
    }
}

/// The time of day in UTC.
fn format_time_of_day(time: SystemTime) -> String {
    let text = humantime::format_rfc3339_seconds(time).to_string();
    let time = text.split_once('T').map_or(&*text, |(_, time)| time);
    format!("{} UTC", time.trim_end_matches('Z'))
}

#[cfg(test)]
mod tests;
