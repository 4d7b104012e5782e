//! Client pods. Their host veths are in the machine's own network namespace, from which the API
//! server and CoreDNS can be reached.

use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    process::{self, Command},
};

use anyhow::{Context as _, Result, ensure};
use zerohop_tests::{netns::NetworkNamespace, topology::POD_DEVICE, udp::UdpServer};

/// Makes pods that query one address, and answers the queries that the kernel passes.
pub(crate) struct ClientPods {
    /// The address that the pods query. The first pod's host veth has this address.
    served: Ipv4Addr,
    /// The first three bytes of the pods' addresses.
    network: [u8; 3],
    /// Number of pods made.
    made: u8,
    /// Answers the queries that the kernel passes, with the RCODE [`PASSED`].
    stand_in: Option<UdpServer>,
}

/// A network namespace, with a veth pair to the machine's own namespace.
pub(crate) struct ClientPod {
    namespace: NetworkNamespace,
    /// The name of the host veth.
    pub(crate) interface: String,
}

/// The RCODE of answers to passed queries: 11, which no server in the comparison uses.
pub(crate) const PASSED: u8 = 11;

impl ClientPods {
    pub(crate) fn new(served: Ipv4Addr) -> ClientPods {
        ClientPods {
            served,
            // From 198.18.0.0/15, which is for benchmarks (RFC 2544) and is not routed.
            network: [198, 18, rand::random()],
            made: 0,
            stand_in: None,
        }
    }

    /// Makes a pod.
    pub(crate) fn add(&mut self) -> Result<ClientPod> {
        let [a, b, c] = self.network;
        let gateway = Ipv4Addr::new(a, b, c, 4 * self.made + 1);
        let address = Ipv4Addr::new(a, b, c, 4 * self.made + 2);
        let pod = ClientPod {
            namespace: NetworkNamespace::new("pod")?,
            interface: format!("zh{}-{}", process::id(), self.made),
        };
        let ClientPod {
            namespace,
            interface,
        } = &pod;
        // The kernel removes the veth pair, its addresses and its routes with the pod's namespace.
        ip(&format!(
            "link add {interface} type veth peer name {POD_DEVICE} netns {}",
            namespace.name()
        ))?;
        ip(&format!("link set {interface} up"))?;
        ip(&format!("address add {gateway}/32 dev {interface}"))?;
        ip(&format!("route add {address}/32 dev {interface}"))?;
        namespace.ip(&[
            &format!("link set {POD_DEVICE} up"),
            &format!("address add {address}/30 dev {POD_DEVICE}"),
            &format!("route add default via {gateway}"),
        ])?;
        if self.made == 0 {
            ip(&format!("address add {}/32 dev {interface}", self.served))?;
            let socket = UdpSocket::bind(self.served()).with_context(|| {
                format!(
                    "can't bind the server for passed queries to {}",
                    self.served()
                )
            })?;
            self.stand_in = Some(UdpServer::on_socket(socket, |query| {
                Some(passed_reply(query))
            })?);
        }
        self.made += 1;
        Ok(pod)
    }

    /// The address and port that the pods query.
    pub(crate) fn served(&self) -> SocketAddr {
        (self.served, 53).into()
    }
}

impl ClientPod {
    /// A socket in the pod, connected to `server`.
    pub(crate) fn socket(&self, server: SocketAddr) -> Result<UdpSocket> {
        let socket = self.namespace.enter(|| {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
            socket.connect(server)?;
            anyhow::Ok(socket)
        })?;
        socket.with_context(|| format!("no route to {server} in a pod"))
    }
}

/// The reply to a query that the kernel passed.
fn passed_reply(query: &[u8]) -> Vec<u8> {
    let mut reply = query.to_vec();
    if let [_, _, flags, rcode, ..] = reply.as_mut_slice() {
        *flags |= 0x80;
        *rcode = PASSED;
    }
    reply
}

/// Runs `ip` in the machine's own namespace.
fn ip(words: &str) -> Result<()> {
    let output = Command::new("ip").args(words.split(' ')).output()?;
    ensure!(
        output.status.success(),
        "ip {words}: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}
