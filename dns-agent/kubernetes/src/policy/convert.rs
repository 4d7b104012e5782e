//! Conversion of API objects into facts.

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::api::networking::v1 as networking;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::objects::{
    DnsService, DnsSlice, Fact, LabelledNamespace, NamedPort, Peer, Peers, PodNetwork, Policy,
    PolicyPod, Rule, Stage,
};
use super::ports::{PortRange, Ports, ProtocolPorts, QueryProtocol};
use crate::convert::{ApiPod, ApiPodStatus, key};
use crate::object_set::Object;
use crate::objects::{
    EndpointSlice, ObjectError, ObjectKey, Problem, Service, ServiceKind, SliceReadability,
};
use crate::selector::{Labels, Selector};

/// The most bytes of a Pod's labels that are read. The API server limits the length of each label,
/// and not their number.
const MAX_LABEL_BYTES: usize = 64 << 10;

impl Fact {
    /// Reads a Pod.
    ///
    /// # Errors
    /// If the Pod has no name, an address that can't be parsed, or labels of more than
    /// [`MAX_LABEL_BYTES`].
    pub fn from_pod(pod: &ApiPod) -> Result<Fact, ObjectError> {
        let key = key("Pod", &pod.metadata)?;
        let labels = labels(pod.metadata.labels.as_ref());
        let bytes: usize = labels
            .iter()
            .map(|(key, value)| key.len() + value.len())
            .sum();
        if bytes > MAX_LABEL_BYTES {
            let reason = format!("have {bytes} bytes: at most {MAX_LABEL_BYTES} are read");
            let field = "metadata.labels".to_owned();
            return Err(Problem::with_key("Pod", &key, field, reason));
        }
        let status = pod.status.as_ref();
        let phase = status.and_then(|status| status.phase.as_deref());
        let has_ended = matches!(phase, Some("Succeeded" | "Failed"));
        let addresses = match (has_ended, status) {
            (false, Some(status)) => status.addresses(&key)?.into(),
            _ => [].into(),
        };
        let is_ending = pod.metadata.deletion_timestamp.is_some() || phase == Some("Unknown");
        let spec = pod.spec.as_ref();
        let containers = spec.and_then(|spec| spec.containers.as_deref());
        let ports = containers.unwrap_or_default().iter();
        let ports = ports.flat_map(|container| container.ports.as_deref().unwrap_or_default());
        Ok(Fact::Pod(PolicyPod {
            labels,
            addresses,
            stage: if is_ending {
                Stage::Ending
            } else {
                Stage::Alive
            },
            network: match spec.and_then(|spec| spec.host_network) {
                Some(true) => PodNetwork::Host,
                _ => PodNetwork::Own,
            },
            named_ports: ports
                .filter_map(|port| {
                    Some(NamedPort {
                        name: port.name.as_deref()?.into(),
                        protocol: QueryProtocol::from_api(port.protocol.as_deref())?,
                        number: u16::try_from(port.container_port).ok()?,
                    })
                })
                .collect(),
            started: status.and_then(ApiPodStatus::started),
            node_cache: None,
            dns_containers: None,
            key,
        }))
    }

    /// Reads a Namespace with its labels.
    ///
    /// # Errors
    /// If the Namespace has no name.
    pub fn from_namespace(namespace: &core::Namespace) -> Result<Fact, ObjectError> {
        Ok(Fact::Namespace(LabelledNamespace {
            key: key("Namespace", &namespace.metadata)?,
            labels: labels(namespace.metadata.labels.as_ref()),
        }))
    }

    /// Reads a Service that may be the cluster's DNS, or to which NodeLocal DNSCache may forward
    /// queries.
    ///
    /// # Errors
    /// If the Service has no name or no spec, or a port or ClusterIP that can't be read.
    pub fn from_service(service: &core::Service) -> Result<Fact, ObjectError> {
        let spec = service.spec.as_ref();
        let selector = labels(spec.and_then(|spec| spec.selector.as_ref()));
        let created = service.metadata.creation_timestamp.as_ref();
        let created = created.map(|created| created.0.into());
        let service = Service::try_from(service.clone())?;
        Ok(Fact::Service(DnsService {
            created,
            key: service.key,
            addresses: match service.kind {
                ServiceKind::ClusterIp(addresses) => addresses,
                ServiceKind::Headless
                | ServiceKind::HeadlessWithoutSlices
                | ServiceKind::ExternalName(_)
                | ServiceKind::Unreadable => [].into(),
            },
            ports: service.ports.to_vec().into(),
            selector,
        }))
    }

    /// Reads an EndpointSlice that may belong to the cluster's DNS.
    ///
    /// # Errors
    /// If the slice has no name, or a port or address that can't be read. Also if other software
    /// may read different addresses from the slice, because queries may then go to those addresses.
    pub fn from_slice(slice: &discovery::EndpointSlice) -> Result<Fact, ObjectError> {
        let slice = EndpointSlice::try_from(slice.clone())?;
        if slice.readability != SliceReadability::Plain {
            let reason = "some of its addresses can be read in more than one way".to_owned();
            let field = "endpoints".to_owned();
            return Err(Problem::with_key(
                "EndpointSlice",
                &slice.key,
                field,
                reason,
            ));
        }
        let service = slice.service_key();
        let addresses = slice.endpoints.iter().map(|endpoint| endpoint.address);
        Ok(Fact::Slice(DnsSlice {
            service,
            addresses: addresses.collect(),
            ports: slice.ports.to_vec().into(),
            key: slice.key,
        }))
    }
}

impl TryFrom<networking::NetworkPolicy> for Object {
    type Error = ObjectError;

    fn try_from(policy: networking::NetworkPolicy) -> Result<Object, ObjectError> {
        Policy::try_from(policy).map(|policy| Object::Fact(Fact::Policy(policy)))
    }
}

impl TryFrom<networking::NetworkPolicy> for Policy {
    type Error = ObjectError;

    fn try_from(policy: networking::NetworkPolicy) -> Result<Policy, ObjectError> {
        let key = key("NetworkPolicy", &policy.metadata)?;
        let spec = policy.spec.unwrap_or_default();
        let egress = spec.egress.unwrap_or_default();
        let egress = egress.into_iter().map(|rule| (rule.to, rule.ports));
        let ingress = spec.ingress.unwrap_or_default();
        let ingress = ingress.into_iter().map(|rule| (rule.from, rule.ports));
        let (is_about_egress, is_about_ingress) = match spec.policy_types {
            Some(types) if !types.is_empty() => {
                let has = |wanted| types.iter().any(|name| name == wanted);
                let is_known = |name: &String| name == "Egress" || name == "Ingress";
                if let Some(other) = types.iter().find(|name| !is_known(name)) {
                    let (field, reason) = (
                        "spec.policyTypes".to_owned(),
                        format!("{other:?} is neither Ingress nor Egress"),
                    );
                    return Err(Problem::with_key("NetworkPolicy", &key, field, reason));
                }
                (has("Egress"), has("Ingress"))
            }
            // Kubernetes's default: Ingress always, and Egress if the policy has egress rules.
            _ => (egress.len() > 0, true),
        };
        let reader = PolicyReader { key: &key };
        Ok(Policy {
            pods: reader
                .read_selector("spec.podSelector", spec.pod_selector.unwrap_or_default())?,
            egress: if is_about_egress {
                Some(reader.read_rules(&EGRESS, egress)?)
            } else {
                None
            },
            ingress: if is_about_ingress {
                Some(reader.read_rules(&INGRESS, ingress)?)
            } else {
                None
            },
            key,
        })
    }
}

/// The names of the API fields for one direction.
struct DirectionFields {
    rules: &'static str,
    peers: &'static str,
}

const EGRESS: DirectionFields = DirectionFields {
    rules: "egress",
    peers: "to",
};

const INGRESS: DirectionFields = DirectionFields {
    rules: "ingress",
    peers: "from",
};

/// The peers and ports of a rule in the form of the API.
type ApiRule = (
    Option<Vec<networking::NetworkPolicyPeer>>,
    Option<Vec<networking::NetworkPolicyPort>>,
);

/// Reads the parts of one policy.
struct PolicyReader<'a> {
    key: &'a ObjectKey,
}

impl PolicyReader<'_> {
    fn read_rules(
        &self,
        fields: &DirectionFields,
        rules: impl Iterator<Item = ApiRule>,
    ) -> Result<Box<[Rule]>, Problem> {
        let rules = rules.enumerate();
        rules
            .map(|(at, (peers, ports))| {
                let field = format!("spec.{}[{at}]", fields.rules);
                let peers_field = format!("{field}.{}", fields.peers);
                Ok(Rule {
                    peers: self.read_peers(&peers_field, peers.unwrap_or_default())?,
                    ports: self.read_ports(&field, ports.unwrap_or_default())?,
                })
            })
            .collect()
    }

    /// An empty list means all peers.
    fn read_peers(
        &self,
        field: &str,
        peers: Vec<networking::NetworkPolicyPeer>,
    ) -> Result<Peers, Problem> {
        if peers.is_empty() {
            return Ok(Peers::All);
        }
        let mut read = Vec::new();
        for (at, peer) in peers.into_iter().enumerate() {
            read.push(self.read_peer(&format!("{field}[{at}]"), peer)?);
        }
        Ok(Peers::Listed(read.into()))
    }

    fn read_peer(&self, field: &str, peer: networking::NetworkPolicyPeer) -> Result<Peer, Problem> {
        let selectors = (peer.namespace_selector, peer.pod_selector);
        match (peer.ip_block, selectors) {
            (Some(block), (None, None)) => {
                let field = format!("{field}.ipBlock");
                let network = |text: &String| {
                    let problem = || format!("{text:?} is not a network");
                    text.parse().map_err(|_| self.problem(&field, problem()))
                };
                let except = block.except.unwrap_or_default();
                Ok(Peer::Block {
                    network: network(&block.cidr)?,
                    except: except.iter().map(network).collect::<Result<_, _>>()?,
                })
            }
            (None, (None, None)) | (Some(_), _) => Err(self.problem(
                field,
                "has neither selectors nor an ipBlock, or has both".to_owned(),
            )),
            (None, (namespaces, pods)) => {
                let namespaces = namespaces.map(|selector| {
                    self.read_selector(&format!("{field}.namespaceSelector"), selector)
                });
                Ok(Peer::Pods {
                    namespaces: namespaces.transpose()?,
                    pods: self
                        .read_selector(&format!("{field}.podSelector"), pods.unwrap_or_default())?,
                })
            }
        }
    }

    /// An empty list means all ports.
    fn read_ports(
        &self,
        field: &str,
        ports: Vec<networking::NetworkPolicyPort>,
    ) -> Result<Ports, Problem> {
        if ports.is_empty() {
            return Ok(Ports::All);
        }
        let mut listed = Vec::new();
        for (at, port) in ports.into_iter().enumerate() {
            let Some(protocol) = QueryProtocol::from_api(port.protocol.as_deref()) else {
                continue;
            };
            let range = self.read_range(&format!("{field}.ports[{at}]"), port);
            let range = match protocol {
                QueryProtocol::Udp => range?,
                QueryProtocol::Tcp => range.unwrap_or(PortRange::Unknown),
            };
            listed.push(ProtocolPorts { protocol, range });
        }
        Ok(Ports::Listed(listed.into()))
    }

    fn read_range(
        &self,
        field: &str,
        port: networking::NetworkPolicyPort,
    ) -> Result<PortRange, Problem> {
        let number = |number: i32| {
            let problem = || format!("{number} is not a port");
            u16::try_from(number).map_err(|_| self.problem(field, problem()))
        };
        match (port.port, port.end_port) {
            (None, None) => Ok(PortRange::ALL),
            (Some(IntOrString::Int(first)), None) => {
                Ok(PortRange::Numbers(number(first)?..=number(first)?))
            }
            (Some(IntOrString::Int(first)), Some(last)) => {
                Ok(PortRange::Numbers(number(first)?..=number(last)?))
            }
            (Some(IntOrString::String(name)), None) => Ok(PortRange::Name(name.into())),
            (None | Some(IntOrString::String(_)), Some(_)) => {
                let reason = "has an endPort without a number for port";
                Err(self.problem(field, reason.to_owned()))
            }
        }
    }

    fn read_selector(&self, field: &str, selector: LabelSelector) -> Result<Selector, Problem> {
        Selector::from_api(selector).map_err(|reason| self.problem(field, reason))
    }

    fn problem(&self, field: &str, reason: String) -> Problem {
        Problem::with_key("NetworkPolicy", self.key, field.to_owned(), reason)
    }
}

fn labels(labels: Option<&Labels>) -> Labels {
    labels.cloned().unwrap_or_default()
}
