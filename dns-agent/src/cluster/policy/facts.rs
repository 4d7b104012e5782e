//! All that is known about who may ask.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::objects::{Client, DnsService, DnsSlice, Fact, LabelledNamespace, Policy};
use crate::cluster::feed::Feed;
use crate::cluster::objects::Key;
use crate::cluster::selector::{Labels, Selector};

/// The label that every Namespace has, with its name (Kubernetes 1.22).
const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

/// Objects by key; none for one that is there and can't be read.
type Kept<T> = BTreeMap<Key, Option<T>>;

/// What is known of policies, of pods, and of the cluster's DNS.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Those about egress.
    policies: Kept<Policy>,
    /// Those that may ask.
    clients: Kept<Client>,
    /// Those of the cluster's DNS, if they are not among the others.
    dns_pods: Kept<Client>,
    namespaces: Kept<LabelledNamespace>,
    services: Kept<DnsService>,
    slices: Kept<DnsSlice>,
    /// What the list of a feed that goes on has brought so far.
    listing: BTreeMap<Feed, BTreeSet<Key>>,
    /// Feeds without which nothing can be judged, and that have not been listed yet.
    awaited: BTreeSet<Feed>,
}

impl Facts {
    /// Nothing is known before these feeds have been listed once.
    #[must_use]
    pub fn awaiting(feeds: impl IntoIterator<Item = Feed>) -> Facts {
        Facts {
            awaited: feeds.into_iter().collect(),
            ..Facts::default()
        }
    }

    /// The feeds whose first list is still to come.
    #[must_use]
    pub fn awaited(&self) -> &BTreeSet<Feed> {
        &self.awaited
    }

    /// Whether any policy is about egress.
    #[must_use]
    pub fn restrict(&self) -> bool {
        !self.policies.is_empty()
    }

    /// Puts an object in the place of the one with the same kind and key.
    pub fn insert(&mut self, fact: Fact) {
        let feed = match fact {
            Fact::Policy(_) => Feed::Policies,
            Fact::Pod(_) => Feed::Clients,
            Fact::Namespace(_) => Feed::DnsNamespace,
            Fact::Service(_) => Feed::DnsService,
            Fact::Slice(_) => Feed::DnsEndpoints,
        };
        self.apply(feed, fact);
    }

    /// A list of a feed starts.
    pub fn listing(&mut self, feed: Feed) {
        self.listing.insert(feed, BTreeSet::new());
    }

    /// A list of a feed has ended: what it did not bring is gone.
    pub fn listed(&mut self, feed: Feed) {
        fn retain<T>(kept: &mut Kept<T>, listed: &BTreeSet<Key>) {
            kept.retain(|key, _| listed.contains(key));
        }
        let listed = self.listing.remove(&feed).unwrap_or_default();
        match feed {
            Feed::Policies => retain(&mut self.policies, &listed),
            Feed::Clients => retain(&mut self.clients, &listed),
            Feed::DnsPods => retain(&mut self.dns_pods, &listed),
            Feed::DnsNamespace => retain(&mut self.namespaces, &listed),
            Feed::DnsService => retain(&mut self.services, &listed),
            Feed::DnsEndpoints => retain(&mut self.slices, &listed),
            _ => {}
        }
        self.awaited.remove(&feed);
    }

    /// An object is there: new, or as it is now.
    pub fn apply(&mut self, feed: Feed, fact: Fact) {
        let key = fact.key().clone();
        self.note(feed, &key);
        match fact {
            Fact::Policy(policy) if policy.egress.is_none() => {
                self.policies.remove(&key);
            }
            Fact::Policy(policy) => {
                self.policies.insert(key, Some(policy));
            }
            Fact::Pod(pod) => {
                let pods = match feed {
                    Feed::DnsPods => &mut self.dns_pods,
                    _ => &mut self.clients,
                };
                pods.insert(key, Some(pod));
            }
            Fact::Namespace(mut namespace) => {
                let name = key.name.to_string();
                namespace.labels.insert(NAMESPACE_NAME.to_owned(), name);
                self.namespaces.insert(key, Some(namespace));
            }
            Fact::Service(service) => {
                self.services.insert(key, Some(service));
            }
            Fact::Slice(slice) => {
                self.slices.insert(key, Some(slice));
            }
        }
    }

    /// An object is there, and can't be read: what it was before counts no more.
    pub fn unusable(&mut self, feed: Feed, key: Key) {
        self.note(feed, &key);
        match feed {
            Feed::Policies => _ = self.policies.insert(key, None),
            Feed::Clients => _ = self.clients.insert(key, None),
            Feed::DnsPods => _ = self.dns_pods.insert(key, None),
            Feed::DnsNamespace => _ = self.namespaces.insert(key, None),
            Feed::DnsService => _ = self.services.insert(key, None),
            Feed::DnsEndpoints => _ = self.slices.insert(key, None),
            _ => {}
        }
    }

    /// An object is gone.
    pub fn delete(&mut self, feed: Feed, key: &Key) {
        match feed {
            Feed::Policies => _ = self.policies.remove(key),
            Feed::Clients => _ = self.clients.remove(key),
            Feed::DnsPods => _ = self.dns_pods.remove(key),
            Feed::DnsNamespace => _ = self.namespaces.remove(key),
            Feed::DnsService => _ = self.services.remove(key),
            Feed::DnsEndpoints => _ = self.slices.remove(key),
            _ => {}
        }
    }

    /// The policies about egress in a namespace; none for one that can't be read.
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
        match self.namespaces.get(&Key::new("", name)) {
            Some(Some(namespace)) => selector.matches(&namespace.labels),
            Some(None) | None => {
                let label = (NAMESPACE_NAME.to_owned(), name.to_owned());
                selector.matches_at_least(&Labels::from([label]))
            }
        }
    }

    fn note(&mut self, feed: Feed, key: &Key) {
        if let Some(listed) = self.listing.get_mut(&feed) {
            listed.insert(key.clone());
        }
    }
}
