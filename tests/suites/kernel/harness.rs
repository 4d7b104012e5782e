//! Tests of the harness: packets must take the paths that the other tests rely on.

use std::{net::SocketAddr, time::Duration};

use zerohop_contract::addresses::SERVED;
use zerohop_tests::{
    ethtool,
    netns::NetworkNamespace,
    topology::{POD_DEVICE, Topology},
    udp::{UdpClient, UdpServer},
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
fn a_pod_with_complete_checksums_reaches_the_served_addresses() {
    let topology = Topology::routed().unwrap();
    ethtool::disable_checksum_offload(&topology.pod, POD_DEVICE).unwrap();
    check_echo(&topology, &topology.pod);
}

#[test]
fn a_namespace_behind_the_pod_reaches_the_served_addresses() {
    for topology in [Topology::routed().unwrap(), Topology::bridged().unwrap()] {
        let inner = topology.add_nested_namespace().unwrap();
        ethtool::disable_checksum_offload(&inner, POD_DEVICE).unwrap();
        check_echo(&topology, &inner);
    }
}

#[test]
fn unanswered_queries_are_lost_without_an_error() {
    // The node has blackhole routes for the served addresses until it gets these addresses.
    let topology = Topology::routed().unwrap();
    for served in SERVED {
        let client = UdpClient::new(&topology.pod, SocketAddr::new(served, 53)).unwrap();
        assert_eq!(
            client.ask(b"question", Duration::from_millis(200)).unwrap(),
            None
        );
    }
}

/// Checks that a payload goes from `client` to a server on the node and back.
fn check_echo(topology: &Topology, client: &NetworkNamespace) {
    topology.assign_served_addresses().unwrap();
    for served in SERVED {
        let address = SocketAddr::new(served, 53);
        let _server =
            UdpServer::start(&topology.node, address, |payload| Some(payload.repeat(2))).unwrap();
        let client = UdpClient::new(client, address).unwrap();
        assert_eq!(
            client.ask(b"question", LIMIT).unwrap().as_deref(),
            Some(&b"questionquestion"[..])
        );
    }
}
