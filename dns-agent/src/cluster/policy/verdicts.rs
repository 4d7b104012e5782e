//! Which of this node's pods may be answered.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::destinations::Destination;
use super::facts::Facts;
use super::ingress::Gate;
use super::objects::{Client, PodNetwork, Policy, Stage};
use super::others::Suspects;
use crate::cluster::objects::Key;
use crate::cluster::selector::Labels;

/// Which pods may be answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdicts {
    /// The addresses of those that may; none while no policy may keep any pod from the cluster's DNS:
    /// then all may.
    pub permitted: Option<BTreeSet<IpAddr>>,
    /// Those that may not, in the order of their names.
    pub left_out: Vec<LeftOut>,
}

/// A pod that is not answered.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct LeftOut {
    /// Namespace and name, with a slash between.
    pub pod: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Why.
    pub reason: String,
}

impl Facts {
    /// Judges every pod that may ask at the served addresses.
    #[must_use]
    pub fn verdicts(&self, served: &[SocketAddr]) -> Verdicts {
        if !self.restrict() {
            return Verdicts::default();
        }
        let destinations = Destination::all(self, served);
        let judge = Judge {
            gates: Gate::all(self, &destinations),
            suspects: Suspects::of(self, &destinations),
            destinations: &destinations,
            facts: self,
        };
        if !judge.may_object() {
            return Verdicts::default();
        }
        let clients = || {
            let clients = self.clients();
            clients.filter(|pod| pod.network == PodNetwork::Own && !pod.addresses.is_empty())
        };
        let mut owners: BTreeMap<IpAddr, Vec<&Key>> = BTreeMap::new();
        for pod in clients() {
            for address in &pod.addresses {
                owners.entry(*address).or_default().push(&pod.key);
            }
        }
        let mut permitted = BTreeSet::new();
        let mut left_out = Vec::new();
        // Policies know a pod by its namespace and labels alone.
        let mut objections: BTreeMap<(&str, &Labels), Option<String>> = BTreeMap::new();
        for pod in clients() {
            let same = objections.entry((&pod.key.namespace, &pod.labels));
            let objection = same.or_insert_with(|| judge.objection(pod));
            let reason = ending(pod)
                .or_else(|| objection.clone())
                .or_else(|| other_owner(pod, &owners));
            match reason {
                None => permitted.extend(pod.addresses.iter().copied()),
                Some(reason) => left_out.push(LeftOut {
                    pod: pod.key.to_string(),
                    addresses: pod.addresses.to_vec(),
                    reason,
                }),
            }
        }
        Verdicts {
            permitted: Some(permitted),
            left_out,
        }
    }
}

/// What policies say, for all pods.
struct Judge<'a> {
    facts: &'a Facts,
    destinations: &'a [Destination<'a>],
    gates: Vec<Gate<'a>>,
    suspects: Suspects<'a>,
}

impl Judge<'_> {
    /// Whether any pod may be kept from the cluster's DNS.
    fn may_object(&self) -> bool {
        self.facts.restrict_egress() || !self.gates.is_empty() || self.suspects.restrict()
    }

    /// Why policies may not let a pod ask, if there is a reason. Depends on nothing of the pod but its
    /// namespace and its labels.
    fn objection(&self, pod: &Client) -> Option<String> {
        if let Some(reason) = self.suspects.objection(&pod.key.namespace) {
            return Some(reason);
        }
        self.egress_objection(pod).or_else(|| {
            let mut gates = self.gates.iter();
            gates.find_map(|gate| gate.objection(self.facts, pod))
        })
    }

    /// Why policies about the pod's own packets may not let it ask, if there is a reason.
    fn egress_objection(&self, pod: &Client) -> Option<String> {
        // Of a policy of which nothing can be read it isn't known where it is.
        if self.facts.policies_in("").next().is_some() {
            return Some("there is a NetworkPolicy that can't be read".to_owned());
        }
        let mut names = Vec::new();
        let mut policies: Vec<&Policy> = Vec::new();
        for (key, policy) in self.facts.policies_in(&pod.key.namespace) {
            let Some(policy) = policy else {
                return Some(format!(
                    "NetworkPolicy {key} can't be read, and may be about it"
                ));
            };
            if policy.egress.is_some() && policy.pods.matches(&pod.labels) {
                names.push(key.to_string());
                policies.push(policy);
            }
        }
        if policies.is_empty() {
            return None;
        }
        let names = names.join(", ");
        if self.destinations.is_empty() {
            return Some(format!(
                "NetworkPolicy {names} restricts whom it may ask, and it isn't known where its questions go"
            ));
        }
        let forbidden = self.destinations.iter().find(|destination| {
            let mut policies = policies.iter();
            !policies.any(|policy| destination.is_allowed_by(self.facts, policy))
        })?;
        let does = match policies.len() {
            1 => "does",
            _ => "do",
        };
        Some(format!(
            "NetworkPolicy {names} {does} not provably let it ask {forbidden} over UDP"
        ))
    }
}

/// Why a pod may not be answered whatever policies say, if it is about to end.
fn ending(pod: &Client) -> Option<String> {
    (pod.stage == Stage::Ending)
        .then(|| "it is being deleted, or its node does not answer".to_owned())
}

/// Another pod that claims an address of this one.
fn other_owner(pod: &Client, owners: &BTreeMap<IpAddr, Vec<&Key>>) -> Option<String> {
    pod.addresses.iter().find_map(|address| {
        let other = owners
            .get(address)?
            .iter()
            .find(|other| ***other != pod.key)?;
        Some(format!("Pod {other} has its address {address} too"))
    })
}
