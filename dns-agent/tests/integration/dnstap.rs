//! dnstap: what a collector receives from an agent.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::Receiver,
    time::Duration,
};

use domain::base::iana::Rtype;
use tempfile::TempDir;
use tokio::time::{sleep, timeout};
use zerohop_contract::dnstap::{CollectedMessage, CollectorEvent, CollectorManner, collect};
use zerohop_tests::not_run::report_not_run;

use crate::{
    agent::RunningAgent,
    process::send_signal,
    support::{
        FakeUpstream, PATIENCE, address_reply, ask, ask_over_tcp, http_get, query, reply,
        without_delay,
    },
};

const OBJECTS: &str = "{apiVersion: v1, kind: Namespace, metadata: {name: shop}}
---
{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}, spec: {clusterIP: 10.0.0.1}}
";
const WEB: &str = "web.shop.svc.cluster.local";

/// The types of the query and of the response.
const CLIENT: [u64; 2] = [5, 6];
const FORWARDER: [u64; 2] = [7, 8];
/// Protocols.
const UDP: u64 = 1;
const TCP: u64 = 2;

/// An agent that sends its messages to a socket, and an upstream that answers over UDP with a
/// truncated message if the name has the label `tcp`.
struct TappedAgent {
    agent: RunningAgent,
    upstream: FakeUpstream,
    folder: TempDir,
}

impl TappedAgent {
    async fn start(folder: TempDir) -> TappedAgent {
        let upstream = FakeUpstream::new(
            |query| {
                let is_over_tcp = query.windows(4).any(|bytes| bytes == b"\x03tcp");
                without_delay(if is_over_tcp {
                    reply(query, 0x8380)
                } else {
                    address_reply(query, [192, 0, 2, 1])
                })
            },
            |query| without_delay(address_reply(query, [192, 0, 2, 2])),
        )
        .await;
        let manifests = folder.path().join("manifests");
        fs::create_dir(&manifests).unwrap();
        fs::write(manifests.join("web.yaml"), OBJECTS).unwrap();
        let flags = [
            format!("--upstream={}", upstream.address),
            format!("--dnstap=unix:{}", socket(&folder).display()),
        ];
        let flags: Vec<_> = flags.iter().map(String::as_str).collect();
        TappedAgent {
            agent: RunningAgent::start(&manifests, &flags).await,
            upstream,
            folder,
        }
    }
}

fn socket(folder: &TempDir) -> PathBuf {
    folder.path().join("dnstap.sock")
}

async fn next(events: &Receiver<CollectorEvent>) -> CollectorEvent {
    let receive = async {
        loop {
            match events.try_recv() {
                Ok(event) => return event,
                Err(_) => sleep(Duration::from_millis(5)).await,
            }
        }
    };
    let event = timeout(PATIENCE, receive).await;
    event.expect("no event within PATIENCE")
}

async fn next_messages<const N: usize>(
    events: &Receiver<CollectorEvent>,
) -> [Box<CollectedMessage>; N] {
    let mut messages = Vec::new();
    while messages.len() < N {
        match next(events).await {
            CollectorEvent::Message(message) => messages.push(message),
            other => panic!("no message: {other:?}"),
        }
    }
    messages.try_into().unwrap()
}

/// Checks the two messages of an exchange. Returns the query.
#[track_caller]
fn assert_exchange(
    [sent, received]: [&CollectedMessage; 2],
    kinds: [u64; 2],
    protocol: u64,
    server: std::net::SocketAddr,
) -> Vec<u8> {
    assert_eq!([sent.kind, received.kind], kinds);
    for message in [sent, received] {
        assert_eq!((message.protocol, message.family), (protocol, 1));
        assert_eq!(message.response_end, (server.ip(), server.port().into()));
        assert_eq!(message.query_end, sent.query_end);
        assert_ne!(message.query_end.1, 0);
        assert!(message.query_end.0.is_loopback());
        assert_eq!(message.query_time, sent.query_time);
        let version = message.version.as_deref().unwrap();
        assert!(version.starts_with("Zerohop "), "{version}");
        assert_eq!(message.identity, None, "the node has no name");
    }
    assert_eq!(sent.response_time, None);
    let times = (received.query_time, received.response_time.unwrap());
    assert!(
        times.0 <= times.1 && times.1 - times.0 < PATIENCE,
        "{times:?}"
    );
    let query = sent.query.clone().unwrap();
    let response = received.response.clone().unwrap();
    assert_eq!(query[..2], response[..2], "the ID");
    assert_eq!((query[2] & 0x80, response[2] & 0x80), (0, 0x80), "QR");
    query
}

#[tokio::test]
async fn a_collector_receives_the_messages_of_clients_and_upstreams() {
    let folder = tempfile::tempdir().unwrap();
    let events = collect(&socket(&folder), CollectorManner::Reading).unwrap();
    let tapped = TappedAgent::start(folder).await;
    let (server, upstream) = (tapped.agent.server, tapped.upstream.address);
    assert_eq!(next(&events).await, CollectorEvent::Started);

    let asked = query(1, WEB, Rtype::A);
    let answered = ask(server, &asked).await;
    let [first, second] = next_messages(&events).await;
    assert_eq!(
        assert_exchange([&first, &second], CLIENT, UDP, server),
        asked
    );
    assert_eq!(second.response.unwrap(), answered);

    // From an upstream over UDP, and then from the cache over TCP.
    let asked = query(2, "out.example", Rtype::A);
    ask(server, &asked).await;
    let [first, second, third, fourth] = next_messages(&events).await;
    assert_eq!(
        assert_exchange([&first, &fourth], CLIENT, UDP, server),
        asked
    );
    assert_exchange([&second, &third], FORWARDER, UDP, upstream);
    let asked = query(3, "out.example", Rtype::A);
    let answered = ask_over_tcp(server, &asked).await;
    let [first, second] = next_messages(&events).await;
    assert_eq!(
        assert_exchange([&first, &second], CLIENT, TCP, server),
        asked
    );
    assert_eq!(second.response.unwrap(), answered);

    // From an upstream over TCP.
    ask(server, &query(4, "tcp.example", Rtype::A)).await;
    let [first, second, third, fourth, fifth, last] = next_messages(&events).await;
    assert_exchange([&first, &last], CLIENT, UDP, server);
    assert_exchange([&second, &third], FORWARDER, UDP, upstream);
    assert_exchange([&fourth, &fifth], FORWARDER, TCP, upstream);

    tapped.agent.stop().await;
    assert_eq!(next(&events).await, CollectorEvent::Stopped);
    drop(tapped.folder);
}

#[tokio::test]
async fn an_agent_answers_without_a_collector_and_counts_what_it_drops() {
    let tapped = TappedAgent::start(tempfile::tempdir().unwrap()).await;
    let metrics = http_get(tapped.agent.admin, "/metrics").await;
    assert!(
        metrics.contains("\nzerohop_dnstap_dropped_total 0\n"),
        "{metrics}"
    );
    // Two messages a query, of which 16,384 may wait.
    for id in 0..8200 {
        ask(tapped.agent.server, &query(id, WEB, Rtype::A)).await;
    }
    let metrics = http_get(tapped.agent.admin, "/metrics").await;
    assert!(
        metrics.contains("\nzerohop_dnstap_dropped_total 16\n"),
        "{metrics}"
    );
    let events = collect(&socket(&tapped.folder), CollectorManner::Reading).unwrap();
    assert_eq!(next(&events).await, CollectorEvent::Started);
    next_messages::<16_384>(&events).await;
    ask(tapped.agent.server, &query(1, WEB, Rtype::AAAA)).await;
    next_messages::<2>(&events).await;
    tapped.agent.stop().await;
    assert_eq!(next(&events).await, CollectorEvent::Stopped);
}

/// The folder of Debian's `fstrm_capture` and `dnstap-ldns`, which `cargo xtask setup` unpacks.
/// `None`: it is not there.
fn tools() -> Option<PathBuf> {
    let agent = Path::new(env!("CARGO_MANIFEST_DIR"));
    let tools = agent.parent()?.join("target/tools/dnstap/usr");
    let has = |program: &str| tools.join("bin").join(program).exists();
    (has("fstrm_capture") && has("dnstap-ldns")).then_some(tools)
}

/// A command with a program of [`tools`] and its libraries.
fn tool(tools: &Path, program: &str) -> Command {
    let mut command = Command::new(tools.join("bin").join(program));
    command.env("LD_LIBRARY_PATH", tools.join("lib/x86_64-linux-gnu"));
    command
}

/// Ends a program as an operator does.
fn terminate(mut child: Child) {
    send_signal("TERM", &child);
    child.wait().unwrap();
}

#[tokio::test]
async fn debians_collector_and_reader_understand_the_stream() {
    let Some(tools) = tools() else {
        report_not_run(
            "dnstap with Debian's fstrm_capture and dnstap-ldns",
            "they are not there: run `cargo xtask setup`",
        );
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let captured = folder.path().join("captured.fstrm");
    let capture = tool(&tools, "fstrm_capture")
        .args(["-t", "protobuf:dnstap.Dnstap", "-u"])
        .arg(socket(&folder))
        .arg("-w")
        .arg(&captured)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let listening = async {
        while !socket(&folder).exists() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, listening).await.unwrap();
    let tapped = TappedAgent::start(folder).await;
    ask(tapped.agent.server, &query(1, WEB, Rtype::A)).await;
    ask(tapped.agent.server, &query(2, "tcp.example", Rtype::A)).await;
    ask_over_tcp(
        tapped.agent.server,
        &query(3, "ghost.cluster.local", Rtype::AAAA),
    )
    .await;
    let server = tapped.agent.server.port();
    tapped.agent.stop().await;
    terminate(capture);

    let read = |form| {
        let mut reader = tool(&tools, "dnstap-ldns");
        let output = reader.arg(form).arg("-r").arg(&captured).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let upstream = tapped.upstream.address.port();
    let text = read("-y");
    for (part, count) in [
        ("type: CLIENT_QUERY", 3),
        ("type: CLIENT_RESPONSE", 3),
        ("type: FORWARDER_QUERY", 2),
        ("type: FORWARDER_RESPONSE", 2),
        ("socket_family: INET", 10),
        ("socket_protocol: UDP", 6),
        ("socket_protocol: TCP", 4),
        (&format!("response_port: {server}"), 6),
        (&format!("response_port: {upstream}"), 4),
        ("rcode: NXDOMAIN", 1),
        ("version: \"Zerohop", 10),
    ] {
        assert_eq!(text.matches(part).count(), count, "{part} in {text}");
    }
    // One line a message.
    let lines = read("-q");
    assert_eq!(lines.lines().count(), 10, "{lines}");
    assert_eq!(lines.matches("\"tcp.example.\" IN A").count(), 6, "{lines}");
}
