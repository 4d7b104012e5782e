//! Steps of the system clock. xtask skips this test on the host. The guests of the kernel matrix
//! run it: `cargo xtask test --kernel all`.

use std::env;

use nix::{
    sys::time::{TimeSpec, TimeValLike as _},
    time::{ClockId, clock_gettime, clock_settime},
};
use zerohop_tests::udp::eventually;

use super::{super::LIMIT, OneNodeCluster, dns, load::LookupMix};

#[test]
fn lookups_succeed_while_the_clock_is_stepped() {
    assert!(
        env::var_os("ZEROHOP_GUEST").is_some(),
        "this steps the clock: run it by `cargo xtask test --kernel all`"
    );
    let cluster = OneNodeCluster::new();
    let _agent = cluster.start_agent(&[]);
    let tally = cluster.look_up_during(
        "clock stepped by an hour, forward and back",
        LookupMix::All,
        || {
            // An hour ahead, an hour behind, and right again.
            for hours in [1, -2, 1] {
                let now = clock_gettime(ClockId::CLOCK_REALTIME).unwrap();
                let then = now + TimeSpec::hours(hours);
                clock_settime(ClockId::CLOCK_REALTIME, then).unwrap();
                std::thread::sleep(super::pause_length());
                cluster.wait_until_answered();
            }
            // The agent still notices changes.
            cluster
                .node
                .manifests
                .write(&dns::services(dns::LOOKED_UP + 1));
            let newest = format!("s{}", dns::LOOKED_UP);
            let is_served = || Ok(cluster.node.pod.service_ttl(&newest) == Some(5));
            assert!(eventually(LIMIT, is_served).unwrap());
        },
    );
    tally.assert_none_failed();
}
