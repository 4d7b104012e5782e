//! What the ways to know every EndpointSlice of a headless Service cost an API server.
//!
//! `cargo xtask bench --watches KUBECONFIG` starts it. Each way is a set of watches that every node's agent
//! would hold. All ways are tried in turn, several times, beside no watch at all, with the same changes; the
//! API server's own `process_cpu_seconds_total` says what a way costs.

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
    core::Request as Path,
};
use serde_json::{Value, json};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};

use crate::{
    objects::{Writer, owned, slice},
    settings::Watched,
};

/// Slices that change in turn.
const SLICES: u64 = 200;
/// Endpoints in each of them.
const ENDPOINTS: u64 = 20;
/// Headless Services whose names a selector holds.
const HEADLESS_SERVICES: usize = 100;
/// How often all ways are tried.
const ROUNDS: usize = 2;

/// The watches that an agent holds: a label selector each, and what is asked of each object.
type Way = (&'static str, Vec<(String, Content)>);

#[derive(Clone, Copy)]
enum Content {
    Whole,
    /// `PartialObjectMetadata`.
    Metadata,
}

/// Tries every way, and prints what it costs.
pub(crate) fn run(watched: &Watched) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(measure(watched))
}

async fn measure(watched: &Watched) -> Result<()> {
    let client = connect(watched).await?;
    let namespace = format!("zerohop-watches-{:x}", rand::random::<u32>());
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let named = serde_json::from_value(json!({"metadata": {"name": namespace}}))?;
    namespaces.create(&PostParams::default(), &named).await?;
    let measured = try_all(watched, &client, &namespace).await;
    namespaces
        .delete(&namespace, &DeleteParams::default())
        .await?;
    measured
}

async fn try_all(watched: &Watched, client: &Client, namespace: &str) -> Result<()> {
    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), namespace);
    for number in 0..SLICES {
        slices
            .create(&PostParams::default(), &made(namespace, number)?)
            .await?;
    }
    println!(
        "{} watchers, {} changes a second for {} s, {SLICES} slices of {ENDPOINTS} endpoints",
        watched.watchers, watched.rate, watched.seconds
    );
    println!(
        "{:<44} {:>9} {:>12} {:>12} {:>9}",
        "way", "CPU s/s", "above none", "events/s", "MB/s"
    );
    let mut none = 0.0;
    for _ in 0..ROUNDS {
        for (name, watches) in ways() {
            let seen = Arc::new(Seen::default());
            let mut open = JoinSet::new();
            let listed = slices.list(&ListParams::default().limit(1)).await?;
            let version = listed.metadata.resource_version.unwrap_or_default();
            for _ in 0..watched.watchers {
                // An agent of its own: a connection of its own.
                let client = connect(watched).await?;
                for (selector, content) in &watches {
                    let body = opened(&client, selector, *content, &version).await?;
                    open.spawn(read(body, seen.clone()));
                }
            }
            seen.clear();
            let before = cpu_seconds(client).await?;
            let start = Instant::now();
            let changes = change(watched, &slices).await?;
            let seconds = start.elapsed().as_secs_f64();
            let cost = (cpu_seconds(client).await? - before) / seconds;
            open.abort_all();
            if watches.is_empty() {
                none = cost;
            }
            println!(
                "{name:<44} {cost:>9.3} {:>12.3} {:>12.0} {:>9.2}   {:.0} changes/s",
                cost - none,
                seen.events.load(Ordering::Relaxed) as f64 / seconds,
                seen.bytes.load(Ordering::Relaxed) as f64 / seconds / 1e6,
                changes as f64 / seconds,
            );
        }
    }
    Ok(())
}

fn ways() -> Vec<Way> {
    const HEADLESS: &str = "service.kubernetes.io/headless";
    const OTHERS: &str = "!service.kubernetes.io/headless,\
         endpointslice.kubernetes.io/managed-by!=endpointslice-controller.k8s.io";
    const HIDDEN: &str = "!service.kubernetes.io/headless,\
         endpointslice.kubernetes.io/managed-by=endpointslice-controller.k8s.io";
    let names: Vec<String> = (0..HEADLESS_SERVICES)
        .map(|number| format!("headless-service-{number}"))
        .collect();
    let named = format!("kubernetes.io/service-name in ({})", names.join(","));
    let selective = || {
        vec![
            (HEADLESS.to_owned(), Content::Whole),
            (OTHERS.to_owned(), Content::Whole),
        ]
    };
    let with = |selector: String, content| {
        let mut watches = selective();
        watches.push((selector, content));
        watches
    };
    vec![
        ("no watch", Vec::new()),
        ("two by label (no proof)", selective()),
        (
            "two by label, hidden ones by service name",
            with(format!("{HIDDEN},{named}"), Content::Whole),
        ),
        ("one by service name", vec![(named.clone(), Content::Whole)]),
        (
            "two by label, metadata of all",
            with(String::new(), Content::Metadata),
        ),
        ("one of everything", vec![(String::new(), Content::Whole)]),
    ]
}

/// A slice that Kubernetes' controller says it made for a Service with a ClusterIP.
fn made(namespace: &str, number: u64) -> Result<EndpointSlice> {
    let name = format!("clustered-service-{number}");
    let endpoints: Vec<Value> = (0..ENDPOINTS)
        .map(|endpoint| {
            json!({
                "addresses": [format!("100.65.{number}.{}", endpoint + 1)],
                "conditions": {"ready": true, "serving": true, "terminating": false},
                "nodeName": format!("node-{endpoint}"),
                "targetRef": {"kind": "Pod", "namespace": namespace, "name": format!("{name}-{endpoint}")},
                "zone": "zone-a",
            })
        })
        .collect();
    let key = (namespace.to_owned(), name.clone());
    let ports = json!([{"name": "http", "port": 8080, "protocol": "TCP"}]);
    let slice = slice(&key, "IPv4", &endpoints.into(), &ports)?;
    Ok(owned(slice, &name, Some(false), Writer::Kubernetes))
}

/// Changes slices at the wanted rate; how many.
async fn change(watched: &Watched, slices: &Api<EndpointSlice>) -> Result<u64> {
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

/// What all watches brought.
#[derive(Default)]
struct Seen {
    events: AtomicU64,
    bytes: AtomicU64,
}

impl Seen {
    fn clear(&self) {
        self.events.store(0, Ordering::Relaxed);
        self.bytes.store(0, Ordering::Relaxed);
    }
}

/// Opens a watch of what changes after a version.
async fn opened(client: &Client, selector: &str, content: Content, version: &str) -> Result<Body> {
    let params = WatchParams {
        label_selector: (!selector.is_empty()).then(|| selector.to_owned()),
        bookmarks: true,
        timeout: Some(3600),
        ..WatchParams::default()
    };
    let mut request =
        Path::new("/apis/discovery.k8s.io/v1/endpointslices").watch(&params, version)?;
    if let Content::Metadata = content {
        let accept = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
        request.headers_mut().insert("accept", accept.parse()?);
    }
    Ok(client.send(request.map(Body::from)).await?.into_body())
}

async fn read(mut body: Body, seen: Arc<Seen>) {
    while let Some(Ok(frame)) = body.frame().await {
        if let Ok(bytes) = frame.into_data() {
            let events = bytes.iter().filter(|byte| **byte == b'\n').count();
            seen.events.fetch_add(events as u64, Ordering::Relaxed);
            seen.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        }
    }
}

/// The processor time that the API server has used.
async fn cpu_seconds(client: &Client) -> Result<f64> {
    let request = Request::get("/metrics").body(Vec::new())?;
    let text = client.request_text(request).await?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("process_cpu_seconds_total "))
        .context("the API server doesn't say how much processor time it used")?;
    Ok(line.parse()?)
}

async fn connect(watched: &Watched) -> Result<Client> {
    let kubeconfig = Kubeconfig::read_from(&watched.kubeconfig)?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}
