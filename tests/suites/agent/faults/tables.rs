//! The kernel's tables become full while a pod looks names up.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use zerohop_tests::{topology::HOST_VETH, udp::eventually};

use super::{
    super::{AgentProcess, LIMIT, PodClient, binary},
    OneNodeCluster, dns, lease_flags,
    load::LookupMix,
};

/// More services than the first tables have room for. A service has several names, and the agent
/// makes tables for at least 16,384 names, even with a lower `--capacity`.
const MANY_SERVICES: u16 = 20_000;

#[test]
fn tables_with_a_fixed_capacity_become_full() {
    let cluster = OneNodeCluster::new();
    let agent = cluster.start_agent(&["--capacity=100"]);
    let tally = cluster.look_up_during(
        "more services than --capacity has room for",
        LookupMix::All,
        || {
            let services = MANY_SERVICES;
            cluster.node.manifests.write(&dns::services(services));
            let is_full = || {
                let status = agent.status().unwrap();
                Ok(status.contains("the tables are full"))
            };
            assert!(eventually(3 * LIMIT, is_full).unwrap());
            let pod = PodClient::new(&cluster.node.topology);
            for number in (0..services).step_by(97) {
                let name = format!("s{number}");
                assert_eq!(
                    pod.service_address(&name),
                    Some(dns::service_address(number)),
                    "the address of {name}"
                );
            }
        },
    );
    tally.assert_none_failed();
}

/// Without --capacity, larger tables replace full ones.
#[test]
fn full_tables_grow() {
    let cluster = OneNodeCluster::new();
    let mut agent = cluster.start_agent(&[]);
    let tally = cluster.look_up_during(
        "more services than fit: the tables grow",
        LookupMix::All,
        || {
            let services = MANY_SERVICES;
            cluster.node.manifests.write(&dns::services(services));
            agent.wait_for_line("larger tables have replaced").unwrap();
            let pod = PodClient::new(&cluster.node.topology);
            // A TTL of 5 shows that the agent's tables answer. The stand-in for the cluster's DNS
            // sends `STAND_IN_TTL`.
            let is_served = || Ok(pod.service_ttl(&format!("s{}", services - 1)) == Some(5));
            assert!(eventually(LIMIT, is_served).unwrap());
            for number in (0..services).step_by(97) {
                let name = format!("s{number}");
                assert_eq!(
                    pod.service_address(&name),
                    Some(dns::service_address(number)),
                    "the address of {name}"
                );
                assert_eq!(pod.service_ttl(&name), Some(5), "the TTL of {name}");
            }
            // The status follows when the old tables are gone.
            let have_room = || Ok(!agent.status()?.contains("the tables are full"));
            assert!(eventually(LIMIT, have_room).unwrap());
        },
    );
    tally.assert_none_failed();
}

/// Hooks that are links stay attached when the tables grow, because attaching to a network card
/// again interrupts its traffic.
#[test]
fn full_tables_grow_under_a_link() {
    let cluster = OneNodeCluster::new();
    let interface = format!("{HOST_VETH}=xdp-generic");
    let node = &cluster.node;
    let mut command = node.command_on(&interface, &binary(), &node.manifests);
    command.arg("--persist").args(lease_flags());
    let mut agent = AgentProcess::start(command).unwrap();
    cluster.wait_until_answered();
    let before = pin_inodes(node.bpffs.path());
    assert_eq!(before.len(), 1, "not exactly one pin: {before:?}");
    let what = "the tables grow under a generic XDP link";
    let tally = cluster.look_up_during(what, LookupMix::All, || {
        node.manifests.write(&dns::services(MANY_SERVICES));
        agent.wait_for_line("larger tables have replaced").unwrap();
        let is_served = || Ok(node.pod.service_ttl("s19999") == Some(5));
        assert!(eventually(LIMIT, is_served).unwrap());
    });
    tally.assert_none_failed();
    assert_eq!(
        pin_inodes(node.bpffs.path()),
        before,
        "the pin changed, so the link was not kept"
    );
}

/// Tables may have enough free bytes, but in slots that are too small for new records.
#[test]
fn tables_with_slots_of_wrong_sizes_are_replaced() {
    let cluster = OneNodeCluster::new();
    let mut agent = cluster.start_agent(&[]);
    let what = "new services whose records do not fit the free slots";
    let tally = cluster.look_up_during(what, LookupMix::All, || {
        let served = |name: &str| cluster.node.pod.service_ttl(name) == Some(5);
        cluster.node.manifests.write(&dns::services(MANY_SERVICES));
        agent.wait_for_line("larger tables have replaced").unwrap();
        assert!(eventually(LIMIT, || Ok(served("s19999"))).unwrap());

        // 13,000 services with long names need about as much memory as 20,000 with short names, but
        // larger slots. The services that are looked up keep their names.
        let long = "s".repeat(50);
        let others = dns::services_named(&long, dns::LOOKED_UP..13_000);
        let manifests = dns::services(dns::LOOKED_UP) + &others;
        cluster.node.manifests.write(&manifests);
        agent.wait_for_line("larger tables have replaced").unwrap();
        for number in (dns::LOOKED_UP..13_000).step_by(97) {
            let name = format!("{long}{number}");
            assert!(
                eventually(LIMIT, || Ok(served(&name))).unwrap(),
                "the kernel never answered {name}"
            );
        }
    });
    tally.assert_none_failed();
}

/// The inode numbers of the pins. A link that is pinned again has another number.
fn pin_inodes(bpffs: &Path) -> BTreeSet<u64> {
    let inside = |folder: PathBuf| {
        let entries = fs::read_dir(folder).unwrap();
        entries.map(|entry| entry.unwrap())
    };
    let namespaces = inside(bpffs.join("zerohop"));
    let pins = namespaces.flat_map(|namespace| inside(namespace.path()));
    pins.map(|pin| pin.metadata().unwrap().ino()).collect()
}
