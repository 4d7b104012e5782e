//! Egress policies at the clients: NetworkPolicies, and cluster-wide policies.

use std::sync::Arc;

use super::clients::Clients;
use super::destinations::{Destination, Servers};
use super::facts::Facts;
use super::objects::Policy;
use super::policies::{PolicyDirection, join_names};
use super::tiers::{Denial, EgressTiers};
use crate::objects::ObjectKey;

/// The egress policies of a namespace, with what they allow. That doesn't depend on the client, and
/// a policy may have thousands of rules.
pub(super) struct EgressPolicies<'a> {
    destinations: &'a [Destination],
    tiers: &'a EgressTiers,
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
        tiers: &'a EgressTiers,
        namespace: &'a str,
    ) -> EgressPolicies<'a> {
        let destinations = &servers.destinations;
        EgressPolicies {
            destinations,
            tiers,
            policies: find_policies(facts, destinations, namespace),
        }
    }

    /// Why egress policies may forbid the queries of these clients. `None`: the policies provably
    /// permit the queries.
    pub(super) fn find_objection(&self, clients: &Clients<'_>) -> Option<String> {
        if self.destinations.is_empty() {
            return self.describe_restriction(clients);
        }
        let lower = match self.tiers.decide(clients, self.destinations.len()) {
            Ok(lower) => lower,
            Err((at, denial)) => return Some(describe_denial(denial, &self.destinations[at])),
        };
        let mut baseline = self.destinations.iter().zip(&lower);
        let mut find_baseline = || {
            baseline.find_map(|(destination, lower)| {
                let denial = lower.baseline?;
                Some(describe_denial(denial, destination))
            })
        };
        let policies = match &self.policies {
            Ok(policies) => policies.iter(),
            Err(reason) => {
                let is_overridden = lower
                    .iter()
                    .all(|lower| lower.network_policies.is_overridden());
                return if is_overridden {
                    find_baseline()
                } else {
                    Some(reason.clone())
                };
            }
        };
        let selecting = policies.filter(|it| it.policy.pods.matches(clients.labels));
        let selecting: Vec<&EgressPolicy<'_>> = selecting.collect();
        if selecting.is_empty() {
            return find_baseline();
        }
        let is_allowed = |at: usize| selecting.iter().any(|it| it.allowed[at]);
        let mut destinations = self.destinations.iter().zip(&lower).enumerate();
        let (_, (forbidden, lower)) = destinations
            .find(|(at, (_, lower))| !lower.network_policies.is_overridden() && !is_allowed(*at))?;
        let keys = selecting.iter().map(|it| &it.policy.key);
        Some(format!(
            "{} not provably let this pod reach {forbidden}{}",
            join_names(keys, ["does", "do"]),
            lower.network_policies
        ))
    }

    /// Why clients may be restricted, although no destination is known. `None`: no policy can
    /// restrict them.
    fn describe_restriction(&self, clients: &Clients<'_>) -> Option<String> {
        let policies = match &self.policies {
            Ok(policies) => policies.iter(),
            Err(reason) => return Some(reason.clone()),
        };
        let selecting = policies.filter(|it| it.policy.pods.matches(clients.labels));
        let selecting: Vec<&ObjectKey> = selecting.map(|it| &it.policy.key).collect();
        let policies = if selecting.is_empty() {
            format!("{} may restrict", self.tiers.find_policy(clients)?)
        } else {
            join_names(selecting.into_iter(), ["restricts", "restrict"])
        };
        Some(format!(
            "{policies} this pod's egress, and no address of the cluster's DNS is known"
        ))
    }
}

fn describe_denial(denial: Denial<'_>, destination: &Destination) -> String {
    let Denial { policy, rule } = denial;
    format!(
        "{policy} does not provably let this pod reach {destination}, because of its rule \
         egress[{rule}]"
    )
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
