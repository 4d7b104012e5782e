//! The Corefiles of `tests/routes/corefiles`, and the objects of a cluster whose CoreDNS has one.

use std::{
    collections::BTreeMap,
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use serde::Deserialize;
use serde_json::{Value, json};

/// The address of CoreDNS.
pub(crate) const COREDNS: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 2);

/// A Corefile, and the names that are asked for with it.
pub(crate) struct RouteShape {
    /// The file's name without `.yaml`.
    pub(crate) title: String,
    pub(crate) text: RouteShapeText,
}

#[derive(Deserialize)]
pub(crate) struct RouteShapeText {
    /// The largest TTL of answers about names outside the cluster, in seconds, by zones. The
    /// longest zone counts. Names in no zone have any TTL.
    pub(crate) ttls: BTreeMap<String, u32>,
    /// Names that are asked for.
    pub(crate) names: Vec<String>,
    /// Random names below these are asked for.
    pub(crate) below: Vec<String>,
    /// The files in `/etc/coredns`.
    pub(crate) coredns: BTreeMap<String, String>,
    /// The files in `/etc/coredns/custom`.
    #[serde(default)]
    pub(crate) custom: BTreeMap<String, String>,
}

impl RouteShape {
    /// All shapes, in the order of their names.
    pub(crate) fn all() -> Result<Vec<RouteShape>> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("routes/corefiles");
        let files = fs::read_dir(&folder)?;
        let mut paths: Vec<PathBuf> = files
            .map(|file| Ok(file?.path()))
            .collect::<std::io::Result<_>>()?;
        paths.sort();
        let read = |path: &PathBuf| {
            let text = fs::read_to_string(path)?;
            let title = path.file_stem().unwrap_or_default().to_string_lossy();
            let title = title.into_owned();
            let text = serde_saphyr::from_str(&text).with_context(|| title.clone())?;
            Ok(RouteShape { title, text })
        };
        paths.iter().map(read).collect()
    }

    /// The port at which CoreDNS answers.
    pub(crate) fn port(&self) -> u16 {
        match self.text.coredns["Corefile"].contains(":5353") {
            true => 5353,
            false => 53,
        }
    }

    /// The largest TTL of answers about a name outside the cluster, in seconds.
    pub(crate) fn max_ttl(&self, name: &str) -> u32 {
        let zones = self.text.ttls.iter();
        let zones = zones.filter(|(zone, _)| is_within(name, zone));
        let longest = zones.max_by_key(|(zone, _)| zone.trim_matches('.').len());
        longest.map_or(u32::MAX, |(_, ttl)| *ttl)
    }

    /// The objects of the API server, by the plural of their kind.
    pub(crate) fn objects(&self) -> BTreeMap<String, Vec<Value>> {
        let meta = |namespace: &str, name: &str| {
            json!({
                "namespace": namespace, "name": name, "uid": format!("{namespace}-{name}"),
                "resourceVersion": "1", "creationTimestamp": "2026-01-01T00:00:00Z",
            })
        };
        let namespace = |name: &str| {
            let metadata = json!({"name": name});
            json!({"kind": "Namespace", "apiVersion": "v1", "metadata": metadata})
        };
        let service = |namespace: &str, name: &str, spec: Value| {
            json!({
                "kind": "Service", "apiVersion": "v1", "metadata": meta(namespace, name),
                "spec": spec,
            })
        };
        let slice = |namespace: &str, name: &str, endpoints: Vec<Value>, ports: Value| {
            let mut metadata = meta(namespace, &format!("{name}-1"));
            metadata["labels"] = json!({"kubernetes.io/service-name": name});
            json!({
                "kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1",
                "metadata": metadata, "addressType": "IPv4", "endpoints": endpoints,
                "ports": ports,
            })
        };
        let config_map = |name: &str, data: &BTreeMap<String, String>| {
            json!({
                "kind": "ConfigMap", "apiVersion": "v1", "metadata": meta("kube-system", name),
                "data": data,
            })
        };
        let port = self.port();
        let http = json!([{"name": "http", "port": 80, "protocol": "TCP"}]);
        let dns = json!([{"name": "dns", "port": port, "protocol": "UDP"}]);
        let external = |target: &str| json!({"type": "ExternalName", "externalName": target});
        let headless = |name: &str, count: u8| {
            let endpoint = |index: u8| {
                json!({
                    "addresses": [format!("10.244.9.{}", index + 1)],
                    "hostname": format!("{name}-{index}"), "conditions": {"ready": true},
                })
            };
            slice(
                "shop",
                name,
                (0..count).map(endpoint).collect(),
                http.clone(),
            )
        };
        let none = json!({"clusterIP": "None", "clusterIPs": ["None"], "ports": http});
        let address = COREDNS.to_string();
        let coredns_endpoint = json!({
            "addresses": [address], "conditions": {"ready": true},
            "targetRef": {"kind": "Pod", "namespace": "kube-system", "name": "coredns"},
        });
        BTreeMap::from(
            [
                (
                    "namespaces",
                    ["default", "kube-system", "shop"].map(namespace).to_vec(),
                ),
                (
                    "services",
                    vec![
                        service(
                            "kube-system",
                            "kube-dns",
                            json!({
                                "clusterIP": "10.96.0.10", "clusterIPs": ["10.96.0.10"],
                                "selector": {"k8s-app": "kube-dns"},
                                "ports": [{
                                    "name": "dns", "port": 53, "protocol": "UDP",
                                    "targetPort": port,
                                }],
                            }),
                        ),
                        service(
                            "shop",
                            "web",
                            json!({
                                "clusterIP": "10.96.1.1", "clusterIPs": ["10.96.1.1"],
                                "ports": http,
                            }),
                        ),
                        service("shop", "db", none.clone()),
                        service("shop", "many", none),
                        service("shop", "out", external("target.example.net")),
                        service("shop", "stub", external("a.corp.example")),
                    ],
                ),
                (
                    "endpointslices",
                    vec![
                        slice("kube-system", "kube-dns", vec![coredns_endpoint], dns),
                        headless("db", 3),
                        headless("many", 90),
                    ],
                ),
                (
                    "pods",
                    vec![self.coredns_pod(&meta("kube-system", "coredns"))],
                ),
                (
                    "configmaps",
                    vec![
                        config_map("coredns", &self.text.coredns),
                        config_map("coredns-custom", &self.text.custom),
                    ],
                ),
            ]
            .map(|(plural, objects)| (plural.to_owned(), objects)),
        )
    }

    fn coredns_pod(&self, metadata: &Value) -> Value {
        let mut metadata = metadata.clone();
        metadata["labels"] = json!({"k8s-app": "kube-dns"});
        json!({
            "kind": "Pod", "apiVersion": "v1", "metadata": metadata,
            "spec": {
                "nodeName": "other",
                "dnsPolicy": "Default",
                "containers": [{
                    "name": "coredns", "image": "coredns:v1.14.7",
                    "args": ["-conf", "/etc/coredns/Corefile"],
                    "ports": [{"name": "dns", "containerPort": self.port(), "protocol": "UDP"}],
                    "volumeMounts": [
                        {"name": "config", "mountPath": "/etc/coredns", "readOnly": true},
                        {"name": "custom", "mountPath": "/etc/coredns/custom", "readOnly": true},
                    ],
                }],
                "volumes": [
                    {"name": "config", "configMap": {"name": "coredns"}},
                    {"name": "custom", "configMap": {"name": "coredns-custom", "optional": true}},
                ],
            },
            "status": {
                "phase": "Running", "podIP": COREDNS.to_string(),
                "podIPs": [{"ip": COREDNS.to_string()}],
                "conditions": [{"type": "Ready", "status": "True"}],
                "containerStatuses": [{
                    "name": "coredns",
                    "state": {"running": {"startedAt": "2026-01-02T00:00:00Z"}},
                }],
            },
        })
    }
}

/// Whether a name is at or below a zone. Both in lower case.
pub(crate) fn is_within(name: &str, zone: &str) -> bool {
    let name = name.trim_end_matches('.');
    let zone = zone.trim_end_matches('.');
    let before = name.strip_suffix(zone);
    before.is_some_and(|before| zone.is_empty() || before.is_empty() || before.ends_with('.'))
}
