//! A small model of zones, with at least one name for each kind of answer except `NotYetKnown`.

use std::{net::IpAddr, sync::LazyLock};

use zerohop_zone::{ComputedNames, Model, ModelBuilder, Name, Rdata, Record, Srv};

/// The model that all fuzz targets answer from.
pub static MODEL: LazyLock<Model> = LazyLock::new(build);

/// Query names. A byte of an input selects one, modulo their number, so a new name changes the
/// meaning of bytes of 40 and more.
pub const NAMES: [&str; 40] = [
    "web.shop.svc.cluster.local",
    "cart.shop.svc.cluster.local",
    "odd1.shop.svc.cluster.local",
    "odd22.shop.svc.cluster.local",
    "db.shop.svc.cluster.local",
    "db-0.db.shop.svc.cluster.local",
    "crowd.shop.svc.cluster.local",
    "throng.shop.svc.cluster.local",
    "away.shop.svc.cluster.local",
    "near.shop.svc.cluster.local",
    "chain.shop.svc.cluster.local",
    "loop.shop.svc.cluster.local",
    "nowhere.shop.svc.cluster.local",
    "_http._tcp.web.shop.svc.cluster.local",
    "_sql._tcp.db.shop.svc.cluster.local",
    "shop.svc.cluster.local",
    "svc.cluster.local",
    "cluster.local",
    "dns-version.cluster.local",
    "dns.cluster.local",
    "10-244-0-9.shop.pod.cluster.local",
    "fd00--9.shop.pod.cluster.local",
    "10-244-0.shop.pod.cluster.local",
    "10-244-0-9.any.open.cluster.local",
    "any.open.cluster.local",
    "any.empty.cluster.local",
    "any.like.cluster.local",
    "pod.cluster.local",
    "1.1.96.10.in-addr.arpa",
    "96.10.in-addr.arpa",
    "9.9.244.10.in-addr.arpa",
    "0.0.244.10.in-addr.arpa",
    "2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.6.9.0.0.0.1.0.0.0.0.d.f.ip6.arpa",
    "www.example.com.shop.svc.cluster.local",
    "www.example.com",
    "example.com",
    "inner.cluster.local",
    "a.inner.cluster.local",
    "long-name-that-is-quite-long.long-name-that-is-quite-long.long-name-that-is-quite-long.long-name-that-is-quite-long.cluster.local",
    "",
];

fn build() -> Model {
    let mut builder = ModelBuilder::new(1);
    for zone in [
        "cluster.local",
        "inner.cluster.local",
        "96.10.in-addr.arpa",
        "6.9.0.0.0.1.0.0.0.0.d.f.ip6.arpa",
    ] {
        builder.add_zone(name(zone), 5).unwrap();
    }
    let mut add = |owner: &str, data: Rdata| {
        let owner = name(owner);
        builder.add(Record {
            owner,
            ttl: 5,
            data,
        });
    };
    let web = "web.shop.svc.cluster.local";
    add(web, address("10.96.1.1"));
    add(web, srv(web, 80));
    add("_http._tcp.web.shop.svc.cluster.local", srv(web, 80));
    add("cart.shop.svc.cluster.local", address("10.96.1.2"));
    add("cart.shop.svc.cluster.local", address("fd00:10:96::2"));
    // Names of 29 and 30 bytes: behind a name of odd length the answer starts at an odd offset, so
    // its checksum is added with the bytes swapped.
    add("odd1.shop.svc.cluster.local", address("10.96.1.3"));
    add("odd22.shop.svc.cluster.local", address("10.96.1.4"));
    for last in 0..4 {
        let host_name = format!("db-{last}.db.shop.svc.cluster.local");
        for owner in ["db.shop.svc.cluster.local", &host_name] {
            add(owner, address(&format!("10.244.0.{last}")));
            add(owner, address(&format!("fd00:10:244::{last}")));
        }
        add("db.shop.svc.cluster.local", srv(&host_name, 5432));
        let port = "_sql._tcp.db.shop.svc.cluster.local";
        add(port, srv(&host_name, 5432));
    }
    for last in 1..=60 {
        let crowd = "crowd.shop.svc.cluster.local";
        add(crowd, address(&format!("10.244.1.{last}")));
        // More addresses than the longest stored answer holds.
        for third in 0..2 {
            let throng = "throng.shop.svc.cluster.local";
            add(throng, address(&format!("10.244.{third}.{last}")));
        }
    }
    for (owner, target) in [
        ("away", "www.example.com"),
        ("near", web),
        ("chain", "near.shop.svc.cluster.local"),
        ("loop", "loop.shop.svc.cluster.local"),
        ("nowhere", "absent.shop.svc.cluster.local"),
    ] {
        let owner = format!("{owner}.shop.svc.cluster.local");
        add(&owner, Rdata::Cname(name(target)));
    }
    let version = Rdata::Txt(b"1.1.0".as_slice().into());
    add("dns-version.cluster.local", version);
    add("cluster.local", Rdata::Ns(name("ns.dns.cluster.local")));
    add("ns.dns.cluster.local", address("10.96.0.10"));
    add("a.inner.cluster.local", address("10.96.1.5"));
    for owner in [
        "1.1.96.10.in-addr.arpa",
        // In no zone of the model.
        "9.9.244.10.in-addr.arpa",
        "2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.6.9.0.0.0.1.0.0.0.0.d.f.ip6.arpa",
    ] {
        add(owner, Rdata::Ptr(name(web)));
    }
    let long = "long-name-that-is-quite-long.".repeat(4) + "cluster.local";
    add(&long, address("10.96.1.6"));

    for (owner, computed_names) in [
        ("shop.pod.cluster.local", ComputedNames::Addresses(5)),
        ("open.cluster.local", ComputedNames::EmptyThenAddresses(5)),
        ("empty.cluster.local", ComputedNames::Empty),
        ("like.cluster.local", ComputedNames::Like(name(web))),
    ] {
        builder.set_computed_names(name(owner), computed_names);
    }
    builder.build()
}

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

fn address(text: &str) -> Rdata {
    text.parse::<IpAddr>().unwrap().into()
}

fn srv(target: &str, port: u16) -> Rdata {
    Rdata::Srv(Srv {
        priority: 0,
        weight: 25,
        port,
        target: name(target),
    })
}
