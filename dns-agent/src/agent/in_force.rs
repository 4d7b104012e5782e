//! Which texts a program may run with after its configuration was edited.
//!
//! A ConfigMap's edit reaches a program in two steps: the kubelet brings it into the pods, and the
//! program looks for it. How often it looks stands in the text that it runs with, so the text before
//! counts as much as the new one.

use std::time::{Duration, Instant, SystemTime};

use super::dns_path::Starts;
use crate::{cluster::Reload, source::Written};

/// How long the kubelet takes to bring an edit of a ConfigMap into the pods: it looks at each pod
/// every 60 to 90 s (`syncFrequency` of 1m, and `workerResyncIntervalJitterFactor` of 0.5 in
/// Kubernetes, `pkg/kubelet`), and knows the newest ConfigMap then, since it watches it
/// (`configMapAndSecretChangeDetectionStrategy: Watch`, the default). A pod that is started later than
/// this after an edit has the text of after it, whatever the strategy is: a cached ConfigMap is kept
/// for 60 s at most.
pub(super) const KUBELET: Duration = Duration::from_secs(90);

/// How many texts are kept. What is older counts by its `reload`.
const KEPT: usize = 8;

/// The texts that a program may run with, from the oldest to the newest.
#[derive(Debug)]
pub(super) struct Texts<T> {
    seen: Vec<Seen<T>>,
    /// How long an edit takes to where the program looks.
    delay: Duration,
}

#[derive(Clone, Debug)]
struct Seen<T> {
    text: Text<T>,
    reload: Reload,
    /// When it was put in the place of the one before.
    edited: Edited,
}

/// A text.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Text<T> {
    /// It was there while this agent ran.
    Known(T),
    /// It was there before this agent ran, or so long ago that it isn't kept.
    Unknown,
    /// It was there before this agent ran, if any pod was started before this time: that of the
    /// ConfigMap's creation. No pod starts before its ConfigMap exists.
    IfStartedBefore(SystemTime),
}

/// When a text was written.
#[derive(Clone, Copy, Debug)]
struct Edited {
    /// As clocks tell it.
    at: SystemTime,
    /// When this agent saw it, and how long it had been there by then.
    seen: Instant,
    age: Duration,
}

/// Which pods run with a configuration.
#[derive(Clone, Copy, Debug)]
pub(super) enum Pods<'a> {
    /// That isn't followed.
    NotFollowed,
    /// It isn't known yet.
    Unknown,
    /// Those with these starts.
    Started(&'a Starts),
}

/// Until when a program may run with another text than the newest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hold {
    /// The end; none where only other knowledge ends it.
    pub(super) until: Option<Instant>,
    /// What is waited for, for people.
    pub(super) reason: String,
}

impl<T: Clone + PartialEq> Texts<T> {
    pub(super) fn new(delay: Duration) -> Texts<T> {
        Texts {
            seen: Vec::new(),
            delay,
        }
    }

    /// The newest one.
    pub(super) fn newest(&self) -> Option<&T> {
        match &self.seen.last()?.text {
            Text::Known(text) => Some(text),
            Text::Unknown | Text::IfStartedBefore(_) => None,
        }
    }

    /// Takes the text of this moment, in which `reload` was read, of a program with these pods.
    pub(super) fn put(
        &mut self,
        text: T,
        reload: Reload,
        written: Option<Written>,
        pods: Pods<'_>,
    ) {
        let text = Text::Known(text);
        if self.seen.last().is_some_and(|last| last.text == text) {
            return;
        }
        self.advance(pods);
        // What no program runs with was never in force: the text before it is not known.
        let was_in_force = |seen: &Seen<T>| seen.reload != Reload::Refused;
        let edited = match self.seen.last() {
            Some(last) if self.seen.iter().any(was_in_force) => Edited::after(last.edited, written),
            _ => self.before(reload, written),
        };
        self.seen.push(Seen {
            text,
            reload,
            edited,
        });
        if self.seen.len() > KEPT {
            self.merge_oldest();
        }
    }

    /// Until when a program with these pods may run with another text than the newest. Texts that
    /// are said to be harmless mean the same as the newest.
    pub(super) fn hold(
        &mut self,
        program: &str,
        pods: Pods<'_>,
        mut is_harmless: impl FnMut(&T) -> bool,
    ) -> Option<Hold> {
        let end = self.advance(pods);
        let (newest, older) = self.seen.split_last()?;
        let is_other = |seen: &&Seen<T>| match &seen.text {
            Text::Known(text) => !is_harmless(text),
            Text::Unknown | Text::IfStartedBefore(_) => true,
        };
        let mut others = older.iter().filter(|seen| seen.reload != Reload::Refused);
        others.find(is_other)?;
        let end = end.filter(|_| newest.reload != Reload::Refused);
        let reload = self.slowest();
        let reason = match end {
            Some(end) => {
                let left = end.saturating_duration_since(Instant::now());
                let time = clock(SystemTime::now() + left);
                format!("{program} may answer by the one of before until {time} ({reload})")
            }
            None => {
                let seconds = self.delay.as_secs();
                format!(
                    "{program} may answer by the one of before until its pods are started again, \
                     {seconds} s after the change or later ({reload})"
                )
            }
        };
        Some(Hold { until: end, reason })
    }

    /// What was written before the first text that this agent sees. How often CoreDNS looked for a
    /// new text then is not known; it is taken for what the new text says.
    fn before(&mut self, reload: Reload, written: Option<Written>) -> Edited {
        let now = Edited::now();
        let (text, at) = match written {
            None => return now,
            Some(Written::Edited(at)) => (Text::Unknown, at),
            Some(Written::Made(at)) => (Text::IfStartedBefore(at), at),
        };
        self.seen.push(Seen {
            text,
            reload,
            edited: now,
        });
        Edited {
            at,
            // A clock that differs makes it longer or shorter, but never longer than after an edit
            // that was seen.
            age: now.at.duration_since(at).unwrap_or_default(),
            ..now
        }
    }

    /// Forgets the texts that the program has left; when it has left all but the newest, if that is
    /// known.
    fn advance(&mut self, pods: Pods<'_>) -> Option<Instant> {
        self.forget_unmade(pods);
        let end = self.end(pods);
        if end.is_some_and(|end| end <= Instant::now()) {
            self.settle();
        }
        end
    }

    fn forget_unmade(&mut self, pods: Pods<'_>) {
        self.seen.retain(|seen| match (&seen.text, pods) {
            (Text::IfStartedBefore(made), Pods::Started(starts)) => starts.any_before(*made),
            (Text::IfStartedBefore(_), Pods::NotFollowed) => false,
            _ => true,
        });
    }

    /// When the newest text is surely the one that the program runs with; none if that isn't known.
    fn end(&self, pods: Pods<'_>) -> Option<Instant> {
        let (newest, older) = self.seen.split_last()?;
        let Edited { at, seen, age } = newest.edited;
        if let Pods::Started(starts) = pods
            && starts.are_since(at + self.delay)
        {
            return Some(seen);
        }
        let mut longest = newest.reload.period().unwrap_or_default();
        for before in older.iter().filter(|seen| seen.reload != Reload::Refused) {
            let period = match (before.reload.period(), pods) {
                // Nothing depends on it there, and what is said must end.
                (None, Pods::NotFollowed) => Some(Duration::ZERO),
                (period, _) => period,
            };
            longest = longest.max(period?);
        }
        Some(seen + (self.delay + longest).saturating_sub(age))
    }

    /// Forgets all texts but the newest, if the program takes that.
    fn settle(&mut self) {
        let is_taken = |seen: &Seen<T>| seen.reload != Reload::Refused;
        if self.seen.last().is_some_and(is_taken) {
            self.seen.drain(..self.seen.len() - 1);
        }
    }

    /// The `reload` that keeps the program longest from the newest text.
    fn slowest(&self) -> Reload {
        let reloads = || self.seen.iter().map(|seen| seen.reload);
        let (_, older) = self.seen.split_last().unzip();
        let mut endless = older.into_iter().flatten().map(|seen| seen.reload);
        let endless = endless.find(|reload| matches!(reload, Reload::Never | Reload::Unknown));
        let longest = || reloads().max_by_key(Reload::period);
        endless.or_else(longest).unwrap_or(Reload::Unknown)
    }

    fn merge_oldest(&mut self) {
        let oldest = self.seen.remove(0);
        let Some(next) = self.seen.first_mut() else {
            return;
        };
        let is_endless = |reload: Reload| matches!(reload, Reload::Never | Reload::Unknown);
        let is_slower = oldest.reload.period() > next.reload.period();
        if is_endless(oldest.reload) || (is_slower && !is_endless(next.reload)) {
            next.reload = oldest.reload;
        }
        next.text = Text::Unknown;
    }
}

impl Edited {
    /// Just now, as this agent sees it.
    fn now() -> Edited {
        Edited {
            at: SystemTime::now(),
            seen: Instant::now(),
            age: Duration::ZERO,
        }
    }

    /// The same, with the time that the object says, if that is of this edit.
    fn after(before: Edited, written: Option<Written>) -> Edited {
        let now = Edited::now();
        let at = written.map(|(Written::Made(at) | Written::Edited(at))| at);
        Edited {
            at: at.filter(|at| *at > before.at).unwrap_or(now.at),
            ..now
        }
    }
}

/// The time of day.
fn clock(time: SystemTime) -> String {
    let text = humantime::format_rfc3339_seconds(time).to_string();
    let time = text.split_once('T').map_or(&*text, |(_, time)| time);
    format!("{} UTC", time.trim_end_matches('Z'))
}

#[cfg(test)]
mod tests;
