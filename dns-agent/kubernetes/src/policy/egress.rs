//! Egress policies at the clients.

use std::cell::RefCell;
use std::collections::BTreeMap;

use super::destinations::{Destination, Servers};
use super::facts::Facts;
use super::objects::{ClientGroup, Policy};
use super::policies::join_names;
use crate::objects::ObjectKey;

/// Checks the egress policies of clients.
pub(super) struct EgressJudge<'a> {
    facts: &'a Facts,
    destinations: &'a [Destination],
    /// For each policy that selects a client, which destinations its egress rules allow. That
    /// doesn't depend on the client, and a policy may have thousands of rules.
    allowed: RefCell<BTreeMap<&'a ObjectKey, Vec<bool>>>,
}

impl<'a> EgressJudge<'a> {
    pub(super) fn new(facts: &'a Facts, servers: &'a Servers) -> EgressJudge<'a> {
        EgressJudge {
            facts,
            destinations: &servers.destinations,
            allowed: RefCell::default(),
        }
    }

    /// Why egress policies may forbid the queries of these clients. `None`: the policies provably
    /// permit the queries.
    pub(super) fn find_objection(&self, clients: ClientGroup<'_>) -> Option<String> {
        let all = self.facts.policies();
        // A policy without readable metadata has an empty namespace, and may apply to any pod.
        if all.in_namespace("").next().is_some() {
            return Some(
                "a NetworkPolicy in an unknown namespace can't be read, and may apply to this pod"
                    .to_owned(),
            );
        }
        let mut policies: Vec<(&'a ObjectKey, &'a Policy)> = Vec::new();
        for (key, policy) in all.in_namespace(clients.namespace) {
            match policy {
                Err(unknown) if unknown.may_restrict_egress() => {
                    return Some(format!(
                        "NetworkPolicy {key} {unknown}, and may apply to this pod"
                    ));
                }
                Ok(policy) if policy.egress.is_some() && policy.pods.matches(clients.labels) => {
                    policies.push((key, policy));
                }
                Ok(_) | Err(_) => {}
            }
        }
        if policies.is_empty() {
            return None;
        }
        let keys = policies.iter().map(|(key, _)| *key);
        if self.destinations.is_empty() {
            return Some(format!(
                "{} this pod's egress, and no address of the cluster's DNS is known",
                join_names(keys, ["restricts", "restrict"])
            ));
        }
        let forbidden = self.destinations.iter().enumerate().find(|(at, _)| {
            let mut policies = policies.iter();
            !policies.any(|(key, policy)| self.is_allowed(key, policy, *at))
        });
        let (_, forbidden) = forbidden?;
        Some(format!(
            "{} not provably let this pod reach {forbidden} over UDP",
            join_names(keys, ["does", "do"])
        ))
    }

    /// Whether the egress rules of a policy allow the destination with this index.
    fn is_allowed(&self, key: &'a ObjectKey, policy: &Policy, destination: usize) -> bool {
        if let Some(allowed) = self.allowed.borrow().get(key) {
            return allowed[destination];
        }
        let destinations = self.destinations.iter();
        let allowed: Vec<bool> = destinations
            .map(|destination| destination.is_allowed_by(self.facts, policy))
            .collect();
        let is_allowed = allowed[destination];
        self.allowed.borrow_mut().insert(key, allowed);
        is_allowed
    }
}
