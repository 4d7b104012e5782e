//! Sends the queries of `tests/cases` to a running agent over sockets: first to the user plane,
//! then to the kernel while the agent is stopped.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use nix::sys::signal::Signal;
use zerohop_contract::{
    addresses::{POD, SERVED},
    cases::{Case, CaseGroup, Cases},
    packet::{QueryPacket, address_reply, empty_reply, wire_name},
};
use zerohop_tests::{
    topology::{GATEWAY, Topology},
    udp::{UdpClient, UdpServer},
};

use crate::{
    agent::{ManifestFolder, start_agent},
    kernel::fixture::rcode,
};

/// How long to wait for a reply.
const LIMIT: Duration = Duration::from_secs(20);

/// The name outside the cluster that the cases use.
const OUTSIDE: &str = "ext.interwebs.test";
/// The RCODE by which the stand-in for the cluster's DNS marks passed queries. No other server of
/// the test sends 11.
const PASSED: u8 = 11;
/// The kernel must answer at least this percentage of the cases.
const MIN_PERCENT: usize = 95;
/// The header flags QR, RD and RA (RFC 1035 section 4.1.1).
const REPLY_FLAGS: u16 = 0x8180;
const NXDOMAIN: u16 = 3;

#[test]
fn every_case_is_right_in_both_planes() {
    let cases = Cases::read().unwrap();
    // Without this number nothing would show that cases were lost.
    assert_eq!(cases.count(), 88, "update this number of cases");
    let mut results = CaseResults::default();
    for group in cases.groups() {
        ask_all_cases(&group, &mut results);
    }
    println!(
        "{} cases: the user plane answered all, the kernel {} ({:.1} %). The kernel passed:\n{}",
        cases.count(),
        cases.count() - results.passed.len(),
        100.0 - 100.0 * results.passed.len() as f64 / cases.count() as f64,
        results.passed.join("\n")
    );
    assert!(
        results.wrong.is_empty(),
        "wrong replies:\n{}",
        results.wrong.join("\n")
    );
    assert!(
        (cases.count() - results.passed.len()) * 100 >= MIN_PERCENT * cases.count(),
        "the kernel answered less than {MIN_PERCENT} % of the cases"
    );
}

#[derive(Default)]
struct CaseResults {
    /// Wrong answers of either plane.
    wrong: Vec<String>,
    /// Cases that the kernel passed.
    passed: Vec<String>,
}

/// Starts an agent and sends it the queries of a group: first to the user plane, then to the kernel
/// while the agent is stopped.
fn ask_all_cases(group: &CaseGroup<'_>, results: &mut CaseResults) {
    let topology = Topology::routed().unwrap();
    let upstream = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
    let upstream = UdpServer::start(&topology.node, upstream, upstream_reply).unwrap();
    topology.assign_served_addresses().unwrap();
    let _stand_in = UdpServer::start(&topology.node, SocketAddr::new(SERVED[0], 53), |query| {
        empty_reply(query, REPLY_FLAGS | u16::from(PASSED))
    })
    .unwrap();
    let agent_address = SocketAddr::new(GATEWAY[0], 53);
    let upstream_flag = format!("--upstream={}", upstream.address());
    let listen_flag = format!("--listen={agent_address}");
    let mut flags: Vec<&str> = group.flags.iter().map(String::as_str).collect();
    // With this lease the kernel keeps answering while the agent is stopped.
    flags.extend([&upstream_flag, &listen_flag, "--stale-after=1h"]);
    let manifests = ManifestFolder::new(&group.manifest);
    let agent = start_agent(&topology.node, &manifests, &flags);

    let user_plane = UdpClient::new(&topology.pod, agent_address).unwrap();
    for case in &group.cases {
        let reply = ask(&user_plane, case);
        let fault = case.describe_fault(&reply);
        results
            .wrong
            .extend(fault.map(|fault| format!("user plane: {fault}")));
    }
    agent.send_signal(Signal::SIGSTOP).unwrap();
    let kernel = UdpClient::new(&topology.pod, SocketAddr::new(SERVED[0], 53)).unwrap();
    for case in &group.cases {
        let reply = ask(&kernel, case);
        if rcode(&reply) == PASSED {
            results.passed.push(case.to_string());
            continue;
        }
        let fault = case.describe_fault(&reply);
        results
            .wrong
            .extend(fault.map(|fault| format!("kernel: {fault}")));
    }
}

fn ask(client: &UdpClient, case: &Case) -> Vec<u8> {
    let rtype = case.type_number().unwrap();
    let query = QueryPacket {
        id: rand::random(),
        ..QueryPacket::new(POD[0], SERVED[0], &case.name, rtype)
    };
    let reply = client.ask(&query.message(), LIMIT).unwrap();
    let reply = reply.unwrap_or_else(|| panic!("no reply to {case}"));
    assert_eq!(
        reply[..2],
        query.id.to_be_bytes(),
        "the ID of the reply to {case}"
    );
    reply
}

/// The upstream's reply: an address for [`OUTSIDE`], NXDOMAIN for every other name or type.
fn upstream_reply(query: &[u8]) -> Option<Vec<u8>> {
    // Type A and class IN follow the name.
    let question = [&wire_name(OUTSIDE)[..], &[0, 1, 0, 1]].concat();
    if !query.get(12..)?.starts_with(&question) {
        return empty_reply(query, REPLY_FLAGS | NXDOMAIN);
    }
    address_reply(query, REPLY_FLAGS, 5, Ipv4Addr::new(1, 2, 3, 4))
}
