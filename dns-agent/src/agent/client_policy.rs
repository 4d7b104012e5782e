//! Client policy: which pods of this node NetworkPolicies permit to query the served addresses.
//!
//! The policy is evaluated from *facts* about policies, pods, namespaces, and the Service and
//! endpoints of the cluster's DNS. They come from manifests, or from the feeds of
//! [`super::kubernetes`]. A feed is a list in the Kubernetes API, followed by a watch. Only
//! [`Feed::PolicyKinds`] is polled.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tracing::info;
use zerohop_datapath::PermittedClients;
use zerohop_kubernetes::{
    ClientJudge, ClientVerdicts, Event, Facts, Feed, LeftOutPod, Object, ObjectKey, PolicyKind,
};
use zerohop_kubernetes_api::{FeedActivity, FeedHealth, SourceHealth};

use super::permitted_queries::PermittedQueries;
use crate::{
    admin::status::PolicyStatus,
    config::{Config, NetworkPolicy, SourceConfig},
};

/// Feeds whose lists must be complete before any pod can be permitted.
const NEEDED_FEEDS: [Feed; 4] = [
    Feed::Policies,
    Feed::PolicyKinds,
    Feed::DnsService,
    Feed::DnsEndpoints,
];

/// Evaluates NetworkPolicies. Keeps the facts that the evaluation needs, and its result: the
/// permitted clients.
pub(super) struct ClientPolicy {
    fact_source: FactSource,
    facts: Facts,
    judge: ClientJudge,
    /// The other inputs of the last evaluation.
    inputs: PolicyInputs,
    /// Whether facts changed after the last evaluation.
    have_facts_changed: bool,
    /// What the last evaluation permits. Before it: nothing, or everything if no facts are needed.
    permitted: PermittedQueries,
    /// The pods of the last evaluation that are not permitted, as in [`ClientVerdicts::left_out`].
    left_out: Vec<LeftOutPod>,
}

/// The source of facts.
enum FactSource {
    /// No facts are needed, because there is no kernel plane.
    Off,
    /// No facts are needed, because `--network-policy ignore` permits every client.
    Ignored,
    /// Manifests, which are always complete.
    Files,
    /// The Kubernetes API.
    Api {
        /// The health of the feeds of facts; empty before the feeds start.
        health: Vec<Arc<SourceHealth>>,
        /// `--max-age`; `None` means that facts never become outdated.
        max_age: Option<Duration>,
        /// Whether the name of this node is known. Without it, the pods of this node are not known.
        has_node_name: bool,
    },
}

/// The inputs of an evaluation that are not facts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct PolicyInputs {
    knowledge: PolicyKnowledge,
    served_addresses: Vec<SocketAddr>,
}

/// Whether the facts may be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum PolicyKnowledge {
    /// Some lists of [`NEEDED_FEEDS`] are not complete yet.
    #[default]
    Incomplete,
    /// The agent has received nothing from a feed for `--max-age`.
    Outdated,
    /// The lists of [`NEEDED_FEEDS`] are complete, and no feed is outdated.
    Complete,
}

impl ClientPolicy {
    /// A policy that permits no client before the lists are complete, unless no facts are needed.
    pub(super) fn new(config: &Config) -> ClientPolicy {
        let fact_source = match &config.source {
            _ if config.interfaces.is_empty() => FactSource::Off,
            _ if config.network_policy == NetworkPolicy::Ignore => FactSource::Ignored,
            SourceConfig::Manifests(_) => FactSource::Files,
            SourceConfig::Kubernetes(kubernetes) => FactSource::Api {
                health: Vec::new(),
                max_age: kubernetes.max_age,
                has_node_name: kubernetes.node_name.is_some(),
            },
        };
        ClientPolicy {
            permitted: match fact_source {
                FactSource::Off | FactSource::Ignored => PermittedQueries::default(),
                FactSource::Files | FactSource::Api { .. } => PermittedQueries::none(),
            },
            facts: match fact_source {
                FactSource::Off | FactSource::Ignored | FactSource::Files => Facts::default(),
                FactSource::Api { .. } => Facts::awaiting(NEEDED_FEEDS),
            },
            fact_source,
            judge: ClientJudge::default(),
            inputs: PolicyInputs::default(),
            have_facts_changed: true,
            left_out: Vec::new(),
        }
    }

    /// Forgets all facts, because another Service is the cluster's DNS from now on. No client is
    /// permitted before the lists are complete again, unless no facts are needed.
    pub(super) fn restart(&mut self) {
        let FactSource::Api { health, .. } = &mut self.fact_source else {
            return;
        };
        health.clear();
        self.facts = Facts::awaiting(NEEDED_FEEDS);
        self.judge = ClientJudge::default();
        self.have_facts_changed = true;
    }

    /// What the last evaluation permits.
    pub(super) fn permitted(&self) -> &PermittedQueries {
        &self.permitted
    }

    /// Replaces all facts.
    pub(super) fn replace_facts(&mut self, facts: Facts) {
        self.facts = facts;
        self.have_facts_changed = true;
    }

    /// Applies an event of a feed.
    pub(super) fn apply_event(&mut self, event: Event) {
        // Most events change no fact, such as those about the status of a pod.
        self.have_facts_changed |= match event {
            Event::ListStarted(feed) => {
                self.facts.start_list(feed);
                false
            }
            Event::ListEnded(feed) => self.facts.finish_list(feed),
            Event::Applied {
                feed,
                object: Object::Fact(fact),
                ..
            } => self.facts.apply(feed, fact),
            Event::Deleted { feed, key } => self.facts.delete(feed, &key),
            Event::Unusable { feed, problem, .. } => {
                let key = ObjectKey::new(problem.namespace, problem.name);
                self.facts.mark_unreadable(feed, &key)
            }
            Event::Applied { .. } | Event::Covered(..) | Event::ConfigMap { .. } => false,
        };
    }

    /// Sets the kinds of policies that the API serves, besides NetworkPolicy.
    pub(super) fn set_policy_kinds(&mut self, kinds: BTreeSet<PolicyKind>) {
        self.have_facts_changed = true;
        self.facts.set_served_kinds(kinds);
    }

    /// Sets the health of the feeds of facts.
    pub(super) fn set_feed_health(&mut self, feed_health: Vec<Arc<SourceHealth>>) {
        if let FactSource::Api { health, .. } = &mut self.fact_source {
            *health = feed_health;
        }
    }

    /// Evaluates which clients may query these addresses. `None` when no input has changed since
    /// the last evaluation, or when no facts are needed.
    pub(super) fn evaluate_clients(
        &mut self,
        served_addresses: &[SocketAddr],
    ) -> Option<PermittedQueries> {
        if matches!(self.fact_source, FactSource::Off | FactSource::Ignored) {
            return None;
        }
        let inputs = PolicyInputs {
            knowledge: self.knowledge(),
            served_addresses: served_addresses.to_vec(),
        };
        if !self.have_facts_changed && inputs == self.inputs {
            return None;
        }
        self.have_facts_changed = false;
        let verdicts = match inputs.knowledge {
            PolicyKnowledge::Incomplete | PolicyKnowledge::Outdated => ClientVerdicts {
                permitted: Some(BTreeSet::new()),
                left_out: Vec::new(),
                permitted_tcp: Some(BTreeSet::new()),
                left_out_tcp: Vec::new(),
                server_egress_restriction: Some("the policies are not known".to_owned()),
            },
            PolicyKnowledge::Complete => self.judge.judge(&mut self.facts, served_addresses),
        };
        self.inputs = inputs;
        self.log_new_exclusions(&verdicts.left_out);
        self.left_out = verdicts.left_out;
        let clients = |permitted: Option<BTreeSet<IpAddr>>| {
            permitted.map_or(PermittedClients::Any, PermittedClients::Only)
        };
        self.permitted = PermittedQueries {
            udp: clients(verdicts.permitted),
            tcp: clients(verdicts.permitted_tcp),
            steering_objection: verdicts.server_egress_restriction,
        };
        Some(self.permitted.clone())
    }

    /// Whether the first list of every feed of facts has ended or failed. Then the kernel plane
    /// need not wait for facts.
    pub(super) fn is_settled(&self) -> bool {
        self.feeds_without_reply().is_empty()
    }

    /// The reason for not being ready, if any: the feeds whose first list has neither ended nor
    /// failed.
    pub(super) fn missing(&self) -> Option<String> {
        let feeds = self.feeds_without_reply();
        let names: Vec<_> = feeds.iter().map(|feed| feed.name()).collect();
        let reason = || format!("the first list of {} is not complete yet", names.join(", "));
        (!names.is_empty()).then(reason)
    }

    /// Why the kernel answers fewer pods than NetworkPolicies permit.
    pub(super) fn degraded(&self) -> Vec<String> {
        let FactSource::Api { has_node_name, .. } = &self.fact_source else {
            return Vec::new();
        };
        let mut degraded = Vec::new();
        let is_restricted = matches!(self.permitted.udp, PermittedClients::Only(_));
        for (feed, health) in self.feed_health() {
            // The feeds that are not awaited matter only while not every client is permitted.
            let is_needed = self.facts.awaited().contains(&feed) || is_restricted;
            if let FeedActivity::Retrying { error } = &health.activity
                && health.last_received.is_none()
                && is_needed
            {
                degraded.push(format!(
                    "CoreDNS answers queries of this node's pods, because it isn't known which of \
                     them NetworkPolicies permit to query it: {error}; correct this error, or give \
                     --network-policy ignore"
                ));
            }
        }
        if self.inputs.knowledge == PolicyKnowledge::Outdated {
            degraded.push(
                "CoreDNS answers all queries, because the agent has received nothing about \
                 NetworkPolicies from the API for --max-age: see the feeds in `dns-agent status`"
                    .to_owned(),
            );
        }
        if !has_node_name && self.inputs.knowledge == PolicyKnowledge::Complete && is_restricted {
            degraded.push(
                "CoreDNS answers all queries, because there are NetworkPolicies for egress or for \
                 the cluster's DNS, and it isn't known which pods run on this node: give the \
                 node's name as --node-name"
                    .to_owned(),
            );
        }
        degraded
    }

    /// The client policy's status; `None` without a kernel plane.
    pub(super) fn status(&self) -> Option<PolicyStatus> {
        let mode = match self.fact_source {
            FactSource::Off => return None,
            FactSource::Ignored => "ignore",
            FactSource::Files | FactSource::Api { .. } => "respect",
        };
        Some(PolicyStatus {
            mode: mode.to_owned(),
            permitted: match &self.permitted.udp {
                PermittedClients::Any => None,
                PermittedClients::Only(addresses) => Some(addresses.len()),
            },
            left_out: self.left_out.clone(),
        })
    }

    /// Logs pods that are newly excluded, with the reason.
    fn log_new_exclusions(&self, left_out: &[LeftOutPod]) {
        let before: BTreeSet<_> = self.left_out.iter().collect();
        for LeftOutPod { pod, reason, .. } in left_out.iter().filter(|it| !before.contains(it)) {
            info!(
                "CoreDNS answers the queries of Pod {pod}, because the kernel does not: {reason}"
            );
        }
    }

    fn knowledge(&self) -> PolicyKnowledge {
        if !self.facts.awaited().is_empty() {
            return PolicyKnowledge::Incomplete;
        }
        let FactSource::Api {
            max_age: Some(max_age),
            ..
        } = &self.fact_source
        else {
            return PolicyKnowledge::Complete;
        };
        let feed_health = self.feed_health();
        let mut ages = feed_health.values().filter_map(FeedHealth::age);
        if ages.all(|age| age <= *max_age) {
            PolicyKnowledge::Complete
        } else {
            PolicyKnowledge::Outdated
        }
    }

    /// The feeds whose first list has neither ended nor failed. A failed feed is retried.
    fn feeds_without_reply(&self) -> Vec<Feed> {
        let is_waiting = |health: &FeedHealth| {
            health.last_received.is_none()
                && !matches!(health.activity, FeedActivity::Retrying { .. })
        };
        match &self.fact_source {
            FactSource::Off | FactSource::Ignored | FactSource::Files => Vec::new(),
            // The feeds have not started.
            FactSource::Api { health, .. } if health.is_empty() => NEEDED_FEEDS.to_vec(),
            FactSource::Api { .. } => {
                let feeds = self.feed_health().into_iter();
                let waiting = feeds.filter(|(_, health)| is_waiting(health));
                waiting.map(|(feed, _)| feed).collect()
            }
        }
    }

    fn feed_health(&self) -> BTreeMap<Feed, FeedHealth> {
        match &self.fact_source {
            FactSource::Off | FactSource::Ignored | FactSource::Files => BTreeMap::new(),
            FactSource::Api { health, .. } => {
                health.iter().flat_map(|health| health.feeds()).collect()
            }
        }
    }
}
