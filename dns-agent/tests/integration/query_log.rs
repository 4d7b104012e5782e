//! The log of queries, as the program writes it.

use std::{fs, net::SocketAddr, process::Stdio};

use domain::base::iana::Rtype;
use tempfile::TempDir;
use tokio::task::spawn_blocking;
use zerohop_contract::{
    addresses::{POD, SERVED},
    packet::QueryPacket,
};

use crate::{
    process::{log_lines, program, send_signal},
    support::{
        FakeUpstream, address_reply, ask, ask_over_tcp, header_word, query, reply, without_delay,
    },
};

const OBJECTS: &str = "{apiVersion: v1, kind: Namespace, metadata: {name: shop}}
---
{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}, spec: {clusterIP: 10.0.0.1}}
";
const WEB: &str = "web.shop.svc.cluster.local";
/// Upper bound on the lines of a second.
const MAX_LINES: usize = 100;

/// An upstream that fails for `bad.example`.
async fn upstream() -> FakeUpstream {
    let answer = |query: &[u8]| {
        let is_bad = query.windows(5).any(|bytes| bytes == b"\x03bad\x07");
        without_delay(if is_bad {
            reply(query, 0x8182)
        } else {
            address_reply(query, [192, 0, 2, 1])
        })
    };
    FakeUpstream::new(answer, |_| Vec::new()).await
}

/// Runs an agent with these flags while `ask` asks it. Returns the lines of its log about queries
/// without their time.
async fn logged<F: Future<Output = ()>>(
    flags: &[&str],
    upstream: &FakeUpstream,
    ask: impl FnOnce(SocketAddr) -> F,
) -> Vec<String> {
    let folder: TempDir = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("web.yaml"), OBJECTS).unwrap();
    let fixed = [
        "run",
        "--listen=127.0.0.1:0",
        "--admin=127.0.0.1:0",
        "--manifests",
    ];
    let mut child = program(&fixed)
        .arg(folder.path())
        .arg(format!("--upstream={}", upstream.address))
        .args(flags)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = log_lines(&mut child);
    let (started, lines) = spawn_blocking(move || {
        let started = lines.find(|line| line.contains("started"));
        (started.expect("the agent has ended"), lines)
    })
    .await
    .unwrap();
    let (_, listen) = started.split_once("listen=[").unwrap();
    let (listen, _) = listen.split_once(']').unwrap();
    // The lines are read meanwhile, because an agent waits while its log is not read.
    let lines = spawn_blocking(move || lines.collect::<Vec<_>>());
    ask(listen.parse().unwrap()).await;
    send_signal("TERM", &child);
    let lines = lines.await.unwrap();
    child.wait().unwrap();
    let lines = lines
        .iter()
        .filter_map(|line| line.split_once(" zerohop_resolver::query_log: "));
    lines.map(|(_, text)| text.to_owned()).collect()
}

/// A line without what differs between runs: the client's port and the duration.
fn fixed_part(line: &str) -> String {
    let words = line
        .split(' ')
        .filter(|word| !word.starts_with("duration="));
    let words = words.map(|word| match word.strip_prefix("client=127.0.0.1:") {
        Some(_) => "client=127.0.0.1:PORT",
        None => word,
    });
    words.collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn a_line_says_what_was_asked_and_answered() {
    let upstream = upstream().await;
    let server = upstream.address;
    let lines = logged(&["--log-queries=all"], &upstream, async |agent| {
        ask(agent, &query(1, WEB, Rtype::A)).await;
        ask(agent, &query(2, "Ghost.cluster.local", Rtype::AAAA)).await;
        let mut flags = QueryPacket::new(POD[0], SERVED[0], "out.example", Rtype::A.to_int())
            .with_edns(1232, 1, &[])
            .message();
        // CD.
        flags[3] |= 0x10;
        ask(agent, &flags).await;
        ask_over_tcp(agent, &flags).await;
        ask(agent, &query(3, "bad.example", Rtype::HTTPS)).await;
        ask(agent, &query(4, WEB, Rtype::AXFR)).await;
        let malformed = &query(5, WEB, Rtype::A)[..20];
        assert_eq!(header_word(&ask(agent, malformed).await, 2) & 15, 1);
    })
    .await;
    let mut lines: Vec<_> = lines.iter().map(|line| fixed_part(line)).collect();
    let fixed = "query client=127.0.0.1:PORT protocol=";
    let mut expected = [
        "\"udp\" name=web.shop.svc.cluster.local. type=A do=false cd=false rcode=\"NOERROR\" size=60 \
         source=\"local\"",
        "\"udp\" name=ghost.cluster.local. type=AAAA do=false cd=false rcode=\"NXDOMAIN\" size=91 \
         source=\"local\"",
        &format!(
            "\"udp\" name=out.example. type=A do=true cd=true rcode=\"NOERROR\" size=56 \
             source=\"upstreams\" upstream={server}"
        ),
        "\"tcp\" name=out.example. type=A do=true cd=true rcode=\"NOERROR\" size=56 source=\"cache\"",
        &format!(
            "\"udp\" name=bad.example. type=HTTPS do=false cd=false rcode=\"SERVFAIL\" size=29 \
             source=\"upstreams\" upstream={server}"
        ),
        "\"udp\" name=web.shop.svc.cluster.local. type=AXFR do=false cd=false rcode=\"REFUSED\" size=44 \
         source=\"refusal\"",
        "\"udp\" do=false cd=false rcode=\"FORMERR\" size=12 source=\"refusal\"",
    ]
    .map(|line| format!("{fixed}{line}"));
    // Each worker writes the lines of its queries after it has sent the replies.
    lines.sort();
    expected.sort();
    assert_eq!(lines, expected);
}

#[tokio::test]
async fn only_the_given_classes_are_logged_one_of_a_number() {
    let upstream = upstream().await;
    let flags = ["--log-queries=denial,error", "--log-queries-sample=2"];
    let lines = logged(&flags, &upstream, async |agent| {
        for id in 0..10 {
            ask(agent, &query(id, WEB, Rtype::A)).await;
            ask(agent, &query(id, "ghost.cluster.local", Rtype::A)).await;
        }
        ask(agent, &query(1, "bad.example", Rtype::A)).await;
    })
    .await;
    assert_eq!(lines.len(), 6, "{lines:#?}");
    assert_eq!(
        lines.iter().filter(|line| line.contains("ghost")).count(),
        5
    );
    let failed = lines.iter().filter(|line| line.contains("SERVFAIL"));
    assert_eq!(failed.count(), 1, "{lines:#?}");
}

#[tokio::test]
async fn the_log_is_limited_and_says_so_once() {
    let upstream = upstream().await;
    // All queries arrive within few seconds.
    let count = 10_000;
    let started = std::time::Instant::now();
    let lines = logged(&["--log-queries=success"], &upstream, async |agent| {
        for id in 0..count {
            ask(agent, &query(id, WEB, Rtype::A)).await;
        }
    })
    .await;
    let seconds = started.elapsed().as_secs() as usize + 2;
    let (notices, queries): (Vec<_>, Vec<_>) = lines
        .iter()
        .partition(|line| line.contains("zerohop_query_log_omitted_total"));
    assert_eq!(notices.len(), 1, "{notices:#?}");
    assert!((MAX_LINES..=seconds * MAX_LINES).contains(&queries.len()));
}

#[tokio::test]
async fn no_query_is_logged_by_default() {
    let upstream = upstream().await;
    let lines = logged(&[], &upstream, async |agent| {
        ask(agent, &query(1, WEB, Rtype::A)).await;
    })
    .await;
    assert_eq!(lines, [""; 0]);
}
