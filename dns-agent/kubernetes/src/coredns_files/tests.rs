//! How pods show the configuration of CoreDNS.

use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::coredns_pod::{DnsContainers, TOKEN_DIRECTORY};
use crate::{Conclusions, Reload};

const COREFILE: &str = ".:5353 {
    kubernetes cluster.local
    import custom/*.override
    hosts /etc/coredns/NodeHosts cluster.local {
        fallthrough
    }
}
import custom/*.server
";

/// A pod that runs CoreDNS like k3s, at port 5353.
fn pod() -> Value {
    json!({
        "metadata": {"namespace": "kube-system", "name": "coredns"},
        "spec": {
            "containers": [{
                "name": "coredns",
                "args": ["-conf", "/etc/coredns/Corefile"],
                "ports": [{"name": "dns", "containerPort": 5353, "protocol": "UDP"}],
                "volumeMounts": [
                    {"name": "config", "mountPath": "/etc/coredns"},
                    {"name": "custom", "mountPath": "/etc/coredns/custom"},
                ],
            }, {
                "name": "proxy",
                "ports": [{"containerPort": 9154, "protocol": "TCP"}],
            }],
            "volumes": [
                {"name": "config", "configMap": {"name": "coredns"}},
                {"name": "custom", "configMap": {"name": "coredns-custom", "optional": true}},
            ],
        },
    })
}

fn server(pod: Value) -> Result<CoreDnsServer, String> {
    let pod = serde_json::from_value(pod).unwrap();
    DnsContainers::of_pod(&pod).server_at(5353)
}

fn key(name: &str) -> ObjectKey {
    ObjectKey::new("kube-system", name)
}

/// The ConfigMap `coredns` with this Corefile, and `coredns-custom` with these files.
fn maps(corefile: &str, custom: Option<&[(&str, &str)]>) -> ConfigMapTexts {
    let data = |entries: &[(&str, &str)]| {
        let entries = entries.iter();
        let data = entries.map(|(key, text)| ((*key).to_owned(), (*text).to_owned()));
        Arc::new(data.collect())
    };
    let hosts = "10.0.0.1 node-1\n10.0.0.2 web.cluster.local # a comment\nx y.cluster.local\n";
    ConfigMapTexts::from([
        (
            key("coredns"),
            Some(data(&[("Corefile", corefile), ("NodeHosts", hosts)])),
        ),
        (key("coredns-custom"), custom.map(data)),
    ])
}

/// The answered zones and the names that pass, or `nothing`, with this Corefile and these custom
/// files.
fn answered(corefile: &str, custom: Option<&[(&str, &str)]>) -> String {
    let config = server(pod()).unwrap();
    let config = config.read_config(&maps(corefile, custom)).unwrap();
    let Conclusions { adopted, reasons } = Conclusions::read(&config.unwrap());
    let Some(adopted) = adopted else {
        return format!("nothing: {}", reasons.join("; "));
    };
    let zones = adopted.zones.iter().map(|zone| zone.name.to_string());
    let passed = adopted.passed.iter().map(|name| format!("-{name}"));
    zones.chain(passed).collect::<Vec<_>>().join(" ")
}

#[test]
fn imported_files_are_inserted() {
    const ALL: &str = "cluster.local. -web.cluster.local.";
    // The optional ConfigMap doesn't exist.
    assert_eq!(answered(COREFILE, None), ALL);
    assert_eq!(answered(COREFILE, Some(&[])), ALL);
    for (file, text, wanted) in [
        ("a.override", "log\n", ALL),
        ("a.override", "# nothing\n", ALL),
        ("a.ignored", "dnssec\n", ALL),
        (
            "a.server",
            "corp.example:5353 {\n forward . 10.0.0.1\n}\n",
            ALL,
        ),
        // Another port receives no query.
        ("a.server", "cluster.local:53 {\n erratic\n}\n", ALL),
        (
            "a.server",
            "x.cluster.local:5353 {\n erratic\n}\n",
            "cluster.local. -x.cluster.local. -web.cluster.local.",
        ),
        (
            "a.override",
            "rewrite name a.cluster.local b.example",
            "cluster.local. -a.cluster.local. -web.cluster.local.",
        ),
        (
            "a.override",
            "template IN A x.cluster.local\n",
            "cluster.local. -x.cluster.local. -web.cluster.local.",
        ),
        // A file may name files too, relative to its own directory.
        (
            "a.override",
            "import a.ignored\n",
            "nothing: there is no file /etc/coredns/custom/a.ignored",
        ),
        (
            "a.override",
            "import ../NodeHosts\n",
            "nothing: /etc/coredns/custom/a.override, line 1",
        ),
        (
            "a.override",
            "header\n",
            "nothing: /etc/coredns/custom/a.override, line 1: `header`",
        ),
        // CoreDNS refuses these.
        (
            "a.override",
            "hosts {\n fallthrough\n}\n",
            "nothing: line 4: CoreDNS refuses a second `hosts`",
        ),
        // Two `bind` make CoreDNS choose a block by the address.
        (
            "a.server",
            "corp.example:5353 {\n bind 127.0.0.1\n forward . 10.0.0.1\n}\n",
            "nothing: `bind` makes server blocks listen at different addresses",
        ),
        (
            "a.server",
            "corp.example:5353 {\n cache\n cache\n}\n",
            "nothing: CoreDNS refuses a second `cache`",
        ),
        ("a.override", "import ../custom/a.override\n", "nothing: "),
        // The brace ends the server block, so that the next words are a block.
        (
            "a.override",
            "}\ncluster.local:5353 {\n erratic\n",
            "nothing: ",
        ),
    ] {
        let answered = answered(COREFILE, Some(&[(file, text)]));
        let is_wanted = match wanted.strip_prefix("nothing: ") {
            Some(reason) => answered.starts_with("nothing: ") && answered.contains(reason),
            None => answered == wanted,
        };
        assert!(is_wanted, "{file}: {text}: {answered}");
    }
}

#[test]
fn patterns_are_those_of_go() {
    let import =
        |pattern: &str| format!(".:5353 {{\n kubernetes cluster.local\n import {pattern}\n}}\n");
    let custom: &[(&str, &str)] = &[("b.x", "log\n"), ("a.x", "debug\n"), ("aa.x", "errors\n")];
    for (pattern, is_read) in [
        ("custom/*.x", true),
        ("/etc/coredns/custom/a.x", true),
        ("./custom/?.x", true),
        ("custom/*.none", true),
        ("custom/none", false),
        // These match the directory `..data`, which CoreDNS can't import.
        ("custom/*", false),
        ("custom/*ata", false),
        ("custom/*7", false),
        ("custom/[a].x", false),
        ("*/a.x", false),
        ("/etc/other/*.x", false),
        ("custom/*.*", false),
        ("a.x b.x", false),
    ] {
        let answered = answered(&import(pattern), Some(custom));
        assert_eq!(
            answered == "cluster.local.",
            is_read,
            "{pattern}: {answered}"
        );
    }
}

#[test]
fn reverse_names_of_hosts_pass() {
    let corefile = |hosts: &str| {
        format!(".:5353 {{\n kubernetes cluster.local 10.in-addr.arpa\n {hosts}\n}}\n")
    };
    for (hosts, passed) in [
        (
            "hosts /etc/coredns/NodeHosts cluster.local {\n fallthrough\n}",
            "-2.0.0.10.in-addr.arpa. -web.cluster.local.",
        ),
        (
            "hosts /etc/coredns/NodeHosts {\n 10.0.0.9 x.example\n fallthrough\n}",
            "-1.0.0.10.in-addr.arpa. -2.0.0.10.in-addr.arpa. -9.0.0.10.in-addr.arpa. \
             -web.cluster.local.",
        ),
        (
            "hosts /etc/coredns/NodeHosts {\n 10.0.0.9 x.example\n fallthrough\n no_reverse\n}",
            "-web.cluster.local.",
        ),
        (
            "hosts /etc/coredns/NodeHosts {\n ::ffff:10.0.0.9 x.example\n fallthrough\n}",
            "-1.0.0.10.in-addr.arpa. -2.0.0.10.in-addr.arpa. -9.0.0.10.in-addr.arpa. \
             -web.cluster.local.",
        ),
    ] {
        let answered = answered(&corefile(hosts), None);
        let wanted = format!("cluster.local. 10.in-addr.arpa. {passed}");
        assert_eq!(answered, wanted, "{hosts}");
    }
    // CoreDNS keeps the names of a file that disappears.
    let gone = corefile("hosts /etc/coredns/Gone {\n fallthrough\n}");
    assert!(answered(&gone, None).starts_with("nothing"));
}

#[test]
fn hosts_files_have_an_interval_of_their_own() {
    let reload = |lines: &str| {
        let server = server(pod()).unwrap();
        let text = format!(".:5353 {{\n kubernetes cluster.local\n {lines}\n}}\n");
        let config = server.read_config(&maps(&text, None)).unwrap();
        Reload::read(&config.unwrap()).period()
    };
    let hosts = "hosts /etc/coredns/NodeHosts {\n fallthrough\n";
    let seconds = |seconds| Some(std::time::Duration::from_secs(seconds));
    assert_eq!(reload(&format!("reload 10s 0s\n {hosts} }}")), seconds(10));
    assert_eq!(reload(&format!("reload 2s 0s\n {hosts} }}")), seconds(5));
    assert_eq!(
        reload(&format!("reload 10s 0s\n {hosts} reload 1h\n }}")),
        seconds(3600)
    );
    assert_eq!(
        reload(&format!("reload 10s 0s\n {hosts} reload 0\n }}")),
        None
    );
    assert_eq!(reload(&format!("{hosts} reload 1h\n }}")), None);
}

#[test]
fn only_files_that_the_corefile_names_are_read() {
    let server = server(pod()).unwrap();
    let both = BTreeSet::from([key("coredns"), key("coredns-custom")]);
    // Before the Corefile is known, nothing else is needed.
    let none = ConfigMapTexts::new();
    assert_eq!(server.config_maps(&none), BTreeSet::from([key("coredns")]));
    assert_eq!(server.config_maps(&maps(COREFILE, None)), both);
    let plain = ".:5353 {\n kubernetes cluster.local\n}\n";
    assert_eq!(
        server.config_maps(&maps(plain, None)),
        BTreeSet::from([key("coredns")])
    );
    // A ConfigMap that isn't known makes the import unknown.
    let mut unread = maps(COREFILE, None);
    unread.remove(&key("coredns-custom"));
    let config = server.read_config(&unread).unwrap().unwrap();
    assert_eq!(Conclusions::read(&config).adopted, None);
    assert_eq!(Reload::read(&config), Reload::Unknown);
}

#[test]
fn a_sub_path_is_never_updated() {
    let mut by_path = pod();
    by_path["spec"]["containers"][0]["volumeMounts"][1] = json!({
        "name": "custom", "mountPath": "/etc/coredns/custom/a.override", "subPath": "a.override",
    });
    let server = server(by_path).unwrap();
    let maps = maps(
        ".:5353 {\n kubernetes cluster.local\n import custom/a.override\n}\n",
        Some(&[("a.override", "log\n")]),
    );
    let config = server.read_config(&maps).unwrap().unwrap();
    assert!(Conclusions::read(&config).adopted.is_some());
    assert!(!server.follows_edits(&maps));
}

#[test]
fn variables_with_known_values_are_replaced() {
    let mut with_variables = pod();
    with_variables["spec"]["containers"][0]["env"] = json!([
        {"name": "ZONE", "value": "cluster.local"},
        {"name": "REF", "value": "$(ZONE)"},
        {"name": "BRACE", "value": "{"},
        {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
    ]);
    let server = server(with_variables).unwrap();
    for (line, is_read) in [
        ("kubernetes {$ZONE}", true),
        ("kubernetes {%ZONE%}", true),
        ("kubernetes cluster.local {\n}\nforward . {$ZONE}", true),
        ("kubernetes {$REF}", false),
        ("kubernetes cluster.local\nforward . {$IP}", false),
        ("kubernetes cluster.local\nforward . {$NONE}", false),
        ("kubernetes cluster.local {$BRACE}\n}", false),
    ] {
        let maps = maps(&format!(".:5353 {{\n{line}\n}}\n"), None);
        let config = server.read_config(&maps).unwrap().unwrap();
        let adopted = Conclusions::read(&config).adopted;
        assert_eq!(adopted.is_some(), is_read, "{line}");
    }
}

#[test]
fn what_a_pod_does_not_show_is_unknown() {
    type PodChange = fn(&mut Value);
    let cases: [(PodChange, &str); 9] = [
        (
            |pod| pod["spec"]["containers"][0]["args"] = json!([]),
            "no path in -conf",
        ),
        (
            |pod| pod["spec"]["containers"][0]["args"][1] = json!("$(CONF)"),
            "variable",
        ),
        (
            |pod| pod["spec"]["volumes"][0] = json!({"name": "config", "secret": {}}),
            "not a ConfigMap",
        ),
        (
            |pod| pod["spec"]["containers"][0]["volumeMounts"] = json!([]),
            "is not in a ConfigMap",
        ),
        (
            |pod| pod["spec"]["containers"][0]["ports"] = json!([]),
            "none of its containers lists UDP port 5353",
        ),
        (
            |pod| {
                let ports = pod["spec"]["containers"][0]["ports"].clone();
                pod["spec"]["containers"][1]["ports"] = ports;
            },
            "several of its containers list UDP port 5353",
        ),
        (
            |pod| pod["spec"]["containers"][0]["args"] = json!(["-conf", "/x", "-dns.port=x"]),
            "no number in -dns.port",
        ),
        // A virtual cluster's CoreDNS in a tenant's namespace reads another API server.
        (
            |pod| pod["metadata"]["namespace"] = json!("tenant"),
            "token of its service account",
        ),
        (
            |pod| {
                pod["metadata"]["namespace"] = json!("tenant");
                pod["spec"]["containers"][0]["env"] =
                    json!([{"name": "KUBERNETES_SERVICE_HOST", "value": "10.0.0.1"}]);
            },
            "another API server",
        ),
    ];
    for (change, wanted) in cases {
        let mut pod = pod();
        change(&mut pod);
        let reason = server(pod).unwrap_err();
        assert!(reason.contains(wanted), "{wanted:?} is not in: {reason}");
    }
    // The same API server, at another address.
    let mut in_system = pod();
    in_system["spec"]["containers"][0]["env"] =
        json!([{"name": "KUBERNETES_SERVICE_HOST", "value": "api.example"}]);
    assert!(server(in_system).is_ok());
    let mut elsewhere = pod();
    elsewhere["metadata"]["namespace"] = json!("dns");
    elsewhere["spec"]["containers"][0]["volumeMounts"]
        .as_array_mut()
        .unwrap()
        .push(json!({"name": "token", "mountPath": TOKEN_DIRECTORY}));
    elsewhere["spec"]["volumes"].as_array_mut().unwrap().push(
        json!({"name": "token", "projected": {"sources": [
            {"serviceAccountToken": {"path": "token"}},
            {"configMap": {"name": "kube-root-ca.crt"}},
        ]}}),
    );
    assert!(server(elsewhere).is_ok());
}
