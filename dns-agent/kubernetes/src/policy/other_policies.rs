//! Policies of kinds that Zerohop doesn't evaluate.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::kinds::{PolicyKind, Reach};
use crate::objects::{ObjectError, ObjectKey, Problem};

/// The most objects that a kind may have. Once a kind has had more, no pod is answered until a list
/// of the kind returns at most this many, and all of them are stored. The limit bounds the agent's
/// memory.
pub(super) const MAX_OBJECTS: usize = 10_000;

/// The most objects of one kind that are stored. A new list adds its objects before it removes old
/// ones, so this is twice [`MAX_OBJECTS`].
const MAX_STORED_OBJECTS: usize = 2 * MAX_OBJECTS;

/// A policy of a kind that Zerohop doesn't evaluate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtherPolicy {
    /// The policy's kind.
    pub kind: PolicyKind,
    /// Namespace and name. The namespace is empty if the kind is cluster-scoped.
    pub key: ObjectKey,
    /// Which connections the policy may restrict.
    pub reach: Reach,
}

/// The policies of one unevaluated kind.
#[derive(Clone, Debug, Default)]
pub(super) struct OtherPolicies {
    /// Which connections each object may restrict.
    pub(super) objects: BTreeMap<ObjectKey, Reach>,
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
    /// The last list had more than [`MAX_OBJECTS`] objects, or more than could be stored while the
    /// previous objects were kept, or there have been more than [`MAX_OBJECTS`] since.
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

    /// The objects of a namespace.
    pub(super) fn in_namespace(
        &self,
        namespace: &str,
    ) -> impl Iterator<Item = (&ObjectKey, &Reach)> {
        let objects = self.objects.range(ObjectKey::first_in(namespace)..);
        objects.take_while(move |(key, _)| key.is_in(namespace))
    }

    /// Adds or replaces an object. Returns whether the possible restrictions changed.
    pub(super) fn insert(&mut self, key: ObjectKey, reach: Reach) -> bool {
        if self.objects.len() >= MAX_STORED_OBJECTS && !self.objects.contains_key(&key) {
            return self.mark_exceeded();
        }
        // A new object that restricts nothing changes nothing.
        let before = self.objects.insert(key, reach).unwrap_or(Reach::Nothing);
        let is_newly_exceeded = self.objects.len() > MAX_OBJECTS && self.mark_exceeded();
        is_newly_exceeded || before != reach
    }

    /// Removes an object. Returns whether the possible restrictions changed.
    pub(super) fn remove(&mut self, key: &ObjectKey) -> bool {
        let reach = self.objects.remove(key);
        reach.is_some_and(|reach| reach != Reach::Nothing)
    }

    /// Ends a list that returned the objects in `listed`. If the list returned more than
    /// [`MAX_OBJECTS`] objects, `listed` may hold only [`MAX_OBJECTS`] + 1 of them. Returns whether
    /// this removed objects or changed `completeness`.
    pub(super) fn retain_listed(&mut self, listed: &BTreeSet<ObjectKey>) -> bool {
        let before = (self.objects.len(), self.completeness);
        self.objects.retain(|key, _| listed.contains(key));
        // Every stored object was listed, so equal counts mean that none is missing.
        let is_complete = listed.len() <= MAX_OBJECTS && self.objects.len() == listed.len();
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
