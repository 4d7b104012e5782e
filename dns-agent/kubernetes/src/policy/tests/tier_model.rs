//! A reference model of cluster-wide policies that follows the text of the network policy API
//! literally. It extends the model of NetworkPolicies in [`super::reference_model`].
//!
//! The source is the comments in sigs.k8s.io/network-policy-api, `apis/v1alpha1` and
//! `apis/v1alpha2`.

use std::net::Ipv4Addr;

use serde_json::{Value, json};

use super::reference_model::{ModelNetwork, ModelPod, ModelSelector, ModelTarget, is_in};

/// An API of cluster-wide policies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ModelApi {
    /// AdminNetworkPolicy and BaselineAdminNetworkPolicy.
    AdminNetworkPolicy,
    ClusterNetworkPolicy,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ModelTier {
    Admin,
    Baseline,
}

#[derive(Debug)]
pub(super) struct ModelClusterPolicy {
    pub(super) api: ModelApi,
    pub(super) tier: ModelTier,
    pub(super) priority: u16,
    pub(super) subject: ModelPods,
    pub(super) egress: Vec<ModelTierRule>,
    pub(super) ingress: Vec<ModelTierRule>,
    /// What the status says about the policy's enforcement. `None`: nothing.
    pub(super) report: Option<bool>,
}

/// Pods by the labels of their namespaces, and by their own labels.
#[derive(Debug)]
pub(super) struct ModelPods {
    pub(super) namespaces: ModelSelector,
    pub(super) pods: Option<ModelSelector>,
}

#[derive(Debug)]
pub(super) struct ModelTierRule {
    pub(super) action: ModelAction,
    pub(super) peers: Vec<ModelTierPeer>,
    pub(super) ports: Option<Vec<ModelTierPort>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ModelAction {
    Accept,
    Deny,
    Pass,
}

#[derive(Debug)]
pub(super) enum ModelTierPeer {
    Pods(ModelPods),
    Networks(Vec<ModelNetwork>),
    /// All nodes: the network 192.168.0.0/16.
    Nodes,
    /// A name of no address in the cluster.
    DomainName,
    /// A field that only a future version of the API has.
    Unknown,
}

#[derive(Debug)]
pub(super) enum ModelTierPort {
    Numbers {
        protocol: &'static str,
        first: u16,
        last: u16,
    },
    Name(&'static str),
}

/// How a plugin reads policies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ModelReading {
    /// As the API says.
    AsSpecified,
    /// Like OVN-Kubernetes and Kube-OVN, it rejects policies with large priorities and all but the
    /// first of policies with equal priority. Like Calico, it treats nodes and domain names as
    /// unknown peers. Like Kube-OVN, it ignores names of ports: this one enforces no port for them.
    Limited,
    /// The same, but a rule with names of ports is for all ports.
    LimitedWithAllPorts,
}

/// One end of a connection as a plugin sees it.
#[derive(Clone, Copy)]
pub(super) struct ModelEnd<'a> {
    pub(super) reading: ModelReading,
    pub(super) pod: &'a ModelPod,
    /// Whether selectors can select the pod.
    pub(super) is_selectable: bool,
    /// The address and port that a plugin compares with networks.
    pub(super) seen: (Ipv4Addr, u16),
    /// The server.
    pub(super) target: ModelTarget<'a>,
}

impl ModelClusterPolicy {
    /// What the first matching rule decides. `None`: no rule matches.
    pub(super) fn decide(
        rules: &[ModelTierRule],
        selects_namespace: &impl Fn(&ModelSelector, &ModelPod) -> bool,
        peer: ModelEnd<'_>,
    ) -> Option<ModelAction> {
        let mut rules = rules.iter();
        rules.find_map(|rule| rule.decide(selects_namespace, peer))
    }

    /// The largest priority that every plugin accepts.
    fn max_priority(&self) -> u16 {
        match self.api {
            ModelApi::AdminNetworkPolicy => 99,
            ModelApi::ClusterNetworkPolicy => 399,
        }
    }

    /// Whether a plugin rejects the policy. `earlier` are the policies that it has read before.
    pub(super) fn is_rejected(&self, reading: ModelReading, earlier: &[&Self]) -> bool {
        let is_equal = |other: &&Self| {
            (other.api, other.tier, other.priority) == (self.api, self.tier, self.priority)
        };
        reading != ModelReading::AsSpecified
            && (self.priority > self.max_priority() || earlier.iter().any(is_equal))
    }

    pub(super) fn kind(&self) -> &'static str {
        match (self.api, self.tier) {
            (ModelApi::AdminNetworkPolicy, ModelTier::Admin) => "AdminNetworkPolicy",
            (ModelApi::AdminNetworkPolicy, ModelTier::Baseline) => "BaselineAdminNetworkPolicy",
            (ModelApi::ClusterNetworkPolicy, _) => "ClusterNetworkPolicy",
        }
    }

    pub(super) fn object(&self, at: usize) -> Value {
        let rules = |rules: &[ModelTierRule], peers: &str| -> Vec<Value> {
            rules
                .iter()
                .map(|rule| rule.object(self.api, peers))
                .collect()
        };
        let mut spec = json!({
            "subject": self.subject.object(),
            "egress": rules(&self.egress, "to"),
            "ingress": rules(&self.ingress, "from"),
        });
        let version = match self.api {
            ModelApi::AdminNetworkPolicy => "v1alpha1",
            ModelApi::ClusterNetworkPolicy => {
                spec["tier"] = json!(format!("{:?}", self.tier));
                "v1alpha2"
            }
        };
        if self.kind() != "BaselineAdminNetworkPolicy" {
            spec["priority"] = json!(self.priority);
        }
        let mut object = json!({
            "apiVersion": format!("policy.networking.k8s.io/{version}"),
            "kind": self.kind(), "metadata": {"name": format!("p{at}")}, "spec": spec,
        });
        if let Some(is_enforced) = self.report {
            let status = if is_enforced { "True" } else { "False" };
            object["status"] = json!({"conditions": [
                {"type": "Ready-In-Zone-n1", "status": "True"},
                {"type": "Ready-In-Zone-n2", "status": status},
            ]});
        }
        object
    }
}

impl ModelPods {
    pub(super) fn include(
        &self,
        selects_namespace: &impl Fn(&ModelSelector, &ModelPod) -> bool,
        pod: &ModelPod,
    ) -> bool {
        let pods = self.pods.as_ref();
        selects_namespace(&self.namespaces, pod)
            && pods.is_none_or(|selector| selector.selects(&pod.labels))
    }

    fn object(&self) -> Value {
        let namespaces = self.namespaces.object();
        match &self.pods {
            None => json!({"namespaces": namespaces}),
            Some(pods) => {
                json!({"pods": {"namespaceSelector": namespaces, "podSelector": pods.object()}})
            }
        }
    }
}

impl ModelTierRule {
    /// "If an implementation sees no fields are set then it can infer that the deployed CRD is of
    /// an incompatible version with an unknown field. In that case it should fail closed. For
    /// "Accept" rules, "fail closed" means: "treat the rule as matching no traffic". For "Deny" and
    /// "Pass" rules, "fail closed" means: "treat the rule as a 'Deny all' rule"."
    fn decide(
        &self,
        selects_namespace: &impl Fn(&ModelSelector, &ModelPod) -> bool,
        end: ModelEnd<'_>,
    ) -> Option<ModelAction> {
        let is_unknown = |peer: &ModelTierPeer| match peer {
            ModelTierPeer::Unknown => true,
            ModelTierPeer::Nodes | ModelTierPeer::DomainName => {
                end.reading != ModelReading::AsSpecified
            }
            ModelTierPeer::Pods(_) | ModelTierPeer::Networks(_) => false,
        };
        if self.peers.iter().any(is_unknown) {
            return (self.action != ModelAction::Accept).then_some(ModelAction::Deny);
        }
        let mut peers = self.peers.iter();
        let is_match = peers.any(|peer| match peer {
            ModelTierPeer::Pods(pods) => {
                end.is_selectable
                    && pods.include(selects_namespace, end.pod)
                    && self.has_port(end.target.port, end)
            }
            ModelTierPeer::Networks(networks) => {
                let (address, port) = end.seen;
                networks.iter().any(|network| is_in(address, *network)) && self.has_port(port, end)
            }
            ModelTierPeer::Nodes => {
                let (address, port) = end.seen;
                is_in(address, (Ipv4Addr::new(192, 168, 0, 0), 16)) && self.has_port(port, end)
            }
            ModelTierPeer::DomainName => false,
            ModelTierPeer::Unknown => unreachable!("handled above"),
        });
        is_match.then_some(self.action)
    }

    /// Whether the rule denies some connection, with any plugin.
    pub(super) fn may_deny(&self) -> bool {
        let is_optional = |peer: &ModelTierPeer| {
            matches!(
                peer,
                ModelTierPeer::Nodes | ModelTierPeer::DomainName | ModelTierPeer::Unknown
            )
        };
        match self.action {
            ModelAction::Accept => false,
            ModelAction::Deny => true,
            ModelAction::Pass => self.peers.iter().any(is_optional),
        }
    }

    fn has_port(&self, number: u16, end: ModelEnd<'_>) -> bool {
        let Some(ports) = &self.ports else {
            return true;
        };
        ports.iter().any(|port| match port {
            ModelTierPort::Numbers {
                protocol,
                first,
                last,
            } => *protocol == end.target.protocol && (*first..=*last).contains(&number),
            ModelTierPort::Name(name) => match end.reading {
                ModelReading::AsSpecified => {
                    let ModelTarget { pod, protocol, .. } = end.target;
                    let mut ports = pod.ports.iter();
                    ports.any(|port| port.0 == *name && port.1 == protocol && port.2 == number)
                }
                ModelReading::Limited => false,
                ModelReading::LimitedWithAllPorts => true,
            },
        })
    }

    fn object(&self, api: ModelApi, peers_field: &str) -> Value {
        let action = match (api, self.action) {
            (ModelApi::AdminNetworkPolicy, ModelAction::Accept) => "Allow".to_owned(),
            (_, action) => format!("{action:?}"),
        };
        let mut rule = json!({"action": action});
        rule[peers_field] = self.peers.iter().map(ModelTierPeer::object).collect();
        let ports = self.ports.iter().flatten();
        let ports = ports.map(|port| port.object(api)).collect::<Vec<_>>();
        match api {
            _ if ports.is_empty() => {}
            ModelApi::AdminNetworkPolicy => rule["ports"] = json!(ports),
            ModelApi::ClusterNetworkPolicy => rule["protocols"] = json!(ports),
        }
        rule
    }
}

impl ModelTierPeer {
    fn object(&self) -> Value {
        match self {
            ModelTierPeer::Pods(pods) => pods.object(),
            ModelTierPeer::Networks(networks) => {
                let text = |(address, length): &ModelNetwork| format!("{address}/{length}");
                json!({"networks": networks.iter().map(text).collect::<Vec<_>>()})
            }
            ModelTierPeer::Nodes => json!({"nodes": {}}),
            ModelTierPeer::DomainName => json!({"domainNames": ["example.com"]}),
            ModelTierPeer::Unknown => json!({"future": {}}),
        }
    }
}

impl ModelTierPort {
    fn object(&self, api: ModelApi) -> Value {
        match (api, self) {
            (ModelApi::AdminNetworkPolicy, ModelTierPort::Name(name)) => {
                json!({"namedPort": name})
            }
            (ModelApi::ClusterNetworkPolicy, ModelTierPort::Name(name)) => {
                json!({"destinationNamedPort": name})
            }
            (
                api,
                ModelTierPort::Numbers {
                    protocol,
                    first,
                    last,
                },
            ) => match api {
                ModelApi::AdminNetworkPolicy if first == last => {
                    json!({"portNumber": {"protocol": protocol, "port": first}})
                }
                ModelApi::AdminNetworkPolicy => {
                    json!({"portRange": {"protocol": protocol, "start": first, "end": last}})
                }
                ModelApi::ClusterNetworkPolicy => {
                    let port = if first == last {
                        json!({"number": first})
                    } else {
                        json!({"range": {"start": first, "end": last}})
                    };
                    let protocol = protocol.to_ascii_lowercase();
                    json!({protocol: {"destinationPort": port}})
                }
            },
        }
    }
}
