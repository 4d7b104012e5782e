//! Policies of kinds that are not evaluated.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::{Value, json};

use super::{dns, facts, pod, verdicts, web};
use crate::cluster::{
    Fact, Facts, Feed, Key, OtherPolicy, PolicyKind, Reach, Verdicts, policy::others::MAX_OBJECTS,
};

fn kind(resource: &str) -> PolicyKind {
    let mut all = PolicyKind::all();
    all.find(|kind| kind.resource() == resource)
        .unwrap_or_else(|| panic!("{resource}"))
}

fn object(namespace: Option<&str>, name: &str, spec: Value) -> Value {
    let mut object = json!({"metadata": {"name": name}});
    object["spec"] = spec;
    if let Some(namespace) = namespace {
        object["metadata"]["namespace"] = json!(namespace);
    }
    object
}

fn other(resource: &str, namespace: Option<&str>, spec: Value) -> Fact {
    let object = object(namespace, "p", spec);
    Fact::Other(OtherPolicy::of(kind(resource), &object).unwrap())
}

/// The pods `shop/web` and `lab/db`, and the cluster's DNS.
fn cluster() -> Facts {
    let db = pod("lab", "db", "10.244.0.3", json!({}));
    facts(dns(53).into_iter().chain([web(), db]))
}

/// The pods that are left out, but for those of the DNS, and why.
fn left_out(facts: &Facts) -> Vec<(String, String)> {
    let left_out = verdicts(facts).left_out.into_iter();
    let left_out = left_out.filter(|it| !it.pod.starts_with("kube-system/"));
    left_out.map(|it| (it.pod, it.reason)).collect()
}

fn pods(facts: &Facts) -> Vec<String> {
    left_out(facts).into_iter().map(|(pod, _)| pod).collect()
}

#[test]
fn whom_an_object_keeps_from_being_answered() {
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
        // About the servers.
        (
            "networkpolicies.crd.projectcalico.org",
            Some("kube-system"),
            json!({"types": ["Ingress"]}),
            both,
        ),
        // The whole cluster's.
        (
            "adminnetworkpolicies.policy.networking.k8s.io",
            None,
            json!({"subject": {}, "ingress": []}),
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
        assert_eq!(pods(&facts), left_out, "{resource} {namespace:?} {spec}");
        if left_out.is_empty() {
            assert_eq!(verdicts(&facts), Verdicts::default());
        }
    }
}

#[test]
fn the_object_is_named() {
    let mut facts = cluster();
    let resource = "ciliumnetworkpolicies.cilium.io";
    facts.insert(other(resource, Some("shop"), json!({"egress": []})));
    assert_eq!(
        left_out(&facts),
        [(
            "shop/web".to_owned(),
            "CiliumNetworkPolicy shop/p (cilium.io) may restrict it, and is not evaluated"
                .to_owned()
        )]
    );
    let resource = "clusternetworkpolicies.policy.networking.k8s.io";
    facts.insert(other(resource, None, json!({})));
    let (_, reason) = &left_out(&facts)[0];
    assert_eq!(
        reason,
        "ClusterNetworkPolicy p (policy.networking.k8s.io) may restrict it, and is not evaluated"
    );
}

#[test]
fn with_servers_that_are_not_known_an_object_anywhere_may_be_about_them() {
    let mut objects = dns(53);
    objects.truncate(4);
    let mut facts = facts(objects.into_iter().chain([web()]));
    assert_eq!(pods(&facts), [] as [&str; 0]);
    let resource = "ciliumnetworkpolicies.cilium.io";
    facts.insert(other(resource, Some("elsewhere"), json!({"ingress": []})));
    assert_eq!(pods(&facts), ["shop/web"]);
}

#[test]
fn until_a_kind_has_been_listed_nothing_is_known_of_it() {
    let cilium = kind("ciliumnetworkpolicies.cilium.io");
    let feed = Feed::OtherPolicies(cilium);
    let mut facts = cluster();
    facts.discovered([]);
    assert_eq!(verdicts(&facts), Verdicts::default());
    facts.discovered([cilium]);
    let everybody = ["lab/db", "shop/web"];
    assert_eq!(pods(&facts), everybody);
    let (_, reason) = &left_out(&facts)[0];
    assert!(
        reason.contains("serves ciliumnetworkpolicies.cilium.io"),
        "{reason}"
    );

    facts.listing(feed);
    facts.apply(
        feed,
        other(cilium.resource(), Some("shop"), json!({"egress": []})),
    );
    assert_eq!(pods(&facts), everybody);
    assert!(facts.listed(feed));
    assert_eq!(pods(&facts), ["shop/web"]);

    // What can't be read may be about anybody in its namespace, and about everybody without one.
    facts.unusable(feed, Key::new("lab", "bad"));
    assert_eq!(pods(&facts), everybody);
    facts.delete(feed, &Key::new("shop", "p"));
    assert_eq!(pods(&facts), ["lab/db"]);
    facts.unusable(feed, Key::new("", ""));
    assert_eq!(pods(&facts), everybody);

    // The group goes, and comes back.
    facts.discovered([]);
    assert_eq!(verdicts(&facts), Verdicts::default());
    facts.apply(
        feed,
        other(cilium.resource(), Some("shop"), json!({"egress": []})),
    );
    assert_eq!(verdicts(&facts), Verdicts::default());
    facts.discovered([cilium]);
    assert_eq!(pods(&facts), everybody);
}

#[test]
fn beyond_the_bound_nobody_is_answered() {
    let cilium = kind("ciliumnetworkpolicies.cilium.io");
    let feed = Feed::OtherPolicies(cilium);
    let numbered = |number: usize| {
        let object = object(
            Some("elsewhere"),
            &format!("p{number}"),
            json!({"ingress": []}),
        );
        Fact::Other(OtherPolicy::of(cilium, &object).unwrap())
    };
    let mut facts = cluster();
    facts.discovered([cilium]);
    let list = |facts: &mut Facts, count: usize| {
        facts.listing(feed);
        for number in 0..count {
            facts.apply(feed, numbered(number));
        }
        facts.listed(feed);
    };
    list(&mut facts, MAX_OBJECTS);
    assert_eq!(verdicts(&facts), Verdicts::default());
    // One more, and the same again.
    facts.apply(feed, numbered(0));
    assert_eq!(verdicts(&facts), Verdicts::default());
    facts.apply(feed, numbered(MAX_OBJECTS));
    assert_eq!(pods(&facts), ["lab/db", "shop/web"]);
    let (_, reason) = &left_out(&facts)[0];
    assert!(
        reason.contains("more than 10000 ciliumnetworkpolicies.cilium.io"),
        "{reason}"
    );
    list(&mut facts, MAX_OBJECTS + 5);
    assert_eq!(pods(&facts), ["lab/db", "shop/web"]);
    list(&mut facts, MAX_OBJECTS);
    assert_eq!(verdicts(&facts), Verdicts::default());
}

#[test]
fn what_goes_while_a_list_goes_on_is_missed_by_nothing() {
    let cilium = kind("ciliumnetworkpolicies.cilium.io");
    let feed = Feed::OtherPolicies(cilium);
    let mut facts = cluster();
    facts.discovered([cilium]);
    facts.listing(feed);
    facts.apply(
        feed,
        other(cilium.resource(), Some("shop"), json!({"egress": []})),
    );
    facts.delete(feed, &Key::new("shop", "p"));
    facts.listed(feed);
    assert_eq!(verdicts(&facts), Verdicts::default());
}

/// A watch broke, and meanwhile all objects were made anew under other names.
#[test]
fn a_list_of_other_objects_is_known_whole() {
    let cilium = kind("ciliumnetworkpolicies.cilium.io");
    let feed = Feed::OtherPolicies(cilium);
    let mut facts = cluster();
    facts.discovered([cilium]);
    for (prefix, namespace) in [("a", "elsewhere"), ("b", "shop")] {
        facts.listing(feed);
        for number in 0..MAX_OBJECTS {
            let name = format!("{prefix}{number}");
            // The last one is about the pod.
            let namespace = match number + 1 == MAX_OBJECTS {
                true => namespace,
                false => "elsewhere",
            };
            let object = object(Some(namespace), &name, json!({"egress": []}));
            facts.apply(feed, Fact::Other(OtherPolicy::of(cilium, &object).unwrap()));
        }
        facts.listed(feed);
    }
    assert_eq!(pods(&facts), ["shop/web"]);
    let (_, reason) = &left_out(&facts)[0];
    assert!(reason.contains("shop/b9999"), "{reason}");
}

#[test]
fn what_calico_repeats_of_kubernetes_is_evaluated_already() {
    let calico = kind("networkpolicies.projectcalico.org");
    let shown = |name: &str| {
        let object = object(Some("shop"), name, json!({"types": ["Egress"]}));
        Fact::Other(OtherPolicy::of(calico, &object).unwrap())
    };
    let open = super::policy("out", json!({"podSelector": {}, "egress": [{}]}));
    let mut facts = cluster();
    facts.insert(super::fact(open));
    facts.insert(shown("knp.default.out"));
    assert_eq!(pods(&facts), [] as [&str; 0]);
    // It repeats no policy that is known.
    facts.insert(shown("knp.default.other"));
    assert_eq!(pods(&facts), ["shop/web"]);
}

#[test]
fn every_kind_has_a_group_and_is_there_once() {
    let mut resources: Vec<_> = PolicyKind::all().map(PolicyKind::resource).collect();
    let count = resources.len();
    resources.sort_unstable();
    resources.dedup();
    assert_eq!(resources.len(), count);
    for kind in PolicyKind::all() {
        assert!(kind.group().contains('.'), "{kind:?}");
        assert!(!kind.plural().is_empty(), "{kind:?}");
        let version = format!("{}/v9", kind.group());
        assert_eq!(PolicyKind::of(&version, kind.name()), Some(kind));
    }
    assert_eq!(
        PolicyKind::of("networking.k8s.io/v1", "NetworkPolicy"),
        None
    );
    assert_eq!(PolicyKind::of("v1", "NetworkPolicy"), None);
}

#[test]
fn an_object_without_a_name_is_told_as_wrong() {
    let cilium = kind("ciliumnetworkpolicies.cilium.io");
    assert!(OtherPolicy::of(cilium, &json!({"metadata": {}})).is_err());
    let object = object(None, "p", json!({"egress": []}));
    assert_eq!(OtherPolicy::of(cilium, &object).unwrap().reach, Reach::Both);
}

/// The ClusterRole's rules in the manifests, and in the chart.
const RIGHTS: [&str; 2] = [
    include_str!("../../../../../deploy/kustomize/rbac.yaml"),
    include_str!("../../../../../deploy/helm/zerohop/templates/rbac.yaml"),
];

#[test]
fn the_agent_has_the_right_to_list_and_watch_every_kind() {
    #[derive(Deserialize)]
    struct Role {
        rules: Vec<Rights>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Rights {
        api_groups: Vec<String>,
        resources: Vec<String>,
        verbs: Vec<String>,
    }
    let rules = RIGHTS.map(|text| {
        let text = text.split("---").next().unwrap();
        &text[text.find("rules:").unwrap()..]
    });
    assert_eq!(rules[0], rules[1]);
    let Role { rules } = serde_saphyr::from_str(rules[0]).unwrap();
    let mut granted = BTreeSet::new();
    for rule in &rules {
        let verbs = match &*rule.resources {
            [tiers] if tiers == "tiers" => &["get"][..],
            _ => &["list", "watch"],
        };
        assert_eq!(rule.verbs, verbs, "{:?}", rule.resources);
        for group in &rule.api_groups {
            let resources = rule.resources.iter();
            granted.extend(resources.map(|resource| format!("{resource}.{group}")));
        }
    }
    let is_another = |resource: &String| {
        let others = [
            "namespaces.",
            "pods.",
            "services.",
            "endpointslices.discovery.k8s.io",
            "networkpolicies.networking.k8s.io",
            // What Calico's API server asks for beside the right to its policies.
            "tiers.projectcalico.org",
            "tier.globalnetworkpolicies.projectcalico.org",
            "tier.networkpolicies.projectcalico.org",
        ];
        others.contains(&&**resource)
    };
    granted.retain(|resource| !is_another(resource));
    let kinds = PolicyKind::all().map(|kind| kind.resource().to_owned());
    assert_eq!(granted, kinds.collect());
}
