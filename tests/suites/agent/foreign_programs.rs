//! Foreign programs: the status shows them, and the agent never replaces them. The agent skips a
//! veth with a tc program of a known CNI plugin, because such a program may decide what the
//! pod may send.

use std::{fs, path::PathBuf};

use aya::{
    programs::{LinkOrder, SchedClassifier, TcAttachType, Xdp},
    util::KernelVersion,
};
use serde_json::Value;
use zerohop_tests::{
    netns::NetworkNamespace, noop_program::NoopProgram, not_run::report_not_run,
    topology::HOST_VETH, udp::eventually,
};

use super::{AgentProcess, LIMIT, WEB, binary, node::TestNode};

/// Only an agent that doesn't steer keeps SYS_ADMIN, without which the kernel hides the names of
/// programs.
const STEER_OFF: [&str; 1] = ["--steer=off"];

#[test]
fn a_veth_with_a_cni_filter_is_skipped() {
    for (name, owner) in [
        ("cil_from_container", "cilium"),
        ("cali_tc_preamble", "calico"),
        ("handle_ingress", "aws"),
    ] {
        let node = TestNode::new(WEB);
        let mut filter = node.load_tc(name, "filter");
        node.inside(|| {
            filter
                .attach_filter(HOST_VETH, TcAttachType::Ingress)
                .unwrap();
        });
        let agent = node.start_agent(&STEER_OFF);
        assert_eq!(node.pod.web_ttl(), None, "answered in spite of {name}");

        let status = json_status(&agent);
        assert_eq!(
            status["missing"],
            Value::Array(Vec::new()),
            "`missing` in {status:#}"
        );
        let degraded = status["degraded"][0].as_str().unwrap();
        assert!(degraded.contains(HOST_VETH), "no {HOST_VETH} in {degraded}");
        let kernel = &status["datapath"];
        assert_eq!(
            kernel["attached"],
            Value::Array(Vec::new()),
            "`attached` in {status:#}"
        );
        assert_eq!(
            kernel["left_alone"][0]["interface"], HOST_VETH,
            "the skipped device in {status:#}"
        );
        let other = &kernel["others"][0];
        assert_eq!(other["hook"], "clsact ingress", "`hook` in {status:#}");
        assert_eq!(other["owner"], owner, "`owner` in {status:#}");
        assert!(other["id"].as_u64().is_some(), "no ID in {status:#}");

        // Without the filter the veth is attached.
        node.inside(move || drop(filter));
        assert!(eventually(LIMIT, || Ok(node.pod.web_ttl() == Some(5))).unwrap());
    }
}

#[test]
fn a_veth_that_gets_a_cni_filter_is_detached() {
    let node = TestNode::new(WEB);
    let agent = node.start_agent(&STEER_OFF);
    assert_eq!(node.pod.web_ttl(), Some(5));
    let mut filter = node.load_tc("cil_to_container", "filter");
    node.inside(|| {
        filter
            .attach_filter(HOST_VETH, TcAttachType::Egress)
            .unwrap();
    });
    assert!(eventually(LIMIT, || Ok(node.pod.web_ttl().is_none())).unwrap());
    let status = json_status(&agent);
    let others = status["datapath"]["others"].as_array().unwrap();
    assert!(
        others.iter().any(|other| other["hook"] == "clsact egress"),
        "no program at clsact egress in {status:#}"
    );
    node.inside(move || drop(filter));
}

#[test]
fn a_filter_of_unknown_owner_is_shown_and_stays() {
    let node = TestNode::new(WEB);
    let mut filter = node.load_tc("accounting", "filter");
    node.inside(|| {
        filter
            .attach_filter(HOST_VETH, TcAttachType::Ingress)
            .unwrap();
    });
    let mut agent = node.start_agent(&STEER_OFF);
    assert_eq!(node.pod.web_ttl(), Some(5));
    let shown_id = |status: &Value| {
        let others = status["datapath"]["others"].as_array().unwrap();
        let [other] = &others[..] else {
            panic!("not exactly one foreign program: {status:#}");
        };
        assert_eq!(other["name"], "accounting", "`name` in {status:#}");
        assert_eq!(other["interface"], HOST_VETH, "`interface` in {status:#}");
        assert!(other["owner"].is_null(), "an owner in {status:#}");
        other["id"].as_u64().unwrap()
    };
    let id = shown_id(&json_status(&agent));
    agent.end_by(nix::sys::signal::Signal::SIGTERM).unwrap();
    let agent = node.start_agent(&STEER_OFF);
    assert_eq!(shown_id(&json_status(&agent)), id);
    node.inside(move || drop(filter));
}

#[test]
fn a_veth_with_a_cni_tcx_program_is_skipped() {
    let node = TestNode::new(WEB);
    // Only the path of the pin identifies the owner; the name does not.
    let mut program = node.load_tc("entry", "cilium/endpoints/7/cil_from_container");
    let has_tcx = node.inside(|| {
        let ingress = TcAttachType::Ingress;
        program
            .attach_tcx(HOST_VETH, ingress, LinkOrder::last())
            .is_ok()
    });
    assert_eq!(
        has_tcx,
        KernelVersion::current().unwrap() >= KernelVersion::new(6, 6, 0),
        "a program can be attached by tcx since Linux 6.6, and only since then"
    );
    if !has_tcx {
        return report_not_run("a veth with a CNI's tcx program", "this kernel has no tcx");
    }
    let agent = node.start_agent(&STEER_OFF);
    assert_eq!(node.pod.web_ttl(), None);
    let status = json_status(&agent);
    let other = &status["datapath"]["others"][0];
    assert_eq!(other["hook"], "tcx ingress", "`hook` in {status:#}");
    assert_eq!(other["owner"], "cilium", "`owner` in {status:#}");
    assert_eq!(other["name"], "entry", "`name` in {status:#}");
    drop(program);
    assert!(eventually(LIMIT, || Ok(node.pod.web_ttl() == Some(5))).unwrap());
}

#[test]
fn an_xdp_program_is_not_replaced() {
    let node = TestNode::new(WEB);
    let mut dispatcher = node.load_xdp("xdp_dispatcher", "dispatcher");
    node.inside(|| dispatcher.attach_generic(HOST_VETH).unwrap());
    let interface = format!("{HOST_VETH}=xdp-generic");
    let agent = node.start_agent_on(&interface);
    assert_eq!(node.pod.web_ttl(), None);
    let status = json_status(&agent);
    assert_eq!(
        status["missing"],
        Value::Array(Vec::new()),
        "`missing` in {status:#}"
    );
    let kernel = &status["datapath"];
    let other = &kernel["others"][0];
    assert_eq!(other["hook"], "xdp generic", "`hook` in {status:#}");
    assert_eq!(other["owner"], "libxdp", "`owner` in {status:#}");
    let reason = kernel["left_alone"][0]["reason"].as_str().unwrap();
    assert!(
        reason.contains("only one XDP program"),
        "another reason in {status:#}"
    );
    drop(dispatcher);
    assert!(eventually(LIMIT, || Ok(node.pod.web_ttl() == Some(5))).unwrap());
}

impl TestNode {
    fn start_agent_on(&self, interface: &str) -> AgentProcess {
        let mut command = self.command_on(interface, &binary(), &self.manifests);
        command.args(STEER_OFF);
        AgentProcess::start(command).unwrap()
    }

    fn load_tc(&self, name: &str, pin: &str) -> NoopProgram<SchedClassifier> {
        NoopProgram::load_tc(name, &self.pin(pin)).unwrap()
    }

    fn load_xdp(&self, name: &str, pin: &str) -> NoopProgram<Xdp> {
        NoopProgram::load_xdp(name, &self.pin(pin)).unwrap()
    }

    /// The path of a pin. Creates its directory.
    fn pin(&self, place: &str) -> PathBuf {
        let pin = self.bpffs.path().join(place);
        fs::create_dir_all(pin.parent().unwrap()).unwrap();
        pin
    }

    /// Runs a closure in the node's network namespace.
    fn inside<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        let node: &NetworkNamespace = &self.topology.node;
        node.enter(act).unwrap()
    }
}

/// The output of `dns-agent status --json`.
fn json_status(agent: &AgentProcess) -> Value {
    serde_json::from_str(&agent.output(&["status", "--json"]).unwrap()).unwrap()
}
