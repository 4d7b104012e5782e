//! Which of this node's pods may be answered.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::destinations::Destination;
use super::facts::Facts;
use super::ingress::Gate;
use super::objects::{PodNetwork, Policy, PolicyPod, Stage};
use super::possible_restrictions::PossibleRestrictions;
use crate::objects::ObjectKey;
use crate::selector::Labels;

/// Which pods may be answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientVerdicts {
    /// The addresses of the pods that may be answered. `None`: every pod may be answered, because
    /// no policy can keep a pod from the cluster's DNS.
    pub permitted: Option<BTreeSet<IpAddr>>,
    /// This node's pods that may not be answered, ordered by namespace and name, except pods that
    /// can't be read, pods without addresses, and pods in the node's network.
    pub left_out: Vec<LeftOutPod>,
}

/// A pod that is not answered.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct LeftOutPod {
    /// `namespace/name`.
    pub pod: String,
    /// The pod's addresses.
    pub addresses: Vec<IpAddr>,
    /// Why the pod isn't answered, as a clause for people.
    pub reason: String,
}

impl Facts {
    /// Judges which of this node's pods may be answered when they query the served addresses.
    #[must_use]
    pub fn judge_clients(&self, served: &[SocketAddr]) -> ClientVerdicts {
        if !self.may_restrict() {
            return ClientVerdicts::default();
        }
        let destinations = Destination::find_all(self, served);
        let judge = ClientJudge {
            gates: Gate::find_all(self, &destinations),
            restrictions: PossibleRestrictions::find(self, &destinations),
            destinations: &destinations,
            facts: self,
            allowed: RefCell::default(),
        };
        if !judge.may_object() {
            return ClientVerdicts::default();
        }
        let clients = || {
            let clients = self.clients();
            clients.filter(|pod| pod.network == PodNetwork::Own && !pod.addresses.is_empty())
        };
        let mut owners: BTreeMap<IpAddr, Vec<&ObjectKey>> = BTreeMap::new();
        for pod in clients() {
            for address in &pod.addresses {
                owners.entry(*address).or_default().push(&pod.key);
            }
        }
        let mut permitted = BTreeSet::new();
        let mut left_out = Vec::new();
        // `find_objection` depends only on a pod's namespace and labels, so pods that are equal in
        // both share one result.
        let mut objections: BTreeMap<(&str, &Labels), Option<String>> = BTreeMap::new();
        for pod in clients() {
            let entry = objections.entry((&pod.key.namespace, &pod.labels));
            let objection = entry.or_insert_with(|| judge.find_objection(pod));
            let reason = describe_ending(pod)
                .or_else(|| objection.clone())
                .or_else(|| describe_other_owner(pod, &owners));
            match reason {
                None => permitted.extend(pod.addresses.iter().copied()),
                Some(reason) => left_out.push(LeftOutPod {
                    pod: pod.key.to_string(),
                    addresses: pod.addresses.to_vec(),
                    reason,
                }),
            }
        }
        ClientVerdicts {
            permitted: Some(permitted),
            left_out,
        }
    }
}

/// Judges pods by the policies that apply to them.
struct ClientJudge<'a> {
    facts: &'a Facts,
    destinations: &'a [Destination<'a>],
    gates: Vec<Gate<'a>>,
    restrictions: PossibleRestrictions<'a>,
    /// For each policy that selects a pod, which destinations its egress rules allow. That doesn't
    /// depend on the pod, and a policy may have thousands of rules.
    allowed: RefCell<BTreeMap<&'a ObjectKey, Vec<bool>>>,
}

impl<'a> ClientJudge<'a> {
    /// Whether policies may keep any pod from the cluster's DNS. Unlike [`Facts::may_restrict`],
    /// this considers what the policies say.
    fn may_object(&self) -> bool {
        self.facts.has_egress_policy()
            || !self.gates.is_empty()
            || self.restrictions.can_restrict_pods()
    }

    /// Why policies may forbid a pod's queries. `None`: the policies provably permit the queries.
    /// Depends only on the pod's namespace and labels.
    fn find_objection(&self, pod: &PolicyPod) -> Option<String> {
        if let Some(reason) = self.restrictions.find_objection(&pod.key.namespace) {
            return Some(reason);
        }
        self.find_egress_objection(pod).or_else(|| {
            let mut gates = self.gates.iter();
            gates.find_map(|gate| gate.find_objection(self.facts, pod))
        })
    }

    /// Why egress policies may forbid a pod's queries. `None`: the policies provably permit the
    /// queries.
    fn find_egress_objection(&self, pod: &PolicyPod) -> Option<String> {
        // A policy without readable metadata has an empty namespace, and may apply to any pod.
        if self.facts.policies_in("").next().is_some() {
            return Some(
                "a NetworkPolicy in an unknown namespace can't be read, and may apply to this pod"
                    .to_owned(),
            );
        }
        let mut policies: Vec<(&'a ObjectKey, &'a Policy)> = Vec::new();
        for (key, policy) in self.facts.policies_in(&pod.key.namespace) {
            let Some(policy) = policy else {
                return Some(format!(
                    "NetworkPolicy {key} can't be read, and may apply to this pod"
                ));
            };
            if policy.egress.is_some() && policy.pods.matches(&pod.labels) {
                policies.push((key, policy));
            }
        }
        if policies.is_empty() {
            return None;
        }
        let names = || {
            let names = policies.iter().map(|(key, _)| key.to_string());
            names.collect::<Vec<_>>().join(", ")
        };
        if self.destinations.is_empty() {
            return Some(format!(
                "NetworkPolicy {} restricts this pod's egress, and no address of the cluster's DNS is known",
                names()
            ));
        }
        let forbidden = self.destinations.iter().enumerate().find(|(at, _)| {
            let mut policies = policies.iter();
            !policies.any(|(key, policy)| self.is_allowed(key, policy, *at))
        });
        let (_, forbidden) = forbidden?;
        let does = match policies.len() {
            1 => "does",
            _ => "do",
        };
        Some(format!(
            "NetworkPolicy {} {does} not provably let this pod reach {forbidden} over UDP",
            names()
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

/// Why a pod isn't answered if it is ending. `None` if it is not ending.
fn describe_ending(pod: &PolicyPod) -> Option<String> {
    (pod.stage == Stage::Ending)
        .then(|| "the pod is being deleted, or its node does not answer".to_owned())
}

/// Why a pod isn't answered if another pod of this node has one of its addresses too. `None` if no
/// pod does.
fn describe_other_owner(
    pod: &PolicyPod,
    owners: &BTreeMap<IpAddr, Vec<&ObjectKey>>,
) -> Option<String> {
    pod.addresses.iter().find_map(|address| {
        let other = owners
            .get(address)?
            .iter()
            .find(|other| ***other != pod.key)?;
        Some(format!("Pod {other} has the address {address} too"))
    })
}
