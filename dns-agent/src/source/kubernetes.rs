//! Kubernetes objects from the API server: lists, and watches after them.
//!
//! kube brings transport, credentials and requests. The loop of list and watch is written here, rather
//! than taken from kube-runtime's `watcher`, for three reasons:
//! * A list is read as a stream, object by object: reading 50,000 EndpointSlices again holds neither the
//!   body nor a second set of objects.
//! * Lists ask for `resourceVersion=0` without a limit, which API servers answer from memory, at the
//!   least cost for them.
//! * An object that can't be read is told as [`Event::Unusable`], and doesn't stop the list.
//!
//! What is done as client-go's reflector does it, so that API servers see nothing new: versions are passed
//! on as they are, a list after the first one asks for what is not older than what was seen, and for the
//! newest state where that version is gone; watches end themselves after 5 to 10 minutes.
//!
//! A list that breaks off is not followed by [`Event::Listed`], but by another [`Event::Listing`] when it
//! is tried again; what it told until then stays told.

mod api;
mod backoff;
mod connect;
mod coverage;
mod daemon_set;
mod discovery;
mod health;
mod object;
mod pieces;
mod reflector;
mod selection;

#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use kube::Client;
use tokio::{sync::mpsc, task::JoinSet};
use tokio_util::task::AbortOnDropHandle;

use self::{
    api::Api,
    coverage::{HeadlessServices, watch_slices},
    reflector::Reflector,
    selection::Selection,
};
use super::{Event, Feed};
use crate::cluster::{Endpoints, Key, Labels, Selectors};

pub use self::{
    connect::connect,
    daemon_set::DaemonSet,
    discovery::{Discovery, ServedKinds},
    health::{FeedHealth, Health, Requests, State},
};

/// Reads objects from an API server for as long as it exists and its events are received.
#[derive(Debug)]
pub struct Kubernetes {
    health: Arc<Health>,
    _task: AbortOnDropHandle<()>,
}

/// Which objects are read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Whose endpoints.
    pub endpoints: Endpoints,
    /// Which Namespaces, and which Services, EndpointSlices and Pods. Does not apply to `dns`.
    pub selectors: Selectors,
    /// Which Pods, if any.
    pub pods: Option<PodScope>,
    /// The Service of the cluster's own DNS, whose endpoints are to be known. With [`Endpoints::All`]
    /// they are among the others.
    pub dns: Option<Key>,
    /// The first lists wait for a random part of this time, so that the agents of a cluster that starts
    /// don't all ask at once.
    pub first_list_jitter: Duration,
}

/// Which Pods are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodScope {
    /// Those on the node with this name.
    Node(String),
    /// All of them.
    All,
}

/// Whose rights to ask are to be known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyScope {
    /// The pods of this node; none: of no node.
    pub node: Option<String>,
    /// The Service of the cluster's own DNS.
    pub dns: Key,
}

/// What a source reads, and how.
struct Selected {
    feeds: Vec<Selection>,
    /// The slices of headless Services, if only these are read.
    slices_of_services: Option<Selection>,
    lists: Lists,
}

/// How lists are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lists {
    /// As streams, if the API server's version has them.
    AsServed,
    /// As documents.
    Plain,
}

impl From<Vec<Selection>> for Selected {
    fn from(feeds: Vec<Selection>) -> Selected {
        Selected {
            feeds,
            slices_of_services: None,
            lists: Lists::AsServed,
        }
    }
}

impl Kubernetes {
    /// Starts reading. Must be called within a runtime, and doesn't wait for the API server.
    ///
    /// A full channel slows the reading down; a closed one ends it.
    #[must_use]
    pub fn start(client: Client, options: &Options, events: mpsc::Sender<Event>) -> Kubernetes {
        let selected = Selected {
            feeds: selection::all(options),
            slices_of_services: selection::slices_of_services(options),
            lists: Lists::AsServed,
        };
        Kubernetes::read(client, selected, options.first_list_jitter, events)
    }

    /// Starts reading nothing but the ConfigMap that holds CoreDNS's configuration, as
    /// [`Kubernetes::start`] does.
    #[must_use]
    pub fn start_corefile(
        client: Client,
        corefile: &Key,
        events: mpsc::Sender<Event>,
    ) -> Kubernetes {
        let selected = vec![selection::corefile(corefile)].into();
        Kubernetes::read(client, selected, Duration::ZERO, events)
    }

    /// Starts reading what says which pods may ask the cluster's DNS, as [`Kubernetes::start`] does.
    #[must_use]
    pub fn start_policies(
        client: Client,
        scope: &PolicyScope,
        first_list_jitter: Duration,
        events: mpsc::Sender<Event>,
    ) -> Kubernetes {
        let selected = selection::policies(scope).into();
        Kubernetes::read(client, selected, first_list_jitter, events)
    }

    /// Starts reading the Pods with these labels in a namespace, those of the cluster's DNS, as
    /// [`Kubernetes::start`] does.
    #[must_use]
    pub fn start_dns_pods(
        client: Client,
        namespace: &str,
        labels: &Labels,
        events: mpsc::Sender<Event>,
    ) -> Kubernetes {
        let selected = vec![selection::dns_pods(namespace, labels)].into();
        Kubernetes::read(client, selected, Duration::ZERO, events)
    }

    /// Starts reading all Namespaces with their labels, as [`Kubernetes::start`] does.
    #[must_use]
    pub fn start_client_namespaces(client: Client, events: mpsc::Sender<Event>) -> Kubernetes {
        let selected = vec![selection::client_namespaces()].into();
        Kubernetes::read(client, selected, Duration::ZERO, events)
    }

    /// Starts reading the policies of these kinds, which are not evaluated, as [`Kubernetes::start`] does.
    #[must_use]
    pub fn start_other_policies(
        client: Client,
        kinds: &ServedKinds,
        events: mpsc::Sender<Event>,
    ) -> Kubernetes {
        let policies = kinds.iter();
        let selected = Selected {
            feeds: policies
                .map(|(kind, version)| selection::other_policies(*kind, version))
                .collect(),
            slices_of_services: None,
            // Other API servers may stand behind these, such as Calico's, which understand no streamed list.
            lists: Lists::Plain,
        };
        Kubernetes::read(client, selected, Duration::ZERO, events)
    }

    /// Starts reading the Pods of this node, if its name is known, and the Service of the cluster's
    /// DNS, as [`Kubernetes::start`] does, where policies don't matter.
    #[must_use]
    pub fn start_dns_path(
        client: Client,
        scope: &PolicyScope,
        first_list_jitter: Duration,
        events: mpsc::Sender<Event>,
    ) -> Kubernetes {
        let selected = selection::dns_path(scope).into();
        Kubernetes::read(client, selected, first_list_jitter, events)
    }

    /// Starts reading the Services of a namespace, those that a node cache may ask, as
    /// [`Kubernetes::start`] does.
    #[must_use]
    pub fn start_upstream_services(
        client: Client,
        namespace: &str,
        events: mpsc::Sender<Event>,
    ) -> Kubernetes {
        let selected = vec![selection::upstream_services(namespace)].into();
        Kubernetes::read(client, selected, Duration::ZERO, events)
    }

    /// Starts reading a ConfigMap with configuration of a node cache, as [`Kubernetes::start`] does.
    #[must_use]
    pub fn start_cache_config(
        client: Client,
        map: &Key,
        events: mpsc::Sender<Event>,
    ) -> Kubernetes {
        let selected = vec![selection::cache_config(map)].into();
        Kubernetes::read(client, selected, Duration::ZERO, events)
    }

    fn read(
        client: Client,
        selected: Selected,
        first_list_jitter: Duration,
        events: mpsc::Sender<Event>,
    ) -> Kubernetes {
        let Selected {
            feeds: selections,
            slices_of_services,
            lists,
        } = selected;
        let selected = selections.iter().chain(&slices_of_services);
        let health = Arc::new(Health::new(selected.map(|selection| selection.feed)));
        let api = Api::new(client, health.clone());
        let task = async move {
            let api = Arc::new(match lists {
                Lists::AsServed => api.discovered().await,
                Lists::Plain => api,
            });
            let mut feeds = JoinSet::new();
            let services = Arc::new(HeadlessServices::default());
            for selection in selections {
                let is_of_services = selection.feed == Feed::Services;
                let mut reflector = Reflector::new(selection, api.clone(), events.clone());
                if is_of_services && slices_of_services.is_some() {
                    reflector = reflector.noting(services.clone());
                }
                feeds.spawn(reflector.run(first_list_jitter));
            }
            if let Some(slices) = slices_of_services {
                feeds.spawn(watch_slices(services, slices, api, events.clone()));
            }
            drop(events);
            feeds.join_all().await;
        };
        Kubernetes {
            health,
            _task: AbortOnDropHandle::new(tokio::spawn(task)),
        }
    }

    /// How the reading goes, for whoever wants to know while it goes on.
    #[must_use]
    pub fn health(&self) -> Arc<Health> {
        self.health.clone()
    }
}
