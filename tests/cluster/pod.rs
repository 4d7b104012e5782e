//! Pods whose host veth is in the machine's own network namespace, where the API server and CoreDNS
//! can be reached.

use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    process::{self, Command},
};

use anyhow::{Context as _, Result, ensure};
use zerohop_tests::{netns::Namespace, topology::POD_DEVICE, udp::Server};

/// Pods that ask one address, and whoever hears what the kernel passes.
pub(crate) struct Pods {
    /// Who they ask; an address of the first pod's host veth.
    served: Ipv4Addr,
    /// The first three octets of their addresses.
    network: [u8; 3],
    made: u8,
    stand_in: Option<Server>,
}

/// A pod.
pub(crate) struct Pod {
    namespace: Namespace,
    /// Its host veth.
    pub(crate) interface: String,
}

/// What the stand-in answers: RCODE 11, which nobody else gives.
pub(crate) const PASSED: u8 = 11;

impl Pods {
    pub(crate) fn new(served: Ipv4Addr) -> Pods {
        Pods {
            served,
            // Of the network for benchmarks (RFC 2544), which nobody routes.
            network: [198, 18, rand::random()],
            made: 0,
            stand_in: None,
        }
    }

    /// Makes another pod.
    pub(crate) fn add(&mut self) -> Result<Pod> {
        let [a, b, c] = self.network;
        let gateway = Ipv4Addr::new(a, b, c, 4 * self.made + 1);
        let address = Ipv4Addr::new(a, b, c, 4 * self.made + 2);
        let pod = Pod {
            namespace: Namespace::new("pod")?,
            interface: format!("zh{}-{}", process::id(), self.made),
        };
        let Pod {
            namespace,
            interface,
        } = &pod;
        // Gone with the pod's namespace, like all that depends on it.
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
            let socket = UdpSocket::bind(self.served())
                .with_context(|| format!("no stand-in on {}", self.served()))?;
            self.stand_in = Some(Server::on(socket, |query| Some(passed(query)))?);
        }
        self.made += 1;
        Ok(pod)
    }

    /// The address that the pods ask.
    pub(crate) fn served(&self) -> SocketAddr {
        (self.served, 53).into()
    }
}

impl Pod {
    /// A socket in the pod that hears `server` alone.
    pub(crate) fn socket(&self, server: SocketAddr) -> Result<UdpSocket> {
        let socket = self.namespace.enter(|| {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
            socket.connect(server)?;
            anyhow::Ok(socket)
        })?;
        socket.with_context(|| format!("in a pod, no way to {server}"))
    }
}

fn passed(query: &[u8]) -> Vec<u8> {
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
