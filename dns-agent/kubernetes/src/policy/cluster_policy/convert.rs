//! Conversion of API objects into cluster-wide policies.

use std::collections::BTreeMap;

use ipnet::IpNet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use serde::Deserialize;
use serde_json::Value;

use super::{
    ClusterPeer, ClusterPeers, ClusterPolicy, ClusterRule, MAX_POLICY_MEMORY, PodSet, PolicyApi,
    PolicyReport, RuleAction, Tier,
};
use crate::objects::ObjectKey;
use crate::policy::ports::{PortRange, Ports, ProtocolPorts, QueryProtocol};
use crate::selector::Selector;

/// The largest priority that the API permits.
const MAX_PRIORITY: u16 = 1_000;

impl ClusterPolicy {
    /// Reads a policy of the network policy API in the form of the API. `kind` is its `kind` field.
    ///
    /// # Errors
    /// If the policy has a version that is not known, or a part of its spec besides the rules
    /// can't be read, or if the policy is too large. The text says which part.
    pub(in crate::policy) fn from_object(
        kind: &'static str,
        key: &ObjectKey,
        object: &Value,
    ) -> Result<ClusterPolicy, String> {
        let api = PolicyApi::of_kind(kind);
        // Items of a list may lack the field.
        let version = object["apiVersion"].as_str();
        let version = version.and_then(|version| version.split_once('/'));
        if let Some((_, version)) = version
            && !api.versions().contains(&version)
        {
            return Err(format!("its API version {version:?} is not known"));
        }
        let spec: ApiSpec = serde_json::from_value(object["spec"].clone())
            .map_err(|error| format!("spec: {error}"))?;
        let tier = match (kind, spec.tier) {
            ("AdminNetworkPolicy", None) | ("ClusterNetworkPolicy", Some(Tier::Admin)) => {
                Tier::Admin
            }
            ("BaselineAdminNetworkPolicy", None)
            | ("ClusterNetworkPolicy", Some(Tier::Baseline)) => Tier::Baseline,
            (_, None) => return Err("spec.tier is missing".to_owned()),
            (_, Some(_)) => return Err("spec.tier is not a field of this kind".to_owned()),
        };
        let priority = match (kind, spec.priority) {
            ("BaselineAdminNetworkPolicy", None) => 0,
            ("BaselineAdminNetworkPolicy", Some(_)) => {
                return Err("spec.priority is not a field of this kind".to_owned());
            }
            (_, Some(priority @ 0..=MAX_PRIORITY)) => priority,
            (_, None | Some(_)) => {
                return Err(format!(
                    "spec.priority is not a number from 0 to {MAX_PRIORITY}"
                ));
            }
        };
        let subject = spec
            .subject
            .into_pods()
            .map_err(|it| format!("spec.subject: {it}"))?;
        let egress = spec.egress.unwrap_or_default();
        let ingress = spec.ingress.unwrap_or_default();
        let policy = ClusterPolicy {
            kind,
            api,
            tier,
            priority,
            subject,
            egress: read_rules(&egress, ApiTierRule::into_egress),
            ingress: read_rules(&ingress, ApiTierRule::into_ingress),
            report: read_report(object),
            key: key.clone(),
        };
        let memory = policy.memory();
        if memory > MAX_POLICY_MEMORY {
            return Err(format!(
                "it takes {} MiB, and at most {} MiB are read",
                memory >> 20,
                MAX_POLICY_MEMORY >> 20
            ));
        }
        Ok(policy)
    }
}

impl PolicyApi {
    /// The API of a kind, by its `kind` field.
    pub(in crate::policy) fn of_kind(kind: &str) -> PolicyApi {
        match kind {
            "ClusterNetworkPolicy" => PolicyApi::ClusterNetworkPolicy,
            _ => PolicyApi::AdminNetworkPolicy,
        }
    }

    /// The versions that can be read.
    pub(in crate::policy) fn versions(self) -> &'static [&'static str] {
        match self {
            PolicyApi::AdminNetworkPolicy => &["v1alpha1"],
            PolicyApi::ClusterNetworkPolicy => &["v1alpha2", "v1beta1"],
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ApiSpec {
    tier: Option<Tier>,
    priority: Option<u16>,
    subject: ApiSubject,
    /// Each rule is read by itself, because one that can't be read fails closed.
    egress: Option<Vec<Value>>,
    ingress: Option<Vec<Value>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ApiSubject {
    namespaces: Option<ApiSelector>,
    pods: Option<ApiPods>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ApiPods {
    /// By default, all namespaces.
    #[serde(default)]
    namespace_selector: ApiSelector,
    pod_selector: ApiSelector,
}

/// A label selector without other fields. Versions of AdminNetworkPolicy before 0.1.2 had
/// `sameLabels` and `notSameLabels` beside a nested `namespaceSelector`.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ApiSelector {
    match_labels: Option<BTreeMap<String, String>>,
    match_expressions: Option<Vec<ApiRequirement>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ApiRequirement {
    key: String,
    operator: String,
    values: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ApiTierRule {
    #[serde(rename = "name")]
    _name: Option<String>,
    action: RuleAction,
    to: Option<Vec<ApiPeer>>,
    from: Option<Vec<ApiPeer>>,
    /// Version v1alpha1.
    ports: Option<Vec<ApiPort>>,
    /// Later versions.
    protocols: Option<Vec<ApiProtocol>>,
}

/// Exactly one field is set.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ApiPeer {
    namespaces: Option<ApiSelector>,
    pods: Option<ApiPods>,
    networks: Option<Vec<IpNet>>,
    nodes: Option<ApiSelector>,
    domain_names: Option<Vec<String>>,
}

/// Exactly one field is set.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ApiPort {
    port_number: Option<ApiNumberedPort>,
    port_range: Option<ApiProtocolRange>,
    named_port: Option<Box<str>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ApiNumberedPort {
    protocol: Option<ApiTransport>,
    port: u16,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ApiProtocolRange {
    protocol: Option<ApiTransport>,
    start: u16,
    end: u16,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum ApiTransport {
    Tcp,
    Udp,
    Sctp,
}

/// Exactly one field is set.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ApiProtocol {
    tcp: Option<ApiDestination>,
    udp: Option<ApiDestination>,
    sctp: Option<ApiDestination>,
    destination_named_port: Option<Box<str>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ApiDestination {
    destination_port: Option<ApiDestinationPort>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ApiDestinationPort {
    number: Option<u16>,
    range: Option<ApiRange>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ApiRange {
    start: u16,
    end: u16,
}

/// A part of a rule that is not known.
struct UnknownPart;

impl ApiSubject {
    fn into_pods(self) -> Result<PodSet, String> {
        match (self.namespaces, self.pods) {
            (Some(namespaces), None) => Ok(PodSet {
                namespaces: namespaces.into_selector()?,
                pods: Selector::default(),
            }),
            (None, Some(pods)) => pods.into_pods(),
            _ => Err("give either namespaces or pods".to_owned()),
        }
    }
}

impl ApiPods {
    fn into_pods(self) -> Result<PodSet, String> {
        Ok(PodSet {
            namespaces: self.namespace_selector.into_selector()?,
            pods: self.pod_selector.into_selector()?,
        })
    }
}

impl ApiSelector {
    fn into_selector(self) -> Result<Selector, String> {
        let requirements = self.match_expressions.map(|expressions| {
            let expressions = expressions.into_iter();
            let requirement = |it: ApiRequirement| LabelSelectorRequirement {
                key: it.key,
                operator: it.operator,
                values: it.values,
            };
            expressions.map(requirement).collect()
        });
        Selector::from_api(LabelSelector {
            match_labels: self.match_labels,
            match_expressions: requirements,
        })
    }
}

impl ApiTierRule {
    fn into_egress(self, index: usize) -> Result<ClusterRule, UnknownPart> {
        let (Some(to), None) = (self.to, self.from) else {
            return Err(UnknownPart);
        };
        Ok(ClusterRule {
            index,
            action: self.action,
            peers: read_peers(to, ApiPeer::into_destination)?,
            ports: read_either_ports(self.ports, self.protocols)?,
        })
    }

    fn into_ingress(self, index: usize) -> Result<ClusterRule, UnknownPart> {
        let (None, Some(from)) = (self.to, self.from) else {
            return Err(UnknownPart);
        };
        Ok(ClusterRule {
            index,
            action: self.action,
            peers: read_peers(from, ApiPeer::into_source)?,
            ports: read_either_ports(self.ports, self.protocols)?,
        })
    }
}

impl ApiPeer {
    fn into_destination(self) -> Result<ClusterPeer, UnknownPart> {
        let ApiPeer {
            namespaces: None,
            pods: None,
            ..
        } = self
        else {
            return self.into_source();
        };
        match (self.networks, self.nodes, self.domain_names) {
            (Some(networks), None, None) if !networks.is_empty() => {
                Ok(ClusterPeer::Networks(networks.into()))
            }
            (None, Some(_), None) => Ok(ClusterPeer::Nodes),
            (None, None, Some(_)) => Ok(ClusterPeer::DomainNames),
            _ => Err(UnknownPart),
        }
    }

    fn into_source(self) -> Result<ClusterPeer, UnknownPart> {
        let ApiPeer {
            namespaces,
            pods,
            networks: None,
            nodes: None,
            domain_names: None,
        } = self
        else {
            return Err(UnknownPart);
        };
        let pods = ApiSubject { namespaces, pods }.into_pods();
        pods.map(ClusterPeer::Pods).map_err(|_| UnknownPart)
    }
}

impl ApiPort {
    fn into_ports(self) -> Result<Vec<ProtocolPorts>, UnknownPart> {
        let (protocol, numbers) = match (self.port_number, self.port_range, self.named_port) {
            (Some(ApiNumberedPort { protocol, port }), None, None) => (protocol, (port, port)),
            (None, Some(range), None) => (range.protocol, (range.start, range.end)),
            (None, None, Some(name)) => return Ok(name_ports(&name)),
            _ => return Err(UnknownPart),
        };
        // The default is TCP.
        match protocol {
            Some(ApiTransport::Udp) => list_ports(QueryProtocol::Udp, read_numbers(numbers)),
            Some(ApiTransport::Tcp) | None => list_ports(QueryProtocol::Tcp, read_numbers(numbers)),
            Some(ApiTransport::Sctp) => Ok(Vec::new()),
        }
    }
}

impl ApiProtocol {
    fn into_ports(self) -> Result<Vec<ProtocolPorts>, UnknownPart> {
        match (self.tcp, self.udp, self.sctp, self.destination_named_port) {
            (Some(tcp), None, None, None) => list_ports(QueryProtocol::Tcp, tcp.into_range()),
            (None, Some(udp), None, None) => list_ports(QueryProtocol::Udp, udp.into_range()),
            (None, None, Some(_), None) => Ok(Vec::new()),
            (None, None, None, Some(name)) => Ok(name_ports(&name)),
            _ => Err(UnknownPart),
        }
    }
}

impl ApiDestination {
    fn into_range(self) -> Result<PortRange, UnknownPart> {
        let Some(ApiDestinationPort { number, range }) = self.destination_port else {
            return Ok(PortRange::ALL);
        };
        match (number, range) {
            (Some(number), None) => read_numbers((number, number)),
            (None, Some(ApiRange { start, end })) => read_numbers((start, end)),
            (None, None) | (Some(_), Some(_)) => Err(UnknownPart),
        }
    }
}

/// Reads rules. See [`ClusterPeers::FailClosed`] for those with a part that isn't known.
fn read_rules(
    rules: &[Value],
    read_rule: impl Fn(ApiTierRule, usize) -> Result<ClusterRule, UnknownPart>,
) -> Box<[ClusterRule]> {
    let rules = rules.iter().enumerate().filter_map(|(index, rule)| {
        let rule_in_api = ApiTierRule::deserialize(rule).map_err(|_| UnknownPart);
        match rule_in_api.and_then(|rule| read_rule(rule, index)) {
            Ok(rule) => Some(rule),
            Err(UnknownPart) if matches!(rule["action"].as_str(), Some("Accept" | "Allow")) => None,
            Err(UnknownPart) => Some(ClusterRule {
                index,
                action: RuleAction::Deny,
                peers: ClusterPeers::FailClosed,
                ports: Ports::All,
            }),
        }
    });
    rules.collect()
}

/// Reads peers. The API demands at least one.
fn read_peers(
    peers: Vec<ApiPeer>,
    read_peer: impl FnMut(ApiPeer) -> Result<ClusterPeer, UnknownPart>,
) -> Result<ClusterPeers, UnknownPart> {
    if peers.is_empty() {
        return Err(UnknownPart);
    }
    let peers = peers.into_iter().map(read_peer);
    Ok(ClusterPeers::Listed(peers.collect::<Result<_, _>>()?))
}

/// Reads the ports of the field that the version of the API has.
fn read_either_ports(
    ports: Option<Vec<ApiPort>>,
    protocols: Option<Vec<ApiProtocol>>,
) -> Result<Ports, UnknownPart> {
    match (ports, protocols) {
        (None, None) => Ok(Ports::All),
        (Some(ports), None) => read_ports(ports, ApiPort::into_ports),
        (None, Some(protocols)) => read_ports(protocols, ApiProtocol::into_ports),
        (Some(_), Some(_)) => Err(UnknownPart),
    }
}

/// Reads ports. The API demands at least one.
fn read_ports<T>(
    ports: Vec<T>,
    mut read_port: impl FnMut(T) -> Result<Vec<ProtocolPorts>, UnknownPart>,
) -> Result<Ports, UnknownPart> {
    if ports.is_empty() {
        return Err(UnknownPart);
    }
    let mut listed = Vec::new();
    for port in ports {
        listed.extend(read_port(port)?);
    }
    Ok(Ports::Listed(listed.into()))
}

/// Lists ports of one protocol. TCP ports that can't be read don't make the rule unknown for UDP.
fn list_ports(
    protocol: QueryProtocol,
    range: Result<PortRange, UnknownPart>,
) -> Result<Vec<ProtocolPorts>, UnknownPart> {
    let range = match protocol {
        QueryProtocol::Udp => range?,
        QueryProtocol::Tcp => range.unwrap_or(PortRange::Unknown),
    };
    Ok(vec![ProtocolPorts { protocol, range }])
}

/// The ports of every protocol that have this name.
fn name_ports(name: &str) -> Vec<ProtocolPorts> {
    let protocols = [QueryProtocol::Udp, QueryProtocol::Tcp];
    let ports = protocols.map(|protocol| ProtocolPorts {
        protocol,
        range: PortRange::Name(name.into()),
    });
    ports.into()
}

/// Reads the first and the last port of a range.
fn read_numbers((start, end): (u16, u16)) -> Result<PortRange, UnknownPart> {
    if start > end {
        return Err(UnknownPart);
    }
    Ok(PortRange::Numbers(start..=end))
}

fn read_report(object: &Value) -> PolicyReport {
    let conditions = object["status"]["conditions"].as_array();
    let conditions = conditions.into_iter().flatten();
    let mut conditions = conditions
        .filter(|condition| {
            let name = condition["type"].as_str().unwrap_or_default();
            name.starts_with("Ready-In-Zone-")
        })
        .peekable();
    if conditions.peek().is_none() {
        return PolicyReport::Missing;
    }
    let generation = &object["metadata"]["generation"];
    let is_true = |condition: &Value| {
        // OVN-Kubernetes doesn't write this field.
        let observed = condition.get("observedGeneration");
        let is_current = observed.is_none_or(|observed| observed == generation);
        is_current && condition["status"] == "True"
    };
    if conditions.all(is_true) {
        PolicyReport::Enforced
    } else {
        PolicyReport::NotEnforced
    }
}
