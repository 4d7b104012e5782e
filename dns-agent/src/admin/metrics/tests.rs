//! The text of `/metrics`, and the documents that name metrics.

use std::collections::{BTreeMap, BTreeSet};

use dns_common::Outcome;
use zerohop_datapath as datapath;
use zerohop_datapath::{
    hooks::AttachedStatus,
    program::HookProgram,
    status::{LeaseStatus, OutcomeStatus},
};
use zerohop_resolver::{
    AddressFamily, CacheTrafficCounts, ConnectionProtocol, DnsServerCounts, HistogramCounts,
    ReplySource, ResolverCounts, TrafficZone, UpstreamCounts, query::Transport,
};

use super::*;
use crate::{
    admin::status::{
        FeedState, FeedStatus, HostsFileStatus, KernelStatus, KubernetesStatus, ManifestsStatus,
        PlaneState, PolicyStatus, SourceStatus, Status, SteeringState, SteeringStatus,
    },
    admin::status_board::KubernetesFeeds,
    admin::tests::idle_resolver,
};

/// Metrics by name, each with its type and its labels.
type MetricCatalog = BTreeMap<String, (String, BTreeSet<String>)>;

fn kernel() -> datapath::DatapathStatus {
    let outcome = |outcome: Outcome, packets| OutcomeStatus {
        hook: "tc",
        interface: "pods".to_owned(),
        outcome: outcome.name(),
        answered: outcome.is_answer(),
        packets,
    };
    datapath::DatapathStatus {
        attached: vec![AttachedStatus {
            interface: "veth1".to_owned(),
            index: 7,
            hook: "tc",
            mode: "tcx",
            program: "zerohop_tc_peer",
            outlives: true,
            reason: None,
        }],
        failed: Vec::new(),
        skipped: Vec::new(),
        foreign_programs: Vec::new(),
        served_addresses: Vec::new(),
        tables: datapath::hash_table::TableUsage {
            names: 10,
            words: 64,
            record_bytes: 1280,
            names_too_large: 0,
            record_bytes_capacity: 4096,
            memory_bytes: 8192,
        },
        published: datapath::PublicationCounts::default(),
        lease: LeaseStatus {
            age_seconds: 1.5,
            remaining_seconds: 8.5,
            stale_after_seconds: 10.0,
        },
        outcomes: vec![outcome(Outcome::Data, 5), outcome(Outcome::LeaseStale, 0)],
    }
}

fn status(source: SourceStatus) -> Status {
    let mut status = Status {
        version: "1.2.3".to_owned(),
        degraded: vec!["this".to_owned()],
        source,
        hosts: vec![HostsFileStatus {
            path: "/hosts".into(),
            names: 6,
            ..HostsFileStatus::default()
        }],
        network_policy: Some(PolicyStatus::default()),
        steering: SteeringStatus {
            state: SteeringState::On,
            outcomes: BTreeMap::from([("datagram".to_owned(), 7)]),
            ..SteeringStatus::default()
        },
        ..Status::default()
    };
    status.resolver.counts = ResolverCounts {
        replies: BTreeMap::from([("NXDOMAIN".to_owned(), 3)]),
        upstream_timeouts: BTreeMap::from([("192.0.2.53:53".to_owned(), 4)]),
        ..ResolverCounts::default()
    };
    status
}

/// What a resolver with one listening address and one upstream has counted.
fn traffic() -> TrafficCounts {
    let zone = TrafficZone::Served;
    let histogram = HistogramCounts {
        buckets: vec![(100.0, 1), (f64::INFINITY, 2)],
        sum: 250.5,
    };
    let sizes = vec![(zone, Transport::Udp, histogram.clone())];
    TrafficCounts {
        servers: vec![DnsServerCounts {
            address: ([169, 254, 20, 10], 53).into(),
            requests: vec![(zone, Transport::Udp, AddressFamily::Ipv4, "A", 7)],
            responses: vec![(TrafficZone::Dropped, ReplySource::Refusal, "FORMERR", 8)],
            dnssec_ok: vec![(zone, 1)],
            durations: vec![(zone, histogram.clone())],
            request_sizes: sizes.clone(),
            response_sizes: sizes,
        }],
        upstreams: vec![UpstreamCounts {
            server: ([192, 0, 2, 53], 853).into(),
            sent: 4,
            failures: 2,
            connections: vec![(ConnectionProtocol::Tls, 1, 3)],
            responses: vec![("SERVFAIL", histogram)],
        }],
        cache: CacheTrafficCounts {
            entries: [9, 1],
            hits: [5, 6],
            evictions: [2, 0],
            capacity: 1024,
        },
        all_down: 3,
    }
}

/// The states after four probes with the label that the guide has.
fn probes() -> ProbeStates {
    let states = ProbeStates::new(["LABEL".to_owned()]);
    let state = states.iter().next().unwrap();
    for microseconds in [250, 251, 9_000_000] {
        state.record(Ok(Duration::from_micros(microseconds)));
    }
    state.record(Err("is silent".to_owned()));
    states
}

fn text(source: SourceStatus) -> String {
    let metrics = Metrics::default();
    metrics.observe_programming(Some(&ServiceKind::Headless), SystemTime::now());
    let readings = Readings {
        status: status(source),
        kernel: KernelStatus::On(Box::new(kernel())),
    };
    metrics
        .write(readings, traffic(), ProbeReadings::new(&probes()))
        .unwrap()
}

fn kubernetes() -> SourceStatus {
    SourceStatus::Kubernetes(KubernetesStatus {
        age_seconds: Some(2.0),
        feeds: vec![FeedStatus {
            name: "services".to_owned(),
            state: FeedState::Retrying,
            error: Some("refused".to_owned()),
            age_seconds: Some(2.0),
            ..FeedStatus::default()
        }],
        requests: BTreeMap::from([("watch".to_owned(), 4)]),
        ..KubernetesStatus::default()
    })
}

fn manifests() -> SourceStatus {
    SourceStatus::Manifests(ManifestsStatus::loaded_now("/objects".as_ref()))
}

#[test]
fn samples_have_the_values_of_the_status() {
    let text = text(kubernetes());
    for line in [
        "# TYPE zerohop_answers counter",
        r#"zerohop_answers_total{plane="kernel",outcome="data",hook="tc",interface="pods"} 5"#,
        r#"zerohop_answers_total{plane="user",outcome="nxdomain"} 3"#,
        r#"zerohop_hosts_names{path="/hosts"} 6.0"#,
        r#"zerohop_passes_total{plane="kernel",outcome="lease_stale",hook="tc",interface="pods"} 0"#,
        "# UNIT zerohop_lease_remaining_seconds seconds",
        "zerohop_lease_remaining_seconds 8.5",
        r#"zerohop_hooks{hook="tc",mode="tcx"} 1.0"#,
        r#"zerohop_kernel_plane{state="on"} 1.0"#,
        r#"zerohop_kernel_plane{state="off"} 0.0"#,
        r#"zerohop_feed_state{feed="services",state="retrying"} 1.0"#,
        r#"zerohop_feed_state{feed="services",state="watching"} 0.0"#,
        r#"zerohop_api_requests_total{verb="watch"} 4"#,
        "zerohop_ready 1.0",
        "zerohop_degraded 1.0",
        r#"zerohop_build_info{version="1.2.3"} 1"#,
        r#"coredns_build_info{version="1.2.3",revision="",goversion=""} 1.0"#,
        r#"coredns_plugin_enabled{server="dns://169.254.20.10:53",zone=".",view="",name="hosts"} 1.0"#,
        "# TYPE coredns_dns_requests counter",
        r#"coredns_dns_requests_total{server="dns://169.254.20.10:53",zone=".",view="",proto="udp",family="1",type="A"} 7"#,
        r#"coredns_dns_requests_total{server="kernel",zone=".",view="",proto="udp",family="unknown",type="unknown"} 5"#,
        r#"coredns_dns_responses_total{server="dns://169.254.20.10:53",zone="dropped",view="",rcode="FORMERR",plugin=""} 8"#,
        r#"coredns_dns_responses_total{server="kernel",zone=".",view="",rcode="NOERROR",plugin="kubernetes"} 5"#,
        r#"coredns_dns_responses_total{server="kernel",zone=".",view="",rcode="NXDOMAIN",plugin="kubernetes"} 0"#,
        "# UNIT coredns_dns_request_size_bytes bytes",
        r#"coredns_dns_request_size_bytes_bucket{le="100",server="dns://169.254.20.10:53",zone=".",view="",proto="udp"} 1"#,
        r#"coredns_dns_request_size_bytes_bucket{le="+Inf",server="dns://169.254.20.10:53",zone=".",view="",proto="udp"} 3"#,
        r#"coredns_dns_request_size_bytes_sum{server="dns://169.254.20.10:53",zone=".",view="",proto="udp"} 250.5"#,
        r#"coredns_cache_hits_total{server="dns://169.254.20.10:53",zones=".",view="",type="denial"} 6"#,
        r#"coredns_cache_requests_total{server="dns://169.254.20.10:53",zones=".",view=""} 11"#,
        r#"coredns_proxy_conn_cache_hits_total{to="192.0.2.53:853",proxy_name="forward",proto="tcp-tls"} 3"#,
        r#"coredns_forward_responses_total{to="192.0.2.53:853",rcode="SERVFAIL"} 3"#,
        r#"coredns_forward_healthcheck_failures_total{to="192.0.2.53:853"} 2"#,
        "coredns_forward_healthcheck_broken_total 3",
        "# TYPE kubedns_probe_LABEL_errors unknown",
        "kubedns_probe_LABEL_errors 1",
        "# TYPE kubedns_probe_LABEL_latency_ms histogram",
        r#"kubedns_probe_LABEL_latency_ms_bucket{le="0.25"} 1"#,
        r#"kubedns_probe_LABEL_latency_ms_bucket{le="0.5"} 2"#,
        r#"kubedns_probe_LABEL_latency_ms_bucket{le="8192"} 2"#,
        r#"kubedns_probe_LABEL_latency_ms_bucket{le="+Inf"} 3"#,
        "kubedns_probe_LABEL_latency_ms_sum 9000.501",
        "kubedns_probe_LABEL_latency_ms_count 3",
    ] {
        assert!(
            text.lines().any(|have| have == line),
            "no {line} in\n{text}"
        );
    }
    assert!(text.ends_with("\n# EOF\n"), "no # EOF at the end:\n{text}");
}

#[test]
fn metrics_show_the_current_state_of_the_board() {
    let board = StatusBoard::new(
        Status::default(),
        idle_resolver(),
        Box::new(|| KernelStatus::Without(PlaneState::Waiting)),
    );
    let metrics = Metrics::default();
    let has = |line: &str| {
        metrics
            .text(&board, &ProbeStates::default())
            .unwrap()
            .lines()
            .any(|have| have == line)
    };
    assert!(has("zerohop_ready 1.0"));
    assert!(has(r#"zerohop_kernel_plane{state="waiting"} 1.0"#));
    board.update(|status| status.missing.push("interface eth7".to_owned()));
    assert!(has("zerohop_ready 0.0") && has("zerohop_missing 1.0"));
    // The feeds of the board replace those of the status.
    board.update(|status| status.source = kubernetes());
    board.set_feeds(KubernetesFeeds::default());
    assert!(!has(
        r#"zerohop_feed_state{feed="services",state="retrying"} 1.0"#
    ));
}

#[test]
fn the_guide_documents_exactly_the_exposed_metrics() {
    let mut exposed = exposed_metrics(&text(kubernetes()));
    exposed.extend(exposed_metrics(&text(manifests())));
    let guide = include_str!("../../../../docs/metrics.md");
    let documented = documented_metrics(guide);
    for (name, type_and_labels) in &exposed {
        assert_eq!(
            documented.get(name),
            Some(type_and_labels),
            "docs/metrics.md has no {name}, or with another type or other labels"
        );
    }
    for name in documented.keys() {
        assert!(
            exposed.contains_key(name),
            "docs/metrics.md has {name}, which is not exposed"
        );
    }
}

#[test]
fn dashboards_and_alerts_use_only_exposed_metrics() {
    let mut exposed = exposed_metrics(&text(kubernetes()));
    exposed.extend(exposed_metrics(&text(manifests())));
    for text in [
        include_str!("../../../../docs/metrics.md"),
        include_str!("../../../../deploy/kustomize/components/dashboard/zerohop.json"),
    ] {
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let mut count = 0;
        // Programs' names have the same prefix.
        let programs = HookProgram::ALL.map(HookProgram::name);
        let words = words.filter(|word| word.starts_with("zerohop_") && !programs.contains(word));
        for word in words {
            let series = ["_bucket", "_sum", "_count"];
            let base = series.iter().find_map(|suffix| word.strip_suffix(suffix));
            let is_there = exposed.contains_key(word)
                || base.is_some_and(|base| {
                    exposed
                        .get(base)
                        .is_some_and(|(kind, _)| kind == "histogram")
                });
            assert!(is_there, "{word} is not exposed");
            count += 1;
        }
        assert!(count > 5, "only {count} metrics were found in\n{text}");
    }
}

/// The metrics in an OpenMetrics text, by the names of their samples; histograms by their family.
fn exposed_metrics(text: &str) -> MetricCatalog {
    let mut kinds = BTreeMap::new();
    let mut exposed = MetricCatalog::new();
    for line in text.lines() {
        if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            let is_new = kinds.insert(name, kind).is_none();
            assert!(is_new, "{name} comes twice");
            continue;
        }
        if line.starts_with('#') {
            continue;
        }
        let name = &line[..line.find(['{', ' ']).unwrap()];
        let family = ["_total", "_info", "_bucket", "_sum", "_count"]
            .iter()
            .find_map(|suffix| {
                name.strip_suffix(suffix)
                    .filter(|family| kinds.contains_key(family))
            })
            .unwrap_or(name);
        let kind = kinds[family];
        let name = if kind == "histogram" { family } else { name };
        let (_, labels) = exposed
            .entry(name.to_owned())
            .or_insert_with(|| (kind.to_owned(), BTreeSet::new()));
        let inside = line
            .split_once('{')
            .map_or("", |(_, rest)| rest.split_once('}').unwrap().0);
        let names = inside
            .split(',')
            .filter_map(|label| label.split_once('='))
            .map(|(name, _)| name);
        labels.extend(names.filter(|name| *name != "le").map(str::to_owned));
    }
    exposed
}

/// The metrics in the tables of the guide.
fn documented_metrics(guide: &str) -> MetricCatalog {
    let mut documented = MetricCatalog::new();
    for line in guide.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let name = cells[1].trim_matches('`').to_owned();
        let labels = cells[3]
            .split(',')
            .map(|label| label.trim().trim_matches('`'));
        let labels = labels.filter(|label| !label.is_empty()).map(str::to_owned);
        let before = documented.insert(name.clone(), (cells[2].to_owned(), labels.collect()));
        assert!(before.is_none(), "{name} comes twice");
    }
    documented
}
