//! Routes of kube-dns.

use serde_json::{Value, json};
use zerohop_routes::Way;
use zerohop_zone::Rtype;

use super::*;

/// The pod that GKE and older clusters run.
fn pod(policy: &str) -> core::Pod {
    serde_json::from_value(json!({
        "metadata": {"name": "kube-dns-1", "namespace": "kube-system"},
        "spec": {
            "dnsPolicy": policy,
            "containers": [
                {
                    "name": "kubedns",
                    "args": [
                        "--domain=corp.local.", "--dns-port=10053", "--config-dir=/kube-dns-config",
                        "--v=2",
                    ],
                    "volumeMounts": [{"name": "config", "mountPath": "/kube-dns-config"}],
                },
                {"name": "dnsmasq", "args": ["-v=2", "-restartDnsmasq=true", "--", "-k"]},
            ],
            "volumes": [
                {"name": "config", "configMap": {"name": "kube-dns", "optional": true}},
            ],
        },
    }))
    .unwrap()
}

fn server() -> KubeDnsServer {
    KubeDnsServer::of_pod(&pod("Default")).unwrap()
}

/// The servers of a name, with this configuration.
fn servers(config: &Value, name: &str, rtype: Rtype) -> String {
    let data: ConfigMapData = serde_json::from_value(config.clone()).unwrap();
    let routes = match server().routes(Some(&data)) {
        Ok(routes) => routes,
        Err(reason) => return reason,
    };
    match routes.way(&Name::parse(name).unwrap(), rtype) {
        Way::ClusterDns => "cluster".to_owned(),
        Way::Forward(forwarding) => format!("{:?}", forwarding.group.servers),
        other => format!("{other:?}"),
    }
}

#[test]
fn a_pod_that_runs_kube_dns_is_recognised() {
    let map = ObjectKey::new("kube-system", "kube-dns");
    assert_eq!(server().config_map(), Ok(&map));
    let mut other = pod("Default");
    other.spec.as_mut().unwrap().containers.remove(0);
    assert_eq!(KubeDnsServer::of_pod(&other), None);
    let mut elsewhere = pod("Default");
    elsewhere.spec.as_mut().unwrap().volumes = None;
    assert!(
        KubeDnsServer::of_pod(&elsewhere)
            .unwrap()
            .config_map()
            .is_err()
    );
}

#[test]
fn names_go_to_the_stub_domains_and_upstreams() {
    let config = json!({
        "stubDomains": r#"{"acme.local": ["1.2.3.4", "1.2.3.5:99"], "b.acme.local": ["fd00::1"],
            "local": ["1.2.3.6"]}"#,
        "upstreamNameservers": r#"["8.8.8.8"]"#,
    });
    for (name, expected) in [
        ("a.acme.local", "[Plain(1.2.3.4:53), Plain(1.2.3.5:99)]"),
        ("b.acme.local", "[Plain([fd00::1]:53)]"),
        ("example.org", "[Plain(8.8.8.8:53)]"),
        ("web.shop.svc.corp.local", "cluster"),
        ("1.0.0.10.in-addr.arpa", "cluster"),
        ("a.local", "[Plain(1.2.3.6:53)]"),
    ] {
        assert_eq!(servers(&config, name, Rtype::A), expected, "{name}");
    }
    assert_eq!(
        servers(&json!({}), "example.org", Rtype::A),
        "[NodeResolvConf]"
    );
    let cluster_first = KubeDnsServer::of_pod(&pod("ClusterFirst")).unwrap();
    assert!(cluster_first.routes(None).is_err());
}

#[test]
fn a_configuration_that_kube_dns_may_refuse_leads_nowhere() {
    for config in [
        json!({"stubDomains": "{"}),
        json!({"stubDomains": r#"{"Acme": ["1.2.3.4"]}"#}),
        json!({"stubDomains": r#"{"acme.local": ["dns.example"]}"#}),
        json!({"upstreamNameservers": r#"["1.1.1.1", "1.1.1.2", "1.1.1.3", "1.1.1.4"]"#}),
        json!({"upstreamNameservers": r#"["x"]"#}),
    ] {
        let reason = servers(&config, "example.org", Rtype::A);
        assert!(reason.contains("kube-dns"), "{config}: {reason}");
    }
}
