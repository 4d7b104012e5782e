//! A node with the agent's network namespace and the steering programs.

use std::{fs, net::IpAddr, path::Path};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, HashMap, PerCpuArray},
    programs::{
        SchedClassifier, TcAttachType,
        tc::{SchedClassifierLink, qdisc_add_clsact},
    },
};
use dns_common::{
    settings::{ClientKey, ipv4_client_key},
    steering::{SteeringOutcome, SteeringTarget},
};
use zerohop_contract::addresses::{POD, SERVED};
use zerohop_tests::{
    netns::NetworkNamespace,
    topology::{HOST_VETH, Topology, wait_for_local_route},
};

/// A pod on a node, whose packets to the served addresses are steered into the agent's namespace.
pub(super) struct SteeringNode {
    pub(super) topology: Topology,
    /// The agent's namespace. `None` after [`SteeringNode::end_agent`].
    agent: Option<NetworkNamespace>,
    object: Ebpf,
    links: Vec<SchedClassifierLink>,
}

/// The node's end of the veth pair that leads into the agent's namespace.
pub(super) const AGENT_VETH: &str = "zh0";
/// The agent's end.
const AGENT_DEVICE: &str = "zh1";
/// The ID of the agent's namespace in the node's namespace.
pub(super) const AGENT_ID: u32 = 23_112;
/// The served port.
pub(super) const DNS_PORT: u16 = 53;

/// The steering program of a pod's veth.
const STEER_POD: &str = "steer_pod";
/// The steering program of [`AGENT_VETH`].
const STEER_REPLY: &str = "steer_reply";

impl SteeringNode {
    /// Creates the agent's namespace, and steers the topology's pod. The node, the pod and the
    /// agent's namespace check source addresses strictly (`rp_filter` 1).
    pub(super) fn new(topology: Topology) -> SteeringNode {
        let agent = NetworkNamespace::new("agent").unwrap();
        for namespace in [&topology.node, &topology.pod, &agent] {
            namespace.sysctl("ipv4/conf/all/rp_filter", "1").unwrap();
        }
        connect_agent(&topology.node, &agent);
        let mut node = SteeringNode {
            object: load_programs(),
            agent: Some(agent),
            links: Vec::new(),
            topology,
        };
        node.set_target(SteeringTarget::NEW_FLOWS);
        node.attach(STEER_REPLY, &[AGENT_VETH]);
        node.steer_pods(&[(HOST_VETH, POD)]);
        node
    }

    /// The node as the CNI plugins of routed and of bridged pods set it up.
    pub(super) fn of_each_shape() -> [SteeringNode; 2] {
        [Topology::routed(), Topology::bridged()].map(|it| SteeringNode::new(it.unwrap()))
    }

    /// The agent's namespace.
    pub(super) fn agent(&self) -> &NetworkNamespace {
        self.agent.as_ref().unwrap()
    }

    /// Deletes the agent's namespace. Its sockets must be closed.
    pub(super) fn end_agent(&mut self) {
        self.agent = None;
    }

    /// Steers further pods, each by the name of the node's veth and the pod's addresses.
    pub(super) fn steer_pods(&mut self, pods: &[(&str, [IpAddr; 2])]) {
        for (veth, addresses) in pods {
            let index = self.topology.node.index(veth).unwrap();
            for address in addresses {
                self.set_interface(*address, index);
            }
        }
        let veths: Vec<_> = pods.iter().map(|(veth, _)| *veth).collect();
        self.attach(STEER_POD, &veths);
    }

    /// Makes an interface the one of a steered pod's address.
    pub(super) fn set_interface(&mut self, pod: IpAddr, index: u32) {
        let map = self.object.map_mut("PODS").unwrap();
        let mut pods: HashMap<_, ClientKey, u32> = HashMap::try_from(map).unwrap();
        pods.insert(key(pod), index, 0).unwrap();
    }

    /// Sets which flows are steered.
    pub(super) fn set_target(&mut self, admitted: u32) {
        let target = SteeringTarget {
            namespace: AGENT_ID,
            interface: self.topology.node.index(AGENT_VETH).unwrap(),
            admitted,
            port: DNS_PORT.to_be().into(),
            served: SERVED.map(key),
        };
        let map = self.object.map_mut("TARGET").unwrap();
        let mut targets: Array<_, [u8; size_of::<SteeringTarget>()]> =
            Array::try_from(map).unwrap();
        targets
            .set(0, bytemuck::cast::<_, [u8; _]>(target), 0)
            .unwrap();
    }

    /// The number of packets with this outcome.
    pub(super) fn count(&self, outcome: SteeringOutcome) -> u64 {
        let map = self.object.map("OUTCOMES").unwrap();
        let counters: PerCpuArray<_, u64> = PerCpuArray::try_from(map).unwrap();
        counters.get(&(outcome as u32), 0).unwrap().iter().sum()
    }

    /// Attaches a program to devices of the node, by tcx or, before Linux 6.6, by a clsact filter.
    fn attach(&mut self, program: &str, devices: &[&str]) {
        let program = self.object.program_mut(program).unwrap();
        let program: &mut SchedClassifier = program.try_into().unwrap();
        let attach = || {
            for device in devices {
                // This fails if the device has a clsact qdisc. After any other error, attaching a
                // filter fails.
                let _ = qdisc_add_clsact(device);
                let link = program.attach(device, TcAttachType::Ingress).unwrap();
                self.links.push(program.take_link(link).unwrap());
            }
        };
        self.topology.node.enter(attach).unwrap();
    }
}

impl Drop for SteeringNode {
    fn drop(&mut self) {
        // A filter is detached by the index of its device, so this must happen in the namespace of
        // the device.
        let links = std::mem::take(&mut self.links);
        self.topology.node.enter(|| drop(links)).ok();
    }
}

/// Gives the agent's namespace its ID, a veth pair, the served addresses and a default route.
fn connect_agent(node: &NetworkNamespace, agent: &NetworkNamespace) {
    let name = agent.name();
    node.ip(&[
        // Before the veth pair, because the kernel then gives the namespace an ID if it has none.
        &format!("netns set {name} {AGENT_ID}"),
        &format!("link add {AGENT_VETH} type veth peer name {AGENT_DEVICE} netns {name}"),
        &format!("link set {AGENT_VETH} up"),
    ])
    .unwrap();
    let [served, served6] = SERVED;
    agent
        .ip(&[
            // Without ARP, because the node's end has no address that would answer.
            &format!("link set {AGENT_DEVICE} up arp off"),
            &format!("address add {served}/32 dev lo"),
            &format!("address add {served6}/128 dev lo nodad"),
            &format!("route add default dev {AGENT_DEVICE}"),
            &format!("route add ::/0 dev {AGENT_DEVICE}"),
        ])
        .unwrap();
    // Before, a socket would be found that packets don't reach.
    wait_for_local_route(agent, served6).unwrap();
}

/// Loads the object that `cargo xtask build-ebpf --steering` builds.
fn load_programs() -> Ebpf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/ebpf/steering.o");
    let bytes = fs::read(&path).unwrap_or_else(|error| {
        panic!(
            "cannot read {}: {error}; `cargo xtask build-ebpf --steering` builds it",
            path.display()
        )
    });
    let mut object = EbpfLoader::new().load(&bytes).unwrap();
    for name in [STEER_POD, STEER_REPLY] {
        let program = object.program_mut(name).unwrap();
        let program: &mut SchedClassifier = program.try_into().unwrap();
        program.load().unwrap();
    }
    object
}

/// The key of an address in the programs' maps.
fn key(address: IpAddr) -> ClientKey {
    match address {
        IpAddr::V4(address) => ipv4_client_key(u32::from_ne_bytes(address.octets())),
        IpAddr::V6(address) => bytemuck::cast(address.octets()),
    }
}
