//! Policies of other kinds than NetworkPolicy.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value;

use super::cluster_policy::ClusterPolicy;
use super::kinds::{PolicyKind, Reach};
use crate::objects::{ObjectError, ObjectKey, Problem};

/// The most objects that a kind may have. Once a kind has had more, no pod is answered until a list
/// of the kind returns at most this many, and all of them are stored. The limit bounds the agent's
/// memory.
pub(super) const MAX_OBJECTS: usize = 10_000;

/// The most objects of one kind that are stored. A new list adds its objects before it removes old
/// ones, so this is twice [`MAX_OBJECTS`].
const MAX_STORED_OBJECTS: usize = 2 * MAX_OBJECTS;

/// The most memory that the rules of one kind may take, in bytes. The same rule holds beyond it as
/// beyond [`MAX_OBJECTS`].
pub(super) const MAX_RULES_MEMORY: usize = 32 << 20;

/// A policy of another kind than NetworkPolicy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtherPolicy {
    /// The policy's kind.
    pub kind: PolicyKind,
    /// Namespace and name. The namespace is empty if the kind is cluster-scoped.
    pub key: ObjectKey,
    /// What the policy decides, as far as it is known.
    pub(super) effect: PolicyEffect,
}

/// What is known about the decisions of a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PolicyEffect {
    /// The policy's rules.
    Rules(Arc<ClusterPolicy>),
    /// Which connections the policy may restrict. Its rules aren't evaluated.
    Possible(Reach),
    /// The policy may restrict any connection, because it can't be read for this reason.
    Unreadable(Box<str>),
}

/// The policies of one kind.
#[derive(Clone, Debug, Default)]
pub(super) struct OtherPolicies {
    pub(super) objects: BTreeMap<ObjectKey, PolicyEffect>,
    /// The memory of their rules in bytes.
    memory: usize,
    pub(super) completeness: ListCompleteness,
}

/// Whether all objects of a kind are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum ListCompleteness {
    /// The kind has not been listed yet.
    #[default]
    Unlisted,
    /// All objects are stored.
    Complete,
    /// The last list had more objects than [`MAX_OBJECTS`] or more memory than
    /// [`MAX_RULES_MEMORY`], or more than could be stored while the previous objects were kept, or
    /// there has been more since.
    Exceeded,
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
        let effect = if kind.is_evaluated() {
            match ClusterPolicy::from_object(kind.name(), &key, object) {
                Ok(policy) => PolicyEffect::Rules(Arc::new(policy)),
                Err(reason) => PolicyEffect::Unreadable(reason.into()),
            }
        } else {
            PolicyEffect::Possible(kind.reach(object))
        };
        Ok(OtherPolicy { kind, key, effect })
    }

    /// Whether a selector for clients needs the labels of Namespaces, besides their names.
    #[must_use]
    pub fn needs_namespaces(&self) -> bool {
        match &self.effect {
            PolicyEffect::Rules(policy) => policy.needs_namespaces(),
            PolicyEffect::Possible(_) | PolicyEffect::Unreadable(_) => false,
        }
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

    /// The objects of a namespace.
    pub(super) fn in_namespace(
        &self,
        namespace: &str,
    ) -> impl Iterator<Item = (&ObjectKey, &PolicyEffect)> {
        let objects = self.objects.range(ObjectKey::first_in(namespace)..);
        objects.take_while(move |(key, _)| key.is_in(namespace))
    }

    /// Adds or replaces an object. Returns whether the possible restrictions changed.
    pub(super) fn insert(&mut self, key: ObjectKey, effect: PolicyEffect) -> bool {
        let before = self.objects.get(&key);
        let memory = self.memory + effect.memory() - before.map_or(0, PolicyEffect::memory);
        let has_no_room = self.objects.len() >= MAX_STORED_OBJECTS && before.is_none()
            || memory > 2 * MAX_RULES_MEMORY;
        if has_no_room {
            // The stored object is outdated.
            self.remove(&key);
            return self.mark_exceeded();
        }
        // A new object that restricts nothing changes nothing.
        let has_changed = *before.unwrap_or(&PolicyEffect::NOTHING) != effect;
        self.objects.insert(key, effect);
        self.memory = memory;
        let is_exceeded = self.objects.len() > MAX_OBJECTS || memory > MAX_RULES_MEMORY;
        let is_newly_exceeded = is_exceeded && self.mark_exceeded();
        is_newly_exceeded || has_changed
    }

    /// Removes an object. Returns whether the possible restrictions changed.
    pub(super) fn remove(&mut self, key: &ObjectKey) -> bool {
        let Some(effect) = self.objects.remove(key) else {
            return false;
        };
        self.memory -= effect.memory();
        effect != PolicyEffect::NOTHING
    }

    /// Ends a list that returned the objects in `listed`. If the list returned more than
    /// [`MAX_OBJECTS`] objects, `listed` may hold only [`MAX_OBJECTS`] + 1 of them. Returns whether
    /// this removed objects or changed `completeness`.
    pub(super) fn retain_listed(&mut self, listed: &BTreeSet<ObjectKey>) -> bool {
        let before = (self.objects.len(), self.completeness);
        self.objects.retain(|key, _| listed.contains(key));
        self.memory = self.objects.values().map(PolicyEffect::memory).sum();
        // Every stored object was listed, so equal counts mean that none is missing.
        let is_complete = listed.len() <= MAX_OBJECTS
            && self.objects.len() == listed.len()
            && self.memory <= MAX_RULES_MEMORY;
        self.completeness = if is_complete {
            ListCompleteness::Complete
        } else {
            ListCompleteness::Exceeded
        };
        before != (self.objects.len(), self.completeness)
    }

    /// Returns whether the limit wasn't exceeded before.
    fn mark_exceeded(&mut self) -> bool {
        let before = std::mem::replace(&mut self.completeness, ListCompleteness::Exceeded);
        before != ListCompleteness::Exceeded
    }
}

impl PolicyEffect {
    /// The policy restricts nothing.
    const NOTHING: PolicyEffect = PolicyEffect::Possible(Reach::Nothing);

    /// Which connections the policy may restrict in ways that aren't known.
    pub(super) fn possible_reach(&self) -> Reach {
        match self {
            PolicyEffect::Rules(_) => Reach::Nothing,
            PolicyEffect::Possible(reach) => *reach,
            PolicyEffect::Unreadable(_) => Reach::Both,
        }
    }

    /// The memory of the rules in bytes, about.
    fn memory(&self) -> usize {
        match self {
            PolicyEffect::Rules(policy) => policy.memory(),
            PolicyEffect::Possible(_) => 0,
            PolicyEffect::Unreadable(reason) => reason.len(),
        }
    }
}
