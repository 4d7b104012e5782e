//! The agent's network namespace: the rights that it needs, and what is left of it.

use std::{fs, io, net::UdpSocket};

use rustix::thread::CapabilitySet;
use zerohop_contract::addresses::SERVED;
use zerohop_steering::AgentNamespace;
use zerohop_tests::{capabilities::drop_capabilities, netns::NetworkNamespace, udp::eventually};

use super::{
    node::{AGENT_ID, AGENT_VETH, DNS_PORT, block_on},
    servers::LIMIT,
};

/// The capabilities of the DaemonSet's container.
const DAEMON_SET: CapabilitySet = CapabilitySet::BPF
    .union(CapabilitySet::NET_ADMIN)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::PERFMON);

#[test]
fn the_namespace_needs_sys_admin_and_its_thread_gives_it_up() {
    let node = NetworkNamespace::new("node").unwrap();
    let created = create_with(&node, DAEMON_SET | CapabilitySet::SYS_ADMIN).unwrap();
    let status = || fs::read_to_string("/proc/thread-self/status");
    let status = block_on(created.run(status)).unwrap().unwrap();
    let kept = CapabilitySet::NET_ADMIN | CapabilitySet::NET_BIND_SERVICE;
    for field in ["CapPrm", "CapEff"] {
        let line = format!("{field}:\t{:016x}", kept.bits());
        assert!(status.contains(&line), "{line} is not in {status}");
    }
    // What the thread does later needs no more.
    for served in SERVED {
        block_on(created.add_address(served)).unwrap();
        let bind = move || UdpSocket::bind((served, DNS_PORT)).map(drop);
        block_on(created.run(bind)).unwrap().unwrap();
    }

    let refused = create_with(&node, DAEMON_SET).unwrap_err();
    let message = format!("{refused:#}");
    assert!(message.contains("capability SYS_ADMIN"), "{message}");
}

#[test]
fn the_same_address_may_be_added_twice() {
    let node = NetworkNamespace::new("node").unwrap();
    let namespace = node.enter(|| block_on(AgentNamespace::create()));
    let namespace = namespace.unwrap().unwrap();
    for served in SERVED.into_iter().chain(SERVED) {
        block_on(namespace.add_address(served)).unwrap();
    }
}

/// While one agent replaces the other, both have a namespace. A new one doesn't wait for the end of
/// the old one.
#[test]
fn namespaces_of_two_agents_have_ids_and_devices_of_their_own() {
    let node = NetworkNamespace::new("node").unwrap();
    let create = || node.enter(|| block_on(AgentNamespace::create())).unwrap();
    let (old, new) = (create().unwrap(), create().unwrap());
    assert_eq!([old.id(), new.id()], [AGENT_ID, AGENT_ID + 1]);
    assert_ne!(old.node_device(), new.node_device());
    drop(old);
    // The kernel removes a namespace in the background.
    let is_gone = || Ok(node.index(AGENT_VETH).is_err());
    assert!(eventually(LIMIT, is_gone).unwrap());
    assert_eq!(create().unwrap().id(), AGENT_ID);
}

/// The next agent may start before the kernel has removed the namespace of the last one.
#[test]
fn an_agent_may_start_at_once_after_another() {
    let node = NetworkNamespace::new("node").unwrap();
    for _ in 0..20 {
        let created = node.enter(|| block_on(AgentNamespace::create()));
        drop(created.unwrap().unwrap());
    }
    let is_gone = || {
        let devices = node.enter(|| fs::read_to_string("/proc/thread-self/net/dev"))??;
        Ok(!devices.contains("zh"))
    };
    assert!(eventually(LIMIT, is_gone).unwrap(), "a device is left");
}

/// Creates a namespace on a thread with these capabilities only.
fn create_with(
    node: &NetworkNamespace,
    capabilities: CapabilitySet,
) -> anyhow::Result<AgentNamespace> {
    let create = || -> io::Result<_> {
        drop_capabilities(capabilities.complement())?;
        Ok(block_on(AgentNamespace::create()))
    };
    node.enter(create).unwrap().unwrap()
}
