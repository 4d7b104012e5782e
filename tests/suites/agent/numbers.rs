//! `/metrics` and `/healthz` of an agent with a kernel plane.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
};

use zerohop_tests::{
    netns::Namespace,
    topology::{BRIDGE, Topology},
};

use super::{Agent, Manifests, Pod, WEB};

const QUESTIONS: usize = 7;
const USER_PLANE: &str = "127.0.0.1:5353";

#[test]
fn answers_are_counted_and_canaries_are_not() {
    let topology = Topology::routed().unwrap();
    let manifests = Manifests::new(WEB);
    let agent = Agent::start(&topology.node, &manifests, &["--listen", USER_PLANE]);
    let pod = Pod::new(&topology);
    for _ in 0..QUESTIONS {
        assert_eq!(pod.ttl(), Some(5));
    }
    assert!(pod.ask("ghost").is_some());

    let counted = || {
        let text = get(&topology.node, &agent, "/metrics").1;
        let is_counted = |line: &&str| {
            line.starts_with("zerohop_answers") || line.starts_with("zerohop_queries")
        };
        let lines = text
            .lines()
            .filter(is_counted)
            .filter(|line| !line.ends_with(" 0"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let data = |outcome, count| {
        format!(
            r#"zerohop_answers_total{{plane="kernel",outcome="{outcome}",hook="tc",interface="pods"}} {count}"#
        )
    };
    let expected = [data("data", QUESTIONS), data("nxdomain", 1)];
    assert_eq!(counted(), expected);

    for _ in 0..3 {
        let (code, said) = get(&topology.node, &agent, "/healthz");
        let expected = format!(
            "kernel: zerohop_tc_peer answered cluster.local. SOA\n\
             user: {USER_PLANE} answered cluster.local. SOA\n"
        );
        assert_eq!((code, said), (200, expected));
    }
    assert_eq!(counted(), expected);
}

/// A rollout goes on where a node can't, and waits where only some of its devices can't.
#[test]
fn a_node_that_can_attach_nowhere_is_ready_and_not_well() {
    let topology = Topology::routed().unwrap();
    let manifests = Manifests::new(WEB);
    let of_no_use = ["--interface=lo", "--allow=10.0.0.0/8"];
    let agent = Agent::start_anywhere(&topology.node, &manifests, &of_no_use);
    assert_eq!(get(&topology.node, &agent, "/readyz").0, 200);
    let (code, said) = get(&topology.node, &agent, "/healthz");
    assert_eq!(code, 503, "{said}");
    assert!(said.contains("no Ethernet header"), "{said}");
    drop(agent);

    let agent = Agent::start(&topology.node, &manifests, &of_no_use);
    let (code, said) = get(&topology.node, &agent, "/readyz");
    assert_eq!(code, 503, "{said}");
    assert!(said.contains("interface lo is not attached"), "{said}");
    assert_eq!(get(&topology.node, &agent, "/healthz").0, 200);
}

#[test]
fn other_devices_are_counted_by_name() {
    let topology = Topology::bridged().unwrap();
    let manifests = Manifests::new(WEB);
    let interface = format!("{BRIDGE}=tc");
    let arguments = ["--interface", &interface, "--allow", "10.244.0.0/16"];
    let agent = Agent::start_anywhere(&topology.node, &manifests, &arguments);
    let pod = Pod::new(&topology);
    for _ in 0..QUESTIONS {
        assert_eq!(pod.ttl(), Some(5));
    }
    let (_, text) = get(&topology.node, &agent, "/metrics");
    let line = format!(
        r#"zerohop_answers_total{{plane="kernel",outcome="data",hook="tc",interface="{BRIDGE}"}} {QUESTIONS}"#
    );
    assert!(
        text.lines().any(|have| have == line),
        "no {line} in\n{text}"
    );
    assert!(!text.contains(r#"interface="pods""#), "{text}");

    // A client that is allowed is made up for the question.
    let (code, said) = get(&topology.node, &agent, "/healthz");
    let expected = "kernel: zerohop_tc answered cluster.local. SOA\n\
                    user: off, no --listen is given\n";
    assert_eq!((code, said.as_str()), (200, expected));
}

#[test]
fn a_kernel_plane_that_nothing_needs_yet_is_well() {
    let topology = Topology::routed().unwrap();
    let manifests = Manifests::new(WEB);
    let agent = Agent::start_anywhere(&topology.node, &manifests, &["--interface", "eth9"]);
    let (code, said) = get(&topology.node, &agent, "/healthz");
    assert_eq!(code, 200, "{said}");
    assert!(said.starts_with("kernel: attached nowhere"), "{said}");
}

/// What the agent says to a request from its own node: the code and the body.
fn get(node: &Namespace, agent: &Agent, path: &str) -> (u16, String) {
    let admin = &agent.admin;
    let ask = || {
        let mut stream = TcpStream::connect(admin).unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: agent\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).unwrap();
        reply
    };
    let reply = node.enter(ask).unwrap();
    let (head, body) = reply.split_once("\r\n\r\n").unwrap();
    let code = head.split(' ').nth(1).unwrap().parse().unwrap();
    (code, body.to_owned())
}
