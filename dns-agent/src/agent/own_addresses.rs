//! Refuses upstream addresses that this agent itself listens on.

use std::net::{IpAddr, SocketAddr};

use anyhow::bail;
use nix::{ifaddrs::getifaddrs, sys::socket::SockaddrStorage};

use crate::config::{Config, SourceConfig};

/// The interface on which kube-proxy puts the ClusterIPs in IPVS mode. A socket on a wildcard
/// address receives no packets to a ClusterIP, because IPVS sends these to the Service's pods. A
/// socket that is bound to the ClusterIP itself counts as receiving them, because that is its
/// purpose.
const IPVS: &str = "kube-ipvs0";

/// Checks that no packet to an address of `--upstream`, `--stub-domain` or `--cluster-dns` reaches
/// a socket that listens on one of `listen`.
///
/// # Errors
/// When one does, because the agent would forward queries to itself.
pub(super) fn check_upstreams(config: &Config, listen: &[SocketAddr]) -> anyhow::Result<()> {
    let cluster_dns = match &config.source {
        SourceConfig::Kubernetes(kubernetes) => &kubernetes.cluster_dns[..],
        SourceConfig::Manifests(_) => &[],
    };
    let upstreams = config.upstreams.iter().map(|server| server.address);
    let stubs = config.stub_domains.iter().flat_map(|stub| &stub.servers);
    for (flag, servers) in [
        ("--upstream", upstreams.collect::<Vec<_>>()),
        (
            "--stub-domain",
            stubs.map(|server| server.address).collect(),
        ),
        ("--cluster-dns", cluster_dns.to_vec()),
    ] {
        for server in servers {
            if let Some(own) = listen.iter().find(|own| reaches_socket(**own, server)) {
                bail!(
                    "{flag} {server} is this agent itself, because it listens on {own}: each \
                     query would be forwarded forever; give the address of another server"
                );
            }
        }
    }
    Ok(())
}

/// Whether a packet to `server` reaches the socket that is bound to `listen`.
fn reaches_socket(listen: SocketAddr, server: SocketAddr) -> bool {
    let (own, upstream) = (listen.ip().to_canonical(), server.ip().to_canonical());
    // The resolver's IPv6 sockets receive no IPv4 packets (IPV6_V6ONLY).
    let same_family = own.is_ipv4() == upstream.is_ipv4();
    if listen.port() != server.port() || !same_family {
        return false;
    }
    if own.is_unspecified() {
        is_local(upstream)
    } else {
        own == upstream && scope(listen) == scope(server)
    }
}

fn scope(address: SocketAddr) -> u32 {
    match address {
        SocketAddr::V4(_) => 0,
        SocketAddr::V6(address) => address.scope_id(),
    }
}

/// Whether a packet to this address stays in this network namespace: it is a loopback address, or
/// an interface other than [`IPVS`] has it. If the interfaces can't be read, only loopback
/// addresses count, because no server is refused without proof.
fn is_local(address: IpAddr) -> bool {
    if address.is_loopback() {
        return true;
    }
    let Ok(interfaces) = getifaddrs() else {
        return false;
    };
    let interfaces = interfaces.filter(|interface| interface.interface_name != IPVS);
    let mut own = interfaces.filter_map(|interface| to_ip_addr(&interface.address?));
    own.any(|own| own == address)
}

fn to_ip_addr(address: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|address| address.ip().into());
    v4.or_else(|| Some(address.as_sockaddr_in6()?.ip().into()))
}

#[cfg(test)]
mod tests {
    use super::reaches_socket;

    #[test]
    fn packets_reach_the_socket_of_the_same_address_and_port() {
        for (listen, server, reaches) in [
            ("10.96.0.10:53", "10.96.0.10:53", true),
            ("10.96.0.10:53", "10.96.0.10:5353", false),
            ("10.96.0.10:53", "10.96.0.11:53", false),
            ("[fd00::a]:53", "[fd00::a]:53", true),
            ("10.96.0.10:53", "[::ffff:10.96.0.10]:53", true),
            ("0.0.0.0:53", "127.0.0.1:53", true),
            ("0.0.0.0:53", "127.9.9.9:53", true),
            ("0.0.0.0:53", "127.0.0.1:54", false),
            // No machine has an address of TEST-NET-1.
            ("0.0.0.0:53", "192.0.2.53:53", false),
            ("[::]:53", "[::1]:53", true),
            ("[::]:53", "127.0.0.1:53", false),
            ("[fe80::1%2]:53", "[fe80::1%2]:53", true),
            ("[fe80::1%2]:53", "[fe80::1%3]:53", false),
        ] {
            let (own, upstream) = (listen.parse().unwrap(), server.parse().unwrap());
            assert_eq!(
                reaches_socket(own, upstream),
                reaches,
                "a packet to {server}, and the socket at {listen}"
            );
        }
    }
}
