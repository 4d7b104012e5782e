//! TCP.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    os::fd::AsRawFd as _,
};

use dns_common::steering::SteeringOutcome;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, setsockopt, socket,
    sockopt::ReuseAddr,
};
use zerohop_contract::addresses::SERVED;
use zerohop_tests::{netns::NetworkNamespace, topology::Topology, udp::eventually};

use super::{
    node::{DNS_PORT, SteeringNode},
    servers::{AnsweringPlace, LIMIT, Stream, StreamBehavior, StreamServers, wait_until_closed},
};

/// Bytes that a long connection carries in each direction.
const LONG: usize = 4 << 20;

#[test]
fn streams_carry_four_megabytes_in_each_direction() {
    for node in SteeringNode::of_each_shape() {
        exchange_long_streams(&node);
        assert_eq!(node.count(SteeringOutcome::Opening), 2);
        assert_eq!(node.count(SteeringOutcome::Cookie), 0);
    }
}

#[test]
fn streams_begin_with_syn_cookies() {
    for node in SteeringNode::of_each_shape() {
        // Always. A container can't change this setting, so the programs must work with any.
        node.agent().sysctl("ipv4/tcp_syncookies", "2").unwrap();
        exchange_long_streams(&node);
        assert_eq!(node.count(SteeringOutcome::Opening), 2);
        assert!(node.count(SteeringOutcome::Cookie) >= 2);
    }
}

#[test]
fn a_stream_stays_where_it_began() {
    let node = SteeringNode::new(Topology::routed().unwrap());
    node.topology.assign_served_addresses().unwrap();
    let _node = start(&node.topology.node, AnsweringPlace::Node);
    for served in SERVED {
        let pod = &node.topology.pod;
        let mut on_node = Stream::connect(pod, served);
        assert_eq!(on_node.place, AnsweringPlace::Node);

        let agent = start(node.agent(), AnsweringPlace::Agent);
        let mut in_agent = Stream::connect(pod, served);
        assert_eq!(in_agent.place, AnsweringPlace::Agent);
        on_node.exchange(b"the listener in the agent's namespace is new");

        node.end_lease();
        let mut while_refused = Stream::connect(&node.topology.pod, served);
        assert_eq!(while_refused.place, AnsweringPlace::Node);
        in_agent.exchange(b"new flows are not admitted");

        node.begin_lease();
        while_refused.exchange(b"new flows are admitted again");
        drop(agent);
        wait_until_closed(node.agent());
        in_agent.exchange(b"the listener in the agent's namespace is closed");
        let on_node = Stream::connect(&node.topology.pod, served);
        assert_eq!(on_node.place, AnsweringPlace::Node);
    }
}

#[test]
fn a_port_in_time_wait_begins_a_new_stream() {
    let node = SteeringNode::new(Topology::routed().unwrap());
    node.topology.assign_served_addresses().unwrap();
    let _node = start(&node.topology.node, AnsweringPlace::Node);
    let pod = &node.topology.pod;
    for served in SERVED {
        let agent =
            StreamServers::start(node.agent(), AnsweringPlace::Agent, StreamBehavior::Close);
        let mut port = 0;
        for _ in 0..2 {
            // The server closes the connection first, so what is left of it waits for the client's
            // FIN, and then stays in TIME_WAIT.
            let mut stream = connect_from(pod, port, served);
            assert_eq!(stream.place, AnsweringPlace::Agent);
            stream.wait_for_end();
            port = stream.local_address().port();
            wait_for_state(node.agent(), port, FIN_WAIT2);
            drop(stream);
            wait_for_state(node.agent(), port, TIME_WAIT);
        }
        drop(agent);
        wait_until_closed(node.agent());
        wait_for_state(node.agent(), port, TIME_WAIT);
        let mut stream = connect_from(pod, port, served);
        assert_eq!(stream.place, AnsweringPlace::Node);
        stream.exchange(b"the agent's namespace still has a socket of this port");
    }
}

/// Sends [`LONG`] bytes to each served address and back.
fn exchange_long_streams(node: &SteeringNode) {
    let _agent = start(node.agent(), AnsweringPlace::Agent);
    let words = 0..LONG as u64 / 8;
    let bytes: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
    for served in SERVED {
        let mut stream = Stream::connect(&node.topology.pod, served);
        assert_eq!(stream.place, AnsweringPlace::Agent);
        stream.exchange(&bytes);
    }
}

fn start(namespace: &NetworkNamespace, place: AnsweringPlace) -> StreamServers {
    StreamServers::start(namespace, place, StreamBehavior::Echo)
}

/// Connects from a port, which may be 0 for any, to a served address.
fn connect_from(namespace: &NetworkNamespace, port: u16, served: IpAddr) -> Stream {
    let mut stream = None;
    let connect = || {
        match namespace.enter(|| open_from(port, served))? {
            Ok(opened) => stream = Some(opened),
            // The client's end of the last connection from this port is not yet gone.
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {}
            Err(error) => return Err(error.into()),
        }
        Ok(stream.is_some())
    };
    assert!(eventually(LIMIT, connect).unwrap());
    Stream::of(stream.unwrap())
}

fn open_from(port: u16, served: IpAddr) -> io::Result<TcpStream> {
    let (family, any): (_, IpAddr) = match served {
        IpAddr::V4(_) => (AddressFamily::Inet, Ipv4Addr::UNSPECIFIED.into()),
        IpAddr::V6(_) => (AddressFamily::Inet6, Ipv6Addr::UNSPECIFIED.into()),
    };
    let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&socket, ReuseAddr, &true)?;
    let address = |address| SockaddrStorage::from(address);
    bind(socket.as_raw_fd(), &address(SocketAddr::new(any, port)))?;
    connect(
        socket.as_raw_fd(),
        &address(SocketAddr::new(served, DNS_PORT)),
    )?;
    Ok(TcpStream::from(socket))
}

/// Waits until a connection of the namespace to a client's port has no process, and is in a state.
fn wait_for_state(namespace: &NetworkNamespace, port: u16, state: &str) {
    let has_state = || Ok(is_left_in_state(namespace, port, state));
    assert!(eventually(LIMIT, has_state).unwrap(), "{state}");
}

/// States in /proc/net/tcp (Linux's tcp_states.h).
const FIN_WAIT2: &str = "05";
const TIME_WAIT: &str = "06";
/// The timer in /proc/net/tcp of a connection without a process (proc_pid_net(5)).
const TIME_WAIT_TIMER: &str = "03:";

fn is_left_in_state(namespace: &NetworkNamespace, port: u16, state: &str) -> bool {
    let read = || {
        ["tcp", "tcp6"].map(|table| fs::read_to_string(format!("/proc/thread-self/net/{table}")))
    };
    let tables = namespace.enter(read).unwrap().map(Result::unwrap);
    let mut lines = tables.iter().flat_map(|table| table.lines());
    // The columns are number, local address, remote address, state, queues and timer.
    lines.any(|line| {
        let columns: Vec<_> = line.split_whitespace().collect();
        let [_, _, remote, found, _, timer, ..] = columns.as_slice() else {
            return false;
        };
        remote.ends_with(&format!(":{port:04X}"))
            && *found == state
            && timer.starts_with(TIME_WAIT_TIMER)
    })
}
