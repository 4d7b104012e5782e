//! What a running agent tells about questions and zones.

use std::{fs, net::SocketAddr};

use dns_agent::{
    admin::{
        client,
        lookup::{KernelState, Lookup, Plane},
    },
    zone::Name,
};
use domain::base::iana::Rtype;

use crate::{
    agent::Running,
    support::{ask, query, rcode},
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

async fn lookup(running: &Running, text: &str, rtype: Rtype) -> Lookup {
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
async fn answers_with_their_objects() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("objects.yaml"), OBJECTS).unwrap();
    let running = Running::start(directory.path(), &[]).await;

    let web = lookup(&running, "WEB.shop.svc.cluster.local", Rtype::A).await;
    assert_eq!(web.name, "web.shop.svc.cluster.local.");
    assert_eq!(web.rcode.as_deref(), Some("NOERROR"));
    assert_eq!(
        web.answer[0].record,
        "web.shop.svc.cluster.local. 5 IN A 10.96.1.1"
    );
    assert_eq!(web.answer[0].objects[0].to_string(), "Service shop/web");
    assert_eq!((web.plane, web.aa), (Plane::Agent, true));
    assert_eq!(web.kernel.state, KernelState::Off);
    assert!(web.why.unwrap().contains("--interface"));

    let db = lookup(&running, "a.db.shop.svc.cluster.local", Rtype::A).await;
    assert_eq!(
        db.answer[0].objects[1].to_string(),
        "EndpointSlice shop/db-1"
    );

    let ghost = lookup(&running, "ghost.shop.svc.cluster.local", Rtype::A).await;
    assert_eq!(ghost.rcode.as_deref(), Some("NXDOMAIN"));
    assert!(ghost.authority[0].settings);
    assert_eq!(
        ghost.notes,
        ["no Service shop/ghost is known, or --labels leaves it out"]
    );

    // Names with octets that mean something in a path.
    let odd = lookup(&running, r"a/b%2f?#\032.cluster.local", Rtype::TXT).await;
    assert_eq!(odd.name, r"a/b%2f?#\032.cluster.local.");
    let root = lookup(&running, ".", Rtype::from_int(65280)).await;
    assert_eq!((&*root.name, &*root.rtype), (".", "TYPE65280"));
    running.stop().await;
}

#[tokio::test]
async fn what_is_outside_is_answered_as_the_resolver_does() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("objects.yaml"), OBJECTS).unwrap();
    let (alias, outside) = ("out.shop.svc.cluster.local", "www.example.com");

    let alone = Running::start(directory.path(), &[]).await;
    for (text, code, said) in [(alias, 0, "NOERROR"), (outside, 5, "REFUSED")] {
        let lookup = lookup(&alone, text, Rtype::A).await;
        assert_eq!(lookup.rcode.as_deref(), Some(said));
        assert_eq!(lookup.plane, Plane::Agent);
        assert!(lookup.answer.is_empty() && lookup.upstreams.is_empty());
        assert!(lookup.notes[0].contains("--upstream"), "{lookup:?}");
        let reply = ask(alone.server, &query(1, text, Rtype::A)).await;
        assert_eq!((rcode(&reply), reply[7]), (code, 0), "{text}");
    }
    let refused = lookup(&alone, "cluster.local", Rtype::AXFR).await;
    assert_eq!(refused.rcode.as_deref(), Some("REFUSED"));
    alone.stop().await;

    // Nobody is asked: nothing listens there.
    let running = Running::start(directory.path(), &["--upstream", "127.0.0.1:9"]).await;
    let upstreams = ["127.0.0.1:9".parse().unwrap()];
    let lookup_alias = lookup(&running, alias, Rtype::A).await;
    assert_eq!(
        lookup_alias.answer[0].record,
        "out.shop.svc.cluster.local. 5 IN CNAME www.example.com."
    );
    assert_eq!(lookup_alias.answer[0].objects[0].name, "out");
    assert_eq!(lookup_alias.plane, Plane::Agent);
    assert_eq!(lookup_alias.upstreams, upstreams);
    let forwarded = lookup(&running, outside, Rtype::A).await;
    assert_eq!((forwarded.plane, forwarded.rcode), (Plane::Upstream, None));
    assert_eq!(forwarded.upstreams, upstreams);
    running.stop().await;
}

#[tokio::test]
async fn zones_are_dumped_one_by_one_or_all() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("objects.yaml"), OBJECTS).unwrap();
    let running = Running::start(directory.path(), &["--reverse", "10.96.0.0/16"]).await;
    let cluster = dump(running.admin, Some("cluster.local")).await.unwrap();
    assert!(cluster.contains("\nweb.shop.svc.cluster.local. 5 IN A 10.96.1.1\n"));
    let reverse = dump(running.admin, Some("96.10.in-addr.arpa."))
        .await
        .unwrap();
    assert!(
        reverse.contains("\n1.1.96.10.in-addr.arpa. 5 IN PTR web.shop.svc.cluster.local.\n"),
        "{reverse}"
    );
    let all = dump(running.admin, None).await.unwrap();
    let rest = all.strip_prefix(&(cluster + &reverse)).unwrap();
    assert!(rest.starts_with(';') && rest.contains("1.0.244.10.in-addr.arpa"));
    assert_eq!(dump(running.admin, None).await.unwrap(), all);

    let error = dump(running.admin, Some("svc.cluster.local")).await;
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("404") && error.contains("96.10.in-addr.arpa."),
        "{error}"
    );
    running.stop().await;
}
