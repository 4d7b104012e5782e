//! What ingress policies say at the servers of the cluster's DNS.
//!
//! The policies about a server depend on no client, so they are gathered once, as [`Gate`]s, for all
//! clients. A cluster whose policies leave the servers open to every pod has no gates.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::destinations::{Destination, Endpoint};
use super::facts::Facts;
use super::objects::{Client, Peer, Peers, Policy, Rule};
use crate::cluster::objects::Key;

/// Ingress policies that a question must pass to reach one place.
#[derive(Debug)]
pub(super) struct Gate<'a> {
    /// Where the question arrives.
    address: SocketAddr,
    closed_by: Closed<'a>,
}

/// The policies of a gate.
#[derive(Debug)]
enum Closed<'a> {
    /// These select the server: one of them must admit the client at the server's port.
    Selecting {
        policies: Vec<&'a Policy>,
        endpoint: &'a Endpoint<'a>,
    },
    /// Any of these may be the only one that selects the server, which is no known pod: each of them
    /// must admit the client at every port.
    Maybe(Vec<&'a Policy>),
    /// This policy can't be read, so it may select the server and admit nobody.
    Unreadable(&'a Key),
}

impl<'a> Gate<'a> {
    /// The gates on the way to these destinations.
    pub(super) fn all(facts: &'a Facts, destinations: &'a [Destination<'a>]) -> Vec<Gate<'a>> {
        let mut gates = Vec::new();
        for destination in destinations {
            match destination {
                Destination::Endpoint(endpoint) => gates.extend(Gate::at(facts, endpoint)),
                Destination::Node(address) => gates.extend(Gate::at_node(facts, *address)),
                Destination::Unknown(address) => {
                    gates.extend(Gate::before_unknown(facts, *address));
                }
                // Its endpoints are destinations too.
                Destination::Service { .. } => {}
            }
        }
        gates
    }

    /// The gates before an endpoint: one for each pod that it may be.
    fn at(facts: &'a Facts, endpoint: &'a Endpoint<'a>) -> Vec<Gate<'a>> {
        if !endpoint.is_known_pod() {
            return Gate::before_unknown(facts, endpoint.address)
                .into_iter()
                .collect();
        }
        let pods = endpoint.pods.iter();
        pods.filter_map(|pod| Gate::of_pod(facts, endpoint, pod))
            .collect()
    }

    fn of_pod(facts: &'a Facts, endpoint: &'a Endpoint<'a>, pod: &Client) -> Option<Gate<'a>> {
        let gate = |closed_by| {
            Some(Gate {
                address: endpoint.address,
                closed_by,
            })
        };
        // A policy whose metadata can't be read may be in any namespace.
        let in_namespace = facts.policies_in(&pod.key.namespace);
        let mut policies = Vec::new();
        for (key, policy) in facts.policies_in("").chain(in_namespace) {
            let Some(policy) = policy else {
                return gate(Closed::Unreadable(key));
            };
            if policy.ingress.is_some() && policy.pods.matches(&pod.labels) {
                policies.push(policy);
            }
        }
        let is_open = |policy: &&Policy| {
            let mut rules = policy.ingress.iter().flatten();
            rules.any(|rule| rule.peers == Peers::All && endpoint.has_port(rule))
        };
        if policies.is_empty() || policies.iter().any(is_open) {
            return None;
        }
        gate(Closed::Selecting { policies, endpoint })
    }

    /// The gate before an address of this node alone, which is that of a pod in the node's network, or of
    /// no pod.
    fn at_node(facts: &'a Facts, address: SocketAddr) -> Option<Gate<'a>> {
        let Some(pods) = facts.host_pods() else {
            return Gate::before_unknown(facts, address);
        };
        let pods: Vec<_> = pods.collect();
        Gate::before_any(facts, address, |key, policy| {
            let mut pods = pods.iter();
            pods.any(|pod| {
                let is_there = key.namespace.is_empty() || key.namespace == pod.key.namespace;
                is_there && policy.is_none_or(|policy| policy.pods.matches(&pod.labels))
            })
        })
    }

    /// The gate before an address of which nothing is known: it may be any pod's.
    fn before_unknown(facts: &'a Facts, address: SocketAddr) -> Option<Gate<'a>> {
        Gate::before_any(facts, address, |_, _| true)
    }

    /// The gate before a server that these policies may select.
    fn before_any(
        facts: &'a Facts,
        address: SocketAddr,
        mut may_select: impl FnMut(&Key, Option<&Policy>) -> bool,
    ) -> Option<Gate<'a>> {
        let is_open = |policy: &Policy| {
            let mut rules = policy.ingress.iter().flatten();
            rules.any(|rule| rule.peers == Peers::All && rule.ports.contain_all())
        };
        let mut policies = Vec::new();
        for (key, policy) in facts.policies() {
            if !may_select(key, policy) {
                continue;
            }
            let Some(policy) = policy else {
                let closed_by = Closed::Unreadable(key);
                return Some(Gate { address, closed_by });
            };
            if policy.ingress.is_some() && !is_open(policy) {
                policies.push(policy);
            }
        }
        (!policies.is_empty()).then_some(Gate {
            address,
            closed_by: Closed::Maybe(policies),
        })
    }

    /// Why a client can't be proven to pass, if it can't.
    pub(super) fn objection(&self, facts: &Facts, client: &Client) -> Option<String> {
        let address = self.address;
        match &self.closed_by {
            Closed::Unreadable(key) => Some(format!(
                "NetworkPolicy {key} can't be read, and may restrict who asks {address}"
            )),
            Closed::Maybe(policies) => {
                let mut policies = policies.iter();
                let policy = policies.find(|policy| {
                    let is_admitted = |rule: &Rule| {
                        rule.ports.contain_all() && admits(facts, policy, rule, client, address)
                    };
                    !policy.ingress.iter().flatten().any(is_admitted)
                })?;
                Some(format!(
                    "NetworkPolicy {} may restrict who asks {address}, which is no known pod, and does not provably admit it there over UDP",
                    policy.key
                ))
            }
            Closed::Selecting { policies, endpoint } => {
                let is_admitted = |policy: &&Policy| {
                    let mut rules = policy.ingress.iter().flatten();
                    rules.any(|rule| {
                        endpoint.has_port(rule) && admits(facts, policy, rule, client, address)
                    })
                };
                if policies.iter().any(is_admitted) {
                    return None;
                }
                let names: Vec<_> = policies
                    .iter()
                    .map(|policy| policy.key.to_string())
                    .collect();
                let does = match names.len() {
                    1 => "does",
                    _ => "do",
                };
                Some(format!(
                    "NetworkPolicy {} {does} not provably admit it at {address} over UDP",
                    names.join(", ")
                ))
            }
        }
    }
}

/// Whether a rule surely has this client among its peers, when the client asks this address.
fn admits(
    facts: &Facts,
    policy: &Policy,
    rule: &Rule,
    client: &Client,
    address: SocketAddr,
) -> bool {
    let Peers::Some(peers) = &rule.peers else {
        return true;
    };
    peers.iter().any(|peer| match peer {
        Peer::Pods { namespaces, pods } => {
            let is_in_namespace = match namespaces {
                None => client.key.namespace == policy.key.namespace,
                Some(namespaces) => facts.selects_namespace(namespaces, &client.key.namespace),
            };
            is_in_namespace && pods.matches(&client.labels)
        }
        // What source address the server's node sees is not known: it may be translated on the way.
        Peer::Block { network, except } => except.is_empty() && has_all(network, address.ip()),
    })
}

/// Whether a network has all addresses of the family of this one.
fn has_all(network: &IpNet, address: IpAddr) -> bool {
    network.prefix_len() == 0 && network.contains(&address)
}
