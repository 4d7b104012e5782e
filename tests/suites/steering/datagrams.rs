//! UDP.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use dns_common::steering::SteeringOutcome;
use zerohop_contract::addresses::SERVED;
use zerohop_tests::{
    ethtool,
    topology::{POD_DEVICE, Topology},
    udp::eventually,
};

use super::{
    node::{DNS_PORT, SteeringNode},
    servers::{AnsweringPlace, DatagramServers, LIMIT, ask, client},
};

/// Datagrams of each address family.
const ROUNDS: u64 = 100;

#[test]
fn datagrams_are_answered_in_the_agents_namespace() {
    for node in SteeringNode::of_each_shape() {
        let _agent = DatagramServers::start(node.agent(), AnsweringPlace::Agent);
        // The node has neither the served addresses nor a route to them, so its own stack does not
        // take part.
        for served in SERVED {
            let client = client(&node.topology.pod, served);
            for round in 0..ROUNDS {
                let place = ask(&client, &round.to_le_bytes());
                assert_eq!(place, Some(AnsweringPlace::Agent), "round {round}");
            }
        }
        assert_eq!(node.count(SteeringOutcome::Datagram), 2 * ROUNDS);
    }
}

#[test]
fn datagrams_with_complete_checksums_are_answered() {
    for node in SteeringNode::of_each_shape() {
        ethtool::disable_checksum_offload(&node.topology.pod, POD_DEVICE).unwrap();
        let _agent = DatagramServers::start(node.agent(), AnsweringPlace::Agent);
        for served in SERVED {
            let client = client(&node.topology.pod, served);
            assert_eq!(ask(&client, b"question"), Some(AnsweringPlace::Agent));
        }
    }
}

#[test]
fn datagrams_pass_while_only_old_flows_are_admitted() {
    let node = SteeringNode::new(Topology::routed().unwrap());
    node.topology.assign_served_addresses().unwrap();
    let _agent = DatagramServers::start(node.agent(), AnsweringPlace::Agent);
    let _node = DatagramServers::start(&node.topology.node, AnsweringPlace::Node);
    for served in SERVED {
        let client = client(&node.topology.pod, served);
        node.end_lease();
        assert_eq!(ask(&client, b"question"), Some(AnsweringPlace::Node));
        node.begin_lease();
        assert_eq!(ask(&client, b"question"), Some(AnsweringPlace::Agent));
    }
    assert_eq!(node.count(SteeringOutcome::LeaseStale), 2);
}

#[test]
fn a_datagram_from_the_address_of_another_pod_passes() {
    let mut node = SteeringNode::new(Topology::routed().unwrap());
    let _agent = DatagramServers::start(node.agent(), AnsweringPlace::Agent);
    // The pod must know the gateway's hardware address, because the node's ARP ignores the other
    // pod's address behind this veth.
    let place = ask(&client(&node.topology.pod, SERVED[0]), b"question");
    assert_eq!(place, Some(AnsweringPlace::Agent));
    let other = Ipv4Addr::new(10, 244, 0, 77);
    let loopback = node.topology.node.index("lo").unwrap();
    node.set_interface(IpAddr::V4(other), loopback);
    node.topology
        .pod
        .ip(&[&format!("address add {other}/32 dev lo")])
        .unwrap();
    let bind = || UdpSocket::bind((other, 0)).unwrap();
    let forger = node.topology.pod.enter(bind).unwrap();
    let served = SocketAddr::new(SERVED[0], DNS_PORT);
    forger.send_to(b"question", served).unwrap();
    let is_passed = || Ok(node.count(SteeringOutcome::NotThePod) == 1);
    assert!(eventually(LIMIT, is_passed).unwrap());
    assert_eq!(node.count(SteeringOutcome::Datagram), 1);
}
