//! How long the kernel passes all queries after an edit.
//!
//! A hold is the kubelet's 90 s, a reload interval and its jitter: 90 + 30 + 15 = 135 s, or
//! 90 + 600 + 60 = 750 s.

use std::time::{Duration, Instant, SystemTime};

use zerohop_kubernetes::{Reload, WriteTime};

use super::{ConfigVersions, Hold, KUBELET_DELAY, RunningPods};
use crate::agent::kubernetes::dns_path::PodStarts;

const NEVER: Reload = Reload::Never;

fn every(interval: u64, jitter: u64) -> Reload {
    Reload::Every {
        interval: Duration::from_secs(interval),
        jitter: Duration::from_secs(jitter),
    }
}

/// Versions with these texts. All of them are read now, one after another, and it isn't known when
/// they were written.
fn versions_of(texts: &[(&'static str, Reload)]) -> ConfigVersions<&'static str> {
    let mut all = ConfigVersions::new(KUBELET_DELAY);
    for (text, reload) in texts {
        all.add_version(*text, *reload, None, RunningPods::Unknown);
    }
    all
}

/// Seconds from now until the hold ends, rounded up; `None` when no end is known.
fn seconds_left(hold: &Hold) -> Option<u64> {
    let left = hold.until?.saturating_duration_since(Instant::now());
    Some(left.as_secs_f64().ceil() as u64)
}

/// The seconds until the hold ends, if no two texts lead to the same answers. `None`: there is no
/// hold. `Some(None)`: no end is known.
fn hold_of(
    versions: &mut ConfigVersions<&'static str>,
    pods: RunningPods<'_>,
) -> Option<Option<u64>> {
    let hold = versions.hold("CoreDNS", pods, |_| false)?;
    Some(seconds_left(&hold))
}

/// Pods with start times given in seconds from now. The tests edit texts now, so a pod that starts
/// after the edit has a positive time.
fn pods_started_at(seconds: &[i64]) -> PodStarts {
    let now = SystemTime::now();
    let at = |seconds: &i64| match Duration::from_secs(seconds.unsigned_abs()) {
        after if *seconds >= 0 => now + after,
        before => now - before,
    };
    PodStarts(seconds.iter().map(at).map(Some).collect())
}

fn ago(seconds: u64) -> SystemTime {
    SystemTime::now() - Duration::from_secs(seconds)
}

#[test]
fn the_hold_lasts_for_the_longer_interval_of_the_old_and_the_new_text() {
    for (old, new, wanted) in [
        // The kubelet's 90 s, the interval and the jitter.
        (every(30, 15), every(30, 15), 90 + 30 + 15),
        (every(600, 60), every(30, 15), 90 + 600 + 60),
        (every(30, 15), every(600, 60), 90 + 600 + 60),
        (every(30, 15), NEVER, 90 + 30 + 15),
    ] {
        let mut versions = versions_of(&[("old", old), ("new", new)]);
        let left = hold_of(&mut versions, RunningPods::Unknown);
        assert_eq!(left, Some(Some(wanted)), "{old} to {new}");
    }
}

#[test]
fn a_single_version_causes_no_hold() {
    let mut versions = versions_of(&[("only", every(600, 60)), ("only", every(600, 60))]);
    assert_eq!(hold_of(&mut versions, RunningPods::Unknown), None);
    assert_eq!(
        hold_of(
            &mut ConfigVersions::<&'static str>::new(KUBELET_DELAY),
            RunningPods::Unknown
        ),
        None
    );
}

#[test]
fn without_reload_the_pods_must_have_been_started_after_the_edit() {
    let pods = |seconds| Some(pods_started_at(seconds));
    for (starts, is_held) in [
        (None, true),
        (Some(PodStarts::default()), true),
        (pods(&[-1000]), true),
        // The kubelet may have had the previous text.
        (pods(&[5]), true),
        (pods(&[100, -1000]), true),
        (pods(&[100, 200]), false),
        (Some(PodStarts(vec![None])), true),
    ] {
        for old in [NEVER, Reload::Unknown] {
            let mut versions = versions_of(&[("old", old), ("new", every(30, 15))]);
            let pods = starts
                .as_ref()
                .map_or(RunningPods::Unknown, RunningPods::Started);
            let wanted = is_held.then_some(None);
            assert_eq!(hold_of(&mut versions, pods), wanted, "{old}: {starts:?}");
        }
    }
}

/// The hold ends before the reload intervals have passed.
#[test]
fn pods_started_after_the_edit_end_the_hold() {
    let mut versions = versions_of(&[("old", every(600, 60)), ("new", every(600, 60))]);
    // One second more than the kubelet may take.
    let starts = pods_started_at(&[91]);
    assert_eq!(hold_of(&mut versions, RunningPods::Started(&starts)), None);
    // The older version is dropped for good.
    assert_eq!(hold_of(&mut versions, RunningPods::Unknown), None);
}

#[test]
fn an_equivalent_text_causes_no_hold_but_its_interval_counts_later() {
    let mut versions = versions_of(&[("same", every(600, 60)), ("Same", every(30, 15))]);
    assert!(
        versions
            .hold("CoreDNS", RunningPods::Unknown, |_| true)
            .is_none()
    );
    versions.add_version("other", every(30, 15), None, RunningPods::Unknown);
    assert_eq!(
        hold_of(&mut versions, RunningPods::Unknown),
        Some(Some(750))
    );
}

/// CoreDNS keeps the earlier text, and checks for a new one at the interval of the earlier text.
#[test]
fn a_text_that_coredns_refuses_does_not_replace_the_earlier_text() {
    let mut versions = versions_of(&[("old", every(600, 60)), ("refused", Reload::Refused)]);
    assert_eq!(hold_of(&mut versions, RunningPods::Unknown), Some(None));
    versions.add_version("new", every(30, 15), None, RunningPods::Unknown);
    assert_eq!(
        hold_of(&mut versions, RunningPods::Unknown),
        Some(Some(750))
    );
}

#[test]
fn a_hold_ends_when_the_longest_interval_has_passed() {
    let mut versions = versions_of(&[("old", every(30, 15)), ("new", every(600, 60))]);
    // As if the edit had been made 749 s before it was read: 1 s of the 750 s is left.
    let edited_at = &mut versions.versions[1].edited_at;
    edited_at.age = Duration::from_secs(749);
    assert_eq!(hold_of(&mut versions, RunningPods::Unknown), Some(Some(1)));
    versions.versions[1].edited_at.age = Duration::from_secs(750);
    assert_eq!(hold_of(&mut versions, RunningPods::Unknown), None);
    // By now CoreDNS runs `new`, so the interval of `new` counts for the next edit.
    versions.add_version("newer", NEVER, None, RunningPods::Unknown);
    assert_eq!(
        hold_of(&mut versions, RunningPods::Unknown),
        Some(Some(750))
    );
    versions.add_version("newest", every(30, 15), None, RunningPods::Unknown);
    assert_eq!(hold_of(&mut versions, RunningPods::Unknown), Some(None));
}

#[test]
fn the_age_of_an_edit_before_the_agents_start_shortens_the_hold() {
    for (reload, age, wanted) in [
        (every(30, 15), 20, Some(Some(135 - 20))),
        (every(30, 15), 140, None),
        (every(600, 60), 140, Some(Some(750 - 140))),
        (every(600, 60), 760, None),
        (NEVER, 100_000, Some(None)),
    ] {
        let mut versions = ConfigVersions::new(KUBELET_DELAY);
        let written = Some(WriteTime::Edited(ago(age)));
        versions.add_version("text", reload, written, RunningPods::Unknown);
        assert_eq!(
            hold_of(&mut versions, RunningPods::Unknown),
            wanted,
            "{reload}, {age} s"
        );
        // A pod that starts 91 s after the edit has the new text.
        let starts = pods_started_at(&[91 - i64::try_from(age).unwrap()]);
        assert_eq!(hold_of(&mut versions, RunningPods::Started(&starts)), None);
    }
    // The API server's clock is ahead.
    let mut versions = ConfigVersions::new(KUBELET_DELAY);
    let written = Some(WriteTime::Edited(
        SystemTime::now() + Duration::from_secs(50),
    ));
    versions.add_version("text", every(30, 15), written, RunningPods::Unknown);
    assert_eq!(
        hold_of(&mut versions, RunningPods::Unknown),
        Some(Some(135))
    );
}

/// If a pod is older than the ConfigMap, the ConfigMap was deleted and created again.
#[test]
fn a_config_map_younger_than_a_pod_had_a_prior_version() {
    for (starts, wanted) in [(-10, None), (-30, Some(Some(135 - 20)))] {
        let mut versions = ConfigVersions::new(KUBELET_DELAY);
        let written = Some(WriteTime::Created(ago(20)));
        versions.add_version("text", every(30, 15), written, RunningPods::Unknown);
        let starts = pods_started_at(&[starts, -5]);
        assert_eq!(
            hold_of(&mut versions, RunningPods::Started(&starts)),
            wanted
        );
    }
}

#[test]
fn a_hold_ends_where_pods_are_not_watched() {
    let mut versions = versions_of(&[("old", NEVER), ("new", every(30, 15))]);
    assert_eq!(
        hold_of(&mut versions, RunningPods::NotWatched),
        Some(Some(135))
    );
}

#[test]
fn merged_versions_keep_their_longest_interval() {
    for (slow, wanted) in [(every(600, 60), Some(750)), (NEVER, None)] {
        let mut versions = versions_of(&[("0", every(30, 15)), ("slow", slow)]);
        for text in ["1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11"] {
            versions.add_version(text, every(30, 15), None, RunningPods::Unknown);
        }
        assert_eq!(versions.versions.len(), super::MAX_VERSIONS);
        assert_eq!(hold_of(&mut versions, RunningPods::Unknown), Some(wanted));
        // A merged version may have been any text.
        assert!(
            versions
                .hold("CoreDNS", RunningPods::Unknown, |_| true)
                .is_some()
        );
    }
}

#[test]
fn the_reason_says_how_long_and_why() {
    let mut versions = versions_of(&[("old", every(600, 60)), ("new", every(30, 15))]);
    let hold = versions
        .hold("CoreDNS", RunningPods::Unknown, |_| false)
        .unwrap();
    let (before, after) = hold.reason.split_once(" UTC ").unwrap();
    let start = "CoreDNS may still run with the previous version until ";
    assert!(before.starts_with(start), "{before}");
    assert_eq!(after, "(reload 10m, jitter 1m)");
    let mut versions = versions_of(&[("old", NEVER), ("new", every(30, 15))]);
    let hold = versions
        .hold("CoreDNS", RunningPods::Unknown, |_| false)
        .unwrap();
    assert_eq!(
        hold.reason,
        "CoreDNS may still run with the previous version until its pods are restarted, 90 s after \
         the change or later (no reload)"
    );
}

/// CoreDNS refused the first text that this agent read, so it may run with an earlier text, which
/// this agent has not read.
#[test]
fn a_text_after_a_refused_text_has_an_unknown_prior_version() {
    for (written, wanted) in [
        (WriteTime::Created(ago(3)), Some(Some(135 - 3))),
        (WriteTime::Edited(ago(3)), Some(Some(135 - 3))),
    ] {
        let mut versions = versions_of(&[("absent", Reload::Refused)]);
        let starts = pods_started_at(&[-1000]);
        versions.add_version(
            "new",
            every(30, 15),
            Some(written),
            RunningPods::Started(&starts),
        );
        assert_eq!(
            hold_of(&mut versions, RunningPods::Started(&starts)),
            wanted,
            "{written:?}"
        );
    }
    // All pods are younger than the ConfigMap.
    let mut versions = versions_of(&[("absent", Reload::Refused)]);
    let starts = pods_started_at(&[0]);
    let created = WriteTime::Created(ago(3));
    versions.add_version("new", NEVER, Some(created), RunningPods::Started(&starts));
    assert_eq!(hold_of(&mut versions, RunningPods::Started(&starts)), None);
}
