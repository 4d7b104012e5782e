//! The harness itself: packets must go the way the other tests rely on.

use std::{net::SocketAddr, time::Duration};

use zerohop_tests::{
    ethtool,
    netns::Namespace,
    topology::{POD_DEVICE, SERVED, Topology},
    udp::{Client, Server},
};

const LIMIT: Duration = Duration::from_secs(5);

#[test]
fn a_routed_pod_reaches_the_served_addresses() {
    let topology = Topology::routed().unwrap();
    check_echo(&topology, &topology.pod);
}

#[test]
fn a_bridged_pod_reaches_the_served_addresses() {
    let topology = Topology::bridged().unwrap();
    check_echo(&topology, &topology.pod);
}

#[test]
fn a_pod_with_finished_checksums_reaches_the_served_addresses() {
    let topology = Topology::routed().unwrap();
    ethtool::tx_off(&topology.pod, POD_DEVICE).unwrap();
    check_echo(&topology, &topology.pod);
}

#[test]
fn a_namespace_behind_the_pod_reaches_the_served_addresses() {
    for topology in [Topology::routed().unwrap(), Topology::bridged().unwrap()] {
        let inner = topology.nest().unwrap();
        ethtool::tx_off(&inner, POD_DEVICE).unwrap();
        check_echo(&topology, &inner);
    }
}

#[test]
fn what_nobody_answers_is_lost_without_an_error() {
    let topology = Topology::routed().unwrap();
    for served in SERVED {
        let client = Client::new(&topology.pod, SocketAddr::new(served, 53)).unwrap();
        assert_eq!(
            client.ask(b"question", Duration::from_millis(200)).unwrap(),
            None
        );
    }
}

/// Whether a payload goes from `client` to a server on the node and back.
fn check_echo(topology: &Topology, client: &Namespace) {
    topology.assign_served().unwrap();
    for served in SERVED {
        let address = SocketAddr::new(served, 53);
        let _server =
            Server::start(&topology.node, address, |payload| Some(payload.repeat(2))).unwrap();
        let client = Client::new(client, address).unwrap();
        assert_eq!(
            client.ask(b"question", LIMIT).unwrap().as_deref(),
            Some(&b"questionquestion"[..])
        );
    }
}
