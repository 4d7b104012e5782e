//! Real queries over real veths, through every hook.

use std::{net::SocketAddr, time::Duration};

use aya::programs::XdpMode;
use dns_agent::{
    config::{Hook, Interface},
    datapath::{Config, Datapath, Ending, Lease, interfaces::Devices, object::Program},
    resolver::message::{Reply, Transport, respond},
    zone::Model,
};
use zerohop_tests::{
    ethtool,
    netns::Namespace,
    packet::Query,
    topology::{HOST_VETH, POD_DEVICE, SERVED, Topology},
    udp::{Client, eventually},
};

use super::fixture::{self, Fixture, model};

/// How long an answer may take, in an emulated machine that does other things.
const LIMIT: Duration = Duration::from_secs(5);

/// Questions, and whether the kernel answers them.
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
fn by_tc_over_a_routed_veth() {
    check(&Topology::routed().unwrap(), Hook::Auto, "tc");
}

#[test]
fn by_tc_over_a_bridge_port() {
    check(&Topology::bridged().unwrap(), Hook::Tc, "tc");
}

#[test]
fn by_generic_xdp_over_a_routed_veth() {
    check(&Topology::routed().unwrap(), Hook::Xdp, "xdp");
}

#[test]
fn by_generic_xdp_over_a_bridge_port() {
    check(&Topology::bridged().unwrap(), Hook::XdpGeneric, "xdp");
}

#[test]
fn by_native_xdp() {
    let mut fixture = Fixture::shared();
    let Fixture { object, model, .. } = &mut *fixture;
    for topology in [Topology::routed().unwrap(), Topology::bridged().unwrap()] {
        // A veth delivers what native XDP sends only to a peer that runs XDP too; what it
        // runs does not matter, as long as answers pass.
        let mut links = Vec::new();
        for (namespace, device) in [(&topology.pod, POD_DEVICE), (&topology.node, HOST_VETH)] {
            let index = namespace.index(device).unwrap();
            let xdp = object.xdp(Program::XdpVeth.name()).unwrap();
            let attach = || xdp.attach_to_if_index(index, XdpMode::Driver).unwrap();
            links.push(namespace.enter(attach).unwrap());
        }
        ask_everything(&topology.pod, model, with_padding);
        let xdp = object.xdp(Program::XdpVeth.name()).unwrap();
        for link in links {
            xdp.detach(link).unwrap();
        }
    }
}

/// Starts the kernel plane on the node and asks from the pod, from a pod that finishes its
/// checksums in software, and from a namespace behind the pod that does or does not.
fn check(topology: &Topology, hook: Hook, expected: &str) {
    let model = model();
    let config = Config {
        interfaces: vec![Interface {
            name: HOST_VETH.to_owned(),
            hook,
        }],
        // Checksums are what is tested, not patience.
        stale_after: Duration::from_secs(600),
        ..fixture::config()
    };
    // Filters before tcx are taken off by netlink, so the whole life of the datapath is
    // inside the namespace.
    let inside = || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let mut devices = Devices::default();
        let devices = runtime.block_on(devices.list()).unwrap();
        let mut datapath = Datapath::start(config, None, devices, &model, Lease::Begins).unwrap();
        let status = datapath.status().unwrap();
        assert!(status.failed.is_empty(), "{:?}", status.failed);
        assert_eq!(status.attached.len(), 1, "{:?}", status.attached);
        assert_eq!(status.attached[0].hook, expected);

        ask_everything(&topology.pod, &model, plain);
        let inner = topology.nest().unwrap();
        ask_everything(&inner, &model, plain);
        ethtool::tx_off(&inner, POD_DEVICE).unwrap();
        ask_everything(&inner, &model, plain);
        ethtool::tx_off(&topology.pod, POD_DEVICE).unwrap();
        ask_everything(&topology.pod, &model, plain);

        assert_eq!(answered(&datapath), 4 * QUESTIONS.len() as u64 * 2);
        datapath.stop(Ending::Detached);
        let client = Client::new(&topology.pod, SocketAddr::new(SERVED[0], 53)).unwrap();
        let query = Fixture::query(QUESTIONS[0].0, QUESTIONS[0].1);
        // No program so much as looks at it. A packet that was on its way when the hook was taken off may
        // still be counted, so this has to become true rather than be so at once.
        let is_left_alone = || {
            let before = seen(&datapath);
            client.send(&query.message())?;
            let answer = client.receive(Duration::from_millis(200))?;
            assert_eq!(answer, None);
            Ok(seen(&datapath) == before)
        };
        assert!(eventually(LIMIT, is_left_alone).unwrap());
    };
    topology.node.enter(inside).unwrap();
}

fn answered(datapath: &Datapath) -> u64 {
    let outcomes = datapath.status().unwrap().outcomes;
    let answers = outcomes.iter().filter(|outcome| outcome.answered);
    answers.map(|outcome| outcome.packets).sum()
}

/// Packets that the programs have looked at.
fn seen(datapath: &Datapath) -> u64 {
    let outcomes = datapath.status().unwrap().outcomes;
    outcomes.iter().map(|outcome| outcome.packets).sum()
}

/// A query as it is.
fn plain(query: Query) -> Query {
    query
}

/// A query with room for the answer in its own packet (RFC 7830): a veth gives native XDP a buffer
/// that is hardly larger than the packet, and what can't be made longer passes.
fn with_padding(query: Query) -> Query {
    let padding = [&[0, 12, 0, 64][..], &[0; 64]].concat();
    query.with_edns(1232, 0, &padding)
}

/// Asks every question over IPv4 and IPv6, and compares with what the user plane says.
fn ask_everything(client: &Namespace, model: &Model, form: fn(Query) -> Query) {
    for (name, rtype) in QUESTIONS {
        for query in [Fixture::query(name, rtype), Fixture::query6(name, rtype)] {
            let query = form(query);
            let (address, port) = query.server;
            let client = Client::new(client, SocketAddr::new(address, port)).unwrap();
            let message = query.message();
            let Some(reply) = client.ask(&message, LIMIT).unwrap() else {
                panic!("no answer to {query:?}");
            };
            assert!(is_right(&message, &reply, model), "{query:?}: {reply:02x?}");
        }
    }
}

/// Whether the user plane gives this reply, in some rotation.
fn is_right(message: &[u8], reply: &[u8], model: &Model) -> bool {
    (0..4).any(
        |rotation| match respond(message, model, Transport::Udp, rotation) {
            Reply::Message(expected) => expected == reply,
            _ => false,
        },
    )
}
