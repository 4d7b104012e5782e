//! Egress policies at the clients.

use std::sync::Arc;

use super::destinations::{Destination, Servers};
use super::facts::Facts;
use super::objects::Policy;
use super::policies::{PolicyDirection, join_names};
use crate::selector::Labels;

/// The egress policies of a namespace, with what they allow. That doesn't depend on the client, and
/// a policy may have thousands of rules.
pub(super) struct EgressPolicies<'a> {
    destinations: &'a [Destination],
    /// `Err`: why all clients of the namespace may be restricted.
    policies: Result<Vec<EgressPolicy<'a>>, String>,
}

struct EgressPolicy<'a> {
    policy: &'a Policy,
    /// For each destination, whether the policy allows it.
    allowed: Vec<bool>,
}

impl<'a> EgressPolicies<'a> {
    pub(super) fn of_namespace(
        facts: &'a Facts,
        servers: &'a Servers,
        namespace: &'a str,
    ) -> EgressPolicies<'a> {
        let destinations = &servers.destinations;
        EgressPolicies {
            destinations,
            policies: find_policies(facts, destinations, namespace),
        }
    }

    /// Why egress policies may forbid the queries of clients with these labels. `None`: the
    /// policies provably permit the queries.
    pub(super) fn find_objection(&self, clients: &Labels) -> Option<String> {
        let policies = match &self.policies {
            Ok(policies) => policies,
            Err(reason) => return Some(reason.clone()),
        };
        let mut selecting = Vec::new();
        let mut is_allowed = vec![false; self.destinations.len()];
        for EgressPolicy { policy, allowed } in policies {
            if !policy.pods.matches(clients) {
                continue;
            }
            selecting.push(&policy.key);
            for (is_allowed, allows) in is_allowed.iter_mut().zip(allowed) {
                *is_allowed |= allows;
            }
        }
        if selecting.is_empty() {
            return None;
        }
        let names = |verb| join_names(selecting.iter().copied(), verb);
        if self.destinations.is_empty() {
            return Some(format!(
                "{} this pod's egress, and no address of the cluster's DNS is known",
                names(["restricts", "restrict"])
            ));
        }
        let mut destinations = self.destinations.iter().zip(is_allowed);
        let (forbidden, _) = destinations.find(|(_, is_allowed)| !is_allowed)?;
        Some(format!(
            "{} not provably let this pod reach {forbidden} over UDP",
            names(["does", "do"])
        ))
    }
}

fn find_policies<'a>(
    facts: &'a Facts,
    destinations: &[Destination],
    namespace: &'a str,
) -> Result<Vec<EgressPolicy<'a>>, String> {
    let all = facts.policies();
    // A policy without readable metadata has an empty namespace, and may apply to any pod.
    if all
        .restricting_in("", PolicyDirection::Egress)
        .next()
        .is_some()
    {
        return Err(
            "a NetworkPolicy in an unknown namespace can't be read, and may apply to this pod"
                .to_owned(),
        );
    }
    let labels = Destination::namespace_labels(destinations, facts);
    let evaluate = |policy: &'a Arc<Policy>| {
        let destinations = destinations.iter();
        EgressPolicy {
            policy,
            allowed: destinations
                .map(|destination| destination.is_allowed_by(&labels, policy))
                .collect(),
        }
    };
    all.restricting_in(namespace, PolicyDirection::Egress)
        .map(|policy| match policy {
            Ok(policy) => Ok(evaluate(policy)),
            Err(unknown) => Err(format!("{unknown}, and may apply to this pod")),
        })
        .collect()
}
