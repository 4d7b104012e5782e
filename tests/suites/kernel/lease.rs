//! The lease: it begins when the agent says that what is published may be answered, and by nothing else.

use std::{thread, time::Duration};

use dns_agent::datapath::{Config, Datapath, Ending, Lease};

use super::{cluster::model, fixture};

/// Long enough for what is tested in it.
const STALE_AFTER: Duration = Duration::from_secs(4);

const ANOTHER: &str = "
apiVersion: v1
kind: Service
metadata: {name: another, namespace: shop}
spec: {clusterIP: 10.96.1.77}
";

#[test]
fn what_may_not_be_answered_is_not_answered_after_a_round() {
    let mut datapath = start(Lease::IsOver);
    pass_time();
    datapath.publish(&model(ANOTHER, &[])).unwrap();
    assert!(!is_leased(&datapath));
    datapath.renew_lease().unwrap();
    assert!(is_leased(&datapath));
    datapath.end_lease();
    pass_time();
    datapath.publish(&fixture::model()).unwrap();
    assert!(!is_leased(&datapath));
}

#[test]
fn what_may_not_be_answered_is_not_answered_after_the_agents_end() {
    let mut datapath = start(Lease::Begins);
    assert!(is_leased(&datapath));
    datapath.end_lease();
    datapath.stop(Ending::Left);
    assert!(!is_leased(&datapath));
}

/// Until a lease would be renewed, if there was one.
fn pass_time() {
    thread::sleep(STALE_AFTER / 3);
}

fn is_leased(datapath: &Datapath) -> bool {
    datapath.status().unwrap().lease.remaining_seconds > 0.0
}

fn start(lease: Lease) -> Datapath {
    let config = Config {
        stale_after: STALE_AFTER,
        ..fixture::config()
    };
    Datapath::start(config, None, &[], &fixture::model(), lease).unwrap()
}
