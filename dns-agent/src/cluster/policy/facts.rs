//! All that is known about who may ask.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::kinds::{PolicyKind, Reach};
use super::objects::{
    Client, DnsService, DnsSlice, Fact, LabelledNamespace, NAMESPACE_NAME, PodNetwork, Policy,
};
use super::others::{MAX_OBJECTS, Others};
use crate::cluster::feed::Feed;
use crate::cluster::objects::Key;
use crate::cluster::selector::{Labels, Selector};

/// Objects by key; none for one that is there and can't be read.
type Kept<T> = BTreeMap<Key, Option<T>>;

/// Objects of any kind, as far as their keys say what becomes of them. Each function says whether it
/// changed anything.
trait Shelf {
    /// A list brought these, and is over.
    fn listed(&mut self, listed: &BTreeSet<Key>) -> bool;
    /// This one is there, and can't be read.
    fn hide(&mut self, key: Key) -> bool;
    /// This one is gone.
    fn lose(&mut self, key: &Key) -> bool;
}

/// What is known of policies, of pods, and of the cluster's DNS.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// NetworkPolicies about any direction.
    policies: Kept<Policy>,
    /// Policies of the kinds that are not evaluated, but served by the API.
    others: BTreeMap<PolicyKind, Others>,
    /// Those that may ask.
    clients: Kept<Client>,
    /// Those of the cluster's DNS, if they are not among the others.
    dns_pods: Kept<Client>,
    /// The Namespaces of the cluster's DNS.
    dns_namespaces: Kept<LabelledNamespace>,
    /// All Namespaces, if they are read.
    namespaces: Kept<LabelledNamespace>,
    services: Kept<DnsService>,
    slices: Kept<DnsSlice>,
    /// What the list of a feed that goes on has brought so far.
    listing: BTreeMap<Feed, BTreeSet<Key>>,
    /// Feeds without which nothing can be judged, and that have not been listed yet.
    awaited: BTreeSet<Feed>,
    /// Whether all pods of this node are known.
    node: NodePods,
}

/// Whether all pods of this node are known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum NodePods {
    /// They are.
    #[default]
    Known,
    /// They have not been listed, and maybe never will.
    Unlisted,
}

impl Facts {
    /// Nothing is known before these feeds have been listed once.
    #[must_use]
    pub fn awaiting(feeds: impl IntoIterator<Item = Feed>) -> Facts {
        Facts {
            awaited: feeds.into_iter().collect(),
            node: NodePods::Unlisted,
            ..Facts::default()
        }
    }

    /// The feeds whose first list is still to come.
    #[must_use]
    pub fn awaited(&self) -> &BTreeSet<Feed> {
        &self.awaited
    }

    /// Whether there is any policy that may keep a pod from the cluster's DNS.
    #[must_use]
    pub fn restrict(&self) -> bool {
        !self.policies.is_empty() || !self.others.is_empty()
    }

    /// Whether any NetworkPolicy is about egress, as far as it can be read.
    pub(super) fn restrict_egress(&self) -> bool {
        let mut policies = self.policies.values();
        policies.any(|policy| match policy {
            None => true,
            Some(policy) => policy.egress.is_some(),
        })
    }

    /// Puts an object in the place of the one with the same kind and key.
    pub fn insert(&mut self, fact: Fact) {
        let feed = match &fact {
            Fact::Policy(_) => Feed::Policies,
            Fact::Pod(_) => Feed::Clients,
            Fact::Namespace(_) => Feed::ClientNamespaces,
            Fact::Service(_) => Feed::DnsService,
            Fact::Slice(_) => Feed::DnsEndpoints,
            Fact::Other(policy) => {
                let others = self.others.entry(policy.kind);
                others.or_insert_with(Others::complete);
                Feed::OtherPolicies(policy.kind)
            }
            Fact::Unreadable { feed, .. } => *feed,
        };
        self.apply(feed, fact);
    }

    /// The API serves these kinds of policies that are not evaluated, and no others. Until each of them
    /// has been listed, its objects are not known.
    pub fn discovered(&mut self, kinds: impl IntoIterator<Item = PolicyKind>) {
        let kinds = kinds.into_iter();
        self.others = kinds.map(|kind| (kind, Others::default())).collect();
        self.listing
            .retain(|feed, _| !matches!(feed, Feed::OtherPolicies(_)));
        self.awaited.remove(&Feed::PolicyKinds);
    }

    /// A list of a feed starts.
    pub fn listing(&mut self, feed: Feed) {
        self.listing.insert(feed, BTreeSet::new());
    }

    /// A list of a feed has ended: what it did not bring is gone. Says whether that changes anything.
    pub fn listed(&mut self, feed: Feed) -> bool {
        let listed = self.listing.remove(&feed).unwrap_or_default();
        let was_awaited = self.awaited.remove(&feed);
        let was_unlisted = feed == Feed::Clients && self.node == NodePods::Unlisted;
        if was_unlisted {
            self.node = NodePods::Known;
        }
        let has_changed = self.kept(feed).is_some_and(|kept| kept.listed(&listed));
        was_awaited || was_unlisted || has_changed
    }

    /// An object is there: new, or as it is now. Says whether that changes anything.
    pub fn apply(&mut self, feed: Feed, fact: Fact) -> bool {
        let key = fact.key().clone();
        self.note(feed, &key);
        match fact {
            Fact::Policy(policy) => put(&mut self.policies, key, policy),
            Fact::Pod(pod) => match feed {
                Feed::DnsPods => put(&mut self.dns_pods, key, pod),
                _ => put(&mut self.clients, key, pod),
            },
            Fact::Namespace(mut namespace) => {
                let name = key.name.to_string();
                namespace.labels.insert(NAMESPACE_NAME.to_owned(), name);
                match feed {
                    Feed::DnsNamespace => put(&mut self.dns_namespaces, key, namespace),
                    _ => put(&mut self.namespaces, key, namespace),
                }
            }
            Fact::Service(service) => put(&mut self.services, key, service),
            Fact::Slice(slice) => put(&mut self.slices, key, slice),
            Fact::Unreadable { .. } => self.unusable(feed, key),
            Fact::Other(policy) => match self.others.get_mut(&policy.kind) {
                Some(others) => others.insert(key, policy.reach),
                None => false,
            },
        }
    }

    /// An object is there, and can't be read: what it was before counts no more. Says whether that
    /// changes anything.
    pub fn unusable(&mut self, feed: Feed, key: Key) -> bool {
        self.note(feed, &key);
        self.kept(feed).is_some_and(|kept| kept.hide(key))
    }

    /// An object is gone. Says whether that changes anything.
    pub fn delete(&mut self, feed: Feed, key: &Key) -> bool {
        // A list that is a stream may tell of it before its end. One that is too long stays so.
        if let Some(listed) = self.listing.get_mut(&feed)
            && listed.len() <= MAX_OBJECTS
        {
            listed.remove(key);
        }
        self.kept(feed).is_some_and(|kept| kept.lose(key))
    }

    /// Every NetworkPolicy; none for one that can't be read.
    pub(super) fn policies(&self) -> impl Iterator<Item = (&Key, Option<&Policy>)> {
        let policies = self.policies.iter();
        policies.map(|(key, policy)| (key, policy.as_ref()))
    }

    /// Whether there is a NetworkPolicy of this name.
    pub(super) fn has_policy(&self, key: &Key) -> bool {
        self.policies.contains_key(key)
    }

    /// The policies of the kinds that are not evaluated.
    pub(super) fn others(&self) -> impl Iterator<Item = (&PolicyKind, &Others)> {
        self.others.iter()
    }

    /// The NetworkPolicies of a namespace; none for one that can't be read.
    pub(super) fn policies_in(
        &self,
        namespace: &str,
    ) -> impl Iterator<Item = (&Key, Option<&Policy>)> {
        let policies = self.policies.range(Key::first_in(namespace)..);
        policies
            .take_while(move |(key, _)| key.is_in(namespace))
            .map(|(key, policy)| (key, policy.as_ref()))
    }

    /// Every pod that may ask.
    pub(super) fn clients(&self) -> impl Iterator<Item = &Client> {
        self.clients.values().flatten()
    }

    /// The pods in this node's own network; none if they may not all be known.
    pub(super) fn host_pods(&self) -> Option<impl Iterator<Item = &Client>> {
        let pods = self.clients();
        let pods = pods.filter(|pod| pod.network == PodNetwork::Host);
        (self.node == NodePods::Known).then_some(pods)
    }

    /// Whether a node cache on this node may answer at an address.
    pub(super) fn has_node_cache_at(&self, address: IpAddr) -> bool {
        let mut caches = self.clients().filter_map(|pod| pod.node_cache.as_ref());
        caches.any(|cache| !cache.bound(&[address]).is_empty())
    }

    /// The pods that have an address.
    pub(super) fn pods_at(&self, address: IpAddr) -> impl Iterator<Item = &Client> {
        let pods = self.dns_pods.values().chain(self.clients.values());
        pods.flatten()
            .filter(move |pod| pod.addresses.contains(&address))
    }

    /// Every Service that may be the cluster's DNS; none for one that can't be read.
    pub(super) fn services(&self) -> impl Iterator<Item = Option<&DnsService>> {
        self.services.values().map(Option::as_ref)
    }

    /// The slices that may be a Service's: its own, and those of its namespace that can't be read.
    pub(super) fn slices_of<'a>(
        &'a self,
        service: &'a Key,
    ) -> impl Iterator<Item = Option<&'a DnsSlice>> {
        let slices = self.slices.range(Key::first_in(&service.namespace)..);
        slices
            .take_while(|(key, _)| key.is_in(&service.namespace))
            .map(|(_, slice)| slice.as_ref())
            .filter(|slice| slice.is_none_or(|slice| slice.service.as_ref() == Some(service)))
    }

    /// Whether a Namespace surely has labels that a selector selects.
    pub(super) fn selects_namespace(&self, selector: &Selector, name: &str) -> bool {
        let key = Key::new("", name);
        let known = [&self.dns_namespaces, &self.namespaces];
        let known: Vec<_> = known.iter().filter_map(|kept| kept.get(&key)).collect();
        let label = (NAMESPACE_NAME.to_owned(), name.to_owned());
        let least = Labels::from([label]);
        // Two feeds may know different labels of it for a moment.
        let mut known = known.into_iter();
        match known.len() {
            0 => selector.matches_at_least(&least),
            _ => known.all(|namespace| match namespace {
                Some(namespace) => selector.matches(&namespace.labels),
                None => selector.matches_at_least(&least),
            }),
        }
    }

    /// Where the objects of a feed are kept; nowhere if it says nothing of who may ask.
    fn kept(&mut self, feed: Feed) -> Option<&mut dyn Shelf> {
        match feed {
            Feed::Policies => Some(&mut self.policies),
            Feed::Clients => Some(&mut self.clients),
            Feed::DnsPods => Some(&mut self.dns_pods),
            Feed::OtherPolicies(kind) => Some(self.others.get_mut(&kind)?),
            Feed::DnsNamespace => Some(&mut self.dns_namespaces),
            Feed::ClientNamespaces => Some(&mut self.namespaces),
            Feed::DnsService => Some(&mut self.services),
            Feed::DnsEndpoints => Some(&mut self.slices),
            _ => None,
        }
    }

    fn note(&mut self, feed: Feed, key: &Key) {
        if let Some(listed) = self.listing.get_mut(&feed)
            && (listed.len() <= MAX_OBJECTS || !matches!(feed, Feed::OtherPolicies(_)))
        {
            listed.insert(key.clone());
        }
    }
}

impl<T> Shelf for Kept<T> {
    fn listed(&mut self, listed: &BTreeSet<Key>) -> bool {
        let before = self.len();
        self.retain(|key, _| listed.contains(key));
        self.len() != before
    }

    fn hide(&mut self, key: Key) -> bool {
        !matches!(self.insert(key, None), Some(None))
    }

    fn lose(&mut self, key: &Key) -> bool {
        self.remove(key).is_some()
    }
}

impl Shelf for Others {
    fn listed(&mut self, listed: &BTreeSet<Key>) -> bool {
        Others::listed(self, listed)
    }

    fn hide(&mut self, key: Key) -> bool {
        self.insert(key, Reach::Both)
    }

    fn lose(&mut self, key: &Key) -> bool {
        self.remove(key)
    }
}

/// Keeps an object; says whether it is another one than before.
fn put<T: PartialEq>(kept: &mut Kept<T>, key: Key, object: T) -> bool {
    let object = Some(object);
    if kept.get(&key) == Some(&object) {
        return false;
    }
    kept.insert(key, object);
    true
}
