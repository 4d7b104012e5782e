//! Objects as the API writes them, read into ours.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::api::networking::v1 as networking;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use serde::{Deserialize, de::DeserializeOwned};

use super::objects::{
    Endpoint, EndpointSlice, Key, Namespace, Object, ObjectError, Pod, Port, Problem, Reading,
    Service, ServiceKind,
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
        let problem = |field: String, reason| Problem::of("Service", &key, field, reason);
        let spec = service
            .spec
            .ok_or_else(|| problem("spec".into(), "is missing".into()))?;
        let ports = spec
            .ports
            .unwrap_or_default()
            .into_iter()
            .enumerate()
            .map(|(index, port)| {
                Port::new(port.name, port.protocol.as_deref(), Some(port.port))
                    .map_err(|reason| problem(format!("spec.ports[{index}].port"), reason))
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
                    address(text).map_err(|reason| problem("spec.clusterIPs".into(), reason))
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
        let problem = |field: String, reason| Problem::of("EndpointSlice", &key, field, reason);
        let service = slice
            .metadata
            .labels
            .and_then(|mut labels| labels.remove(SERVICE_LABEL))
            .map(Into::into);
        let ports = slice
            .ports
            .unwrap_or_default()
            .into_iter()
            .enumerate()
            .map(|(index, port)| {
                Port::new(port.name, port.protocol.as_deref(), port.port)
                    .map_err(|reason| problem(format!("ports[{index}].port"), reason))
            })
            .collect::<Result<_, _>>()?;
        let has_names = slice.address_type == "FQDN";
        let ready = slice.endpoints.into_iter().enumerate();
        let ready = ready.filter(|(_, endpoint)| is_ready(endpoint));
        let mut endpoints = Vec::new();
        let mut is_odd = false;
        for (index, endpoint) in ready {
            let texts = endpoint.addresses.iter();
            is_odd |= has_names || texts.clone().any(|text| !is_plain(text));
            let is_name =
                |text: &str| has_leading_zeros(text) || has_names && address(text).is_err();
            let addresses = texts.filter(|text| !is_name(text));
            let addresses = addresses
                .map(|text| address(text))
                .collect::<Result<_, _>>();
            let addresses = addresses
                .map_err(|reason| problem(format!("endpoints[{index}].addresses"), reason))?;
            Endpoint::read(endpoint, addresses, &mut endpoints);
        }
        share_zones(&mut endpoints);
        Ok(EndpointSlice {
            key,
            service,
            endpoints: endpoints.into(),
            reading: match is_odd {
                true => Reading::Odd,
                false => Reading::Plain,
            },
            ports,
        })
    }
}

/// A Pod, as far as it matters. Its whole form in the API is the largest of all, and reading
/// that would be most of the work of reading.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct ApiPod {
    /// Its metadata.
    pub metadata: ObjectMeta,
    /// What it is to be.
    pub spec: Option<ApiPodSpec>,
    /// Its state.
    pub status: Option<ApiPodStatus>,
}

/// What a Pod is to be, as far as it matters.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiPodSpec {
    /// Whether it is in its node's network.
    pub host_network: Option<bool>,
    /// Its containers.
    pub containers: Option<Vec<ApiContainer>>,
}

/// A container of a Pod, as far as it matters.
#[derive(Debug, Default, Deserialize)]
pub struct ApiContainer {
    /// Its ports.
    pub ports: Option<Vec<core::ContainerPort>>,
}

/// The state of a Pod, as far as it matters.
#[derive(Debug, Default, Deserialize)]
pub struct ApiPodStatus {
    /// `Pending`, `Running`, `Succeeded`, `Failed` or `Unknown`.
    pub phase: Option<String>,
    /// Its address, where `podIPs` is missing.
    #[serde(rename = "podIP")]
    pub pod_ip: Option<String>,
    /// Its addresses.
    #[serde(rename = "podIPs")]
    pub pod_ips: Option<Vec<core::PodIP>>,
    /// The states of its containers.
    #[serde(rename = "containerStatuses")]
    pub containers: Option<Vec<ApiContainerStatus>>,
}

/// The state of a container, as far as it matters.
#[derive(Debug, Default, Deserialize)]
pub struct ApiContainerStatus {
    /// What it does now.
    pub state: Option<core::ContainerState>,
}

/// An object as the API writes it.
pub trait ApiObject: DeserializeOwned + TryInto<Object, Error = ObjectError> {
    /// Its metadata.
    fn metadata(&self) -> &ObjectMeta;

    /// What it says beside that of who may ask, if anything.
    ///
    /// # Errors
    /// When it makes no sense.
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
        Fact::of_namespace(self).map(Some)
    }
}

impl ApiObject for core::Service {
    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn fact(&self) -> Result<Option<Fact>, ObjectError> {
        Fact::of_service(self).map(Some)
    }
}

impl ApiObject for discovery::EndpointSlice {
    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn fact(&self) -> Result<Option<Fact>, ObjectError> {
        Fact::of_slice(self).map(Some)
    }
}

impl ApiObject for ApiPod {
    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn fact(&self) -> Result<Option<Fact>, ObjectError> {
        Fact::of_pod(self).map(Some)
    }
}

impl TryFrom<ApiPod> for Object {
    type Error = ObjectError;

    fn try_from(pod: ApiPod) -> Result<Object, ObjectError> {
        let key = key("Pod", &pod.metadata)?;
        let status = pod.status.unwrap_or_default();
        let ended = matches!(
            status.phase.as_deref(),
            Some("Succeeded" | "Failed" | "Unknown")
        );
        let addresses = match ended {
            true => Vec::new(),
            false => status.addresses(&key)?,
        };
        Ok(Object::Pod(Pod {
            key,
            addresses,
            is_terminating: pod.metadata.deletion_timestamp.is_some(),
        }))
    }
}

impl ApiPodStatus {
    /// When the first of the containers that run now was started; none while none runs, or where one
    /// doesn't say so.
    pub(super) fn started(&self) -> Option<SystemTime> {
        let states = self.containers.iter().flatten();
        let running = states.filter_map(|status| status.state.as_ref()?.running.as_ref());
        let started = running.map(|running| running.started_at.as_ref());
        let started: Option<Vec<SystemTime>> = started
            .map(|started| started.map(|time| time.0.into()))
            .collect();
        started?.into_iter().min()
    }

    /// The Pod's addresses.
    pub(super) fn addresses(&self, key: &Key) -> Result<Vec<IpAddr>, ObjectError> {
        let texts: Vec<&String> = match &self.pod_ips {
            Some(addresses) if !addresses.is_empty() => {
                addresses.iter().map(|address| &address.ip).collect()
            }
            _ => self.pod_ip.iter().collect(),
        };
        let texts = texts.into_iter().filter(|text| !text.is_empty());
        texts
            .map(|text| {
                address(text)
                    .map_err(|reason| Problem::of("Pod", key, "status.podIPs".into(), reason))
            })
            .collect()
    }
}

impl Endpoint {
    /// Adds one for each of its addresses.
    fn read(endpoint: discovery::Endpoint, addresses: Vec<IpAddr>, to: &mut Vec<Endpoint>) {
        let stated = |text: Option<String>| text.filter(|text| !text.is_empty());
        let hostname = stated(endpoint.hostname).map(Box::from);
        let pod = endpoint.target_ref.and_then(|target| target.name);
        let pod = pod.map(Box::from);
        let zone = stated(endpoint.zone).map(|zone| zone.to_ascii_lowercase().into());
        to.extend(addresses.into_iter().map(|address| Endpoint {
            address,
            hostname: hostname.clone(),
            pod: pod.clone(),
            zone: zone.clone(),
        }));
    }
}

impl Port {
    fn new(
        name: Option<String>,
        protocol: Option<&str>,
        number: Option<i32>,
    ) -> Result<Port, String> {
        let number = number
            .map(|number| u16::try_from(number).map_err(|_| format!("{number} is not a port")))
            .transpose()?;
        Ok(Port {
            name: name.filter(|name| !name.is_empty()).map(Into::into),
            protocol: match protocol {
                None | Some("TCP") => "tcp".into(),
                Some("UDP") => "udp".into(),
                Some(other) => other.to_ascii_lowercase().into(),
            },
            number,
        })
    }
}

/// Gives an address that a slice lists twice the topology zone that it has last: CoreDNS keeps one of
/// each address.
fn share_zones(endpoints: &mut [Endpoint]) {
    let zones: BTreeMap<IpAddr, Arc<str>> = endpoints
        .iter()
        .filter_map(|endpoint| Some((endpoint.address, endpoint.zone.clone()?)))
        .collect();
    for endpoint in endpoints {
        endpoint.zone = zones.get(&endpoint.address).cloned();
    }
}

/// Ready is true or absent; nothing else is looked at.
fn is_ready(endpoint: &discovery::Endpoint) -> bool {
    endpoint
        .conditions
        .as_ref()
        .and_then(|conditions| conditions.ready)
        .unwrap_or(true)
}

pub(super) fn key(kind: &'static str, metadata: &ObjectMeta) -> Result<Key, Problem> {
    let key = Key {
        // Where kubectl puts an object that names no namespace.
        namespace: match kind {
            "Namespace" => "".into(),
            _ => metadata.namespace.as_deref().unwrap_or("default").into(),
        },
        name: metadata.name.as_deref().unwrap_or_default().into(),
    };
    if key.name.is_empty() {
        return Err(Problem::of(
            kind,
            &key,
            "metadata.name".into(),
            "is missing".into(),
        ));
    }
    Ok(key)
}

/// Whether an address is written in the one way that CoreDNS finds it by.
fn is_plain(text: &str) -> bool {
    address(text).is_ok_and(|address| address.to_string() == text)
}

/// Whether it is an IPv4 address with zeros in front of numbers, as the API server takes it. To
/// CoreDNS that is a domain name.
fn has_leading_zeros(text: &str) -> bool {
    let numbers = text.split('.').map(str::parse::<u8>);
    let numbers: Result<Vec<u8>, _> = numbers.collect();
    text.parse::<IpAddr>().is_err() && numbers.is_ok_and(|numbers| numbers.len() == 4)
}

/// An IPv4-mapped IPv6 address is the IPv4 address.
fn address(text: &str) -> Result<IpAddr, String> {
    text.parse()
        .map(|address: IpAddr| address.to_canonical())
        .map_err(|_| format!("{text:?} is not an IP address"))
}
