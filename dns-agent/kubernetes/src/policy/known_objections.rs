//! What policies object to the queries of pods over one protocol, as far as the last judgement
//! still holds.
//!
//! An objection depends on the pod's namespace and labels, on the NetworkPolicies and labels of
//! that namespace, on NetworkPolicies without readable metadata, on cluster-wide policies, and on
//! the servers and their namespaces. So after a change in one namespace, only the pods of this
//! namespace are judged again, unless a server may be in it.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::clients::Clients;
use super::destinations::Servers;
use super::egress::EgressPolicies;
use super::facts::{ChangedNamespaces, Facts};
use super::ingress::Gate;
use super::objects::{PodNetwork, PolicyPod};
use super::server_egress;
use super::tiers::EgressTiers;
use crate::objects::ObjectKey;
use crate::selector::Labels;

/// Objections of policies, with what they depend on.
#[derive(Debug, Default)]
pub(super) struct KnownObjections {
    /// The servers, with the ingress policies before them. `None`: nothing is known.
    servers: Option<GatedServers>,
    by_pod: BTreeMap<ObjectKey, JudgedPod>,
}

/// Servers, and the policies on the way to them that don't depend on the client's namespace.
#[derive(Debug)]
pub(super) struct GatedServers {
    servers: Servers,
    gates: Vec<Gate>,
    tiers: EgressTiers,
    /// Why policies with known rules may restrict the servers' egress. `None`: none of them can.
    pub(super) egress_restriction: Option<String>,
}

/// A pod that has been judged.
#[derive(Debug)]
pub(super) struct JudgedPod {
    pub(super) pod: Arc<PolicyPod>,
    /// Why policies may forbid the pod's queries. `None`: they provably permit the queries.
    pub(super) objection: Option<Arc<str>>,
}

impl KnownObjections {
    /// Forgets what depends on the policies and the labels of these namespaces. The namespace is
    /// empty for a policy without readable metadata, which may be in any namespace.
    pub(super) fn forget(&mut self, changed: &ChangedNamespaces) {
        let servers = self.servers.as_ref().map(|known| &known.servers);
        let is_everywhere = |namespace: &Arc<str>| {
            namespace.is_empty() || servers.is_some_and(|servers| servers.may_be_in(namespace))
        };
        match changed {
            ChangedNamespaces::Listed(changed) if !changed.iter().any(is_everywhere) => {
                self.by_pod
                    .retain(|pod, _| !changed.contains(&pod.namespace));
            }
            ChangedNamespaces::Listed(_) | ChangedNamespaces::Any => {
                *self = KnownObjections::default();
            }
        }
    }

    /// Forgets everything if the servers have changed. Finds the policies on the way to them.
    pub(super) fn update_servers(&mut self, facts: &Facts, servers: Servers) -> &GatedServers {
        let is_known = |known: &GatedServers| known.servers == servers;
        if !self.servers.as_ref().is_some_and(is_known) {
            *self = KnownObjections::default();
        }
        self.servers.get_or_insert_with(|| GatedServers {
            gates: Gate::find_all(facts, &servers),
            tiers: EgressTiers::find(facts, &servers.destinations),
            egress_restriction: server_egress::find_restriction(facts, &servers),
            servers,
        })
    }

    /// The judged clients, ordered by namespace and name: the pods in networks of their own that
    /// have addresses. Judges those about which nothing is known, and forgets all other pods.
    /// [`KnownObjections::update_servers`] must have been called.
    pub(super) fn judge_clients(&mut self, facts: &Facts) -> impl Iterator<Item = &JudgedPod> {
        let mut before = std::mem::take(&mut self.by_pod);
        if let Some(servers) = &self.servers {
            let clients = facts.clients().filter(|pod| is_client(pod));
            let clients: Vec<&Arc<PolicyPod>> = clients.collect();
            for pods in clients.chunk_by(|one, other| one.key.namespace == other.key.namespace) {
                let mut judge = NamespaceJudge::new(facts, servers, &pods[0].key.namespace);
                for pod in pods {
                    let known = before.remove(&pod.key);
                    let known = known.filter(|known| known.pod.labels == pod.labels);
                    let objection = match known {
                        Some(known) => known.objection,
                        None => judge.find_objection(&pod.labels),
                    };
                    let pod = (*pod).clone();
                    self.by_pod
                        .insert(pod.key.clone(), JudgedPod { pod, objection });
                }
            }
        }
        self.by_pod.values()
    }
}

impl GatedServers {
    /// Whether NetworkPolicies restrict the servers' ingress.
    pub(super) fn have_network_policies(&self) -> bool {
        self.gates.iter().any(Gate::has_network_policies)
    }
}

/// Judges the clients of one namespace. Clients with equal labels share one objection.
struct NamespaceJudge<'a> {
    facts: &'a Facts,
    servers: &'a GatedServers,
    namespace: &'a Arc<str>,
    /// Read when the first client is judged.
    egress: Option<EgressPolicies<'a>>,
    objections: BTreeMap<&'a Labels, Option<Arc<str>>>,
}

impl<'a> NamespaceJudge<'a> {
    fn new(
        facts: &'a Facts,
        servers: &'a GatedServers,
        namespace: &'a Arc<str>,
    ) -> NamespaceJudge<'a> {
        NamespaceJudge {
            facts,
            servers,
            namespace,
            egress: None,
            objections: BTreeMap::new(),
        }
    }

    fn find_objection(&mut self, labels: &'a Labels) -> Option<Arc<str>> {
        if let Some(objection) = self.objections.get(labels) {
            return objection.clone();
        }
        let GatedServers {
            servers,
            gates,
            tiers,
            ..
        } = self.servers;
        let read_egress =
            || EgressPolicies::of_namespace(self.facts, servers, tiers, self.namespace);
        let egress = self.egress.get_or_insert_with(read_egress);
        let clients = Clients {
            namespace: self.namespace,
            namespace_labels: self.facts.namespace_labels(self.namespace),
            labels,
        };
        let objection = egress.find_objection(&clients).or_else(|| {
            let mut gates = gates.iter();
            gates.find_map(|gate| gate.find_objection(&clients))
        });
        let objection: Option<Arc<str>> = objection.map(Into::into);
        self.objections.insert(labels, objection.clone());
        objection
    }
}

fn is_client(pod: &PolicyPod) -> bool {
    pod.network == PodNetwork::Own && !pod.addresses.is_empty()
}
