//! Expressions of published dashboards and alert rules for CoreDNS, which Debian's Prometheus runs
//! on the metrics of an agent.

mod prometheus;

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use serde_json::json;
use zerohop_contract::packet::{self, QueryPacket};
use zerohop_tests::{
    not_run::report_not_run,
    topology::Topology,
    udp::{UdpClient, UdpServer, eventually},
};

use self::prometheus::PrometheusProcess;
use super::{
    A, LIMIT, PodClient,
    api::{server::MemoryApiServer, service, start_cluster},
    start_agent,
};

const EXPRESSIONS: &str = include_str!("dashboards/expressions.txt");
/// The address of the user plane.
const LISTEN: &str = "127.0.0.1:5353";
/// The address of the upstream.
const UPSTREAM: &str = "127.0.0.1:5399";
/// Number of queries of each kind.
const QUERIES: usize = 20;
/// The flags QR, RD and RA, and SERVFAIL (RFC 1035 section 4.1.1).
const ANSWER: u16 = 0x8180;
const SERVFAIL: u16 = 0x8182;
/// How long to wait for the series of all expressions. Prometheus scrapes each second.
const DATA_LIMIT: Duration = Duration::from_secs(60);
/// How long to wait before expressions are run again.
const PAUSE: Duration = Duration::from_millis(200);

/// What an expression gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ExpectedResult {
    Data,
    Silence,
    /// An alert rule: silence while upstreams answer, and data when they fail.
    Alert,
    Missing,
}

/// An expression, and the comment line `from` above it.
struct DashboardExpression {
    from: &'static str,
    expected: ExpectedResult,
    /// With the values of variables.
    text: String,
}

/// The expressions of the file.
fn expressions() -> Vec<DashboardExpression> {
    let mut source = "";
    let mut expressions = Vec::new();
    for line in EXPRESSIONS.lines() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (word, rest) = line.split_once(' ').unwrap();
        let expected = match word {
            "from" => {
                source = rest;
                continue;
            }
            "data" => ExpectedResult::Data,
            "silent" => ExpectedResult::Silence,
            "alert" => ExpectedResult::Alert,
            "missing" => ExpectedResult::Missing,
            other => panic!("{other} is no kind of line"),
        };
        let mut text = rest.to_owned();
        for (variable, value) in [
            ("$selector", r#"job="kube-dns""#),
            ("$job", "kube-dns"),
            ("$instance", ".*"),
            ("$cluster", prometheus::CLUSTER),
            ("$rate", "1m"),
        ] {
            text = text.replace(variable, value);
        }
        expressions.push(DashboardExpression {
            from: source,
            expected,
            text,
        });
    }
    expressions
}

/// Waits until each of these expressions gives data, and prints how many series each gave.
fn wait_for_data(prometheus: &PrometheusProcess, expressions: &[&DashboardExpression]) {
    let started = Instant::now();
    let mut left = expressions.to_vec();
    loop {
        left.retain(|expression| {
            let series = prometheus.numbers(&expression.text);
            if !series.is_empty() {
                println!("{} series: {}", series.len(), expression.text);
            }
            series.is_empty()
        });
        if left.is_empty() {
            return;
        }
        let texts: Vec<_> = left
            .iter()
            .map(|it| format!("{}: {}", it.from, it.text))
            .collect();
        assert!(
            started.elapsed() < DATA_LIMIT,
            "no data:\n{}",
            texts.join("\n")
        );
        thread::sleep(PAUSE);
    }
}

/// Sends queries for these names over UDP, and waits for a reply to each.
fn ask_user_plane(topology: &Topology, names: impl Iterator<Item = String>) {
    let client = UdpClient::new(&topology.node, LISTEN.parse().unwrap()).unwrap();
    for name in names {
        let reply = client.ask(&message(&name), LIMIT).unwrap();
        assert!(reply.is_some(), "no reply for {name}");
    }
}

fn message(name: &str) -> Vec<u8> {
    let (client, server) = (Ipv4Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into());
    QueryPacket::new(client, server, name, A).message()
}

fn ask_over_tcp(topology: &Topology, name: &str) {
    let message = message(name);
    let ask = || {
        let mut stream = TcpStream::connect(LISTEN).unwrap();
        let length = (message.len() as u16).to_be_bytes();
        stream
            .write_all(&[&length, message.as_slice()].concat())
            .unwrap();
        let mut length = [0; 2];
        stream.read_exact(&mut length).unwrap();
    };
    topology.node.enter(ask).unwrap();
}

/// Changes the endpoints of the headless Service `db`, as the endpoints controller does it, but
/// with a time in the past.
fn change_endpoints(api: &MemoryApiServer, last: usize) {
    let slice = json!({
        "metadata": {
            "namespace": "shop",
            "name": "db-0",
            "labels": {"kubernetes.io/service-name": "db"},
            "annotations": {
                "endpoints.kubernetes.io/last-change-trigger-time": "2026-01-02T03:04:05Z",
            },
        },
        "addressType": "IPv4",
        "endpoints": [
            {"addresses": [format!("10.244.1.{last}")], "conditions": {"ready": true}},
        ],
        "ports": [{"name": "sql", "port": 5432}],
    });
    api.apply("endpointslices", slice);
}

#[test]
fn dashboards_show_the_agent_and_alert_rules_watch_it() {
    let Some(program) = prometheus::program() else {
        report_not_run(
            "the test of dashboards",
            "Prometheus is not there: run `cargo xtask setup`",
        );
        return;
    };
    let topology = Topology::routed().unwrap();
    let fails = Arc::new(AtomicBool::new(false));
    let upstream: SocketAddr = UPSTREAM.parse().unwrap();
    let answer = {
        let fails = fails.clone();
        move |query: &[u8]| match fails.load(Relaxed) {
            true => packet::empty_reply(query, SERVFAIL),
            false => packet::address_reply(query, ANSWER, 300, Ipv4Addr::new(192, 0, 2, 1)),
        }
    };
    let upstream_server = UdpServer::start(&topology.node, upstream, answer).unwrap();
    let api = start_cluster(&topology);
    let ports = json!([{"name": "sql", "port": 5432}]);
    api.apply("services", service("shop", "db", "None", &ports));
    let flags = ["--listen", LISTEN, "--upstream", UPSTREAM];
    let agent = start_agent(&topology.node, &api, &flags);
    let pod = PodClient::new(&topology);
    assert!(eventually(LIMIT, || Ok(pod.web_ttl() == Some(5))).unwrap());
    // The first observation makes the series, and rates need another one.
    change_endpoints(&api, 1);
    ask_user_plane(&topology, ["first.example".to_owned()].into_iter());

    let prometheus = PrometheusProcess::start(&program, &topology, &agent.admin);
    let is_scraped = || {
        Ok(!prometheus
            .numbers("coredns_dns_requests_total > 0")
            .is_empty())
    };
    assert!(eventually(LIMIT, is_scraped).unwrap());
    change_endpoints(&api, 2);
    for _ in 0..QUERIES {
        pod.web_ttl();
        pod.ask_for("ghost");
    }
    let names = (0..2 * QUERIES).map(|number| format!("n{}.example", number / 2));
    ask_user_plane(&topology, names);
    for name in ["web.shop.svc.cluster.local", "n0.example"] {
        ask_over_tcp(&topology, name);
    }

    let expressions = expressions();
    let with = |expected| {
        let wanted = expressions.iter().filter(move |it| it.expected == expected);
        wanted.collect::<Vec<_>>()
    };
    wait_for_data(&prometheus, &with(ExpectedResult::Data));
    use ExpectedResult::{Alert, Missing, Silence};
    for expression in [Silence, Alert, Missing].into_iter().flat_map(with) {
        let found = prometheus.numbers(&expression.text);
        let (from, text) = (expression.from, &expression.text);
        assert!(found.is_empty(), "{from}: {text} gives {found:?}");
    }

    // Upstreams fail, and then they are not there.
    fails.store(true, Relaxed);
    ask_user_plane(
        &topology,
        (0..QUERIES).map(|number| format!("f{number}.example")),
    );
    drop(upstream_server);
    ask_user_plane(&topology, (0..2).map(|number| format!("d{number}.example")));
    wait_for_data(&prometheus, &with(Alert));
    agent.stop().unwrap();
}
