//! The answers about special-use names, by a resolver without upstreams: it refuses what it would
//! forward. Replies are read by another parser than the resolver's.

use std::{net::Ipv4Addr, sync::Arc};

use zerohop_contract::{
    addresses::{POD, SERVED},
    message::Message,
    packet::QueryPacket,
};
use zerohop_zone::ModelBuilder;

use super::*;
use crate::{CacheSettings, Resolver, Upstreams, query::Transport};

/// The reverse name of `::1` without its first label.
const IP6: &str = "0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.ip6.arpa";

/// A resolver with `zone`, which has a name `web`.
fn resolver(zone: &str) -> Arc<Resolver> {
    let mut builder = ModelBuilder::new(1);
    let zone = Name::parse(zone).unwrap();
    builder.add_zone(zone.clone(), 5).unwrap();
    builder.add(Record {
        owner: zone.child(b"web").unwrap(),
        ttl: 5,
        data: Rdata::A(Ipv4Addr::new(10, 0, 0, 1)),
    });
    let (data, cache) = (Arc::new(builder.build()), CacheSettings::default());
    Arc::new(Resolver::new(data, Upstreams::default(), cache))
}

async fn ask(resolver: &Arc<Resolver>, packet: QueryPacket) -> Message {
    let client = Ipv4Addr::LOCALHOST.into();
    let query = packet.message();
    let reply = resolver.answer_message(&query, Transport::Udp, client);
    Message::read(&reply.await.unwrap()).unwrap()
}

fn question(name: &str, rtype: u16) -> QueryPacket {
    QueryPacket::new(POD[0], SERVED[0], name, rtype)
}

/// The response code and the records.
async fn answer(resolver: &Arc<Resolver>, name: &str, rtype: u16) -> String {
    let message = ask(resolver, question(name, rtype)).await;
    let mut records = message.sections.concat();
    records.sort_unstable();
    let code = message.rcode();
    [vec![code], records].concat().join("; ")
}

#[test]
fn all_domains_are_well_formed() {
    for (text, _, source) in DOMAINS {
        let name = Name::parse(text).unwrap();
        let domain = SpecialDomain::of(&name).unwrap();
        assert_eq!((&domain.name, domain.source), (&name, source));
    }
}

#[tokio::test]
async fn special_names_are_answered_without_a_server() {
    const A: u16 = 1;
    const NS: u16 = 2;
    const SOA: u16 = 6;
    const PTR: u16 = 12;
    const MX: u16 = 15;
    const AAAA: u16 = 28;
    const SVCB: u16 = 64;
    const ANY: u16 = 255;
    let resolver = resolver("z");
    let zone_start = |zone: &str| {
        format!("{zone}. 30 IN SOA localhost. hostmaster.invalid. 1 3600 1200 604800 30")
    };
    let denied = |code: &str, zone: &str| format!("{code}; {}", zone_start(zone));
    let no_data = |zone: &str| denied("NOERROR", zone);
    let no_name = |zone: &str| denied("NXDOMAIN", zone);
    let given = |records: &[&str]| format!("NOERROR; {}", records.join("; "));
    let host6 = &*format!("1.{IP6}");
    let unspecified6 = &*format!("0.{IP6}");
    let pointer6 = format!("{host6}. 30 IN PTR localhost.");
    for (name, rtype, expected) in [
        ("localhost", A, given(&["localhost. 30 IN A 127.0.0.1"])),
        ("localhost", AAAA, given(&["localhost. 30 IN AAAA ::1"])),
        ("localhost", MX, no_data("localhost")),
        (
            "localhost",
            ANY,
            given(&["localhost. 30 IN A 127.0.0.1", "localhost. 30 IN AAAA ::1"]),
        ),
        (
            "a.b.LOCALHOST",
            A,
            given(&["a.b.LOCALHOST. 30 IN A 127.0.0.1"]),
        ),
        ("invalid", A, no_name("invalid")),
        ("a.b.invalid", A, no_name("invalid")),
        ("onion", A, no_name("onion")),
        ("a.b.onion", AAAA, no_name("onion")),
        ("alt", A, no_name("alt")),
        ("a.b.alt", A, no_name("alt")),
        ("resolver.arpa", A, no_data("resolver.arpa")),
        ("_dns.resolver.arpa", SVCB, no_data("resolver.arpa")),
        ("a.b.resolver.arpa", A, no_data("resolver.arpa")),
        ("0.in-addr.arpa", PTR, no_data("0.in-addr.arpa")),
        ("0.0.0.0.in-addr.arpa", PTR, no_name("0.in-addr.arpa")),
        ("0.in-addr.arpa", SOA, no_data("0.in-addr.arpa")),
        (
            "0.in-addr.arpa",
            NS,
            given(&["0.in-addr.arpa. 30 IN NS localhost."]),
        ),
        ("1.0.0.127.in-addr.arpa", NS, no_data("127.in-addr.arpa")),
        ("localhost", SOA, no_data("localhost")),
        ("invalid", NS, no_name("invalid")),
        (
            host6,
            ANY,
            given(&[
                &format!("{host6}. 30 IN NS localhost."),
                &pointer6,
                &zone_start(host6),
            ]),
        ),
        (
            "1.0.0.127.in-addr.arpa",
            PTR,
            given(&["1.0.0.127.in-addr.arpa. 30 IN PTR localhost."]),
        ),
        ("1.0.0.127.in-addr.arpa", A, no_data("127.in-addr.arpa")),
        ("0.127.in-addr.arpa", PTR, no_data("127.in-addr.arpa")),
        ("127.in-addr.arpa", PTR, no_data("127.in-addr.arpa")),
        ("2.0.0.127.in-addr.arpa", PTR, no_name("127.in-addr.arpa")),
        ("a.1.0.0.127.in-addr.arpa", PTR, no_name("127.in-addr.arpa")),
        (
            "255.255.255.255.in-addr.arpa",
            PTR,
            no_data("255.255.255.255.in-addr.arpa"),
        ),
        (
            "a.255.255.255.255.in-addr.arpa",
            PTR,
            no_name("255.255.255.255.in-addr.arpa"),
        ),
        (unspecified6, PTR, no_data(unspecified6)),
        (host6, PTR, given(&[&pointer6])),
        (host6, A, no_data(host6)),
        (&format!("a.{host6}"), PTR, no_name(host6)),
    ] {
        assert_eq!(
            answer(&resolver, name, rtype).await,
            expected,
            "{name} {rtype}"
        );
    }
}

#[tokio::test]
async fn other_names_are_forwarded() {
    let resolver = resolver("z");
    for name in [
        "alocalhost",
        "localhost.example",
        "test",
        "a.test",
        "a.local",
        "home.arpa",
        "a.home.arpa",
        "arpa",
        "in-addr.arpa",
        "1.0.0.10.in-addr.arpa",
        "1.1.168.192.in-addr.arpa",
        "254.255.255.255.in-addr.arpa",
        &format!("2.{IP6}"),
        IP6,
        // The loop probe of another agent.
        "0123456789abcdef0123456789abcdef.zerohop-loop.invalid",
    ] {
        assert_eq!(answer(&resolver, name, 1).await, "REFUSED", "{name}");
    }
}

#[tokio::test]
async fn a_local_zone_comes_before_a_special_domain() {
    let below = resolver("dev.localhost");
    let web = "NOERROR; web.dev.localhost. 5 IN A 10.0.0.1";
    assert_eq!(answer(&below, "web.dev.localhost", 1).await, web);
    let absent = answer(&below, "absent.dev.localhost", 1).await;
    assert!(
        absent.starts_with("NXDOMAIN; dev.localhost. 5 IN SOA "),
        "{absent}"
    );
    let beside = answer(&below, "a.localhost", 1).await;
    assert_eq!(beside, "NOERROR; a.localhost. 30 IN A 127.0.0.1");
}

#[tokio::test]
async fn special_answers_are_authoritative_and_keep_to_the_header_of_the_query() {
    let mut packet = question("a.onion", 1);
    packet.id = 0xabcd;
    let message = ask(&resolver("z"), packet.with_edns(1232, 1, &[])).await;
    assert_eq!(message.id, 0xabcd);
    assert_eq!(message.flags(), ["aa", "rd"]);
    let edns = message.edns.unwrap();
    assert_eq!((edns.size, edns.flags), (1232, 0x8000));
}

#[tokio::test]
async fn nxname_is_a_format_error_for_each_name() {
    let resolver = resolver("z");
    for name in ["web.z", "absent.z", "a.example", "localhost"] {
        let message = ask(&resolver, question(name, 128).with_edns(1232, 0, &[])).await;
        assert_eq!(message.rcode(), "FORMERR", "{name}");
        assert_eq!(message.sections.concat(), [""; 0], "{name}");
        // The option 15 with the code 30 (RFC 8914 section 2).
        let options = message.edns.unwrap().options;
        assert_eq!(options, [0, 15, 0, 2, 0, 30], "{name}");
    }
    assert_eq!(answer(&resolver, "a.example", 128).await, "FORMERR");
}
