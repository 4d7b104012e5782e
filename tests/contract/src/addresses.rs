//! Addresses of a pod and of the cluster's DNS that most tests share.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The served addresses, IPv4 and IPv6. They represent the ClusterIPs of kube-dns, so no interface
/// has them unless a test assigns them.
pub const SERVED: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(10, 96, 0, 10)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0xa)),
];
/// The pod's addresses, IPv4 and IPv6.
pub const POD: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(10, 244, 0, 2)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, 2)),
];
