//! `--probe`: what counts as a success, `/healthcheck`, and the metrics.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use domain::base::iana::Rtype;
use tokio::{
    task::yield_now,
    time::{Instant, timeout},
};
use zerohop_resolver::{ProbeFailure, probe_server};
use zerohop_zone::Name;

use crate::{
    agent::RunningAgent,
    support::{
        DelayedMessages, FakeUpstream, PATIENCE, address_reply, header_word, http_get, reply,
        without_delay,
    },
};

const LIMIT: Duration = Duration::from_secs(2);

/// The result of a probe of a server that answers with this script.
async fn probe(
    script: impl Fn(&[u8]) -> DelayedMessages + Send + 'static,
) -> Result<Duration, ProbeFailure> {
    let server = FakeUpstream::new(script, |_| Vec::new()).await;
    let name = Name::parse("web.example").unwrap();
    probe_server(server.address, &name, Rtype::A, LIMIT).await
}

fn answer(query: &[u8]) -> Vec<u8> {
    address_reply(query, [192, 0, 2, 1])
}

#[tokio::test(start_paused = true)]
async fn a_reply_with_a_record_is_a_success() {
    let late = Duration::from_millis(1500);
    let latency = probe(move |query| vec![(late, answer(query))]).await;
    assert_eq!(latency.unwrap(), late);
    let truncated = |query: &[u8]| {
        let mut message = answer(query);
        message[2] |= 0x02;
        without_delay(message)
    };
    probe(truncated).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn other_replies_are_failures() {
    type Script = fn(&[u8]) -> Vec<u8>;
    let scripts: [(Script, &str); 6] = [
        (|query| reply(query, 0x8180), "answers without a record"),
        (|query| reply(query, 0x8183), "answers with NXDOMAIN"),
        (|query| reply(query, 0x8182), "answers with SERVFAIL"),
        (
            |query| reply(query, 0x8185)[..12].to_vec(),
            "answers with REFUSED",
        ),
        (
            |query| {
                let mut message = answer(query);
                message.pop();
                message
            },
            "can't be read",
        ),
        (
            // An alias of a name that doesn't exist.
            |query| {
                let mut message = answer(query);
                message[3] |= 3;
                message
            },
            "answers with NXDOMAIN",
        ),
    ];
    for (script, reason) in scripts {
        let failure = probe(move |query| without_delay(script(query))).await;
        let failure = failure.unwrap_err().to_string();
        assert!(failure.contains(reason), "no {reason:?} in: {failure}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_server_fails_at_the_limit() {
    let start = Instant::now();
    let failure = probe(|_| Vec::new()).await.unwrap_err().to_string();
    assert_eq!(failure, "sends no reply within 2s");
    assert_eq!(start.elapsed(), LIMIT);
}

#[tokio::test(start_paused = true)]
async fn a_closed_port_fails_at_once() {
    let closed = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = closed.local_addr().unwrap();
    drop(closed);
    let name = Name::parse("web.example").unwrap();
    let start = Instant::now();
    let failure = probe_server(address, &name, Rtype::A, LIMIT).await;
    let failure = failure.unwrap_err().to_string();
    assert!(failure.contains("can't be queried"), "{failure}");
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn messages_that_answer_another_query_are_ignored() {
    type Change = fn(&mut Vec<u8>);
    let changes: [Change; 4] = [
        |message| message[1] ^= 1,
        // The first letter of `web.example`.
        |message| message[13] = b'x',
        |message| message[2] &= 0x7f,
        Vec::clear,
    ];
    for change in changes {
        let with_answer = move |query: &[u8]| {
            let mut wrong = answer(query);
            change(&mut wrong);
            [wrong, answer(query)].map(|it| (Duration::ZERO, it)).into()
        };
        probe(with_answer).await.unwrap();
        let wrong_only = move |query: &[u8]| {
            let mut wrong = answer(query);
            change(&mut wrong);
            without_delay(wrong)
        };
        let failure = probe(wrong_only).await.unwrap_err().to_string();
        assert!(failure.contains("no reply"), "{failure}");
    }
}

#[tokio::test(start_paused = true)]
async fn each_probe_has_a_random_id() {
    let (seen, mut ids) = tokio::sync::mpsc::unbounded_channel();
    let server = FakeUpstream::new(
        move |query| {
            seen.send(header_word(query, 0)).unwrap();
            without_delay(answer(query))
        },
        |_| Vec::new(),
    )
    .await;
    let name = Name::parse("web.example").unwrap();
    let mut different = std::collections::BTreeSet::new();
    for _ in 0..16 {
        let latency = probe_server(server.address, &name, Rtype::A, LIMIT).await;
        latency.unwrap();
        different.insert(ids.recv().await.unwrap());
    }
    // Random IDs may be equal by chance.
    assert!(different.len() > 12, "the IDs are {different:?}");
}

/// Polls an endpoint until the body or the code is as wanted, and returns the response.
async fn response_when(agent: &RunningAgent, path: &str, wanted: impl Fn(&str) -> bool) -> String {
    let waiting = async {
        loop {
            let response = http_get(agent.admin, path).await;
            if wanted(&response) {
                return response;
            }
            yield_now().await;
        }
    };
    let came = timeout(PATIENCE, waiting).await;
    came.unwrap_or_else(|_| panic!("{path} does not change as wanted"))
}

fn has_code(code: u16) -> impl Fn(&str) -> bool {
    move |response| response.starts_with(&format!("HTTP/1.1 {code} "))
}

/// The value of the sample with this name and these labels.
async fn sample(agent: &RunningAgent, name: &str) -> u64 {
    let metrics = http_get(agent.admin, "/metrics").await;
    let value = metrics
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value
        .unwrap_or_else(|| panic!("no {name} in {metrics}"))
        .parse()
        .unwrap()
}

#[tokio::test]
async fn healthcheck_follows_the_server() {
    const PATH: &str = "/healthcheck/up";
    const ERRORS: &str = "kubedns_probe_up_errors";
    let answers = Arc::new(AtomicBool::new(true));
    let script = {
        let answers = answers.clone();
        move |query: &[u8]| {
            if answers.load(Relaxed) {
                without_delay(answer(query))
            } else {
                Vec::new()
            }
        }
    };
    let server = FakeUpstream::new(script, |_| Vec::new()).await;
    let silent = FakeUpstream::silent().await;
    let flags = [
        format!("--probe=up,{},web.example,1,A", server.address),
        // Its first probe takes no part in the test.
        format!("--probe=silent,{},web.example,3600", silent.address),
    ];
    let objects = tempfile::tempdir().unwrap();
    let agent = RunningAgent::start(objects.path(), &flags.each_ref().map(String::as_str)).await;

    let response = response_when(&agent, PATH, has_code(200)).await;
    assert!(response.contains("application/json"), "{response}");
    assert!(response.contains(r#"{"IsOk":true,"#), "{response}");
    assert_eq!(sample(&agent, ERRORS).await, 0);

    answers.store(false, Relaxed);
    let response = response_when(&agent, PATH, has_code(503)).await;
    assert!(
        response.contains(r#""IsOk":false"#) && response.contains("no reply within 750ms"),
        "{response}"
    );
    let errors = sample(&agent, ERRORS).await;
    assert!(errors >= 1, "{errors}");
    let successes = sample(&agent, "kubedns_probe_up_latency_ms_count").await;
    response_when(&agent, "/metrics", |response| {
        !response.contains(&format!("{ERRORS} {errors}\n"))
    })
    .await;
    assert!(sample(&agent, ERRORS).await > errors);
    assert_eq!(
        sample(&agent, "kubedns_probe_up_latency_ms_count").await,
        successes
    );

    answers.store(true, Relaxed);
    response_when(&agent, PATH, has_code(200)).await;
    let again = sample(&agent, r#"kubedns_probe_up_latency_ms_bucket{le="+Inf"}"#).await;
    assert!(again > successes, "{again} after {successes}");

    let response = http_get(agent.admin, "/healthcheck/down").await;
    assert!(has_code(404)(&response), "{response}");
    assert!(
        response.contains("the labels are: up, silent\n"),
        "{response}"
    );
    agent.stop().await;
}
