//! A node with the agent's network namespace and the steering programs.

use std::{
    fs::{self, File},
    net::IpAddr,
    path::Path,
};

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
use tokio::runtime::Builder;
use zerohop_contract::addresses::{POD, SERVED};
use zerohop_steering::{AgentNamespace, InterfaceReader, PodInterfaces};
use zerohop_tests::{
    netns::NetworkNamespace,
    topology::{HOST_VETH, Topology},
};

/// A pod on a node, whose packets to the served addresses are steered into the agent's namespace.
pub(super) struct SteeringNode {
    pub(super) topology: Topology,
    /// `None` after [`SteeringNode::end_agent`].
    agent: Option<SteeredAgent>,
    object: Ebpf,
    links: Vec<SchedClassifierLink>,
}

/// The agent's namespace.
struct SteeredAgent {
    /// The same namespace, for the tests' sockets.
    opened: NetworkNamespace,
    namespace: AgentNamespace,
}

/// The node's end of the veth pair that leads into the namespace of a node's first agent.
pub(super) const AGENT_VETH: &str = "zh23112";
/// The ID of that namespace in the node's namespace.
pub(super) const AGENT_ID: i32 = 23_112;
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
        let agent = SteeredAgent::start(&topology.node);
        for namespace in [&topology.node, &topology.pod, &agent.opened] {
            namespace.sysctl("ipv4/conf/all/rp_filter", "1").unwrap();
        }
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
        &self.agent.as_ref().unwrap().opened
    }

    /// Ends the agent. Its namespace goes when its sockets are closed.
    pub(super) fn end_agent(&mut self) {
        self.agent = None;
    }

    /// Steers further pods, each by the name of the node's veth and the pod's addresses.
    pub(super) fn steer_pods(&mut self, pods: &[(&str, [IpAddr; 2])]) {
        let interfaces = self.read_interfaces();
        for (veth, addresses) in pods {
            let index = self.topology.node.index(veth).unwrap();
            for address in addresses {
                assert_eq!(interfaces.of(*address), Some(index), "{address}");
                self.set_interface(*address, index);
            }
        }
        let veths: Vec<_> = pods.iter().map(|(veth, _)| *veth).collect();
        self.attach(STEER_POD, &veths);
    }

    /// Reads which devices lead to pods.
    pub(super) fn read_interfaces(&self) -> PodInterfaces {
        read_interfaces(&self.topology.node, &mut InterfaceReader::default())
    }

    /// Makes an interface the one of a steered pod's address.
    pub(super) fn set_interface(&mut self, pod: IpAddr, index: u32) {
        let map = self.object.map_mut("PODS").unwrap();
        let mut pods: HashMap<_, ClientKey, u32> = HashMap::try_from(map).unwrap();
        pods.insert(key(pod), index, 0).unwrap();
    }

    /// Sets which flows are steered.
    pub(super) fn set_target(&mut self, admitted: u32) {
        let agent = &self.agent.as_ref().unwrap().namespace;
        let target = SteeringTarget {
            namespace: agent.id().try_into().unwrap(),
            interface: agent.node_device(),
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

impl SteeredAgent {
    /// Makes the agent's namespace, with the served addresses.
    fn start(node: &NetworkNamespace) -> SteeredAgent {
        let create = || block_on(AgentNamespace::create());
        let namespace = node.enter(create).unwrap().unwrap();
        for served in SERVED {
            block_on(namespace.add_address(served)).unwrap();
        }
        let open = || File::open("/proc/thread-self/ns/net");
        let file = block_on(namespace.run(open)).unwrap().unwrap();
        SteeredAgent {
            opened: NetworkNamespace::of_product("agent", file),
            namespace,
        }
    }
}

/// Reads which devices of a node lead to pods.
pub(super) fn read_interfaces(
    node: &NetworkNamespace,
    reader: &mut InterfaceReader,
) -> PodInterfaces {
    node.enter(|| block_on(reader.read())).unwrap().unwrap()
}

/// Waits for a future.
pub(super) fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = Builder::new_current_thread().enable_all().build();
    runtime.unwrap().block_on(future)
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
