//! The cache of upstreams' replies, over sockets.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use domain::base::iana::Rtype;
use tokio::time::{Instant, advance};
use zerohop_resolver::{CacheSettings, ClusterDns, ServerSet, UpstreamServers, Upstreams};
use zerohop_zone::Name;

use crate::support::{
    FakeUpstream, ResolverUnderTest, address_reply, ask, ask_over_tcp, header_word, last_address,
    query, rcode, reply, without_delay,
};

const SERVFAIL: u8 = 2;
const ADDRESS: [u8; 4] = [192, 0, 2, 1];
/// The TTL of [`address_reply`], in seconds.
const TTL: u64 = 300;
/// The position of the TTL of a message's last record, which has an IPv4 address, from its end.
const LAST_TTL: usize = 10;

fn outside(server: &FakeUpstream) -> Upstreams {
    Upstreams {
        outside: ServerSet::plain([server.address]),
        ..Upstreams::default()
    }
}

fn last_ttl(message: &[u8]) -> u64 {
    let at = message.len() - LAST_TTL;
    u32::from_be_bytes(message[at..at + 4].try_into().unwrap()).into()
}

fn counts(served: &ResolverUnderTest) -> [u64; 3] {
    let counts = served.resolver.counters().snapshot();
    [counts.forwarded, counts.cache_hits, counts.cache_misses]
}

/// An upstream that answers until it is told to be silent.
async fn answering_for_a_while() -> (FakeUpstream, Arc<AtomicBool>) {
    let is_silent = Arc::new(AtomicBool::new(false));
    let silent = is_silent.clone();
    let answer = move |query: &[u8]| match silent.load(Relaxed) {
        true => Vec::new(),
        false => without_delay(address_reply(query, ADDRESS)),
    };
    (FakeUpstream::new(answer, |_| Vec::new()).await, is_silent)
}

#[tokio::test(start_paused = true)]
async fn a_reply_is_cached_until_its_ttl_has_passed() {
    let upstream = FakeUpstream::answering(ADDRESS).await;
    let served = ResolverUnderTest::caching(outside(&upstream), CacheSettings::default());
    let first = ask(served.address, &query(1, "example.org", Rtype::A)).await;
    assert_eq!(last_ttl(&first), TTL);
    advance(Duration::from_secs(100)).await;
    // Another ID, another casing, another transport.
    let cased = query(2, "eXample.ORG", Rtype::A);
    for again in [
        ask(served.address, &cased).await,
        ask_over_tcp(served.address, &cased).await,
    ] {
        assert_eq!(last_address(&again), ADDRESS);
        assert!((TTL - 110..=TTL - 100).contains(&last_ttl(&again)));
        assert_eq!(again[12..25], cased[12..25], "the casing of the question");
    }
    assert_eq!(counts(&served), [1, 2, 1]);
    advance(Duration::from_secs(TTL)).await;
    let later = ask(served.address, &cased).await;
    assert_eq!(last_ttl(&later), TTL);
    assert_eq!(counts(&served), [2, 2, 2]);
}

#[tokio::test(start_paused = true)]
async fn names_of_the_cluster_are_never_cached() {
    let upstream = FakeUpstream::answering(ADDRESS).await;
    let upstreams = Upstreams {
        cluster: Some(ClusterDns {
            domains: vec![Name::parse("cluster.local").unwrap()],
            servers: UpstreamServers::new(vec![upstream.address]),
        }),
        ..Upstreams::default()
    };
    let served = ResolverUnderTest::caching(upstreams, CacheSettings::default());
    for (id, name, forwarded) in [
        (1, "web.shop.svc.cluster.local", 1),
        (2, "web.shop.svc.cluster.local", 2),
        (3, "1.0.0.10.in-addr.arpa", 3),
        (4, "1.0.0.10.in-addr.arpa", 4),
        // The cluster's DNS also resolves names outside of the cluster.
        (5, "example.org", 5),
        (6, "example.org", 5),
    ] {
        ask(served.address, &query(id, name, Rtype::A)).await;
        assert_eq!(counts(&served)[0], forwarded, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_target_of_an_alias_is_cached() {
    let upstream = FakeUpstream::answering(ADDRESS).await;
    let served = ResolverUnderTest::caching(outside(&upstream), CacheSettings::default());
    for id in 0..3 {
        let reply = ask(served.address, &query(id, "out.z", Rtype::A)).await;
        assert_eq!((header_word(&reply, 6), last_address(&reply)), (2, ADDRESS));
    }
    // The target's reply is the same for a client that asks for it.
    let target = ask(served.address, &query(9, "example.org", Rtype::A)).await;
    assert_eq!(last_address(&target), ADDRESS);
    assert_eq!(counts(&served)[0], 1);
}

#[tokio::test(start_paused = true)]
async fn queries_without_rd_are_not_answered_from_the_cache() {
    let upstream = FakeUpstream::answering(ADDRESS).await;
    let served = ResolverUnderTest::caching(outside(&upstream), CacheSettings::default());
    let mut query = query(1, "example.org", Rtype::A);
    ask(served.address, &query).await;
    query[2] &= !1;
    ask(served.address, &query).await;
    ask(served.address, &query).await;
    assert_eq!(counts(&served)[0], 3);
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_cached_for_a_second() {
    let script = |query: &[u8]| without_delay(reply(query, 0x8180 | u16::from(SERVFAIL)));
    let upstream = FakeUpstream::new(script, |_| Vec::new()).await;
    let served = ResolverUnderTest::caching(outside(&upstream), CacheSettings::default());
    for id in 0..3 {
        let reply = ask(served.address, &query(id, "example.org", Rtype::A)).await;
        assert_eq!(rcode(&reply), SERVFAIL);
    }
    assert_eq!(counts(&served)[0], 1);
    assert_eq!(served.resolver.counters().snapshot().cached_failures, 2);
    advance(Duration::from_secs(1)).await;
    ask(served.address, &query(9, "example.org", Rtype::A)).await;
    assert_eq!(counts(&served)[0], 2);
}

#[tokio::test(start_paused = true)]
async fn the_failure_of_an_aliass_target_is_cached() {
    let script = |query: &[u8]| without_delay(reply(query, 0x8180 | u16::from(SERVFAIL)));
    let upstream = FakeUpstream::new(script, |_| Vec::new()).await;
    let served = ResolverUnderTest::caching(outside(&upstream), CacheSettings::default());
    for (id, name) in [(1, "out.z"), (2, "out.z"), (3, "example.org")] {
        let reply = ask(served.address, &query(id, name, Rtype::A)).await;
        assert_eq!(rcode(&reply), SERVFAIL, "{name}");
    }
    assert_eq!(counts(&served)[0], 1);
    assert_eq!(served.resolver.counters().snapshot().cached_failures, 2);
}

#[tokio::test(start_paused = true)]
async fn a_stale_target_of_an_alias_is_given_while_upstreams_are_silent() {
    let (upstream, is_silent) = answering_for_a_while().await;
    let settings = CacheSettings {
        stale: Duration::from_secs(3600),
        ..CacheSettings::default()
    };
    let served = ResolverUnderTest::caching(outside(&upstream), settings);
    ask(served.address, &query(1, "out.z", Rtype::A)).await;
    advance(Duration::from_secs(TTL)).await;
    is_silent.store(true, Relaxed);
    let start = Instant::now();
    let stale = ask(served.address, &query(2, "out.z", Rtype::A)).await;
    assert_eq!((last_address(&stale), last_ttl(&stale)), (ADDRESS, 30));
    assert!(start.elapsed() < Duration::from_millis(2500));
}

#[tokio::test(start_paused = true)]
async fn a_stale_reply_is_given_while_upstreams_are_silent() {
    let (upstream, is_silent) = answering_for_a_while().await;
    let settings = CacheSettings {
        stale: Duration::from_secs(3600),
        ..CacheSettings::default()
    };
    let served = ResolverUnderTest::caching(outside(&upstream), settings);
    ask(served.address, &query(1, "example.org", Rtype::A)).await;
    advance(Duration::from_secs(TTL)).await;
    is_silent.store(true, Relaxed);
    let start = Instant::now();
    let stale = ask(served.address, &query(2, "example.org", Rtype::A)).await;
    assert_eq!((last_address(&stale), last_ttl(&stale)), (ADDRESS, 30));
    let waited = start.elapsed();
    assert!(waited < Duration::from_millis(2500), "{waited:?}");
    // After upstreams have failed, no client waits for them.
    advance(Duration::from_secs(3)).await;
    let counters = served.resolver.counters();
    ask(served.address, &query(3, "example.org", Rtype::A)).await;
    let start = Instant::now();
    ask(served.address, &query(4, "example.org", Rtype::A)).await;
    assert!(start.elapsed() < Duration::from_millis(1000));
    assert!(counters.snapshot().stale_replies >= 3);
    // Later they are asked again, and answer.
    is_silent.store(false, Relaxed);
    advance(Duration::from_secs(31)).await;
    let fresh = ask(served.address, &query(5, "example.org", Rtype::A)).await;
    assert_eq!(last_ttl(&fresh), TTL);
}

#[tokio::test(start_paused = true)]
async fn a_name_that_is_asked_for_repeatedly_is_asked_for_before_it_expires() {
    let upstream = FakeUpstream::answering(ADDRESS).await;
    let served = ResolverUnderTest::caching(outside(&upstream), CacheSettings::default());
    let ask = async |id| ask(served.address, &query(id, "example.org", Rtype::A)).await;
    ask(1).await;
    ask(2).await;
    advance(Duration::from_secs(TTL * 95 / 100)).await;
    let before = ask(3).await;
    assert!(last_ttl(&before) <= TTL / 20);
    // The upstream's answer arrives at some time after the reply.
    while last_ttl(&ask(4).await) < TTL / 2 {}
    assert_eq!(served.resolver.counters().snapshot().cache_refreshes, 1);
    assert_eq!(counts(&served)[0], 2);
}
