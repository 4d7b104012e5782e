//! What cluster-wide policies decide about queries.
//!
//! Policies of the admin tier decide first, then NetworkPolicies, and policies of the baseline tier
//! decide if no NetworkPolicy selects the pod. A decision counts only if it holds whatever isn't
//! known, such as the labels of a Namespace, and in whatever order policies of equal priority are
//! consulted.
//!
//! A policy that accepts a query may replace NetworkPolicies only if a network plugin reports that
//! it enforces the policy. Otherwise the policy may be one that no plugin enforces.

use std::fmt;
use std::sync::Arc;

use super::certainty::Certainty;
use super::cluster_policy::{
    ClusterPeer, ClusterPeers, ClusterPolicy, ClusterRule, Enforcement, PodSet, RuleAction, Tier,
};
use super::destinations::{Destination, LabelsByNamespace, ServerEndpoint};
use super::facts::Facts;
use super::ingress::Clients;
use super::objects::PolicyPod;

/// Cluster-wide policies about egress, with what they decide about each destination. That doesn't
/// depend on the client.
#[derive(Debug)]
pub(super) struct EgressTiers {
    /// Ordered as [`decide`] needs them.
    policies: Vec<EgressTierPolicy>,
}

#[derive(Debug)]
struct EgressTierPolicy {
    policy: Arc<ClusterPolicy>,
    /// For each destination, what the policy decides about the clients that it selects.
    outcomes: Vec<Outcomes>,
}

/// Cluster-wide policies about ingress that apply, or may apply, to one server.
#[derive(Debug)]
pub(super) struct IngressTiers {
    /// Ordered as [`decide`] needs them. With each policy, whether the policy applies to the server.
    policies: Vec<(Arc<ClusterPolicy>, Certainty)>,
    /// `None`: the server is not a known pod.
    endpoint: Option<ServerEndpoint>,
}

/// What is left to decide about a query that no policy of the admin tier denies.
#[derive(Clone, Copy, Debug)]
pub(super) struct LowerTiers<'a> {
    pub(super) network_policies: NetworkPolicyTier<'a>,
    /// A denial of the baseline tier. It counts if no NetworkPolicy selects the pod.
    pub(super) baseline: Option<Denial<'a>>,
}

/// Whether NetworkPolicies count.
#[derive(Clone, Copy, Debug)]
pub(super) enum NetworkPolicyTier<'a> {
    Consulted,
    /// They count, although this policy accepts the query, because no plugin reports that it
    /// enforces this policy.
    ConsultedAfter(&'a ClusterPolicy),
    /// They don't count, because enforced policies of the admin tier accept the query.
    Overridden,
}

/// A rule that denies a query, or may deny it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Denial<'a> {
    pub(super) policy: &'a ClusterPolicy,
    /// The rule's index in the policy's list of rules.
    pub(super) rule: usize,
}

/// What a policy may decide about a query. There are several outcomes if it isn't known whether a
/// rule matches.
#[derive(Clone, Copy, Debug, Default)]
struct Outcomes {
    /// The index of a rule that may deny the query.
    denial: Option<usize>,
    /// A rule may accept the query.
    may_accept: bool,
    /// A rule may leave the query to the next tier.
    may_pass: bool,
    /// It is possible that no rule matches.
    may_match_nothing: bool,
}

/// What a tier decides.
enum TierDecision<'a> {
    Denied(Denial<'a>),
    /// Every outcome accepts the query. Holds one policy that may be the one that accepts it: one
    /// whose enforcement isn't reported, if there is one.
    Accepted(&'a ClusterPolicy),
    /// The next tier may decide.
    Undecided,
}

impl EgressTiers {
    pub(super) fn find(facts: &Facts, destinations: &[Destination]) -> EgressTiers {
        let labels = Destination::namespace_labels(destinations, facts);
        let all = facts.cluster_policies();
        let all = all.filter(|policy| !policy.egress.is_empty());
        let policies = all.map(|policy| EgressTierPolicy {
            policy: policy.clone(),
            outcomes: destinations
                .iter()
                .map(|destination| {
                    let matches = |rule: &_| match_destination(rule, destination, &labels);
                    Outcomes::of_rules(&policy.egress, matches)
                })
                .collect(),
        });
        let mut policies: Vec<EgressTierPolicy> = policies.collect();
        policies.sort_by_key(|it| it.policy.precedence());
        EgressTiers { policies }
    }

    /// Decides whether these clients may reach the destination with this index.
    ///
    /// # Errors
    /// Returns the rule of the admin tier that may deny it.
    pub(super) fn decide(
        &self,
        clients: &Clients<'_>,
        destination: usize,
    ) -> Result<LowerTiers<'_>, Denial<'_>> {
        let policies = self.policies.iter().map(|it| {
            let is_selected = match_clients(&it.policy.subject, clients);
            (
                &*it.policy,
                it.outcomes[destination].if_selected(is_selected),
            )
        });
        decide(&policies.collect::<Vec<_>>())
    }

    /// A policy that may restrict these clients, whatever they reach.
    pub(super) fn find_policy(&self, clients: &Clients<'_>) -> Option<&ClusterPolicy> {
        let mut policies = self.policies.iter().map(|it| &*it.policy);
        policies.find(|policy| match_clients(&policy.subject, clients) != Certainty::No)
    }
}

impl IngressTiers {
    /// The policies that apply to a known pod.
    pub(super) fn before_pod(
        facts: &Facts,
        endpoint: &ServerEndpoint,
        pod: &PolicyPod,
    ) -> IngressTiers {
        let labels = facts.namespace_labels(&pod.key.namespace);
        let is_selected = |policy: &ClusterPolicy| {
            let PodSet { namespaces, pods } = &policy.subject;
            labels
                .match_selector(namespaces)
                .and(pods.matches(&pod.labels).into())
        };
        IngressTiers::find(facts, Some(endpoint.clone()), is_selected)
    }

    /// The policies that may apply to a server that is not a known pod.
    pub(super) fn before_unknown_server(facts: &Facts) -> IngressTiers {
        IngressTiers::find(facts, None, |_| Certainty::Maybe)
    }

    /// No policies.
    pub(super) fn none() -> IngressTiers {
        IngressTiers {
            policies: Vec::new(),
            endpoint: None,
        }
    }

    fn find(
        facts: &Facts,
        endpoint: Option<ServerEndpoint>,
        is_selected: impl Fn(&ClusterPolicy) -> Certainty,
    ) -> IngressTiers {
        let all = facts.cluster_policies();
        let all = all.filter(|policy| !policy.ingress.is_empty());
        let policies = all.map(|policy| (policy.clone(), is_selected(policy)));
        let selecting = policies.filter(|(_, is_selected)| *is_selected != Certainty::No);
        let mut policies: Vec<_> = selecting.collect();
        policies.sort_by_key(|(policy, _)| policy.precedence());
        IngressTiers { policies, endpoint }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.policies.is_empty()
    }

    /// Decides whether the server admits these clients.
    ///
    /// # Errors
    /// Returns the rule of the admin tier that may deny it.
    pub(super) fn decide(&self, clients: &Clients<'_>) -> Result<LowerTiers<'_>, Denial<'_>> {
        let policies = self.policies.iter().map(|(policy, is_selected)| {
            let outcomes =
                Outcomes::of_rules(&policy.ingress, |rule| self.match_source(rule, clients));
            (&**policy, outcomes.if_selected(*is_selected))
        });
        decide(&policies.collect::<Vec<_>>())
    }

    /// Whether a rule matches a query of these clients.
    fn match_source(&self, rule: &ClusterRule, clients: &Clients<'_>) -> Certainty {
        let ClusterPeers::Listed(peers) = &rule.peers else {
            return Certainty::Yes;
        };
        let has_port = match &self.endpoint {
            Some(endpoint) => endpoint.match_port(&rule.ports),
            None if rule.ports.contain_all() => Certainty::Yes,
            None => Certainty::Maybe,
        };
        let peers = peers.iter().map(|peer| match peer {
            ClusterPeer::Pods(pods) => match_clients(pods, clients),
            ClusterPeer::Networks(_) | ClusterPeer::UnknownAddresses => Certainty::Maybe,
        });
        has_port.and(Certainty::any(peers))
    }
}

impl ClusterPolicy {
    /// Sorts policies by API, then by tier, then by priority.
    fn precedence(&self) -> impl Ord + use<> {
        (self.api, self.tier, self.priority)
    }
}

impl Outcomes {
    /// The outcomes of rules, in their order. `matches` decides whether a rule matches the query.
    fn of_rules(rules: &[ClusterRule], matches: impl Fn(&ClusterRule) -> Certainty) -> Outcomes {
        let mut outcomes = Outcomes::default();
        for rule in rules {
            let is_match = matches(rule);
            if is_match == Certainty::No {
                continue;
            }
            match rule.action {
                RuleAction::Accept => outcomes.may_accept = true,
                RuleAction::Deny => outcomes.denial = outcomes.denial.or(Some(rule.index)),
                RuleAction::Pass => outcomes.may_pass = true,
            }
            if is_match == Certainty::Yes {
                return outcomes;
            }
        }
        outcomes.may_match_nothing = true;
        outcomes
    }

    /// The outcomes for a pod, by whether the policy selects the pod.
    fn if_selected(self, is_selected: Certainty) -> Outcomes {
        match is_selected {
            Certainty::Yes => self,
            Certainty::Maybe => Outcomes {
                may_match_nothing: true,
                ..self
            },
            Certainty::No => Outcomes {
                may_match_nothing: true,
                ..Outcomes::default()
            },
        }
    }
}

impl NetworkPolicyTier<'_> {
    pub(super) fn is_overridden(self) -> bool {
        matches!(self, NetworkPolicyTier::Overridden)
    }
}

/// A hint that follows a reason why NetworkPolicies keep a pod from being answered.
impl fmt::Display for NetworkPolicyTier<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NetworkPolicyTier::Consulted | NetworkPolicyTier::Overridden => Ok(()),
            NetworkPolicyTier::ConsultedAfter(policy) => write!(
                f,
                " ({policy} accepts the query, but its status doesn't show that a network plugin \
                 enforces it)"
            ),
        }
    }
}

/// Decides about a query by policies with their outcomes. They must be sorted by
/// [`ClusterPolicy::precedence`].
fn decide<'a>(policies: &[(&'a ClusterPolicy, Outcomes)]) -> Result<LowerTiers<'a>, Denial<'a>> {
    let mut lower = LowerTiers {
        network_policies: NetworkPolicyTier::Consulted,
        baseline: None,
    };
    // At most one of the APIs is enforced, so each of them must permit the query.
    for policies in policies.chunk_by(|(one, _), (other, _)| one.api == other.api) {
        let admin = policies.partition_point(|(policy, _)| policy.tier == Tier::Admin);
        let (admin, baseline) = policies.split_at(admin);
        match decide_tier(admin) {
            TierDecision::Denied(denial) => return Err(denial),
            TierDecision::Accepted(policy) => {
                lower.network_policies = match (policy.enforcement, lower.network_policies) {
                    (Enforcement::Unknown, _) => NetworkPolicyTier::ConsultedAfter(policy),
                    (_, NetworkPolicyTier::ConsultedAfter(other)) => {
                        NetworkPolicyTier::ConsultedAfter(other)
                    }
                    _ => NetworkPolicyTier::Overridden,
                };
            }
            TierDecision::Undecided => {
                if let TierDecision::Denied(denial) = decide_tier(baseline) {
                    lower.baseline = lower.baseline.or(Some(denial));
                }
            }
        }
    }
    Ok(lower)
}

/// Decides about a query by the policies of one tier, sorted by priority.
fn decide_tier<'a>(policies: &[(&'a ClusterPolicy, Outcomes)]) -> TierDecision<'a> {
    let mut may_pass = false;
    let mut accepting: Option<&ClusterPolicy> = None;
    // Of policies with equal priority, any may be consulted first.
    for equal in policies.chunk_by(|(one, _), (other, _)| one.priority == other.priority) {
        for (policy, outcomes) in equal {
            if let Some(rule) = outcomes.denial {
                return TierDecision::Denied(Denial { policy, rule });
            }
            may_pass |= outcomes.may_pass;
            let is_reported = |it: &ClusterPolicy| it.enforcement == Enforcement::Reported;
            if outcomes.may_accept && accepting.is_none_or(is_reported) {
                accepting = Some(policy);
            }
        }
        if !equal.iter().all(|(_, outcomes)| outcomes.may_match_nothing) {
            return match accepting {
                Some(policy) if !may_pass => TierDecision::Accepted(policy),
                _ => TierDecision::Undecided,
            };
        }
    }
    TierDecision::Undecided
}

/// Whether a set of pods contains these clients.
fn match_clients(set: &PodSet, clients: &Clients<'_>) -> Certainty {
    let is_in_namespace = clients.namespace_labels.match_selector(&set.namespaces);
    is_in_namespace.and(set.pods.matches(clients.labels).into())
}

/// Whether a rule matches a query to this destination. `labels` are from
/// [`Destination::namespace_labels`].
fn match_destination(
    rule: &ClusterRule,
    destination: &Destination,
    labels: &LabelsByNamespace<'_>,
) -> Certainty {
    let ClusterPeers::Listed(peers) = &rule.peers else {
        return Certainty::Yes;
    };
    let peers = peers.iter();
    Certainty::any(peers.map(|peer| match peer {
        ClusterPeer::Pods(pods) => destination.match_pods(labels, pods, &rule.ports),
        ClusterPeer::Networks(networks) => destination.match_networks(networks, &rule.ports),
        ClusterPeer::UnknownAddresses => Certainty::Maybe.and(destination.match_ports(&rule.ports)),
    }))
}
