//! `lookup` and `dump` of a running agent.

use std::{fs, net::SocketAddr};

use dns_agent::{
    admin::client,
    admin::lookup::{AnsweringPlane, KernelState, Lookup},
};
use domain::base::iana::Rtype;
use zerohop_contract::message::Message;
use zerohop_zone::Name;

use crate::{
    agent::RunningAgent,
    support::{FakeUpstream, address_reply, ask_over_tcp, query, reply, without_delay},
};

const OBJECTS: &str = r"
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.96.1.1}
---
apiVersion: v1
kind: Service
metadata: {name: out, namespace: shop}
spec: {type: ExternalName, externalName: www.example.com}
---
apiVersion: v1
kind: Service
metadata: {name: db, namespace: shop}
spec: {clusterIP: None}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: db-1, namespace: shop, labels: {kubernetes.io/service-name: db}}
addressType: IPv4
endpoints: [{addresses: [10.244.0.1], hostname: a}]
";

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

async fn lookup(running: &RunningAgent, text: &str, rtype: Rtype) -> Lookup {
    client::lookup(running.admin, &name(text), rtype)
        .await
        .unwrap()
}

async fn dump(admin: SocketAddr, zone: Option<&str>) -> anyhow::Result<String> {
    let zone = zone.map(name);
    let mut text = client::dump(admin, zone.as_ref()).await?;
    let mut all = Vec::new();
    while let Some(piece) = text.next().await? {
        all.extend_from_slice(&piece);
    }
    Ok(String::from_utf8(all).unwrap())
}

#[tokio::test]
async fn lookup_names_the_objects_behind_answers() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("objects.yaml"), OBJECTS).unwrap();
    let running = RunningAgent::start(directory.path(), &[]).await;

    let web = lookup(&running, "WEB.shop.svc.cluster.local", Rtype::A).await;
    assert_eq!(web.name, "web.shop.svc.cluster.local.");
    assert_eq!(web.rcode.as_deref(), Some("NOERROR"));
    assert_eq!(
        web.answer[0].record,
        "web.shop.svc.cluster.local. 5 IN A 10.96.1.1"
    );
    assert_eq!(web.answer[0].objects[0].to_string(), "Service shop/web");
    assert_eq!((web.plane, web.aa), (AnsweringPlane::Agent, true));
    assert_eq!(web.kernel.state, KernelState::Off);
    let why = web.why.unwrap();
    assert!(why.contains("--interface"), "{why}");

    let db = lookup(&running, "a.db.shop.svc.cluster.local", Rtype::A).await;
    assert_eq!(
        db.answer[0].objects[1].to_string(),
        "EndpointSlice shop/db-1"
    );

    let ghost = lookup(&running, "ghost.shop.svc.cluster.local", Rtype::A).await;
    assert_eq!(ghost.rcode.as_deref(), Some("NXDOMAIN"));
    assert!(
        ghost.authority[0].settings,
        "the SOA record doesn't come from the settings"
    );
    assert_eq!(
        ghost.notes,
        [
            "there is no Service shop/ghost, or --labels (or `labels` in CoreDNS's Corefile) \
             doesn't select it"
        ]
    );

    // A name with bytes that are special in a URL path.
    let escaped = lookup(&running, r"a/b%2f?#\032.cluster.local", Rtype::TXT).await;
    assert_eq!(escaped.name, r"a/b%2f?#\032.cluster.local.");
    // A type without a mnemonic (RFC 6895 section 3.1: private use).
    let root = lookup(&running, ".", Rtype::from_int(65280)).await;
    assert_eq!((&*root.name, &*root.rtype), (".", "TYPE65280"));
    running.stop().await;
}

#[tokio::test]
async fn lookup_says_that_a_name_is_special() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("objects.yaml"), OBJECTS).unwrap();
    let running = RunningAgent::start(directory.path(), &[]).await;

    let onion = assert_lookup_matches_resolver(&running, "a.onion", Rtype::A).await;
    assert_eq!(onion.rcode.as_deref(), Some("NXDOMAIN"));
    assert_eq!(
        onion.route.as_deref(),
        Some("a special-use name (RFC 7686 section 2): no such name exists, so no server is asked")
    );
    assert!(onion.authority[0].settings, "{onion:?}");
    assert_eq!(onion.notes, [""; 0]);
    let localhost = assert_lookup_matches_resolver(&running, "localhost", Rtype::A).await;
    assert_eq!(localhost.plane, AnsweringPlane::Agent);
    assert_eq!(localhost.answer[0].record, "localhost. 30 IN A 127.0.0.1");
    assert!(localhost.answer[0].settings, "{localhost:?}");
    let nxname = lookup(&running, "a.example", Rtype::from_int(128)).await;
    assert_eq!(nxname.rcode.as_deref(), Some("FORMERR"));
    assert!(nxname.notes[0].contains("RFC 9824"), "{nxname:?}");
    running.stop().await;
}

/// Checks that a lookup reports the same response code, AA bit and records as the resolver's reply,
/// which an independent parser reads.
pub(crate) async fn assert_lookup_matches_resolver(
    running: &RunningAgent,
    text: &str,
    rtype: Rtype,
) -> Lookup {
    let lookup = lookup(running, text, rtype).await;
    let reply = ask_over_tcp(running.server, &query(1, text, rtype)).await;
    let message = Message::read(&reply).unwrap();
    let context = format!("{text} {rtype}: {lookup:?} and {message:?}");
    assert_eq!(lookup.rcode, Some(message.rcode()), "{context}");
    assert_eq!(lookup.aa, message.flags().contains(&"aa"), "{context}");
    let sections = [&lookup.answer, &lookup.authority, &lookup.additional];
    for (reported, received) in sections.into_iter().zip(message.sections) {
        let reported = reported.iter().map(|record| without_serial(&record.record));
        let mut reported: Vec<String> = reported.collect();
        let mut received: Vec<String> = received.iter().map(|line| without_serial(line)).collect();
        reported.sort_unstable();
        received.sort_unstable();
        assert_eq!(reported, received, "{context}");
    }
    lookup
}

/// A record as text. The serial of a SOA record is removed, because it may change between two
/// queries.
fn without_serial(line: &str) -> String {
    let mut words: Vec<&str> = line.split(' ').collect();
    if words.get(3) == Some(&"SOA") {
        words.remove(6);
    }
    words.join(" ")
}

/// An upstream with an address for most names. It denies names that begin with the label `absent`,
/// and replies with SERVFAIL to `broken` and with REFUSED to `refused`.
pub(crate) async fn mixed_upstream() -> FakeUpstream {
    let script = |query_bytes: &[u8]| {
        let begins_with = |label: &[u8]| query_bytes[12..].starts_with(label);
        // The flags are QR, RD and RA, and the last digit is the response code.
        without_delay(if begins_with(b"\x06absent") {
            reply(query_bytes, 0x8183)
        } else if begins_with(b"\x06broken") {
            reply(query_bytes, 0x8182)
        } else if begins_with(b"\x07refused") {
            reply(query_bytes, 0x8185)
        } else {
            address_reply(query_bytes, [192, 0, 2, 1])
        })
    };
    FakeUpstream::new(script, |_| Vec::new()).await
}

#[tokio::test]
async fn lookup_matches_the_resolver() {
    let directory = tempfile::tempdir().unwrap();
    let mut objects = OBJECTS.to_owned();
    for (name, target) in [
        ("to-absent", "absent.example.com"),
        ("to-broken", "broken.example.com"),
        ("to-web", "web.shop.svc.cluster.local"),
        ("to-out", "out.shop.svc.cluster.local"),
        ("to-nothing", "nothing.shop.svc.cluster.local"),
        ("to-legacy", "db.legacy.svc.cluster.local"),
    ] {
        objects += &format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{type: ExternalName, externalName: {target}}}\n"
        );
    }
    fs::write(directory.path().join("objects.yaml"), objects).unwrap();
    let upstream = mixed_upstream().await;
    let flag = format!("--upstream={}", upstream.address);
    let pass = "--pass=legacy.svc.cluster.local";
    for flags in [&[pass][..], &[pass, &flag]] {
        let running = RunningAgent::start(directory.path(), flags).await;
        for text in [
            "web.shop.svc.cluster.local",
            "db.shop.svc.cluster.local",
            "ghost.shop.svc.cluster.local",
            "out.shop.svc.cluster.local",
            "to-absent.shop.svc.cluster.local",
            "to-broken.shop.svc.cluster.local",
            "to-web.shop.svc.cluster.local",
            "to-out.shop.svc.cluster.local",
            "to-nothing.shop.svc.cluster.local",
            "to-legacy.shop.svc.cluster.local",
            "x.legacy.svc.cluster.local",
            "cluster.local",
            "10-1-2-3.shop.pod.cluster.local",
            "1.0.244.10.in-addr.arpa",
            "www.example.com",
            "absent.example.com",
            "broken.example.com",
            "refused.example.com",
        ] {
            for rtype in [
                Rtype::A,
                Rtype::AAAA,
                Rtype::CNAME,
                Rtype::SRV,
                Rtype::SOA,
                Rtype::PTR,
                Rtype::TXT,
            ] {
                assert_lookup_matches_resolver(&running, text, rtype).await;
            }
        }
        running.stop().await;
    }
}

#[tokio::test]
async fn lookup_of_names_outside_the_zones_matches_the_resolver() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("objects.yaml"), OBJECTS).unwrap();
    let (alias, outside) = ("out.shop.svc.cluster.local", "www.example.com");

    let without_upstreams = RunningAgent::start(directory.path(), &[]).await;
    for (text, expected) in [(alias, "SERVFAIL"), (outside, "REFUSED")] {
        let lookup = assert_lookup_matches_resolver(&without_upstreams, text, Rtype::A).await;
        assert_eq!(lookup.rcode.as_deref(), Some(expected));
        assert_eq!(lookup.plane, AnsweringPlane::Agent);
        assert!(lookup.upstreams.is_empty(), "{lookup:?}");
        assert!(lookup.notes[0].contains("--upstream"), "{lookup:?}");
    }
    let refused = lookup(&without_upstreams, "cluster.local", Rtype::AXFR).await;
    assert_eq!(refused.rcode.as_deref(), Some("REFUSED"));
    without_upstreams.stop().await;

    let upstream = mixed_upstream().await;
    let flag = format!("--upstream={}", upstream.address);
    let running = RunningAgent::start(directory.path(), &[&flag]).await;
    let completed = lookup(&running, alias, Rtype::A).await;
    assert_eq!(
        completed.answer[0].record,
        "out.shop.svc.cluster.local. 5 IN CNAME www.example.com."
    );
    assert_eq!(completed.answer[0].objects[0].name, "out");
    assert!(
        completed.answer[1].upstream && completed.answer[1].objects.is_empty(),
        "the address does not come from the upstream: {completed:?}"
    );
    assert_eq!(completed.plane, AnsweringPlane::Agent);
    assert_eq!(completed.upstreams, [upstream.address]);
    let note = "www.example.com. is forwarded: an upstream answered NOERROR";
    assert_eq!(completed.notes, [note]);
    let forwarded = lookup(&running, outside, Rtype::A).await;
    assert_eq!(forwarded.plane, AnsweringPlane::Upstream);
    assert_eq!(forwarded.rcode.as_deref(), Some("NOERROR"));
    assert_eq!(forwarded.upstreams, [upstream.address]);
    running.stop().await;
}

/// A lookup waits 4.5 s for the resolver, and the resolver a little less for upstreams.
#[tokio::test]
async fn lookup_shows_that_no_upstream_answers() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("objects.yaml"), OBJECTS).unwrap();
    let silent = [
        FakeUpstream::silent().await,
        FakeUpstream::silent().await,
        FakeUpstream::silent().await,
    ];
    let flags = silent
        .each_ref()
        .map(|upstream| format!("--upstream={}", upstream.address));
    let flags = flags.each_ref().map(|flag| &**flag);
    let running = RunningAgent::start(directory.path(), &flags).await;
    let waiting = lookup(&running, "www.example.com", Rtype::A).await;
    assert_eq!(
        (waiting.rcode.as_deref(), waiting.plane),
        (Some("SERVFAIL"), AnsweringPlane::Upstream)
    );
    assert_eq!(
        waiting.upstreams,
        silent.each_ref().map(|upstream| upstream.address)
    );
    assert!(
        waiting.notes[0].contains("no upstream answered"),
        "{:?}",
        waiting.notes
    );
    running.stop().await;
}

#[tokio::test]
async fn one_zone_or_all_zones_are_dumped() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("objects.yaml"), OBJECTS).unwrap();
    let running = RunningAgent::start(directory.path(), &["--reverse", "10.96.0.0/16"]).await;
    let cluster = dump(running.admin, Some("cluster.local")).await.unwrap();
    assert!(
        cluster.contains("\nweb.shop.svc.cluster.local. 5 IN A 10.96.1.1\n"),
        "{cluster}"
    );
    let reverse = dump(running.admin, Some("96.10.in-addr.arpa."))
        .await
        .unwrap();
    assert!(
        reverse.contains("\n1.1.96.10.in-addr.arpa. 5 IN PTR web.shop.svc.cluster.local.\n"),
        "{reverse}"
    );
    let all = dump(running.admin, None).await.unwrap();
    // The files of the zones come first, then comments with the names outside all zones.
    let rest = all
        .strip_prefix(&(cluster + &reverse))
        .unwrap_or_else(|| panic!("the zones' files do not come first: {all}"));
    assert!(
        rest.starts_with(';') && rest.contains("1.0.244.10.in-addr.arpa"),
        "{rest}"
    );
    assert_eq!(dump(running.admin, None).await.unwrap(), all);

    let error = dump(running.admin, Some("svc.cluster.local")).await;
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("404") && error.contains("96.10.in-addr.arpa."),
        "{error}"
    );
    running.stop().await;
}
