//! Measures what different sets of EndpointSlice watches cost an API server.
//!
//! `cargo xtask bench --watches KUBECONFIG` starts this measurement. A strategy is the set of
//! watches with which each node's agent would see the slices of headless Services. Each round
//! measures every strategy, and no watches at all, with the same changes. The cost is the increase
//! of the API server's own `process_cpu_seconds_total` for each second.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result};
use axum::http::Request;
use http_body_util::BodyExt as _;
use k8s_openapi::api::{core::v1::Namespace, discovery::v1::EndpointSlice};
use kube::{
    Api, Client, Config,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchParams},
    client::Body,
    config::{KubeConfigOptions, Kubeconfig},
    core::Request as ResourceRequest,
};
use serde_json::{Value, json};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};

use crate::{
    objects::{SliceWriter, label_slice, slice},
    settings::WatchCostSettings,
};

/// Number of slices, which change in turn.
const SLICES: u64 = 200;
/// Number of endpoints in each slice.
const ENDPOINTS: u64 = 20;
/// Number of headless Services whose names a label selector contains. None of the slices belongs to
/// one of them.
const HEADLESS_SERVICES: usize = 100;
/// Number of measurements of each strategy.
const ROUNDS: usize = 2;

/// The name of a strategy, and the watches of one agent: label selectors, each with the requested
/// content. An empty selector selects every slice.
type WatchStrategy = (&'static str, Vec<(String, WatchedContent)>);

#[derive(Clone, Copy)]
enum WatchedContent {
    Whole,
    /// Metadata only: `PartialObjectMetadata`.
    Metadata,
}

/// Measures every strategy, and prints the cost of each.
pub(crate) fn measure_watch_cost(watched: &WatchCostSettings) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(measure(watched))
}

async fn measure(watched: &WatchCostSettings) -> Result<()> {
    let client = connect(watched).await?;
    let namespace = format!("zerohop-watches-{:x}", rand::random::<u32>());
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let named = serde_json::from_value(json!({"metadata": {"name": namespace}}))?;
    namespaces.create(&PostParams::default(), &named).await?;
    let measured = measure_strategies(watched, &client, &namespace).await;
    namespaces
        .delete(&namespace, &DeleteParams::default())
        .await?;
    measured
}

async fn measure_strategies(
    watched: &WatchCostSettings,
    client: &Client,
    namespace: &str,
) -> Result<()> {
    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), namespace);
    for number in 0..SLICES {
        slices
            .create(&PostParams::default(), &make_slice(namespace, number)?)
            .await?;
    }
    println!(
        "{} watchers, {} changes a second for {} s, {SLICES} slices of {ENDPOINTS} endpoints",
        watched.watchers, watched.rate, watched.seconds
    );
    println!(
        "{:<44} {:>9} {:>14} {:>12} {:>9}",
        "strategy", "CPU s/s", "above no watch", "events/s", "MB/s"
    );
    let mut baseline = 0.0;
    for _ in 0..ROUNDS {
        for (name, watches) in strategies() {
            let traffic = Arc::new(WatchTraffic::default());
            let mut open = JoinSet::new();
            let listed = slices.list(&ListParams::default().limit(1)).await?;
            let version = listed.metadata.resource_version.unwrap_or_default();
            for _ in 0..watched.watchers {
                // Each agent has a connection of its own.
                let client = connect(watched).await?;
                for (selector, content) in &watches {
                    let body = open_watch(&client, selector, *content, &version).await?;
                    open.spawn(count_events(body, traffic.clone()));
                }
            }
            traffic.clear();
            let before = cpu_seconds(client).await?;
            let start = Instant::now();
            let changes = change_slices(watched, &slices).await?;
            let seconds = start.elapsed().as_secs_f64();
            let cost = (cpu_seconds(client).await? - before) / seconds;
            open.abort_all();
            if watches.is_empty() {
                baseline = cost;
            }
            println!(
                "{name:<44} {cost:>9.3} {:>14.3} {:>12.0} {:>9.2}   {:.0} changes/s",
                cost - baseline,
                traffic.events.load(Ordering::Relaxed) as f64 / seconds,
                traffic.bytes.load(Ordering::Relaxed) as f64 / seconds / 1e6,
                changes as f64 / seconds,
            );
        }
    }
    Ok(())
}

/// The strategies to measure. The first one has no watches, and its cost is the baseline of each
/// round. An agent with `--endpoints=headless` watches by service name, one with `--endpoints=all`
/// everything.
fn strategies() -> Vec<WatchStrategy> {
    const HEADLESS: &str = "service.kubernetes.io/headless";
    const OTHERS: &str = "!service.kubernetes.io/headless,\
         endpointslice.kubernetes.io/managed-by!=endpointslice-controller.k8s.io";
    // The slices that neither of the selectors above selects.
    const UNSELECTED: &str = "!service.kubernetes.io/headless,\
         endpointslice.kubernetes.io/managed-by=endpointslice-controller.k8s.io";
    let names: Vec<String> = (0..HEADLESS_SERVICES)
        .map(|number| format!("headless-service-{number}"))
        .collect();
    let named = format!("kubernetes.io/service-name in ({})", names.join(","));
    let selective = || {
        vec![
            (HEADLESS.to_owned(), WatchedContent::Whole),
            (OTHERS.to_owned(), WatchedContent::Whole),
        ]
    };
    let with = |selector: String, content| {
        let mut watches = selective();
        watches.push((selector, content));
        watches
    };
    vec![
        ("no watch", Vec::new()),
        ("two by label (do not see every slice)", selective()),
        (
            "two by label, and others by service name",
            with(format!("{UNSELECTED},{named}"), WatchedContent::Whole),
        ),
        (
            "one by service name",
            vec![(named.clone(), WatchedContent::Whole)],
        ),
        (
            "two by label, and the metadata of all",
            with(String::new(), WatchedContent::Metadata),
        ),
        (
            "one of everything",
            vec![(String::new(), WatchedContent::Whole)],
        ),
    ]
}

/// A slice of a Service with a ClusterIP, with the labels of Kubernetes' controller.
fn make_slice(namespace: &str, number: u64) -> Result<EndpointSlice> {
    let name = format!("clustered-service-{number}");
    let endpoints: Vec<Value> = (0..ENDPOINTS)
        .map(|endpoint| {
            json!({
                "addresses": [format!("100.65.{number}.{}", endpoint + 1)],
                "conditions": {"ready": true, "serving": true, "terminating": false},
                "nodeName": format!("node-{endpoint}"),
                "targetRef": {
                    "kind": "Pod",
                    "namespace": namespace,
                    "name": format!("{name}-{endpoint}")
                },
                "zone": "zone-a",
            })
        })
        .collect();
    let key = (namespace.to_owned(), name.clone());
    let ports = json!([{"name": "http", "port": 8080, "protocol": "TCP"}]);
    let slice = slice(&key, "IPv4", &endpoints.into(), &ports)?;
    // `Some(false)`: the Service is not headless.
    Ok(label_slice(
        slice,
        &name,
        Some(false),
        SliceWriter::Kubernetes,
    ))
}

/// Changes slices at the configured rate. Returns the number of changes.
async fn change_slices(watched: &WatchCostSettings, slices: &Api<EndpointSlice>) -> Result<u64> {
    let start = Instant::now();
    let all = watched.rate * watched.seconds;
    let mut running = JoinSet::new();
    for number in 0..all {
        sleep_until(start + Duration::from_secs_f64(number as f64 / watched.rate as f64)).await;
        let slices = slices.clone();
        running.spawn(async move {
            let patch =
                json!({"metadata": {"annotations": {"zerohop.test/change": number.to_string()}}});
            let name = format!("clustered-service-{}", number % SLICES);
            slices
                .patch(&name, &PatchParams::default(), &Patch::Merge(patch))
                .await
                .map(drop)
        });
    }
    while let Some(done) = running.join_next().await {
        done??;
    }
    Ok(all)
}

/// Events and bytes that all watches received.
#[derive(Default)]
struct WatchTraffic {
    events: AtomicU64,
    bytes: AtomicU64,
}

impl WatchTraffic {
    fn clear(&self) {
        self.events.store(0, Ordering::Relaxed);
        self.bytes.store(0, Ordering::Relaxed);
    }
}

/// Opens a watch that starts at a resource version.
async fn open_watch(
    client: &Client,
    selector: &str,
    content: WatchedContent,
    version: &str,
) -> Result<Body> {
    let params = WatchParams {
        label_selector: (!selector.is_empty()).then(|| selector.to_owned()),
        bookmarks: true,
        // An hour, so that no watch ends while a strategy is measured.
        timeout: Some(3600),
        ..WatchParams::default()
    };
    let mut request =
        ResourceRequest::new("/apis/discovery.k8s.io/v1/endpointslices").watch(&params, version)?;
    if let WatchedContent::Metadata = content {
        let accept = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
        request.headers_mut().insert("accept", accept.parse()?);
    }
    Ok(client.send(request.map(Body::from)).await?.into_body())
}

/// Counts events and bytes until the watch ends. Each event is one line.
async fn count_events(mut body: Body, traffic: Arc<WatchTraffic>) {
    while let Some(Ok(frame)) = body.frame().await {
        if let Ok(bytes) = frame.into_data() {
            let events = bytes.iter().filter(|byte| **byte == b'\n').count();
            traffic.events.fetch_add(events as u64, Ordering::Relaxed);
            traffic
                .bytes
                .fetch_add(bytes.len() as u64, Ordering::Relaxed);
        }
    }
}

/// The processor time that the API server has used, in seconds.
async fn cpu_seconds(client: &Client) -> Result<f64> {
    let request = Request::get("/metrics").body(Vec::new())?;
    let text = client.request_text(request).await?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("process_cpu_seconds_total "))
        .context("the API server's metrics have no process_cpu_seconds_total")?;
    Ok(line.parse()?)
}

async fn connect(watched: &WatchCostSettings) -> Result<Client> {
    let kubeconfig = Kubeconfig::read_from(&watched.kubeconfig)?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}
