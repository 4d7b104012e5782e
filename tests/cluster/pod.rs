//! Client pods. Their host veths are in the machine's own network namespace, from which the API
//! server and CoreDNS can be reached.

use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    process::{self, Command},
};

use anyhow::{Context as _, Result, ensure};
use zerohop_tests::{netns::NetworkNamespace, topology::POD_DEVICE, udp::UdpServer};

/// Makes pods that query one address, and replies to the queries that the kernel passes.
pub(crate) struct ClientPods {
    /// The address that the pods query. The first pod's host veth has this address.
    served: Ipv4Addr,
    /// The first three bytes of the pods' addresses.
    network: [u8; 3],
    /// Number of pods made.
    made: u8,
    /// Replies to the queries that the kernel passes, with the RCODE [`PASSED`]. It starts with
    /// the first pod.
    pass_server: Option<UdpServer>,
}

/// A network namespace, with a veth pair to the machine's own namespace.
pub(crate) struct ClientPod {
    pub(crate) namespace: NetworkNamespace,
    pub(crate) address: Ipv4Addr,
    /// The address of the machine's own namespace on the pod's network.
    pub(crate) gateway: Ipv4Addr,
    /// The name of the host veth.
    pub(crate) interface: String,
}

/// The RCODE of replies to passed queries: 11, which no server in the comparison uses.
pub(crate) const PASSED: u8 = 11;
pub(crate) const NOERROR: u8 = 0;

impl ClientPods {
    pub(crate) fn new(served: Ipv4Addr) -> ClientPods {
        ClientPods {
            served,
            // Part of 198.18.0.0/15, which is reserved for benchmarks (RFC 2544) and not routed.
            // The random byte makes it unlikely that two runs on one machine share a network.
            network: [198, 18, rand::random()],
            made: 0,
            pass_server: None,
        }
    }

    /// Makes a pod. Each pod has a /30 network of its own.
    pub(crate) fn add_pod(&mut self) -> Result<ClientPod> {
        let [a, b, c] = self.network;
        let gateway = Ipv4Addr::new(a, b, c, 4 * self.made + 1);
        let address = Ipv4Addr::new(a, b, c, 4 * self.made + 2);
        let pod = ClientPod {
            namespace: NetworkNamespace::new("pod")?,
            address,
            gateway,
            interface: format!("zh{}-{}", process::id(), self.made),
        };
        let ClientPod {
            namespace,
            interface,
            ..
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
            self.pass_server = Some(UdpServer::on_socket(socket, |query| {
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
        socket.with_context(|| format!("cannot connect a UDP socket in a pod to {server}"))
    }
}

/// Whether the kernel passed the query of this reply. A reply without an RCODE counts as passed.
pub(crate) fn is_passed(reply: &[u8]) -> bool {
    rcode(reply).is_none_or(|rcode| rcode == PASSED)
}

/// The RCODE in the header of a message (RFC 1035 section 4.1.1). `None` if the message is too
/// short.
pub(crate) fn rcode(message: &[u8]) -> Option<u8> {
    message.get(3).map(|byte| byte & 15)
}

/// The reply to a query that the kernel passed: the query with QR set and the RCODE [`PASSED`].
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
