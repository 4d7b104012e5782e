//! Converts Kubernetes API objects to the objects of this crate.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::api::networking::v1 as networking;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use serde::{Deserialize, de::DeserializeOwned};

use super::object_set::Object;
use super::objects::{
    Endpoint, EndpointSlice, Namespace, ObjectError, ObjectKey, Pod, Port, PortNumber, Problem,
    Service, ServiceKind, SliceReadability,
};
use super::policy::Fact;

/// The label that names the Service an EndpointSlice belongs to.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";

impl TryFrom<core::Namespace> for Object {
    type Error = ObjectError;

    fn try_from(namespace: core::Namespace) -> Result<Object, ObjectError> {
        let name = key("Namespace", &namespace.metadata)?.name;
        Ok(Object::Namespace(Namespace { name }))
    }
}

impl TryFrom<core::Service> for Object {
    type Error = ObjectError;

    fn try_from(service: core::Service) -> Result<Object, ObjectError> {
        Service::try_from(service).map(Object::Service)
    }
}

impl TryFrom<core::Service> for Service {
    type Error = ObjectError;

    fn try_from(service: core::Service) -> Result<Service, ObjectError> {
        let key = key("Service", &service.metadata)?;
        let problem = |field: String, reason| Problem::with_key("Service", &key, field, reason);
        let spec = service
            .spec
            .ok_or_else(|| problem("spec".into(), "is missing".into()))?;
        let ports = spec
            .ports
            .unwrap_or_default()
            .into_iter()
            .enumerate()
            .map(|(index, port)| {
                let number = port.port;
                let port = Port::new(port.name, port.protocol.as_deref(), Some(number));
                // The API server accepts no such number in a Service.
                match port.number {
                    PortNumber::OutOfRange => Err(problem(
                        format!("spec.ports[{index}].port"),
                        format!("{number} is not a port"),
                    )),
                    PortNumber::Absent | PortNumber::Valid(_) => Ok(port),
                }
            })
            .collect::<Result<_, _>>()?;
        let addresses = match spec.cluster_ips {
            Some(addresses) if !addresses.is_empty() => addresses,
            _ => spec.cluster_ip.into_iter().collect(),
        };
        let kind = if spec.type_.as_deref() == Some("ExternalName") {
            ServiceKind::ExternalName(spec.external_name.unwrap_or_default().into())
        } else if addresses.first().is_some_and(|address| address == "None") {
            ServiceKind::Headless
        } else {
            let addresses = addresses
                .iter()
                .filter(|address| !address.is_empty())
                .map(|text| {
                    parse_address(text).map_err(|reason| problem("spec.clusterIPs".into(), reason))
                })
                .collect::<Result<_, _>>()?;
            ServiceKind::ClusterIp(addresses)
        };
        Ok(Service { key, kind, ports })
    }
}

impl TryFrom<discovery::EndpointSlice> for Object {
    type Error = ObjectError;

    fn try_from(slice: discovery::EndpointSlice) -> Result<Object, ObjectError> {
        EndpointSlice::try_from(slice).map(Object::EndpointSlice)
    }
}

impl TryFrom<discovery::EndpointSlice> for EndpointSlice {
    type Error = ObjectError;

    fn try_from(slice: discovery::EndpointSlice) -> Result<EndpointSlice, ObjectError> {
        let key = key("EndpointSlice", &slice.metadata)?;
        let problem =
            |field: String, reason| Problem::with_key("EndpointSlice", &key, field, reason);
        let service = slice
            .metadata
            .labels
            .and_then(|mut labels| labels.remove(SERVICE_LABEL))
            .map(Into::into);
        let ports = slice.ports.unwrap_or_default().into_iter();
        let ports = ports
            .map(|port| Port::new(port.name, port.protocol.as_deref(), port.port))
            .collect();
        let holds_domain_names = slice.address_type == "FQDN";
        let ready = slice.endpoints.into_iter().enumerate();
        let ready = ready.filter(|(_, endpoint)| is_ready(endpoint));
        let mut endpoints = Vec::new();
        let mut is_nonstandard = false;
        for (index, endpoint) in ready {
            let texts = endpoint.addresses.iter();
            is_nonstandard |= holds_domain_names || texts.clone().any(|text| !is_plain(text));
            // CoreDNS reads these texts as domain names.
            let is_domain_name = |text: &str| {
                has_leading_zeros(text) || holds_domain_names && parse_address(text).is_err()
            };
            let addresses = texts.filter(|text| !is_domain_name(text));
            let addresses = addresses
                .map(|text| parse_address(text))
                .collect::<Result<_, _>>();
            let addresses = addresses
                .map_err(|reason| problem(format!("endpoints[{index}].addresses"), reason))?;
            Endpoint::append_for_addresses(endpoint, addresses, &mut endpoints);
        }
        share_zones(&mut endpoints);
        Ok(EndpointSlice {
            key,
            service,
            endpoints: endpoints.into(),
            readability: if is_nonstandard {
                SliceReadability::Nonstandard
            } else {
                SliceReadability::Plain
            },
            ports,
        })
    }
}

/// The fields of a Pod that the agent reads. Complete Pods are so large that deserializing them
/// would take most of the time for reading objects. Only a Pod that may be NodeLocal DNSCache is
/// also read completely.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct ApiPod {
    /// The Pod's metadata.
    pub metadata: ObjectMeta,
    /// The Pod's specification.
    pub spec: Option<ApiPodSpec>,
    /// The Pod's status.
    pub status: Option<ApiPodStatus>,
}

/// The fields of a Pod's specification that the agent reads.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiPodSpec {
    /// Whether the Pod uses its node's network namespace.
    pub host_network: Option<bool>,
    /// The Pod's containers.
    pub containers: Option<Vec<ApiContainer>>,
}

/// The fields of a container that the agent reads.
#[derive(Debug, Default, Deserialize)]
pub struct ApiContainer {
    /// The container's ports.
    pub ports: Option<Vec<core::ContainerPort>>,
}

/// The fields of a Pod's status that the agent reads.
#[derive(Debug, Default, Deserialize)]
pub struct ApiPodStatus {
    /// `Pending`, `Running`, `Succeeded`, `Failed` or `Unknown`.
    pub phase: Option<String>,
    /// The Pod's address, used if `podIPs` is missing or empty.
    #[serde(rename = "podIP")]
    pub pod_ip: Option<String>,
    /// The Pod's addresses.
    #[serde(rename = "podIPs")]
    pub pod_ips: Option<Vec<core::PodIP>>,
    /// The statuses of the Pod's containers.
    #[serde(rename = "containerStatuses")]
    pub containers: Option<Vec<ApiContainerStatus>>,
}

/// The fields of a container's status that the agent reads.
#[derive(Debug, Default, Deserialize)]
pub struct ApiContainerStatus {
    /// Whether the container is waiting, is running or has terminated.
    pub state: Option<core::ContainerState>,
}

/// An object in the API's form.
pub trait ApiObject: DeserializeOwned + TryInto<Object, Error = ObjectError> {
    /// The object's metadata.
    fn metadata(&self) -> &ObjectMeta;

    /// The object's fact for the client policy. `None` for a NetworkPolicy, because its conversion
    /// to [`Object`] gives the fact.
    ///
    /// # Errors
    /// When the object has no name, or when a field that the fact needs is invalid.
    fn fact(&self) -> Result<Option<Fact>, ObjectError>;
}

impl ApiObject for networking::NetworkPolicy {
    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn fact(&self) -> Result<Option<Fact>, ObjectError> {
        Ok(None)
    }
}

impl ApiObject for core::Namespace {
    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn fact(&self) -> Result<Option<Fact>, ObjectError> {
        Fact::from_namespace(self).map(Some)
    }
}

impl ApiObject for core::Service {
    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn fact(&self) -> Result<Option<Fact>, ObjectError> {
        Fact::from_service(self).map(Some)
    }
}

impl ApiObject for discovery::EndpointSlice {
    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn fact(&self) -> Result<Option<Fact>, ObjectError> {
        Fact::from_slice(self).map(Some)
    }
}

impl ApiObject for ApiPod {
    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn fact(&self) -> Result<Option<Fact>, ObjectError> {
        Fact::from_pod(self).map(Some)
    }
}

impl TryFrom<ApiPod> for Object {
    type Error = ObjectError;

    fn try_from(pod: ApiPod) -> Result<Object, ObjectError> {
        let key = key("Pod", &pod.metadata)?;
        let status = pod.status.unwrap_or_default();
        // In phase `Unknown` the Pod is lost (docs/naming.md, rule 1.9).
        let has_ended = matches!(
            status.phase.as_deref(),
            Some("Succeeded" | "Failed" | "Unknown")
        );
        let addresses = if has_ended {
            Vec::new()
        } else {
            status.addresses(&key)?
        };
        Ok(Object::Pod(Pod {
            key,
            addresses,
            is_terminating: pod.metadata.deletion_timestamp.is_some(),
        }))
    }
}

impl ApiPodStatus {
    /// The start time of the longest-running container. `None` if no container runs, or if a
    /// running container has no start time.
    pub(super) fn started(&self) -> Option<SystemTime> {
        let states = self.containers.iter().flatten();
        let running = states.filter_map(|status| status.state.as_ref()?.running.as_ref());
        let start_times = running.map(|running| running.started_at.as_ref());
        let start_times: Option<Vec<SystemTime>> = start_times
            .map(|time| time.map(|time| time.0.into()))
            .collect();
        start_times?.into_iter().min()
    }

    /// Parses the Pod's addresses. `key` identifies the Pod in an error.
    pub(super) fn addresses(&self, key: &ObjectKey) -> Result<Vec<IpAddr>, ObjectError> {
        let (field, texts): (&str, Vec<&String>) = match &self.pod_ips {
            Some(addresses) if !addresses.is_empty() => (
                "status.podIPs",
                addresses.iter().map(|address| &address.ip).collect(),
            ),
            _ => ("status.podIP", self.pod_ip.iter().collect()),
        };
        let texts = texts.into_iter().filter(|text| !text.is_empty());
        texts
            .map(|text| {
                parse_address(text)
                    .map_err(|reason| Problem::with_key("Pod", key, field.to_owned(), reason))
            })
            .collect()
    }
}

impl Endpoint {
    /// Appends one endpoint to `endpoints` for each address.
    fn append_for_addresses(
        endpoint: discovery::Endpoint,
        addresses: Vec<IpAddr>,
        endpoints: &mut Vec<Endpoint>,
    ) {
        let non_empty = |text: Option<String>| text.filter(|text| !text.is_empty());
        let hostname = non_empty(endpoint.hostname).map(Box::from);
        let pod = endpoint.target_ref.and_then(|target| target.name);
        let pod = pod.map(Box::from);
        let zone = non_empty(endpoint.zone).map(|zone| zone.to_ascii_lowercase().into());
        endpoints.extend(addresses.into_iter().map(|address| Endpoint {
            address,
            hostname: hostname.clone(),
            pod: pod.clone(),
            zone: zone.clone(),
        }));
    }
}

impl Port {
    /// Without `protocol` the port is for TCP.
    fn new(name: Option<String>, protocol: Option<&str>, number: Option<i32>) -> Port {
        Port {
            name: name.filter(|name| !name.is_empty()).map(Into::into),
            // The two usual names need no allocation.
            protocol: match protocol {
                None | Some("TCP") => "tcp".into(),
                Some("UDP") => "udp".into(),
                Some(other) => other.to_ascii_lowercase().into(),
            },
            number: match number.map(u16::try_from) {
                None => PortNumber::Absent,
                Some(Ok(number)) => PortNumber::Valid(number),
                Some(Err(_)) => PortNumber::OutOfRange,
            },
        }
    }
}

/// Gives all endpoints of a slice with the same address the same topology zone: the last one that
/// is set. CoreDNS keeps one topology zone for each address.
fn share_zones(endpoints: &mut [Endpoint]) {
    let zones: BTreeMap<IpAddr, Arc<str>> = endpoints
        .iter()
        .filter_map(|endpoint| Some((endpoint.address, endpoint.zone.clone()?)))
        .collect();
    for endpoint in endpoints {
        endpoint.zone = zones.get(&endpoint.address).cloned();
    }
}

/// Whether the condition `ready` is true or absent. Other conditions are ignored.
fn is_ready(endpoint: &discovery::Endpoint) -> bool {
    endpoint
        .conditions
        .as_ref()
        .and_then(|conditions| conditions.ready)
        .unwrap_or(true)
}

/// The key of an object. Fails if the object has no name.
pub(super) fn key(kind: &'static str, metadata: &ObjectMeta) -> Result<ObjectKey, Problem> {
    let key = ObjectKey {
        // kubectl puts an object without a namespace into `default`.
        namespace: match kind {
            "Namespace" => "".into(),
            _ => metadata.namespace.as_deref().unwrap_or("default").into(),
        },
        name: metadata.name.as_deref().unwrap_or_default().into(),
    };
    if key.name.is_empty() {
        return Err(Problem::with_key(
            kind,
            &key,
            "metadata.name".into(),
            "is missing".into(),
        ));
    }
    Ok(key)
}

/// Whether this is an address in canonical spelling. CoreDNS looks addresses up as text.
fn is_plain(text: &str) -> bool {
    parse_address(text).is_ok_and(|address| address.to_string() == text)
}

/// Whether this is an IPv4 address with leading zeros. API servers may accept such an address, and
/// CoreDNS reads it as a domain name.
fn has_leading_zeros(text: &str) -> bool {
    let numbers = text.split('.').map(str::parse::<u8>);
    let numbers: Result<Vec<u8>, _> = numbers.collect();
    text.parse::<IpAddr>().is_err() && numbers.is_ok_and(|numbers| numbers.len() == 4)
}

/// Parses an address. An IPv4-mapped IPv6 address becomes the IPv4 address.
fn parse_address(text: &str) -> Result<IpAddr, String> {
    text.parse()
        .map(|address: IpAddr| address.to_canonical())
        .map_err(|_| format!("{text:?} is not an IP address"))
}
