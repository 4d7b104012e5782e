//! Queries from sockets over veths, through every hook.

use std::{net::SocketAddr, time::Duration};

use aya::programs::XdpMode;
use dns_agent::config::{HookChoice, Interface};
use zerohop_contract::{addresses::SERVED, packet::QueryPacket};
use zerohop_datapath::{
    Datapath, DatapathConfig, InitialLease, StopMode, interfaces::Devices, program::HookProgram,
};
use zerohop_resolver::{
    message::{QueryAction, respond},
    query::Transport,
};
use zerohop_tests::{
    ethtool,
    netns::NetworkNamespace,
    topology::{HOST_VETH, POD_DEVICE, Topology},
    udp::{UdpClient, eventually},
};
use zerohop_zone::Model;

use super::fixture::{self, KernelFixture, model};

/// The longest time for an answer. It is long because an emulated machine may be busy.
const LIMIT: Duration = Duration::from_secs(5);

/// Questions that the kernel answers: names, and types (A is 1, PTR 12, AAAA 28).
const QUESTIONS: [(&str, u16); 7] = [
    ("web.shop.svc.cluster.local", 1),
    ("Cart.SHOP.svc.cluster.local", 28),
    ("odd22.shop.svc.cluster.local", 1),
    ("db.shop.svc.cluster.local", 1),
    ("1.1.96.10.in-addr.arpa", 12),
    ("web.shop.svc.cluster.local", 28),
    ("www.example.com.shop.svc.cluster.local", 1),
];

#[test]
fn tc_answers_over_a_routed_veth() {
    check_hook(&Topology::routed().unwrap(), HookChoice::Auto, "tc");
}

#[test]
fn tc_answers_over_a_bridge_port() {
    check_hook(&Topology::bridged().unwrap(), HookChoice::Tc, "tc");
}

#[test]
fn generic_xdp_answers_over_a_routed_veth() {
    check_hook(&Topology::routed().unwrap(), HookChoice::Xdp, "xdp");
}

#[test]
fn generic_xdp_answers_over_a_bridge_port() {
    check_hook(&Topology::bridged().unwrap(), HookChoice::XdpGeneric, "xdp");
}

#[test]
fn native_xdp_answers_over_veths() {
    let mut fixture = KernelFixture::shared();
    let KernelFixture { object, model, .. } = &mut *fixture;
    for topology in [Topology::routed().unwrap(), Topology::bridged().unwrap()] {
        // A veth sends packets of native XDP only to a peer that runs an XDP program too. On the
        // pod's device the same program passes the answers, because they are no queries.
        let mut links = Vec::new();
        for (namespace, device) in [(&topology.pod, POD_DEVICE), (&topology.node, HOST_VETH)] {
            let index = namespace.index(device).unwrap();
            let xdp = object.loaded_xdp(HookProgram::XdpVeth.name()).unwrap();
            let attach = || xdp.attach_to_if_index(index, XdpMode::Driver).unwrap();
            links.push(namespace.enter(attach).unwrap());
        }
        ask_all_questions(&topology.pod, model, with_padding);
        let xdp = object.loaded_xdp(HookProgram::XdpVeth.name()).unwrap();
        for link in links {
            xdp.detach(link).unwrap();
        }
    }
}

/// Starts the kernel plane on the node, and sends queries from the pod and from a namespace behind
/// it, with partial and with complete checksums. On veths `HookChoice::Auto` means tc, and
/// `HookChoice::Xdp` generic XDP.
fn check_hook(topology: &Topology, hook: HookChoice, expected: &str) {
    let model = model();
    let config = DatapathConfig {
        interfaces: vec![Interface {
            name: HOST_VETH.to_owned(),
            hook,
        }],
        // The lease must not end during the test.
        stale_after: Duration::from_secs(600),
        ..fixture::config()
    };
    // On kernels without tcx, filters are detached by netlink, so the datapath must start and stop
    // inside the namespace.
    let inside = || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let mut devices = Devices::default();
        let devices = runtime.block_on(devices.list()).unwrap();
        // Without pins, because the configuration does not ask for persistence.
        let mut datapath =
            Datapath::start(config, None, devices, &model, InitialLease::Running).unwrap();
        let status = datapath.status().unwrap();
        assert!(status.failed.is_empty(), "{:?}", status.failed);
        assert_eq!(status.attached.len(), 1, "{:?}", status.attached);
        assert_eq!(status.attached[0].hook, expected);

        ask_all_questions(&topology.pod, &model, plain);
        let inner = topology.add_nested_namespace().unwrap();
        ask_all_questions(&inner, &model, plain);
        ethtool::disable_checksum_offload(&inner, POD_DEVICE).unwrap();
        ask_all_questions(&inner, &model, plain);
        ethtool::disable_checksum_offload(&topology.pod, POD_DEVICE).unwrap();
        ask_all_questions(&topology.pod, &model, plain);

        // Four rounds, each over IPv4 and IPv6.
        assert_eq!(answered_packets(&datapath), 4 * QUESTIONS.len() as u64 * 2);
        datapath.stop(StopMode::Detach);
        let client = UdpClient::new(&topology.pod, SocketAddr::new(SERVED[0], 53)).unwrap();
        let query = KernelFixture::query(QUESTIONS[0].0, QUESTIONS[0].1);
        // After the stop no program counts a packet. A packet in flight at the stop may still be
        // counted, so the condition is tested repeatedly.
        let is_not_counted = || {
            let before = counted_packets(&datapath);
            client.send(&query.message())?;
            let answer = client.receive(Duration::from_millis(200))?;
            assert_eq!(answer, None, "answered after the stop");
            Ok(counted_packets(&datapath) == before)
        };
        assert!(eventually(LIMIT, is_not_counted).unwrap());
    };
    topology.node.enter(inside).unwrap();
}

/// The number of packets that the programs answered.
fn answered_packets(datapath: &Datapath) -> u64 {
    let outcomes = datapath.status().unwrap().outcomes;
    let answers = outcomes.iter().filter(|outcome| outcome.answered);
    answers.map(|outcome| outcome.packets).sum()
}

/// The number of packets that the programs counted, of all outcomes.
fn counted_packets(datapath: &Datapath) -> u64 {
    let outcomes = datapath.status().unwrap().outcomes;
    outcomes.iter().map(|outcome| outcome.packets).sum()
}

/// Returns the query unchanged.
fn plain(query: QueryPacket) -> QueryPacket {
    query
}

/// Adds padding (RFC 7830), so that the answer fits into the query's packet: a veth gives native
/// XDP a buffer hardly larger than the packet, and a packet that can't grow passes.
fn with_padding(query: QueryPacket) -> QueryPacket {
    let padding = [&[0, 12, 0, 64][..], &[0; 64]].concat();
    query.with_edns(1232, 0, &padding)
}

/// Asks every question over IPv4 and IPv6, and compares the replies with the user plane's.
fn ask_all_questions(
    client: &NetworkNamespace,
    model: &Model,
    form: fn(QueryPacket) -> QueryPacket,
) {
    for (name, rtype) in QUESTIONS {
        for query in [
            KernelFixture::query(name, rtype),
            KernelFixture::query6(name, rtype),
        ] {
            let query = form(query);
            let (address, port) = query.server;
            let client = UdpClient::new(client, SocketAddr::new(address, port)).unwrap();
            let message = query.message();
            let Some(reply) = client.ask(&message, LIMIT).unwrap() else {
                panic!("no answer to {query:?}");
            };
            assert!(
                is_right(&message, &reply, model),
                "{query:?}: not the user plane's reply: {reply:02x?}"
            );
        }
    }
}

/// Whether `reply` is the user plane's reply to `message`, in some rotation of addresses.
fn is_right(message: &[u8], reply: &[u8], model: &Model) -> bool {
    // No answer to `QUESTIONS` has more than four addresses.
    (0..4).any(
        |rotation| match respond(message, model, Transport::Udp, rotation) {
            QueryAction::Send(expected) => expected == reply,
            _ => false,
        },
    )
}
