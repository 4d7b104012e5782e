//! Upstreams, good and bad. Time is paused: it passes when everybody waits.

use std::{net::UdpSocket, time::Duration};

use dns_agent::resolver::raise_file_limit;
use domain::base::iana::Rtype;
use tokio::time::Instant;

use crate::support::{
    Served, Upstream, a, ask, ask_over_tcp, at_once, last_address, query, rcode, reply, word,
};

const SERVFAIL: u8 = 2;
const NXDOMAIN: u8 = 3;
const REFUSED: u8 = 5;

fn example() -> Vec<u8> {
    query(0x4242, "example.org", Rtype::A)
}

#[tokio::test(start_paused = true)]
async fn an_upstreams_answer_is_relayed() {
    let upstream = Upstream::answering([192, 0, 2, 1]).await;
    let served = Served::local(&[&upstream]);
    let asked = example();
    assert_eq!(ask(served.address, &asked).await, a(&asked, [192, 0, 2, 1]));
    assert_eq!(
        ask_over_tcp(served.address, &asked).await,
        a(&asked, [192, 0, 2, 1])
    );
    let counts = served.resolver.counters().read();
    assert_eq!(
        (counts.forwarded, counts.udp_queries, counts.tcp_queries),
        (2, 1, 1)
    );
    assert_eq!(counts.replies["NOERROR"], 2);
}

#[tokio::test(start_paused = true)]
async fn each_query_goes_out_under_an_id_of_its_own() {
    let (seen, mut ids) = tokio::sync::mpsc::unbounded_channel();
    let upstream = Upstream::new(
        move |query| {
            seen.send(word(query, 0)).unwrap();
            at_once(a(query, [192, 0, 2, 1]))
        },
        |_| Vec::new(),
    )
    .await;
    let served = Served::local(&[&upstream]);
    let mut different = std::collections::BTreeSet::new();
    for _ in 0..16 {
        ask(served.address, &example()).await;
        different.insert(ids.recv().await.unwrap());
    }
    assert!(different.len() > 12, "the IDs are {different:?}");
}

#[tokio::test(start_paused = true)]
async fn answers_to_other_questions_are_not_taken() {
    let script = |asked: &[u8]| {
        let right = a(asked, [192, 0, 2, 1]);
        let mut wrong_id = a(asked, [6, 6, 6, 1]);
        wrong_id[1] ^= 1;
        let mut wrong_name = a(asked, [6, 6, 6, 2]);
        wrong_name[13] = b'f';
        let mut wrong_type = reply(asked, 0x8180);
        let length = wrong_type.len();
        wrong_type[length - 3] = 28;
        let not_a_reply = asked.to_vec();
        let cut_short = right[..right.len() - 1].to_vec();
        [
            wrong_id,
            wrong_name,
            wrong_type,
            not_a_reply,
            cut_short,
            Vec::new(),
            right,
        ]
        .map(|message| (Duration::from_millis(10), message))
        .into()
    };
    let upstream = Upstream::new(script, |_| Vec::new()).await;
    let served = Served::local(&[&upstream]);
    assert_eq!(
        last_address(&ask(served.address, &example()).await),
        [192, 0, 2, 1]
    );
}

#[tokio::test(start_paused = true)]
async fn a_silent_upstream_is_left_for_the_next_after_two_seconds() {
    let (silent, good) = (
        Upstream::silent().await,
        Upstream::answering([192, 0, 2, 2]).await,
    );
    let served = Served::local(&[&silent, &good]);
    let start = Instant::now();
    assert_eq!(
        last_address(&ask(served.address, &example()).await),
        [192, 0, 2, 2]
    );
    assert_eq!(start.elapsed().as_secs(), 2);
    assert_eq!(served.resolver.counters().read().upstream_timeouts, 1);
}

#[tokio::test(start_paused = true)]
async fn a_late_answer_is_not_taken() {
    let late = |asked: &[u8]| vec![(Duration::from_secs(3), a(asked, [192, 0, 2, 1]))];
    let late = Upstream::new(late, |_| Vec::new()).await;
    let slow = |asked: &[u8]| vec![(Duration::from_millis(1900), a(asked, [192, 0, 2, 2]))];
    let slow = Upstream::new(slow, |_| Vec::new()).await;
    let served = Served::local(&[&late, &slow]);
    assert_eq!(
        last_address(&ask(served.address, &example()).await),
        [192, 0, 2, 2]
    );
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_is_not_there_is_left_at_once() {
    let gone = UdpSocket::bind("127.1.2.3:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let good = Upstream::answering([192, 0, 2, 2]).await;
    let served = Served::new("127.0.0.1:0", &[gone, good.address]);
    let start = Instant::now();
    assert_eq!(
        last_address(&ask(served.address, &example()).await),
        [192, 0, 2, 2]
    );
    assert!(start.elapsed() < Duration::from_secs(1));
    assert_eq!(served.resolver.counters().read().upstream_errors, 1);
}

#[tokio::test(start_paused = true)]
async fn nobodys_answer_is_servfail() {
    let (one, two) = (Upstream::silent().await, Upstream::silent().await);
    let served = Served::local(&[&one, &two]);
    let start = Instant::now();
    let reply = ask(served.address, &example()).await;
    assert_eq!((rcode(&reply), word(&reply, 6)), (SERVFAIL, 0));
    assert_eq!(start.elapsed().as_secs(), 4);
    assert_eq!(served.resolver.counters().read().replies["SERVFAIL"], 1);
}

#[tokio::test(start_paused = true)]
async fn without_upstreams_other_names_are_refused() {
    let served = Served::local(&[]);
    assert_eq!(rcode(&ask(served.address, &example()).await), REFUSED);
    let ours = ask(served.address, &query(1, "one.z", Rtype::A)).await;
    assert_eq!(last_address(&ours), [10, 0, 0, 1]);
}

#[tokio::test(start_paused = true)]
async fn errors_of_an_upstream_are_relayed() {
    for code in [SERVFAIL, NXDOMAIN, REFUSED] {
        let script = move |asked: &[u8]| at_once(reply(asked, 0x8180 | u16::from(code)));
        let upstream = Upstream::new(script, |_| Vec::new()).await;
        let served = Served::local(&[&upstream]);
        assert_eq!(rcode(&ask(served.address, &example()).await), code);
    }
}

#[tokio::test(start_paused = true)]
async fn a_truncated_answer_is_fetched_over_tcp() {
    let truncated = |asked: &[u8]| at_once(reply(asked, 0x8380));
    let upstream = Upstream::new(truncated, |asked| at_once(a(asked, [192, 0, 2, 3]))).await;
    let served = Served::local(&[&upstream]);
    let answer = ask(served.address, &example()).await;
    assert_eq!(last_address(&answer), [192, 0, 2, 3]);
    assert_eq!(word(&answer, 2), 0x8180);
}

#[tokio::test(start_paused = true)]
async fn a_truncated_answer_is_better_than_none() {
    let truncated = |asked: &[u8]| at_once(reply(asked, 0x8380));
    let upstream = Upstream::new(truncated, |_| Vec::new()).await;
    let served = Served::local(&[&upstream]);
    assert_eq!(word(&ask(served.address, &example()).await, 2), 0x8380);
    let (cut, whole) = (upstream, Upstream::answering([192, 0, 2, 4]).await);
    let served = Served::local(&[&cut, &whole]);
    assert_eq!(
        last_address(&ask(served.address, &example()).await),
        [192, 0, 2, 4]
    );
}

#[tokio::test(start_paused = true)]
async fn an_aliass_target_is_asked_for() {
    let upstream = Upstream::answering([192, 0, 2, 5]).await;
    let served = Served::local(&[&upstream]);
    let answer = ask(served.address, &query(7, "out.z", Rtype::A)).await;
    assert_eq!((word(&answer, 2), word(&answer, 6)), (0x8500, 2));
    assert_eq!(last_address(&answer), [192, 0, 2, 5]);
    // No data of that type: the alias alone.
    let answer = ask(served.address, &query(7, "out.z", Rtype::AAAA)).await;
    assert_eq!(
        (word(&answer, 2), word(&answer, 6), word(&answer, 8)),
        (0x8500, 1, 0)
    );
}

#[tokio::test(start_paused = true)]
async fn an_alias_nobody_resolves_has_no_data() {
    let silent = Upstream::silent().await;
    for served in [Served::local(&[&silent]), Served::local(&[])] {
        let answer = ask(served.address, &query(7, "out.z", Rtype::A)).await;
        assert_eq!(
            (word(&answer, 2), word(&answer, 6), word(&answer, 8)),
            (0x8500, 0, 1)
        );
    }
}

#[tokio::test]
async fn too_many_waiting_queries_are_not_added_to() {
    raise_file_limit().unwrap();
    let silent = Upstream::silent().await;
    let served = Served::local(&[&silent]);
    let mut waiting = tokio::task::JoinSet::new();
    let in_flight = 512;
    for _ in 0..in_flight {
        let resolver = served.resolver.clone();
        waiting.spawn(async move {
            resolver
                .answer(&example(), dns_agent::resolver::message::Transport::Udp)
                .await
        });
    }
    while served.resolver.counters().read().forwarded < in_flight {
        tokio::task::yield_now().await;
    }
    assert_eq!(rcode(&ask(served.address, &example()).await), SERVFAIL);
    let alias = ask(served.address, &query(7, "out.z", Rtype::A)).await;
    assert_eq!(rcode(&alias), SERVFAIL);
    let counts = served.resolver.counters().read();
    assert_eq!((counts.overloaded, counts.forwarded), (2, in_flight));
    // What is ours is answered all the same.
    assert_eq!(
        last_address(&ask(served.address, &query(1, "one.z", Rtype::A)).await),
        [10, 0, 0, 1]
    );
}
