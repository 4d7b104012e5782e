//! Measures what large Services cost the agent: an event, a question, and the start. Everything
//! runs in this process, without an API server.

use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::{Arc, RwLock},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use tokio::task::JoinSet;
use zerohop_datapath::{DatapathConfig, KernelTables, grace::Rcu, program::EbpfObject, table_size};
use zerohop_kubernetes::{
    Endpoint, EndpointScope, EndpointSlice, Feed, Index, Namespace, Object, ObjectKey, Port,
    PortNumber, Service, ServiceKind, SliceReadability, ZoneSettings,
};
use zerohop_resolver::{
    CacheSettings, Resolver, Sockets, Upstreams,
    message::{QueryAction, respond},
    query::Transport,
};
use zerohop_zone::{Name, Providers, Rtype, build_query};

use super::{
    median,
    servers::{build_runtime, spawn_servers},
};

/// Endpoints of a slice, as Kubernetes' controller makes them.
const SLICE: usize = 100;
/// The time for repetitions of one measurement.
const REPEAT: Duration = Duration::from_millis(300);

/// The questions that each name gets over a socket.
const SOCKET_QUESTIONS: usize = 5_000;
/// The name of the large Service.
const LARGE: &str = "big.large.svc.cluster.local";

/// A headless Service, and what else refers to it.
#[derive(Clone, Copy)]
pub(crate) struct LargeService {
    pub(crate) endpoints: usize,
    pub(crate) ports: u16,
    /// ExternalName Services with this Service as their target.
    pub(crate) aliases: usize,
}

/// Medians of the times.
pub(crate) struct Costs {
    /// From the first object to filled tables.
    pub(crate) start: Duration,
    /// One endpoint's readiness changes, until it is published.
    pub(crate) event: Duration,
    /// A question of type A for the Service over UDP.
    pub(crate) question: Duration,
    /// The same for SRV.
    pub(crate) srv_question: Duration,
    /// A question of type A for the Service, over a UDP socket on loopback and back.
    pub(crate) socket_question: Duration,
    /// The same for a Service with one address.
    pub(crate) small_socket_question: Duration,
}

/// Measures a Service with all EndpointSlices watched, beside 100 small ones.
pub(crate) fn measure(config: &DatapathConfig, service: LargeService) -> Result<Costs> {
    let started = Instant::now();
    let mut index = Index::new(settings()?, 1);
    for object in objects(service) {
        index.apply_object(feed_of(&object), object);
    }
    index.mark_complete();
    index.take_changes();
    let size = table_size(&index.view(), None);
    let object = EbpfObject::load(dns_agent::KERNEL_OBJECT, size)?;
    let mut tables = KernelTables::new(&object, size, config, Rcu::new()?)?;
    let filled = tables.publish_all(&index.view(), &mut || {})?;
    let start = started.elapsed();
    ensure!(filled.left_out == 0, "{} names don't fit", filled.left_out);

    let mut is_ready = true;
    let event = repeat(|| {
        is_ready = !is_ready;
        let all = service.endpoints.min(SLICE);
        let slice = slice(service, 0, if is_ready { all } else { all - 1 });
        index.apply_object(Feed::SLICES, Object::EndpointSlice(slice));
        let changes = index.take_changes();
        ensure!(!changes.everything, "an event has changed every name");
        let names = changes.all_names();
        ensure!(!names.is_empty(), "an event has changed no name");
        let limit = Duration::from_secs(60);
        let publication = tables.publish_names(&index.view(), &names, limit)?;
        ensure!(publication.left.is_empty(), "an event takes a minute");
        Ok(())
    })?;
    // The questions must find all endpoints.
    let whole = slice(service, 0, service.endpoints.min(SLICE));
    index.apply_object(Feed::SLICES, Object::EndpointSlice(whole));
    // Through the union of all providers, as the resolver asks.
    let providers = Providers::new(vec![Arc::new(RwLock::new(index))]);
    let ask = |rtype| {
        let query = build_query(1, &Name::parse(LARGE)?, rtype);
        let mut rotation = 0;
        repeat(|| {
            rotation += 1;
            let locked = providers.read();
            match respond(&query, &locked.union(), Transport::Udp, rotation) {
                QueryAction::Send(_) => Ok(()),
                action => Err(anyhow::anyhow!("{action:?} instead of a reply")),
            }
        })
    };
    let [socket_question, small_socket_question] =
        ask_over_socket(&providers, [LARGE, "service-0.small.svc.cluster.local"])?;
    Ok(Costs {
        start,
        event,
        question: ask(Rtype::A)?,
        srv_question: ask(Rtype::SRV)?,
        socket_question,
        small_socket_question,
    })
}

/// Measures questions of type A that a resolver on loopback answers, in turns.
fn ask_over_socket<const N: usize>(
    providers: &Providers,
    names: [&str; N],
) -> Result<[Duration; N]> {
    let runtime = build_runtime()?;
    let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    client.set_read_timeout(Some(Duration::from_secs(60)))?;
    let mut tasks = JoinSet::new();
    runtime.block_on(async {
        let sockets = Sockets::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        client.connect(sockets.address())?;
        let resolver = Resolver::new(
            Arc::new(providers.clone()),
            Upstreams::default(),
            CacheSettings::default(),
        );
        spawn_servers(Arc::new(resolver).servers(sockets), &mut tasks)?;
        anyhow::Ok(())
    })?;
    let mut times = [const { Vec::new() }; N];
    let mut reply = [0; 4096];
    for _ in 0..SOCKET_QUESTIONS {
        for (name, times) in names.iter().zip(&mut times) {
            let query = build_query(1, &Name::parse(name)?, Rtype::A);
            let before = Instant::now();
            client.send(&query)?;
            let length = client
                .recv(&mut reply)
                .context("the resolver doesn't reply")?;
            times.push(before.elapsed().as_secs_f64());
            ensure!(length > query.len(), "the reply has no answer");
        }
    }
    Ok(times.map(|times| Duration::from_secs_f64(median(&times))))
}

/// Runs `work` for some time, at least three times. Returns the median.
fn repeat(mut work: impl FnMut() -> Result<()>) -> Result<Duration> {
    let started = Instant::now();
    let mut times = Vec::new();
    while times.len() < 3 || started.elapsed() < REPEAT {
        let before = Instant::now();
        work()?;
        times.push(before.elapsed().as_secs_f64());
    }
    Ok(Duration::from_secs_f64(median(&times)))
}

fn settings() -> Result<ZoneSettings> {
    Ok(ZoneSettings {
        reverse: vec!["10.0.0.0/8".parse().context("a network")?],
        endpoint_scope: EndpointScope::All,
        ..ZoneSettings::default()
    })
}

fn objects(service: LargeService) -> Vec<Object> {
    let namespace = |name: &str| Object::Namespace(Namespace { name: name.into() });
    let mut objects = vec![namespace("large"), namespace("small")];
    objects.push(Object::Service(Service {
        key: ObjectKey::new("large", "big"),
        kind: ServiceKind::Headless,
        ports: ports(service),
    }));
    for number in 0..service.endpoints.div_ceil(SLICE) {
        let slice = slice(service, number, SLICE);
        objects.push(Object::EndpointSlice(slice));
    }
    for number in 0..100u8 {
        objects.push(Object::Service(Service {
            key: ObjectKey::new("small", format!("service-{number}")),
            kind: ServiceKind::ClusterIp([[10, 96, 0, number].into()].into()),
            ports: ports(LargeService {
                ports: 1,
                ..service
            }),
        }));
    }
    for number in 0..service.aliases {
        objects.push(Object::Service(Service {
            key: ObjectKey::new("small", format!("alias-{number}")),
            kind: ServiceKind::ExternalName(LARGE.into()),
            ports: [].into(),
        }));
    }
    objects
}

/// The slice with this number, with its first `ready` endpoints.
fn slice(service: LargeService, number: usize, ready: usize) -> EndpointSlice {
    let first = number * SLICE;
    let ready = ready.min(service.endpoints - first);
    let endpoints = (first..first + ready).map(|at| Endpoint {
        address: (0x0a80_0000 + at as u32).to_be_bytes().into(),
        hostname: None,
        pod: Some(format!("big-{at:05}").into()),
        zone: Some(format!("zone-{}", at % 3).into()),
    });
    EndpointSlice {
        key: ObjectKey::new("large", format!("big-{number:05}")),
        service: Some("big".into()),
        endpoints: endpoints.collect(),
        readability: SliceReadability::Plain,
        ports: ports(service),
    }
}

fn ports(service: LargeService) -> Arc<[Port]> {
    (0..service.ports)
        .map(|number| Port {
            name: Some(format!("port-{number}").into()),
            protocol: "tcp".into(),
            number: PortNumber::Valid(1000 + number),
        })
        .collect()
}

fn feed_of(object: &Object) -> Feed {
    match object {
        Object::Namespace(_) => Feed::Namespaces,
        Object::Service(_) => Feed::Services,
        _ => Feed::SLICES,
    }
}
