//! A pod on a node, wired in the ways that CNI plugins use.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use anyhow::{Result, ensure};
use zerohop_contract::addresses::{POD, SERVED};

use crate::{netns::NetworkNamespace, udp::eventually};

/// A pod and its node, joined by a veth pair, with IPv4 and IPv6.
pub struct Topology {
    /// The node's namespace, which has the host veth.
    pub node: NetworkNamespace,
    /// The pod's namespace, which has `eth0`.
    pub pod: NetworkNamespace,
}

/// The node's end of the veth pair.
pub const HOST_VETH: &str = "veth-pod";
/// The pod's end of the veth pair, by the name that container runtimes usually give it.
pub const POD_DEVICE: &str = "eth0";
/// The bridge of [`Topology::bridged`].
pub const BRIDGE: &str = "cni0";

/// The address of the pod that [`Topology::add_pod`] adds.
pub const ANOTHER_POD: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 3);
/// The node's addresses towards the pod.
pub const GATEWAY: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(10, 244, 0, 1)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, 1)),
];
/// The addresses of the namespace that [`Topology::add_nested_namespace`] creates.
pub const INNER: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(10, 244, 1, 2)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x10, 0x244, 1, 0, 0, 0, 2)),
];
/// The pod's addresses towards the nested namespace.
const INNER_GATEWAY: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(10, 244, 1, 1)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x10, 0x244, 1, 0, 0, 0, 1)),
];

/// The host veth's hardware address.
pub const HOST_VETH_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// The hardware address of the pod's `eth0`.
pub const POD_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// The bridge's hardware address. It is set explicitly: by default a bridge takes a port's address.
pub const BRIDGE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xb];

impl Topology {
    /// Creates a pod that the node reaches by routes. The host veth has the gateway's addresses, as
    /// with kindnet and the ptp plugin.
    pub fn routed() -> Result<Topology> {
        let topology = Topology::with_veth_pair()?;
        let [gateway, gateway6] = GATEWAY;
        let [pod, pod6] = POD;
        topology.node.ip(&[
            &format!("address add {gateway}/32 dev {HOST_VETH}"),
            &format!("address add {gateway6}/128 dev {HOST_VETH} nodad"),
            &format!("route add {pod}/32 dev {HOST_VETH}"),
            &format!("route add {pod6}/128 dev {HOST_VETH}"),
        ])?;
        topology.connect_pod()
    }

    /// Creates a pod behind a bridge, as with the bridge plugin and flannel. The host veth is a
    /// port of the bridge, which has the gateway's addresses and an explicit hardware address.
    pub fn bridged() -> Result<Topology> {
        let topology = Topology::with_veth_pair()?;
        let [gateway, gateway6] = GATEWAY;
        topology.node.ip(&[
            &format!(
                "link add {BRIDGE} address {} type bridge",
                format_mac(BRIDGE_MAC)
            ),
            &format!("link set {BRIDGE} up"),
            &format!("link set {HOST_VETH} master {BRIDGE}"),
            &format!("address add {gateway}/24 dev {BRIDGE}"),
            &format!("address add {gateway6}/64 dev {BRIDGE} nodad"),
        ])?;
        topology.connect_pod()
    }

    /// Adds a namespace behind the pod. The pod forwards its packets.
    ///
    /// The only interface of the added namespace is called [`POD_DEVICE`] too.
    pub fn add_nested_namespace(&self) -> Result<NetworkNamespace> {
        let inner = NetworkNamespace::new("inner")?;
        let [address, address6] = INNER;
        let [gateway, gateway6] = INNER_GATEWAY;
        let [pod, pod6] = POD;
        enable_forwarding(&self.pod)?;
        self.pod.ip(&[
            &format!(
                "link add veth-inner type veth peer name {POD_DEVICE} netns {}",
                inner.name()
            ),
            "link set veth-inner up",
            &format!("address add {gateway}/24 dev veth-inner"),
            &format!("address add {gateway6}/64 dev veth-inner nodad"),
        ])?;
        inner.ip(&[
            &format!("link set {POD_DEVICE} up"),
            &format!("address add {address}/24 dev {POD_DEVICE}"),
            &format!("address add {address6}/64 dev {POD_DEVICE} nodad"),
            &format!("route add default via {gateway}"),
            &format!("route add default via {gateway6}"),
        ])?;
        self.node.ip(&[
            &format!("route add {address}/32 via {pod}"),
            &format!("route add {address6}/128 via {pod6}"),
        ])?;
        Ok(inner)
    }

    /// Adds a second pod to the node, with a routed host veth and only an IPv4 address.
    pub fn add_pod(&self) -> Result<NetworkNamespace> {
        let another = NetworkNamespace::new("another")?;
        let [gateway, _] = GATEWAY;
        self.node.ip(&[
            &format!(
                "link add veth-another type veth peer name {POD_DEVICE} netns {}",
                another.name()
            ),
            "link set veth-another up",
            &format!("address add {gateway}/32 dev veth-another"),
            &format!("route add {ANOTHER_POD}/32 dev veth-another"),
        ])?;
        another.ip(&[
            &format!("link set {POD_DEVICE} up"),
            &format!("address add {ANOTHER_POD}/24 dev {POD_DEVICE}"),
            &format!("route add default via {gateway}"),
        ])?;
        Ok(another)
    }

    /// Gives the node the served addresses, so that a stand-in for the cluster's DNS can listen on
    /// them.
    pub fn assign_served_addresses(&self) -> Result<()> {
        let [served, served6] = SERVED;
        self.node.ip(&[
            &format!("route delete blackhole {served}/32"),
            // The kernel gives IPv6 blackhole routes the device `lo`.
            &format!("route delete blackhole {served6}/128 dev lo"),
            &format!("address add {served}/32 dev lo"),
            &format!("address add {served6}/128 dev lo nodad"),
        ])?;
        wait_for_local_route(&self.node, served6)
    }

    /// Creates both namespaces and the veth pair. The host veth is up; no end has an address yet.
    fn with_veth_pair() -> Result<Topology> {
        let topology = Topology {
            node: NetworkNamespace::new("node")?,
            pod: NetworkNamespace::new("pod")?,
        };
        let [served, served6] = SERVED;
        enable_forwarding(&topology.node)?;
        topology.node.ip(&[
            &format!(
                "link add {HOST_VETH} address {} type veth peer name {POD_DEVICE} address {} netns {}",
                format_mac(HOST_VETH_MAC),
                format_mac(POD_MAC),
                topology.pod.name()
            ),
            &format!("link set {HOST_VETH} up"),
            // Queries that the kernel program passes are dropped here, without an ICMP error.
            &format!("route add blackhole {served}/32"),
            &format!("route add blackhole {served6}/128"),
        ])?;
        Ok(topology)
    }

    /// Sets the pod's veth up, with the pod's addresses and default routes.
    fn connect_pod(self) -> Result<Topology> {
        let [gateway, gateway6] = GATEWAY;
        let [pod, pod6] = POD;
        self.pod.ip(&[
            &format!("link set {POD_DEVICE} up"),
            &format!("address add {pod}/24 dev {POD_DEVICE}"),
            &format!("address add {pod6}/64 dev {POD_DEVICE} nodad"),
            &format!("route add default via {gateway}"),
            &format!("route add default via {gateway6}"),
        ])?;
        Ok(self)
    }
}

/// Waits until packets to an address that was added to `lo` are delivered.
///
/// The kernel adds the local route of an IPv6 address in the background (`addrconf_dad_work` in
/// `net/ipv6/addrconf.c`). A socket can have the address earlier, but packets to it are lost.
pub fn wait_for_local_route(namespace: &NetworkNamespace, address: IpAddr) -> Result<()> {
    let IpAddr::V6(address) = address else {
        return Ok(());
    };
    let start = format!("{:032x} 80 ", address.to_bits());
    let read = || fs::read_to_string("/proc/thread-self/net/ipv6_route");
    let has_route = || {
        let routes = namespace.enter(read)??;
        Ok(routes.lines().any(|route| {
            let flags = route.split_whitespace().nth(8);
            let flags = flags.and_then(|flags| u32::from_str_radix(flags, 16).ok());
            route.starts_with(&start) && flags.is_some_and(|flags| flags & RTF_LOCAL != 0)
        }))
    };
    ensure!(
        eventually(ROUTE_LIMIT, has_route)?,
        "namespace {} has no local route to {address}",
        namespace.name()
    );
    Ok(())
}

/// The flag of routes to local addresses (Linux's ipv6_route.h).
const RTF_LOCAL: u32 = 0x8000_0000;
/// The longest time until an address has its local route.
const ROUTE_LIMIT: Duration = Duration::from_secs(10);

fn enable_forwarding(namespace: &NetworkNamespace) -> Result<()> {
    namespace.sysctl("ipv4/ip_forward", "1")?;
    namespace.sysctl("ipv6/conf/all/forwarding", "1")
}

/// Formats a hardware address for `ip`.
fn format_mac(bytes: [u8; 6]) -> String {
    bytes.map(|byte| format!("{byte:02x}")).join(":")
}
