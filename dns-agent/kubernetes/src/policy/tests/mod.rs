//! Tests of client policy: pods are judged by objects in the form of the API.

mod changes;
mod clients;
mod destinations;
mod facts;
mod ingress;
mod other_policies;
mod random;
mod reference_model;
mod rules;
mod server_egress;
mod tier_model;
mod tiers;

use std::net::SocketAddr;

use k8s_openapi::api::{
    core::v1 as core, discovery::v1 as discovery, networking::v1 as networking,
};
use serde_json::{Value, json};

use super::ports::QueryProtocol;
use super::{ClientJudge, ClientVerdicts, Fact, Facts, OtherPolicy, Policy, PolicyKind};
use crate::{ApiPod, ObjectError};

/// The ClusterIP and port of the cluster's DNS.
const SERVED: &str = "10.96.0.10:53";

const PROTOCOLS: [QueryProtocol; 2] = [QueryProtocol::Udp, QueryProtocol::Tcp];

/// Reads an API object as a fact.
fn read(value: Value) -> Result<Fact, ObjectError> {
    fn parse<T: serde::de::DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).expect("the value has the form of the API")
    }
    match value["kind"].as_str() {
        Some("Namespace") => Fact::from_namespace(&parse::<core::Namespace>(value)),
        Some("Service") => Fact::from_service(&parse::<core::Service>(value)),
        Some("EndpointSlice") => Fact::from_slice(&parse::<discovery::EndpointSlice>(value)),
        Some("Pod") => Fact::from_pod(&parse::<ApiPod>(value)),
        Some("NetworkPolicy") => {
            Policy::try_from(parse::<networking::NetworkPolicy>(value)).map(Fact::Policy)
        }
        Some(name) if let Some(kind) = cluster_kind(name) => {
            OtherPolicy::from_object(kind, &value).map(Fact::OtherPolicy)
        }
        kind => panic!("the tests use no objects of kind {kind:?}"),
    }
}

/// A kind of cluster-wide policies by the `kind` field.
fn cluster_kind(name: &str) -> Option<PolicyKind> {
    PolicyKind::from_api("policy.networking.k8s.io/v1alpha2", name)
}

fn fact(value: Value) -> Fact {
    read(value).expect("the object is valid")
}

fn facts(list: impl IntoIterator<Item = Value>) -> Facts {
    let mut facts = Facts::default();
    for value in list {
        facts.insert(fact(value));
    }
    facts
}

/// A running pod with an address.
fn pod(namespace: &str, name: &str, address: &str, labels: Value) -> Value {
    let mut pod = json!({
        "kind": "Pod",
        "metadata": {"namespace": namespace, "name": name},
        "status": {"phase": "Running", "podIPs": [{"ip": address}]},
    });
    pod["metadata"]["labels"] = labels;
    pod
}

/// A policy in the namespace `shop`.
fn policy(name: &str, spec: Value) -> Value {
    let mut policy =
        json!({"kind": "NetworkPolicy", "metadata": {"namespace": "shop", "name": name}});
    policy["spec"] = spec;
    policy
}

/// The client in most tests.
fn web() -> Value {
    pod(
        "shop",
        "web",
        "10.244.0.2",
        json!({"app": "web", "tier": "front"}),
    )
}

/// The objects of the cluster's DNS, with two pods that listen on this port. `dns` is the name of
/// the UDP port, and `dns-tcp` that of the TCP port. The order of the objects is: Namespace,
/// Service, EndpointSlice, Pod, Pod.
fn dns(port: u16) -> Vec<Value> {
    let labels = json!({"k8s-app": "kube-dns", "app.kubernetes.io/name": "coredns"});
    let mut pods = [
        pod("kube-system", "coredns-1", "10.244.0.9", labels.clone()),
        pod("kube-system", "coredns-2", "10.244.1.9", labels),
    ];
    for pod in &mut pods {
        pod["spec"] = json!({"containers": [{"ports": [
            {"name": "dns", "containerPort": port, "protocol": "UDP"},
            {"name": "dns-tcp", "containerPort": port, "protocol": "TCP"},
        ]}]});
    }
    let [one, two] = pods;
    vec![
        json!({
            "kind": "Namespace",
            "metadata": {"name": "kube-system", "labels": {"team": "core"}}
        }),
        json!({
            "kind": "Service", "metadata": {"namespace": "kube-system", "name": "kube-dns"},
            "spec": {
                "clusterIP": "10.96.0.10", "clusterIPs": ["10.96.0.10"],
                "selector": {"k8s-app": "kube-dns"},
                "ports": [
                    {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
                    {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": port},
                ],
            },
        }),
        json!({
            "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {
                "namespace": "kube-system", "name": "kube-dns-x",
                "labels": {"kubernetes.io/service-name": "kube-dns"},
            },
            "endpoints": [{"addresses": ["10.244.0.9"]}, {"addresses": ["10.244.1.9"]}],
            "ports": [
                {"name": "dns", "port": port, "protocol": "UDP"},
                {"name": "dns-tcp", "port": port, "protocol": "TCP"},
            ],
        }),
        one,
        two,
    ]
}

/// The verdicts of a judge who knows nothing from earlier judgements.
fn judge(facts: &mut Facts, served: &[SocketAddr]) -> ClientVerdicts {
    ClientJudge::default().judge(facts, served)
}

fn verdicts(facts: &mut Facts) -> ClientVerdicts {
    judge(facts, &[SERVED.parse().unwrap()])
}

/// Why `shop/web` isn't answered over UDP. `None` if it is answered.
fn objection(facts: &mut Facts) -> Option<String> {
    objection_over(QueryProtocol::Udp, facts)
}

/// Why `shop/web` isn't answered over a protocol. `None` if it is answered.
fn objection_over(protocol: QueryProtocol, facts: &mut Facts) -> Option<String> {
    let verdicts = verdicts(facts);
    let (permitted, left_out) = match protocol {
        QueryProtocol::Udp => (verdicts.permitted, verdicts.left_out),
        QueryProtocol::Tcp => (verdicts.permitted_tcp, verdicts.left_out_tcp),
    };
    let mut left_out = left_out.into_iter();
    let reason = left_out
        .find(|left_out| left_out.pod == "shop/web")
        .map(|left_out| left_out.reason);
    let is_permitted =
        permitted.is_none_or(|permitted| permitted.contains(&"10.244.0.2".parse().unwrap()));
    assert_eq!(
        is_permitted,
        reason.is_none(),
        "left: is shop/web permitted over {protocol}? right: is there no reason to leave it out? \
         {reason:?}"
    );
    reason
}

/// Over which protocols `shop/web` is answered.
fn answered_protocols(facts: &mut Facts) -> Vec<QueryProtocol> {
    let answered = PROTOCOLS.into_iter();
    answered
        .filter(|protocol| objection_over(*protocol, facts).is_none())
        .collect()
}

/// Whether `shop/web` is answered over a protocol when DNS pods listen on this port and the
/// namespace `shop` has policies with these specs.
fn may_query(protocol: QueryProtocol, port: u16, policies: &[Value]) -> bool {
    let policies = policies.iter().enumerate();
    let policies = policies.map(|(at, spec)| policy(&format!("p{at}"), spec.clone()));
    let all = dns(port).into_iter().chain([web()]).chain(policies);
    objection_over(protocol, &mut facts(all)).is_none()
}
