//! Runs `dns-agent lookup` and `dns-agent dump` as an operator does. Compares lookups with the
//! kernel's answers, and checks dumps with other programs that read zone files.

use std::{fs, net::SocketAddr, process::Command, time::Duration};

use zerohop_contract::{
    addresses::{POD, SERVED},
    packet::QueryPacket,
};
use zerohop_tests::{
    agent::AgentProcess, netns::NetworkNamespace, topology::Topology, udp::UdpClient,
};

use crate::{
    agent::{ManifestFolder, start_agent},
    kernel::fixture::rcode,
};

/// How long to wait for an answer of the kernel, even if none is expected.
const PATIENCE: Duration = Duration::from_millis(500);

/// Flags for a user plane. The pod sends it no query, and no server listens at the upstream's
/// address.
const USER_PLANE: [&str; 5] = [
    "--listen",
    "127.0.0.1:5353",
    "--upstream",
    "127.0.0.1:9",
    "--steer=off",
];

/// Manifests of services of each kind. The headless ones have 40 endpoints, too many for 512 bytes,
/// and 200, too many for a record. The target of `odd` has characters that zone files must escape.
fn cluster() -> String {
    let mut objects = r#"
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.96.1.1, clusterIPs: [10.96.1.1, "fd00::1"], ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: pay, namespace: shop}
spec: {type: ExternalName, externalName: pay.example.com}
---
apiVersion: v1
kind: Service
metadata: {name: odd, namespace: shop}
spec: {type: ExternalName, externalName: 'a;b"(c).$d.@.example'}
"#
    .to_owned();
    for (name, count) in [("some", 40), ("many", 200)] {
        let endpoints: Vec<String> = (1..=count)
            .map(|last| format!("{{addresses: [10.244.0.{last}]}}"))
            .collect();
        let endpoints = endpoints.join(", ");
        objects += &format!(
            "---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: shop}}
spec: {{clusterIP: None}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}-1, namespace: shop, labels: {{kubernetes.io/service-name: {name}}}}}
addressType: IPv4
ports: [{{name: http, port: 80, protocol: TCP}}]
endpoints: [{endpoints}]
"
        );
    }
    objects
}

#[test]
fn lookup_reports_what_the_kernel_does() {
    let topology = Topology::routed().unwrap();
    let manifests = ManifestFolder::new(&cluster());
    let agent = start_agent(&topology.node, &manifests, &USER_PLANE);
    let pod = UdpClient::new(&topology.pod, SocketAddr::new(SERVED[0], 53)).unwrap();

    for (name, rtype, plane, why) in [
        ("web.shop.svc.cluster.local", ("A", 1), "kernel", ""),
        ("WEB.shop.svc.cluster.local", ("aaaa", 28), "kernel", ""),
        ("web.shop.svc.cluster.local", ("TXT", 16), "kernel", ""),
        (
            "_http._tcp.web.shop.svc.cluster.local",
            ("SRV", 33),
            "kernel",
            "",
        ),
        ("ghost.shop.svc.cluster.local", ("A", 1), "kernel", ""),
        ("1.1.96.10.in-addr.arpa", ("PTR", 12), "kernel", ""),
        (
            "pay.shop.svc.cluster.local",
            ("A", 1),
            "agent",
            "pass_mark: the name is an alias of pay.example.com., and other servers answer",
        ),
        (
            "some.shop.svc.cluster.local",
            ("A", 1),
            "agent",
            "too_large: ",
        ),
        (
            "many.shop.svc.cluster.local",
            ("A", 1),
            "agent",
            "pass_mark: the kernel can't store this answer (200 records)",
        ),
        (
            "web.shop.svc.cluster.local",
            ("ANY", 255),
            "agent",
            "meta_type: ",
        ),
        (
            "www.example.com",
            ("A", 1),
            "upstream",
            "not_owned: the name is outside the zones",
        ),
        (
            "0.10.in-addr.arpa",
            // PTR in the form of RFC 3597.
            ("TYPE12", 12),
            "upstream",
            "not_owned: ",
        ),
    ] {
        let asked = format!("{name} {}", rtype.0);
        let report = lookup(&agent, &[name, rtype.0]);
        assert_eq!(report["plane"], plane, "{asked}: {report:#}");
        match report["why"].as_str() {
            None => assert_eq!(why, "", "{asked}: {report:#}"),
            Some(said) => assert!(
                !why.is_empty() && said.starts_with(why),
                "{asked}: {report:#}"
            ),
        }

        let query = QueryPacket {
            id: rand::random(),
            ..QueryPacket::new(POD[0], SERVED[0], name, rtype.1)
        };
        let reply = pod.ask(&query.message(), PATIENCE).ok().flatten();
        assert_eq!(
            reply.is_some(),
            plane == "kernel",
            "kernel replies to {asked}: {reply:02x?}"
        );
        if let Some(reply) = reply {
            assert_eq!(
                reply[..2],
                query.id.to_be_bytes(),
                "the ID of the reply to {asked}"
            );
            let is_denied = report["rcode"] == "NXDOMAIN";
            assert_eq!(rcode(&reply) == 3, is_denied, "NXDOMAIN for {asked}");
            // Byte 7 is the low byte of the number of answer records.
            let answers = report["answer"].as_array().unwrap().len();
            assert_eq!(usize::from(reply[7]), answers, "answer records for {asked}");
        }
    }

    // The answer that is too large without EDNS fits into a larger EDNS size.
    let large = lookup(&agent, &["some.shop.svc.cluster.local"]);
    assert_eq!(large["kernel"]["outcome"], "too_large");
    assert_eq!(large["kernel"]["outcome_edns"], "data");
    let query = QueryPacket::new(POD[0], SERVED[0], "some.shop.svc.cluster.local", 1);
    let query = query.with_edns(1232, 0, &[]);
    assert!(pod.ask(&query.message(), PATIENCE).unwrap().is_some());

    let pay = lookup(&agent, &["pay.shop.svc.cluster.local"]);
    assert_eq!(pay["upstreams"][0], "127.0.0.1:9");
    let object = &pay["answer"][0]["objects"][0];
    assert_eq!(
        (&object["kind"], &object["namespace"], &object["name"]),
        (&"Service".into(), &"shop".into(), &"pay".into())
    );
}

#[test]
fn lookup_reports_that_nothing_is_attached() {
    let node = NetworkNamespace::new("node").unwrap();
    let manifests = ManifestFolder::new(&cluster());
    let agent = start_agent(&node, &manifests, &USER_PLANE);
    let web = lookup(&agent, &["web.shop.svc.cluster.local"]);
    assert_eq!(web["plane"], "agent");
    assert_eq!(web["kernel"]["state"], "unattached");
    // The tables exist although no program is attached.
    assert_eq!(web["kernel"]["outcome"], "data");
    let why = web["why"].as_str().unwrap();
    assert!(why.contains("no interface matches --interface"), "{why}");
}

#[test]
fn zone_files_are_valid_for_other_programs() {
    let topology = Topology::routed().unwrap();
    let manifests = ManifestFolder::new(&cluster());
    let reverse = ["--reverse", "10.96.0.0/15"];
    let agent = start_agent(&topology.node, &manifests, &reverse);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("zone");
    let file = file.to_str().unwrap();

    let zones = ["cluster.local", "96.10.in-addr.arpa", "97.10.in-addr.arpa"];
    for (zone, arguments) in zones
        .iter()
        .map(|zone| (*zone, vec!["--zone", *zone]))
        // Without --zone the dump has all zones; the checkers ignore names outside the checked
        // zone.
        .chain(zones.map(|zone| (zone, Vec::new())))
    {
        let text = agent.output(&[&["dump"], &arguments[..]].concat()).unwrap();
        fs::write(file, &text).unwrap();
        assert_eq!(
            text.contains(" IN A 10.244.0.200\n"),
            zone == "cluster.local" || arguments.is_empty(),
            "dump {arguments:?}: {text}"
        );
        // With -i local only names of the zone are checked, without DNS queries.
        let bind = run_checker("named-checkzone", &["-i", "local", zone, file]);
        assert!(bind.contains("loaded serial"), "{bind}");
        run_checker("kzonecheck", &["-o", &format!("{zone}."), file]);
    }

    let unknown = agent.output(&["dump", "--zone", "example.org"]);
    let error = unknown.unwrap_err().to_string();
    assert!(error.contains("97.10.in-addr.arpa."), "{error}");
}

/// The output of `dns-agent lookup --json`.
fn lookup(agent: &AgentProcess, question: &[&str]) -> serde_json::Value {
    let output = agent.output(&[&["lookup", "--json"], question].concat());
    serde_json::from_str(&output.unwrap()).unwrap()
}

/// Runs a checker that must succeed, and returns its output.
fn run_checker(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|error| {
            panic!("{program} can't be run ({error}): `cargo xtask setup` installs it")
        });
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
    said
}
