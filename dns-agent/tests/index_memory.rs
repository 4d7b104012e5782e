//! How much memory the objects of a large cluster take.
//!
//! A test program of its own, because it counts what is allocated.

mod counted;

use dns_agent::{
    cluster::{Endpoints, Index, Object, ZoneSettings},
    source::Feed,
};
use serde_json::{Value, json};

/// Half of them headless, each with five endpoints.
const SERVICES: usize = 10_000;

#[test]
fn an_index_takes_little_memory() {
    for (endpoints, for_each_service) in [(Endpoints::Headless, 900), (Endpoints::All, 1_800)] {
        let before = counted::now();
        let settings = ZoneSettings {
            endpoints,
            ..ZoneSettings::default()
        };
        let mut index = Index::new(settings, 1);
        let namespace = json!({"metadata": {"name": "shop"}});
        index.apply(Feed::Namespaces, namespace_of(namespace));
        tell(&mut index, endpoints);
        let octets = counted::now() - before;
        println!("{endpoints:?}: {octets} octets for {SERVICES} services");
        assert!(octets < for_each_service * SERVICES, "{octets}");

        counted::take_peak();
        tell(&mut index, endpoints);
        let peak = counted::take_peak() - before;
        println!("{endpoints:?}: {peak} octets at most while all is told again");
        assert!(peak < octets * 3 / 2, "{peak}");
    }
}

/// Lists of all objects.
fn tell(index: &mut Index, endpoints: Endpoints) {
    for feed in [Feed::Services, Feed::SLICES] {
        index.listing(feed);
    }
    for number in 0..SERVICES {
        index.apply(Feed::Services, service(number));
        if endpoints == Endpoints::All || is_headless(number) {
            index.apply(Feed::SLICES, slice(number));
        }
    }
    for feed in [Feed::Services, Feed::SLICES] {
        index.listed(feed);
    }
    index.take_changes();
}

fn is_headless(number: usize) -> bool {
    number % 2 == 1
}

fn namespace_of(value: Value) -> Object {
    let namespace: k8s_openapi::api::core::v1::Namespace = serde_json::from_value(value).unwrap();
    namespace.try_into().unwrap()
}

fn service(number: usize) -> Object {
    let address = match is_headless(number) {
        true => "None".to_owned(),
        false => format!("10.96.{}.{}", number / 250, number % 250),
    };
    let service: k8s_openapi::api::core::v1::Service = serde_json::from_value(json!({
        "metadata": {"namespace": "shop", "name": format!("service-{number}")},
        "spec": {"clusterIP": address, "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]},
    }))
    .unwrap();
    service.try_into().unwrap()
}

fn slice(number: usize) -> Object {
    let endpoints: Vec<Value> = (0..5)
        .map(|at| {
            let host = number * 5 + at;
            json!({
                "addresses": [format!("10.{}.{}.{}", 128 + host / 65536, host / 256 % 256, host % 256)],
                "conditions": {"ready": true},
                "nodeName": format!("node-{at}"),
                "zone": format!("zone-{}", at % 3),
                "targetRef": {"kind": "Pod", "name": format!("service-{number}-6bb4d5c7f9-{at:05}")},
            })
        })
        .collect();
    let slice: k8s_openapi::api::discovery::v1::EndpointSlice = serde_json::from_value(json!({
        "metadata": {
            "namespace": "shop",
            "name": format!("service-{number}-abcde"),
            "labels": {"kubernetes.io/service-name": format!("service-{number}")},
        },
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": [{"name": "http", "port": 80, "protocol": "TCP"}],
    }))
    .unwrap();
    slice.try_into().unwrap()
}
