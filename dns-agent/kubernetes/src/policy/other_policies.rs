//! Policies that are not evaluated, and the pods that aren't answered because of them.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::destinations::Destination;
use super::facts::Facts;
use super::kinds::{PolicyKind, Reach};
use crate::objects::{ObjectError, ObjectKey, Problem};

/// How many objects of one kind are kept. While a kind has more, no pod is answered.
pub(super) const MAX_OBJECTS: usize = 10_000;

/// How many objects of one kind are kept during a list: the old ones beside the new ones.
const MAX_OBJECTS_WHILE_LISTING: usize = 2 * MAX_OBJECTS;

/// A policy of a kind that is not evaluated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtherPolicy {
    /// The policy's kind.
    pub kind: PolicyKind,
    /// Namespace and name. The namespace is empty if the kind is cluster-scoped.
    pub key: ObjectKey,
    /// Which connections the policy may restrict.
    pub reach: Reach,
}

/// The policies of one unevaluated kind that the API serves.
#[derive(Clone, Debug, Default)]
pub(super) struct OtherPolicies {
    /// Which connections each object may restrict.
    objects: BTreeMap<ObjectKey, Reach>,
    completeness: ListCompleteness,
}

/// Whether all objects of a kind are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum ListCompleteness {
    /// The kind has not been listed yet.
    #[default]
    Unlisted,
    /// All objects are kept.
    Complete,
    /// There were more than [`MAX_OBJECTS`] since the last list.
    Exceeded,
}

/// The pods that policies of unevaluated kinds may keep from the cluster's DNS.
#[derive(Debug, Default)]
pub(super) struct PossibleRestrictions<'a> {
    /// Why no pod at all is answered, if so.
    all_pods: Option<String>,
    /// Namespaces whose egress may be restricted, each with one object that may restrict it.
    namespaces: BTreeMap<&'a str, (PolicyKind, &'a ObjectKey)>,
}

impl OtherPolicy {
    /// Reads an object of a kind, in the form of the API.
    ///
    /// # Errors
    /// If the object has no name.
    pub fn from_object(kind: PolicyKind, object: &Value) -> Result<OtherPolicy, ObjectError> {
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
        let key = ObjectKey::new(text("namespace"), text("name"));
        if key.name.is_empty() {
            let (field, reason) = ("metadata.name".to_owned(), "is missing".to_owned());
            return Err(Problem::with_key(kind.name(), &key, field, reason));
        }
        let reach = kind.reach(object);
        Ok(OtherPolicy { kind, key, reach })
    }
}

impl OtherPolicies {
    /// An empty set that counts as completely listed.
    pub(super) fn new_complete() -> OtherPolicies {
        OtherPolicies {
            completeness: ListCompleteness::Complete,
            ..OtherPolicies::default()
        }
    }

    /// Adds or replaces an object. Returns whether anything changed.
    pub(super) fn insert(&mut self, key: ObjectKey, reach: Reach) -> bool {
        if self.objects.len() >= MAX_OBJECTS_WHILE_LISTING && !self.objects.contains_key(&key) {
            return self.mark_exceeded();
        }
        let before = self.objects.insert(key, reach).unwrap_or(Reach::Nothing);
        let is_too_many = self.objects.len() > MAX_OBJECTS && self.mark_exceeded();
        is_too_many || before != reach
    }

    /// Removes an object. Returns whether anything changed.
    pub(super) fn remove(&mut self, key: &ObjectKey) -> bool {
        let reach = self.objects.remove(key);
        reach.is_some_and(|reach| reach != Reach::Nothing)
    }

    /// Ends a list that returned these objects, or at least the first [`MAX_OBJECTS`] + 1 of them.
    /// Returns whether anything changed.
    pub(super) fn retain_listed(&mut self, listed: &BTreeSet<ObjectKey>) -> bool {
        let before = (self.objects.len(), self.completeness);
        self.objects.retain(|key, _| listed.contains(key));
        // Every kept object was listed, so equal counts mean that none is missing.
        let is_complete = listed.len() <= MAX_OBJECTS && self.objects.len() == listed.len();
        self.completeness = if is_complete {
            ListCompleteness::Complete
        } else {
            ListCompleteness::Exceeded
        };
        before != (self.objects.len(), self.completeness)
    }

    fn mark_exceeded(&mut self) -> bool {
        let before = std::mem::replace(&mut self.completeness, ListCompleteness::Exceeded);
        before != ListCompleteness::Exceeded
    }
}

impl<'a> PossibleRestrictions<'a> {
    /// Finds what unevaluated policies may restrict on the way to these destinations.
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
                        "the API serves {resource}, which have not been listed yet"
                    ));
                }
                ListCompleteness::Exceeded => {
                    return PossibleRestrictions::on_all_pods(format!(
                        "there are more than {MAX_OBJECTS} {resource}, which are not evaluated"
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
    pub(super) fn affect_any_pod(&self) -> bool {
        self.all_pods.is_some() || !self.namespaces.is_empty()
    }

    /// Why pods of a namespace aren't answered, if so.
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

/// The reason for a pod that an object may restrict.
fn describe_restriction(kind: PolicyKind, key: &ObjectKey) -> String {
    let name = match &*key.namespace {
        "" => key.name.to_string(),
        _ => key.to_string(),
    };
    format!(
        "{} {name} ({}) may restrict this pod, and is not evaluated",
        kind.name(),
        kind.group()
    )
}
