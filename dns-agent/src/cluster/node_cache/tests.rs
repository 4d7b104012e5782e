//! Which pods are node caches, and where their configuration is.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as core;
use serde_json::{Value, json};

use super::{Binds, MapData, NodeCache, TakesUp};
use crate::cluster::objects::Key;

/// The pod of kubernetes' own manifest, in iptables mode.
fn upstream() -> Value {
    json!({
        "metadata": {"namespace": "kube-system", "name": "node-local-dns-x7"},
        "spec": {
            "hostNetwork": true,
            "containers": [{
                "name": "node-cache",
                "args": ["-localip", "169.254.20.10,10.96.0.10", "-conf", "/etc/Corefile",
                    "-upstreamsvc", "kube-dns-upstream"],
                "volumeMounts": [
                    {"mountPath": "/run/xtables.lock", "name": "xtables-lock", "readOnly": false},
                    {"name": "config-volume", "mountPath": "/etc/coredns"},
                    {"name": "kube-dns-config", "mountPath": "/etc/kube-dns"},
                ],
            }],
            "volumes": [
                {"name": "xtables-lock", "hostPath": {"path": "/run/xtables.lock"}},
                {"name": "kube-dns-config", "configMap": {"name": "kube-dns", "optional": true}},
                {"name": "config-volume", "configMap": {
                    "name": "node-local-dns",
                    "items": [{"key": "Corefile", "path": "Corefile.base"}],
                }},
            ],
        },
        "status": {"phase": "Running"},
    })
}

/// kubespray's: the ConfigMap holds the Corefile itself.
fn kubespray() -> Value {
    let mut pod = upstream();
    pod["spec"]["containers"][0]["args"] = json!([
        "-localip",
        "169.254.25.10",
        "-conf",
        "/etc/coredns/Corefile",
        "-upstreamsvc",
        "coredns"
    ]);
    pod["spec"]["volumes"][2]["configMap"] = json!({
        "name": "nodelocaldns",
        "items": [{"key": "Corefile", "path": "Corefile"}],
    });
    pod
}

fn cache_of(pod: Value) -> Option<NodeCache> {
    NodeCache::of_pod(&serde_json::from_value::<core::Pod>(pod).unwrap())
}

fn with_args(args: &[&str]) -> Value {
    let mut pod = upstream();
    pod["spec"]["containers"][0]["args"] = json!(args);
    pod
}

fn map(name: &str) -> Key {
    Key::new("kube-system", name)
}

fn data(texts: &[(&str, &str)]) -> Option<MapData> {
    let texts = texts.iter();
    Some(
        texts
            .map(|(key, text)| ((*key).into(), (*text).into()))
            .collect(),
    )
}

/// Changes the spec of a pod.
type Change = fn(&mut Value);

/// What is wrong with the configuration.
fn trouble(pod: Value) -> String {
    cache_of(pod).unwrap().config.unwrap_err()
}

#[test]
fn pods_are_known_by_their_command_and_network() {
    let cache = cache_of(upstream()).unwrap();
    let addresses = ["169.254.20.10", "10.96.0.10"].map(|text| text.parse().unwrap());
    assert_eq!(cache.binds, Binds::Addresses(addresses.to_vec()));
    let served = ["10.96.0.10", "10.96.0.11"].map(|text| text.parse().unwrap());
    assert_eq!(cache.bound(&served), served[..1]);

    for args in [
        &["-localip=10.96.0.10"][..],
        &["--localip", "10.96.0.10"],
        &["--localip=10.96.0.10", "--conf=/etc/Corefile"],
        &[
            "-skipteardown",
            "-setupiptables=false",
            "-localip",
            "10.96.0.10",
        ],
        &["-localip", "169.254.20.10", "-localip", "10.96.0.10"],
        &["-localip", "0.0.0.0"],
    ] {
        let cache = cache_of(with_args(args)).unwrap();
        assert_eq!(cache.bound(&served[..1]), served[..1], "{args:?}");
    }
    let mut by_command = with_args(&[]);
    by_command["spec"]["containers"][0]["command"] =
        json!(["/node-cache", "-localip", "10.96.0.10"]);
    assert!(cache_of(by_command).is_some());
    let mut sidecar = upstream();
    let container = sidecar["spec"]["containers"][0].take();
    sidecar["spec"]["containers"] = json!([{"name": "main"}]);
    sidecar["spec"]["initContainers"] = json!([container]);
    assert!(cache_of(sidecar).is_some());

    let mut in_own_network = upstream();
    in_own_network["spec"]["hostNetwork"] = json!(false);
    assert_eq!(
        cache_of(in_own_network),
        None,
        "it binds nothing of the node"
    );
    let mut ended = upstream();
    ended["status"]["phase"] = json!("Failed");
    assert_eq!(cache_of(ended), None);
    assert_eq!(cache_of(with_args(&["-conf", "/etc/Corefile"])), None);
}

#[test]
fn what_can_not_be_read_may_answer_anywhere() {
    let served = ["10.96.0.10".parse().unwrap()];
    for args in [
        &["-localip", "$(LOCAL_IP)"][..],
        &["-localip"],
        &["-localip="],
        &["-c", "exec /node-cache -localip 10.96.0.10"],
    ] {
        let cache = cache_of(with_args(args)).unwrap();
        assert_eq!(cache.bound(&served), served, "{args:?}");
        assert!(cache.config.is_err());
    }
    let mut two = upstream();
    let container = two["spec"]["containers"][0].clone();
    two["spec"]["containers"] = json!([container, container]);
    assert_eq!(cache_of(two).unwrap().binds, Binds::Unknown);
}

#[test]
fn the_template_is_filled_in_as_node_cache_does() {
    let config = cache_of(upstream()).unwrap().config.unwrap();
    assert_eq!(config.maps(), [&map("node-local-dns"), &map("kube-dns")]);
    assert_eq!(config.upstream_service, "kube-dns-upstream");
    assert_eq!(config.takes_up, TakesUp::AsReloadSays);
    let template = "cluster.local:53 {\n bind __PILLAR__LOCAL__DNS__ __PILLAR__DNS__SERVER__\n forward . __PILLAR__CLUSTER__DNS__\n}\n.:53 {\n forward . __PILLAR__UPSTREAM__SERVERS__\n}\n";
    let text = |kube_dns| {
        config.text(&BTreeMap::from([
            (map("node-local-dns"), data(&[("Corefile", template)])),
            (map("kube-dns"), kube_dns),
        ]))
    };
    let filled = template
        .replace("__PILLAR__LOCAL__DNS__", "169.254.20.10 10.96.0.10")
        .replace("__PILLAR__DNS__SERVER__", "");
    let with_resolv_conf = filled.replace("__PILLAR__UPSTREAM__SERVERS__", "/etc/resolv.conf");
    assert_eq!(text(None).unwrap(), with_resolv_conf);
    assert_eq!(text(data(&[])).unwrap(), with_resolv_conf);

    let kube_dns = data(&[
        (
            "stubDomains",
            r#"{"shop.cluster.local": ["10.0.0.2", "10.0.0.3"]}"#,
        ),
        ("upstreamNameservers", r#"["10.0.0.4"]"#),
    ]);
    let stub = "\nshop.cluster.local:53 {\n    errors\n    cache 30\n    bind 169.254.20.10 10.96.0.10\n    forward . 10.0.0.2 10.0.0.3\n}\n";
    let wanted = filled.replace("__PILLAR__UPSTREAM__SERVERS__", "10.0.0.4") + stub;
    assert_eq!(text(kube_dns).unwrap(), wanted);
    for (key, json, wanted) in [
        ("stubDomains", "{", "stubDomains"),
        ("upstreamNameservers", "10.0.0.4", "upstreamNameservers"),
        // What node-cache refuses, and goes on with what it had.
        (
            "stubDomains",
            r#"{"Corp_X.example": ["10.0.0.3"]}"#,
            "no DNS name",
        ),
        (
            "stubDomains",
            r#"{"corp.example": ["10.0.0.3:0"]}"#,
            "no address",
        ),
        (
            "upstreamNameservers",
            r#"["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"]"#,
            "more than 3",
        ),
        ("upstreamNameservers", r#"["dns.example"]"#, "no address"),
        ("federations", r#"{"a": "example.org"}"#, "federations"),
        ("other", "\u{fffd}", "no UTF-8"),
    ] {
        let reason = text(data(&[(key, json)])).unwrap_err();
        assert!(reason.contains(wanted), "{json}: {reason}");
    }

    let without = |maps| config.text(&maps).unwrap_err();
    assert_eq!(
        without(BTreeMap::new()),
        "there is no ConfigMap kube-system/node-local-dns"
    );
    let empty = BTreeMap::from([(map("node-local-dns"), data(&[]))]);
    assert_eq!(
        without(empty),
        "ConfigMap kube-system/node-local-dns has no Corefile"
    );
    let long = "#".repeat((1 << 20) + 1);
    let long = BTreeMap::from([(map("node-local-dns"), data(&[("Corefile", &long)]))]);
    assert!(without(long).contains("longer than 1048576 bytes"));
}

#[test]
fn a_corefile_in_a_config_map_is_not_filled_in() {
    let config = cache_of(kubespray()).unwrap().config.unwrap();
    assert_eq!(config.maps(), [&map("nodelocaldns")]);
    let text = ". {\n bind __PILLAR__LOCAL__DNS__\n}\n";
    let maps = BTreeMap::from([(map("nodelocaldns"), data(&[("Corefile", text)]))]);
    assert_eq!(config.text(&maps).unwrap(), text);
}

#[test]
fn mounts_are_followed() {
    let change = |change: fn(&mut Value)| {
        let mut pod = upstream();
        change(&mut pod["spec"]);
        pod
    };
    // The whole ConfigMap, with the key that the template has by default.
    let whole = change(|spec| spec["volumes"][2]["configMap"] = json!({"name": "mine"}));
    let config = cache_of(whole).unwrap().config.unwrap();
    let maps = BTreeMap::from([(map("mine"), data(&[("Corefile.base", ". {\n}\n")]))]);
    assert_eq!(config.text(&maps).unwrap(), ". {\n}\n");

    let alone = change(|spec| {
        spec["containers"][0]["volumeMounts"][1] = json!({
            "name": "config-volume",
            "mountPath": "/etc/coredns/Corefile.base",
            "subPath": "Corefile.base",
        });
    });
    let config = cache_of(alone).unwrap().config.unwrap();
    assert_eq!(config.takes_up, TakesUp::Never);
    let mut signalled = upstream();
    let args = signalled["spec"]["containers"][0]["args"].as_array_mut();
    args.unwrap().push(json!("-reloadwithsignal"));
    let config = cache_of(signalled).unwrap().config.unwrap();
    assert_eq!(config.takes_up, TakesUp::AtOnce);
    // It writes the Corefile beside the template.
    let scratch = change(|spec| {
        spec["containers"][0]["args"][3] = json!("/scratch/Corefile");
        spec["containers"][0]["volumeMounts"][0] = json!({"name": "w", "mountPath": "/scratch/"});
        spec["volumes"][0] = json!({"name": "w", "emptyDir": {}});
    });
    assert!(cache_of(scratch).unwrap().config.is_ok());

    let cases: [(Change, &str); 8] = [
        (
            |spec| spec["volumes"][2] = json!({"name": "config-volume", "emptyDir": {}}),
            "in no ConfigMap",
        ),
        (
            |spec| spec["volumes"][2] = json!({"name": "config-volume", "projected": {}}),
            "can't read",
        ),
        (
            |spec| spec["volumes"][2]["configMap"]["items"][0]["path"] = json!("other"),
            "no file",
        ),
        (|spec| spec["volumes"] = json!([]), "doesn't have"),
        (
            |spec| spec["containers"][0]["volumeMounts"] = json!([]),
            "in no ConfigMap",
        ),
        (
            |spec| spec["containers"][0]["args"][3] = json!("etc/Corefile"),
            "can follow",
        ),
        (
            |spec| spec["containers"][0]["args"][3] = json!("$(CONF)"),
            "variable",
        ),
        (
            |spec| spec["volumes"][1] = json!({"name": "kube-dns-config", "secret": {}}),
            "can't read",
        ),
    ];
    for (how, wanted) in cases {
        let reason = trouble(change(how));
        assert!(reason.contains(wanted), "{wanted}: {reason}");
    }
    assert!(trouble(with_args(&["-localip", "10.96.0.10"])).contains("can follow"));
}

#[test]
fn variables_of_the_container_may_say_anything() {
    let with_variable = |name: &str, value: &str, args: &[&str]| {
        let mut pod = with_args(args);
        pod["spec"]["containers"][0]["env"] = json!([{"name": name, "value": value}]);
        cache_of(pod)
    };
    let args = ["-localip", "10.96.0.10", "-conf", "/etc/Corefile"];
    let cache = with_variable("LOCAL", "-localip=10.96.0.10", &["$(LOCAL)"]).unwrap();
    assert_eq!(cache.binds, Binds::Unknown);
    let cache = with_variable("KUBE_DNS_SERVICE_HOST", "10.0.0.9", &args).unwrap();
    assert!(cache.config.unwrap_err().contains("KUBE_DNS_SERVICE_HOST"));
    let cache = with_variable("OTHER", "10.0.0.9", &args).unwrap();
    assert!(cache.config.is_ok());
}

#[test]
fn flags_are_true_as_go_reads_them() {
    let takes_up = |flag: &str| {
        let args = ["-localip", "10.96.0.10", "-conf", "/etc/Corefile", flag];
        cache_of(with_args(&args)).unwrap().config.unwrap().takes_up
    };
    for flag in [
        "-reloadwithsignal",
        "--reloadwithsignal=True",
        "-reloadwithsignal=1",
    ] {
        assert_eq!(takes_up(flag), TakesUp::AtOnce, "{flag}");
    }
    for flag in ["-reloadwithsignal=False", "-reloadwithsignal=0", "-other"] {
        assert_eq!(takes_up(flag), TakesUp::AsReloadSays, "{flag}");
    }
}
