//! Stores NetworkPolicies, within a limited memory.
//!
//! Policies belong to tenants, so their memory has two limits: one for each namespace, and one for
//! all. A namespace that exceeds the first limit, and the largest namespaces while all together
//! exceed the second, are *oversized*: their policies are forgotten. All pods of an oversized
//! namespace count as restricted in the directions of these policies.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use super::objects::Policy;
use crate::objects::ObjectKey;

/// The most names of policies in one reason. It goes to the log, and to `status` for each pod.
const MAX_NAMES: usize = 5;

/// The memory that a stored policy takes in bytes, besides its rules: its entry and its key.
const ENTRY_MEMORY: usize = 256;

/// The NetworkPolicies of the cluster.
#[derive(Clone, Debug, Default)]
pub(super) struct Policies {
    limits: MemoryLimits,
    /// `None`: the policy can't be read.
    by_key: BTreeMap<ObjectKey, Option<Arc<Policy>>>,
    /// The memory of each namespace's policies in bytes, if it has any.
    memory: BTreeMap<Arc<str>, usize>,
    /// The sum of `memory`.
    total_memory: usize,
    /// The oversized namespaces. Their policies are not in `by_key`.
    oversized: BTreeMap<Arc<str>, RestrictedDirections>,
    /// Namespaces that were oversized before the list in progress. The list reports their policies
    /// again, so they may also be in `by_key`.
    oversized_before: BTreeMap<Arc<str>, RestrictedDirections>,
    listing: PolicyListing,
}

/// Whether policies are being listed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum PolicyListing {
    #[default]
    Ended,
    /// Policies that no longer exist are removed when the list ends, so twice the memory is
    /// allowed.
    InProgress,
}

/// The most memory that policies may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct MemoryLimits {
    /// The limit of each namespace, in bytes. The time to evaluate policies is in proportion.
    pub(super) namespace: usize,
    /// The limit of all namespaces together, in bytes.
    pub(super) all: usize,
}

/// The direction of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PolicyDirection {
    Egress,
    Ingress,
}

/// The directions that some policies restrict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct RestrictedDirections {
    egress: bool,
    ingress: bool,
}

/// Policies whose rules aren't known.
#[derive(Clone, Debug)]
pub(super) enum UnknownPolicies {
    /// This policy can't be read.
    Unreadable(ObjectKey),
    /// The policies of an oversized namespace.
    Oversized(Arc<str>, MemoryLimits),
}

impl Default for MemoryLimits {
    fn default() -> MemoryLimits {
        MemoryLimits {
            namespace: 4 << 20,
            all: 32 << 20,
        }
    }
}

impl Policies {
    /// No policies, with other limits than the default ones.
    #[cfg(test)]
    pub(super) fn with_limits(limits: MemoryLimits) -> Policies {
        Policies {
            limits,
            ..Policies::default()
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_key.is_empty() && self.oversized().next().is_none()
    }

    /// Whether there is a policy with this key. False for policies that were forgotten.
    pub(super) fn contains(&self, key: &ObjectKey) -> bool {
        self.by_key.contains_key(key)
    }

    /// The policies that restrict, or may restrict, connections in a direction.
    pub(super) fn restricting(
        &self,
        direction: PolicyDirection,
    ) -> impl Iterator<Item = Result<&Arc<Policy>, UnknownPolicies>> {
        let policies = read_policies(self.by_key.iter(), direction);
        policies.chain(self.oversized_in(direction, |_| true).map(Err))
    }

    /// The policies of a namespace that restrict, or may restrict, connections in a direction.
    pub(super) fn restricting_in<'a>(
        &'a self,
        namespace: &'a str,
        direction: PolicyDirection,
    ) -> impl Iterator<Item = Result<&'a Arc<Policy>, UnknownPolicies>> {
        let policies = self.by_key.range(ObjectKey::first_in(namespace)..);
        let policies = policies.take_while(move |(key, _)| key.is_in(namespace));
        let oversized = self.oversized_in(direction, move |other| other == namespace);
        read_policies(policies, direction).chain(oversized.map(Err))
    }

    /// Starts a list. Also lists the policies that were forgotten, which are unknown until it ends.
    pub(super) fn start_list(&mut self) {
        self.listing = PolicyListing::InProgress;
        self.oversized_before.append(&mut self.oversized);
    }

    /// Ends a list: keeps only the policies in `listed`. Returns whether any have changed.
    pub(super) fn retain_listed(&mut self, listed: &BTreeSet<ObjectKey>) -> bool {
        let keys = self.by_key.keys();
        let gone: Vec<ObjectKey> = keys.filter(|key| !listed.contains(key)).cloned().collect();
        for key in &gone {
            self.remove(key);
        }
        self.listing = PolicyListing::Ended;
        let before = std::mem::take(&mut self.oversized_before);
        let forgotten = self.forget_oversized();
        !(gone.is_empty() && before.is_empty() && forgotten.is_empty())
    }

    /// Adds or replaces a policy. Returns the namespaces whose policies have changed.
    pub(super) fn insert(&mut self, policy: Policy) -> BTreeSet<Arc<str>> {
        let key = policy.key.clone();
        let directions = RestrictedDirections::of(&policy);
        self.replace(key, Some(Arc::new(policy)), directions)
    }

    /// Records that a policy exists but can't be read. Returns the namespaces whose policies have
    /// changed.
    pub(super) fn mark_unreadable(&mut self, key: ObjectKey) -> BTreeSet<Arc<str>> {
        self.replace(key, None, RestrictedDirections::ANY)
    }

    /// Removes a policy. Returns whether it was stored.
    pub(super) fn remove(&mut self, key: &ObjectKey) -> bool {
        let Some(before) = self.by_key.remove(key) else {
            return false;
        };
        self.count_memory(&key.namespace, memory_of(key, before.as_deref()), 0);
        true
    }

    fn replace(
        &mut self,
        key: ObjectKey,
        policy: Option<Arc<Policy>>,
        directions: RestrictedDirections,
    ) -> BTreeSet<Arc<str>> {
        let namespace = key.namespace.clone();
        if let Some(known) = self.oversized.get_mut(&namespace) {
            let before = *known;
            known.add(directions);
            return (*known != before)
                .then_some(namespace)
                .into_iter()
                .collect();
        }
        let before = self.by_key.get(&key);
        if before == Some(&policy) {
            return BTreeSet::new();
        }
        let removed = before.map_or(0, |before| memory_of(&key, before.as_deref()));
        let added = memory_of(&key, policy.as_deref());
        self.by_key.insert(key, policy);
        self.count_memory(&namespace, removed, added);
        let mut changed = BTreeSet::new();
        if self.exceeds_limits(self.memory[&namespace]) {
            changed = self.forget_oversized();
        }
        changed.insert(namespace);
        changed
    }

    /// Whether a namespace with this memory, or all namespaces together, exceed their limit.
    fn exceeds_limits(&self, memory: usize) -> bool {
        let factor = match self.listing {
            PolicyListing::Ended => 1,
            PolicyListing::InProgress => 2,
        };
        memory > factor * self.limits.namespace || self.total_memory > factor * self.limits.all
    }

    /// Forgets the policies of namespaces beyond the limits. Returns these namespaces.
    fn forget_oversized(&mut self) -> BTreeSet<Arc<str>> {
        let mut forgotten = BTreeSet::new();
        while let Some((largest, memory)) = self.memory.iter().max_by_key(|(_, memory)| **memory)
            && self.exceeds_limits(*memory)
        {
            let largest = largest.clone();
            self.forget_namespace(&largest);
            forgotten.insert(largest);
        }
        forgotten
    }

    fn forget_namespace(&mut self, namespace: &Arc<str>) {
        let mut directions = RestrictedDirections::default();
        let policies = self.by_key.range(ObjectKey::first_in(namespace)..);
        let policies = policies.take_while(|(key, _)| key.is_in(namespace));
        let keys: Vec<ObjectKey> = policies.map(|(key, _)| key.clone()).collect();
        for key in keys {
            match self.by_key.remove(&key).flatten() {
                Some(policy) => directions.add(RestrictedDirections::of(&policy)),
                None => directions.add(RestrictedDirections::ANY),
            }
        }
        self.total_memory -= self.memory.remove(namespace).unwrap_or_default();
        self.oversized.insert(namespace.clone(), directions);
    }

    /// The memory of a namespace's policies shrinks by `removed` bytes, and grows by `added`.
    fn count_memory(&mut self, namespace: &Arc<str>, removed: usize, added: usize) {
        self.total_memory = self.total_memory + added - removed;
        let memory = self.memory.get(namespace).copied().unwrap_or_default();
        match memory + added - removed {
            0 => self.memory.remove(namespace),
            memory => self.memory.insert(namespace.clone(), memory),
        };
    }

    fn oversized(&self) -> impl Iterator<Item = (&Arc<str>, &RestrictedDirections)> {
        self.oversized.iter().chain(&self.oversized_before)
    }

    /// The oversized namespaces that are `wanted` and have policies for a direction.
    fn oversized_in(
        &self,
        direction: PolicyDirection,
        wanted: impl Fn(&str) -> bool,
    ) -> impl Iterator<Item = UnknownPolicies> {
        self.oversized()
            .filter(move |(namespace, directions)| wanted(namespace) && directions.have(direction))
            .map(|(namespace, _)| UnknownPolicies::Oversized(namespace.clone(), self.limits))
    }
}

impl RestrictedDirections {
    const ANY: RestrictedDirections = RestrictedDirections {
        egress: true,
        ingress: true,
    };

    fn of(policy: &Policy) -> RestrictedDirections {
        RestrictedDirections {
            egress: policy.egress.is_some(),
            ingress: policy.ingress.is_some(),
        }
    }

    fn add(&mut self, other: RestrictedDirections) {
        self.egress |= other.egress;
        self.ingress |= other.ingress;
    }

    fn have(self, direction: PolicyDirection) -> bool {
        match direction {
            PolicyDirection::Egress => self.egress,
            PolicyDirection::Ingress => self.ingress,
        }
    }
}

impl UnknownPolicies {
    /// The policies' namespace. Empty if it isn't known.
    pub(super) fn namespace(&self) -> &str {
        match self {
            UnknownPolicies::Unreadable(key) => &key.namespace,
            UnknownPolicies::Oversized(namespace, _) => namespace,
        }
    }
}

impl fmt::Display for UnknownPolicies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UnknownPolicies::Unreadable(key) => write!(f, "NetworkPolicy {key} can't be read"),
            UnknownPolicies::Oversized(namespace, limits) => write!(
                f,
                "the NetworkPolicies of namespace {namespace} are not evaluated, because there are \
                 or were too many (at most {} MiB in a namespace, and {} MiB in all; if there are \
                 fewer now, restart the agent)",
                limits.namespace >> 20,
                limits.all >> 20
            ),
        }
    }
}

/// Of these policies, those that restrict, or may restrict, connections in a direction.
fn read_policies<'a>(
    policies: impl Iterator<Item = (&'a ObjectKey, &'a Option<Arc<Policy>>)>,
    direction: PolicyDirection,
) -> impl Iterator<Item = Result<&'a Arc<Policy>, UnknownPolicies>> {
    policies.filter_map(move |(key, policy)| match policy {
        None => Some(Err(UnknownPolicies::Unreadable(key.clone()))),
        Some(policy) => RestrictedDirections::of(policy)
            .have(direction)
            .then_some(Ok(policy)),
    })
}

/// The memory of a stored policy in bytes, about. `None`: it can't be read.
fn memory_of(key: &ObjectKey, policy: Option<&Policy>) -> usize {
    ENTRY_MEMORY + key.namespace.len() + key.name.len() + policy.map_or(0, Policy::memory)
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
