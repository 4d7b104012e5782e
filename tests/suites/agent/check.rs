//! `dns-agent check`, as an operator runs it on a node with a pod.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs,
    io::{Read as _, Write as _},
    net::TcpListener,
    path::PathBuf,
    process::{Command, Output},
    thread,
};

use aya::programs::TcAttachType;
use serde_json::Value;
use zerohop_tests::{
    bpffs::Bpffs,
    foreign::Foreign,
    topology::{HOST_VETH, Topology},
};

use super::{Agent, Manifests, Pod, WEB, binary};

/// A node with a pod and a BPF file system.
struct Node {
    topology: Topology,
    bpffs: Bpffs,
}

#[test]
fn a_node_that_can() {
    let node = Node::new();
    // The kernel puts some things there itself.
    let before = node.pins();
    let (code, said) = node.check(&["--persist", "--listen=127.0.0.1:5353"]);
    assert_eq!(code, 0, "{said}");
    let sum = said.lines().last();
    assert_eq!(sum, Some("the kernel plane works here"), "{said}");
    assert!(said.contains(&format!("{HOST_VETH}: tc by ")), "{said}");
    assert!(!said.contains("limited"), "{said}");
    assert_eq!(node.pins(), before);

    let (code, said) = node.check(&["--json"]);
    assert_eq!(code, 0, "{said}");
    let report: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(report["verdict"], "works", "{said}");
    let findings = report["findings"].as_array().unwrap();
    assert!(findings.len() > 8, "{said}");
    assert!(findings.iter().all(|finding| finding["text"].is_string()));
}

#[test]
fn without_bpf() {
    let node = Node::new();
    let (code, said) = node.check_without("bpf", &[]);
    assert_eq!(code, 1, "{said}");
    for words in ["rights      without BPF:", "it needs BPF", "2 things fail"] {
        assert!(said.contains(words), "no {words:?} in {said}");
    }
}

#[test]
fn without_perfmon() {
    let node = Node::new();
    let (code, said) = node.check_without("perfmon", &[]);
    assert_eq!(code, 1, "{said}");
    let said = words(&said);
    for words in ["without PERFMON:", "it needs PERFMON"] {
        assert!(said.contains(words), "no {words:?} in {said}");
    }
}

#[test]
fn a_cnis_veth_is_left_alone() {
    let node = Node::new();
    let mut filter = Foreign::tc("cil_from_container", &node.pin("filter")).unwrap();
    let attach = || filter.attach_filter(HOST_VETH, TcAttachType::Ingress);
    node.topology.node.enter(attach).unwrap().unwrap();
    let (code, said) = node.check(&[]);
    assert_eq!(code, 0, "{said}");
    let said = words(&said);
    for words in [
        "veth-pod: left alone",
        "cil_from_contai",
        "of Cilium at clsact ingress",
        "give --serve-dns-endpoints",
        "the kernel plane works here, with 3 limits",
    ] {
        assert!(said.contains(words), "no {words:?} in {said}");
    }
    let (_, said) = node.check(&["--serve-dns-endpoints"]);
    assert!(said.contains("with 2 limits"), "{said}");
    node.topology.node.enter(move || drop(filter)).unwrap();
}

#[test]
fn an_xdp_program_is_in_the_way() {
    let node = Node::new();
    let mut dispatcher = Foreign::xdp("xdp_dispatcher", &node.pin("dispatcher")).unwrap();
    let attach = || dispatcher.attach_generic(HOST_VETH);
    node.topology.node.enter(attach).unwrap().unwrap();
    let (code, said) = node.check(&["--interface", &format!("{HOST_VETH}=xdp")]);
    assert_eq!(code, 0, "{said}");
    let said = words(&said);
    for words in [
        "xdp_dispatcher",
        "a device has room for one",
        "with 1 limit",
    ] {
        assert!(said.contains(words), "no {words:?} in {said}");
    }
    // At tc it is in nobody's way.
    let (_, said) = node.check(&[]);
    let said = words(&said);
    assert!(said.contains("it stays where it is"), "{said}");
    assert!(said.ends_with("the kernel plane works here"), "{said}");
}

#[test]
fn interfaces_that_nothing_can_be_attached_to() {
    let node = Node::new();
    node.topology
        .node
        .ip(&["link add card type bridge"])
        .unwrap();
    for (arguments, code, expected) in [
        (&["--interface=card"][..], 1, "--allow CIDR"),
        (
            &["--interface=card", "--allow=10.0.0.0/8"],
            0,
            "native XDP if the driver takes it",
        ),
        (
            &["--interface=lo", "--allow=10.0.0.0/8"],
            1,
            "no Ethernet header",
        ),
        (&["--interface=eth7"], 0, "eth7: no device is called so yet"),
        (
            &["--bpffs=/tmp", "--persist"],
            0,
            "hooks won't stay over a stop",
        ),
        (
            &["--listen=192.0.2.1:53"],
            1,
            "ip address add 192.0.2.1/32 dev lo",
        ),
        (&["--no-such-flag"], 2, "--no-such-flag"),
    ] {
        let (found, said) = node.check(arguments);
        assert_eq!(found, code, "{arguments:?}: {said}");
        assert!(words(&said).contains(expected), "{arguments:?}: {said}");
    }
}

#[test]
fn a_running_agent_is_told_and_not_disturbed() {
    let node = Node::new();
    let manifests = Manifests::new(WEB);
    let pod = Pod::new(&node.topology);
    let bpffs = format!("--bpffs={}", node.bpffs.path().display());
    for persisting in [&["--persist"][..], &[]] {
        let arguments = [&[bpffs.as_str()], persisting].concat();
        let _agent = Agent::start(&node.topology.node, &manifests, &arguments);
        let (code, said) = node.check(&[]);
        assert_eq!(code, 0, "{said}");
        let said = words(&said);
        assert!(said.contains("An agent is running here"), "{said}");
        assert!(said.contains("no other BPF program"), "{said}");
        assert_eq!(pod.ttl(), Some(5));
    }
}

#[test]
fn kube_proxy_is_asked() {
    let node = Node::new();
    let listen = || TcpListener::bind("127.0.0.1:10249").unwrap();
    let listener = node.topology.node.enter(listen).unwrap();
    let serving = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = [0; 1024];
        let length = stream.read(&mut request).unwrap();
        let answer = "HTTP/1.1 200 OK\r\ncontent-length: 8\r\nconnection: close\r\n\r\nnftables";
        stream.write_all(answer.as_bytes()).unwrap();
        String::from_utf8_lossy(&request[..length]).into_owned()
    });
    let (code, said) = node.check(&[]);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("mode nftables"), "{said}");
    let request = serving.join().unwrap();
    assert!(request.starts_with("GET /proxyMode "), "{request}");
}

impl Node {
    fn new() -> Node {
        Node {
            topology: Topology::routed().unwrap(),
            bpffs: Bpffs::new().unwrap(),
        }
    }

    /// Runs the check: its exit code, and what it said.
    fn check(&self, arguments: &[&str]) -> (i32, String) {
        self.run(
            self.topology
                .node
                .command(binary().to_str().unwrap())
                .unwrap(),
            arguments,
        )
    }

    /// The same without a capability, and without the one that stands for it.
    fn check_without(&self, capability: &str, arguments: &[&str]) -> (i32, String) {
        let mut command = self.topology.node.command("setpriv").unwrap();
        let without = format!("-{capability},-sys_admin");
        command
            .args(["--bounding-set", &without, "--inh-caps", &without, "--"])
            .arg(binary());
        self.run(command, arguments)
    }

    fn run(&self, mut command: Command, arguments: &[&str]) -> (i32, String) {
        command.arg("check");
        if !arguments
            .iter()
            .any(|argument| argument.starts_with("--bpffs"))
        {
            command.arg("--bpffs").arg(self.bpffs.path());
        }
        let Output {
            status,
            stdout,
            stderr,
        } = command.args(arguments).output().unwrap();
        let said = String::from_utf8([stdout, stderr].concat()).unwrap();
        println!("{said}");
        (status.code().unwrap(), said)
    }

    /// What is in the BPF file system.
    fn pins(&self) -> BTreeSet<OsString> {
        let entries = fs::read_dir(self.bpffs.path()).unwrap();
        entries.map(|entry| entry.unwrap().file_name()).collect()
    }

    fn pin(&self, name: &str) -> PathBuf {
        self.bpffs.path().join(name)
    }
}

/// A text without its lines' ends.
fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
