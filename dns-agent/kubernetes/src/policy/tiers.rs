//! What cluster-wide policies decide about queries.
//!
//! Policies of the admin tier decide first, then NetworkPolicies, and policies of the baseline tier
//! decide if no NetworkPolicy selects the pod. A decision counts only if it holds whatever isn't
//! known, such as the labels of a Namespace, and in whatever order policies of equal priority are
//! consulted.
//!
//! A policy that accepts a query may replace NetworkPolicies only if a network plugin reports that
//! it enforces the policy. Otherwise the policy may be one that no plugin enforces. Plugins also
//! reject some policies of an API that they enforce: see [`Enforcement`].

use std::fmt;
use std::sync::Arc;

use super::certainty::Certainty;
use super::clients::Clients;
use super::cluster_policy::{
    ClusterPeer, ClusterPeers, ClusterPolicy, ClusterRule, PodSet, PolicyApi, PolicyReport,
    RuleAction, Tier,
};
use super::destinations::{Destination, LabelsByNamespace, ServerEndpoint};
use super::facts::Facts;
use super::objects::PolicyPod;
use super::ports::{Ports, QueryProtocol};

/// Cluster-wide policies about egress, with what they decide about each destination. That doesn't
/// depend on the client.
#[derive(Debug)]
pub(super) struct EgressTiers {
    policies: Vec<EgressTierPolicy>,
}

#[derive(Debug)]
struct EgressTierPolicy {
    policy: TierPolicy,
    /// For each destination, what the policy decides about the clients that it selects.
    outcomes: Vec<Outcomes>,
}

/// Cluster-wide policies about ingress that apply, or may apply, to one server.
#[derive(Debug, PartialEq)]
pub(super) struct IngressTiers {
    /// With each policy, whether it applies to the server.
    policies: Vec<(TierPolicy, Certainty)>,
    port: ServerPort,
}

/// The port at which a server receives queries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ServerPort {
    protocol: QueryProtocol,
    /// `None`: unknown.
    number: Option<u16>,
}

/// A cluster-wide policy. Lists of these are ordered as [`decide`] needs them.
#[derive(Clone, Debug)]
struct TierPolicy {
    policy: Arc<ClusterPolicy>,
    enforcement: Enforcement,
}

/// Whether a plugin that enforces the policy's API enforces the policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Enforcement {
    /// The plugin reports that it does.
    Reported,
    /// It does. It isn't known whether there is such a plugin.
    Expected,
    /// It may have rejected the policy.
    Doubtful,
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
    /// They don't count, because policies of the admin tier accept the query, and a plugin reports
    /// that it enforces these.
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

/// Whether a rule matches a query.
enum RuleMatch {
    Known(Certainty),
    /// The rule has a kind of peer that the plugin may not know, or ports that can't be read. Then
    /// the rule may fail closed, as described at [`ClusterPeers::FailClosed`].
    MayFailClosed,
}

/// What a tier decides.
enum TierDecision<'a> {
    Denied(Denial<'a>),
    /// Every outcome accepts the query. Holds one policy that may be the one that accepts it: one
    /// whose enforcement isn't reported, if there is one.
    Accepted(&'a TierPolicy),
    /// The next tier may decide.
    Undecided,
}

impl EgressTiers {
    pub(super) fn find(facts: &Facts, destinations: &[Destination]) -> EgressTiers {
        let labels = Destination::namespace_labels(destinations, facts);
        let all = TierPolicy::find_all(facts).into_iter();
        let all = all.filter(|it| !it.policy.egress.is_empty());
        let policies = all.map(|policy| EgressTierPolicy {
            outcomes: destinations
                .iter()
                .map(|destination| policy.egress_outcomes(destination, &labels))
                .collect(),
            policy,
        });
        EgressTiers {
            policies: policies.collect(),
        }
    }

    /// Decides for each destination whether these clients may reach it.
    ///
    /// # Errors
    /// Returns the index of the first destination to which a rule of the admin tier may deny the
    /// way, and this rule.
    pub(super) fn decide(
        &self,
        clients: &Clients<'_>,
        destinations: usize,
    ) -> Result<Vec<LowerTiers<'_>>, (usize, Denial<'_>)> {
        let policies = self.policies.iter();
        let selecting = policies.filter_map(|it| {
            let is_selected = match_clients(&it.policy.policy.subject, clients);
            (is_selected != Certainty::No).then_some((it, is_selected))
        });
        let selecting: Vec<_> = selecting.collect();
        let decide_at = |destination: usize| {
            let policies = selecting.iter().map(|(it, is_selected)| {
                (
                    &it.policy,
                    it.outcomes[destination].if_selected(*is_selected),
                )
            });
            let lower = decide(&policies.collect::<Vec<_>>());
            lower.map_err(|denial| (destination, denial))
        };
        (0..destinations).map(decide_at).collect()
    }

    /// A policy that may restrict these clients, whatever they reach.
    pub(super) fn find_policy(&self, clients: &Clients<'_>) -> Option<&ClusterPolicy> {
        let mut policies = self.policies.iter().map(|it| &*it.policy.policy);
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
        let port = ServerPort {
            protocol: endpoint.address.protocol,
            number: Some(endpoint.address.port()),
        };
        IngressTiers::find(facts, port, |policy| {
            labels.match_pods(&policy.subject, &pod.labels)
        })
    }

    /// The policies that may apply to a server that is not a known pod.
    pub(super) fn before_unknown_server(facts: &Facts, protocol: QueryProtocol) -> IngressTiers {
        let port = ServerPort {
            protocol,
            number: None,
        };
        IngressTiers::find(facts, port, |_| Certainty::Maybe)
    }

    /// The policies before a server in its node's network: none, because they never select such
    /// pods.
    pub(super) fn before_host(protocol: QueryProtocol) -> IngressTiers {
        IngressTiers {
            policies: Vec::new(),
            port: ServerPort {
                protocol,
                number: None,
            },
        }
    }

    fn find(
        facts: &Facts,
        port: ServerPort,
        is_selected: impl Fn(&ClusterPolicy) -> Certainty,
    ) -> IngressTiers {
        let all = TierPolicy::find_all(facts).into_iter();
        let all = all.filter(|it| !it.policy.ingress.is_empty());
        let policies = all.map(|it| {
            let is_selected = is_selected(&it.policy);
            (it, is_selected)
        });
        let selecting = policies.filter(|(_, is_selected)| *is_selected != Certainty::No);
        IngressTiers {
            policies: selecting.collect(),
            port,
        }
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
            let outcomes = policy.ingress_outcomes(clients, self.port);
            (policy, outcomes.if_selected(*is_selected))
        });
        decide(&policies.collect::<Vec<_>>())
    }
}

impl ServerPort {
    /// Whether the port is one of these.
    fn is_in(self, ports: &Ports) -> Certainty {
        match self.number {
            Some(number) => ports.match_unnamed(self.protocol, number),
            None => ports.match_unknown(self.protocol),
        }
    }
}

impl TierPolicy {
    /// All policies, ordered by API, then by tier, then by priority.
    fn find_all(facts: &Facts) -> Vec<TierPolicy> {
        let precedence = |policy: &ClusterPolicy| (policy.api, policy.tier, policy.priority);
        let mut policies: Vec<_> = facts.cluster_policies().collect();
        policies.sort_by_key(|policy| precedence(policy));
        let reporting = policies.iter();
        let reporting = reporting.filter(|policy| policy.report != PolicyReport::Missing);
        let reporting: Vec<PolicyApi> = reporting.map(|policy| policy.api).collect();
        let equals = policies.chunk_by(|one, other| precedence(one) == precedence(other));
        let policies = equals.flat_map(|equal| {
            equal.iter().map(|policy| TierPolicy {
                policy: (*policy).clone(),
                enforcement: match policy.report {
                    // After an upgrade to a plugin that knows only ClusterNetworkPolicies, the
                    // reports of the earlier plugin stay.
                    PolicyReport::Enforced
                        if policy.api == PolicyApi::ClusterNetworkPolicy
                            || !facts.serves_cluster_network_policies() =>
                    {
                        Enforcement::Reported
                    }
                    // Some plugins enforce only one of the policies with equal priority.
                    PolicyReport::Enforced | PolicyReport::Missing
                        if equal.len() == 1
                            && policy.priority <= policy.api.max_accepted_priority()
                            && (policy.report == PolicyReport::Enforced
                                || !reporting.contains(&policy.api)) =>
                    {
                        Enforcement::Expected
                    }
                    PolicyReport::Enforced | PolicyReport::NotEnforced | PolicyReport::Missing => {
                        Enforcement::Doubtful
                    }
                },
            })
        });
        policies.collect()
    }

    /// What the policy decides about a query to a destination. `labels` are from
    /// [`Destination::namespace_labels`].
    fn egress_outcomes(
        &self,
        destination: &Destination,
        labels: &LabelsByNamespace<'_>,
    ) -> Outcomes {
        let match_peer = |peer: &ClusterPeer, rule: &ClusterRule| match peer {
            ClusterPeer::Pods(pods) => destination.match_pods(labels, pods, &rule.ports),
            ClusterPeer::Networks(networks) => destination.match_networks(networks, &rule.ports),
            // A pod's address is no node's.
            ClusterPeer::Nodes if destination.is_known_pods() => Certainty::No,
            ClusterPeer::Nodes | ClusterPeer::DomainNames => {
                Certainty::Maybe.and(destination.match_ports(&rule.ports))
            }
        };
        let protocol = destination.address().protocol;
        self.outcomes_of(&self.policy.egress, |rule| match &rule.peers {
            ClusterPeers::FailClosed => RuleMatch::Known(Certainty::Yes),
            ClusterPeers::Listed(peers)
                if rule.ports.are_unknown(protocol)
                    || peers.iter().any(|peer| !self.is_known(peer)) =>
            {
                RuleMatch::MayFailClosed
            }
            ClusterPeers::Listed(peers) => {
                let peers = peers.iter().map(|peer| match_peer(peer, rule));
                RuleMatch::Known(Certainty::any(peers))
            }
        })
    }

    /// Whether a plugin that enforces the policy knows this kind of peer.
    fn is_known(&self, peer: &ClusterPeer) -> bool {
        match peer {
            ClusterPeer::Pods(_) | ClusterPeer::Networks(_) => true,
            ClusterPeer::Nodes => self.enforcement == Enforcement::Reported,
            ClusterPeer::DomainNames => false,
        }
    }

    /// What the policy decides about a query of these clients to a server that it selects.
    fn ingress_outcomes(&self, clients: &Clients<'_>, port: ServerPort) -> Outcomes {
        self.outcomes_of(&self.policy.ingress, |rule| {
            let ClusterPeers::Listed(peers) = &rule.peers else {
                return RuleMatch::Known(Certainty::Yes);
            };
            if rule.ports.are_unknown(port.protocol) {
                return RuleMatch::MayFailClosed;
            }
            let has_port = port.is_in(&rule.ports);
            let peers = peers.iter().map(|peer| match peer {
                ClusterPeer::Pods(pods) => match_clients(pods, clients),
                // Rules about ingress have no such peers.
                ClusterPeer::Networks(_) | ClusterPeer::Nodes | ClusterPeer::DomainNames => {
                    Certainty::Maybe
                }
            });
            RuleMatch::Known(has_port.and(Certainty::any(peers)))
        })
    }

    fn outcomes_of(
        &self,
        rules: &[ClusterRule],
        matches: impl Fn(&ClusterRule) -> RuleMatch,
    ) -> Outcomes {
        let outcomes = Outcomes::of_rules(rules, matches);
        match self.enforcement {
            Enforcement::Reported | Enforcement::Expected => outcomes,
            Enforcement::Doubtful => outcomes.if_selected(Certainty::Maybe),
        }
    }
}

impl PartialEq for TierPolicy {
    fn eq(&self, other: &TierPolicy) -> bool {
        Arc::ptr_eq(&self.policy, &other.policy) && self.enforcement == other.enforcement
    }
}

impl Outcomes {
    /// The outcomes of rules, in their order. `matches` decides whether a rule matches the query.
    fn of_rules(rules: &[ClusterRule], matches: impl Fn(&ClusterRule) -> RuleMatch) -> Outcomes {
        let mut outcomes = Outcomes::default();
        for rule in rules {
            let is_match = match matches(rule) {
                RuleMatch::Known(Certainty::No) => continue,
                RuleMatch::Known(is_match) => is_match,
                RuleMatch::MayFailClosed => {
                    if rule.action != RuleAction::Accept {
                        outcomes.add_denial(rule);
                    }
                    Certainty::Maybe
                }
            };
            match rule.action {
                RuleAction::Accept => outcomes.may_accept = true,
                RuleAction::Deny => outcomes.add_denial(rule),
                RuleAction::Pass => outcomes.may_pass = true,
            }
            if is_match == Certainty::Yes {
                return outcomes;
            }
        }
        outcomes.may_match_nothing = true;
        outcomes
    }

    fn add_denial(&mut self, rule: &ClusterRule) {
        self.denial = self.denial.or(Some(rule.index));
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

/// Decides about a query by policies with their outcomes, ordered as by [`TierPolicy::find_all`].
fn decide<'a>(policies: &[(&'a TierPolicy, Outcomes)]) -> Result<LowerTiers<'a>, Denial<'a>> {
    let mut lower = LowerTiers {
        network_policies: NetworkPolicyTier::Consulted,
        baseline: None,
    };
    let api = |it: &TierPolicy| it.policy.api;
    // At most one of the APIs is enforced, so each of them must permit the query.
    for policies in policies.chunk_by(|(one, _), (other, _)| api(one) == api(other)) {
        let admin = policies.partition_point(|(it, _)| it.policy.tier == Tier::Admin);
        let (admin, baseline) = policies.split_at(admin);
        match decide_tier(admin) {
            TierDecision::Denied(denial) => return Err(denial),
            TierDecision::Accepted(it) => {
                lower.network_policies = match (it.enforcement, lower.network_policies) {
                    (Enforcement::Reported, NetworkPolicyTier::ConsultedAfter(other)) => {
                        NetworkPolicyTier::ConsultedAfter(other)
                    }
                    (Enforcement::Reported, _) => NetworkPolicyTier::Overridden,
                    _ => NetworkPolicyTier::ConsultedAfter(&it.policy),
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

/// Decides about a query by the policies of one tier, ordered by priority.
fn decide_tier<'a>(policies: &[(&'a TierPolicy, Outcomes)]) -> TierDecision<'a> {
    let mut may_pass = false;
    let mut accepting: Option<&TierPolicy> = None;
    let priority = |it: &TierPolicy| it.policy.priority;
    // Of policies with equal priority, any may be consulted first.
    for equal in policies.chunk_by(|(one, _), (other, _)| priority(one) == priority(other)) {
        for (it, outcomes) in equal {
            if let Some(rule) = outcomes.denial {
                let policy = &it.policy;
                return TierDecision::Denied(Denial { policy, rule });
            }
            may_pass |= outcomes.may_pass;
            let is_reported = |it: &TierPolicy| it.enforcement == Enforcement::Reported;
            if outcomes.may_accept && accepting.is_none_or(is_reported) {
                accepting = Some(it);
            }
        }
        if !equal.iter().all(|(_, outcomes)| outcomes.may_match_nothing) {
            return match accepting {
                Some(it) if !may_pass => TierDecision::Accepted(it),
                _ => TierDecision::Undecided,
            };
        }
    }
    TierDecision::Undecided
}

/// Whether a set of pods contains these clients.
fn match_clients(set: &PodSet, clients: &Clients<'_>) -> Certainty {
    clients.namespace_labels.match_pods(set, clients.labels)
}
