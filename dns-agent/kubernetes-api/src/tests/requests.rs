//! The requests that a source sends.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::{Instant, sleep, timeout_at};
use zerohop_kubernetes::{Labels, PolicyKind, Selectors};

use super::{
    super::{
        EndpointScope, KubernetesSource, PodScope, PolicyScope, RequestCounts, ServedKinds,
        SourceOptions,
    },
    *,
};

/// Numbers of lists and watches of each selection. A selection is a path and its selectors, as
/// text.
type SelectionCounts = BTreeMap<String, (u64, u64)>;

/// Runs a source for some time against an API server without objects. The API server sends a
/// bookmark a minute, and ends watches at their timeout.
async fn count_requests(
    options: &SourceOptions,
    time: Duration,
) -> (SelectionCounts, Arc<SourceHealth>) {
    let start = |client, sender| KubernetesSource::start(client, options, sender);
    count_requests_of(start, time).await
}

/// Runs the source that `start` starts, like [`count_requests`].
async fn count_requests_of(
    start: impl FnOnce(Client, mpsc::Sender<ReceivedEvent>) -> KubernetesSource,
    time: Duration,
) -> (SelectionCounts, Arc<SourceHealth>) {
    let (router, mut api) = FakeApi::new();
    let (sender, mut events) = mpsc::channel(64);
    let source = start(Client::new(router, "default"), sender);
    let mut counts = SelectionCounts::new();
    let end = Instant::now() + time;
    // Refuses the request for the version, so that the source requests plain lists.
    api.next_request()
        .await
        .refuse(404, "NotFound", "no version");
    while let Ok(request) = timeout_at(end, api.next_request()).await {
        let selectors = ["labelSelector", "fieldSelector"]
            .into_iter()
            .filter_map(|name| {
                request
                    .parameter(name)
                    .map(|value| format!(" {name}: {value}"))
            });
        let selection: String = [request.path.clone()]
            .into_iter()
            .chain(selectors)
            .collect();
        let (lists, watches) = counts.entry(selection).or_default();
        // Only watches have this parameter.
        let Some(seconds) = request.parameter("timeoutSeconds") else {
            *lists += 1;
            request.respond_with_list("7", &[]);
            continue;
        };
        *watches += 1;
        let watch_end = Instant::now() + Duration::from_secs(seconds.parse().unwrap());
        let body = request.start_body();
        tokio::spawn(async move {
            while Instant::now() + Duration::from_secs(60) < watch_end {
                sleep(Duration::from_secs(60)).await;
                body.send_event(("BOOKMARK", bookmark("7"))).await;
            }
            tokio::time::sleep_until(watch_end).await;
        });
        // The source would stop at a full channel.
        while events.try_recv().is_ok() {}
    }
    let health = source.health();
    (counts, health)
}

/// The selections that a source requests. Each is listed once and watched once.
async fn requested_selections(options: &SourceOptions) -> Vec<String> {
    let (counts, _) = count_requests(options, Duration::from_secs(10)).await;
    for (selection, count) in &counts {
        assert_eq!(*count, (1, 1), "lists and watches of {selection}");
    }
    counts.into_keys().collect()
}

#[tokio::test(start_paused = true)]
async fn after_the_first_lists_there_are_only_watches() {
    let options = SourceOptions {
        dns: Some(key("kube-system", "kube-dns")),
        pods: Some(PodScope::Node("node-1".into())),
        ..SourceOptions::default()
    };
    let (counts, health) = count_requests(&options, Duration::from_secs(3600)).await;
    // Namespaces, Services, the slices of the cluster's DNS, and Pods.
    assert_eq!(counts.len(), 4, "{counts:?}");
    for (selection, (lists, watches)) in &counts {
        assert_eq!(*lists, 1, "lists of {selection}");
        // Each watch lasts 5 to 10 minutes.
        assert!(
            (6..=12).contains(watches),
            "{selection}: {watches} watches in an hour, not 6 to 12"
        );
    }
    let watches = counts.values().map(|(_, watches)| watches).sum();
    let request_counts = RequestCounts {
        list: 4,
        watch: watches,
        get: 1,
    };
    assert_eq!(health.requests(), request_counts);
    // The last bookmark of a watch comes up to 60 s before its end, and the first one of the next
    // watch 60 s after that end.
    assert!(
        health.age() <= Some(Duration::from_secs(120)),
        "the age is {:?}, more than 120 s",
        health.age()
    );
    println!("{request_counts:?} in an hour");
}

#[tokio::test(start_paused = true)]
async fn without_headless_services_no_slices_are_requested() {
    let options = SourceOptions {
        dns: Some(key("kube-system", "kube-dns")),
        pods: Some(PodScope::Node("node-1".into())),
        ..SourceOptions::default()
    };
    assert_eq!(
        requested_selections(&options).await,
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
async fn only_the_corefiles_config_map_is_requested() {
    let corefile = key("kube-system", "coredns");
    let start = |client, sender| KubernetesSource::start_config_map(client, &corefile, sender);
    let (counts, _) = count_requests_of(start, Duration::from_secs(10)).await;
    let request: Vec<_> = counts.into_keys().collect();
    assert_eq!(
        request,
        ["/api/v1/namespaces/kube-system/configmaps fieldSelector: metadata.name=coredns"]
    );
}

#[tokio::test(start_paused = true)]
async fn all_endpoint_slices_are_requested_at_once() {
    let options = SourceOptions {
        endpoints: EndpointScope::All,
        dns: Some(key("kube-system", "kube-dns")),
        pods: Some(PodScope::All),
        ..SourceOptions::default()
    };
    assert_eq!(
        requested_selections(&options).await,
        [
            "/api/v1/namespaces",
            "/api/v1/pods",
            "/api/v1/services",
            "/apis/discovery.k8s.io/v1/endpointslices",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn the_requests_have_the_operators_selectors() {
    let options = SourceOptions {
        selectors: Selectors {
            namespaces: "team in (a,b)".parse().unwrap(),
            objects: "app=web,!hidden".parse().unwrap(),
        },
        dns: Some(key("kube-system", "kube-dns")),
        pods: Some(PodScope::Node("node-1".into())),
        ..SourceOptions::default()
    };
    assert_eq!(
        requested_selections(&options).await,
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
async fn the_first_lists_are_spread_over_time() {
    let options = SourceOptions {
        endpoints: EndpointScope::All,
        first_list_jitter: Duration::from_secs(60),
        ..SourceOptions::default()
    };
    let mut waits = Vec::new();
    for _ in 0..10 {
        let (router, mut api) = FakeApi::new();
        let (sender, _events) = mpsc::channel(64);
        let _source = KubernetesSource::start(Client::new(router, "default"), &options, sender);
        let start = Instant::now();
        api.next_request()
            .await
            .refuse(404, "NotFound", "no version");
        let mut unanswered = Vec::new();
        for _ in 0..3 {
            unanswered.push(api.next_request().await);
        }
        waits.extend(unanswered.iter().map(|list| list.arrived_at - start));
    }
    // The longest delay is 60 s. The rest is a margin for the rounding of timers.
    assert!(
        waits
            .iter()
            .all(|wait| *wait <= Duration::from_millis(60_500)),
        "a first list came after more than 60 s: {waits:?}"
    );
    // Of 30 uniform delays up to 60 s, none is below 20 s (or above 40 s) in 1 of 190,000 runs.
    assert!(
        waits.iter().any(|wait| *wait < Duration::from_secs(20)),
        "no first list came early: {waits:?}"
    );
    assert!(
        waits.iter().any(|wait| *wait > Duration::from_secs(40)),
        "no first list came late: {waits:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn the_client_policy_needs_these_requests() {
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
        // Without a delay before the first lists.
        let start = |client, sender| {
            KubernetesSource::start_policies(client, &scope, Duration::ZERO, sender)
        };
        let (counts, _) = count_requests_of(start, Duration::from_secs(10)).await;
        let mut expected = vec![
            "/api/v1/namespaces fieldSelector: metadata.name=kube-system",
            "/api/v1/namespaces/kube-system/services fieldSelector: metadata.name=kube-dns",
            "/apis/discovery.k8s.io/v1/namespaces/kube-system/endpointslices \
             labelSelector: kubernetes.io/service-name=kube-dns",
            "/apis/networking.k8s.io/v1/networkpolicies",
        ];
        expected.extend(pods);
        expected.sort_unstable();
        assert_eq!(counts.into_keys().collect::<Vec<_>>(), expected);
    }

    let labels = Labels::from(
        [("a", "b"), ("k8s-app", "kube-dns")].map(|(key, value)| (key.into(), value.into())),
    );
    let start =
        |client, sender| KubernetesSource::start_dns_pods(client, "kube-system", &labels, sender);
    let (counts, _) = count_requests_of(start, Duration::from_secs(10)).await;
    let request: Vec<_> = counts.into_keys().collect();
    assert_eq!(
        request,
        ["/api/v1/namespaces/kube-system/pods labelSelector: a=b,k8s-app=kube-dns"]
    );
}

#[tokio::test(start_paused = true)]
async fn other_policies_are_read_by_plain_lists() {
    let mut kinds = PolicyKind::all();
    let kind = kinds.find(|kind| kind.resource() == "networkpolicies.projectcalico.org");
    let kinds = ServedKinds::from([(kind.unwrap(), "v3".to_owned())]);
    let (router, mut api) = FakeApi::new();
    let (sender, _events) = mpsc::channel(64);
    let client = Client::new(router, "default");
    let _source = KubernetesSource::start_other_policies(client, &kinds, sender);
    // The API server's version is not requested.
    let request = api.next_request().await;
    assert_eq!(request.path, "/apis/projectcalico.org/v3/networkpolicies");
    assert_eq!(request.parameter("watch"), None);
    assert_eq!(
        request
            .parameter("labelSelector")
            .or(request.parameter("fieldSelector")),
        None
    );
    request.respond_with_list("7", &[]);
    let request = api.next_request().await;
    assert_eq!(request.parameter("watch"), Some("true"));
    assert_eq!(request.parameter("resourceVersion"), Some("7"));
}
