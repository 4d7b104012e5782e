//! Policies of other kinds than NetworkPolicy.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::{Value, json};

use super::{dns, facts, pod, verdicts, web};
use crate::{
    ClientVerdicts, Fact, Facts, Feed, ObjectKey, OtherPolicy, PolicyKind,
    policy::{
        kinds::Reach,
        other_policies::{MAX_OBJECTS, PolicyEffect},
    },
};

pub(super) fn kind(resource: &str) -> PolicyKind {
    let mut all = PolicyKind::all();
    all.find(|kind| kind.resource() == resource)
        .unwrap_or_else(|| panic!("{resource} is not a kind of policy that Zerohop lists"))
}

fn object(namespace: Option<&str>, name: &str, spec: Value) -> Value {
    let mut object = json!({"metadata": {"name": name}});
    object["spec"] = spec;
    if let Some(namespace) = namespace {
        object["metadata"]["namespace"] = json!(namespace);
    }
    object
}

/// A policy `p` of an unevaluated kind.
fn other(resource: &str, namespace: Option<&str>, spec: Value) -> Fact {
    let object = object(namespace, "p", spec);
    Fact::OtherPolicy(OtherPolicy::from_object(kind(resource), &object).unwrap())
}

/// The pods `shop/web` and `lab/db`, and the cluster's DNS.
fn cluster() -> Facts {
    let db = pod("lab", "db", "10.244.0.3", json!({}));
    facts(dns(53).into_iter().chain([web(), db]))
}

/// The pods that aren't answered, and why. DNS pods are omitted. These policies restrict both
/// protocols.
fn left_out(facts: &mut Facts) -> Vec<(String, String)> {
    let verdicts = verdicts(facts);
    assert_eq!(
        verdicts.left_out, verdicts.left_out_tcp,
        "UDP (left) and TCP"
    );
    assert_eq!(verdicts.permitted, verdicts.permitted_tcp);
    let left_out = verdicts.left_out.into_iter();
    let left_out = left_out.filter(|pod| !pod.pod.starts_with("kube-system/"));
    left_out.map(|pod| (pod.pod, pod.reason)).collect()
}

/// The pods that aren't answered. DNS pods are omitted.
fn left_out_pods(facts: &mut Facts) -> Vec<String> {
    left_out(facts).into_iter().map(|(pod, _)| pod).collect()
}

#[test]
fn objects_exclude_the_pods_that_they_may_restrict() {
    let both = &["lab/db", "shop/web"][..];
    for (resource, namespace, spec, left_out) in [
        (
            "ciliumnetworkpolicies.cilium.io",
            Some("shop"),
            json!({"egress": []}),
            &["shop/web"][..],
        ),
        (
            "ciliumnetworkpolicies.cilium.io",
            Some("shop"),
            json!({"egressDeny": []}),
            &["shop/web"],
        ),
        (
            "ciliumnetworkpolicies.cilium.io",
            Some("shop"),
            json!({"ingress": []}),
            &[],
        ),
        (
            "networkpolicies.crd.projectcalico.org",
            Some("lab"),
            json!({"types": ["Egress"]}),
            &["lab/db"],
        ),
        (
            "networkpolicies.crd.projectcalico.org",
            Some("lab"),
            json!({"types": ["Ingress"]}),
            &[],
        ),
        // The object applies to the pods of the cluster's DNS.
        (
            "networkpolicies.crd.projectcalico.org",
            Some("kube-system"),
            json!({"types": ["Ingress"]}),
            both,
        ),
        // Cluster-scoped objects.
        // Its rules can't be read, because the subject has neither namespaces nor pods.
        (
            "adminnetworkpolicies.policy.networking.k8s.io",
            None,
            json!({"priority": 1, "subject": {}, "ingress": []}),
            both,
        ),
        (
            "globalnetworkpolicies.crd.projectcalico.org",
            None,
            json!({}),
            both,
        ),
        (
            "securitygrouppolicies.vpcresources.k8s.aws",
            Some("shop"),
            json!({"podSelector": {}}),
            &["shop/web"],
        ),
        (
            "subnets.kubeovn.io",
            None,
            json!({"cidrBlock": "10.244.0.0/16", "private": false, "acls": []}),
            &[],
        ),
        ("subnets.kubeovn.io", None, json!({"private": true}), both),
        ("subnets.kubeovn.io", None, json!({"acls": [{}]}), both),
    ] {
        let mut facts = cluster();
        facts.insert(other(resource, namespace, spec.clone()));
        assert_eq!(
            left_out_pods(&mut facts),
            left_out,
            "{resource} {namespace:?} {spec}"
        );
        // The default verdicts permit every pod.
        if left_out.is_empty() {
            assert_eq!(verdicts(&mut facts), ClientVerdicts::default());
        }
    }
}

#[test]
fn the_reason_names_the_object() {
    let mut facts = cluster();
    let resource = "ciliumnetworkpolicies.cilium.io";
    facts.insert(other(resource, Some("shop"), json!({"egress": []})));
    assert_eq!(
        left_out(&mut facts),
        [(
            "shop/web".to_owned(),
            "CiliumNetworkPolicy shop/p (cilium.io) may restrict this pod, and Zerohop doesn't evaluate this kind"
                .to_owned()
        )]
    );
    let resource = "clusternetworkpolicies.policy.networking.k8s.io";
    facts.insert(other(
        resource,
        None,
        json!({"tier": "Admin", "priority": 1001}),
    ));
    let (_, reason) = &left_out(&mut facts)[0];
    assert_eq!(
        reason,
        "ClusterNetworkPolicy p (policy.networking.k8s.io) may restrict this pod, and it can't be read (spec: missing field `subject`)"
    );
}

#[test]
fn any_object_may_restrict_unknown_servers() {
    // Without the second DNS pod, whose address is in the Service's EndpointSlice.
    let mut objects = dns(53);
    objects.truncate(4);
    let mut facts = facts(objects.into_iter().chain([web()]));
    assert_eq!(left_out_pods(&mut facts), [] as [&str; 0]);
    let resource = "ciliumnetworkpolicies.cilium.io";
    facts.insert(other(resource, Some("elsewhere"), json!({"ingress": []})));
    assert_eq!(left_out_pods(&mut facts), ["shop/web"]);
}

#[test]
fn no_pod_is_answered_until_a_served_kind_is_listed() {
    let cilium = kind("ciliumnetworkpolicies.cilium.io");
    let feed = Feed::OtherPolicies(cilium);
    let mut facts = cluster();
    facts.set_served_kinds([]);
    assert_eq!(verdicts(&mut facts), ClientVerdicts::default());
    facts.set_served_kinds([cilium]);
    let all_pods = ["lab/db", "shop/web"];
    assert_eq!(left_out_pods(&mut facts), all_pods);
    let (_, reason) = &left_out(&mut facts)[0];
    assert!(
        reason.contains("serves ciliumnetworkpolicies.cilium.io"),
        "{reason}"
    );

    facts.start_list(feed);
    facts.apply(
        feed,
        other(cilium.resource(), Some("shop"), json!({"egress": []})),
    );
    assert_eq!(left_out_pods(&mut facts), all_pods);
    assert!(facts.finish_list(feed));
    assert_eq!(left_out_pods(&mut facts), ["shop/web"]);

    // An unreadable object may apply to every pod in its namespace. If its namespace is unknown, it
    // may apply to every pod.
    facts.mark_unreadable(feed, &ObjectKey::new("lab", "bad"));
    assert_eq!(left_out_pods(&mut facts), all_pods);
    facts.delete(feed, &ObjectKey::new("shop", "p"));
    assert_eq!(left_out_pods(&mut facts), ["lab/db"]);
    facts.mark_unreadable(feed, &ObjectKey::new("", ""));
    assert_eq!(left_out_pods(&mut facts), all_pods);

    // The API server stops serving the kind, and serves it again.
    facts.set_served_kinds([]);
    assert_eq!(verdicts(&mut facts), ClientVerdicts::default());
    facts.apply(
        feed,
        other(cilium.resource(), Some("shop"), json!({"egress": []})),
    );
    assert_eq!(verdicts(&mut facts), ClientVerdicts::default());
    facts.set_served_kinds([cilium]);
    assert_eq!(left_out_pods(&mut facts), all_pods);
}

#[test]
fn no_pod_is_answered_above_the_object_limit() {
    let cilium = kind("ciliumnetworkpolicies.cilium.io");
    let feed = Feed::OtherPolicies(cilium);
    let numbered = |number: usize| {
        let object = object(
            Some("elsewhere"),
            &format!("p{number}"),
            json!({"ingress": []}),
        );
        Fact::OtherPolicy(OtherPolicy::from_object(cilium, &object).unwrap())
    };
    let mut facts = cluster();
    facts.set_served_kinds([cilium]);
    let list = |facts: &mut Facts, count: usize| {
        facts.start_list(feed);
        for number in 0..count {
            facts.apply(feed, numbered(number));
        }
        facts.finish_list(feed);
    };
    list(&mut facts, MAX_OBJECTS);
    assert_eq!(verdicts(&mut facts), ClientVerdicts::default());
    // An object that is stored already changes nothing. One more object exceeds the limit.
    facts.apply(feed, numbered(0));
    assert_eq!(verdicts(&mut facts), ClientVerdicts::default());
    facts.apply(feed, numbered(MAX_OBJECTS));
    assert_eq!(left_out_pods(&mut facts), ["lab/db", "shop/web"]);
    let (_, reason) = &left_out(&mut facts)[0];
    assert!(
        reason.contains("more than 10000 ciliumnetworkpolicies.cilium.io"),
        "{reason}"
    );
    // Of these, only MAX_OBJECTS + 1 are recorded as listed.
    list(&mut facts, MAX_OBJECTS + 5);
    assert_eq!(left_out_pods(&mut facts), ["lab/db", "shop/web"]);
    list(&mut facts, MAX_OBJECTS);
    assert_eq!(verdicts(&mut facts), ClientVerdicts::default());
}

#[test]
fn an_object_deleted_during_a_list_does_not_count() {
    let cilium = kind("ciliumnetworkpolicies.cilium.io");
    let feed = Feed::OtherPolicies(cilium);
    let mut facts = cluster();
    facts.set_served_kinds([cilium]);
    facts.start_list(feed);
    facts.apply(
        feed,
        other(cilium.resource(), Some("shop"), json!({"egress": []})),
    );
    facts.delete(feed, &ObjectKey::new("shop", "p"));
    facts.finish_list(feed);
    assert_eq!(verdicts(&mut facts), ClientVerdicts::default());
}

/// A watch broke off. Before the next list, all objects were replaced by objects with other names.
#[test]
fn a_list_that_replaces_every_object_is_complete() {
    let cilium = kind("ciliumnetworkpolicies.cilium.io");
    let feed = Feed::OtherPolicies(cilium);
    let mut facts = cluster();
    facts.set_served_kinds([cilium]);
    for (prefix, namespace) in [("a", "elsewhere"), ("b", "shop")] {
        facts.start_list(feed);
        for number in 0..MAX_OBJECTS {
            let name = format!("{prefix}{number}");
            // Only the last object of the second list applies to the pod.
            let namespace = if number + 1 == MAX_OBJECTS {
                namespace
            } else {
                "elsewhere"
            };
            let object = object(Some(namespace), &name, json!({"egress": []}));
            facts.apply(
                feed,
                Fact::OtherPolicy(OtherPolicy::from_object(cilium, &object).unwrap()),
            );
        }
        facts.finish_list(feed);
    }
    assert_eq!(left_out_pods(&mut facts), ["shop/web"]);
    let (_, reason) = &left_out(&mut facts)[0];
    assert!(reason.contains("shop/b9999"), "{reason}");
}

#[test]
fn calico_copies_of_network_policies_are_ignored() {
    let calico = kind("networkpolicies.projectcalico.org");
    let calico_policy = |name: &str| {
        let object = object(Some("shop"), name, json!({"types": ["Egress"]}));
        Fact::OtherPolicy(OtherPolicy::from_object(calico, &object).unwrap())
    };
    let open = super::policy("out", json!({"podSelector": {}, "egress": [{}]}));
    let mut facts = cluster();
    facts.insert(super::fact(open));
    facts.insert(calico_policy("knp.default.out"));
    assert_eq!(left_out_pods(&mut facts), [] as [&str; 0]);
    // No known NetworkPolicy has this name.
    facts.insert(calico_policy("knp.default.other"));
    assert_eq!(left_out_pods(&mut facts), ["shop/web"]);
}

#[test]
fn every_kind_has_a_group_and_is_listed_once() {
    let mut resources: Vec<_> = PolicyKind::all().map(PolicyKind::resource).collect();
    let count = resources.len();
    resources.sort_unstable();
    resources.dedup();
    assert_eq!(resources.len(), count, "a resource is listed twice");
    for kind in PolicyKind::all() {
        assert!(
            kind.group().contains('.'),
            "the group of {kind:?} has no dot"
        );
        assert!(!kind.plural().is_empty(), "{kind:?} has no plural");
        // The version doesn't matter.
        let version = format!("{}/v9", kind.group());
        assert_eq!(PolicyKind::from_api(&version, kind.name()), Some(kind));
    }
    assert_eq!(
        PolicyKind::from_api("networking.k8s.io/v1", "NetworkPolicy"),
        None
    );
    assert_eq!(PolicyKind::from_api("v1", "NetworkPolicy"), None);
}

#[test]
fn an_object_without_a_name_is_an_error() {
    let cilium = kind("ciliumnetworkpolicies.cilium.io");
    assert!(OtherPolicy::from_object(cilium, &json!({"metadata": {}})).is_err());
    // A missing namespace is no error.
    let object = object(None, "p", json!({"egress": []}));
    assert_eq!(
        OtherPolicy::from_object(cilium, &object).unwrap().effect,
        PolicyEffect::Possible(Reach::Both)
    );
}

/// The RBAC files of the manifests and of the chart.
const CLUSTER_ROLES: [&str; 2] = [
    include_str!("../../../../../deploy/kustomize/rbac.yaml"),
    include_str!("../../../../../deploy/helm/zerohop/templates/rbac.yaml"),
];

#[test]
fn the_agent_has_the_right_to_list_and_watch_every_kind() {
    #[derive(Deserialize)]
    struct ClusterRole {
        rules: Vec<ClusterRoleRule>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct ClusterRoleRule {
        api_groups: Vec<String>,
        resources: Vec<String>,
        verbs: Vec<String>,
    }
    // The first document of both files is the ClusterRole. Only its metadata differs.
    let rules = CLUSTER_ROLES.map(|text| {
        let text = text.split("---").next().unwrap();
        &text[text.find("rules:").unwrap()..]
    });
    assert_eq!(rules[0], rules[1], "manifest (left) and chart (right)");
    let ClusterRole { rules } = serde_saphyr::from_str(rules[0]).unwrap();
    let mut granted = BTreeSet::new();
    for rule in &rules {
        let verbs = match &*rule.resources {
            [tiers] if tiers == "tiers" => &["get"][..],
            _ => &["list", "watch"],
        };
        assert_eq!(rule.verbs, verbs, "the verbs for {:?}", rule.resources);
        for group in &rule.api_groups {
            let resources = rule.resources.iter();
            granted.extend(resources.map(|resource| format!("{resource}.{group}")));
        }
    }
    let is_other_resource = |resource: &String| {
        let others = [
            "namespaces.",
            "pods.",
            "services.",
            "endpointslices.discovery.k8s.io",
            "networkpolicies.networking.k8s.io",
            // Calico's API server requires these rights in addition to those on its policies.
            "tiers.projectcalico.org",
            "tier.globalnetworkpolicies.projectcalico.org",
            "tier.networkpolicies.projectcalico.org",
        ];
        others.contains(&&**resource)
    };
    granted.retain(|resource| !is_other_resource(resource));
    let kinds = PolicyKind::all().map(|kind| kind.resource().to_owned());
    assert_eq!(granted, kinds.collect(), "rights (left) and kinds (right)");
}
