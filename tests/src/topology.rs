//! A pod on a node, wired in the ways that the packet logic must stand.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Result;

use crate::netns::Namespace;

/// A pod and its node, joined by a veth pair, with IPv4 and IPv6.
pub struct Topology {
    /// Where the host veth is.
    pub node: Namespace,
    /// Where `eth0` is.
    pub pod: Namespace,
}

/// The node's end of the veth pair.
pub const HOST_VETH: &str = "veth-pod";
/// The pod's end, as every CNI plugin names it.
pub const POD_DEVICE: &str = "eth0";
/// The bridge of [`Topology::bridged`].
pub const BRIDGE: &str = "cni0";

/// The served addresses: they look like the ClusterIPs of kube-dns, and no
/// interface has them.
pub const SERVED: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(10, 96, 0, 10)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0xa)),
];
/// The pod's addresses.
pub const POD: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(10, 244, 0, 2)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, 2)),
];
/// The address of [`Topology::another_pod`].
const ANOTHER_POD: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 3);
/// The node's addresses towards the pod.
pub const GATEWAY: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(10, 244, 0, 1)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, 1)),
];
/// The addresses of the namespace that [`Topology::nest`] makes.
pub const INNER: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(10, 244, 1, 2)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x10, 0x244, 1, 0, 0, 0, 2)),
];
/// The pod's addresses towards that namespace.
const INNER_GATEWAY: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(10, 244, 1, 1)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x10, 0x244, 1, 0, 0, 0, 1)),
];

/// The host veth's hardware address.
pub const HOST_VETH_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// The hardware address of the pod's `eth0`.
pub const POD_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// The bridge's hardware address: set by hand, so it is none of its ports'.
pub const BRIDGE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xb];

impl Topology {
    /// The node routes to the host veth, which has the gateway's addresses,
    /// as kindnet and the ptp plugin do it.
    pub fn routed() -> Result<Topology> {
        let topology = Topology::joined()?;
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

    /// The host veth is a port of a bridge, which has the gateway's addresses
    /// and a hardware address set by hand, as the bridge plugin and flannel do it.
    pub fn bridged() -> Result<Topology> {
        let topology = Topology::joined()?;
        let [gateway, gateway6] = GATEWAY;
        topology.node.ip(&[
            &format!("link add {BRIDGE} address {} type bridge", mac(BRIDGE_MAC)),
            &format!("link set {BRIDGE} up"),
            &format!("link set {HOST_VETH} master {BRIDGE}"),
            &format!("address add {gateway}/24 dev {BRIDGE}"),
            &format!("address add {gateway6}/64 dev {BRIDGE} nodad"),
        ])?;
        topology.connect_pod()
    }

    /// Puts another namespace behind the pod, which forwards for it.
    ///
    /// Its only interface is called [`POD_DEVICE`] too.
    pub fn nest(&self) -> Result<Namespace> {
        let inner = Namespace::new("inner")?;
        let [address, address6] = INNER;
        let [gateway, gateway6] = INNER_GATEWAY;
        let [pod, pod6] = POD;
        forward(&self.pod)?;
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

    /// Another pod on the node, beside the one that there is; its host veth is routed.
    pub fn another_pod(&self) -> Result<Namespace> {
        let another = Namespace::new("another")?;
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

    /// Gives the node the served addresses, so that a stand-in for the
    /// cluster's own DNS can listen on them.
    pub fn assign_served(&self) -> Result<()> {
        let [served, served6] = SERVED;
        self.node.ip(&[
            &format!("route delete blackhole {served}/32"),
            &format!("route delete blackhole {served6}/128 dev lo"),
            &format!("address add {served}/32 dev lo"),
            &format!("address add {served6}/128 dev lo nodad"),
        ])
    }

    /// The two namespaces and the pair, up, without the node's addresses.
    fn joined() -> Result<Topology> {
        let topology = Topology {
            node: Namespace::new("node")?,
            pod: Namespace::new("pod")?,
        };
        let [served, served6] = SERVED;
        forward(&topology.node)?;
        topology.node.ip(&[
            &format!(
                "link add {HOST_VETH} address {} type veth peer name {POD_DEVICE} address {} netns {}",
                mac(HOST_VETH_MAC),
                mac(POD_MAC),
                topology.pod.name()
            ),
            &format!("link set {HOST_VETH} up"),
            // What the kernel program passes ends here, without a word.
            &format!("route add blackhole {served}/32"),
            &format!("route add blackhole {served6}/128"),
        ])?;
        Ok(topology)
    }

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

fn forward(namespace: &Namespace) -> Result<()> {
    namespace.sysctl("ipv4/ip_forward", "1")?;
    namespace.sysctl("ipv6/conf/all/forwarding", "1")
}

/// A hardware address as `ip` reads it.
fn mac(octets: [u8; 6]) -> String {
    octets.map(|octet| format!("{octet:02x}")).join(":")
}
