//! Limits the memory that an index needs for the objects of a large cluster.
//!
//! This is a separate test program because it replaces the allocator to count allocations.

#![deny(unsafe_code)]

#[expect(unsafe_code, reason = "implements a global allocator")]
#[path = "../../tests/counting_allocator/mod.rs"]
mod counting_allocator;

use serde_json::{Value, json};
use zerohop_kubernetes::{EndpointScope, Feed, Index, Object, ZoneSettings};

/// Number of Services. Half of them are headless. Each slice has five endpoints.
const SERVICES: usize = 10_000;

#[test]
fn an_index_needs_less_than_2_kb_for_each_service() {
    // The limits are at most 5 % above the measured sizes, so that the test notices larger growth.
    for (endpoint_scope, bytes_for_each_service) in
        [(EndpointScope::Headless, 900), (EndpointScope::All, 1_800)]
    {
        let before = counting_allocator::bytes_in_use();
        let settings = ZoneSettings {
            endpoint_scope,
            ..ZoneSettings::default()
        };
        let mut index = Index::new(settings, 1);
        let namespace = json!({"metadata": {"name": "shop"}});
        index.apply_object(Feed::Namespaces, namespace_of(namespace));
        list_objects(&mut index, endpoint_scope);
        let bytes = counting_allocator::bytes_in_use() - before;
        println!("{endpoint_scope:?}: {bytes} bytes for {SERVICES} Services");
        assert!(
            bytes < bytes_for_each_service * SERVICES,
            "{endpoint_scope:?}: {bytes} bytes for {SERVICES} Services, but the limit is \
             {bytes_for_each_service} bytes for each"
        );

        // While the objects are listed again, the index must not hold them twice. The first call
        // starts the measurement.
        counting_allocator::take_peak();
        list_objects(&mut index, endpoint_scope);
        let peak = counting_allocator::take_peak() - before;
        println!("{endpoint_scope:?}: at most {peak} bytes while all objects are listed again");
        assert!(
            peak < bytes * 3 / 2,
            "{endpoint_scope:?}: {peak} bytes at the peak, more than 1.5 times the {bytes} before"
        );
    }
}

/// Lists all Services, and the slices that the scope includes, into the index.
fn list_objects(index: &mut Index, endpoint_scope: EndpointScope) {
    for feed in [Feed::Services, Feed::SLICES] {
        index.begin_list(feed);
    }
    for number in 0..SERVICES {
        index.apply_object(Feed::Services, service(number));
        if endpoint_scope == EndpointScope::All || is_headless(number) {
            index.apply_object(Feed::SLICES, slice(number));
        }
    }
    for feed in [Feed::Services, Feed::SLICES] {
        index.end_list(feed);
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
    let address = if is_headless(number) {
        "None".to_owned()
    } else {
        format!("10.96.{}.{}", number / 250, number % 250)
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
                "addresses": [
                    format!("10.{}.{}.{}", 128 + host / 65536, host / 256 % 256, host % 256)
                ],
                "conditions": {"ready": true},
                "nodeName": format!("node-{at}"),
                "zone": format!("zone-{}", at % 3),
                "targetRef": {
                    "kind": "Pod",
                    "name": format!("service-{number}-6bb4d5c7f9-{at:05}")
                },
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
