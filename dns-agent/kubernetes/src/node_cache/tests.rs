//! Detection of node caches, and their configuration.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;
use serde_json::{Value, json};

use super::{CacheAddresses, ConfigMapData, NodeCache, ReloadMode};
use crate::objects::ObjectKey;

/// A pod of Kubernetes's own manifest, for kube-proxy's iptables mode. In this mode a node cache
/// also answers at the ClusterIP of kube-dns.
fn upstream_pod() -> Value {
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

/// A pod of kubespray. Its ConfigMap holds the Corefile, not a template.
fn kubespray_pod() -> Value {
    let mut pod = upstream_pod();
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
    NodeCache::find_in_pod(&serde_json::from_value::<core::Pod>(pod).unwrap())
}

fn with_args(args: &[&str]) -> Value {
    let mut pod = upstream_pod();
    pod["spec"]["containers"][0]["args"] = json!(args);
    pod
}

fn map(name: &str) -> ObjectKey {
    ObjectKey::new("kube-system", name)
}

fn data(texts: &[(&str, &str)]) -> Option<Arc<ConfigMapData>> {
    let texts = texts.iter();
    Some(Arc::new(
        texts
            .map(|(key, text)| ((*key).into(), (*text).into()))
            .collect(),
    ))
}

/// Changes a pod's spec.
type SpecChange = fn(&mut Value);

/// Why the configuration is unknown.
fn config_error(pod: Value) -> String {
    cache_of(pod).unwrap().config.unwrap_err()
}

#[test]
fn node_caches_are_detected_by_command_and_network() {
    let cache = cache_of(upstream_pod()).unwrap();
    let addresses = ["169.254.20.10", "10.96.0.10"].map(|text| text.parse().unwrap());
    assert_eq!(cache.addresses, CacheAddresses::Known(addresses.to_vec()));
    let served = ["10.96.0.10", "10.96.0.11"].map(|text| text.parse().unwrap());
    assert_eq!(cache.bound_addresses(&served), served[..1]);

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
        assert_eq!(cache.bound_addresses(&served[..1]), served[..1], "{args:?}");
    }
    let mut by_command = with_args(&[]);
    by_command["spec"]["containers"][0]["command"] =
        json!(["/node-cache", "-localip", "10.96.0.10"]);
    assert!(cache_of(by_command).is_some());
    let mut sidecar = upstream_pod();
    let container = sidecar["spec"]["containers"][0].take();
    sidecar["spec"]["containers"] = json!([{"name": "main"}]);
    sidecar["spec"]["initContainers"] = json!([container]);
    assert!(cache_of(sidecar).is_some());

    let mut in_own_network = upstream_pod();
    in_own_network["spec"]["hostNetwork"] = json!(false);
    assert_eq!(
        cache_of(in_own_network),
        None,
        "it can't bind the node's addresses"
    );
    let mut ended = upstream_pod();
    ended["status"]["phase"] = json!("Failed");
    assert_eq!(cache_of(ended), None);
    assert_eq!(cache_of(with_args(&["-conf", "/etc/Corefile"])), None);
}

#[test]
fn an_unreadable_localip_may_be_any_address() {
    let served = ["10.96.0.10".parse().unwrap()];
    for args in [
        &["-localip", "$(LOCAL_IP)"][..],
        &["-localip"],
        &["-localip="],
        &["-c", "exec /node-cache -localip 10.96.0.10"],
    ] {
        let cache = cache_of(with_args(args)).unwrap();
        assert_eq!(cache.bound_addresses(&served), served, "{args:?}");
        assert!(cache.config.is_err(), "{args:?}");
    }
    let mut two = upstream_pod();
    let container = two["spec"]["containers"][0].clone();
    two["spec"]["containers"] = json!([container, container]);
    assert_eq!(cache_of(two).unwrap().addresses, CacheAddresses::Unknown);
}

#[test]
fn the_template_is_filled_in_as_by_node_cache() {
    let config = cache_of(upstream_pod()).unwrap().config.unwrap();
    assert_eq!(
        config.config_maps(),
        [&map("node-local-dns"), &map("kube-dns")]
    );
    assert_eq!(config.upstream_service, "kube-dns-upstream");
    assert_eq!(config.reload_mode, ReloadMode::ByPlugin);
    let template = "cluster.local:53 {\n bind __PILLAR__LOCAL__DNS__ __PILLAR__DNS__SERVER__\n forward . __PILLAR__CLUSTER__DNS__\n}\n.:53 {\n forward . __PILLAR__UPSTREAM__SERVERS__\n}\n";
    let text = |kube_dns| {
        config.corefile_text(&BTreeMap::from([
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
        // node-cache refuses, or may refuse, the next four values. It then keeps its previous
        // settings.
        (
            "stubDomains",
            r#"{"Corp_X.example": ["10.0.0.3"]}"#,
            "not a lower-case DNS name",
        ),
        (
            "stubDomains",
            r#"{"corp.example": ["10.0.0.3:0"]}"#,
            "not an IP address",
        ),
        (
            "upstreamNameservers",
            r#"["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"]"#,
            "more than 3",
        ),
        (
            "upstreamNameservers",
            r#"["dns.example"]"#,
            "not an IP address",
        ),
        ("federations", r#"{"a": "example.org"}"#, "federations"),
        ("other", "\u{fffd}", "not UTF-8"),
    ] {
        let reason = text(data(&[(key, json)])).unwrap_err();
        assert!(
            reason.contains(wanted),
            "{json}: {wanted:?} is not in: {reason}"
        );
    }

    let without = |maps| config.corefile_text(&maps).unwrap_err();
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
    let config = cache_of(kubespray_pod()).unwrap().config.unwrap();
    assert_eq!(config.config_maps(), [&map("nodelocaldns")]);
    let text = ". {\n bind __PILLAR__LOCAL__DNS__\n}\n";
    let maps = BTreeMap::from([(map("nodelocaldns"), data(&[("Corefile", text)]))]);
    assert_eq!(config.corefile_text(&maps).unwrap(), text);
}

#[test]
fn mounts_lead_to_config_maps() {
    // In the spec, `volumes[2]` holds the template, which `volumeMounts[1]` mounts. `volumes[1]` is
    // the ConfigMap of kube-dns. `volumes[0]` and `volumeMounts[0]` have no configuration.
    // `args[3]` is the value of `-conf`.
    let with_change = |change: SpecChange| {
        let mut pod = upstream_pod();
        change(&mut pod["spec"]);
        pod
    };
    // The whole ConfigMap is mounted. The template's key is `Corefile.base`, the file name in the
    // default of `-basecorefile`.
    let whole = with_change(|spec| spec["volumes"][2]["configMap"] = json!({"name": "mine"}));
    let config = cache_of(whole).unwrap().config.unwrap();
    let maps = BTreeMap::from([(map("mine"), data(&[("Corefile.base", ". {\n}\n")]))]);
    assert_eq!(config.corefile_text(&maps).unwrap(), ". {\n}\n");

    let single_file = with_change(|spec| {
        spec["containers"][0]["volumeMounts"][1] = json!({
            "name": "config-volume",
            "mountPath": "/etc/coredns/Corefile.base",
            "subPath": "Corefile.base",
        });
    });
    let config = cache_of(single_file).unwrap().config.unwrap();
    assert_eq!(config.reload_mode, ReloadMode::Never);
    let mut signalled = upstream_pod();
    let args = signalled["spec"]["containers"][0]["args"].as_array_mut();
    args.unwrap().push(json!("-reloadwithsignal"));
    let config = cache_of(signalled).unwrap().config.unwrap();
    assert_eq!(config.reload_mode, ReloadMode::BySignal);
    // The node cache writes its Corefile into an emptyDir.
    let scratch = with_change(|spec| {
        spec["containers"][0]["args"][3] = json!("/scratch/Corefile");
        spec["containers"][0]["volumeMounts"][0] = json!({"name": "w", "mountPath": "/scratch/"});
        spec["volumes"][0] = json!({"name": "w", "emptyDir": {}});
    });
    assert!(cache_of(scratch).unwrap().config.is_ok());

    let cases: [(SpecChange, &str); 8] = [
        (
            |spec| spec["volumes"][2] = json!({"name": "config-volume", "emptyDir": {}}),
            "not in a ConfigMap",
        ),
        (
            |spec| spec["volumes"][2] = json!({"name": "config-volume", "projected": {}}),
            "in a volume that is not a ConfigMap",
        ),
        (
            |spec| spec["volumes"][2]["configMap"]["items"][0]["path"] = json!("other"),
            "not a file",
        ),
        (|spec| spec["volumes"] = json!([]), "doesn't have"),
        (
            |spec| spec["containers"][0]["volumeMounts"] = json!([]),
            "not in a ConfigMap",
        ),
        (
            |spec| spec["containers"][0]["args"][3] = json!("etc/Corefile"),
            "not an absolute path",
        ),
        (
            |spec| spec["containers"][0]["args"][3] = json!("$(CONF)"),
            "variable",
        ),
        (
            |spec| spec["volumes"][1] = json!({"name": "kube-dns-config", "secret": {}}),
            "not a whole ConfigMap",
        ),
    ];
    for (change, wanted) in cases {
        let reason = config_error(with_change(change));
        assert!(reason.contains(wanted), "{wanted:?} is not in: {reason}");
    }
    assert_eq!(
        config_error(with_args(&["-localip", "10.96.0.10"])),
        "its command has no path in -conf"
    );
}

#[test]
fn container_variables_may_change_the_configuration() {
    let with_variable = |name: &str, value: &str, args: &[&str]| {
        let mut pod = with_args(args);
        pod["spec"]["containers"][0]["env"] = json!([{"name": name, "value": value}]);
        cache_of(pod)
    };
    let args = ["-localip", "10.96.0.10", "-conf", "/etc/Corefile"];
    let cache = with_variable("LOCAL", "-localip=10.96.0.10", &["$(LOCAL)"]).unwrap();
    assert_eq!(cache.addresses, CacheAddresses::Unknown);
    let cache = with_variable("KUBE_DNS_SERVICE_HOST", "10.0.0.9", &args).unwrap();
    assert!(cache.config.unwrap_err().contains("KUBE_DNS_SERVICE_HOST"));
    let cache = with_variable("OTHER", "10.0.0.9", &args).unwrap();
    assert!(cache.config.is_ok());
}

#[test]
fn boolean_flags_are_read_as_go_reads_them() {
    let reload_mode = |flag: &str| {
        let args = ["-localip", "10.96.0.10", "-conf", "/etc/Corefile", flag];
        cache_of(with_args(&args))
            .unwrap()
            .config
            .unwrap()
            .reload_mode
    };
    for flag in [
        "-reloadwithsignal",
        "--reloadwithsignal=True",
        "-reloadwithsignal=1",
    ] {
        assert_eq!(reload_mode(flag), ReloadMode::BySignal, "{flag}");
    }
    for flag in ["-reloadwithsignal=False", "-reloadwithsignal=0", "-other"] {
        assert_eq!(reload_mode(flag), ReloadMode::ByPlugin, "{flag}");
    }
}
