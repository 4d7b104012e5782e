//! Finds the pods that aren't answered because of policies that Zerohop doesn't evaluate.

use std::collections::BTreeMap;

use super::destinations::Destination;
use super::facts::Facts;
use super::kinds::{PolicyKind, Reach};
use super::other_policies::{ListCompleteness, MAX_OBJECTS};
use crate::objects::ObjectKey;

/// The pods that policies of unevaluated kinds may keep from the cluster's DNS.
#[derive(Debug, Default)]
pub(super) struct PossibleRestrictions<'a> {
    /// Why no pod is answered. `None`: `namespaces` decides.
    all_pods: Option<String>,
    /// Namespaces whose egress may be restricted, each with one object that may restrict it.
    namespaces: BTreeMap<&'a str, (PolicyKind, &'a ObjectKey)>,
}

impl<'a> PossibleRestrictions<'a> {
    /// Finds the pods that unevaluated policies may keep from these destinations.
    pub(super) fn find(
        facts: &'a Facts,
        destinations: &[Destination<'_>],
    ) -> PossibleRestrictions<'a> {
        let servers = Destination::server_namespaces(facts, destinations);
        let mut restrictions = PossibleRestrictions::default();
        for (kind, others) in facts.other_policies() {
            let resource = kind.resource();
            match others.completeness {
                ListCompleteness::Unlisted => {
                    return PossibleRestrictions::on_all_pods(format!(
                        "the API server serves {resource}, which have not been listed yet"
                    ));
                }
                ListCompleteness::Exceeded => {
                    return PossibleRestrictions::on_all_pods(format!(
                        "there are, or have been since the last list, more than {MAX_OBJECTS} \
                         {resource}, which Zerohop doesn't evaluate"
                    ));
                }
                ListCompleteness::Complete => {}
            }
            for (key, reach) in &others.objects {
                if *reach == Reach::Nothing {
                    continue;
                }
                if repeats_network_policy(facts, *kind, key) {
                    continue;
                }
                let is_at_server = match &servers {
                    None => true,
                    Some(namespaces) => namespaces.contains(&*key.namespace),
                };
                if key.namespace.is_empty() || is_at_server {
                    return PossibleRestrictions::on_all_pods(describe_restriction(*kind, key));
                }
                if *reach == Reach::Both {
                    let first = restrictions.namespaces.entry(&key.namespace);
                    first.or_insert((*kind, key));
                }
            }
        }
        restrictions
    }

    /// Whether any pod may be restricted.
    pub(super) fn can_restrict_pods(&self) -> bool {
        self.all_pods.is_some() || !self.namespaces.is_empty()
    }

    /// Why pods of a namespace aren't answered. `None`: no unevaluated policy can restrict them.
    pub(super) fn find_objection(&self, namespace: &str) -> Option<String> {
        if let Some(reason) = &self.all_pods {
            return Some(reason.clone());
        }
        let (kind, key) = self.namespaces.get(namespace)?;
        Some(describe_restriction(*kind, key))
    }

    fn on_all_pods(reason: String) -> PossibleRestrictions<'a> {
        PossibleRestrictions {
            all_pods: Some(reason),
            ..PossibleRestrictions::default()
        }
    }
}

/// Whether an object is Calico's copy of a Kubernetes NetworkPolicy, which is evaluated. Calico's
/// API server names the copy `knp.default.NAME`.
fn repeats_network_policy(facts: &Facts, kind: PolicyKind, key: &ObjectKey) -> bool {
    let name = key.name.strip_prefix("knp.default.");
    kind.group() == "projectcalico.org"
        && name.is_some_and(|name| facts.has_policy(&ObjectKey::new(key.namespace.clone(), name)))
}

/// Why a pod isn't answered if this object may restrict it.
fn describe_restriction(kind: PolicyKind, key: &ObjectKey) -> String {
    let name = match &*key.namespace {
        "" => key.name.to_string(),
        _ => key.to_string(),
    };
    format!(
        "{} {name} ({}) may restrict this pod, and Zerohop doesn't evaluate this kind",
        kind.name(),
        kind.group()
    )
}
