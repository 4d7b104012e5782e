//! Which kinds of policies the API serves.

use std::{collections::BTreeMap, time::Duration};

use kube::Client;
use serde_json::{Value, json};
use tokio::{sync::mpsc, time::Instant};

use super::fake::{Asked, FakeApi};
use crate::source::{
    Feed,
    kubernetes::{Discovery, State, discovery::PAUSE},
};

/// An API server that is asked for its groups, and what is made of its answers.
struct Asking {
    api: FakeApi,
    kinds: mpsc::Receiver<crate::source::kubernetes::ServedKinds>,
    discovery: Discovery,
}

impl Asking {
    fn new() -> Asking {
        let (router, api) = FakeApi::new();
        let (sender, kinds) = mpsc::channel(1);
        let client = Client::new(router, "default");
        Asking {
            api,
            kinds,
            discovery: Discovery::start(client, Duration::ZERO, sender),
        }
    }

    /// Answers the next request, which must be for this path.
    async fn answer(&mut self, path: &str, document: &Value) -> Instant {
        let asked = self.next(path).await;
        let at = asked.at;
        asked.document(document);
        at
    }

    async fn next(&mut self, path: &str) -> Asked {
        let asked = self.api.next().await;
        assert_eq!(asked.path, path);
        asked
    }

    /// The kinds that were told last: each resource with its version.
    async fn told(&mut self) -> BTreeMap<&'static str, String> {
        let kinds = self.kinds.recv().await.unwrap().into_iter();
        kinds
            .map(|(kind, version)| (kind.resource(), version))
            .collect()
    }
}

fn groups(groups: &[(&str, &[&str])]) -> Value {
    let groups = groups.iter().map(|(name, versions)| {
        let versions: Vec<_> = versions
            .iter()
            .map(|version| json!({"groupVersion": format!("{name}/{version}"), "version": version}))
            .collect();
        json!({"name": name, "versions": versions, "preferredVersion": versions[0]})
    });
    json!({"kind": "APIGroupList", "groups": groups.collect::<Vec<_>>()})
}

fn resources(names: &[&str]) -> Value {
    let names = names.iter().map(|name| json!({"name": name}));
    json!({"kind": "APIResourceList", "resources": names.collect::<Vec<_>>()})
}

fn kinds(list: &[(&'static str, &str)]) -> BTreeMap<&'static str, String> {
    let list = list.iter();
    list.map(|(resource, version)| (*resource, (*version).to_owned()))
        .collect()
}

#[tokio::test(start_paused = true)]
async fn groups_that_come_and_go_are_noticed_within_a_minute() {
    let mut asking = Asking::new();
    let plain = groups(&[("apps", &["v1"]), ("networking.k8s.io", &["v1"])]);
    let mut last = asking.answer("/apis", &plain).await;
    assert_eq!(asking.told().await, kinds(&[]));

    let policies = groups(&[("policy.networking.k8s.io", &["v1alpha2", "v1alpha1"])]);
    let at = asking.answer("/apis", &policies).await;
    assert!(
        (PAUSE..=2 * PAUSE).contains(&(at - last)),
        "{:?}",
        at - last
    );
    assert_eq!(
        PAUSE,
        Duration::from_secs(30),
        "docs/network-policy.md says so"
    );
    // Each kind is read in the first version that has it.
    let both = ["clusternetworkpolicies", "clusternetworkpolicies/status"];
    asking
        .answer("/apis/policy.networking.k8s.io/v1alpha2", &resources(&both))
        .await;
    let older = ["adminnetworkpolicies", "clusternetworkpolicies"];
    asking
        .answer(
            "/apis/policy.networking.k8s.io/v1alpha1",
            &resources(&older),
        )
        .await;
    assert_eq!(
        asking.told().await,
        kinds(&[
            ("adminnetworkpolicies.policy.networking.k8s.io", "v1alpha1"),
            (
                "clusternetworkpolicies.policy.networking.k8s.io",
                "v1alpha2"
            ),
        ])
    );

    // The same again is not told; that they are gone is.
    for _ in 0..3 {
        last = asking.answer("/apis", &policies).await;
        asking
            .answer("/apis/policy.networking.k8s.io/v1alpha2", &resources(&both))
            .await;
        asking
            .answer(
                "/apis/policy.networking.k8s.io/v1alpha1",
                &resources(&older),
            )
            .await;
    }
    let at = asking.answer("/apis", &plain).await;
    assert!(at - last <= 2 * PAUSE, "{:?}", at - last);
    assert!(asking.kinds.try_recv().is_err(), "missing once");
    asking.answer("/apis", &plain).await;
    assert_eq!(asking.told().await, kinds(&[]));
}

/// An API server that has just started says for a moment that it has no CustomResourceDefinitions.
#[tokio::test(start_paused = true)]
async fn a_group_that_is_missing_once_has_not_gone() {
    let mut asking = Asking::new();
    let (plain, cilium) = (
        groups(&[("apps", &["v1"])]),
        groups(&[("apps", &["v1"]), ("cilium.io", &["v2"])]),
    );
    let there = resources(&["ciliumnetworkpolicies"]);
    for _ in 0..2 {
        asking.answer("/apis", &cilium).await;
        asking.answer("/apis/cilium.io/v2", &there).await;
        asking.answer("/apis", &plain).await;
    }
    asking.answer("/apis", &plain).await;
    let policies = [("ciliumnetworkpolicies.cilium.io", "v2")];
    assert_eq!(asking.told().await, kinds(&policies));
    assert_eq!(asking.told().await, kinds(&[]));
}

#[tokio::test(start_paused = true)]
async fn of_a_group_that_does_not_say_what_it_has_all_kinds_may_be_there() {
    let mut asking = Asking::new();
    let calico = groups(&[("projectcalico.org", &["v3"]), ("cilium.io", &["v2"])]);
    asking.answer("/apis", &calico).await;
    let asked = asking.next("/apis/projectcalico.org/v3").await;
    asked.refuse(503, "ServiceUnavailable", "its API server is away");
    // It has gone since.
    let asked = asking.next("/apis/cilium.io/v2").await;
    asked.refuse(404, "NotFound", "no such group");
    assert_eq!(
        asking.told().await,
        kinds(&[
            ("globalnetworkpolicies.projectcalico.org", "v3"),
            ("networkpolicies.projectcalico.org", "v3"),
        ])
    );
}

#[tokio::test(start_paused = true)]
async fn nothing_is_told_before_the_api_has_answered() {
    let mut asking = Asking::new();
    let asked = asking.next("/apis").await;
    asked.refuse(403, "Forbidden", "not you");
    let asked = asking.next("/apis").await;
    let health = || asking.discovery.health().feeds()[&Feed::PolicyKinds].clone();
    let State::Retrying { error } = health().state else {
        panic!("{:?}", health());
    };
    assert!(error.contains("which groups it serves: not you"), "{error}");
    assert_eq!(health().heard, None);
    assert!(asking.kinds.try_recv().is_err());
    // Something else than groups is no answer either.
    asked.document(&json!({"kind": "List", "items": []}));
    asking.answer("/apis", &groups(&[("apps", &["v1"])])).await;
    assert_eq!(asking.told().await, kinds(&[]));
    let health = asking.discovery.health().feeds()[&Feed::PolicyKinds].clone();
    assert_eq!(health.state, State::Watching);
    assert!(health.heard.is_some());
}
