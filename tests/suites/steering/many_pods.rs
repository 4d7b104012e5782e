//! Many pods on a node: each gets its own replies.

use std::{
    env,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    thread,
};

use zerohop_contract::addresses::SERVED;
use zerohop_tests::{
    netns::NetworkNamespace,
    topology::{BRIDGE, GATEWAY, POD_DEVICE, Topology},
};

use super::{
    node::SteeringNode,
    servers::{
        AnsweringPlace, DatagramServers, Stream, StreamBehavior, StreamServers, ask, client,
    },
};

/// A pod besides the topology's.
struct FurtherPod {
    namespace: NetworkNamespace,
    number: u16,
    /// The name of the node's end of the veth pair.
    veth: String,
    addresses: [IpAddr; 2],
}

/// How the node reaches the pods.
#[derive(Clone, Copy, PartialEq, Eq)]
enum PodShape {
    Routed,
    Bridged,
}

/// The variable with the number of pods, which `cargo xtask test --steered-pods` sets. 200 take
/// minutes in an emulated guest.
const STEERED_PODS: &str = "ZEROHOP_STEERED_PODS";
const USUAL_PODS: u16 = 10;
/// Number of pods that ask at the same time.
const AT_ONCE: usize = 8;

#[test]
fn each_of_many_routed_pods_gets_its_replies() {
    check_pods(PodShape::Routed);
}

#[test]
fn each_of_many_bridged_pods_gets_its_replies() {
    check_pods(PodShape::Bridged);
}

/// Every pod asks over UDP and TCP, IPv4 and IPv6. Each sends other bytes.
fn check_pods(shape: PodShape) {
    let count: u16 = match env::var(STEERED_PODS) {
        Ok(number) => number.parse().unwrap(),
        Err(_) => USUAL_PODS,
    };
    let topology = match shape {
        PodShape::Routed => Topology::routed(),
        PodShape::Bridged => Topology::bridged(),
    };
    let mut node = SteeringNode::new(topology.unwrap());
    let pods: Vec<_> = (1..=count).map(FurtherPod::new).collect();
    connect(&node, &pods, shape);
    let steered: Vec<_> = pods.iter().map(|pod| (&*pod.veth, pod.addresses)).collect();
    node.steer_pods(&steered);
    let agent = node.agent();
    let _datagrams = DatagramServers::start(agent, AnsweringPlace::Agent);
    let _streams = StreamServers::start(agent, AnsweringPlace::Agent, StreamBehavior::Echo);
    for pods in pods.chunks(AT_ONCE) {
        thread::scope(|scope| {
            for pod in pods {
                scope.spawn(|| pod.ask());
            }
        });
    }
}

/// Connects the pods to the node.
fn connect(node: &SteeringNode, pods: &[FurtherPod], shape: PodShape) {
    let [gateway, gateway6] = GATEWAY;
    let mut lines = Vec::new();
    for pod in pods {
        let (veth, [address, address6]) = (&pod.veth, pod.addresses);
        lines.push(format!(
            "link add {veth} type veth peer name {POD_DEVICE} netns {}",
            pod.namespace.name()
        ));
        lines.push(format!("link set {veth} up"));
        let device = match shape {
            PodShape::Routed => {
                lines.push(format!("address add {gateway}/32 dev {veth}"));
                lines.push(format!("address add {gateway6}/128 dev {veth} nodad"));
                veth
            }
            PodShape::Bridged => {
                lines.push(format!("link set {veth} master {BRIDGE}"));
                BRIDGE
            }
        };
        lines.push(format!("route add {address}/32 dev {device}"));
        lines.push(format!("route add {address6}/128 dev {device}"));
    }
    let lines: Vec<_> = lines.iter().map(String::as_str).collect();
    node.topology.node.ip(&lines).unwrap();
    for pod in pods {
        let [address, address6] = pod.addresses;
        pod.namespace
            .ip(&[
                &format!("link set {POD_DEVICE} up"),
                &format!("address add {address}/32 dev {POD_DEVICE}"),
                &format!("address add {address6}/128 dev {POD_DEVICE} nodad"),
                &format!("route add {gateway}/32 dev {POD_DEVICE}"),
                &format!("route add {gateway6}/128 dev {POD_DEVICE}"),
                &format!("route add default via {gateway}"),
                &format!("route add default via {gateway6}"),
            ])
            .unwrap();
    }
}

impl FurtherPod {
    fn new(number: u16) -> FurtherPod {
        let [high, low] = number.to_be_bytes();
        FurtherPod {
            namespace: NetworkNamespace::new("further").unwrap(),
            number,
            veth: format!("veth-{number}"),
            addresses: [
                Ipv4Addr::new(10, 244, 128 + high, low).into(),
                Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 1, number).into(),
            ],
        }
    }

    fn ask(&self) {
        let bytes = self.number.to_le_bytes().repeat(500);
        for served in SERVED {
            let client = client(&self.namespace, served);
            assert_eq!(ask(&client, &bytes), Some(AnsweringPlace::Agent));
            let mut stream = Stream::connect(&self.namespace, served);
            assert_eq!(stream.place, AnsweringPlace::Agent);
            stream.exchange(&bytes);
        }
    }
}
