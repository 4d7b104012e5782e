//! A node with the agent's network namespace and the steering programs.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    net::IpAddr,
    path::Path,
    time::Duration,
};

use dns_common::steering::{SteeredPod, SteeringOutcome};
use tokio::runtime::Builder;
use zerohop_contract::addresses::{POD, SERVED};
use zerohop_datapath::{
    ObjectFile,
    steering::{SteeringPlace, SteeringPrograms},
};
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
    /// `None` when the node is dropped.
    programs: Option<SteeringPrograms>,
    pods: BTreeMap<IpAddr, SteeredPod>,
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

/// Longer than a test.
const LEASE: Duration = Duration::from_secs(3600);

impl SteeringNode {
    /// Creates the agent's namespace, and steers the topology's pod. The node, the pod and the
    /// agent's namespace check source addresses strictly (`rp_filter` 1).
    pub(super) fn new(topology: Topology) -> SteeringNode {
        let agent = SteeredAgent::start(&topology.node);
        for namespace in [&topology.node, &topology.pod, &agent.opened] {
            namespace.sysctl("ipv4/conf/all/rp_filter", "1").unwrap();
        }
        let programs = topology.node.enter(|| load_programs(&agent.namespace));
        let mut node = SteeringNode {
            programs: Some(programs.unwrap()),
            agent: Some(agent),
            pods: BTreeMap::new(),
            topology,
        };
        node.begin_lease();
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
        let SteeringNode {
            topology, programs, ..
        } = self;
        let programs = programs.as_mut().unwrap();
        let attach = || {
            for (veth, _) in pods {
                programs.attach_steering(veth).unwrap();
            }
        };
        topology.node.enter(attach).unwrap();
    }

    /// Reads which devices lead to pods.
    pub(super) fn read_interfaces(&self) -> PodInterfaces {
        read_interfaces(&self.topology.node, &mut InterfaceReader::default())
    }

    /// Makes an interface the one of a steered pod's address.
    pub(super) fn set_interface(&mut self, pod: IpAddr, index: u32) {
        let steered = SteeredPod {
            interface: index,
            new_flows: SteeredPod::UDP | SteeredPod::TCP,
        };
        self.pods.insert(pod, steered);
        let programs = self.programs.as_mut().unwrap();
        programs.replace_pods(&self.pods).unwrap();
    }

    /// Lets new flows be steered.
    pub(super) fn begin_lease(&self) {
        self.programs().renew_lease(LEASE);
    }

    /// Lets only connections be steered that exist.
    pub(super) fn end_lease(&self) {
        self.programs().end_lease();
    }

    /// The number of packets with this outcome.
    pub(super) fn count(&self, outcome: SteeringOutcome) -> u64 {
        let counts = self.programs().counts().unwrap();
        counts
            .into_iter()
            .find(|(counted, _)| *counted == outcome)
            .unwrap()
            .1
    }

    fn programs(&self) -> &SteeringPrograms {
        self.programs.as_ref().unwrap()
    }
}

impl Drop for SteeringNode {
    fn drop(&mut self) {
        // A filter is detached by the index of its device, so this must happen in the namespace of
        // the device.
        let programs = self.programs.take();
        self.topology.node.enter(|| drop(programs)).ok();
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

/// Loads the programs that `cargo xtask build-ebpf` builds, and attaches the one for replies.
fn load_programs(agent: &AgentNamespace) -> SteeringPrograms {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/ebpf/steering.o");
    let bytes = fs::read(&path).unwrap_or_else(|error| {
        panic!(
            "cannot read {}: {error}; `cargo xtask build-ebpf` builds it",
            path.display()
        )
    });
    let place = SteeringPlace {
        namespace: agent.id().try_into().unwrap(),
        interface: agent.node_device(),
        port: DNS_PORT,
    };
    let mut programs = SteeringPrograms::load(ObjectFile(bytes.leak()), place).unwrap();
    programs.attach_reply(&agent.node_device_name()).unwrap();
    programs.replace_served(&BTreeSet::from(SERVED)).unwrap();
    programs
}
