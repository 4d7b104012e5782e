//! Forwarding to working and failing upstreams. In tests with paused time, time advances only while
//! all tasks wait.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use domain::base::iana::Rtype;
use tokio::{
    runtime::Handle,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use zerohop_resolver::{query::Transport, raise_file_limit};

use crate::support::{
    DelayedMessages, FakeUpstream, PATIENCE, ResolverUnderTest, address_reply, ask, ask_over_tcp,
    header_word, last_address, query, rcode, reply, without_delay,
};

/// The client of queries that are given to the resolver without a socket.
const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const SERVFAIL: u8 = 2;
const NXDOMAIN: u8 = 3;
const REFUSED: u8 = 5;

/// A query for a name outside the zone.
fn example() -> Vec<u8> {
    query(0x4242, "example.org", Rtype::A)
}

#[tokio::test(start_paused = true)]
async fn an_upstreams_answer_is_relayed() {
    let upstream = FakeUpstream::answering([192, 0, 2, 1]).await;
    let served = ResolverUnderTest::local(&[&upstream]);
    let query_bytes = example();
    assert_eq!(
        ask(served.address, &query_bytes).await,
        address_reply(&query_bytes, [192, 0, 2, 1])
    );
    assert_eq!(
        ask_over_tcp(served.address, &query_bytes).await,
        address_reply(&query_bytes, [192, 0, 2, 1])
    );
    let counts = served.resolver.counters().snapshot();
    assert_eq!(
        (counts.forwarded, counts.udp_queries, counts.tcp_queries),
        (2, 1, 1),
        "forwarded queries, queries over UDP, queries over TCP"
    );
    assert_eq!(counts.replies["NOERROR"], 2);
}

#[tokio::test(start_paused = true)]
async fn each_forwarded_query_has_a_random_id() {
    let (seen, mut ids) = tokio::sync::mpsc::unbounded_channel();
    let upstream = FakeUpstream::new(
        move |query| {
            seen.send(header_word(query, 0)).unwrap();
            without_delay(address_reply(query, [192, 0, 2, 1]))
        },
        |_| Vec::new(),
    )
    .await;
    let served = ResolverUnderTest::local(&[&upstream]);
    let mut different = std::collections::BTreeSet::new();
    for _ in 0..16 {
        ask(served.address, &example()).await;
        different.insert(ids.recv().await.unwrap());
    }
    // Random IDs may be equal by chance.
    assert!(different.len() > 12, "the IDs are {different:?}");
}

/// Such a message may be forged, so it ends the query over UDP, and nothing that arrives later over
/// UDP is accepted.
#[tokio::test(start_paused = true)]
async fn after_a_near_miss_the_question_goes_over_tcp() {
    type Change = fn(&mut Vec<u8>);
    let changes: [(&str, Change); 5] = [
        ("another ID", |message| message[1] ^= 1),
        // The first letter of `example.org`.
        ("another name", |message| message[13] = b'f'),
        ("another type", |message| message[26] = 28),
        ("a query", |message| message[2] &= 0x7f),
        ("an empty datagram", Vec::clear),
    ];
    for (description, change) in changes {
        let script = move |query_bytes: &[u8]| {
            let right = address_reply(query_bytes, [6, 6, 6, 6]);
            let mut near_miss = right.clone();
            change(&mut near_miss);
            [near_miss, right].map(|it| (Duration::ZERO, it)).into()
        };
        let upstream = FakeUpstream::new(script, |query_bytes| {
            without_delay(address_reply(query_bytes, [192, 0, 2, 1]))
        })
        .await;
        let served = ResolverUnderTest::local(&[&upstream]);
        let answer = ask(served.address, &example()).await;
        assert_eq!(last_address(&answer), [192, 0, 2, 1], "{description}");
        let counts = served.resolver.counters().snapshot();
        let counts = (counts.upstream_near_misses, counts.upstream_tcp_fallbacks);
        assert_eq!(counts, (1, 1), "{description}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_response_that_cant_be_read_is_fetched_over_tcp() {
    type Change = fn(&mut Vec<u8>);
    let changes: [(&str, Change); 4] = [
        ("cut short", |message| message.truncate(message.len() - 1)),
        ("4,097 bytes", |message| message.resize(4097, 0)),
        ("a header with NOERROR", |message| message.truncate(12)),
        ("a header with NXDOMAIN", |message| {
            message.truncate(12);
            message[3] |= NXDOMAIN;
        }),
    ];
    for (description, change) in changes {
        let script = move |query_bytes: &[u8]| {
            let mut message = address_reply(query_bytes, [192, 0, 2, 1]);
            change(&mut message);
            without_delay(message)
        };
        let upstream = FakeUpstream::new(script, |query_bytes| {
            without_delay(address_reply(query_bytes, [192, 0, 2, 2]))
        })
        .await;
        let served = ResolverUnderTest::local(&[&upstream]);
        let answer = ask(served.address, &example()).await;
        assert_eq!(last_address(&answer), [192, 0, 2, 2], "{description}");
    }
}

/// Some servers send only a header if they can't answer.
#[tokio::test(start_paused = true)]
async fn a_header_with_an_error_code_is_a_response() {
    let refusing = |query_bytes: &[u8]| {
        let mut message = reply(query_bytes, 0x8180 | u16::from(REFUSED));
        message.truncate(12);
        // QDCOUNT.
        message[5] = 0;
        without_delay(message)
    };
    let refusing = FakeUpstream::new(refusing, |_| Vec::new()).await;
    let served = ResolverUnderTest::local(&[&refusing]);
    let answer = ask(served.address, &example()).await;
    assert_eq!(answer, reply(&example(), 0x8180 | u16::from(REFUSED)));
    let good = FakeUpstream::answering([192, 0, 2, 2]).await;
    let served = ResolverUnderTest::local(&[&refusing, &good]);
    let answer = ask(served.address, &example()).await;
    assert_eq!(last_address(&answer), [192, 0, 2, 2]);
}

/// `race.rs` of the resolver has the time, and `scenarios/*.scn` all faults.
#[tokio::test(start_paused = true)]
async fn a_silent_upstream_costs_less_than_half_a_second() {
    let (silent, good) = (
        FakeUpstream::silent().await,
        FakeUpstream::answering([192, 0, 2, 2]).await,
    );
    let served = ResolverUnderTest::local(&[&silent, &good]);
    let timeouts = || served.resolver.counters().snapshot().upstream_timeouts;
    for limit in [500, 50, 50] {
        let start = Instant::now();
        let answer = ask(served.address, &example()).await;
        assert_eq!(last_address(&answer), [192, 0, 2, 2]);
        let elapsed = start.elapsed().as_millis();
        assert!(elapsed < limit, "answered after {elapsed} ms, not {limit}");
        // One question in twenty goes to both at once. It is answered before its query to the
        // silent one counts as lost.
        let counted = async {
            while timeouts().is_empty() {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, counted).await.unwrap();
    }
    assert_eq!(timeouts()[&silent.address.to_string()], 1);
}

/// Each fault of an upstream. The first question after the fault is answered by the other upstream
/// within 600 ms. Without another upstream, no fault becomes a denial.
#[tokio::test(start_paused = true)]
async fn no_fault_of_an_upstream_is_a_denial_or_costs_600_ms() {
    type Script = fn(&[u8]) -> DelayedMessages;
    // QR, RD and RA, with a code.
    let faults: [(&str, Script); 11] = [
        ("dead", |_| Vec::new()),
        ("slow", |query_bytes| {
            let late = reply(query_bytes, 0x8180 | u16::from(SERVFAIL));
            vec![(Duration::from_secs(3), late)]
        }),
        ("garbage", |_| without_delay(vec![0x5a; 100])),
        ("oversize", |query_bytes| {
            let mut message = reply(query_bytes, 0x8180 | u16::from(NXDOMAIN));
            message.resize(5000, 0);
            without_delay(message)
        }),
        ("truncated", |query_bytes| {
            without_delay(reply(query_bytes, 0x8380))
        }),
        ("cut short", |query_bytes| {
            let mut message = address_reply(query_bytes, [6, 6, 6, 6]);
            message.truncate(message.len() - 3);
            without_delay(message)
        }),
        ("header with NXDOMAIN", |query_bytes| {
            let mut message = reply(query_bytes, 0x8180 | u16::from(NXDOMAIN));
            message.truncate(12);
            without_delay(message)
        }),
        ("header with SERVFAIL", |query_bytes| {
            let mut message = reply(query_bytes, 0x8180 | u16::from(SERVFAIL));
            message.truncate(12);
            without_delay(message)
        }),
        ("wrong question", |query_bytes| {
            let mut message = reply(query_bytes, 0x8180 | u16::from(NXDOMAIN));
            message[13] ^= 1;
            without_delay(message)
        }),
        ("SERVFAIL", |query_bytes| {
            without_delay(reply(query_bytes, 0x8180 | u16::from(SERVFAIL)))
        }),
        ("REFUSED", |query_bytes| {
            without_delay(reply(query_bytes, 0x8180 | u16::from(REFUSED)))
        }),
    ];
    for (fault, script) in faults {
        // Over TCP, the faulty upstream closes each connection after the query.
        let faulty = FakeUpstream::new(script, |_| Vec::new()).await;
        let good = FakeUpstream::answering([192, 0, 2, 2]).await;
        let served = ResolverUnderTest::local(&[&faulty, &good]);
        let start = Instant::now();
        let answer = ask(served.address, &example()).await;
        assert_eq!(last_address(&answer), [192, 0, 2, 2], "{fault}");
        let elapsed = start.elapsed();
        assert!(elapsed < Duration::from_millis(600), "{fault}: {elapsed:?}");

        let served = ResolverUnderTest::local(&[&faulty]);
        let answer = ask(served.address, &example()).await;
        // A truncated response has NOERROR and TC, and isn't a denial.
        let is_denial = matches!(rcode(&answer), 0 | NXDOMAIN) && answer[2] & 2 == 0;
        assert!(!is_denial, "{fault}: {answer:02x?}");
        let elapsed = start.elapsed();
        assert!(elapsed < Duration::from_secs(5), "{fault}: {elapsed:?}");
    }
}

/// Of 1,000 questions to an upstream that loses three of ten datagrams, beside another one.
#[tokio::test(start_paused = true)]
async fn a_lossy_upstream_costs_no_answer() {
    let received = AtomicUsize::new(0);
    let lossy = move |query_bytes: &[u8]| {
        if [0, 3, 4].contains(&(received.fetch_add(1, Relaxed) % 10)) {
            return Vec::new();
        }
        vec![(
            Duration::from_millis(10),
            address_reply(query_bytes, [192, 0, 2, 1]),
        )]
    };
    let lossy = FakeUpstream::new(lossy, |_| Vec::new()).await;
    let other = |query_bytes: &[u8]| {
        vec![(
            Duration::from_millis(30),
            address_reply(query_bytes, [192, 0, 2, 2]),
        )]
    };
    let other = FakeUpstream::new(other, |_| Vec::new()).await;
    let served = ResolverUnderTest::local(&[&lossy, &other]);
    for number in 0..1000 {
        let start = Instant::now();
        let answer = ask(served.address, &example()).await;
        assert_eq!(rcode(&answer), 0, "question {number}");
        let elapsed = start.elapsed();
        assert!(
            elapsed < Duration::from_millis(600),
            "{number}: {elapsed:?}"
        );
    }
}

/// The client's OPT record is for the resolver, so the client gets one.
#[tokio::test(start_paused = true)]
async fn an_upstream_that_refuses_opt_records_is_asked_without_them() {
    // ARCOUNT is at offset 10.
    let old = |query_bytes: &[u8]| {
        without_delay(match header_word(query_bytes, 10) {
            0 => address_reply(query_bytes, [192, 0, 2, 1]),
            _ => reply(query_bytes, 0x8181),
        })
    };
    let upstream = FakeUpstream::new(old, |_| Vec::new()).await;
    let served = ResolverUnderTest::local(&[&upstream]);
    let mut query_bytes = example();
    query_bytes[11] = 1;
    query_bytes.extend(b"\0\0\x29\x04\xd0\0\0\0\0\0\0");
    for attempts in [2, 3] {
        let answer = ask(served.address, &query_bytes).await;
        let counts = (header_word(&answer, 6), header_word(&answer, 10));
        assert_eq!((rcode(&answer), counts), (0, (1, 1)));
        let sent = served.resolver.counters().snapshot().upstream_udp_attempts;
        assert_eq!(sent, attempts, "the server is not remembered");
    }
}

#[tokio::test(start_paused = true)]
async fn a_question_goes_on_without_its_client() {
    let late = |query_bytes: &[u8]| {
        vec![(
            Duration::from_millis(300),
            address_reply(query_bytes, [192, 0, 2, 1]),
        )]
    };
    let upstream = FakeUpstream::new(late, |_| Vec::new()).await;
    let served = ResolverUnderTest::local(&[&upstream]);
    let start = Instant::now();
    let query_bytes = example();
    let first = served
        .resolver
        .answer_message(&query_bytes, Transport::Tcp, CLIENT);
    let gone = timeout(Duration::from_millis(200), first).await;
    assert!(gone.is_err(), "{gone:?}");
    let answer = ask(served.address, &query_bytes).await;
    assert_eq!(last_address(&answer), [192, 0, 2, 1]);
    assert_eq!(served.resolver.counters().snapshot().forwarded, 1);
    assert_eq!(start.elapsed().as_millis() / 10, 30);
}

#[tokio::test(start_paused = true)]
async fn the_first_answer_counts_however_late() {
    let late = |milliseconds, address| {
        move |query_bytes: &[u8]| {
            let pause = Duration::from_millis(milliseconds);
            vec![(pause, address_reply(query_bytes, address))]
        }
    };
    let slow = FakeUpstream::new(late(1500, [192, 0, 2, 1]), |_| Vec::new()).await;
    let slower = FakeUpstream::new(late(2500, [192, 0, 2, 2]), |_| Vec::new()).await;
    let served = ResolverUnderTest::local(&[&slow, &slower]);
    let start = Instant::now();
    let answer = ask(served.address, &example()).await;
    assert_eq!(last_address(&answer), [192, 0, 2, 1]);
    assert_eq!(start.elapsed().as_millis() / 100, 15);
}

#[tokio::test(start_paused = true)]
async fn an_unreachable_upstream_is_skipped_at_once() {
    // No other test listens at this address, so the port is closed.
    let gone = UdpSocket::bind("127.1.2.3:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let good = FakeUpstream::answering([192, 0, 2, 2]).await;
    let served = ResolverUnderTest::new("127.0.0.1:0", &[gone, good.address]);
    let start = Instant::now();
    assert_eq!(
        last_address(&ask(served.address, &example()).await),
        [192, 0, 2, 2]
    );
    assert!(
        start.elapsed() < Duration::from_secs(1),
        "answered after {:?}",
        start.elapsed()
    );
    assert_eq!(served.resolver.counters().snapshot().upstream_errors, 1);
}

#[tokio::test(start_paused = true)]
async fn if_no_upstream_answers_the_reply_is_servfail() {
    let (one, two) = (FakeUpstream::silent().await, FakeUpstream::silent().await);
    let served = ResolverUnderTest::local(&[&one, &two]);
    let start = Instant::now();
    let reply = ask(served.address, &example()).await;
    assert_eq!((rcode(&reply), header_word(&reply, 6)), (SERVFAIL, 0));
    assert!(start.elapsed() <= Duration::from_millis(4500));
    assert_eq!(served.resolver.counters().snapshot().replies["SERVFAIL"], 1);
}

#[tokio::test(start_paused = true)]
async fn without_upstreams_names_outside_the_zone_are_refused() {
    let served = ResolverUnderTest::local(&[]);
    assert_eq!(rcode(&ask(served.address, &example()).await), REFUSED);
    let local = ask(served.address, &query(1, "one.z", Rtype::A)).await;
    assert_eq!(last_address(&local), [10, 0, 0, 1]);
}

#[tokio::test(start_paused = true)]
async fn errors_of_the_only_upstream_are_relayed() {
    for code in [SERVFAIL, NXDOMAIN, REFUSED] {
        // QR, RD and RA, and the code.
        let script =
            move |query_bytes: &[u8]| without_delay(reply(query_bytes, 0x8180 | u16::from(code)));
        let upstream = FakeUpstream::new(script, |_| Vec::new()).await;
        let served = ResolverUnderTest::local(&[&upstream]);
        assert_eq!(rcode(&ask(served.address, &example()).await), code);
    }
}

#[tokio::test(start_paused = true)]
async fn a_truncated_answer_is_fetched_over_tcp() {
    // QR, TC, RD and RA.
    let truncated = |query_bytes: &[u8]| without_delay(reply(query_bytes, 0x8380));
    let upstream = FakeUpstream::new(truncated, |query_bytes| {
        without_delay(address_reply(query_bytes, [192, 0, 2, 3]))
    })
    .await;
    let served = ResolverUnderTest::local(&[&upstream]);
    let answer = ask(served.address, &example()).await;
    assert_eq!(last_address(&answer), [192, 0, 2, 3]);
    // QR, RD and RA, without TC.
    assert_eq!(header_word(&answer, 2), 0x8180);
}

#[tokio::test(start_paused = true)]
async fn a_truncated_answer_is_relayed_if_no_upstream_sends_a_whole_one() {
    // QR, TC, RD and RA.
    let truncated = |query_bytes: &[u8]| without_delay(reply(query_bytes, 0x8380));
    let upstream = FakeUpstream::new(truncated, |_| Vec::new()).await;
    let served = ResolverUnderTest::local(&[&upstream]);
    assert_eq!(
        header_word(&ask(served.address, &example()).await, 2),
        0x8380
    );
    let (cut, whole) = (upstream, FakeUpstream::answering([192, 0, 2, 4]).await);
    let served = ResolverUnderTest::local(&[&cut, &whole]);
    assert_eq!(
        last_address(&ask(served.address, &example()).await),
        [192, 0, 2, 4]
    );
}

#[tokio::test(start_paused = true)]
async fn the_target_of_an_alias_is_forwarded() {
    let upstream = FakeUpstream::answering([192, 0, 2, 5]).await;
    let served = ResolverUnderTest::local(&[&upstream]);
    let answer = ask(served.address, &query(7, "out.z", Rtype::A)).await;
    // QR, AA and RD; the CNAME record and the address.
    assert_eq!(
        (header_word(&answer, 2), header_word(&answer, 6)),
        (0x8500, 2)
    );
    assert_eq!(last_address(&answer), [192, 0, 2, 5]);
    // If the target has no data of the type, the answer has only the CNAME record.
    let answer = ask(served.address, &query(7, "out.z", Rtype::AAAA)).await;
    assert_eq!(
        (
            header_word(&answer, 2),
            header_word(&answer, 6),
            header_word(&answer, 8)
        ),
        (0x8500, 1, 0)
    );
}

/// SERVFAIL is not a denial, so the client doesn't take the name for absent.
#[tokio::test(start_paused = true)]
async fn an_alias_that_no_upstream_resolves_is_servfail() {
    let failing = |code: u8| {
        let script =
            move |query_bytes: &[u8]| without_delay(reply(query_bytes, 0x8180 | u16::from(code)));
        FakeUpstream::new(script, |_| Vec::new())
    };
    let upstreams = [
        FakeUpstream::silent().await,
        failing(SERVFAIL).await,
        failing(REFUSED).await,
    ];
    let mut served: Vec<ResolverUnderTest> = upstreams
        .iter()
        .map(|it| ResolverUnderTest::local(&[it]))
        .collect();
    served.push(ResolverUnderTest::local(&[]));
    for served in served {
        for rtype in [Rtype::A, Rtype::AAAA, Rtype::MX] {
            let answer = ask(served.address, &query(7, "out.z", rtype)).await;
            // QR, RD and SERVFAIL, without AA. The reply has the known CNAME record and no SOA
            // record.
            assert_eq!(
                (
                    header_word(&answer, 2),
                    header_word(&answer, 6),
                    header_word(&answer, 8)
                ),
                (0x8102, 1, 0),
                "{rtype}"
            );
        }
    }
    let denying = failing(NXDOMAIN).await;
    let served = ResolverUnderTest::local(&[&denying]);
    let answer = ask(served.address, &query(7, "out.z", Rtype::A)).await;
    // QR, AA, RD and NXDOMAIN; the CNAME record.
    assert_eq!(
        (header_word(&answer, 2), header_word(&answer, 6)),
        (0x8503, 1)
    );
}

#[tokio::test(start_paused = true)]
async fn an_upstream_cannot_answer_for_authoritative_names() {
    // `example.org CNAME one.z`, and `one.z A 6.6.6.6` in each section.
    let script = |query_bytes: &[u8]| {
        let mut message = reply(query_bytes, 0x8180);
        // Two answer records, one authority record and one additional record.
        message[7..12].copy_from_slice(&[2, 0, 1, 0, 1]);
        message.extend(b"\xc0\x0c\0\x05\0\x01\0\0\x01\x2c\0\x07\x03one\x01z\0");
        for _ in 0..3 {
            message.extend(b"\x03one\x01z\0\0\x01\0\x01\0\0\x01\x2c\0\x04\x06\x06\x06\x06");
        }
        without_delay(message)
    };
    let upstream = FakeUpstream::new(script, |_| Vec::new()).await;
    let served = ResolverUnderTest::local(&[&upstream]);
    for name in ["example.org", "out.z"] {
        let query_bytes = query(7, name, Rtype::A);
        for answer in [
            ask(served.address, &query_bytes).await,
            ask_over_tcp(served.address, &query_bytes).await,
        ] {
            assert_eq!(last_address(&answer), [10, 0, 0, 1], "{name}");
            assert_eq!([header_word(&answer, 8), header_word(&answer, 10)], [0, 0]);
            assert!(
                !answer.windows(4).any(|bytes| bytes == [6; 4]),
                "the upstream's address 6.6.6.6 is in {answer:02x?}"
            );
        }
    }
}

/// This also protects against forgery (RFC 5452 section 5): if several equal queries are in flight,
/// a forged answer succeeds more often.
#[tokio::test(start_paused = true)]
async fn equal_queries_in_flight_are_forwarded_once() {
    let late = |query_bytes: &[u8]| {
        vec![(
            Duration::from_millis(500),
            address_reply(query_bytes, [192, 0, 2, 1]),
        )]
    };
    let upstream = FakeUpstream::new(late, |_| Vec::new()).await;
    let served = ResolverUnderTest::local(&[&upstream]);
    let mut clients = JoinSet::new();
    for id in 0..100 {
        // Each reply has the letter case of its client's query.
        let name = if id % 2 == 0 {
            "example.org"
        } else {
            "EXAMPLE.org"
        };
        let mut query_bytes = query(id, "example.org", Rtype::A);
        query_bytes[13..20].copy_from_slice(&name.as_bytes()[..7]);
        let address = served.address;
        clients.spawn(async move {
            let answer = ask(address, &query_bytes).await;
            assert_eq!(answer, address_reply(&query_bytes, [192, 0, 2, 1]));
        });
    }
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
    assert_eq!(served.resolver.counters().snapshot().forwarded, 1);
    // A query for another type is forwarded too, and a later query is forwarded again.
    ask(served.address, &query(1, "example.org", Rtype::AAAA)).await;
    ask(served.address, &example()).await;
    assert_eq!(served.resolver.counters().snapshot().forwarded, 3);
}

/// Starts an upstream that forwards each query back to `server` under another ID, as CoreDNS does
/// if the node's resolv.conf names the agent. Returns its address, the number of queries that it
/// has received, and its tasks.
async fn start_looping_upstream(
    server: Arc<OnceLock<SocketAddr>>,
) -> (SocketAddr, Arc<AtomicUsize>, JoinSet<()>) {
    let socket = Arc::new(tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap());
    let address = socket.local_addr().unwrap();
    let query_count = Arc::new(AtomicUsize::new(0));
    let mut tasks = JoinSet::new();
    let count = query_count.clone();
    tasks.spawn(async move {
        let mut forwarding = JoinSet::new();
        loop {
            let mut buffer = [0; 4096];
            let (length, client) = socket.recv_from(&mut buffer).await.unwrap();
            count.fetch_add(1, Relaxed);
            let server = *server.get().unwrap();
            let (socket, mut query) = (socket.clone(), buffer[..length].to_vec());
            forwarding.spawn(async move {
                let id = [query[0], query[1]];
                query[1] ^= 0x55;
                let mut reply = ask(server, &query).await;
                reply[..2].copy_from_slice(&id);
                // The resolver may have closed its socket.
                let _ = socket.send_to(&reply, client).await;
            });
        }
    });
    (address, query_count, tasks)
}

#[tokio::test]
async fn a_loop_costs_one_query_and_is_detected() {
    let server = Arc::new(OnceLock::new());
    let (upstream, query_count, _tasks) = start_looping_upstream(server.clone()).await;
    let good = FakeUpstream::answering([192, 0, 2, 2]).await;
    let served = ResolverUnderTest::new("127.0.0.1:0", &[upstream, good.address]);
    server.set(served.address).unwrap();

    // After the loop, the next upstream receives the query.
    let answer = ask(served.address, &example()).await;
    assert_eq!(last_address(&answer), [192, 0, 2, 2]);
    assert_eq!(query_count.load(Relaxed), 1);
    assert_eq!(served.resolver.counters().snapshot().forwarded, 1);

    let (sender, mut reports) = tokio::sync::mpsc::unbounded_channel();
    let resolver = served.resolver.clone();
    let mut watching = JoinSet::new();
    watching.spawn(async move {
        let report = |servers: &[SocketAddr]| sender.send(servers.to_vec()).unwrap();
        // The empty match compiles because this never returns.
        match resolver.watch_for_loops(report).await {}
    });
    let looping = timeout(PATIENCE, reports.recv())
        .await
        .expect("the loop is not detected");
    assert_eq!(looping, Some(vec![upstream]));
    // The resolver keeps answering.
    let local = ask(served.address, &query(1, "one.z", Rtype::A)).await;
    assert_eq!(last_address(&local), [10, 0, 0, 1]);
    let answer = ask(served.address, &query(1, "example.com", Rtype::A)).await;
    assert_eq!(last_address(&answer), [192, 0, 2, 2]);
}

/// However fast queries arrive, few of them have tasks, so their memory is limited.
#[tokio::test]
async fn a_flood_starts_a_limited_number_of_answers() {
    const ROUNDS: u64 = 15;
    // No more than half of `MAX_RECEIVED`, so that none is dropped.
    const SENT: u64 = 400;
    // A client's half of `MAX_WAITING` of the resolver, and some tasks of the test.
    const MOST_TASKS: usize = 2048 + 50;
    raise_file_limit().unwrap();
    let silent = FakeUpstream::silent().await;
    let served = ResolverUnderTest::local(&[&silent]);
    let before = Handle::current().metrics().num_alive_tasks();
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.connect(served.address).unwrap();
    // All wait for the same question, so the bound on questions doesn't count.
    let message = query(7, "example.org", Rtype::A);
    let mut most = 0;
    for round in 1..=ROUNDS {
        // The resolver doesn't run meanwhile, because the runtime has one thread.
        for _ in 0..SENT {
            socket.send(&message).unwrap();
        }
        while served.resolver.counters().snapshot().udp_queries < round * SENT {
            tokio::task::yield_now().await;
        }
        most = most.max(Handle::current().metrics().num_alive_tasks() - before);
    }
    assert!(most <= MOST_TASKS, "{most} tasks");
}

#[tokio::test]
async fn a_client_has_a_share_of_the_questions_in_flight() {
    raise_file_limit().unwrap();
    let silent = FakeUpstream::silent().await;
    let served = ResolverUnderTest::local(&[&silent]);
    let mut waiting = JoinSet::new();
    // Half of `MAX_IN_FLIGHT` of the resolver.
    let in_flight = 256;
    for number in 0..in_flight {
        let resolver = served.resolver.clone();
        let query_bytes = query(7, &format!("{number}.example.org"), Rtype::A);
        waiting.spawn(async move {
            let answer = resolver.answer_message(&query_bytes, Transport::Udp, CLIENT);
            answer.await
        });
    }
    while served.resolver.counters().snapshot().forwarded < in_flight {
        tokio::task::yield_now().await;
    }
    assert_eq!(rcode(&ask(served.address, &example()).await), SERVFAIL);
    let alias = ask(served.address, &query(7, "out.z", Rtype::A)).await;
    assert_eq!(rcode(&alias), SERVFAIL);
    let counts = served.resolver.counters().snapshot();
    assert_eq!(
        (counts.overloaded, counts.forwarded),
        (2, in_flight),
        "queries above the limit, and forwarded queries"
    );
    // Another client has its own share.
    let resolver = served.resolver.clone();
    waiting.spawn(async move {
        let (query_bytes, other) = (example(), [192, 0, 2, 9].into());
        let answer = resolver.answer_message(&query_bytes, Transport::Udp, other);
        answer.await
    });
    while served.resolver.counters().snapshot().forwarded == in_flight {
        tokio::task::yield_now().await;
    }
    assert_eq!(served.resolver.counters().snapshot().overloaded, 2);
    // Authoritative names are still answered.
    assert_eq!(
        last_address(&ask(served.address, &query(1, "one.z", Rtype::A)).await),
        [10, 0, 0, 1]
    );
}
