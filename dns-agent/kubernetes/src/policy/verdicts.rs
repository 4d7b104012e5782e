//! Which of this node's pods may be answered.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::destinations::Servers;
use super::facts::Facts;
use super::known_objections::{JudgedPod, KnownObjections};
use super::objects::{PolicyPod, Stage};
use super::possible_restrictions::PossibleRestrictions;
use crate::objects::ObjectKey;

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

/// Judges pods, and keeps what it found: pods are compared with policies again only after a change
/// that may concern them.
#[derive(Debug, Default)]
pub struct ClientJudge {
    known: KnownObjections,
}

impl ClientJudge {
    /// Judges which of this node's pods may be answered when they query the served addresses. No
    /// other judge may judge these facts.
    pub fn judge(&mut self, facts: &mut Facts, served: &[SocketAddr]) -> ClientVerdicts {
        self.known.forget(&facts.take_changed_namespaces());
        if !facts.may_restrict() {
            return ClientVerdicts::default();
        }
        let facts: &Facts = facts;
        let servers = Servers::find(facts, served);
        let restrictions = PossibleRestrictions::find(facts, &servers);
        let may_object = self.known.update_servers(facts, servers)
            || facts.has_egress_policy()
            || facts.cluster_policies().any(|policy| policy.can_deny())
            || restrictions.can_restrict_pods(facts);
        if !may_object {
            return ClientVerdicts::default();
        }
        let judged: Vec<&JudgedPod> = self.known.judge_clients(facts).collect();
        let mut owners: BTreeMap<IpAddr, Vec<&ObjectKey>> = BTreeMap::new();
        for JudgedPod { pod, .. } in &judged {
            for address in &pod.addresses {
                owners.entry(*address).or_default().push(&pod.key);
            }
        }
        let mut permitted = BTreeSet::new();
        let mut left_out = Vec::new();
        let in_namespaces =
            judged.chunk_by(|one, other| one.pod.key.namespace == other.pod.key.namespace);
        for judged in in_namespaces {
            let restriction = restrictions.find_objection(facts, &judged[0].pod.key.namespace);
            for JudgedPod { pod, objection } in judged {
                let reason = describe_ending(pod)
                    .or_else(|| restriction.clone())
                    .or_else(|| objection.as_ref().map(ToString::to_string))
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
        }
        ClientVerdicts {
            permitted: Some(permitted),
            left_out,
        }
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
