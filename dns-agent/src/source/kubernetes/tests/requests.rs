//! What the source as a whole asks for.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::{Instant, sleep, timeout_at};

use super::{
    super::{Endpoints, Kubernetes, Options, PodScope, PolicyScope, Requests, ServedKinds},
    *,
};
use crate::cluster::{Labels, PolicyKind, Selectors};

/// How often each selection was listed and watched.
type Counts = BTreeMap<String, (u64, u64)>;

/// Runs a source for a while, next to an API server that has no objects, sends a bookmark a minute, and ends
/// watches when it shall.
async fn run(options: &Options, time: Duration) -> (Counts, Arc<Health>) {
    let start = |client, sender| Kubernetes::start(client, options, sender);
    run_started(start, time).await
}

async fn run_started(
    start: impl FnOnce(Client, mpsc::Sender<Event>) -> Kubernetes,
    time: Duration,
) -> (Counts, Arc<Health>) {
    let (router, mut api) = FakeApi::new();
    let (sender, mut events) = mpsc::channel(64);
    let source = start(Client::new(router, "default"), sender);
    let mut counts = Counts::new();
    let end = Instant::now() + time;
    api.next().await.refuse(404, "NotFound", "no version");
    while let Ok(asked) = timeout_at(end, api.next()).await {
        let selectors = ["labelSelector", "fieldSelector"]
            .into_iter()
            .filter_map(|name| asked.get(name).map(|value| format!(" {name}: {value}")));
        let selection: String = [asked.path.clone()].into_iter().chain(selectors).collect();
        let (lists, watches) = counts.entry(selection).or_default();
        let Some(seconds) = asked.get("timeoutSeconds") else {
            *lists += 1;
            asked.list("7", &[]);
            continue;
        };
        *watches += 1;
        let watch_end = Instant::now() + Duration::from_secs(seconds.parse().unwrap());
        let body = asked.open();
        tokio::spawn(async move {
            while Instant::now() + Duration::from_secs(60) < watch_end {
                sleep(Duration::from_secs(60)).await;
                body.event(("BOOKMARK", bookmark("7"))).await;
            }
            tokio::time::sleep_until(watch_end).await;
        });
        while events.try_recv().is_ok() {}
    }
    let health = source.health();
    (counts, health)
}

async fn selections(options: &Options) -> Vec<String> {
    let (counts, _) = run(options, Duration::from_secs(10)).await;
    for (selection, count) in &counts {
        assert_eq!(*count, (1, 1), "{selection}");
    }
    counts.into_keys().collect()
}

#[tokio::test(start_paused = true)]
async fn after_the_first_lists_there_are_only_watches() {
    let options = Options {
        dns: Some(key("kube-system", "kube-dns")),
        pods: Some(PodScope::Node("node-1".into())),
        ..Options::default()
    };
    let (counts, health) = run(&options, Duration::from_secs(3600)).await;
    assert_eq!(counts.len(), 4);
    for (selection, (lists, watches)) in &counts {
        assert_eq!(*lists, 1, "{selection}");
        assert!((6..=12).contains(watches), "{selection}: {watches}");
    }
    let watches = counts.values().map(|(_, watches)| watches).sum();
    let requests = Requests {
        list: 4,
        watch: watches,
        get: 1,
    };
    assert_eq!(health.requests(), requests);
    assert!(
        health.age() <= Some(Duration::from_secs(120)),
        "{:?}",
        health.age()
    );
    println!("{requests:?} in an hour");
}

#[tokio::test(start_paused = true)]
async fn without_headless_services_no_slices_are_asked_for() {
    let options = Options {
        dns: Some(key("kube-system", "kube-dns")),
        pods: Some(PodScope::Node("node-1".into())),
        ..Options::default()
    };
    assert_eq!(
        selections(&options).await,
        [
            "/api/v1/namespaces",
            "/api/v1/pods fieldSelector: spec.nodeName=node-1",
            "/api/v1/services",
            "/apis/discovery.k8s.io/v1/namespaces/kube-system/endpointslices \
         labelSelector: kubernetes.io/service-name=kube-dns",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn of_config_maps_one_alone_is_asked_for() {
    let corefile = key("kube-system", "coredns");
    let start = |client, sender| Kubernetes::start_corefile(client, &corefile, sender);
    let (counts, _) = run_started(start, Duration::from_secs(10)).await;
    let asked: Vec<_> = counts.into_keys().collect();
    assert_eq!(
        asked,
        ["/api/v1/namespaces/kube-system/configmaps fieldSelector: metadata.name=coredns"]
    );
}

#[tokio::test(start_paused = true)]
async fn all_endpoints_are_one_feed() {
    let options = Options {
        endpoints: Endpoints::All,
        dns: Some(key("kube-system", "kube-dns")),
        pods: Some(PodScope::All),
        ..Options::default()
    };
    assert_eq!(
        selections(&options).await,
        [
            "/api/v1/namespaces",
            "/api/v1/pods",
            "/api/v1/services",
            "/apis/discovery.k8s.io/v1/endpointslices",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn the_operators_selectors_come_on_top() {
    let options = Options {
        selectors: Selectors {
            namespaces: "team in (a,b)".parse().unwrap(),
            objects: "app=web,!hidden".parse().unwrap(),
        },
        dns: Some(key("kube-system", "kube-dns")),
        pods: Some(PodScope::Node("node-1".into())),
        ..Options::default()
    };
    assert_eq!(
        selections(&options).await,
        [
            "/api/v1/namespaces labelSelector: team in (a,b)",
            "/api/v1/pods labelSelector: app=web,!hidden fieldSelector: spec.nodeName=node-1",
            "/api/v1/services labelSelector: app=web,!hidden",
            "/apis/discovery.k8s.io/v1/namespaces/kube-system/endpointslices \
         labelSelector: kubernetes.io/service-name=kube-dns",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn the_first_lists_are_spread() {
    let options = Options {
        endpoints: Endpoints::All,
        first_list_jitter: Duration::from_secs(60),
        ..Options::default()
    };
    let mut waits = Vec::new();
    for _ in 0..10 {
        let (router, mut api) = FakeApi::new();
        let (sender, _events) = mpsc::channel(64);
        let _source = Kubernetes::start(Client::new(router, "default"), &options, sender);
        let start = Instant::now();
        api.next().await.refuse(404, "NotFound", "no version");
        let mut unanswered = Vec::new();
        for _ in 0..3 {
            unanswered.push(api.next().await);
        }
        waits.extend(unanswered.iter().map(|list| list.at - start));
    }
    assert!(
        waits
            .iter()
            .all(|wait| *wait <= Duration::from_millis(60_500))
    );
    assert!(waits.iter().any(|wait| *wait < Duration::from_secs(20)));
    assert!(waits.iter().any(|wait| *wait > Duration::from_secs(40)));
}

#[tokio::test(start_paused = true)]
async fn what_says_who_may_ask() {
    let dns = key("kube-system", "kube-dns");
    for (node, pods) in [
        (None, None),
        (
            Some("node-1"),
            Some("/api/v1/pods fieldSelector: spec.nodeName=node-1"),
        ),
    ] {
        let scope = PolicyScope {
            node: node.map(str::to_owned),
            dns: dns.clone(),
        };
        let start =
            |client, sender| Kubernetes::start_policies(client, &scope, Duration::ZERO, sender);
        let (counts, _) = run_started(start, Duration::from_secs(10)).await;
        let mut wanted = vec![
            "/api/v1/namespaces fieldSelector: metadata.name=kube-system",
            "/api/v1/namespaces/kube-system/services fieldSelector: metadata.name=kube-dns",
            "/apis/discovery.k8s.io/v1/namespaces/kube-system/endpointslices labelSelector: kubernetes.io/service-name=kube-dns",
            "/apis/networking.k8s.io/v1/networkpolicies",
        ];
        wanted.extend(pods);
        wanted.sort_unstable();
        assert_eq!(counts.into_keys().collect::<Vec<_>>(), wanted);
    }

    let labels = Labels::from(
        [("a", "b"), ("k8s-app", "kube-dns")].map(|(key, value)| (key.into(), value.into())),
    );
    let start = |client, sender| Kubernetes::start_dns_pods(client, "kube-system", &labels, sender);
    let (counts, _) = run_started(start, Duration::from_secs(10)).await;
    let asked: Vec<_> = counts.into_keys().collect();
    assert_eq!(
        asked,
        ["/api/v1/namespaces/kube-system/pods labelSelector: a=b,k8s-app=kube-dns"]
    );
}

#[tokio::test(start_paused = true)]
async fn policies_that_are_not_evaluated_are_listed_plainly() {
    let mut kinds = PolicyKind::all();
    let kind = kinds.find(|kind| kind.resource() == "networkpolicies.projectcalico.org");
    let kinds = ServedKinds::from([(kind.unwrap(), "v3".to_owned())]);
    let (router, mut api) = FakeApi::new();
    let (sender, _events) = mpsc::channel(64);
    let client = Client::new(router, "default");
    let _source = Kubernetes::start_other_policies(client, &kinds, sender);
    // Not even the version of the API server matters.
    let asked = api.next().await;
    assert_eq!(asked.path, "/apis/projectcalico.org/v3/networkpolicies");
    assert_eq!(asked.get("watch"), None);
    assert_eq!(
        asked.get("labelSelector").or(asked.get("fieldSelector")),
        None
    );
    asked.list("7", &[]);
    let asked = api.next().await;
    assert_eq!(asked.get("watch"), Some("true"));
    assert_eq!(asked.get("resourceVersion"), Some("7"));
}
