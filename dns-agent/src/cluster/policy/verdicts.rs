//! Which of this node's pods may be answered.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::destinations::Destination;
use super::facts::Facts;
use super::objects::{Client, PodNetwork, Policy, Stage};
use crate::cluster::objects::Key;

/// Which pods may be answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdicts {
    /// The addresses of those that may; none while no policy is about egress: then all may.
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
        for pod in clients() {
            let reason = self
                .objection(pod, &destinations)
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

    /// Why a pod may not be answered, if there is a reason.
    fn objection(&self, pod: &Client, destinations: &[Destination<'_>]) -> Option<String> {
        if pod.stage == Stage::Ending {
            return Some("it is being deleted, or its node does not answer".to_owned());
        }
        // Of a policy of which nothing can be read it isn't known where it is.
        if self.policies_in("").next().is_some() {
            return Some("there is a NetworkPolicy that can't be read".to_owned());
        }
        let mut names = Vec::new();
        let mut policies: Vec<&Policy> = Vec::new();
        for (key, policy) in self.policies_in(&pod.key.namespace) {
            let Some(policy) = policy else {
                return Some(format!(
                    "NetworkPolicy {key} can't be read, and may be about it"
                ));
            };
            if policy.pods.matches(&pod.labels) {
                names.push(key.to_string());
                policies.push(policy);
            }
        }
        if policies.is_empty() {
            return None;
        }
        let names = names.join(", ");
        if destinations.is_empty() {
            return Some(format!(
                "NetworkPolicy {names} restricts whom it may ask, and it isn't known where its questions go"
            ));
        }
        let forbidden = destinations.iter().find(|destination| {
            let mut policies = policies.iter();
            !policies.any(|policy| destination.is_allowed_by(self, policy))
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
