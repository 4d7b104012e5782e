//! The objects that client policy depends on.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::certainty::Certainty;
use super::cluster_policy::{ClusterPolicy, PodSet};
use super::kinds::PolicyKind;
use super::objects::{DnsService, DnsSlice, Fact, LabelledNamespace, PodNetwork, PolicyPod};
use super::other_policies::{MAX_OBJECTS, OtherPolicies, PolicyEffect};
use super::policies::{Policies, PolicyDirection};
use crate::feed::Feed;
use crate::objects::ObjectKey;
use crate::selector::{Labels, NAMESPACE_NAME, Selector};

/// The most changed namespaces that are kept one by one between two judgements.
const MAX_CHANGED_NAMESPACES: usize = 1_000;

/// Objects by key. `None`: the object exists but can't be read.
type ObjectsByKey<T> = BTreeMap<ObjectKey, Option<T>>;

/// The stored objects of one feed. Each function returns whether verdicts may have changed.
trait ObjectStore {
    /// Ends a list: keeps only the objects in `listed`.
    fn retain_listed(&mut self, listed: &BTreeSet<ObjectKey>) -> bool;
    /// Records that an object exists but can't be read.
    fn mark_unreadable(&mut self, key: ObjectKey) -> bool;
    /// Removes an object.
    fn remove_object(&mut self, key: &ObjectKey) -> bool;
}

/// The objects that decide which pods may query the cluster's DNS: policies, pods, Namespaces, and
/// the Services and EndpointSlices of the cluster's DNS.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// All NetworkPolicies.
    pub(super) policies: Policies,
    /// Policies of the other kinds that the API server serves.
    other_policies: BTreeMap<PolicyKind, OtherPolicies>,
    /// This node's pods.
    clients: ObjectsByKey<Arc<PolicyPod>>,
    /// The cluster's DNS pods, as far as [`Feed::DnsPods`] reports them.
    dns_pods: ObjectsByKey<Arc<PolicyPod>>,
    /// The Namespace of the cluster's DNS Service, as [`Feed::DnsNamespace`] reports it.
    dns_namespaces: ObjectsByKey<LabelledNamespace>,
    /// All Namespaces. Empty unless the agent lists them, or reads objects from files.
    namespaces: ObjectsByKey<LabelledNamespace>,
    /// The Services that may be the cluster's DNS. If objects are read from files, all Services.
    services: ObjectsByKey<DnsService>,
    /// The EndpointSlices that may belong to these Services.
    slices: ObjectsByKey<DnsSlice>,
    /// The objects that each list in progress has returned so far.
    listing: BTreeMap<Feed, BTreeSet<ObjectKey>>,
    /// Required feeds that have not been listed yet. The agent permits no pod before this set is
    /// empty.
    awaited: BTreeSet<Feed>,
    /// Whether all pods of this node are known.
    node_pods: NodePods,
    changed_namespaces: ChangedNamespaces,
}

/// Whether all pods of this node are known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum NodePods {
    /// This node's pods have been listed, or all objects were read from files.
    #[default]
    Known,
    /// This node's pods have not been listed, and may never be listed.
    Unlisted,
}

/// What is known about a Namespace's labels.
pub(super) struct NamespaceLabels<'a> {
    /// The Namespace as each feed knows it. The inner `None`: it can't be read.
    known: [Option<&'a Option<LabelledNamespace>>; 2],
    /// The label that every Namespace has.
    least: Labels,
}

/// The namespaces whose NetworkPolicies or labels have changed.
#[derive(Clone, Debug, Default)]
pub(super) enum ChangedNamespaces {
    /// Any namespace may have changed.
    #[default]
    Any,
    /// At most [`MAX_CHANGED_NAMESPACES`]. The name is empty for a policy without readable
    /// metadata.
    Listed(BTreeSet<Arc<str>>),
}

impl Facts {
    /// Facts that are incomplete until each of these feeds has been listed once. For
    /// [`Feed::PolicyKinds`]: until the first call of [`Facts::set_served_kinds`].
    #[must_use]
    pub fn awaiting(feeds: impl IntoIterator<Item = Feed>) -> Facts {
        Facts {
            awaited: feeds.into_iter().collect(),
            node_pods: NodePods::Unlisted,
            ..Facts::default()
        }
    }

    /// The required feeds that have not been listed yet.
    #[must_use]
    pub fn awaited(&self) -> &BTreeSet<Feed> {
        &self.awaited
    }

    /// Whether a policy may keep any pod from the cluster's DNS: there is a NetworkPolicy, or the
    /// API server serves another kind of policy.
    #[must_use]
    pub fn may_restrict(&self) -> bool {
        !self.policies.is_empty() || !self.other_policies.is_empty()
    }

    /// Whether any NetworkPolicy restricts egress. An unreadable one counts as restricting.
    pub(super) fn has_egress_policy(&self) -> bool {
        let mut policies = self.policies.restricting(PolicyDirection::Egress);
        policies.next().is_some()
    }

    /// Adds an object, or replaces the one with the same kind and key. Pods count as pods of this
    /// node, and Namespaces as those of clients. The kind of another policy counts as served and
    /// completely listed.
    pub fn insert(&mut self, fact: Fact) {
        let feed = match &fact {
            Fact::Policy(_) => Feed::Policies,
            Fact::Pod(_) => Feed::Clients,
            Fact::Namespace(_) => Feed::ClientNamespaces,
            Fact::Service(_) => Feed::DnsService,
            Fact::Slice(_) => Feed::DnsEndpoints,
            Fact::OtherPolicy(policy) => {
                let policies = self.other_policies.entry(policy.kind);
                policies.or_insert_with(OtherPolicies::new_complete);
                Feed::OtherPolicies(policy.kind)
            }
            Fact::Unreadable { feed, .. } => *feed,
        };
        self.apply(feed, fact);
    }

    /// Sets the other kinds of policies that the API server serves. Drops all policies of other
    /// kinds, also of kinds that are still served: these are unknown until their kind has been
    /// listed again.
    pub fn set_served_kinds(&mut self, kinds: impl IntoIterator<Item = PolicyKind>) {
        let kinds = kinds.into_iter();
        self.other_policies = kinds.map(|kind| (kind, OtherPolicies::default())).collect();
        self.changed_namespaces = ChangedNamespaces::Any;
        self.listing
            .retain(|feed, _| !matches!(feed, Feed::OtherPolicies(_)));
        self.awaited.remove(&Feed::PolicyKinds);
    }

    /// Starts a list of a feed.
    pub fn start_list(&mut self, feed: Feed) {
        if feed == Feed::Policies {
            self.policies.start_list();
        }
        self.listing.insert(feed, BTreeSet::new());
    }

    /// Ends a list of a feed, and removes the objects that the list did not return. Returns whether
    /// verdicts may have changed.
    pub fn finish_list(&mut self, feed: Feed) -> bool {
        let listed = self.listing.remove(&feed).unwrap_or_default();
        let was_awaited = self.awaited.remove(&feed);
        let was_unlisted = feed == Feed::Clients && self.node_pods == NodePods::Unlisted;
        if was_unlisted {
            self.node_pods = NodePods::Known;
        }
        let has_changed = self
            .store_for(feed)
            .is_some_and(|store| store.retain_listed(&listed));
        if has_changed {
            self.changed_namespaces = ChangedNamespaces::Any;
        }
        was_awaited || was_unlisted || has_changed
    }

    /// Adds or updates an object. Returns whether verdicts may have changed.
    pub fn apply(&mut self, feed: Feed, fact: Fact) -> bool {
        let key = fact.key().clone();
        self.note_listed(feed, &key);
        let has_changed = match fact {
            Fact::Policy(policy) => {
                let changed = self.policies.insert(policy);
                return self.note_changed_policies(changed);
            }
            Fact::Pod(pod) => match feed {
                Feed::DnsPods => replace_object(&mut self.dns_pods, key.clone(), pod.into()),
                _ => replace_object(&mut self.clients, key.clone(), pod.into()),
            },
            Fact::Namespace(mut namespace) => {
                // API servers before Kubernetes 1.22 may not set this label.
                let name = key.name.to_string();
                namespace.labels.insert(NAMESPACE_NAME.to_owned(), name);
                let namespaces = match feed {
                    Feed::DnsNamespace => &mut self.dns_namespaces,
                    _ => &mut self.namespaces,
                };
                replace_object(namespaces, key.clone(), namespace)
            }
            Fact::Service(service) => replace_object(&mut self.services, key.clone(), service),
            Fact::Slice(slice) => replace_object(&mut self.slices, key.clone(), slice),
            Fact::Unreadable { .. } => return self.mark_unreadable(feed, &key),
            Fact::OtherPolicy(policy) => match self.other_policies.get_mut(&policy.kind) {
                Some(policies) => policies.insert(key.clone(), policy.effect),
                None => false,
            },
        };
        self.note_change(feed, &key, has_changed)
    }

    /// Records that an object exists but can't be read. Its previous value is dropped. Returns
    /// whether verdicts may have changed.
    pub fn mark_unreadable(&mut self, feed: Feed, key: &ObjectKey) -> bool {
        self.note_listed(feed, key);
        if feed == Feed::Policies {
            let changed = self.policies.mark_unreadable(key.clone());
            return self.note_changed_policies(changed);
        }
        let store = self.store_for(feed);
        let has_changed = store.is_some_and(|store| store.mark_unreadable(key.clone()));
        self.note_change(feed, key, has_changed)
    }

    /// Removes an object. Returns whether verdicts may have changed.
    pub fn delete(&mut self, feed: Feed, key: &ObjectKey) -> bool {
        // A streamed list may return an object that is deleted before the list ends. Once a list of
        // other policies exceeds the limit, it isn't shortened, because the excess must stay
        // visible. If a list of another feed is as long, the key stays too. That is harmless,
        // because the object is removed below.
        if let Some(listed) = self.listing.get_mut(&feed)
            && listed.len() <= MAX_OBJECTS
        {
            listed.remove(key);
        }
        let store = self.store_for(feed);
        let has_changed = store.is_some_and(|store| store.remove_object(key));
        self.note_change(feed, key, has_changed)
    }

    /// The namespaces whose NetworkPolicies or labels have changed after the last call.
    pub(super) fn take_changed_namespaces(&mut self) -> ChangedNamespaces {
        let none = ChangedNamespaces::Listed(BTreeSet::new());
        std::mem::replace(&mut self.changed_namespaces, none)
    }

    /// The NetworkPolicies.
    pub(super) fn policies(&self) -> &Policies {
        &self.policies
    }

    /// The cluster-wide policies whose rules are evaluated.
    pub(super) fn cluster_policies(&self) -> impl Iterator<Item = &Arc<ClusterPolicy>> {
        let kinds = self.other_policies.values();
        let effects = kinds.flat_map(|policies| policies.objects.values());
        effects.filter_map(|effect| match effect {
            PolicyEffect::Rules(policy) => Some(policy),
            PolicyEffect::Possible(_) | PolicyEffect::Unreadable(_) => None,
        })
    }

    /// Whether the API server serves ClusterNetworkPolicies of the network policy API.
    pub(super) fn serves_cluster_network_policies(&self) -> bool {
        let mut kinds = self.other_policies.keys();
        kinds.any(|kind| kind.is_evaluated() && kind.name() == "ClusterNetworkPolicy")
    }

    /// The policies of the other kinds.
    pub(super) fn other_policies(&self) -> impl Iterator<Item = (&PolicyKind, &OtherPolicies)> {
        self.other_policies.iter()
    }

    /// Every pod of this node that can be read.
    pub(super) fn clients(&self) -> impl Iterator<Item = &Arc<PolicyPod>> {
        self.clients.values().flatten()
    }

    /// The pods in this node's network. `None` if some of this node's pods may be unknown.
    pub(super) fn host_pods(&self) -> Option<impl Iterator<Item = &Arc<PolicyPod>>> {
        let pods = self.clients();
        let pods = pods.filter(|pod| pod.network == PodNetwork::Host);
        (self.node_pods == NodePods::Known).then_some(pods)
    }

    /// Whether NodeLocal DNSCache on this node may answer at an address.
    pub(super) fn has_node_cache_at(&self, address: IpAddr) -> bool {
        let mut caches = self.clients().filter_map(|pod| pod.node_cache.as_ref());
        caches.any(|cache| !cache.bound_addresses(&[address]).is_empty())
    }

    /// The known pods that have this address.
    pub(super) fn pods_at(&self, address: IpAddr) -> impl Iterator<Item = &Arc<PolicyPod>> {
        let pods = self.dns_pods.values().chain(self.clients.values());
        pods.flatten()
            .filter(move |pod| pod.addresses.contains(&address))
    }

    /// Every Service that may be the cluster's DNS. `None`: the Service can't be read.
    pub(super) fn services(&self) -> impl Iterator<Item = Option<&DnsService>> {
        self.services.values().map(Option::as_ref)
    }

    /// The slices that may belong to a Service: its own slices, and the unreadable slices in its
    /// namespace as `None`.
    pub(super) fn slices_of<'a>(
        &'a self,
        service: &'a ObjectKey,
    ) -> impl Iterator<Item = Option<&'a DnsSlice>> {
        let slices = self.slices.range(ObjectKey::first_in(&service.namespace)..);
        slices
            .take_while(|(key, _)| key.is_in(&service.namespace))
            .map(|(_, slice)| slice.as_ref())
            .filter(|slice| slice.is_none_or(|slice| slice.service.as_ref() == Some(service)))
    }

    /// What is known about a Namespace's labels.
    pub(super) fn namespace_labels(&self, name: &Arc<str>) -> NamespaceLabels<'_> {
        let key = ObjectKey::new("", name.clone());
        let label = (NAMESPACE_NAME.to_owned(), name.to_string());
        NamespaceLabels {
            known: [&self.dns_namespaces, &self.namespaces].map(|store| store.get(&key)),
            least: Labels::from([label]),
        }
    }

    /// Records the namespaces whose policies have changed. Returns whether there are any.
    fn note_changed_policies(&mut self, changed: BTreeSet<Arc<str>>) -> bool {
        let has_changed = !changed.is_empty();
        for namespace in changed {
            self.changed_namespaces.insert(namespace);
        }
        has_changed
    }

    /// Records in which namespace an object has changed. Returns `has_changed`.
    fn note_change(&mut self, feed: Feed, key: &ObjectKey, has_changed: bool) -> bool {
        match feed {
            _ if !has_changed => {}
            Feed::Policies => self.changed_namespaces.insert(key.namespace.clone()),
            Feed::DnsNamespace | Feed::ClientNamespaces => {
                self.changed_namespaces.insert(key.name.clone());
            }
            // The rules of these policies may concern any pod.
            Feed::OtherPolicies(kind) if kind.is_evaluated() => {
                self.changed_namespaces = ChangedNamespaces::Any;
            }
            _ => {}
        }
        has_changed
    }

    /// The store of a feed's objects. `None` for a feed without a store, and for a kind of policy
    /// that the API server doesn't serve.
    fn store_for(&mut self, feed: Feed) -> Option<&mut dyn ObjectStore> {
        match feed {
            Feed::Policies => Some(&mut self.policies),
            Feed::Clients => Some(&mut self.clients),
            Feed::DnsPods => Some(&mut self.dns_pods),
            Feed::OtherPolicies(kind) => Some(self.other_policies.get_mut(&kind)?),
            Feed::DnsNamespace => Some(&mut self.dns_namespaces),
            Feed::ClientNamespaces => Some(&mut self.namespaces),
            Feed::DnsService => Some(&mut self.services),
            Feed::DnsEndpoints => Some(&mut self.slices),
            _ => None,
        }
    }

    /// Records that a list in progress has returned an object. For other policies, at most
    /// `MAX_OBJECTS` + 1 objects are recorded, which shows that the limit is exceeded.
    fn note_listed(&mut self, feed: Feed, key: &ObjectKey) {
        if let Some(listed) = self.listing.get_mut(&feed)
            && (listed.len() <= MAX_OBJECTS || !matches!(feed, Feed::OtherPolicies(_)))
        {
            listed.insert(key.clone());
        }
    }
}

impl NamespaceLabels<'_> {
    /// Whether a set of pods contains pods of the Namespace with these labels.
    pub(super) fn match_pods(&self, set: &PodSet, labels: &Labels) -> Certainty {
        let is_selected: Certainty = set.pods.matches(labels).into();
        self.match_selector(&set.namespaces).and(is_selected)
    }

    /// Whether a selector matches the Namespace.
    fn match_selector(&self, selector: &Selector) -> Certainty {
        let match_least = || {
            if selector.matches_at_least(&self.least) {
                Certainty::Yes
            } else if selector.excludes_all_with(&self.least) {
                Certainty::No
            } else {
                Certainty::Maybe
            }
        };
        // Two feeds may briefly know different labels of one Namespace.
        let mut known = self.known.iter().flatten().peekable();
        if known.peek().is_none() {
            return match_least();
        }
        Certainty::common(known.map(|namespace| match namespace {
            Some(namespace) => selector.matches(&namespace.labels).into(),
            None => match_least(),
        }))
    }

    /// Whether a selector provably matches the Namespace.
    pub(super) fn are_matched_by(&self, selector: &Selector) -> bool {
        self.match_selector(selector) == Certainty::Yes
    }
}

impl ChangedNamespaces {
    fn insert(&mut self, namespace: Arc<str>) {
        let ChangedNamespaces::Listed(namespaces) = self else {
            return;
        };
        namespaces.insert(namespace);
        if namespaces.len() > MAX_CHANGED_NAMESPACES {
            *self = ChangedNamespaces::Any;
        }
    }
}

impl<T> ObjectStore for ObjectsByKey<T> {
    fn retain_listed(&mut self, listed: &BTreeSet<ObjectKey>) -> bool {
        let before = self.len();
        self.retain(|key, _| listed.contains(key));
        self.len() != before
    }

    fn mark_unreadable(&mut self, key: ObjectKey) -> bool {
        !matches!(self.insert(key, None), Some(None))
    }

    fn remove_object(&mut self, key: &ObjectKey) -> bool {
        self.remove(key).is_some()
    }
}

impl ObjectStore for Policies {
    fn retain_listed(&mut self, listed: &BTreeSet<ObjectKey>) -> bool {
        Policies::retain_listed(self, listed)
    }

    fn mark_unreadable(&mut self, key: ObjectKey) -> bool {
        !Policies::mark_unreadable(self, key).is_empty()
    }

    fn remove_object(&mut self, key: &ObjectKey) -> bool {
        self.remove(key)
    }
}

impl ObjectStore for OtherPolicies {
    fn retain_listed(&mut self, listed: &BTreeSet<ObjectKey>) -> bool {
        OtherPolicies::retain_listed(self, listed)
    }

    fn mark_unreadable(&mut self, key: ObjectKey) -> bool {
        self.insert(
            key,
            PolicyEffect::Unreadable("its metadata can't be read".into()),
        )
    }

    fn remove_object(&mut self, key: &ObjectKey) -> bool {
        self.remove(key)
    }
}

/// Stores an object. Returns whether it differs from the one stored before.
fn replace_object<T: PartialEq>(objects: &mut ObjectsByKey<T>, key: ObjectKey, object: T) -> bool {
    let object = Some(object);
    if objects.get(&key) == Some(&object) {
        return false;
    }
    objects.insert(key, object);
    true
}
