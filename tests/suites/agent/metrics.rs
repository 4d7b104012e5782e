//! `/metrics`, `/readyz` and `/healthz` of an agent with a kernel plane.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
};

use zerohop_tests::{
    netns::NetworkNamespace,
    topology::{BRIDGE, Topology},
};

use super::{AgentProcess, ManifestFolder, PodClient, WEB, start_agent, start_agent_with};

/// Number of queries for `web`.
const QUERIES: usize = 7;
/// The address of the user plane.
const USER_PLANE: &str = "127.0.0.1:5353";

#[test]
fn answers_are_counted_and_canaries_are_not() {
    let topology = Topology::routed().unwrap();
    let manifests = ManifestFolder::new(WEB);
    let agent = start_agent(&topology.node, &manifests, &["--listen", USER_PLANE]);
    let pod = PodClient::new(&topology);
    for _ in 0..QUERIES {
        assert_eq!(pod.web_ttl(), Some(5));
    }
    assert!(pod.ask_for("ghost").is_some());

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
    let metric_line = |outcome, count| {
        format!(
            r#"zerohop_answers_total{{plane="kernel",outcome="{outcome}",hook="tc",interface="pods"}} {count}"#
        )
    };
    let expected = [metric_line("data", QUERIES), metric_line("nxdomain", 1)];
    assert_eq!(counted(), expected);

    // For each of these requests the agent gives both planes a query of its own, a canary.
    for _ in 0..3 {
        let (code, body) = get(&topology.node, &agent, "/healthz");
        let expected_body = format!(
            "kernel: zerohop_tc_peer answered cluster.local. SOA\n\
             user: {USER_PLANE} answered cluster.local. SOA\n"
        );
        assert_eq!((code, body), (200, expected_body));
    }
    assert_eq!(counted(), expected);
}

/// A rollout must continue past a node where no device can be attached, but wait at a node where
/// only some devices can be attached.
#[test]
fn a_node_without_attachable_devices_is_ready_but_not_healthy() {
    let topology = Topology::routed().unwrap();
    let manifests = ManifestFolder::new(WEB);
    let unattachable = ["--interface=lo", "--allow=10.0.0.0/8"];
    let agent = start_agent_with(&topology.node, &manifests, &unattachable);
    assert_eq!(get(&topology.node, &agent, "/readyz").0, 200);
    let (code, body) = get(&topology.node, &agent, "/healthz");
    assert_eq!(code, 503, "the code of /healthz, with {body}");
    assert!(
        body.contains("no Ethernet header"),
        "/healthz does not report the reason: {body}"
    );
    drop(agent);

    let agent = start_agent(&topology.node, &manifests, &unattachable);
    let (code, body) = get(&topology.node, &agent, "/readyz");
    assert_eq!(code, 503, "the code of /readyz, with {body}");
    assert!(
        body.contains("interface lo is not attached"),
        "/readyz does not report lo: {body}"
    );
    assert_eq!(get(&topology.node, &agent, "/healthz").0, 200);
}

#[test]
fn devices_other_than_veths_are_counted_by_name() {
    let topology = Topology::bridged().unwrap();
    let manifests = ManifestFolder::new(WEB);
    let interface = format!("{BRIDGE}=tc");
    let arguments = ["--interface", &interface, "--allow", "10.244.0.0/16"];
    let agent = start_agent_with(&topology.node, &manifests, &arguments);
    let pod = PodClient::new(&topology);
    for _ in 0..QUERIES {
        assert_eq!(pod.web_ttl(), Some(5));
    }
    let (_, text) = get(&topology.node, &agent, "/metrics");
    let line = format!(
        r#"zerohop_answers_total{{plane="kernel",outcome="data",hook="tc",interface="{BRIDGE}"}} {QUERIES}"#
    );
    assert!(
        text.lines().any(|found| found == line),
        "no {line} in\n{text}"
    );
    assert!(
        !text.contains(r#"interface="pods""#),
        "a count for the pods' veths, which have no hook: {text}"
    );

    // The canary query has the address of an allowed client.
    let (code, body) = get(&topology.node, &agent, "/healthz");
    let expected = "kernel: zerohop_tc answered cluster.local. SOA\n\
                    user: off, no --listen is given\n";
    assert_eq!((code, body.as_str()), (200, expected));
}

#[test]
fn a_kernel_plane_without_matching_devices_is_healthy() {
    let topology = Topology::routed().unwrap();
    let manifests = ManifestFolder::new(WEB);
    let agent = start_agent_with(&topology.node, &manifests, &["--interface", "eth9"]);
    let (code, body) = get(&topology.node, &agent, "/healthz");
    assert_eq!(code, 200, "the code of /healthz, with {body}");
    assert!(
        body.starts_with("kernel: attached to no interface"),
        "/healthz does not say that no device matches: {body}"
    );
}

/// Requests a path of the agent's admin endpoints on its node. Returns status code and body.
fn get(node: &NetworkNamespace, agent: &AgentProcess, path: &str) -> (u16, String) {
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
