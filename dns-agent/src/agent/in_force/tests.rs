//! How long texts stay in force.

use std::time::{Duration, Instant, SystemTime};

use super::{Hold, KUBELET, Pods, Texts};
use crate::{agent::dns_path::Starts, cluster::Reload, source::Written};

const NEVER: Reload = Reload::Never;

fn every(interval: u64, jitter: u64) -> Reload {
    Reload::Every {
        interval: Duration::from_secs(interval),
        jitter: Duration::from_secs(jitter),
    }
}

/// Texts that were seen one after the other, in the same moment.
fn seen(texts: &[(&'static str, Reload)]) -> Texts<&'static str> {
    let mut all = Texts::new(KUBELET);
    for (text, reload) in texts {
        all.put(*text, *reload, None, Pods::Unknown);
    }
    all
}

/// For how long a hold lasts from now on: seconds, rounded up; none while no end is known.
fn seconds(hold: &Hold) -> Option<u64> {
    let left = hold.until?.saturating_duration_since(Instant::now());
    Some(left.as_secs_f64().ceil() as u64)
}

/// The hold of texts of which none means the same as another.
fn hold(texts: &mut Texts<&'static str>, pods: Pods<'_>) -> Option<Option<u64>> {
    let hold = texts.hold("CoreDNS", pods, |_| false)?;
    Some(seconds(&hold))
}

/// Pods that were started so many seconds from now.
fn started(seconds: &[i64]) -> Starts {
    let now = SystemTime::now();
    let at = |seconds: &i64| match Duration::from_secs(seconds.unsigned_abs()) {
        after if *seconds >= 0 => now + after,
        before => now - before,
    };
    Starts(seconds.iter().map(at).map(Some).collect())
}

fn ago(seconds: u64) -> SystemTime {
    SystemTime::now() - Duration::from_secs(seconds)
}

#[test]
fn the_longer_interval_of_the_old_and_the_new_text_counts() {
    for (old, new, wanted) in [
        (every(30, 15), every(30, 15), 135),
        (every(600, 60), every(30, 15), 750),
        (every(30, 15), every(600, 60), 750),
        (every(30, 15), NEVER, 135),
    ] {
        let mut texts = seen(&[("old", old), ("new", new)]);
        let left = hold(&mut texts, Pods::Unknown);
        assert_eq!(left, Some(Some(wanted)), "{old} to {new}");
    }
}

#[test]
fn one_text_holds_nothing() {
    let mut texts = seen(&[("only", every(600, 60)), ("only", every(600, 60))]);
    assert_eq!(hold(&mut texts, Pods::Unknown), None);
    assert_eq!(
        hold(&mut Texts::<&'static str>::new(KUBELET), Pods::Unknown),
        None
    );
}

#[test]
fn without_reload_the_pods_must_have_been_started_after_the_edit() {
    let pods = |seconds| Some(started(seconds));
    for (starts, is_held) in [
        (None, true),
        (Some(Starts::default()), true),
        (pods(&[-1000]), true),
        // The kubelet may have had the text of before.
        (pods(&[5]), true),
        (pods(&[100, -1000]), true),
        (pods(&[100, 200]), false),
        (Some(Starts(vec![None])), true),
    ] {
        for old in [NEVER, Reload::Unknown] {
            let mut texts = seen(&[("old", old), ("new", every(30, 15))]);
            let pods = starts.as_ref().map_or(Pods::Unknown, Pods::Started);
            let wanted = is_held.then_some(None);
            assert_eq!(hold(&mut texts, pods), wanted, "{old}: {starts:?}");
        }
    }
}

/// It is shorter than by the intervals.
#[test]
fn pods_that_were_started_after_the_edit_end_any_hold() {
    let mut texts = seen(&[("old", every(600, 60)), ("new", every(600, 60))]);
    let starts = started(&[91]);
    assert_eq!(hold(&mut texts, Pods::Started(&starts)), None);
    // That stays so.
    assert_eq!(hold(&mut texts, Pods::Unknown), None);
}

#[test]
fn a_text_that_means_the_same_holds_nothing_and_its_interval_counts_later() {
    let mut texts = seen(&[("same", every(600, 60)), ("Same", every(30, 15))]);
    assert!(texts.hold("CoreDNS", Pods::Unknown, |_| true).is_none());
    texts.put("other", every(30, 15), None, Pods::Unknown);
    assert_eq!(hold(&mut texts, Pods::Unknown), Some(Some(750)));
}

/// CoreDNS goes on with the one before, and looks for another one as that says.
#[test]
fn a_text_that_coredns_refuses_ends_no_other() {
    let mut texts = seen(&[("old", every(600, 60)), ("refused", Reload::Refused)]);
    assert_eq!(hold(&mut texts, Pods::Unknown), Some(None));
    texts.put("new", every(30, 15), None, Pods::Unknown);
    assert_eq!(hold(&mut texts, Pods::Unknown), Some(Some(750)));
}

#[test]
fn a_hold_ends_with_its_time() {
    let mut texts = seen(&[("old", every(30, 15)), ("new", every(600, 60))]);
    let edited = &mut texts.seen[1].edited;
    edited.age = Duration::from_secs(749);
    assert_eq!(hold(&mut texts, Pods::Unknown), Some(Some(1)));
    texts.seen[1].edited.age = Duration::from_secs(750);
    assert_eq!(hold(&mut texts, Pods::Unknown), None);
    // The first one doesn't count any more.
    texts.put("newer", NEVER, None, Pods::Unknown);
    assert_eq!(hold(&mut texts, Pods::Unknown), Some(Some(750)));
    texts.put("newest", every(30, 15), None, Pods::Unknown);
    assert_eq!(hold(&mut texts, Pods::Unknown), Some(None));
}

#[test]
fn an_edit_before_the_agent_counts_by_its_age() {
    for (reload, age, wanted) in [
        (every(30, 15), 20, Some(Some(115))),
        (every(30, 15), 140, None),
        (every(600, 60), 140, Some(Some(610))),
        (every(600, 60), 760, None),
        (NEVER, 100_000, Some(None)),
    ] {
        let mut texts = Texts::new(KUBELET);
        let written = Some(Written::Edited(ago(age)));
        texts.put("text", reload, written, Pods::Unknown);
        assert_eq!(hold(&mut texts, Pods::Unknown), wanted, "{reload}, {age} s");
        let starts = started(&[91 - i64::try_from(age).unwrap()]);
        assert_eq!(hold(&mut texts, Pods::Started(&starts)), None);
    }
    // Clocks differ.
    let mut texts = Texts::new(KUBELET);
    let written = Some(Written::Edited(SystemTime::now() + Duration::from_secs(50)));
    texts.put("text", every(30, 15), written, Pods::Unknown);
    assert_eq!(hold(&mut texts, Pods::Unknown), Some(Some(135)));
}

/// It was deleted and made again if a pod is older.
#[test]
fn a_config_map_that_is_younger_than_a_pod_was_there_before() {
    for (starts, wanted) in [(-10, None), (-30, Some(Some(115)))] {
        let mut texts = Texts::new(KUBELET);
        let written = Some(Written::Made(ago(20)));
        texts.put("text", every(30, 15), written, Pods::Unknown);
        let starts = started(&[starts, -5]);
        assert_eq!(hold(&mut texts, Pods::Started(&starts)), wanted);
    }
}

#[test]
fn where_pods_are_not_followed_a_hold_ends_anyway() {
    let mut texts = seen(&[("old", NEVER), ("new", every(30, 15))]);
    assert_eq!(hold(&mut texts, Pods::NotFollowed), Some(Some(135)));
}

#[test]
fn many_edits_are_kept_by_their_longest_interval() {
    for (slow, wanted) in [(every(600, 60), Some(750)), (NEVER, None)] {
        let mut texts = seen(&[("0", every(30, 15)), ("slow", slow)]);
        for text in ["1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11"] {
            texts.put(text, every(30, 15), None, Pods::Unknown);
        }
        assert_eq!(texts.seen.len(), super::KEPT);
        assert_eq!(hold(&mut texts, Pods::Unknown), Some(wanted));
        // What is forgotten may have been anything.
        assert!(texts.hold("CoreDNS", Pods::Unknown, |_| true).is_some());
    }
}

#[test]
fn people_are_told_for_how_long_and_why() {
    let mut texts = seen(&[("old", every(600, 60)), ("new", every(30, 15))]);
    let hold = texts.hold("CoreDNS", Pods::Unknown, |_| false).unwrap();
    let (before, after) = hold.reason.split_once(" UTC ").unwrap();
    assert!(before.starts_with("CoreDNS may answer by the one of before until "));
    assert_eq!(after, "(reload 10m, jitter 1m)");
    let mut texts = seen(&[("old", NEVER), ("new", every(30, 15))]);
    let hold = texts.hold("CoreDNS", Pods::Unknown, |_| false).unwrap();
    assert_eq!(
        hold.reason,
        "CoreDNS may answer by the one of before until its pods are started again, \
         90 s after the change or later (no reload)"
    );
}

/// CoreDNS goes on with a text that this agent has not seen.
#[test]
fn a_text_after_none_that_is_in_force_is_no_first_one() {
    for (written, wanted) in [
        (Written::Made(ago(3)), Some(Some(132))),
        (Written::Edited(ago(3)), Some(Some(132))),
    ] {
        let mut texts = seen(&[("absent", Reload::Refused)]);
        let starts = started(&[-1000]);
        texts.put("new", every(30, 15), Some(written), Pods::Started(&starts));
        assert_eq!(
            hold(&mut texts, Pods::Started(&starts)),
            wanted,
            "{written:?}"
        );
    }
    // All pods are younger than the ConfigMap.
    let mut texts = seen(&[("absent", Reload::Refused)]);
    let starts = started(&[0]);
    let made = Written::Made(ago(3));
    texts.put("new", NEVER, Some(made), Pods::Started(&starts));
    assert_eq!(hold(&mut texts, Pods::Started(&starts)), None);
}
