//! Conversion of Kubernetes API objects.

use k8s_openapi::api::{core::v1 as core, discovery::v1 as discovery};
use serde_json::{Value, json};

use crate::{ApiPod, Object, ObjectError, ServiceKind};

use super::{object, service, slice};

/// The error of an object that can't be converted.
fn conversion_error<T: serde::de::DeserializeOwned>(value: Value) -> String
where
    Object: TryFrom<T, Error = ObjectError>,
{
    let read: T = serde_json::from_value(value).expect("the value has the API's form");
    Object::try_from(read)
        .expect_err("an invalid object is converted")
        .to_string()
}

fn kind(spec: Value) -> ServiceKind {
    match object(service("web", spec)) {
        Object::Service(service) => service.kind,
        other => panic!("the Service is converted to {other:?}"),
    }
}

#[test]
fn invalid_fields_are_reported_with_their_path() {
    let web = |spec| conversion_error::<core::Service>(service("web", spec));
    assert_eq!(
        web(json!({"clusterIPs": ["10.0.0.1", "10.0.0"]})),
        "Service default/web: spec.clusterIPs: \"10.0.0\" is not an IP address"
    );
    assert_eq!(
        web(json!({"clusterIP": "10.0.0.1", "ports": [{"port": 80}, {"port": 65536}]})),
        "Service default/web: spec.ports[1].port: 65536 is not a port"
    );
    assert_eq!(web(Value::Null), "Service default/web: spec: is missing");
    assert_eq!(
        conversion_error::<core::Namespace>(json!({"metadata": {}})),
        "a Namespace without a readable name: metadata.name: is missing"
    );
    let addresses = json!([{"addresses": ["10.0.0.1"]}, {"addresses": ["x"]}]);
    assert_eq!(
        conversion_error::<discovery::EndpointSlice>(slice("a", "web", addresses, json!([]))),
        "EndpointSlice default/a: endpoints[1].addresses: \"x\" is not an IP address"
    );
    let pod = json!({"metadata": {"name": "p", "namespace": "n"}, "status": {"podIP": "x"}});
    assert_eq!(
        conversion_error::<ApiPod>(pod),
        "Pod n/p: status.podIP: \"x\" is not an IP address"
    );
}

#[test]
fn the_spec_determines_the_kind_of_a_service() {
    let cluster_ip = |text: &str| ServiceKind::ClusterIp([text.parse().unwrap()].into());
    for (spec, expected) in [
        (json!({"clusterIP": "None"}), ServiceKind::Headless),
        (json!({"clusterIPs": ["None"]}), ServiceKind::Headless),
        (json!({"clusterIP": "10.0.0.1"}), cluster_ip("10.0.0.1")),
        (
            json!({"clusterIP": "10.0.0.1", "clusterIPs": []}),
            cluster_ip("10.0.0.1"),
        ),
        (
            json!({"type": "LoadBalancer", "clusterIP": "fd00::1"}),
            cluster_ip("fd00::1"),
        ),
        (json!({"clusterIP": ""}), ServiceKind::ClusterIp([].into())),
        (
            json!({"type": "ExternalName", "externalName": "example.org", "clusterIP": ""}),
            ServiceKind::ExternalName("example.org".into()),
        ),
    ] {
        assert_eq!(kind(spec.clone()), expected, "{spec}");
    }
}

#[test]
fn a_slice_of_domain_names_has_no_endpoints() {
    let mut fqdn_slice = slice(
        "a",
        "web",
        json!([{"addresses": ["example.org"]}]),
        json!([]),
    );
    fqdn_slice["addressType"] = json!("FQDN");
    let Object::EndpointSlice(converted) = object(fqdn_slice) else {
        panic!("the slice is converted to an object of another kind");
    };
    assert!(converted.endpoints.is_empty());
}

#[test]
fn an_object_without_a_namespace_is_in_default_and_a_mapped_address_is_ipv4() {
    let pod = object(json!({
        "kind": "Pod", "metadata": {"name": "p"}, "status": {"podIP": "::ffff:10.0.0.1"}
    }));
    let Object::Pod(pod) = pod else {
        panic!("the Pod is converted to an object of another kind");
    };
    assert_eq!(&*pod.key.namespace, "default");
    assert_eq!(
        pod.addresses,
        ["10.0.0.1".parse::<std::net::IpAddr>().unwrap()]
    );
}

#[test]
fn a_pod_that_has_ended_or_is_lost_has_no_address() {
    for phase in ["Succeeded", "Failed", "Unknown"] {
        let pod = object(json!({
            "kind": "Pod",
            "metadata": {"name": "p"},
            "status": {"phase": phase, "podIP": "10.0.0.1"}
        }));
        let Object::Pod(pod) = pod else {
            panic!("the Pod is converted to an object of another kind");
        };
        assert!(pod.addresses.is_empty(), "{phase}: {pod:?}");
    }
}
