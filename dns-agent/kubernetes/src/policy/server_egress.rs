//! Policies about the egress of the cluster's DNS servers.
//!
//! Such a policy may keep a server from some name servers. Then another resolver must not answer in
//! place of the server, because the other resolver might query these name servers.
//!
//! A NetworkPolicy about egress counts whatever its rules allow. A cluster-wide policy counts if
//! one of its egress rules can deny a connection. [`PossibleRestrictions::server_egress`] is about
//! policies of other kinds.
//!
//! [`PossibleRestrictions::server_egress`]: super::possible_restrictions::PossibleRestrictions

use super::certainty::Certainty;
use super::destinations::Servers;
use super::facts::Facts;
use super::objects::{PodNetwork, PolicyPod};
use super::policies::PolicyDirection;

/// Why NetworkPolicies, and cluster-wide policies with known rules, may restrict the egress of
/// these servers. `None`: none of these policies can apply to a server.
pub(super) fn find_restriction(facts: &Facts, servers: &Servers) -> Option<String> {
    let Some(pods) = servers.pods() else {
        return find_any_policy(facts);
    };
    pods.into_iter()
        .find_map(|pod| find_network_policy(facts, pod).or_else(|| find_cluster_policy(facts, pod)))
}

/// Why the egress of a server that may be any pod may be restricted.
fn find_any_policy(facts: &Facts) -> Option<String> {
    let network_policy = facts.policies().restricting(PolicyDirection::Egress).next();
    let policy = match network_policy {
        Some(Ok(policy)) => format!("NetworkPolicy {} restricts egress", policy.key),
        Some(Err(unknown)) => unknown.to_string(),
        None => {
            let mut policies = facts.cluster_policies();
            let policy = policies.find(|policy| policy.can_deny_egress())?;
            format!("{policy} restricts egress")
        }
    };
    Some(format!(
        "{policy}, and may apply to a server of the cluster's DNS that is not a known pod"
    ))
}

/// Why NetworkPolicies may restrict a server's egress.
fn find_network_policy(facts: &Facts, pod: &PolicyPod) -> Option<String> {
    let all = facts.policies();
    // A policy without readable metadata has an empty namespace, and may be in any namespace.
    let in_any = all.restricting_in("", PolicyDirection::Egress);
    let in_namespace = all.restricting_in(&pod.key.namespace, PolicyDirection::Egress);
    let pod_key = &pod.key;
    in_any.chain(in_namespace).find_map(|policy| match policy {
        Ok(policy) if policy.pods.matches(&pod.labels) => Some(format!(
            "NetworkPolicy {} restricts the egress of Pod {pod_key}, a server of the cluster's DNS",
            policy.key
        )),
        Ok(_) => None,
        Err(unknown) => Some(format!(
            "{unknown}, and may restrict the egress of Pod {pod_key}, a server of the cluster's DNS"
        )),
    })
}

/// Why cluster-wide policies may restrict a server's egress.
fn find_cluster_policy(facts: &Facts, pod: &PolicyPod) -> Option<String> {
    // These policies never select pods in their node's network.
    if pod.network == PodNetwork::Host {
        return None;
    }
    let labels = facts.namespace_labels(&pod.key.namespace);
    let mut policies = facts.cluster_policies();
    let policy = policies.find(|policy| {
        policy.can_deny_egress() && labels.match_pods(&policy.subject, &pod.labels) != Certainty::No
    })?;
    Some(format!(
        "{policy} may restrict the egress of Pod {}, a server of the cluster's DNS",
        pod.key
    ))
}
