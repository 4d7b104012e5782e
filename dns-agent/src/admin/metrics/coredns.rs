//! CoreDNS's metrics, so that its dashboards and alert rules show this agent.
//!
//! Names, types, labels and buckets are those of CoreDNS 1.14. Upstreams are counted in two
//! generations of names: `coredns_proxy_…`, and `coredns_forward_…` of CoreDNS 1.10 and earlier,
//! which alert rules still query. `docs/metrics.md` says what differs.

use std::fmt;

use dns_common::Outcome;
use prometheus_client::{collector::Collector, encoding::DescriptorEncoder, registry::Unit};
use zerohop_resolver::{
    AddressFamily, CacheEntryKind, CacheTrafficCounts, ConnectionProtocol, DnsServerCounts,
    HistogramCounts, ReplySource, TrafficCounts, TrafficZone, UpstreamCounts, query::Transport,
};

use super::{
    page::{MetricsPage, Sample},
    panics::panics,
    process::ProcessReadings,
};
use crate::admin::status::{KernelStatus, Status};

/// The label `server` of the kernel plane's answers.
const KERNEL: &str = "kernel";
/// The label of what the kernel plane doesn't count apart: its programs count only outcomes.
const UNKNOWN: &str = "unknown";
/// The zone of a server block for all names, as in the usual Corefile.
const ROOT_ZONE: &str = ".";
/// CoreDNS's zone of queries that entered no server block.
const DROPPED: &str = "dropped";
/// CoreDNS's name of the plugin that sends queries to upstreams.
const FORWARD: &str = "forward";

/// The state of the agent at the time of a scrape, as far as CoreDNS's metrics show it.
#[derive(Debug)]
pub(super) struct CoreDnsReadings {
    version: String,
    /// Number of configured hosts files.
    hosts_files: usize,
    traffic: TrafficCounts,
    cache: CacheOutcomes,
    /// Queries that got SERVFAIL because too many waited.
    overloads: u64,
    kernel: Vec<KernelAnswers>,
    process: Option<ProcessReadings>,
}

/// The cache's counters that don't depend on the kind of entry.
#[derive(Clone, Copy, Debug)]
struct CacheOutcomes {
    misses: u64,
    refreshes: u64,
    stale_replies: u64,
}

/// The kernel plane's answers with one response code.
#[derive(Clone, Copy, Debug)]
struct KernelAnswers {
    rcode: &'static str,
    count: u64,
}

/// Histograms of sizes by zone and transport.
type SizeRows = [(TrafficZone, Transport, HistogramCounts)];

impl CoreDnsReadings {
    pub(super) fn new(status: &Status, kernel: &KernelStatus, traffic: TrafficCounts) -> Self {
        let counts = &status.resolver.counts;
        CoreDnsReadings {
            version: status.version.clone(),
            hosts_files: status.hosts.len(),
            traffic,
            cache: CacheOutcomes {
                misses: counts.cache_misses,
                refreshes: counts.cache_refreshes,
                stale_replies: counts.stale_replies,
            },
            overloads: counts.overloaded,
            kernel: kernel_answers(kernel),
            process: ProcessReadings::read().ok(),
        }
    }

    /// The names of CoreDNS's plugins that do what this agent does.
    fn plugins(&self) -> Vec<&'static str> {
        let has_cache = self.traffic.cache.capacity > 0;
        let has_hosts = self.hosts_files > 0;
        let has_upstreams = !self.traffic.upstreams.is_empty();
        [
            ("cache", has_cache),
            (FORWARD, has_upstreams),
            ("hosts", has_hosts),
            ("kubernetes", true),
            ("prometheus", true),
        ]
        .into_iter()
        .filter_map(|(name, is_there)| is_there.then_some(name))
        .collect()
    }
}

impl Collector for CoreDnsReadings {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let page = &mut MetricsPage::new(encoder);
        let labels = [
            ("version", self.version.as_str()),
            ("revision", ""),
            ("goversion", ""),
        ];
        page.write_gauges(
            "coredns_build_info",
            None,
            "1; the version is that of this agent",
            [(
                labels.map(|(name, value)| (name, value.to_owned())).into(),
                1.0,
            )],
        )?;
        let servers = &self.traffic.servers;
        page.write_gauges(
            "coredns_plugin_enabled",
            None,
            "1 for each plugin of CoreDNS whose work this agent does",
            servers.iter().flat_map(|server| {
                self.plugins().into_iter().map(|plugin| {
                    let labels = served_by(server_label(server), TrafficZone::Served);
                    (with(labels, [("name", plugin)]), 1.0)
                })
            }),
        )?;
        page.write_counters(
            "coredns_panics",
            "Panics of the agent",
            [(Vec::new(), panics())],
        )?;
        page.write_requests(servers, &self.kernel)?;
        page.write_responses(servers, &self.kernel)?;
        page.write_message_histograms(servers)?;
        if let [server, ..] = servers.as_slice() {
            page.write_cache(&server_label(server), &self.traffic.cache, self.cache)?;
        }
        page.write_upstreams(&self.traffic.upstreams)?;
        page.write_counters(
            "coredns_forward_healthcheck_broken",
            "Questions for which all upstreams were down",
            [(Vec::new(), self.traffic.all_down)],
        )?;
        page.write_counters(
            "coredns_forward_max_concurrent_rejects",
            "Queries answered with SERVFAIL because too many waited for upstreams",
            [(Vec::new(), self.overloads)],
        )?;
        self.process.map_or(Ok(()), |process| process.write(page))
    }
}

impl MetricsPage<'_> {
    fn write_requests(
        &mut self,
        servers: &[DnsServerCounts],
        kernel: &[KernelAnswers],
    ) -> fmt::Result {
        let mut samples: Vec<Sample<u64>> = Vec::new();
        for server in servers {
            for (zone, transport, family, qtype, count) in &server.requests {
                let labels = served_by(server_label(server), *zone);
                let more = [
                    ("proto", transport_name(*transport)),
                    ("family", family_number(*family)),
                    ("type", *qtype),
                ];
                samples.push((with(labels, more), *count));
            }
        }
        if !kernel.is_empty() {
            let labels = served_by(KERNEL.to_owned(), TrafficZone::Served);
            let more = [("proto", "udp"), ("family", UNKNOWN), ("type", UNKNOWN)];
            let count = kernel.iter().map(|answers| answers.count).sum();
            samples.push((with(labels, more), count));
        }
        let help = "Queries that got a reply, of the kernel plane too";
        self.write_counters("coredns_dns_requests", help, samples)?;
        self.write_counters(
            "coredns_dns_do_requests",
            "Queries with the DO bit, without those that the kernel plane answered",
            servers.iter().flat_map(|server| {
                let counts = server.dnssec_ok.iter();
                counts.map(|(zone, count)| (served_by(server_label(server), *zone), *count))
            }),
        )
    }

    fn write_responses(
        &mut self,
        servers: &[DnsServerCounts],
        kernel: &[KernelAnswers],
    ) -> fmt::Result {
        let mut samples: Vec<Sample<u64>> = Vec::new();
        for server in servers {
            for (zone, source, rcode, count) in &server.responses {
                let labels = served_by(server_label(server), *zone);
                let more = [("rcode", *rcode), ("plugin", plugin(*source))];
                samples.push((with(labels, more), *count));
            }
        }
        for answers in kernel {
            let labels = served_by(KERNEL.to_owned(), TrafficZone::Served);
            let plugin = plugin(ReplySource::LocalData);
            let more = [("rcode", answers.rcode), ("plugin", plugin)];
            samples.push((with(labels, more), answers.count));
        }
        let help = "Replies, of the kernel plane too";
        self.write_counters("coredns_dns_responses", help, samples)
    }

    fn write_message_histograms(&mut self, servers: &[DnsServerCounts]) -> fmt::Result {
        self.write_histograms(
            "coredns_dns_request_duration",
            &Unit::Seconds,
            "Time from the arrival of a query until its reply, without the kernel plane",
            servers.iter().flat_map(|server| {
                let durations = server.durations.iter();
                durations.map(|(zone, histogram)| {
                    (served_by(server_label(server), *zone), histogram.clone())
                })
            }),
        )?;
        self.write_sizes(
            "coredns_dns_request_size",
            "Lengths of queries, without the kernel plane",
            servers,
            |server| &server.request_sizes,
        )?;
        self.write_sizes(
            "coredns_dns_response_size",
            "Lengths of replies, without the kernel plane",
            servers,
            |server| &server.response_sizes,
        )
    }

    fn write_sizes(
        &mut self,
        name: &str,
        help: &str,
        servers: &[DnsServerCounts],
        rows: fn(&DnsServerCounts) -> &SizeRows,
    ) -> fmt::Result {
        let samples = servers.iter().flat_map(|server| {
            rows(server).iter().map(|(zone, transport, histogram)| {
                let labels = served_by(server_label(server), *zone);
                let more = [("proto", transport_name(*transport))];
                (with(labels, more), histogram.clone())
            })
        });
        self.write_histograms(name, &Unit::Bytes, help, samples)
    }

    /// Writes the cache's metrics. All servers share the cache, and the first one stands for all.
    fn write_cache(
        &mut self,
        server: &str,
        kinds: &CacheTrafficCounts,
        outcomes: CacheOutcomes,
    ) -> fmt::Result {
        let labels = || {
            let values = [("server", server), ("zones", ROOT_ZONE), ("view", "")];
            with(Vec::new(), values)
        };
        let by_kind = |counts: [u64; 2]| {
            CacheEntryKind::ALL.map(|kind| {
                let kind_labels = with(labels(), [("type", kind_name(kind))]);
                (kind_labels, counts[kind as usize])
            })
        };
        let hits: u64 = kinds.hits.iter().sum();
        self.write_gauges(
            "coredns_cache_entries",
            None,
            "Replies in the cache",
            by_kind(kinds.entries).map(|(labels, count)| (labels, count as f64)),
        )?;
        self.write_counters(
            "coredns_cache_hits",
            "Queries answered from the cache",
            by_kind(kinds.hits),
        )?;
        self.write_counters(
            "coredns_cache_evictions",
            "Replies that left the cache because others needed the room",
            by_kind(kinds.evictions),
        )?;
        for (name, help, count) in [
            (
                "coredns_cache_requests",
                "Queries that could be answered from the cache",
                hits + outcomes.misses,
            ),
            (
                "coredns_cache_misses",
                "Queries that the cache had no reply for",
                outcomes.misses,
            ),
            (
                "coredns_cache_prefetch",
                "Replies that were asked for again before they expired",
                outcomes.refreshes,
            ),
            (
                "coredns_cache_served_stale",
                "Queries answered with expired records",
                outcomes.stale_replies,
            ),
            (
                "coredns_cache_drops",
                "0, because a response to another question is rejected before the cache",
                0,
            ),
        ] {
            self.write_counters(name, help, [(labels(), count)])?;
        }
        Ok(())
    }

    /// Writes the metrics of upstreams in both generations of names.
    fn write_upstreams(&mut self, upstreams: &[UpstreamCounts]) -> fmt::Result {
        let to = |upstream: &UpstreamCounts| vec![("to", upstream.server.to_string())];
        let proxy = |upstream: &UpstreamCounts| with(to(upstream), [("proxy_name", FORWARD)]);
        let durations = |labels: &dyn Fn(&UpstreamCounts) -> Vec<(&'static str, String)>| {
            let mut samples = Vec::new();
            for upstream in upstreams {
                for (rcode, histogram) in &upstream.responses {
                    let labels = with(labels(upstream), [("rcode", *rcode)]);
                    samples.push((labels, histogram.clone()));
                }
            }
            samples
        };
        let failures = "Losses and rejections after which an upstream was down, or stayed down";
        let times = "Time from a query to an upstream until its response";
        self.write_histograms(
            "coredns_proxy_request_duration",
            &Unit::Seconds,
            times,
            durations(&proxy),
        )?;
        self.write_counters(
            "coredns_proxy_healthcheck_failures",
            failures,
            upstreams.iter().map(|it| (proxy(it), it.failures)),
        )?;
        let connections = |reused: fn((u64, u64)) -> u64| {
            let mut samples = Vec::new();
            for upstream in upstreams {
                for (protocol, new, old) in &upstream.connections {
                    let protocol = [("proto", protocol_name(*protocol))];
                    samples.push((with(proxy(upstream), protocol), reused((*new, *old))));
                }
            }
            samples
        };
        self.write_counters(
            "coredns_proxy_conn_cache_hits",
            "Queries to an upstream on a connection that was open",
            connections(|(_, reused)| reused),
        )?;
        self.write_counters(
            "coredns_proxy_conn_cache_misses",
            "Queries to an upstream on a new socket or connection",
            connections(|(new, _)| new),
        )?;
        self.write_counters(
            "coredns_forward_requests",
            "Queries sent to an upstream, each repetition included",
            upstreams.iter().map(|it| (to(it), it.sent)),
        )?;
        self.write_counters(
            "coredns_forward_responses",
            "Responses of an upstream",
            durations(&to)
                .into_iter()
                .map(|(labels, histogram)| (labels, histogram.count())),
        )?;
        self.write_histograms(
            "coredns_forward_request_duration",
            &Unit::Seconds,
            times,
            durations(&to),
        )?;
        self.write_counters(
            "coredns_forward_healthcheck_failures",
            failures,
            upstreams.iter().map(|it| (to(it), it.failures)),
        )
    }
}

/// The kernel plane's answers by response code. Empty if it doesn't run.
fn kernel_answers(kernel: &KernelStatus) -> Vec<KernelAnswers> {
    let KernelStatus::On(kernel) = kernel else {
        return Vec::new();
    };
    let answers = ["NOERROR", "NXDOMAIN"].map(|rcode| {
        let answered = kernel.outcomes.iter().filter(|it| it.answered);
        let wanted = answered.filter(|it| kernel_rcode(it.outcome) == rcode);
        let count = wanted.map(|outcome| outcome.packets).sum();
        KernelAnswers { rcode, count }
    });
    answers.into()
}

/// The response code of an outcome that is an answer.
fn kernel_rcode(outcome: &str) -> &'static str {
    if outcome == Outcome::NxDomain.name() {
        "NXDOMAIN"
    } else {
        "NOERROR"
    }
}

/// The labels that every metric of queries has.
fn served_by(server: String, zone: TrafficZone) -> Vec<(&'static str, String)> {
    let zone = match zone {
        TrafficZone::Served => ROOT_ZONE,
        TrafficZone::Dropped => DROPPED,
    };
    let labels = [("server", server), ("zone", zone.to_owned())];
    let view = ("view", String::new());
    labels.into_iter().chain([view]).collect()
}

fn with<const N: usize>(
    mut labels: Vec<(&'static str, String)>,
    more: [(&'static str, &str); N],
) -> Vec<(&'static str, String)> {
    labels.extend(more.map(|(name, value)| (name, value.to_owned())));
    labels
}

fn server_label(server: &DnsServerCounts) -> String {
    format!("dns://{}", server.address)
}

fn transport_name(transport: Transport) -> &'static str {
    match transport {
        Transport::Udp => "udp",
        Transport::Tcp => "tcp",
    }
}

/// IANA's numbers of address families, which CoreDNS uses.
fn family_number(family: AddressFamily) -> &'static str {
    match family {
        AddressFamily::Ipv4 => "1",
        AddressFamily::Ipv6 => "2",
    }
}

/// The plugin of CoreDNS that would have made the reply.
fn plugin(source: ReplySource) -> &'static str {
    match source {
        ReplySource::Refusal => "",
        ReplySource::LocalData => "kubernetes",
        ReplySource::Cache => "cache",
        ReplySource::Upstreams => FORWARD,
    }
}

fn kind_name(kind: CacheEntryKind) -> &'static str {
    match kind {
        CacheEntryKind::Success => "success",
        CacheEntryKind::Denial => "denial",
    }
}

fn protocol_name(protocol: ConnectionProtocol) -> &'static str {
    match protocol {
        ConnectionProtocol::Udp => "udp",
        ConnectionProtocol::Tcp => "tcp",
        ConnectionProtocol::Tls => "tcp-tls",
    }
}

/// Rewrites bounds of buckets such as `100.0` as `100`. CoreDNS writes them so, and Prometheus
/// before version 3 compares them as text: dashboards have `le!="0"`, and sums by `le` over agents
/// and CoreDNS pods must meet the same texts.
pub(super) fn with_bounds_as_in_coredns(text: &str) -> String {
    const BOUND: &str = "{le=\"";
    let rewrite = |line: &str| {
        let (name, rest) = line.split_once(BOUND)?;
        let (bound, labels) = rest.split_once('"')?;
        let bound = bound.strip_suffix(".0")?;
        Some(format!("{name}{BOUND}{bound}\"{labels}"))
    };
    let rewrite = |line: &str| rewrite(line).unwrap_or_else(|| line.to_owned());
    text.split_inclusive('\n').map(rewrite).collect()
}
