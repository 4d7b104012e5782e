//! What NetworkPolicies object to the queries of pods, as far as the last judgement still holds.
//!
//! An objection depends on the pod's namespace and labels, on the policies and labels of that
//! namespace, and on the servers and their namespaces. So after a change in one namespace, only the
//! pods of this namespace are judged again, unless a server may be in it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::destinations::Servers;
use super::egress::EgressJudge;
use super::facts::{ChangedNamespaces, Facts};
use super::ingress::Gate;
use super::objects::ClientGroup;
use crate::selector::Labels;

/// Objections of NetworkPolicies, with what they depend on.
#[derive(Clone, Debug, Default)]
pub(super) struct KnownObjections {
    /// The servers, with the ingress policies before them. `None`: nothing is known.
    servers: Option<GatedServers>,
    /// By namespace and labels, why policies may forbid the queries of such pods. `None`: they
    /// provably permit the queries.
    objections: BTreeMap<Arc<str>, BTreeMap<Labels, Option<String>>>,
}

/// Servers and the ingress policies before them.
#[derive(Clone, Debug)]
struct GatedServers {
    servers: Servers,
    gates: Vec<Gate>,
}

impl KnownObjections {
    /// Judges the groups of clients whose objections aren't known, and forgets all other groups.
    /// Returns whether ingress policies restrict the servers.
    pub(super) fn judge(
        &mut self,
        facts: &Facts,
        servers: Servers,
        groups: &BTreeSet<ClientGroup<'_>>,
    ) -> bool {
        let known = self.servers.take();
        let known = known.filter(|known| known.servers == servers);
        let GatedServers { servers, gates } = self.servers.insert(known.unwrap_or_else(|| {
            self.objections.clear();
            GatedServers {
                gates: Gate::find_all(facts, &servers),
                servers,
            }
        }));
        self.objections.retain(|namespace, objections| {
            objections.retain(|labels, _| groups.contains(&ClientGroup { namespace, labels }));
            !objections.is_empty()
        });
        let egress = EgressJudge::new(facts, servers);
        for group in groups {
            let objections = self.objections.entry(group.namespace.clone()).or_default();
            if objections.contains_key(group.labels) {
                continue;
            }
            let objection = egress.find_objection(*group).or_else(|| {
                let mut gates = gates.iter();
                gates.find_map(|gate| gate.find_objection(facts, *group))
            });
            objections.insert(group.labels.clone(), objection);
        }
        !gates.is_empty()
    }

    /// Why policies may forbid the queries of these clients. `None`: they provably permit the
    /// queries. [`KnownObjections::judge`] must have judged the group.
    pub(super) fn find(&self, group: ClientGroup<'_>) -> Option<&String> {
        self.objections[group.namespace][group.labels].as_ref()
    }

    /// Forgets what depends on the policies and the labels of these namespaces. The namespace is
    /// empty for a policy without readable metadata, which may be in any namespace.
    pub(super) fn forget(&mut self, changed: &ChangedNamespaces) {
        let servers = self.servers.as_ref().map(|known| &known.servers);
        let is_everywhere = |namespace: &Arc<str>| {
            namespace.is_empty() || servers.is_some_and(|servers| servers.may_be_in(namespace))
        };
        match changed {
            ChangedNamespaces::Listed(changed) if !changed.iter().any(is_everywhere) => {
                self.objections
                    .retain(|namespace, _| !changed.contains(namespace));
            }
            ChangedNamespaces::Listed(_) | ChangedNamespaces::Any => {
                *self = KnownObjections::default();
            }
        }
    }
}
