//! The kernel's tables run full, while a pod looks names up.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use zerohop_tests::{topology::HOST_VETH, udp::eventually};

use super::{
    super::{Agent, LIMIT, Pod, binary},
    Cluster, dns, lease,
    load::Mix,
};

#[test]
fn full() {
    let cluster = Cluster::new();
    let agent = cluster.agent(&["--capacity=100"]);
    let tally = cluster.during(
        "more services than --capacity has room for",
        Mix::All,
        || {
            let services = 20_000;
            cluster.node.manifests.write(&dns::services(services));
            let is_full = || {
                let status = agent.status(&cluster.node.topology.node);
                Ok(status.contains("the tables are full"))
            };
            assert!(eventually(3 * LIMIT, is_full).unwrap());
            let pod = Pod::new(&cluster.node.topology);
            for number in (0..services).step_by(97) {
                let name = format!("s{number}");
                assert_eq!(pod.address(&name), Some(dns::address(number)), "{name}");
            }
        },
    );
    tally.assert_none_failed();
}

/// Larger tables come in the place of those that nobody has said the size of.
#[test]
fn grow() {
    let cluster = Cluster::new();
    let agent = cluster.agent(&[]);
    let tally = cluster.during(
        "more services than there is room for: the tables grow",
        Mix::All,
        || {
            let services = 20_000;
            cluster.node.manifests.write(&dns::services(services));
            agent.line_with("other tables are in the place");
            let pod = Pod::new(&cluster.node.topology);
            let is_served = || Ok(pod.ttl_of(&format!("s{}", services - 1)) == Some(5));
            assert!(eventually(LIMIT, is_served).unwrap());
            for number in (0..services).step_by(97) {
                let name = format!("s{number}");
                assert_eq!(pod.address(&name), Some(dns::address(number)), "{name}");
                assert_eq!(pod.ttl_of(&name), Some(5), "{name}");
            }
            let status = agent.status(&cluster.node.topology.node);
            assert!(!status.contains("the tables are full"), "{status}");
        },
    );
    tally.assert_none_failed();
}

/// Where hooks are links, they stay: setting a card up anew takes a moment without it.
#[test]
fn grow_below_a_link() {
    let cluster = Cluster::new();
    let interface = format!("{HOST_VETH}=xdp-generic");
    let node = &cluster.node;
    let mut command = node.command_at(&interface, &binary(), &node.manifests);
    command.arg("--persist").args(lease());
    let agent = Agent::follow(command);
    cluster.until_answered();
    let before = pins(node.bpffs.path());
    assert_eq!(before.len(), 1, "{before:?}");
    let what = "the tables grow below a link of generic XDP";
    let tally = cluster.during(what, Mix::All, || {
        node.manifests.write(&dns::services(20_000));
        agent.line_with("other tables are in the place");
        let is_served = || Ok(node.pod.ttl_of("s19999") == Some(5));
        assert!(eventually(LIMIT, is_served).unwrap());
    });
    tally.assert_none_failed();
    assert_eq!(pins(node.bpffs.path()), before);
}

/// What is free in tables of the right size can be in slots that are too small for what comes.
#[test]
fn are_filled_anew() {
    let cluster = Cluster::new();
    let agent = cluster.agent(&[]);
    let what = "other services, for which the room is in the wrong places";
    let tally = cluster.during(what, Mix::All, || {
        let served = |name: &str| cluster.node.pod.ttl_of(name) == Some(5);
        cluster.node.manifests.write(&dns::services(20_000));
        agent.line_with("other tables are in the place");
        assert!(eventually(LIMIT, || Ok(served("s19999"))).unwrap());

        let long = "s".repeat(50);
        let others = dns::services_called(&long, dns::LOOKED_UP..13_000);
        let manifests = dns::services(dns::LOOKED_UP) + &others;
        cluster.node.manifests.write(&manifests);
        agent.line_with("other tables are in the place");
        for number in (dns::LOOKED_UP..13_000).step_by(97) {
            let name = format!("{long}{number}");
            assert!(eventually(LIMIT, || Ok(served(&name))).unwrap(), "{name}");
        }
    });
    tally.assert_none_failed();
}

/// The numbers of the files in which links are pinned: one that is pinned anew has another.
fn pins(bpffs: &Path) -> BTreeSet<u64> {
    let inside = |folder: PathBuf| {
        let entries = fs::read_dir(folder).unwrap();
        entries.map(|entry| entry.unwrap())
    };
    let namespaces = inside(bpffs.join("zerohop"));
    let pins = namespaces.flat_map(|namespace| inside(namespace.path()));
    pins.map(|pin| pin.metadata().unwrap().ino()).collect()
}
