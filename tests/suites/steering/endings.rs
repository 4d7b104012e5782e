//! The end of the agent's sockets and namespace: packets pass, and the node answers them.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use dns_common::steering::SteeringOutcome;
use zerohop_contract::addresses::SERVED;
use zerohop_tests::{
    netns::NetworkNamespace,
    topology::{POD_DEVICE, Topology},
    udp::{UdpServer, eventually},
};

use super::{
    node::{AGENT_ID, AGENT_VETH, DNS_PORT, SteeringNode},
    servers::{
        AnsweringPlace, DatagramServers, LIMIT, Stream, StreamBehavior, StreamServers, ask,
        ask_within, client, wait_until_closed,
    },
};

/// The servers of one place.
type PlaceServers = (DatagramServers, StreamServers);

#[test]
fn packets_pass_when_the_sockets_are_closed() {
    for node in SteeringNode::of_each_shape() {
        node.topology.assign_served_addresses().unwrap();
        let _node = start(&node.topology.node, AnsweringPlace::Node);
        let clients = SERVED.map(|served| client(&node.topology.pod, served));
        for _ in 0..3 {
            let agent = start(node.agent(), AnsweringPlace::Agent);
            for (client, served) in clients.iter().zip(SERVED) {
                assert_eq!(ask(client, b"question"), Some(AnsweringPlace::Agent));
                let stream = Stream::connect(&node.topology.pod, served);
                assert_eq!(stream.place, AnsweringPlace::Agent);
            }
            drop(agent);
            wait_until_closed(node.agent());
            check_that_the_node_answers(&node);
            for client in &clients {
                assert_eq!(ask(client, b"question"), Some(AnsweringPlace::Node));
            }
        }
    }
}

#[test]
fn packets_pass_while_the_namespace_ends_and_afterwards() {
    for mut node in SteeringNode::of_each_shape() {
        node.topology.assign_served_addresses().unwrap();
        let _node = start(&node.topology.node, AnsweringPlace::Node);
        let agent = start(node.agent(), AnsweringPlace::Agent);
        let client = client(&node.topology.pod, SERVED[0]);
        assert_eq!(ask(&client, b"question"), Some(AnsweringPlace::Agent));
        drop(agent);
        wait_until_closed(node.agent());
        node.end_agent();
        // The kernel removes the namespace in the background.
        let is_gone = || {
            assert_eq!(ask(&client, b"question"), Some(AnsweringPlace::Node));
            Ok(node.topology.node.index(AGENT_VETH).is_err())
        };
        assert!(eventually(LIMIT, is_gone).unwrap());
        check_that_the_node_answers(&node);
    }
}

#[test]
fn a_later_namespace_does_not_get_the_agents_id() {
    let mut node = SteeringNode::new(Topology::routed().unwrap());
    node.topology.assign_served_addresses().unwrap();
    let _node = start(&node.topology.node, AnsweringPlace::Node);
    node.end_agent();
    let is_gone = || Ok(node.topology.node.index(AGENT_VETH).is_err());
    assert!(eventually(LIMIT, is_gone).unwrap());

    // The kernel gives this namespace an ID when it creates the veth pair.
    let later = NetworkNamespace::new("later").unwrap();
    let (name, node_of) = (later.name(), &node.topology.node);
    node_of
        .ip(&[&format!(
            "link add veth-later type veth peer name {POD_DEVICE} netns {name}"
        )])
        .unwrap();
    let _later = start_on_every_address(&later);
    check_that_the_node_answers(&node);

    // With the agent's ID, its socket would be found. Then packets are lost, because the agent's
    // veth is gone. This is why the agent's ID is one that the kernel never chooses.
    let impostor = NetworkNamespace::new("impostor").unwrap();
    let _impostor = start_on_every_address(&impostor);
    let name = impostor.name();
    node_of
        .ip(&[&format!("netns set {name} {AGENT_ID}")])
        .unwrap();
    let before = node.count(SteeringOutcome::Datagram);
    let client = client(&node.topology.pod, SERVED[0]);
    let lost = ask_within(&client, b"question", Duration::from_millis(200));
    assert_eq!(lost, None);
    assert_eq!(node.count(SteeringOutcome::Datagram), before + 1);
}

/// Checks that the node answers new flows of the pod.
fn check_that_the_node_answers(node: &SteeringNode) {
    for served in SERVED {
        let client = client(&node.topology.pod, served);
        assert_eq!(ask(&client, b"question"), Some(AnsweringPlace::Node));
        let stream = Stream::connect(&node.topology.pod, served);
        assert_eq!(stream.place, AnsweringPlace::Node);
    }
}

fn start(namespace: &NetworkNamespace, place: AnsweringPlace) -> PlaceServers {
    (
        DatagramServers::start(namespace, place),
        StreamServers::start(namespace, place, StreamBehavior::Echo),
    )
}

/// Starts a server that takes datagrams to every IPv4 address, and answers none.
fn start_on_every_address(namespace: &NetworkNamespace) -> UdpServer {
    let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, DNS_PORT));
    UdpServer::start(namespace, address, |_| None).unwrap()
}
