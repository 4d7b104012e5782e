//! Kubernetes objects from the API server: lists, and watches after them.
//!
//! kube provides transport, credentials and requests. This crate has its own lists and watches
//! instead of kube-runtime's `watcher`, for three reasons:
//! * A list is read as a stream, object by object. Even a list of 50,000 EndpointSlices puts
//!   neither its whole body nor a second copy of the objects in memory.
//! * The requests let API servers answer lists from memory, which costs them least. Since
//!   Kubernetes 1.34, the list is the beginning of a watch (a streamed list). Lists are plain,
//!   without a limit, if the API server is older or refuses streamed lists, if its version is
//!   unknown, and for policies of other kinds than NetworkPolicy. The first list accepts any state
//!   (`resourceVersion=0`).
//! * An unreadable object is reported as [`Event::Unusable`] and doesn't stop the list.
//!
//! The protocol follows client-go's reflector, so that API servers see a familiar client. Resource
//! versions are opaque. A list after the first one requests a state not older than the last version
//! seen, or the newest state if the API server doesn't have that version. Each watch requests a
//! timeout of 5 to 10 minutes, after which the API server ends it.
//!
//! A list that breaks off sends no [`Event::ListEnded`]. The retry sends another
//! [`Event::ListStarted`], and the objects reported by the broken list stay reported.
//!
//! [`Event::Unusable`]: zerohop_kubernetes::Event::Unusable
//! [`Event::ListStarted`]: zerohop_kubernetes::Event::ListStarted
//! [`Event::ListEnded`]: zerohop_kubernetes::Event::ListEnded

#![forbid(unsafe_code)]

mod admission;
mod api_server;
mod backoff;
mod connect;
mod coverage;
mod daemon_set;
mod discovery;
mod headless_services;
mod health;
mod json_stream;
mod object;
mod received_event;
mod reflector;
mod selection;

#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use tokio::{sync::mpsc, task::JoinSet};
use tokio_util::task::AbortOnDropHandle;
use zerohop_kubernetes::{EndpointScope, Feed, Labels, ObjectKey, Selectors};

use self::{
    api_server::ApiServer, coverage::watch_slices, headless_services::HeadlessServices,
    reflector::Reflector, selection::FeedSelection,
};

pub use kube::Client;

pub use self::{
    admission::{Admission, AdmissionError, PodCounts, ReviewedAccount},
    connect::connect,
    daemon_set::DaemonSet,
    discovery::{Discovery, ServedKinds},
    health::{FeedActivity, FeedHealth, RequestCounts, SourceHealth},
    received_event::ReceivedEvent,
};

/// Reads objects from an API server until it is dropped or its event channel is closed.
#[derive(Debug)]
pub struct KubernetesSource {
    health: Arc<SourceHealth>,
    _task: AbortOnDropHandle<()>,
}

/// Which objects a source reads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceOptions {
    /// The Services whose EndpointSlices are read.
    pub endpoints: EndpointScope,
    /// One label selector for Namespaces, and one for Services, EndpointSlices and Pods. The second
    /// doesn't apply to the additional EndpointSlices of `dns`.
    pub selectors: Selectors,
    /// Which Pods are read. `None`: no Pods.
    pub pods: Option<PodScope>,
    /// The Service of the cluster's DNS, if its EndpointSlices are read in addition to those of
    /// headless Services. Without effect with [`EndpointScope::All`].
    pub dns: Option<ObjectKey>,
    /// Upper bound of the random delay before the first list of each feed, so that the agents of a
    /// starting cluster don't all list at once. The slices of headless Services have no delay of
    /// their own, because they are listed after the Services.
    pub first_list_jitter: Duration,
}

/// Which Pods are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodScope {
    /// The Pods on the node with this name.
    Node(String),
    /// All Pods.
    All,
}

/// Which objects are read to decide which pods may query DNS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyScope {
    /// The node whose Pods are read. `None`: no Pods are read.
    pub node: Option<String>,
    /// The Service of the cluster's DNS.
    pub dns: ObjectKey,
}

/// The feeds of a source, and how to list them.
struct SourceFeeds {
    selections: Vec<FeedSelection>,
    /// The EndpointSlices of headless Services. `None` if other feeds cover all EndpointSlices, or
    /// none are needed.
    headless_slices: Option<FeedSelection>,
    lists: ListFormat,
}

/// How lists are requested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ListFormat {
    /// As streamed lists, if the API server's version supports them.
    StreamedIfSupported,
    /// As plain list documents.
    Plain,
}

impl From<Vec<FeedSelection>> for SourceFeeds {
    fn from(selections: Vec<FeedSelection>) -> SourceFeeds {
        SourceFeeds {
            selections,
            headless_slices: None,
            lists: ListFormat::StreamedIfSupported,
        }
    }
}

impl KubernetesSource {
    /// Starts reading the objects that `options` selects. Must be called within a Tokio runtime.
    /// Doesn't wait for the API server.
    ///
    /// A full event channel slows reading down, and a closed one ends it.
    #[must_use]
    pub fn start(
        client: Client,
        options: &SourceOptions,
        events: mpsc::Sender<ReceivedEvent>,
    ) -> KubernetesSource {
        let feeds = SourceFeeds {
            selections: selection::object_feeds(options),
            headless_slices: selection::headless_slices(options),
            lists: ListFormat::StreamedIfSupported,
        };
        KubernetesSource::start_feeds(client, feeds, options.first_list_jitter, events)
    }

    /// Starts reading the objects that decide which pods may query the cluster's DNS, except those
    /// of [`KubernetesSource::start_dns_pods`], [`KubernetesSource::start_all_namespaces`] and
    /// [`KubernetesSource::start_other_policies`]. Otherwise like
    /// [`KubernetesSource::start`].
    #[must_use]
    pub fn start_policies(
        client: Client,
        scope: &PolicyScope,
        first_list_jitter: Duration,
        events: mpsc::Sender<ReceivedEvent>,
    ) -> KubernetesSource {
        let feeds = selection::policies(scope).into();
        KubernetesSource::start_feeds(client, feeds, first_list_jitter, events)
    }

    /// Starts reading the Pods of the cluster's DNS: those with `labels` in `namespace`. Otherwise
    /// like [`KubernetesSource::start`].
    #[must_use]
    pub fn start_dns_pods(
        client: Client,
        namespace: &str,
        labels: &Labels,
        events: mpsc::Sender<ReceivedEvent>,
    ) -> KubernetesSource {
        let feeds = vec![selection::dns_pods(namespace, labels)].into();
        KubernetesSource::start_feeds(client, feeds, Duration::ZERO, events)
    }

    /// Starts reading all Namespaces with their labels. Otherwise like [`KubernetesSource::start`].
    #[must_use]
    pub fn start_all_namespaces(
        client: Client,
        events: mpsc::Sender<ReceivedEvent>,
    ) -> KubernetesSource {
        let feeds = vec![selection::all_namespaces()].into();
        KubernetesSource::start_feeds(client, feeds, Duration::ZERO, events)
    }

    /// Starts reading policies of other kinds than NetworkPolicy. Otherwise like
    /// [`KubernetesSource::start`].
    #[must_use]
    pub fn start_other_policies(
        client: Client,
        kinds: &ServedKinds,
        events: mpsc::Sender<ReceivedEvent>,
    ) -> KubernetesSource {
        let policies = kinds.iter();
        let feeds = SourceFeeds {
            selections: policies
                .map(|(kind, version)| selection::other_policies(*kind, version))
                .collect(),
            headless_slices: None,
            // An aggregated API server, such as Calico's, may serve these kinds without streamed
            // lists.
            lists: ListFormat::Plain,
        };
        KubernetesSource::start_feeds(client, feeds, Duration::ZERO, events)
    }

    /// Starts reading the Service of the cluster's DNS and its endpoints and, if `scope` names a
    /// node, the Pods of that node. These objects show which pods answer DNS. A source from
    /// [`KubernetesSource::start_policies`] reads the same objects and more. Otherwise like
    /// [`KubernetesSource::start`].
    #[must_use]
    pub fn start_dns_path(
        client: Client,
        scope: &PolicyScope,
        first_list_jitter: Duration,
        events: mpsc::Sender<ReceivedEvent>,
    ) -> KubernetesSource {
        let feeds = selection::dns_path(scope).into();
        KubernetesSource::start_feeds(client, feeds, first_list_jitter, events)
    }

    /// Starts reading the Services of a namespace. NodeLocal DNSCache may forward queries to one of
    /// them. Otherwise like [`KubernetesSource::start`].
    #[must_use]
    pub fn start_upstream_services(
        client: Client,
        namespace: &str,
        events: mpsc::Sender<ReceivedEvent>,
    ) -> KubernetesSource {
        let feeds = vec![selection::upstream_services(namespace)].into();
        KubernetesSource::start_feeds(client, feeds, Duration::ZERO, events)
    }

    /// Starts reading all Services with UDP port 53, one of which may be the cluster's DNS.
    /// Otherwise like [`KubernetesSource::start`].
    #[must_use]
    pub fn start_dns_candidates(
        client: Client,
        first_list_jitter: Duration,
        events: mpsc::Sender<ReceivedEvent>,
    ) -> KubernetesSource {
        let feeds = vec![selection::dns_candidates()].into();
        KubernetesSource::start_feeds(client, feeds, first_list_jitter, events)
    }

    /// Starts reading a ConfigMap with the configuration of CoreDNS or NodeLocal DNSCache.
    /// Otherwise like [`KubernetesSource::start`].
    #[must_use]
    pub fn start_config_map(
        client: Client,
        map: &ObjectKey,
        events: mpsc::Sender<ReceivedEvent>,
    ) -> KubernetesSource {
        let feeds = vec![selection::config_map(map)].into();
        KubernetesSource::start_feeds(client, feeds, Duration::ZERO, events)
    }

    fn start_feeds(
        client: Client,
        feeds: SourceFeeds,
        first_list_jitter: Duration,
        events: mpsc::Sender<ReceivedEvent>,
    ) -> KubernetesSource {
        let SourceFeeds {
            selections,
            headless_slices,
            lists,
        } = feeds;
        let all_selections = selections.iter().chain(&headless_slices);
        let health = Arc::new(SourceHealth::new(
            all_selections.map(|selection| selection.feed),
        ));
        let api = ApiServer::new(client, health.clone());
        let task = async move {
            let api = Arc::new(match lists {
                ListFormat::StreamedIfSupported => api.with_version_features().await,
                ListFormat::Plain => api,
            });
            let mut tasks = JoinSet::new();
            let services = Arc::new(HeadlessServices::default());
            for selection in selections {
                let is_services_feed = selection.feed == Feed::Services;
                let mut reflector = Reflector::new(selection, api.clone(), events.clone());
                if is_services_feed && headless_slices.is_some() {
                    reflector = reflector.with_headless_services(services.clone());
                }
                tasks.spawn(reflector.send_events(first_list_jitter));
            }
            if let Some(slices) = headless_slices {
                tasks.spawn(watch_slices(services, slices, api, events.clone()));
            }
            // From here on, only the feeds keep the channel open.
            drop(events);
            tasks.join_all().await;
        };
        KubernetesSource {
            health,
            _task: AbortOnDropHandle::new(tokio::spawn(task)),
        }
    }

    /// The health of the source's feeds, updated while the source runs.
    #[must_use]
    pub fn health(&self) -> Arc<SourceHealth> {
        self.health.clone()
    }
}
