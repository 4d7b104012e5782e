//! Other people's programs: shown, never replaced, and left alone where they decide what a pod may ask.

use std::{fs, path::PathBuf};

use aya::{
    programs::{LinkOrder, SchedClassifier, TcAttachType, Xdp},
    util::KernelVersion,
};
use serde_json::Value;
use zerohop_tests::{foreign::Foreign, netns::Namespace, topology::HOST_VETH, udp::eventually};

use super::{Agent, LIMIT, WEB, binary, node::Node};

#[test]
fn a_veth_with_a_cnis_filter_is_left_alone() {
    for (name, owner) in [
        ("cil_from_container", "cilium"),
        ("cali_tc_preamble", "calico"),
        ("handle_ingress", "aws"),
    ] {
        let node = Node::new(WEB);
        let mut filter = node.tc(name, "filter");
        node.inside(|| {
            filter
                .attach_filter(HOST_VETH, TcAttachType::Ingress)
                .unwrap();
        });
        let agent = node.agent(&[]);
        assert_eq!(node.pod.ttl(), None, "{name}");

        let status = node.status(&agent);
        assert_eq!(status["missing"], Value::Array(Vec::new()), "{status:#}");
        let degraded = status["degraded"][0].as_str().unwrap();
        assert!(degraded.contains(HOST_VETH), "{degraded}");
        let kernel = &status["datapath"];
        assert_eq!(kernel["attached"], Value::Array(Vec::new()), "{status:#}");
        assert_eq!(
            kernel["left_alone"][0]["interface"], HOST_VETH,
            "{status:#}"
        );
        let other = &kernel["others"][0];
        assert_eq!(other["hook"], "clsact ingress", "{status:#}");
        assert_eq!(other["owner"], owner, "{status:#}");
        assert!(other["id"].as_u64().is_some(), "{status:#}");

        // It is looked at again.
        node.inside(move || drop(filter));
        assert!(eventually(LIMIT, || Ok(node.pod.ttl() == Some(5))).unwrap());
    }
}

#[test]
fn a_veth_that_gets_a_cnis_filter_is_left_to_it() {
    let node = Node::new(WEB);
    let agent = node.agent(&[]);
    assert_eq!(node.pod.ttl(), Some(5));
    let mut filter = node.tc("cil_to_container", "filter");
    node.inside(|| {
        filter
            .attach_filter(HOST_VETH, TcAttachType::Egress)
            .unwrap();
    });
    assert!(eventually(LIMIT, || Ok(node.pod.ttl().is_none())).unwrap());
    let status = node.status(&agent);
    let others = status["datapath"]["others"].as_array().unwrap();
    assert!(
        others.iter().any(|other| other["hook"] == "clsact egress"),
        "{status:#}"
    );
    node.inside(move || drop(filter));
}

#[test]
fn anybody_elses_filter_is_shown_and_stays() {
    let node = Node::new(WEB);
    let mut filter = node.tc("accounting", "filter");
    node.inside(|| {
        filter
            .attach_filter(HOST_VETH, TcAttachType::Ingress)
            .unwrap();
    });
    let mut agent = node.agent(&[]);
    assert_eq!(node.pod.ttl(), Some(5));
    let shown = |status: &Value| {
        let others = status["datapath"]["others"].as_array().unwrap();
        let [other] = &others[..] else {
            panic!("{status:#}");
        };
        assert_eq!(other["name"], "accounting", "{status:#}");
        assert_eq!(other["interface"], HOST_VETH, "{status:#}");
        assert!(other["owner"].is_null(), "{status:#}");
        other["id"].as_u64().unwrap()
    };
    let id = shown(&node.status(&agent));
    agent.end(nix::sys::signal::Signal::SIGTERM);
    let agent = node.agent(&[]);
    assert_eq!(shown(&node.status(&agent)), id);
    node.inside(move || drop(filter));
}

/// Where the kernel has no tcx, nobody's programs are there.
#[test]
fn a_veth_with_a_cnis_tcx_program_is_left_alone() {
    let node = Node::new(WEB);
    // A name that tells nothing: only where it is pinned does.
    let mut program = node.tc("entry", "cilium/endpoints/7/cil_from_container");
    let has_tcx = node.inside(|| {
        let ingress = TcAttachType::Ingress;
        program
            .attach_tcx(HOST_VETH, ingress, LinkOrder::last())
            .is_ok()
    });
    assert_eq!(
        has_tcx,
        KernelVersion::current().unwrap() >= KernelVersion::new(6, 6, 0)
    );
    if !has_tcx {
        return;
    }
    let agent = node.agent(&[]);
    assert_eq!(node.pod.ttl(), None);
    let status = node.status(&agent);
    let other = &status["datapath"]["others"][0];
    assert_eq!(other["hook"], "tcx ingress", "{status:#}");
    assert_eq!(other["owner"], "cilium", "{status:#}");
    assert_eq!(other["name"], "entry", "{status:#}");
    drop(program);
    assert!(eventually(LIMIT, || Ok(node.pod.ttl() == Some(5))).unwrap());
}

#[test]
fn an_xdp_program_is_not_replaced() {
    let node = Node::new(WEB);
    let mut dispatcher = node.xdp("xdp_dispatcher", "dispatcher");
    node.inside(|| dispatcher.attach_generic(HOST_VETH).unwrap());
    let interface = format!("{HOST_VETH}=xdp-generic");
    let agent = node.agent_at(&interface);
    assert_eq!(node.pod.ttl(), None);
    let status = node.status(&agent);
    assert_eq!(status["missing"], Value::Array(Vec::new()), "{status:#}");
    let kernel = &status["datapath"];
    let other = &kernel["others"][0];
    assert_eq!(other["hook"], "xdp generic", "{status:#}");
    assert_eq!(other["owner"], "libxdp", "{status:#}");
    let reason = kernel["left_alone"][0]["reason"].as_str().unwrap();
    assert!(reason.contains("room for one"), "{status:#}");
    drop(dispatcher);
    assert!(eventually(LIMIT, || Ok(node.pod.ttl() == Some(5))).unwrap());
}

impl Node {
    fn agent_at(&self, interface: &str) -> Agent {
        Agent::follow(self.command_at(interface, &binary(), &self.manifests))
    }

    fn tc(&self, name: &str, pin: &str) -> Foreign<SchedClassifier> {
        Foreign::tc(name, &self.pin(pin)).unwrap()
    }

    fn xdp(&self, name: &str, pin: &str) -> Foreign<Xdp> {
        Foreign::xdp(name, &self.pin(pin)).unwrap()
    }

    fn pin(&self, place: &str) -> PathBuf {
        let pin = self.bpffs.path().join(place);
        fs::create_dir_all(pin.parent().unwrap()).unwrap();
        pin
    }

    /// Does something in the node's network namespace.
    fn inside<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        let node: &Namespace = &self.topology.node;
        node.enter(act).unwrap()
    }

    /// What `dns-agent status --json` prints.
    fn status(&self, agent: &Agent) -> Value {
        let mut command = self
            .topology
            .node
            .command(binary().to_str().unwrap())
            .unwrap();
        let command = command.args(["status", "--json", "--admin", &agent.admin]);
        serde_json::from_slice(&command.output().unwrap().stdout).unwrap()
    }
}
