//! Policies that are not evaluated: whom their presence keeps from being answered.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::destinations::Destination;
use super::facts::Facts;
use super::kinds::{PolicyKind, Reach};
use crate::cluster::objects::{Key, ObjectError, Problem};

/// So many objects of one kind are kept. While there are more, no pod is answered.
pub(super) const MAX_OBJECTS: usize = 10_000;

/// While a list goes on, those of before are kept beside those that it brings.
const MAX_KEPT: usize = 2 * MAX_OBJECTS;

/// An object of a kind that is not evaluated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtherPolicy {
    /// Its kind.
    pub kind: PolicyKind,
    /// Namespace and name; no namespace where its kind is the whole cluster's.
    pub key: Key,
    /// What it may restrict.
    pub reach: Reach,
}

/// The objects of one kind, which the API serves.
#[derive(Clone, Debug, Default)]
pub(super) struct Others {
    /// What each object may restrict.
    objects: BTreeMap<Key, Reach>,
    extent: Extent,
}

/// Whether all objects of a kind are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Extent {
    /// They have not been listed yet.
    #[default]
    Unlisted,
    /// They are.
    Complete,
    /// There were more than [`MAX_OBJECTS`] since the last list.
    Exceeded,
}

/// Whom policies that are not evaluated may restrict.
#[derive(Debug, Default)]
pub(super) struct Suspects<'a> {
    /// Why no pod may be answered, if that is so.
    everybody: Option<String>,
    /// Namespaces whose pods' own packets may be restricted, each with one object that may do so.
    namespaces: BTreeMap<&'a str, (PolicyKind, &'a Key)>,
}

impl OtherPolicy {
    /// An object of a kind, as the API or a file has it.
    ///
    /// # Errors
    /// When it has no name.
    pub fn of(kind: PolicyKind, object: &Value) -> Result<OtherPolicy, ObjectError> {
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
        let key = Key::new(text("namespace"), text("name"));
        if key.name.is_empty() {
            let (field, reason) = ("metadata.name".to_owned(), "is missing".to_owned());
            return Err(Problem::of(kind.name(), &key, field, reason));
        }
        let reach = kind.reach(object);
        Ok(OtherPolicy { kind, key, reach })
    }
}

impl Others {
    /// One whose objects are all known.
    pub(super) fn complete() -> Others {
        Others {
            extent: Extent::Complete,
            ..Others::default()
        }
    }

    /// An object is there. Says whether that changes anything.
    pub(super) fn insert(&mut self, key: Key, reach: Reach) -> bool {
        if self.objects.len() >= MAX_KEPT && !self.objects.contains_key(&key) {
            return self.exceed();
        }
        let before = self.objects.insert(key, reach).unwrap_or(Reach::Nothing);
        let is_too_many = self.objects.len() > MAX_OBJECTS && self.exceed();
        is_too_many || before != reach
    }

    /// An object is gone. Says whether that changes anything.
    pub(super) fn remove(&mut self, key: &Key) -> bool {
        let reach = self.objects.remove(key);
        reach.is_some_and(|reach| reach != Reach::Nothing)
    }

    /// A list has ended, which brought these, or the first of them. Says whether that changes anything.
    pub(super) fn listed(&mut self, listed: &BTreeSet<Key>) -> bool {
        let before = (self.objects.len(), self.extent);
        self.objects.retain(|key, _| listed.contains(key));
        // All that are kept were listed, so none is missing if they are as many.
        let is_complete = listed.len() <= MAX_OBJECTS && self.objects.len() == listed.len();
        self.extent = match is_complete {
            true => Extent::Complete,
            false => Extent::Exceeded,
        };
        before != (self.objects.len(), self.extent)
    }

    fn exceed(&mut self) -> bool {
        let before = std::mem::replace(&mut self.extent, Extent::Exceeded);
        before != Extent::Exceeded
    }
}

impl<'a> Suspects<'a> {
    /// Whom the policies may restrict that are not evaluated, on the way to these destinations.
    pub(super) fn of(facts: &'a Facts, destinations: &[Destination<'_>]) -> Suspects<'a> {
        let servers = Destination::namespaces(facts, destinations);
        let mut suspects = Suspects::default();
        for (kind, others) in facts.others() {
            let resource = kind.resource();
            match others.extent {
                Extent::Unlisted => {
                    return Suspects::everybody(format!(
                        "the API serves {resource}, and which there are is not known"
                    ));
                }
                Extent::Exceeded => {
                    return Suspects::everybody(format!(
                        "there are more than {MAX_OBJECTS} {resource}, which are not evaluated"
                    ));
                }
                Extent::Complete => {}
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
                    return Suspects::everybody(reason(*kind, key));
                }
                if *reach == Reach::Both {
                    let first = suspects.namespaces.entry(&key.namespace);
                    first.or_insert((*kind, key));
                }
            }
        }
        suspects
    }

    /// Whether they may restrict any pod.
    pub(super) fn restrict(&self) -> bool {
        self.everybody.is_some() || !self.namespaces.is_empty()
    }

    /// Why pods of a namespace may not be answered, if that is so.
    pub(super) fn objection(&self, namespace: &str) -> Option<String> {
        if let Some(reason) = &self.everybody {
            return Some(reason.clone());
        }
        let (kind, key) = self.namespaces.get(namespace)?;
        Some(reason(*kind, key))
    }

    fn everybody(reason: String) -> Suspects<'a> {
        Suspects {
            everybody: Some(reason),
            ..Suspects::default()
        }
    }
}

/// Whether an object is how Calico's API server shows a NetworkPolicy of Kubernetes, which is evaluated.
fn repeats_network_policy(facts: &Facts, kind: PolicyKind, key: &Key) -> bool {
    let name = key.name.strip_prefix("knp.default.");
    kind.group() == "projectcalico.org"
        && name.is_some_and(|name| facts.has_policy(&Key::new(key.namespace.clone(), name)))
}

/// Says that an object may restrict a pod.
fn reason(kind: PolicyKind, key: &Key) -> String {
    let name = match &*key.namespace {
        "" => key.name.to_string(),
        _ => key.to_string(),
    };
    format!(
        "{} {name} ({}) may restrict it, and is not evaluated",
        kind.name(),
        kind.group()
    )
}
