//! The objects that each feed requests from the API server.

use std::time::Duration;

use hyper::Request;
use k8s_openapi::api::{
    core::v1 as core, discovery::v1 as discovery, networking::v1 as networking,
};
use kube::{
    Resource,
    api::{ListParams, VersionMatch, WatchParams},
    core::{Request as RequestPath, request},
};
use zerohop_kubernetes::{Covered, EndpointScope, Feed, Labels, ObjectKey, PolicyKind};

use super::{PodScope, PolicyScope, SourceOptions, backoff::jitter};

/// The label that assigns an EndpointSlice to its Service. CoreDNS uses it too.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Each watch requests a timeout of one to two times this, as client-go does. Watches that were
/// opened together, for example when an API server started, therefore don't end together.
const WATCH_DURATION: Duration = Duration::from_secs(300);

/// The objects of one feed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FeedSelection {
    /// The feed that reports the objects.
    pub(super) feed: Feed,
    /// The objects' resource with its group, as `kubectl` names it.
    pub(super) resource: &'static str,
    /// The namespace of the objects. `None`: all namespaces.
    pub(super) namespace: Option<String>,
    /// The URL path of the objects.
    path: String,
    /// Label selectors, which must all match.
    labels: Vec<String>,
    /// The field selector.
    fields: Option<String>,
    /// The Services whose EndpointSlices are all selected. `None` if the feed reports no coverage.
    pub(super) covers: Option<Covered>,
}

/// The resource version of a request. For a list, it says how old the listed state may be. A watch
/// reports the changes after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ResourceVersion {
    /// Any state, because nothing has been received yet.
    Any,
    /// A state not older than this received version, so that the feed doesn't go back in time.
    Seen(String),
    /// The newest state, because the API server no longer has the received version, or doesn't
    /// have it yet.
    Newest,
}

/// The selections of all feeds that names are made from, except those of [`headless_slices`].
pub(super) fn object_feeds(options: &SourceOptions) -> Vec<FeedSelection> {
    let objects = options.selectors.objects.to_string();
    let mut all = vec![
        FeedSelection::all_of::<core::Namespace>(Feed::Namespaces, "namespaces")
            .with_labels(options.selectors.namespaces.to_string()),
        FeedSelection::all_of::<core::Service>(Feed::Services, "services").with_labels(&objects),
    ];
    if options.endpoints == EndpointScope::All {
        all.push(slices(Feed::SLICES).with_labels(&objects));
    }
    if let (EndpointScope::Headless, Some(dns)) = (options.endpoints, &options.dns) {
        let service = format!("{SERVICE_NAME}={}", dns.name);
        let slices =
            slices(Feed::DnsSlices).in_namespace::<discovery::EndpointSlice>(&dns.namespace);
        all.push(slices.with_labels(service));
    }
    if let Some(scope) = &options.pods {
        let pods = FeedSelection::all_of::<core::Pod>(Feed::Pods, "pods").with_labels(&objects);
        all.push(match scope {
            PodScope::Node(node) => pods.with_field("spec.nodeName", node),
            PodScope::All => pods,
        });
    }
    all
}

/// The selection that all feeds of headless Services' EndpointSlices start from, without the names
/// of Services. `None` if all EndpointSlices are read.
pub(super) fn headless_slices(options: &SourceOptions) -> Option<FeedSelection> {
    let is_wanted = options.endpoints == EndpointScope::Headless;
    is_wanted.then(|| slices(Feed::SLICES).with_labels(options.selectors.objects.to_string()))
}

/// The objects that decide which pods may query the cluster's DNS, except those of [`dns_pods`],
/// [`all_namespaces`] and [`other_policies`].
pub(super) fn policies(scope: &PolicyScope) -> Vec<FeedSelection> {
    let PolicyScope { node, dns } = scope;
    let policies = "networkpolicies.networking.k8s.io";
    let mut all = vec![
        FeedSelection::all_of::<networking::NetworkPolicy>(Feed::Policies, policies),
        FeedSelection::all_of::<core::Namespace>(Feed::DnsNamespace, "namespaces")
            .with_field("metadata.name", &dns.namespace),
        FeedSelection::all_of::<core::Service>(Feed::DnsService, "services")
            .in_namespace::<core::Service>(&dns.namespace)
            .with_field("metadata.name", &dns.name),
        slices(Feed::DnsEndpoints)
            .in_namespace::<discovery::EndpointSlice>(&dns.namespace)
            .with_labels(format!("{SERVICE_NAME}={}", dns.name)),
    ];
    if let Some(node) = node {
        let pods = FeedSelection::all_of::<core::Pod>(Feed::Clients, "pods");
        all.push(pods.with_field("spec.nodeName", node));
    }
    all
}

/// The objects that show which pods answer DNS. They are a part of [`policies`].
pub(super) fn dns_path(scope: &PolicyScope) -> Vec<FeedSelection> {
    let read = [Feed::DnsService, Feed::DnsEndpoints, Feed::Clients];
    let mut selections = policies(scope);
    selections.retain(|selection| read.contains(&selection.feed));
    selections
}

/// The Services of a namespace. NodeLocal DNSCache may forward queries to one of them.
pub(super) fn upstream_services(namespace: &str) -> FeedSelection {
    FeedSelection::all_of::<core::Service>(Feed::UpstreamServices, "services")
        .in_namespace::<core::Service>(namespace)
}

/// The Pods with these labels in a namespace.
pub(super) fn dns_pods(namespace: &str, labels: &Labels) -> FeedSelection {
    let mut pods = FeedSelection::all_of::<core::Pod>(Feed::DnsPods, "pods")
        .in_namespace::<core::Pod>(namespace);
    for (key, value) in labels {
        pods = pods.with_labels(format!("{key}={value}"));
    }
    pods
}

/// All Namespaces, without a selector, because policies select clients by the labels of namespaces.
pub(super) fn all_namespaces() -> FeedSelection {
    FeedSelection::all_of::<core::Namespace>(Feed::ClientNamespaces, "namespaces")
}

/// The policies of another kind than NetworkPolicy, in this version of their API group.
pub(super) fn other_policies(kind: PolicyKind, version: &str) -> FeedSelection {
    FeedSelection {
        feed: Feed::OtherPolicies(kind),
        resource: kind.resource(),
        namespace: None,
        path: format!("/apis/{}/{version}/{}", kind.group(), kind.plural()),
        labels: Vec::new(),
        fields: None,
        covers: None,
    }
}

/// A ConfigMap with the configuration of CoreDNS or NodeLocal DNSCache.
pub(super) fn config_map(key: &ObjectKey) -> FeedSelection {
    let maps = FeedSelection::all_of::<core::ConfigMap>(Feed::ConfigMap, "configmaps");
    let maps = maps.in_namespace::<core::ConfigMap>(&key.namespace);
    maps.with_field("metadata.name", &key.name)
}

/// All Services. The feed reports those with UDP port 53.
pub(super) fn dns_candidates() -> FeedSelection {
    FeedSelection::all_of::<core::Service>(Feed::DnsCandidates, "services")
}

fn slices(feed: Feed) -> FeedSelection {
    FeedSelection::all_of::<discovery::EndpointSlice>(feed, "endpointslices.discovery.k8s.io")
}

impl FeedSelection {
    /// The request for a complete list. It sets no `limit`: if a list request has a resource
    /// version and no limit, API servers of all versions answer it from memory.
    pub(super) fn list_request(
        &self,
        version: &ResourceVersion,
    ) -> Result<Request<Vec<u8>>, request::Error> {
        let mut params = ListParams {
            label_selector: self.label_selector(),
            field_selector: self.fields.clone(),
            ..ListParams::default()
        };
        if *version != ResourceVersion::Newest {
            params = params
                .at(version.parameter())
                .matching(VersionMatch::NotOlderThan);
        }
        RequestPath::new(&self.path).list(&params)
    }

    /// The request for the changes after a resource version.
    pub(super) fn watch_request(&self, version: &str) -> Result<Request<Vec<u8>>, request::Error> {
        RequestPath::new(&self.path).watch(&self.watch_params(), version)
    }

    /// The request for a list that arrives as the initial events of a watch.
    pub(super) fn streamed_list_request(
        &self,
        version: &ResourceVersion,
    ) -> Result<Request<Vec<u8>>, request::Error> {
        let params = WatchParams {
            send_initial_events: true,
            ..self.watch_params()
        };
        RequestPath::new(&self.path).watch(&params, version.parameter())
    }

    fn watch_params(&self) -> WatchParams {
        let seconds = (WATCH_DURATION + jitter(WATCH_DURATION)).as_secs();
        WatchParams {
            label_selector: self.label_selector(),
            field_selector: self.fields.clone(),
            timeout: u32::try_from(seconds).ok(),
            bookmarks: true,
            send_initial_events: false,
        }
    }

    fn label_selector(&self) -> Option<String> {
        (!self.labels.is_empty()).then(|| self.labels.join(","))
    }

    fn all_of<K: Resource<DynamicType = ()>>(feed: Feed, resource: &'static str) -> FeedSelection {
        FeedSelection {
            feed,
            resource,
            namespace: None,
            path: K::url_path(&(), None),
            labels: Vec::new(),
            fields: None,
            covers: None,
        }
    }

    /// Narrows the selection to the EndpointSlices of these Services, for the feed `feed`.
    pub(super) fn of_services(self, feed: Feed, covered: Covered) -> FeedSelection {
        let selector = match &covered {
            Covered::Every => String::new(),
            Covered::Named(names) => {
                let names: Vec<&str> = names.iter().map(|name| &**name).collect();
                format!("{SERVICE_NAME} in ({})", names.join(","))
            }
        };
        FeedSelection {
            feed,
            covers: Some(covered),
            ..self.with_labels(selector)
        }
    }

    fn in_namespace<K: Resource<DynamicType = ()>>(self, namespace: &str) -> FeedSelection {
        FeedSelection {
            namespace: Some(namespace.to_owned()),
            path: K::url_path(&(), Some(namespace)),
            ..self
        }
    }

    /// Adds a label selector, which must match too.
    fn with_labels(mut self, selector: impl Into<String>) -> FeedSelection {
        self.labels.push(selector.into());
        // A selector without conditions is an empty string.
        self.labels.retain(|selector| !selector.is_empty());
        self
    }

    fn with_field(self, field: &str, value: &str) -> FeedSelection {
        FeedSelection {
            fields: Some(format!("{field}={value}")),
            ..self
        }
    }
}

impl ResourceVersion {
    /// The value of the request's `resourceVersion` parameter.
    fn parameter(&self) -> &str {
        match self {
            ResourceVersion::Any => "0",
            ResourceVersion::Seen(version) => version,
            ResourceVersion::Newest => "",
        }
    }
}
