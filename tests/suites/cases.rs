//! The checked cases, asked of the agent's own binary over real sockets: of the user plane, and of
//! the kernel while the agent is stopped.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use nix::sys::signal::Signal;
use zerohop_tests::{
    cases::{Case, Cases, Setup},
    packet::{Query, wire},
    topology::{GATEWAY, POD, SERVED, Topology},
    udp::{Client, Server},
};

use crate::agent::{Agent, Manifests};

const LIMIT: Duration = Duration::from_secs(20);

/// A name outside, as the cases have it.
const OUTSIDE: &str = "ext.interwebs.test";
/// RCODE 11, which nobody else gives.
const PASSED: u8 = 11;
/// Of a hundred cases the kernel answers so many at least.
const FLOOR: usize = 95;

#[test]
fn every_case_in_both_planes() {
    let cases = Cases::read().unwrap();
    assert_eq!(cases.count(), 88);
    let mut found = Found::default();
    for setup in cases.setups() {
        ask_everything(&setup, &mut found);
    }
    println!(
        "{} cases: the user plane answered all, the kernel alone {} ({:.1} %); it passed:\n{}",
        cases.count(),
        cases.count() - found.passed.len(),
        100.0 - 100.0 * found.passed.len() as f64 / cases.count() as f64,
        found.passed.join("\n")
    );
    assert!(found.wrong.is_empty(), "{}", found.wrong.join("\n"));
    assert!((cases.count() - found.passed.len()) * 100 >= FLOOR * cases.count());
}

#[derive(Default)]
struct Found {
    /// What is wrong with answers of either plane.
    wrong: Vec<String>,
    /// What the kernel left to others.
    passed: Vec<String>,
}

/// Asks the cases of one agent: first of the agent, then of the kernel behind its back.
fn ask_everything(setup: &Setup<'_>, found: &mut Found) {
    let topology = Topology::routed().unwrap();
    let upstream = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
    let upstream = Server::start(&topology.node, upstream, |query| Some(outside(query))).unwrap();
    topology.assign_served().unwrap();
    let _elsewhere = Server::start(&topology.node, SocketAddr::new(SERVED[0], 53), |query| {
        Some(reply(query, PASSED))
    })
    .unwrap();
    let agents = SocketAddr::new(GATEWAY[0], 53);
    let upstream_flag = format!("--upstream={}", upstream.address());
    let listen_flag = format!("--listen={agents}");
    let mut flags: Vec<&str> = setup.flags.iter().map(String::as_str).collect();
    // Nothing but the agent's death ends the lease while the kernel is asked.
    flags.extend([&upstream_flag, &listen_flag, "--stale-after=1h"]);
    let manifests = Manifests::new(&setup.manifest);
    let agent = Agent::start(&topology.node, &manifests, &flags);

    let user_plane = Client::new(&topology.pod, agents).unwrap();
    for case in &setup.cases {
        let reply = ask(&user_plane, case);
        let fault = case.fault(&reply);
        found
            .wrong
            .extend(fault.map(|fault| format!("user plane: {fault}")));
    }
    agent.signal(Signal::SIGSTOP);
    let kernel = Client::new(&topology.pod, SocketAddr::new(SERVED[0], 53)).unwrap();
    for case in &setup.cases {
        let reply = ask(&kernel, case);
        if reply[3] & 15 == PASSED {
            found.passed.push(case.to_string());
            continue;
        }
        let fault = case.fault(&reply);
        found
            .wrong
            .extend(fault.map(|fault| format!("kernel: {fault}")));
    }
}

fn ask(client: &Client, case: &Case) -> Vec<u8> {
    let rtype = case.type_number().unwrap();
    let query = Query {
        id: rand::random(),
        ..Query::new(POD[0], SERVED[0], &case.name, rtype)
    };
    let reply = client.ask(&query.message(), LIMIT).unwrap();
    let reply = reply.unwrap_or_else(|| panic!("no reply to {case}"));
    assert_eq!(reply[..2], query.id.to_be_bytes(), "{case}");
    reply
}

/// What the upstream says: an address for the one name, to all else that it doesn't exist.
fn outside(query: &[u8]) -> Vec<u8> {
    let question = [&wire(OUTSIDE)[..], &[0, 1, 0, 1]].concat();
    if !query[12..].starts_with(&question) {
        return reply(query, 3);
    }
    let mut answer = reply(&query[..12 + question.len()], 0);
    answer[7] = 1;
    answer[11] = 0;
    answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4, 1, 2, 3, 4]);
    answer
}

/// The query as a reply with this response code.
fn reply(query: &[u8], rcode: u8) -> Vec<u8> {
    let mut reply = query.to_vec();
    reply[2] |= 0x80;
    reply[3] = 0x80 | rcode;
    reply
}
