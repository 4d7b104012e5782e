//! Discovery of the kinds of policies that the API server serves.

use std::{collections::BTreeMap, time::Duration};

use kube::Client;
use serde_json::{Value, json};
use tokio::{sync::mpsc, time::Instant};
use zerohop_kubernetes::Feed;

use super::fake::{FakeApi, PendingRequest};
use crate::{Discovery, FeedActivity, discovery::POLL_INTERVAL};

/// A running discovery and its fake API server.
struct DiscoverySetup {
    api: FakeApi,
    kinds: mpsc::Receiver<crate::ServedKinds>,
    discovery: Discovery,
}

impl DiscoverySetup {
    fn new() -> DiscoverySetup {
        let (router, api) = FakeApi::new();
        let (sender, kinds) = mpsc::channel(1);
        let client = Client::new(router, "default");
        DiscoverySetup {
            api,
            kinds,
            // Without a delay before the first poll.
            discovery: Discovery::start(client, Duration::ZERO, sender),
        }
    }

    /// Responds to the next request, which must be for this path. Returns when it arrived.
    async fn answer(&mut self, path: &str, document: &Value) -> Instant {
        let request = self.next(path).await;
        let at = request.arrived_at;
        request.respond_with_document(document);
        at
    }

    /// The next request, which must be for this path.
    async fn next(&mut self, path: &str) -> PendingRequest {
        let request = self.api.next_request().await;
        assert_eq!(request.path, path);
        request
    }

    /// The next kinds reported: each resource with its version.
    async fn received(&mut self) -> BTreeMap<&'static str, String> {
        let kinds = self.kinds.recv().await.unwrap().into_iter();
        kinds
            .map(|(kind, version)| (kind.resource(), version))
            .collect()
    }
}

/// The response to `/apis`: groups with their versions, the first of which is preferred.
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

/// The rules of policies can be read in some versions only.
#[tokio::test(start_paused = true)]
async fn a_version_that_can_be_read_is_chosen_before_the_preferred_one() {
    let mut setup = DiscoverySetup::new();
    let group = "policy.networking.k8s.io";
    let policies = groups(&[(group, &["v3", "v1beta1", "v1alpha2"])]);
    setup.answer("/apis", &policies).await;
    for version in ["v3", "v1beta1", "v1alpha2"] {
        let path = format!("/apis/{group}/{version}");
        setup
            .answer(&path, &resources(&["clusternetworkpolicies"]))
            .await;
    }
    let expected = [("clusternetworkpolicies.policy.networking.k8s.io", "v1beta1")];
    assert_eq!(setup.received().await, kinds(&expected));
}

#[tokio::test(start_paused = true)]
async fn added_and_removed_kinds_are_reported() {
    let mut setup = DiscoverySetup::new();
    let plain = groups(&[("apps", &["v1"]), ("networking.k8s.io", &["v1"])]);
    let mut last = setup.answer("/apis", &plain).await;
    assert_eq!(setup.received().await, kinds(&[]));

    let policies = groups(&[("policy.networking.k8s.io", &["v1alpha2", "v1alpha1"])]);
    let at = setup.answer("/apis", &policies).await;
    assert!(
        (POLL_INTERVAL..=2 * POLL_INTERVAL).contains(&(at - last)),
        "polled again after {:?}, not after one to two intervals",
        at - last
    );
    assert_eq!(
        POLL_INTERVAL,
        Duration::from_secs(30),
        "docs/network-policy.md states this interval"
    );
    // Each kind is read in the first version that has it. Subresources such as `…/status` are
    // not kinds.
    let both = ["clusternetworkpolicies", "clusternetworkpolicies/status"];
    setup
        .answer("/apis/policy.networking.k8s.io/v1alpha2", &resources(&both))
        .await;
    let older = ["adminnetworkpolicies", "clusternetworkpolicies"];
    setup
        .answer(
            "/apis/policy.networking.k8s.io/v1alpha1",
            &resources(&older),
        )
        .await;
    assert_eq!(
        setup.received().await,
        kinds(&[
            ("adminnetworkpolicies.policy.networking.k8s.io", "v1alpha1"),
            (
                "clusternetworkpolicies.policy.networking.k8s.io",
                "v1alpha2"
            ),
        ])
    );

    // Unchanged kinds are not reported again, but removed kinds are.
    for _ in 0..3 {
        last = setup.answer("/apis", &policies).await;
        setup
            .answer("/apis/policy.networking.k8s.io/v1alpha2", &resources(&both))
            .await;
        setup
            .answer(
                "/apis/policy.networking.k8s.io/v1alpha1",
                &resources(&older),
            )
            .await;
    }
    let at = setup.answer("/apis", &plain).await;
    assert!(
        at - last <= 2 * POLL_INTERVAL,
        "polled again after {:?}, more than two intervals",
        at - last
    );
    assert!(
        setup.kinds.try_recv().is_err(),
        "a single poll without a kind doesn't remove it"
    );
    setup.answer("/apis", &plain).await;
    assert_eq!(setup.received().await, kinds(&[]));
}

/// An API server that has just started lists no CustomResourceDefinitions for a moment.
#[tokio::test(start_paused = true)]
async fn a_group_that_a_single_poll_lacks_is_not_removed() {
    let mut setup = DiscoverySetup::new();
    let (plain, cilium) = (
        groups(&[("apps", &["v1"])]),
        groups(&[("apps", &["v1"]), ("cilium.io", &["v2"])]),
    );
    let policies_resource = resources(&["ciliumnetworkpolicies"]);
    for _ in 0..2 {
        setup.answer("/apis", &cilium).await;
        setup.answer("/apis/cilium.io/v2", &policies_resource).await;
        setup.answer("/apis", &plain).await;
    }
    setup.answer("/apis", &plain).await;
    let policies = [("ciliumnetworkpolicies.cilium.io", "v2")];
    assert_eq!(setup.received().await, kinds(&policies));
    assert_eq!(setup.received().await, kinds(&[]));
}

#[tokio::test(start_paused = true)]
async fn all_kinds_of_an_unreadable_group_count_as_served() {
    let mut setup = DiscoverySetup::new();
    let served = groups(&[("projectcalico.org", &["v3"]), ("cilium.io", &["v2"])]);
    setup.answer("/apis", &served).await;
    let request = setup.next("/apis/projectcalico.org/v3").await;
    request.refuse(503, "ServiceUnavailable", "its API server is unavailable");
    // This group was removed after `/apis` was read.
    let request = setup.next("/apis/cilium.io/v2").await;
    request.refuse(404, "NotFound", "no such group");
    assert_eq!(
        setup.received().await,
        kinds(&[
            ("globalnetworkpolicies.projectcalico.org", "v3"),
            ("networkpolicies.projectcalico.org", "v3"),
        ])
    );
}

#[tokio::test(start_paused = true)]
async fn nothing_is_reported_before_a_poll_has_succeeded() {
    let mut setup = DiscoverySetup::new();
    let request = setup.next("/apis").await;
    request.refuse(403, "Forbidden", "not you");
    let request = setup.next("/apis").await;
    let health = || setup.discovery.health().feeds()[&Feed::PolicyKinds].clone();
    let FeedActivity::Retrying { error } = health().activity else {
        panic!("the discovery is not retrying: {:?}", health());
    };
    assert!(
        error.contains("which API groups the API server serves: not you"),
        "another error: {error}"
    );
    assert_eq!(health().last_received, None);
    assert!(
        setup.kinds.try_recv().is_err(),
        "kinds were reported, although no poll has succeeded"
    );
    // A document without groups is an error too.
    request.respond_with_document(&json!({"kind": "List", "items": []}));
    setup.answer("/apis", &groups(&[("apps", &["v1"])])).await;
    assert_eq!(setup.received().await, kinds(&[]));
    let health = setup.discovery.health().feeds()[&Feed::PolicyKinds].clone();
    assert_eq!(health.activity, FeedActivity::Watching);
    assert!(health.last_received.is_some());
}
