//! Which of this node's pods may be answered.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::destinations::Servers;
use super::facts::Facts;
use super::known_objections::{JudgedPod, KnownObjections};
use super::objects::{PolicyPod, Stage};
use super::ports::QueryProtocol;
use super::possible_restrictions::PossibleRestrictions;
use crate::objects::ObjectKey;

/// Which pods may be answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientVerdicts {
    /// The addresses of the pods whose queries over UDP may be answered. `None`: every pod may be
    /// answered, because no policy can keep a pod from the cluster's DNS over UDP.
    pub permitted: Option<BTreeSet<IpAddr>>,
    /// This node's pods whose queries over UDP may not be answered, ordered by namespace and name,
    /// except pods that can't be read, pods without addresses, and pods in the node's network.
    pub left_out: Vec<LeftOutPod>,
    /// The same as `permitted`, for TCP. If the Service of the cluster's DNS has no TCP port at a
    /// served number, its servers over TCP are unknown. Then only pods are permitted that no policy
    /// restricts, or whose policies allow every destination.
    pub permitted_tcp: Option<BTreeSet<IpAddr>>,
    /// The same as `left_out`, for TCP.
    pub left_out_tcp: Vec<LeftOutPod>,
    /// Why policies may restrict what the servers of the cluster's DNS may reach, over UDP or TCP,
    /// as a clause for people. If there is a reason, another resolver must not answer in place of
    /// these servers, because the other resolver might query a name server that policies keep from
    /// these servers. `None`: no policy about egress can apply to a server. A server that is not a
    /// known pod may be any pod.
    pub server_egress_restriction: Option<String>,
}

/// What is found out about the queries of one protocol. The fields are those of [`ClientVerdicts`].
#[derive(Default)]
struct ProtocolVerdicts {
    permitted: Option<BTreeSet<IpAddr>>,
    left_out: Vec<LeftOutPod>,
    server_egress_restriction: Option<String>,
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
    udp: KnownObjections,
    tcp: KnownObjections,
}

impl ClientJudge {
    /// Judges which of this node's pods may be answered when they query the served addresses. No
    /// other judge may judge these facts.
    pub fn judge(&mut self, facts: &mut Facts, served: &[SocketAddr]) -> ClientVerdicts {
        let changed = facts.take_changed_namespaces();
        self.udp.forget(&changed);
        self.tcp.forget(&changed);
        if !facts.may_restrict() {
            return ClientVerdicts::default();
        }
        let facts: &Facts = facts;
        let udp = ProtocolVerdicts::find(facts, served, QueryProtocol::Udp, &mut self.udp);
        let tcp = ProtocolVerdicts::find(facts, served, QueryProtocol::Tcp, &mut self.tcp);
        let restriction = udp.server_egress_restriction;
        ClientVerdicts {
            permitted: udp.permitted,
            left_out: udp.left_out,
            permitted_tcp: tcp.permitted,
            left_out_tcp: tcp.left_out,
            server_egress_restriction: restriction.or(tcp.server_egress_restriction),
        }
    }
}

impl ProtocolVerdicts {
    /// Judges this node's pods when they query the served addresses over a protocol. `known` are
    /// the objections of the last judgement about this protocol.
    fn find(
        facts: &Facts,
        served: &[SocketAddr],
        protocol: QueryProtocol,
        known: &mut KnownObjections,
    ) -> ProtocolVerdicts {
        let servers = Servers::find(facts, served, protocol);
        let restrictions = PossibleRestrictions::find(facts, &servers);
        let servers = known.update_servers(facts, servers);
        let server_egress_restriction = servers.egress_restriction.clone();
        let server_egress_restriction =
            server_egress_restriction.or_else(|| restrictions.server_egress.clone());
        let may_object = servers.have_network_policies()
            || facts.has_egress_policy()
            || facts
                .cluster_policies()
                .any(|policy| policy.can_deny(protocol))
            || restrictions.can_restrict_pods(facts);
        if !may_object {
            return ProtocolVerdicts {
                server_egress_restriction,
                ..ProtocolVerdicts::default()
            };
        }
        let judged: Vec<&JudgedPod> = known.judge_clients(facts).collect();
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
        ProtocolVerdicts {
            permitted: Some(permitted),
            left_out,
            server_egress_restriction,
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
