//! The clock, which only a machine of its own may have stepped: `cargo xtask test --kernel` runs this,
//! and on this machine it is filtered out.

use std::env;

use nix::{
    sys::time::{TimeSpec, TimeValLike as _},
    time::{ClockId, clock_gettime, clock_settime},
};
use zerohop_tests::udp::eventually;

use super::{super::LIMIT, Cluster, dns, load::Mix};

#[test]
fn stepped() {
    assert!(
        env::var_os("ZEROHOP_GUEST").is_some(),
        "this steps the clock: run it by `cargo xtask test --kernel all`"
    );
    let cluster = Cluster::new();
    let _agent = cluster.agent(&[]);
    let tally = cluster.during("clock stepped by an hour, on and back", Mix::All, || {
        for hours in [1, -2, 1] {
            let now = clock_gettime(ClockId::CLOCK_REALTIME).unwrap();
            let then = now + TimeSpec::hours(hours);
            clock_settime(ClockId::CLOCK_REALTIME, then).unwrap();
            std::thread::sleep(super::pause());
            cluster.until_answered();
        }
        // What comes after is heard of too.
        cluster
            .node
            .manifests
            .write(&dns::services(dns::LOOKED_UP + 1));
        let newest = format!("s{}", dns::LOOKED_UP);
        let is_served = || Ok(cluster.node.pod.ttl_of(&newest) == Some(5));
        assert!(eventually(LIMIT, is_served).unwrap());
    });
    tally.assert_none_failed();
}
