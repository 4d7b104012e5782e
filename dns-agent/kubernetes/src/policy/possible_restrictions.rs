//! Finds the pods that aren't answered because of policies whose rules aren't evaluated, or can't
//! be read.

use super::destinations::Servers;
use super::facts::Facts;
use super::kinds::{PolicyKind, Reach};
use super::other_policies::{
    ListCompleteness, MAX_OBJECTS, MAX_RULES_MEMORY, OtherPolicies, PolicyEffect,
};
use crate::objects::ObjectKey;

/// The pods that policies with unknown rules may keep from the cluster's DNS.
#[derive(Debug)]
pub(super) struct PossibleRestrictions {
    /// Why no pod is answered. `None`: the policies in a pod's namespace decide.
    all_pods: Option<String>,
    /// Why the servers' egress may be restricted. `None`: none of these policies can restrict it.
    pub(super) server_egress: Option<String>,
}

impl PossibleRestrictions {
    /// Finds the pods that policies with unknown rules may keep from these servers.
    pub(super) fn find(facts: &Facts, servers: &Servers) -> PossibleRestrictions {
        // An object may restrict all pods if a server may be in its namespace.
        let find_reason = |pods: &str, may_restrict: fn(Reach) -> bool| {
            let mut kinds = facts.other_policies();
            kinds.find_map(|(kind, others)| {
                describe_incompleteness(*kind, others.completeness).or_else(|| {
                    let (key, effect) =
                        find_object_about_servers(facts, servers, (*kind, others), may_restrict)?;
                    Some(describe_restriction(*kind, key, effect, pods))
                })
            })
        };
        PossibleRestrictions {
            all_pods: find_reason("this pod", |reach| reach != Reach::Nothing),
            server_egress: find_reason("the egress of the cluster's DNS", |reach| {
                reach == Reach::Both
            }),
        }
    }

    /// Whether any pod may be restricted.
    pub(super) fn can_restrict_pods(&self, facts: &Facts) -> bool {
        let mut kinds = facts.other_policies();
        self.all_pods.is_some()
            || kinds.any(|(kind, others)| {
                let mut objects = others.objects.iter();
                objects.any(|(key, effect)| {
                    effect.possible_reach() == Reach::Both
                        && !repeats_network_policy(facts, *kind, key)
                })
            })
    }

    /// Why pods of a namespace aren't answered. `None`: no policy with unknown rules can restrict
    /// them.
    pub(super) fn find_objection(&self, facts: &Facts, namespace: &str) -> Option<String> {
        if let Some(reason) = &self.all_pods {
            return Some(reason.clone());
        }
        let mut kinds = facts.other_policies();
        kinds.find_map(|(kind, others)| {
            let mut objects = others.in_namespace(namespace);
            let (key, effect) = objects.find(|(key, effect)| {
                effect.possible_reach() == Reach::Both && !repeats_network_policy(facts, *kind, key)
            })?;
            Some(describe_restriction(*kind, key, effect, "this pod"))
        })
    }
}

/// Why no pod is answered if not all objects of a kind are stored.
fn describe_incompleteness(kind: PolicyKind, completeness: ListCompleteness) -> Option<String> {
    let resource = kind.resource();
    match completeness {
        ListCompleteness::Complete => None,
        ListCompleteness::Unlisted => Some(format!(
            "the API server serves {resource}, which have not been listed yet"
        )),
        ListCompleteness::Exceeded => Some(format!(
            "there are, or have been since the last list, more than {MAX_OBJECTS} {resource}, or \
             more than {} MiB of rules in them",
            MAX_RULES_MEMORY >> 20
        )),
    }
}

/// An object of a kind that has no namespace, or one in which a server may be. `may_restrict`
/// decides by the reach of the object.
fn find_object_about_servers<'a>(
    facts: &Facts,
    servers: &Servers,
    (kind, others): (PolicyKind, &'a OtherPolicies),
    may_restrict: fn(Reach) -> bool,
) -> Option<(&'a ObjectKey, &'a PolicyEffect)> {
    let may_restrict = |(key, effect): &(&ObjectKey, &PolicyEffect)| {
        may_restrict(effect.possible_reach()) && !repeats_network_policy(facts, kind, key)
    };
    match &servers.namespaces {
        None => others.objects.iter().find(may_restrict),
        Some(namespaces) => {
            let namespaces = namespaces.iter().map(|namespace| &**namespace);
            let mut namespaces = std::iter::once("").chain(namespaces);
            namespaces.find_map(|namespace| others.in_namespace(namespace).find(may_restrict))
        }
    }
}

/// Whether an object is Calico's copy of a Kubernetes NetworkPolicy, which is evaluated. Calico's
/// API server names the copy `knp.default.NAME`.
fn repeats_network_policy(facts: &Facts, kind: PolicyKind, key: &ObjectKey) -> bool {
    let name = key.name.strip_prefix("knp.default.");
    kind.group() == "projectcalico.org"
        && name.is_some_and(|name| {
            let key = ObjectKey::new(key.namespace.clone(), name);
            facts.policies().contains(&key)
        })
}

/// Says that this object may restrict these pods, and why that isn't known.
fn describe_restriction(
    kind: PolicyKind,
    key: &ObjectKey,
    effect: &PolicyEffect,
    pods: &str,
) -> String {
    let name = match &*key.namespace {
        "" => key.name.to_string(),
        _ => key.to_string(),
    };
    let reason = match effect {
        PolicyEffect::Unreadable(reason) => format!("it can't be read ({reason})"),
        PolicyEffect::Possible(_) | PolicyEffect::Rules(_) => {
            "Zerohop doesn't evaluate this kind".to_owned()
        }
    };
    let (kind, group) = (kind.name(), kind.group());
    format!("{kind} {name} ({group}) may restrict {pods}, and {reason}")
}
