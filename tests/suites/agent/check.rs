//! Runs `dns-agent check` as an operator does, on a node with a pod.

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
use serde_json::{Value, json};
use zerohop_tests::{
    bpffs::Bpffs,
    noop_program::NoopProgram,
    topology::{HOST_VETH, Topology},
};

use super::{
    ManifestFolder, ObjectSource as _, PodClient, WEB,
    api::{server::Undescribed, start_cluster},
    binary, start_agent,
};

/// A node with a pod and a BPF file system.
struct CheckedNode {
    topology: Topology,
    bpffs: Bpffs,
}

#[test]
fn a_suitable_node_works_and_check_leaves_no_pins() {
    let node = CheckedNode::new();
    // The kernel may put files of its own into a new BPF file system.
    let before = node.pins();
    let (code, output) = node.check(&["--persist", "--listen=127.0.0.1:5353"]);
    assert_eq!(code, 0, "the exit code, with {output}");
    let summary = output.lines().last();
    assert_eq!(
        summary,
        Some("the kernel plane works here"),
        "the last line of {output}"
    );
    assert!(
        output.contains(&format!("{HOST_VETH}: tc by ")),
        "no line for {HOST_VETH}: {output}"
    );
    assert!(
        !output.contains("limited"),
        "a finding is a limit: {output}"
    );
    assert_eq!(node.pins(), before, "the check left or removed a pin");

    let (code, output) = node.check(&["--json"]);
    assert_eq!(code, 0, "the exit code, with {output}");
    let report: Value = serde_json::from_str(&output).unwrap();
    assert_eq!(report["verdict"], "works", "the verdict in {output}");
    let findings = report["findings"].as_array().unwrap();
    // More than eight subjects, such as `kernel` and `listen`, have a finding on every node.
    assert!(
        findings.len() > 8,
        "only {} findings: {output}",
        findings.len()
    );
    assert!(
        findings.iter().all(|finding| finding["text"].is_string()),
        "a finding has no text: {output}"
    );
}

#[test]
fn missing_bpf_is_reported() {
    let node = CheckedNode::new();
    let (code, output) = node.check_without("bpf", &[]);
    assert_eq!(code, 1, "the exit code, with {output}");
    let output = join_lines(&output);
    for words in [
        "the process has no BPF:",
        // The kernel's refusal of the tables: the second check that fails.
        "add the capabilities BPF",
        "2 checks fail",
    ] {
        assert!(output.contains(words), "no {words:?} in {output}");
    }
}

#[test]
fn missing_perfmon_is_reported() {
    let node = CheckedNode::new();
    let (code, output) = node.check_without("perfmon", &[]);
    assert_eq!(code, 1, "the exit code, with {output}");
    let output = join_lines(&output);
    for words in ["has no PERFMON:", "add the capabilities PERFMON"] {
        assert!(output.contains(words), "no {words:?} in {output}");
    }
}

#[test]
fn a_veth_with_a_cni_filter_is_skipped_and_reported_as_a_limit() {
    let node = CheckedNode::new();
    let mut filter = NoopProgram::load_tc("cil_from_container", &node.pin("filter")).unwrap();
    let attach = || filter.attach_filter(HOST_VETH, TcAttachType::Ingress);
    node.topology.node.enter(attach).unwrap().unwrap();
    let (code, output) = node.check(&[]);
    assert_eq!(code, 0, "the exit code, with {output}");
    let output = join_lines(&output);
    for words in [
        "veth-pod: skipped",
        // The kernel keeps 15 bytes of a program's name.
        "cil_from_contai",
        "of Cilium at clsact ingress",
        "give --serve-dns-endpoints",
        // The limits: the skipped veth, Cilium on this node, and queries to DNS endpoints.
        "the kernel plane works here, with 3 limits",
    ] {
        assert!(output.contains(words), "no {words:?} in {output}");
    }
    let (_, output) = node.check(&["--serve-dns-endpoints"]);
    assert!(output.contains("with 2 limits"), "not 2 limits: {output}");
    // Dropping detaches the filter, which must happen in the device's namespace.
    node.topology.node.enter(move || drop(filter)).unwrap();
}

#[test]
fn a_foreign_xdp_program_limits_xdp_only() {
    let node = CheckedNode::new();
    let mut dispatcher = NoopProgram::load_xdp("xdp_dispatcher", &node.pin("dispatcher")).unwrap();
    let attach = || dispatcher.attach_generic(HOST_VETH);
    node.topology.node.enter(attach).unwrap().unwrap();
    let (code, output) = node.check(&["--interface", &format!("{HOST_VETH}=xdp")]);
    assert_eq!(code, 0, "the exit code, with {output}");
    let output = join_lines(&output);
    for words in [
        "xdp_dispatcher",
        "a device can have only one XDP program",
        "with 1 limit",
    ] {
        assert!(output.contains(words), "no {words:?} in {output}");
    }
    // At tc the XDP program does not interfere.
    let (_, output) = node.check(&[]);
    let output = join_lines(&output);
    assert!(
        output.contains("Zerohop never removes it"),
        "the XDP program is not reported: {output}"
    );
    assert!(
        output.ends_with("the kernel plane works here"),
        "a finding limits tc: {output}"
    );
}

#[test]
fn unusable_interfaces_and_flags_are_reported() {
    let node = CheckedNode::new();
    // Every device that is not a veth counts as a network card.
    node.topology
        .node
        .ip(&["link add card type bridge"])
        .unwrap();
    for (arguments, code, expected) in [
        (&["--interface=card"][..], 1, "--allow CIDR"),
        (
            &["--interface=card", "--allow=10.0.0.0/8"],
            0,
            "native XDP if the driver accepts it",
        ),
        (
            &["--interface=lo", "--allow=10.0.0.0/8"],
            1,
            "no Ethernet header",
        ),
        (
            &["--interface=eth7"],
            0,
            "no device matches --interface eth7 yet",
        ),
        (
            &["--bpffs=/tmp", "--persist"],
            0,
            "they won't outlive the agent",
        ),
        (
            &["--listen=192.0.2.1:53"],
            1,
            "ip address add 192.0.2.1/32 dev lo",
        ),
        (&["--no-such-flag"], 2, "--no-such-flag"),
    ] {
        let (found, output) = node.check(arguments);
        assert_eq!(found, code, "{arguments:?}: {output}");
        assert!(
            join_lines(&output).contains(expected),
            "{arguments:?}: no {expected:?} in {output}"
        );
    }
}

#[test]
fn a_running_agent_is_reported_and_not_disturbed() {
    let node = CheckedNode::new();
    let manifests = ManifestFolder::new(WEB);
    let pod = PodClient::new(&node.topology);
    let bpffs = format!("--bpffs={}", node.bpffs.path().display());
    for persisting in [&["--persist"][..], &[]] {
        let arguments = [&[bpffs.as_str()], persisting].concat();
        let _agent = start_agent(&node.topology.node, &manifests, &arguments);
        let (code, output) = node.check(&[]);
        assert_eq!(code, 0, "the exit code, with {output}");
        let output = join_lines(&output);
        for words in [
            "An agent is running here",
            "no BPF program of other software",
        ] {
            assert!(output.contains(words), "no {words:?} in {output}");
        }
        // The hooks still answer. Nothing else would.
        assert_eq!(pod.web_ttl(), Some(5));
    }
}

#[test]
fn the_mode_of_kube_proxy_is_requested() {
    let node = CheckedNode::new();
    // The default of kube-proxy's `metricsBindAddress`, at which `check` requests the mode.
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
    let (code, output) = node.check(&[]);
    assert_eq!(code, 0, "the exit code, with {output}");
    assert!(
        output.contains("mode nftables"),
        "no mode of kube-proxy: {output}"
    );
    let request = serving.join().unwrap();
    assert!(
        request.starts_with("GET /proxyMode "),
        "not a request for the mode: {request}"
    );
}

#[test]
fn the_admission_of_the_pods_is_asked_with_a_kubeconfig() {
    let node = CheckedNode::new();
    let mut api = start_cluster(&node.topology);
    let kubeconfig = Undescribed(&api).arguments();
    let mut arguments: Vec<&str> = kubeconfig.iter().map(String::as_str).collect();
    arguments.push("--daemon-set=shop/zerohop");
    for (level, code, words) in [
        (
            "restricted",
            1,
            "the level restricted of PodSecurity, which refuses",
        ),
        (
            "privileged",
            0,
            "the level privileged of PodSecurity, which admits",
        ),
    ] {
        let labels = json!({"pod-security.kubernetes.io/enforce": level});
        api.apply(
            "namespaces",
            json!({"metadata": {"name": "shop", "labels": labels}}),
        );
        let (found, output) = node.check(&arguments);
        assert_eq!(found, code, "the exit code, with {output}");
        let output = join_lines(&output);
        assert!(output.contains(words), "no {words:?} in {output}");
    }
    api.stop();
    let (code, output) = node.check(&arguments);
    assert_eq!(code, 0, "the exit code, with {output}");
    let output = join_lines(&output);
    assert!(
        output.contains("it isn't known whether the cluster admits the agents' pods"),
        "no limit in {output}"
    );
}

impl CheckedNode {
    fn new() -> CheckedNode {
        CheckedNode {
            topology: Topology::routed().unwrap(),
            bpffs: Bpffs::new().unwrap(),
        }
    }

    /// Runs `dns-agent check`. Returns the exit code and the output.
    fn check(&self, arguments: &[&str]) -> (i32, String) {
        self.run(
            self.topology
                .node
                .command(binary().to_str().unwrap())
                .unwrap(),
            arguments,
        )
    }

    /// Runs the check without a capability, and without SYS_ADMIN, which includes it.
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
        let output = String::from_utf8([stdout, stderr].concat()).unwrap();
        println!("{output}");
        (status.code().unwrap(), output)
    }

    /// The names of the files in the BPF file system.
    fn pins(&self) -> BTreeSet<OsString> {
        let entries = fs::read_dir(self.bpffs.path()).unwrap();
        entries.map(|entry| entry.unwrap().file_name()).collect()
    }

    fn pin(&self, name: &str) -> PathBuf {
        self.bpffs.path().join(name)
    }
}

/// Joins the lines that `check` wraps: replaces each run of white space by one space.
fn join_lines(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
