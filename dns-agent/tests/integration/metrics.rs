//! `/metrics` of a running agent beside those of CoreDNS: names, types, labels, values of labels,
//! and buckets.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use domain::base::iana::Rtype;
use tempfile::TempDir;
use zerohop_contract::{
    addresses::{POD, SERVED},
    packet::QueryPacket,
};

use crate::{
    agent::RunningAgent,
    support::{
        FakeUpstream, address_reply, ask, ask_over_tcp, http_get, query, reply, without_delay,
    },
};

/// CoreDNS's families: a name, a type and labels in each line.
const COREDNS: &str = include_str!("coredns-metrics.txt");
/// CoreDNS's buckets. 8291 is a typo there, and queries of dashboards name the buckets.
const DURATION_BOUNDS: &str = "0.00025 0.0005 0.001 0.002 0.004 0.008 0.016 0.032 0.064 0.128 \
                               0.256 0.512 1.024 2.048 4.096 8.192 +Inf";
const SIZE_BOUNDS: &str = "0 100 200 300 400 511 1023 2047 4095 8291 16000 32000 48000 64000 +Inf";

const OBJECTS: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.96.1.1, clusterIPs: [10.96.1.1], ports: [{name: http, port: 80}]}
";

/// A sample: its name, its labels and its value.
type ScrapedSample = (String, BTreeMap<String, String>, f64);

/// A scrape.
struct Scrape {
    /// The type of each family, by the name that the classic text format gives it.
    types: BTreeMap<String, String>,
    samples: Vec<ScrapedSample>,
}

impl Scrape {
    async fn of_agent(agent: &RunningAgent) -> Scrape {
        let response = http_get(agent.admin, "/metrics").await;
        let (head, body) = response.split_once("\r\n\r\n").unwrap();
        assert!(
            head.contains("application/openmetrics-text; version=1.0.0"),
            "{head}"
        );
        Scrape::read(body)
    }

    fn read(text: &str) -> Scrape {
        let mut scrape = Scrape {
            types: BTreeMap::new(),
            samples: Vec::new(),
        };
        for line in text.lines() {
            if let Some(family) = line.strip_prefix("# TYPE ") {
                let (name, kind) = family.split_once(' ').unwrap();
                let suffix = if kind == "counter" { "_total" } else { "" };
                let name = format!("{name}{suffix}");
                let before = scrape.types.insert(name, kind.to_owned());
                assert_eq!(before, None, "a family comes twice: {line}");
            } else if !line.starts_with('#') {
                scrape.samples.push(parse_sample(line));
            }
        }
        scrape
    }

    /// The samples of a family.
    fn of<'a>(&'a self, family: &'a str, kind: &str) -> Vec<&'a ScrapedSample> {
        let suffixes: &[&str] = match kind {
            "histogram" => &["_bucket", "_sum", "_count"],
            _ => &[""],
        };
        let is_of = |sample: &&ScrapedSample| {
            let suffix = sample.0.strip_prefix(family);
            suffix.is_some_and(|suffix| suffixes.contains(&suffix))
        };
        self.samples.iter().filter(is_of).collect()
    }

    /// The sum of the samples with this name whose labels include these.
    fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let has = |found: &BTreeMap<String, String>| {
            let mut labels = labels.iter();
            labels.all(|(name, value)| found.get(*name).is_some_and(|it| it == value))
        };
        let wanted = self.samples.iter().filter(|it| it.0 == name && has(&it.1));
        wanted.map(|sample| sample.2).sum()
    }

    /// The bounds of the buckets with these labels and any `le`, in order.
    fn bounds(&self, family: &str) -> BTreeSet<String> {
        let mut by_labels: BTreeMap<_, Vec<String>> = BTreeMap::new();
        for (name, labels, _) in &self.samples {
            if name.strip_suffix("_bucket") == Some(family) {
                let mut labels = labels.clone();
                let bound = labels.remove("le").unwrap();
                by_labels.entry(labels).or_default().push(bound);
            }
        }
        by_labels
            .into_values()
            .map(|bounds| bounds.join(" "))
            .collect()
    }
}

/// Label values of these metrics have neither quotation marks nor commas.
fn parse_sample(line: &str) -> ScrapedSample {
    let (series, value) = line.rsplit_once(' ').unwrap();
    let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
    let labels = labels.strip_suffix('}').unwrap().split(',');
    let labels = labels.filter(|label| !label.is_empty()).map(|label| {
        let (name, value) = label.split_once('=').unwrap();
        (name.to_owned(), value.trim_matches('"').to_owned())
    });
    (name.to_owned(), labels.collect(), value.parse().unwrap())
}

/// An agent with one Service that has answered queries from its data, from upstreams and from its
/// cache, and an upstream that denies `no.example`, fails for `bad.example` and knows other names.
async fn agent_with_traffic() -> (RunningAgent, FakeUpstream, TempDir) {
    let upstream = FakeUpstream::new(
        |query| {
            let has = |label: &[u8]| query.windows(label.len()).any(|bytes| bytes == label);
            let flags = match (has(b"\x02no\x07"), has(b"\x03bad\x07")) {
                (true, _) => 0x8183,
                (_, true) => 0x8182,
                _ => return without_delay(address_reply(query, [192, 0, 2, 1])),
            };
            without_delay(reply(query, flags))
        },
        |_| Vec::new(),
    )
    .await;
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("web.yaml"), OBJECTS).unwrap();
    let to_upstream = format!("--upstream={}", upstream.address);
    let agent = RunningAgent::start(folder.path(), &[&to_upstream]).await;
    let web = "web.shop.svc.cluster.local";
    for (id, name, rtype) in [
        (1, web, Rtype::A),
        (2, web, Rtype::AAAA),
        (3, "ghost.shop.svc.cluster.local", Rtype::A),
        (4, "yes.example", Rtype::A),
        (5, "yes.example", Rtype::A),
        (6, "no.example", Rtype::HTTPS),
        (7, "bad.example", Rtype::CAA),
        (8, "bad.example", Rtype::CAA),
        (9, web, Rtype::AXFR),
    ] {
        ask(agent.server, &query(id, name, rtype)).await;
    }
    ask_over_tcp(agent.server, &query(10, "yes.example", Rtype::A)).await;
    let dnssec_ok = QueryPacket::new(POD[0], SERVED[0], web, Rtype::A.to_int());
    let dnssec_ok = dnssec_ok.with_edns(1232, 1, &[]).message();
    ask(agent.server, &dnssec_ok).await;
    (agent, upstream, folder)
}

#[tokio::test]
async fn families_labels_and_buckets_are_those_of_coredns() {
    let (agent, _upstream, _folder) = agent_with_traffic().await;
    let scrape = Scrape::of_agent(&agent).await;
    let mut known = BTreeSet::new();
    for line in COREDNS.lines().filter(|line| !line.starts_with('#')) {
        let mut words = line.split(' ');
        let (family, kind) = (words.next().unwrap(), words.next().unwrap());
        known.insert(family.to_owned());
        let found = scrape.types.get(family).map(String::as_str);
        assert_eq!(found, Some(kind), "the type of {family}");
        let expected: BTreeSet<&str> = words.collect();
        let samples = scrape.of(family, kind);
        assert!(!samples.is_empty(), "{family} has no sample");
        for (name, labels, _) in samples {
            let names = labels.keys().map(String::as_str);
            let names: BTreeSet<&str> = names.filter(|name| *name != "le").collect();
            assert_eq!(names, expected, "the labels of {name}");
        }
        if kind == "histogram" {
            let bounds = if family.ends_with("_bytes") {
                SIZE_BOUNDS
            } else {
                DURATION_BOUNDS
            };
            assert_eq!(
                scrape.bounds(family),
                BTreeSet::from([bounds.to_owned()]),
                "{family}"
            );
        }
    }
    // This one has no sample without a Kubernetes API.
    known.insert("coredns_kubernetes_dns_programming_duration_seconds".to_owned());
    let exposed = scrape.types.into_keys();
    let mut others = exposed.filter(|name| !name.starts_with("zerohop_") && !known.contains(name));
    assert_eq!(others.next(), None, "a family that CoreDNS does not have");
    agent.stop().await;
}

#[tokio::test]
async fn queries_have_the_labels_that_coredns_gives_them() {
    let (agent, upstream, _folder) = agent_with_traffic().await;
    let scrape = Scrape::of_agent(&agent).await;
    let server = format!("dns://{}", agent.server);
    let to = upstream.address.to_string();
    let here = |zone| [("server", server.as_str()), ("zone", zone), ("view", "")];
    for (name, zone, more, expected) in [
        (
            "coredns_dns_requests_total",
            ".",
            &[("proto", "udp"), ("family", "1")][..],
            9.0,
        ),
        (
            "coredns_dns_requests_total",
            ".",
            &[("proto", "tcp"), ("type", "A")],
            1.0,
        ),
        ("coredns_dns_requests_total", ".", &[("type", "HTTPS")], 1.0),
        ("coredns_dns_requests_total", ".", &[("type", "other")], 2.0),
        (
            "coredns_dns_requests_total",
            "dropped",
            &[("type", "AXFR")],
            1.0,
        ),
        ("coredns_dns_do_requests_total", ".", &[], 1.0),
        ("coredns_dns_request_duration_seconds_count", ".", &[], 10.0),
        (
            "coredns_dns_request_size_bytes_count",
            ".",
            &[("proto", "udp")],
            9.0,
        ),
        (
            "coredns_dns_response_size_bytes_bucket",
            ".",
            &[("proto", "tcp"), ("le", "100")],
            1.0,
        ),
    ] {
        let labels = [&here(zone)[..], more].concat();
        assert_eq!(scrape.sum(name, &labels), expected, "{name} {labels:?}");
    }
    for (rcode, plugin, expected) in [
        ("NOERROR", "kubernetes", 3.0),
        ("NXDOMAIN", "kubernetes", 1.0),
        ("NOERROR", "forward", 1.0),
        ("NXDOMAIN", "forward", 1.0),
        ("SERVFAIL", "forward", 1.0),
        ("NOERROR", "cache", 2.0),
        ("SERVFAIL", "cache", 1.0),
        ("SERVFAIL", "kubernetes", 0.0),
    ] {
        let labels = [&here(".")[..], &[("rcode", rcode), ("plugin", plugin)]].concat();
        let found = scrape.sum("coredns_dns_responses_total", &labels);
        assert_eq!(found, expected, "{labels:?}");
    }
    let refused = [
        &here("dropped")[..],
        &[("rcode", "REFUSED"), ("plugin", "")],
    ]
    .concat();
    assert_eq!(scrape.sum("coredns_dns_responses_total", &refused), 1.0);
    for (name, more, expected) in [
        ("coredns_cache_entries", Some("success"), 1.0),
        ("coredns_cache_hits_total", Some("success"), 2.0),
        ("coredns_cache_hits_total", Some("denial"), 1.0),
        ("coredns_cache_misses_total", None, 3.0),
        ("coredns_cache_requests_total", None, 6.0),
    ] {
        let labels = [("server", server.as_str()), ("zones", "."), ("view", "")];
        let labels = labels.into_iter().chain(more.map(|kind| ("type", kind)));
        let labels: Vec<_> = labels.collect();
        assert_eq!(scrape.sum(name, &labels), expected, "{name} {more:?}");
    }
    for (name, more, expected) in [
        ("coredns_forward_requests_total", None, 3.0),
        (
            "coredns_forward_responses_total",
            Some(("rcode", "SERVFAIL")),
            1.0,
        ),
        (
            "coredns_forward_request_duration_seconds_count",
            Some(("rcode", "NXDOMAIN")),
            1.0,
        ),
        (
            "coredns_proxy_request_duration_seconds_count",
            Some(("proxy_name", "forward")),
            3.0,
        ),
        (
            "coredns_proxy_conn_cache_misses_total",
            Some(("proto", "udp")),
            3.0,
        ),
        (
            "coredns_proxy_conn_cache_hits_total",
            Some(("proto", "udp")),
            0.0,
        ),
    ] {
        let labels: Vec<_> = [("to", to.as_str())].into_iter().chain(more).collect();
        assert_eq!(scrape.sum(name, &labels), expected, "{name} {more:?}");
    }
    for plugin in ["cache", "forward", "kubernetes", "prometheus"] {
        let labels = [&here(".")[..], &[("name", plugin)]].concat();
        assert_eq!(
            scrape.sum("coredns_plugin_enabled", &labels),
            1.0,
            "{plugin}"
        );
    }
    agent.stop().await;
}
