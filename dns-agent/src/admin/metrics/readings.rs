//! Metrics that are read at the time of a scrape, from the same state as `status`.

use std::{collections::BTreeMap, fmt, time::UNIX_EPOCH};

use prometheus_client::{collector::Collector, encoding::DescriptorEncoder, registry::Unit};
use zerohop_datapath as datapath;
use zerohop_kubernetes::ObjectCounts;
use zerohop_resolver::ResolverCounts;

use super::page::{MetricsPage, Sample};
use crate::admin::status::{
    FeedState, KernelStatus, KubernetesStatus, ManifestsStatus, PlaneState, SourceStatus, Status,
    SteeringState, SteeringStatus,
};

/// The state of the agent at the time of a scrape.
#[derive(Debug)]
pub(super) struct Readings {
    pub(super) status: Status,
    pub(super) kernel: KernelStatus,
}

impl Collector for Readings {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let page = &mut MetricsPage::new(encoder);
        let Status {
            version,
            missing,
            degraded,
            limits,
            publication,
            source,
            hosts,
            problems,
            zones,
            objects,
            network_policy,
            resolver,
            steering,
            // `Readings::kernel` has the state of the kernel plane.
            kernel: _,
            datapath: _,
        } = &self.status;
        page.write_info("zerohop_build", "The agent's version", ("version", version))?;
        let is_ready = usize::from(missing.is_empty());
        page.write_gauge(
            "zerohop_ready",
            "1 if the agent is ready, else 0; a degraded agent is ready",
            is_ready,
        )?;
        page.write_gauge(
            "zerohop_missing",
            "Number of reasons for not being ready",
            missing.len(),
        )?;
        page.write_gauge(
            "zerohop_degraded",
            "Number of failures that do not keep the agent from being ready",
            degraded.len(),
        )?;
        page.write_gauge(
            "zerohop_limits",
            "Number of exceeded limits of the kernel's tables; each makes some queries pass",
            limits.len(),
        )?;
        page.write_gauges(
            "zerohop_publication_delay",
            Some(&Unit::Seconds),
            "Time since the oldest change was received that is not published yet",
            [(Vec::new(), publication.delay_seconds)],
        )?;
        page.write_gauge(
            "zerohop_passed_objects",
            "Objects whose changed names pass until they are published",
            publication.passed.len(),
        )?;
        page.write_gauges(
            "zerohop_hosts_names",
            None,
            "Names with addresses in the hosts file when it was last read",
            hosts.iter().map(|file| {
                let path = file.path.display().to_string();
                (vec![("path", path)], file.names as f64)
            }),
        )?;
        page.write_gauge(
            "zerohop_problems",
            "Objects, parts of objects and settings that can't be used",
            problems.len(),
        )?;
        page.write_gauge(
            "zerohop_zones",
            "Zones that are answered authoritatively",
            zones.len(),
        )?;
        page.write_objects(objects)?;
        if let Some(policy) = network_policy {
            page.write_gauge(
                "zerohop_pods_left_out",
                "Pods whose queries pass because of policies",
                policy.left_out.len(),
            )?;
        }
        match source {
            SourceStatus::Manifests(manifests) => page.write_manifests(manifests)?,
            SourceStatus::Kubernetes(kubernetes) => page.write_kubernetes(kubernetes)?,
        }
        let mut answers = user_answer_samples(&resolver.counts);
        page.write_resolver(&resolver.counts)?;
        page.write_steering(steering)?;
        page.write_plane_state(&self.kernel)?;
        if let KernelStatus::On(kernel) = &self.kernel {
            answers.extend(packet_samples(kernel, |outcome| outcome.answered));
            page.write_kernel(kernel)?;
        }
        page.write_counters("zerohop_answers", "Queries answered", answers)
    }
}

impl MetricsPage<'_> {
    fn write_steering(&mut self, steering: &SteeringStatus) -> fmt::Result {
        if steering.state == SteeringState::Off {
            return Ok(());
        }
        let is_on = usize::from(steering.state == SteeringState::On);
        self.write_gauge(
            "zerohop_steering",
            "1 if queries of pods that the kernel passes go to this agent's resolver, else 0",
            is_on,
        )?;
        self.write_gauge(
            "zerohop_steered_addresses",
            "Addresses of pods whose packets are steered",
            steering.pods,
        )?;
        let samples = steering.outcomes.iter();
        let samples = samples.map(|(outcome, count)| (vec![("outcome", outcome.clone())], *count));
        self.write_counters(
            "zerohop_steering_packets",
            "Packets that the steering program has seen, by what became of them",
            samples,
        )
    }

    fn write_objects(&mut self, objects: &ObjectCounts) -> fmt::Result {
        let ObjectCounts {
            namespaces,
            services,
            endpoint_slices,
            pods,
        } = objects;
        let counts = [
            ("Namespace", namespaces),
            ("Service", services),
            ("EndpointSlice", endpoint_slices),
            ("Pod", pods),
        ];
        let counts = counts.map(|(kind, count)| (vec![("kind", kind.to_owned())], *count as f64));
        self.write_gauges("zerohop_objects", None, "Known Kubernetes objects", counts)
    }

    fn write_manifests(&mut self, manifests: &ManifestsStatus) -> fmt::Result {
        let ManifestsStatus { loaded, errors, .. } = manifests;
        let loaded = humantime::parse_rfc3339(loaded).ok();
        let loaded = loaded.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        self.write_gauges(
            "zerohop_manifests_loaded_timestamp",
            Some(&Unit::Seconds),
            "Unix time of the last load of the manifests without errors",
            loaded.map(|loaded| (Vec::new(), loaded.as_secs_f64())),
        )?;
        self.write_gauge(
            "zerohop_manifests_errors",
            "Errors of the last load of the manifests; the objects of the previous load stay \
             published",
            errors.len(),
        )
    }

    fn write_kubernetes(&mut self, kubernetes: &KubernetesStatus) -> fmt::Result {
        let KubernetesStatus {
            age_seconds,
            feeds,
            requests,
            ..
        } = kubernetes;
        self.write_gauges(
            "zerohop_source_age",
            Some(&Unit::Seconds),
            "Time since the stalest watch received something; absent before everything has been \
             listed",
            age_seconds.map(|age| (Vec::new(), age)),
        )?;
        self.write_gauges(
            "zerohop_feed_state",
            None,
            "1 for the current state of a list and its watch, 0 for the other states",
            feeds.iter().flat_map(|feed| {
                FeedState::ALL.map(|state| {
                    let name = state.name().to_owned();
                    let labels = vec![("feed", feed.name.clone()), ("state", name)];
                    (labels, f64::from(u8::from(feed.state == state)))
                })
            }),
        )?;
        let of_feed = |name: &str| vec![("feed", name.to_owned())];
        self.write_gauges(
            "zerohop_feed_age",
            Some(&Unit::Seconds),
            "Time since a watch received something; 0 while no answer depends on it; absent before \
             its first list has ended",
            feeds
                .iter()
                .filter_map(|feed| Some((of_feed(&feed.name), feed.age_seconds?))),
        )?;
        self.write_counters(
            "zerohop_feed_objects",
            "Objects received from lists and watches",
            feeds.iter().map(|feed| (of_feed(&feed.name), feed.applied)),
        )?;
        self.write_counters(
            "zerohop_feed_unusable_objects",
            "Received objects that could not be used",
            feeds
                .iter()
                .map(|feed| (of_feed(&feed.name), feed.unusable)),
        )?;
        self.write_counters(
            "zerohop_api_requests",
            "Requests to the API server; every reopened watch counts as one",
            samples_by_label("verb", requests),
        )
    }

    fn write_resolver(&mut self, counts: &ResolverCounts) -> fmt::Result {
        let ResolverCounts {
            replies: _,
            udp_queries,
            tcp_queries,
            ignored,
            forwarded,
            upstream_timeouts,
            upstream_errors,
            upstream_udp_attempts,
            upstream_tcp_attempts,
            upstream_hedges,
            upstream_tcp_fallbacks,
            upstream_near_misses,
            queries_dropped,
            replies_dropped,
            overloaded,
            cache_hits,
            cache_misses,
            cache_refreshes,
            cached_failures,
            stale_replies,
            cached_replies,
            cached_bytes,
            connections_refused,
            dnstap_dropped,
            query_lines_omitted,
        } = counts;
        let queries = [("udp", udp_queries), ("tcp", tcp_queries)];
        self.write_counters(
            "zerohop_queries",
            "Messages received by the agent's resolver",
            queries.map(|(transport, count)| (vec![("transport", transport.to_owned())], *count)),
        )?;
        for (name, help, count) in [
            (
                "zerohop_queries_ignored",
                "Messages that are not queries and got no reply",
                ignored,
            ),
            (
                "zerohop_queries_dropped",
                "Queries over UDP without a reply, because too many of the client waited",
                queries_dropped,
            ),
            (
                "zerohop_replies_dropped",
                "Replies over UDP that could not be sent, or would have had to wait",
                replies_dropped,
            ),
            (
                "zerohop_connections_refused",
                "Connections closed at once because the client had its share of them",
                connections_refused,
            ),
            (
                "zerohop_dnstap_dropped",
                "DNS messages that the dnstap collector did not receive",
                dnstap_dropped,
            ),
            (
                "zerohop_query_log_omitted",
                "Lines of the query log that were left out because there were too many",
                query_lines_omitted,
            ),
            (
                "zerohop_upstream_queries",
                "Queries forwarded to another server",
                forwarded,
            ),
            (
                "zerohop_upstream_errors",
                "Queries over UDP or TLS that were rejected or could not be sent",
                upstream_errors,
            ),
            (
                "zerohop_upstream_hedges",
                "Queries sent to another server because the one before was late",
                upstream_hedges,
            ),
            (
                "zerohop_upstream_tcp_fallbacks",
                "Queries sent over TCP because a message over UDP could not be used",
                upstream_tcp_fallbacks,
            ),
            (
                "zerohop_upstream_near_misses",
                "Messages from another server's address that did not answer the query",
                upstream_near_misses,
            ),
            (
                "zerohop_upstream_overloads",
                "Queries answered with SERVFAIL because too many waited for other servers",
                overloaded,
            ),
            (
                "zerohop_cache_hits",
                "Queries answered from the cache of other servers' replies",
                cache_hits,
            ),
            (
                "zerohop_cache_misses",
                "Queries for names outside the cluster that the cache had no reply for",
                cache_misses,
            ),
            (
                "zerohop_cache_refreshes",
                "Replies that were asked for again before they expired",
                cache_refreshes,
            ),
            (
                "zerohop_cache_failures",
                "Queries answered with an error because other servers had just failed",
                cached_failures,
            ),
            (
                "zerohop_cache_stale_replies",
                "Queries answered with expired records because other servers were late or failed",
                stale_replies,
            ),
        ] {
            self.write_counters(name, help, [(Vec::new(), *count)])?;
        }
        for (name, help, value) in [
            (
                "zerohop_cache_replies",
                "Replies in the cache",
                cached_replies,
            ),
            (
                "zerohop_cache_bytes",
                "Memory of the replies in the cache",
                cached_bytes,
            ),
        ] {
            self.write_gauge(name, help, *value as usize)?;
        }
        let attempts = [
            ("udp", upstream_udp_attempts),
            ("tcp", upstream_tcp_attempts),
        ];
        self.write_counters(
            "zerohop_upstream_attempts",
            "Queries sent to other servers, each repetition included",
            attempts.map(|(transport, count)| (vec![("transport", transport.to_owned())], *count)),
        )?;
        self.write_counters(
            "zerohop_upstream_timeouts",
            "Queries to another server, over UDP or TLS, that were not answered in time",
            samples_by_label("server", upstream_timeouts),
        )
    }

    fn write_plane_state(&mut self, kernel: &KernelStatus) -> fmt::Result {
        let now = kernel.state();
        self.write_gauges(
            "zerohop_kernel_plane",
            None,
            "1 for the current state of the kernel plane, 0 for the other states",
            PlaneState::ALL.map(|state| {
                let labels = vec![("state", state.name().to_owned())];
                (labels, f64::from(u8::from(state == now)))
            }),
        )
    }

    fn write_kernel(&mut self, kernel: &datapath::DatapathStatus) -> fmt::Result {
        let mut hooks = BTreeMap::new();
        for attached in &kernel.attached {
            *hooks.entry((attached.hook, attached.mode)).or_default() += 1.0;
        }
        let hooks = hooks.into_iter().map(|((hook, mode), count)| {
            let labels = vec![("hook", hook.to_owned()), ("mode", mode.to_owned())];
            (labels, count)
        });
        self.write_gauges(
            "zerohop_hooks",
            None,
            "Interfaces with a program of Zerohop",
            hooks,
        )?;
        self.write_gauge(
            "zerohop_hooks_failed",
            "Interfaces that match and could not be attached to",
            kernel.failed.len(),
        )?;
        self.write_gauge(
            "zerohop_hooks_left_alone",
            "Interfaces that match and are skipped because of a foreign program",
            kernel.skipped.len(),
        )?;
        self.write_counters(
            "zerohop_passes",
            "Packets that the kernel program passed unchanged",
            packet_samples(kernel, |outcome| !outcome.answered),
        )?;
        let (lease, tables) = (&kernel.lease, &kernel.tables);
        for (name, unit, help, value) in [
            (
                "zerohop_lease_age",
                Unit::Seconds,
                "Time since the lease was renewed",
                lease.age_seconds,
            ),
            (
                "zerohop_lease_remaining",
                Unit::Seconds,
                "Time until the lease expires and the kernel passes everything; 0 when the lease \
                 has expired",
                lease.remaining_seconds,
            ),
            (
                "zerohop_table_record",
                Unit::Bytes,
                "Memory that records take in the kernel's tables, with unused parts of their slots",
                tables.record_bytes as f64,
            ),
            (
                "zerohop_table_record_capacity",
                Unit::Bytes,
                "Memory for records in the kernel's tables",
                tables.record_bytes_capacity as f64,
            ),
            (
                "zerohop_table_memory",
                Unit::Bytes,
                "Memory of all the kernel's tables",
                tables.memory_bytes as f64,
            ),
        ] {
            self.write_gauges(name, Some(&unit), help, [(Vec::new(), value)])?;
        }
        self.write_gauge(
            "zerohop_table_names",
            "Names in the kernel's tables",
            tables.names,
        )?;
        self.write_gauge(
            "zerohop_table_name_slots",
            "Slots for names in the kernel's tables",
            tables.words,
        )?;
        self.write_gauge(
            "zerohop_table_names_left_out",
            "Names that do not fit into the kernel's tables",
            kernel.published.left_out,
        )
    }
}

/// The kernel's packet counters of the outcomes that `is_wanted` selects.
fn packet_samples(
    kernel: &datapath::DatapathStatus,
    is_wanted: impl Fn(&datapath::status::OutcomeStatus) -> bool,
) -> Vec<Sample<u64>> {
    let wanted = kernel.outcomes.iter().filter(|outcome| is_wanted(outcome));
    let samples = wanted.map(|outcome| {
        let labels = vec![
            ("plane", "kernel".to_owned()),
            ("outcome", outcome.outcome.to_owned()),
            ("hook", outcome.hook.to_owned()),
            ("interface", outcome.interface.clone()),
        ];
        (labels, outcome.packets)
    });
    samples.collect()
}

/// The resolver's replies by response code. Error replies count, too.
fn user_answer_samples(counts: &ResolverCounts) -> Vec<Sample<u64>> {
    let replies = counts.replies.iter().map(|(rcode, count)| {
        let outcome = rcode.to_lowercase();
        let labels = vec![("plane", "user".to_owned()), ("outcome", outcome)];
        (labels, *count)
    });
    replies.collect()
}

fn samples_by_label<'a>(
    label: &'static str,
    counts: &'a BTreeMap<String, u64>,
) -> impl Iterator<Item = Sample<u64>> + 'a {
    counts
        .iter()
        .map(move |(name, count)| (vec![(label, name.clone())], *count))
}
