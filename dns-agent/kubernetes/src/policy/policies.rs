//! Stores NetworkPolicies, within a limited memory.
//!
//! Policies belong to tenants, so their memory has two limits: one for each namespace, and one for
//! all. A namespace that exceeds the first limit, and the largest namespace if all exceed the
//! second, is *oversized*: its policies are forgotten except for their names, and its pods are not
//! answered. So a namespace with few policies is never oversized because of another one.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use super::objects::Policy;
use crate::objects::ObjectKey;

/// The most memory that the policies of one namespace may take, in bytes: about 70,000 `ipBlock`s.
/// The time to evaluate them is in proportion.
pub(super) const MAX_NAMESPACE_MEMORY: usize = 4 << 20;

/// The most memory that all policies may take, in bytes.
pub(super) const MAX_MEMORY: usize = 32 << 20;

/// The most names of policies in one reason. It goes to the log, and to `status` for each pod.
const MAX_NAMES: usize = 5;

/// The NetworkPolicies of the cluster.
#[derive(Clone, Debug, Default)]
pub(super) struct Policies {
    by_key: BTreeMap<ObjectKey, Result<Arc<Policy>, UnknownRules>>,
    /// The memory of each namespace's policies in bytes, if it is not 0.
    memory: BTreeMap<Arc<str>, usize>,
    /// The sum of `memory`.
    total_memory: usize,
    /// The namespaces whose policies have been forgotten. They stay forgotten until all of them are
    /// deleted, or listed again.
    oversized: BTreeSet<Arc<str>>,
}

/// Why the rules of a policy aren't known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UnknownRules {
    /// The policy can't be read.
    Unreadable,
    /// The policy's namespace is oversized. Only the directions are known that the policy
    /// restricts.
    Oversized { egress: bool, ingress: bool },
}

impl UnknownRules {
    fn forget(policy: &Policy) -> UnknownRules {
        UnknownRules::Oversized {
            egress: policy.egress.is_some(),
            ingress: policy.ingress.is_some(),
        }
    }

    /// Whether the policy may restrict the egress of pods in its namespace.
    pub(super) fn may_restrict_egress(self) -> bool {
        !matches!(self, UnknownRules::Oversized { egress: false, .. })
    }

    /// Whether the policy may restrict the ingress of pods in its namespace.
    pub(super) fn may_restrict_ingress(self) -> bool {
        !matches!(self, UnknownRules::Oversized { ingress: false, .. })
    }
}

impl Policies {
    pub(super) fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    pub(super) fn contains(&self, key: &ObjectKey) -> bool {
        self.by_key.contains_key(key)
    }

    /// All policies.
    pub(super) fn iter(
        &self,
    ) -> impl Iterator<Item = (&ObjectKey, Result<&Arc<Policy>, UnknownRules>)> {
        let policies = self.by_key.iter();
        policies.map(|(key, policy)| (key, policy.as_ref().map_err(|unknown| *unknown)))
    }

    /// The policies of a namespace.
    pub(super) fn in_namespace(
        &self,
        namespace: &str,
    ) -> impl Iterator<Item = (&ObjectKey, Result<&Arc<Policy>, UnknownRules>)> {
        let policies = self.by_key.range(ObjectKey::first_in(namespace)..);
        policies
            .take_while(move |(key, _)| key.is_in(namespace))
            .map(|(key, policy)| (key, policy.as_ref().map_err(|unknown| *unknown)))
    }

    /// Starts a list. Its policies are stored again, also those of namespaces that are oversized.
    pub(super) fn start_list(&mut self) {
        self.oversized.clear();
    }

    /// Adds or replaces a policy. Returns the namespaces whose policies have changed.
    pub(super) fn insert(&mut self, policy: Policy) -> BTreeSet<Arc<str>> {
        let mut changed = BTreeSet::new();
        let key = policy.key.clone();
        let is_oversized = self.oversized.contains(&key.namespace);
        let policy = match is_oversized {
            true => Err(UnknownRules::forget(&policy)),
            false => Ok(Arc::new(policy)),
        };
        if self.by_key.get(&key) == Some(&policy) {
            return changed;
        }
        let namespace = key.namespace.clone();
        self.replace(key, policy);
        if self.memory.get(&namespace) > Some(&MAX_NAMESPACE_MEMORY) {
            self.forget_namespace(&namespace);
        }
        changed.insert(namespace);
        while self.total_memory > MAX_MEMORY
            && let Some((largest, _)) = self.memory.iter().max_by_key(|(_, memory)| **memory)
        {
            let largest = largest.clone();
            self.forget_namespace(&largest);
            changed.insert(largest);
        }
        changed
    }

    /// Ends a list: keeps only the policies in `listed`. Returns whether any were removed.
    pub(super) fn retain_listed(&mut self, listed: &BTreeSet<ObjectKey>) -> bool {
        let keys = self.by_key.keys();
        let removed: Vec<ObjectKey> = keys.filter(|key| !listed.contains(key)).cloned().collect();
        for key in &removed {
            self.remove(key);
        }
        !removed.is_empty()
    }

    /// Records that a policy exists but can't be read. Returns whether that is new.
    pub(super) fn mark_unreadable(&mut self, key: ObjectKey) -> bool {
        let unreadable = Err(UnknownRules::Unreadable);
        if self.by_key.get(&key) == Some(&unreadable) {
            return false;
        }
        self.replace(key, unreadable);
        true
    }

    /// Returns whether there was such a policy.
    pub(super) fn remove(&mut self, key: &ObjectKey) -> bool {
        let Some(before) = self.by_key.remove(key) else {
            return false;
        };
        self.count_memory(key.namespace.clone(), Some(before), 0);
        if self.in_namespace(&key.namespace).next().is_none() {
            self.oversized.remove(&key.namespace);
        }
        true
    }

    /// Forgets the rules of a namespace's policies.
    fn forget_namespace(&mut self, namespace: &Arc<str>) {
        let policies = self.by_key.range_mut(ObjectKey::first_in(namespace)..);
        for (_, policy) in policies.take_while(|(key, _)| key.is_in(namespace)) {
            if let Ok(known) = policy {
                *policy = Err(UnknownRules::forget(known));
            }
        }
        let memory = self.memory.remove(namespace).unwrap_or_default();
        self.total_memory -= memory;
        self.oversized.insert(namespace.clone());
    }

    fn replace(&mut self, key: ObjectKey, policy: Result<Arc<Policy>, UnknownRules>) {
        let namespace = key.namespace.clone();
        let added = policy.as_ref().map_or(0, |policy| policy.memory());
        let before = self.by_key.insert(key, policy);
        self.count_memory(namespace, before, added);
    }

    /// Counts the memory of a policy in the place of another one.
    fn count_memory(
        &mut self,
        namespace: Arc<str>,
        before: Option<Result<Arc<Policy>, UnknownRules>>,
        added: usize,
    ) {
        let before = before.and_then(Result::ok);
        let removed = before.map_or(0, |policy| policy.memory());
        self.total_memory = self.total_memory + added - removed;
        let memory = self.memory.get(&namespace).copied().unwrap_or_default();
        match memory + added - removed {
            0 => self.memory.remove(&namespace),
            memory => self.memory.insert(namespace, memory),
        };
    }
}

impl fmt::Display for UnknownRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UnknownRules::Unreadable => f.write_str("can't be read"),
            UnknownRules::Oversized { .. } => write!(
                f,
                "isn't evaluated, because its namespace has too many policies (at most {} MiB in a \
                 namespace, and {} MiB in all)",
                MAX_NAMESPACE_MEMORY >> 20,
                MAX_MEMORY >> 20
            ),
        }
    }
}

/// The names of NetworkPolicies as a subject, followed by a verb: `verb[0]` after one name,
/// `verb[1]` after several.
pub(super) fn join_names<'a>(
    keys: impl ExactSizeIterator<Item = &'a ObjectKey>,
    verb: [&str; 2],
) -> String {
    let count = keys.len();
    let names: Vec<String> = keys.take(MAX_NAMES).map(ToString::to_string).collect();
    let mut names = names.join(", ");
    if count > MAX_NAMES {
        names += &format!(" and {} more", count - MAX_NAMES);
    }
    let verb = verb[usize::from(count > 1)];
    format!("NetworkPolicy {names} {verb}")
}
