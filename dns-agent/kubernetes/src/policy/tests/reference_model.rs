//! A reference model of NetworkPolicies that follows the Kubernetes documentation literally.
//!
//! The source is <https://kubernetes.io/docs/concepts/services-networking/network-policies/>. The
//! model has its own types, so that it shares no mistakes with the code under test. It knows the
//! whole cluster, including objects that the agent doesn't receive.

use std::{collections::BTreeMap, net::Ipv4Addr};

use serde_json::{Value, json};

use super::tier_model::{
    ModelAction, ModelApi, ModelClusterPolicy, ModelEnd, ModelReading, ModelTier, ModelTierRule,
};

pub(super) type ModelLabels = BTreeMap<&'static str, &'static str>;

#[derive(Debug)]
pub(super) struct ModelCluster {
    pub(super) namespaces: BTreeMap<&'static str, ModelLabels>,
    pub(super) clients: Vec<ModelPod>,
    /// The servers behind the ClusterIP.
    pub(super) servers: Vec<ModelServer>,
    pub(super) policies: Vec<ModelPolicy>,
    pub(super) cluster_policies: Vec<ModelClusterPolicy>,
}

/// A server with its port of each protocol.
#[derive(Debug)]
pub(super) struct ModelServer {
    pub(super) pod: ModelPod,
    pub(super) udp: u16,
    pub(super) tcp: u16,
}

/// The destination of a query.
#[derive(Clone, Copy)]
pub(super) struct ModelTarget<'a> {
    pub(super) pod: &'a ModelPod,
    pub(super) protocol: &'static str,
    /// The port at the pod.
    pub(super) port: u16,
}

#[derive(Clone, Debug)]
pub(super) struct ModelPod {
    pub(super) namespace: &'static str,
    pub(super) name: String,
    pub(super) labels: ModelLabels,
    pub(super) address: Ipv4Addr,
    pub(super) host_network: bool,
    /// Name, protocol and number.
    pub(super) ports: Vec<(&'static str, &'static str, u16)>,
}

#[derive(Debug)]
pub(super) struct ModelPolicy {
    pub(super) namespace: &'static str,
    pub(super) selector: ModelSelector,
    pub(super) types: Option<Vec<&'static str>>,
    pub(super) ingress: Option<Vec<ModelRule>>,
    pub(super) egress: Option<Vec<ModelRule>>,
}

#[derive(Debug)]
pub(super) struct ModelRule {
    pub(super) peers: Option<Vec<ModelPeer>>,
    pub(super) ports: Option<Vec<ModelPort>>,
}

#[derive(Debug)]
pub(super) enum ModelPeer {
    Selectors {
        namespaces: Option<ModelSelector>,
        pods: Option<ModelSelector>,
    },
    Block {
        network: ModelNetwork,
        except: Vec<ModelNetwork>,
    },
}

/// A network's address and prefix length.
pub(super) type ModelNetwork = (Ipv4Addr, u32);

#[derive(Debug)]
pub(super) struct ModelPort {
    pub(super) protocol: Option<&'static str>,
    /// A number or a name.
    pub(super) port: Option<Value>,
    pub(super) end_port: Option<u16>,
}

#[derive(Debug, Default)]
pub(super) struct ModelSelector {
    pub(super) labels: ModelLabels,
    /// Key, operator and values.
    pub(super) expressions: Vec<(&'static str, &'static str, Vec<&'static str>)>,
}

/// Behaviour that the documentation leaves to the network plugin.
#[derive(Clone, Copy, Debug)]
pub(super) struct NetworkPlugin {
    host_pods: HostPods,
    block_addresses: BlockAddresses,
    /// The API of cluster-wide policies that the plugin enforces.
    enforced: Option<ModelApi>,
    reading: ModelReading,
    /// Whether it enforces policies whose status doesn't say that it does, although the status of
    /// others does.
    unreported: Unreported,
    equal_priorities: EqualPriorities,
}

/// Whether policies without a report count, if others of their API have one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unreported {
    Enforced,
    Rejected,
}

/// Which of several policies with equal priority decides first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EqualPriorities {
    FirstDecides,
    LastDecides,
}

/// A direction of connections, from a pod's point of view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ModelDirection {
    Egress,
    Ingress,
}

/// Whether policies apply to pods in their node's network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HostPods {
    Ignored,
    Restricted,
}

/// The addresses that a plugin compares with an `ipBlock`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BlockAddresses {
    /// The addresses of the server and of the client.
    ServerAndClient,
    /// The addresses of the Service and of the node: egress rules see the destination before
    /// translation, and ingress rules see the source after translation.
    ServiceAndNode,
}

/// The ClusterIP and port of the cluster's DNS.
pub(super) const SERVICE: (Ipv4Addr, u16) = (Ipv4Addr::new(10, 96, 0, 10), 53);

/// The node's address, to which a client's address may be translated.
const NODE: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 7);

impl ModelCluster {
    /// Whether a client's query over a protocol reaches every server with every plugin. The client
    /// must not be in its node's network.
    pub(super) fn allows_query(&self, client: &ModelPod, protocol: &'static str) -> bool {
        self.plugins().iter().all(|plugin| {
            let mut servers = self.servers.iter();
            servers.all(|server| self.allows_connection(*plugin, client, server.target(protocol)))
        })
    }

    /// Whether a policy restricts what a server may reach, with any plugin.
    pub(super) fn restricts_server_egress(&self) -> bool {
        let restricts = |server: &ModelPod| {
            let mut policies = self.policies.iter();
            let mut cluster_policies = self.cluster_policies.iter();
            policies.any(|policy| {
                policy.namespace == server.namespace
                    && policy.selector.selects(&server.labels)
                    && policy.has_type("Egress")
            }) || cluster_policies.any(|policy| {
                let selects = |selector: &ModelSelector, pod: &ModelPod| {
                    selector.selects(&self.namespaces[pod.namespace])
                };
                !server.host_network
                    && policy.subject.include(&selects, server)
                    && policy.egress.iter().any(ModelTierRule::may_deny)
            })
        };
        self.servers.iter().any(|server| restricts(&server.pod))
    }

    /// Every combination of behaviour. If a policy's status says that it is enforced, every plugin
    /// enforces its API, and reads policies as the API says.
    fn plugins(&self) -> Vec<NetworkPlugin> {
        let mut policies = self.cluster_policies.iter();
        let reported = policies.find(|policy| policy.report.is_some());
        let apis = match reported {
            _ if self.cluster_policies.is_empty() => vec![None],
            Some(policy) => vec![Some(policy.api)],
            None => vec![
                None,
                Some(ModelApi::AdminNetworkPolicy),
                Some(ModelApi::ClusterNetworkPolicy),
            ],
        };
        let readings = match reported {
            _ if self.cluster_policies.is_empty() => vec![ModelReading::AsSpecified],
            Some(_) => vec![ModelReading::AsSpecified],
            None => vec![
                ModelReading::AsSpecified,
                ModelReading::Limited,
                ModelReading::LimitedWithAllPorts,
            ],
        };
        let mut plugins = vec![NetworkPlugin {
            host_pods: HostPods::Ignored,
            block_addresses: BlockAddresses::ServerAndClient,
            enforced: None,
            reading: ModelReading::AsSpecified,
            unreported: Unreported::Enforced,
            equal_priorities: EqualPriorities::FirstDecides,
        }];
        let vary = |plugins: &mut Vec<NetworkPlugin>, vary: &dyn Fn(NetworkPlugin) -> Vec<_>| {
            *plugins = plugins.iter().flat_map(|plugin| vary(*plugin)).collect();
        };
        vary(&mut plugins, &|plugin| {
            let all = [HostPods::Ignored, HostPods::Restricted];
            all.map(|host_pods| NetworkPlugin {
                host_pods,
                ..plugin
            })
            .into()
        });
        vary(&mut plugins, &|plugin| {
            let all = [
                BlockAddresses::ServerAndClient,
                BlockAddresses::ServiceAndNode,
            ];
            let vary = |block_addresses| NetworkPlugin {
                block_addresses,
                ..plugin
            };
            all.map(vary).into()
        });
        vary(&mut plugins, &|plugin| {
            let all = apis.iter();
            all.map(|api| NetworkPlugin {
                enforced: *api,
                ..plugin
            })
            .collect()
        });
        vary(&mut plugins, &|plugin| {
            let all = readings.iter();
            all.map(|reading| NetworkPlugin {
                reading: *reading,
                ..plugin
            })
            .collect()
        });
        if reported.is_some() {
            vary(&mut plugins, &|plugin| {
                let all = [Unreported::Enforced, Unreported::Rejected];
                all.map(|unreported| NetworkPlugin {
                    unreported,
                    ..plugin
                })
                .into()
            });
        }
        if self.cluster_policies.len() > 1 {
            vary(&mut plugins, &|plugin| {
                let all = [EqualPriorities::FirstDecides, EqualPriorities::LastDecides];
                let vary = |equal_priorities| NetworkPlugin {
                    equal_priorities,
                    ..plugin
                };
                all.map(vary).into()
            });
        }
        plugins
    }

    /// "Policy tiers are evaluated in the following order: Admin tier, NetworkPolicy tier, Baseline
    /// tier … v1.NetworkPolicy always makes a final decision for selected pods."
    fn allows_direction(
        &self,
        plugin: NetworkPlugin,
        direction: ModelDirection,
        (pod, end): (&ModelPod, ModelEnd<'_>),
        network_policies: Option<bool>,
    ) -> bool {
        let decide = |tier| self.decide_tier(plugin, tier, direction, pod, end);
        match decide(ModelTier::Admin) {
            Some(ModelAction::Accept) => true,
            Some(ModelAction::Deny) => false,
            Some(ModelAction::Pass) | None => network_policies
                .unwrap_or_else(|| decide(ModelTier::Baseline) != Some(ModelAction::Deny)),
        }
    }

    /// "Policies with lower priority values have higher precedence, and are checked before policies
    /// with higher priority values in the same tier."
    fn decide_tier(
        &self,
        plugin: NetworkPlugin,
        tier: ModelTier,
        direction: ModelDirection,
        pod: &ModelPod,
        end: ModelEnd<'_>,
    ) -> Option<ModelAction> {
        // "Note that host-networked pods are not included in subject selection."
        if pod.host_network {
            return None;
        }
        let selects_namespace = |selector: &ModelSelector, pod: &ModelPod| {
            selector.selects(&self.namespaces[pod.namespace])
        };
        let mut policies: Vec<_> = self.cluster_policies.iter().collect();
        if plugin.equal_priorities == EqualPriorities::LastDecides {
            policies.reverse();
        }
        let mut read: Vec<&ModelClusterPolicy> = Vec::new();
        for policy in policies {
            let is_unreported =
                policy.report != Some(true) && plugin.unreported == Unreported::Rejected;
            if !is_unreported && !policy.is_rejected(plugin.reading, &read) {
                read.push(policy);
            }
        }
        let mut policies = read;
        policies.sort_by_key(|policy| policy.priority);
        policies.retain(|policy| {
            Some(policy.api) == plugin.enforced
                && policy.tier == tier
                && policy.subject.include(&selects_namespace, pod)
        });
        let mut policies = policies.into_iter();
        policies.find_map(|policy| {
            let rules = match direction {
                ModelDirection::Egress => &policy.egress,
                ModelDirection::Ingress => &policy.ingress,
            };
            ModelClusterPolicy::decide(rules, &selects_namespace, end)
        })
    }

    /// "For a connection from a source pod to a destination pod to be allowed, both the egress
    /// policy on the source pod and the ingress policy on the destination pod need to allow the
    /// connection. If either side does not allow the connection, it will not happen."
    fn allows_connection(
        &self,
        plugin: NetworkPlugin,
        client: &ModelPod,
        target: ModelTarget<'_>,
    ) -> bool {
        self.allows_egress(plugin, client, target) && self.allows_ingress(plugin, client, target)
    }

    /// "By default, a pod is non-isolated for egress; all outbound connections are allowed. A pod
    /// is isolated for egress if there is any NetworkPolicy that both selects the pod and has
    /// "Egress" in its policyTypes … When a pod is isolated for egress, the only allowed
    /// connections from the pod are those allowed by the egress list of some NetworkPolicy that
    /// applies to the pod for egress."
    fn allows_egress(
        &self,
        plugin: NetworkPlugin,
        client: &ModelPod,
        target: ModelTarget<'_>,
    ) -> bool {
        let ModelTarget {
            pod: server, port, ..
        } = target;
        let destination = if plugin.block_addresses == BlockAddresses::ServiceAndNode {
            SERVICE
        } else {
            (server.address, port)
        };
        let mut is_isolated = false;
        let mut is_allowed = false;
        for policy in &self.policies {
            if policy.namespace != client.namespace || !policy.selector.selects(&client.labels) {
                continue;
            }
            if !policy.has_type("Egress") {
                continue;
            }
            is_isolated = true;
            for rule in policy.egress.iter().flatten() {
                let peers = match &rule.peers {
                    Some(peers) if !peers.is_empty() => peers,
                    // A rule without peers applies to the port that the plugin sees.
                    _ => {
                        is_allowed |= rule.has_port(destination.1, target);
                        continue;
                    }
                };
                for peer in peers {
                    // Selectors apply to the pod and its port. Blocks apply to the address and port
                    // that the plugin sees.
                    let number = match peer {
                        ModelPeer::Selectors { .. } => port,
                        ModelPeer::Block { .. } => destination.1,
                    };
                    let is_peer = self.is_peer(plugin, policy, peer, server, destination.0);
                    is_allowed |= is_peer && rule.has_port(number, target);
                }
            }
        }
        let end = ModelEnd {
            reading: plugin.reading,
            pod: server,
            is_selectable: !server.host_network || plugin.host_pods == HostPods::Restricted,
            seen: destination,
            target,
        };
        let network_policies = is_isolated.then_some(is_allowed);
        let direction = ModelDirection::Egress;
        self.allows_direction(plugin, direction, (client, end), network_policies)
    }

    /// The same as [`Self::allows_egress`], for ingress. A plugin that ignores pods in their node's
    /// network never restricts the ingress of such a server.
    fn allows_ingress(
        &self,
        plugin: NetworkPlugin,
        client: &ModelPod,
        target: ModelTarget<'_>,
    ) -> bool {
        let ModelTarget {
            pod: server, port, ..
        } = target;
        let mut is_isolated = false;
        let mut is_allowed = false;
        if server.host_network && plugin.host_pods == HostPods::Ignored {
            return true;
        }
        for policy in &self.policies {
            if policy.namespace != server.namespace || !policy.selector.selects(&server.labels) {
                continue;
            }
            if !policy.has_type("Ingress") {
                continue;
            }
            is_isolated = true;
            let source = if plugin.block_addresses == BlockAddresses::ServiceAndNode {
                NODE
            } else {
                client.address
            };
            for rule in policy.ingress.iter().flatten() {
                let has_peer = match &rule.peers {
                    None => true,
                    Some(peers) if peers.is_empty() => true,
                    Some(peers) => peers
                        .iter()
                        .any(|peer| self.is_peer(plugin, policy, peer, client, source)),
                };
                if has_peer && rule.has_port(port, target) {
                    is_allowed = true;
                }
            }
        }
        let end = ModelEnd {
            reading: plugin.reading,
            pod: client,
            is_selectable: true,
            // Ingress rules know no networks.
            seen: (client.address, port),
            target,
        };
        let network_policies = is_isolated.then_some(is_allowed);
        let direction = ModelDirection::Ingress;
        self.allows_direction(plugin, direction, (server, end), network_policies)
    }

    /// Whether a rule's peer includes a pod. `address` is the pod's address as the plugin sees it.
    fn is_peer(
        &self,
        plugin: NetworkPlugin,
        policy: &ModelPolicy,
        peer: &ModelPeer,
        pod: &ModelPod,
        address: Ipv4Addr,
    ) -> bool {
        match peer {
            ModelPeer::Block { network, except } => {
                is_in(address, *network) && !except.iter().any(|excluded| is_in(address, *excluded))
            }
            ModelPeer::Selectors { namespaces, pods } => {
                if pod.host_network && plugin.host_pods == HostPods::Ignored {
                    return false;
                }
                let is_in_namespace = match namespaces {
                    None => pod.namespace == policy.namespace,
                    Some(selector) => selector.selects(&self.namespaces[pod.namespace]),
                };
                let is_selected = match pods {
                    None => true,
                    Some(selector) => selector.selects(&pod.labels),
                };
                is_in_namespace && is_selected
            }
        }
    }

    /// The cluster's objects in the form of the API, except the servers' Pods. The policies' names
    /// are arbitrary.
    pub(super) fn objects(&self) -> Vec<Value> {
        let mut objects = Vec::new();
        for (name, labels) in &self.namespaces {
            objects
                .push(json!({"kind": "Namespace", "metadata": {"name": name, "labels": labels}}));
        }
        objects.push(json!({
            "kind": "Service", "metadata": {"namespace": "kube-system", "name": "kube-dns"},
            "spec": {
                "clusterIP": SERVICE.0, "clusterIPs": [SERVICE.0],
                "selector": {"app": "dns"},
                "ports": [
                    {"name": "dns", "port": SERVICE.1, "protocol": "UDP"},
                    {"name": "dns-tcp", "port": SERVICE.1, "protocol": "TCP"},
                ],
            },
        }));
        for (at, server) in self.servers.iter().enumerate() {
            objects.push(json!({
                "kind": "EndpointSlice", "addressType": "IPv4",
                "metadata": {
                    "namespace": "kube-system", "name": format!("kube-dns-{at}"),
                    "labels": {"kubernetes.io/service-name": "kube-dns"},
                },
                "endpoints": [{"addresses": [server.pod.address]}],
                "ports": [
                    {"name": "dns", "port": server.udp, "protocol": "UDP"},
                    {"name": "dns-tcp", "port": server.tcp, "protocol": "TCP"},
                ],
            }));
        }
        let policies = self.policies.iter().enumerate();
        objects.extend(policies.map(|(at, policy)| policy.object(at)));
        let policies = self.cluster_policies.iter().enumerate();
        objects.extend(policies.map(|(at, policy)| policy.object(at)));
        objects.extend(self.clients.iter().map(ModelPod::object));
        objects
    }
}

impl ModelServer {
    fn target(&self, protocol: &'static str) -> ModelTarget<'_> {
        ModelTarget {
            pod: &self.pod,
            protocol,
            port: match protocol {
                "UDP" => self.udp,
                _ => self.tcp,
            },
        }
    }
}

impl ModelPolicy {
    /// "If no policyTypes are specified on a NetworkPolicy then by default Ingress will always be
    /// set and Egress will be set if the NetworkPolicy has any egress rules."
    fn has_type(&self, name: &str) -> bool {
        match &self.types {
            Some(types) if !types.is_empty() => types.contains(&name),
            _ if name == "Ingress" => true,
            _ => self.egress.as_ref().is_some_and(|rules| !rules.is_empty()),
        }
    }

    fn object(&self, at: usize) -> Value {
        let rules = |rules: &Vec<ModelRule>, peers: &str| -> Vec<Value> {
            rules.iter().map(|rule| rule.object(peers)).collect()
        };
        let mut spec = json!({"podSelector": self.selector.object()});
        if let Some(types) = &self.types {
            spec["policyTypes"] = json!(types);
        }
        if let Some(ingress) = &self.ingress {
            spec["ingress"] = rules(ingress, "from").into();
        }
        if let Some(egress) = &self.egress {
            spec["egress"] = rules(egress, "to").into();
        }
        json!({
            "kind": "NetworkPolicy",
            "metadata": {"namespace": self.namespace, "name": format!("p{at}")},
            "spec": spec,
        })
    }
}

impl ModelRule {
    fn has_port(&self, number: u16, target: ModelTarget<'_>) -> bool {
        match &self.ports {
            None => true,
            Some(ports) if ports.is_empty() => true,
            Some(ports) => ports.iter().any(|port| port.includes(number, target)),
        }
    }

    fn object(&self, peers_field: &str) -> Value {
        let mut rule = json!({});
        if let Some(peers) = &self.peers {
            rule[peers_field] = peers.iter().map(ModelPeer::object).collect();
        }
        if let Some(ports) = &self.ports {
            rule["ports"] = ports.iter().map(ModelPort::object).collect();
        }
        rule
    }
}

impl ModelPeer {
    fn object(&self) -> Value {
        let text = |(address, length): &ModelNetwork| format!("{address}/{length}");
        match self {
            ModelPeer::Block { network, except } => {
                let except: Vec<_> = except.iter().map(text).collect();
                json!({"ipBlock": {"cidr": text(network), "except": except}})
            }
            ModelPeer::Selectors { namespaces, pods } => {
                let mut peer = json!({});
                if let Some(namespaces) = namespaces {
                    peer["namespaceSelector"] = namespaces.object();
                }
                if let Some(pods) = pods {
                    peer["podSelector"] = pods.object();
                }
                peer
            }
        }
    }
}

impl ModelPort {
    fn includes(&self, number: u16, target: ModelTarget<'_>) -> bool {
        // "protocol … If not specified, this field defaults to TCP."
        if self.protocol.unwrap_or("TCP") != target.protocol {
            return false;
        }
        match (&self.port, self.end_port) {
            (None, _) => true,
            (Some(Value::String(name)), _) => {
                let mut ports = target.pod.ports.iter();
                ports.any(|port| port.0 == name && port.1 == target.protocol && port.2 == number)
            }
            (Some(first), None) => *first == json!(number),
            (Some(first), Some(last)) => {
                let first = first.as_u64().expect("a port is a number or a name");
                first <= u64::from(number) && number <= last
            }
        }
    }

    fn object(&self) -> Value {
        let mut port = json!({});
        if let Some(protocol) = self.protocol {
            port["protocol"] = json!(protocol);
        }
        if let Some(number_or_name) = &self.port {
            port["port"] = number_or_name.clone();
        }
        if let Some(last) = self.end_port {
            port["endPort"] = json!(last);
        }
        port
    }
}

impl ModelPod {
    pub(super) fn object(&self) -> Value {
        let ports = self.ports.iter();
        let ports: Vec<_> = ports
            .map(|(name, protocol, number)| {
                json!({"name": name, "protocol": protocol, "containerPort": number})
            })
            .collect();
        json!({
            "kind": "Pod",
            "metadata": {"namespace": self.namespace, "name": self.name, "labels": self.labels},
            "spec": {"hostNetwork": self.host_network, "containers": [{"ports": ports}]},
            "status": {"phase": "Running", "podIPs": [{"ip": self.address}]},
        })
    }
}

impl ModelSelector {
    pub(super) fn selects(&self, labels: &ModelLabels) -> bool {
        for (key, value) in &self.labels {
            if labels.get(key) != Some(value) {
                return false;
            }
        }
        for (key, operator, values) in &self.expressions {
            let value = labels.get(key);
            let holds = match *operator {
                "In" => value.is_some_and(|value| values.contains(value)),
                "NotIn" => !value.is_some_and(|value| values.contains(value)),
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                other => panic!("{other} is not an operator"),
            };
            if !holds {
                return false;
            }
        }
        true
    }

    pub(super) fn object(&self) -> Value {
        let expressions = self.expressions.iter();
        let expressions: Vec<_> = expressions
            .map(|(key, operator, values)| match *operator {
                "In" | "NotIn" => json!({"key": key, "operator": operator, "values": values}),
                _ => json!({"key": key, "operator": operator}),
            })
            .collect();
        json!({"matchLabels": self.labels, "matchExpressions": expressions})
    }
}

pub(super) fn is_in(address: Ipv4Addr, (network, length): ModelNetwork) -> bool {
    let mask = match length {
        0 => 0,
        _ => u32::MAX << (32 - length),
    };
    u32::from(address) & mask == u32::from(network) & mask
}
