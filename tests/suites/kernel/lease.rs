//! A lease that was ended, or has run out, begins again only when the agent renews it.

use std::{thread, time::Duration};

use zerohop_datapath::{Datapath, DatapathConfig, InitialLease, StopMode};

use zerohop_tests::udp::eventually;

use super::{fixture, models::model};

/// The lease: longer than each publication in these tests takes, so that a lease that a publication
/// renewed would still be running when the test looks.
const STALE_AFTER: Duration = Duration::from_secs(4);

/// A Service that `fixture::model` lacks, so that its publication writes records.
const ANOTHER: &str = "
apiVersion: v1
kind: Service
metadata: {name: another, namespace: shop}
spec: {clusterIP: 10.96.1.77}
";

#[test]
fn publishing_does_not_renew_an_ended_lease() {
    let mut datapath = start(InitialLease::Ended);
    pass_time();
    datapath.publish_all(&model(ANOTHER, &[])).unwrap();
    assert!(!is_leased(&datapath));
    datapath.renew_lease(STALE_AFTER).unwrap();
    assert!(is_leased(&datapath));
    datapath.end_lease();
    pass_time();
    datapath.publish_all(&fixture::model()).unwrap();
    assert!(!is_leased(&datapath));
}

#[test]
fn publishing_does_not_renew_a_lease_that_has_run_out() {
    let mut datapath = start(InitialLease::Running);
    let has_run_out = || Ok(!is_leased(&datapath));
    assert!(eventually(10 * STALE_AFTER, has_run_out).unwrap());
    datapath.publish_all(&model(ANOTHER, &[])).unwrap();
    assert!(!is_leased(&datapath));
}

#[test]
fn stopping_the_agent_does_not_renew_an_ended_lease() {
    let mut datapath = start(InitialLease::Running);
    assert!(is_leased(&datapath));
    datapath.end_lease();
    datapath.stop(StopMode::KeepHooks);
    assert!(!is_leased(&datapath));
}

/// Sleeps longer than a quarter of the lease. After that time a publication renews the lease if it
/// is still running.
fn pass_time() {
    thread::sleep(STALE_AFTER / 3);
}

fn is_leased(datapath: &Datapath) -> bool {
    datapath.status().unwrap().lease.remaining_seconds > 0.0
}

/// Starts the kernel plane without pins and without devices.
fn start(lease: InitialLease) -> Datapath {
    let config = DatapathConfig {
        stale_after: STALE_AFTER,
        ..fixture::config()
    };
    Datapath::start(config, None, &[], &fixture::model(), lease).unwrap()
}
