//! What each feed asks the API server for.

use std::time::Duration;

use hyper::Request;
use k8s_openapi::api::{
    core::v1 as core, discovery::v1 as discovery, networking::v1 as networking,
};
use kube::{
    Resource,
    api::{ListParams, VersionMatch, WatchParams},
    core::{Request as Path, request},
};

use super::{Options, PodScope, PolicyScope, backoff::jitter};
use crate::{
    cluster::{Covered, Endpoints, Key, Labels, PolicyKind},
    source::Feed,
};

/// The label of an EndpointSlice that says whose it is, to CoreDNS too.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Watches end themselves after one to two times this, as client-go's do: so many watches that were opened
/// together, as when an API server started, don't stay together.
const WATCH: Duration = Duration::from_secs(300);

/// The objects of one feed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Selection {
    /// Who tells of them.
    pub(super) feed: Feed,
    /// Their resource as RBAC names it, with its group.
    pub(super) resource: &'static str,
    /// The namespace they are in, if only one is asked for.
    pub(super) namespace: Option<String>,
    path: String,
    /// Label selectors, all of which must hold.
    labels: Vec<String>,
    /// The field selector.
    fields: Option<String>,
    /// Of which Services these are all EndpointSlices, where that is to be reported.
    pub(super) covers: Option<Covered>,
}

/// How old a listed state may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Since {
    /// Any state will do: nothing has been seen yet.
    Any,
    /// Not older than this version, or time would go backwards.
    Seen(String),
    /// The newest: the API server doesn't have the version that was seen, or not yet.
    Newest,
}

/// All that is to be read, but for the slices of headless Services.
pub(super) fn all(options: &Options) -> Vec<Selection> {
    let objects = options.selectors.objects.to_string();
    let mut all = vec![
        Selection::of::<core::Namespace>(Feed::Namespaces, "namespaces")
            .labelled(options.selectors.namespaces.to_string()),
        Selection::of::<core::Service>(Feed::Services, "services").labelled(&objects),
    ];
    if options.endpoints == Endpoints::All {
        all.push(slices(Feed::SLICES).labelled(&objects));
    }
    if let (Endpoints::Headless, Some(dns)) = (options.endpoints, &options.dns) {
        let service = format!("{SERVICE_NAME}={}", dns.name);
        let slices = slices(Feed::DnsSlices).within::<discovery::EndpointSlice>(&dns.namespace);
        all.push(slices.labelled(service));
    }
    if let Some(scope) = &options.pods {
        let pods = Selection::of::<core::Pod>(Feed::Pods, "pods").labelled(&objects);
        all.push(match scope {
            PodScope::Node(node) => pods.with_field("spec.nodeName", node),
            PodScope::All => pods,
        });
    }
    all
}

/// The slices that are to be read of headless Services; which Services' is to be added.
pub(super) fn slices_of_services(options: &Options) -> Option<Selection> {
    let is_wanted = options.endpoints == Endpoints::Headless;
    is_wanted.then(|| slices(Feed::SLICES).labelled(options.selectors.objects.to_string()))
}

/// What says which pods may ask the cluster's DNS, but for the pods of that.
pub(super) fn policies(scope: &PolicyScope) -> Vec<Selection> {
    let PolicyScope { node, dns } = scope;
    let policies = "networkpolicies.networking.k8s.io";
    let mut all = vec![
        Selection::of::<networking::NetworkPolicy>(Feed::Policies, policies),
        Selection::of::<core::Namespace>(Feed::DnsNamespace, "namespaces")
            .with_field("metadata.name", &dns.namespace),
        Selection::of::<core::Service>(Feed::DnsService, "services")
            .within::<core::Service>(&dns.namespace)
            .with_field("metadata.name", &dns.name),
        slices(Feed::DnsEndpoints)
            .within::<discovery::EndpointSlice>(&dns.namespace)
            .labelled(format!("{SERVICE_NAME}={}", dns.name)),
    ];
    if let Some(node) = node {
        let pods = Selection::of::<core::Pod>(Feed::Clients, "pods");
        all.push(pods.with_field("spec.nodeName", node));
    }
    all
}

/// What says which pods stand between this node's pods and CoreDNS, where [`policies`] aren't read.
pub(super) fn dns_path(scope: &PolicyScope) -> Vec<Selection> {
    let read = [Feed::DnsService, Feed::Clients];
    let mut selections = policies(scope);
    selections.retain(|selection| read.contains(&selection.feed));
    selections
}

/// The Services of a namespace, which a node cache may ask.
pub(super) fn upstream_services(namespace: &str) -> Selection {
    Selection::of::<core::Service>(Feed::UpstreamServices, "services")
        .within::<core::Service>(namespace)
}

/// A ConfigMap with configuration of a node cache.
pub(super) fn cache_config(key: &Key) -> Selection {
    config_map(Feed::CacheConfig, key)
}

/// The Pods with these labels in a namespace.
pub(super) fn dns_pods(namespace: &str, labels: &Labels) -> Selection {
    let mut pods = Selection::of::<core::Pod>(Feed::DnsPods, "pods").within::<core::Pod>(namespace);
    for (key, value) in labels {
        pods = pods.labelled(format!("{key}={value}"));
    }
    pods
}

/// All Namespaces, with their labels.
pub(super) fn client_namespaces() -> Selection {
    Selection::of::<core::Namespace>(Feed::ClientNamespaces, "namespaces")
}

/// The policies of a kind that is not evaluated, in this version of their group.
pub(super) fn other_policies(kind: PolicyKind, version: &str) -> Selection {
    Selection {
        feed: Feed::OtherPolicies(kind),
        resource: kind.resource(),
        namespace: None,
        path: format!("/apis/{}/{version}/{}", kind.group(), kind.plural()),
        labels: Vec::new(),
        fields: None,
        covers: None,
    }
}

/// The ConfigMap that holds CoreDNS's configuration.
pub(super) fn corefile(key: &Key) -> Selection {
    config_map(Feed::Corefile, key)
}

fn config_map(feed: Feed, key: &Key) -> Selection {
    let maps = Selection::of::<core::ConfigMap>(feed, "configmaps");
    let maps = maps.within::<core::ConfigMap>(&key.namespace);
    maps.with_field("metadata.name", &key.name)
}

fn slices(feed: Feed) -> Selection {
    Selection::of::<discovery::EndpointSlice>(feed, "endpointslices.discovery.k8s.io")
}

impl Selection {
    /// The request for a list: whole, without a limit, which API servers of all versions answer from memory.
    pub(super) fn list(&self, since: &Since) -> Result<Request<Vec<u8>>, request::Error> {
        let mut params = ListParams {
            label_selector: self.label_selector(),
            field_selector: self.fields.clone(),
            ..ListParams::default()
        };
        if *since != Since::Newest {
            params = params
                .at(since.version())
                .matching(VersionMatch::NotOlderThan);
        }
        Path::new(&self.path).list(&params)
    }

    /// The request for the changes after a version.
    pub(super) fn watch(&self, version: &str) -> Result<Request<Vec<u8>>, request::Error> {
        Path::new(&self.path).watch(&self.watch_params(), version)
    }

    /// The request for a list that comes as a watch's first events.
    pub(super) fn streamed_list(&self, since: &Since) -> Result<Request<Vec<u8>>, request::Error> {
        let params = WatchParams {
            send_initial_events: true,
            ..self.watch_params()
        };
        Path::new(&self.path).watch(&params, since.version())
    }

    fn watch_params(&self) -> WatchParams {
        let seconds = (WATCH + jitter(WATCH)).as_secs();
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

    fn of<K: Resource<DynamicType = ()>>(feed: Feed, resource: &'static str) -> Selection {
        Selection {
            feed,
            resource,
            namespace: None,
            path: K::url_path(&(), None),
            labels: Vec::new(),
            fields: None,
            covers: None,
        }
    }

    /// Those of them that belong to these Services, as a feed of its own.
    pub(super) fn of_services(self, feed: Feed, covered: Covered) -> Selection {
        let selector = match &covered {
            Covered::Every => String::new(),
            Covered::Named(names) => {
                let names: Vec<&str> = names.iter().map(|name| &**name).collect();
                format!("{SERVICE_NAME} in ({})", names.join(","))
            }
        };
        Selection {
            feed,
            covers: Some(covered),
            ..self.labelled(selector)
        }
    }

    fn within<K: Resource<DynamicType = ()>>(self, namespace: &str) -> Selection {
        Selection {
            namespace: Some(namespace.to_owned()),
            path: K::url_path(&(), Some(namespace)),
            ..self
        }
    }

    /// The labels must fulfil this as well.
    fn labelled(mut self, selector: impl Into<String>) -> Selection {
        self.labels.push(selector.into());
        // A selector without conditions has no text.
        self.labels.retain(|selector| !selector.is_empty());
        self
    }

    fn with_field(self, field: &str, value: &str) -> Selection {
        Selection {
            fields: Some(format!("{field}={value}")),
            ..self
        }
    }
}

impl Since {
    /// How it is asked for.
    fn version(&self) -> &str {
        match self {
            Since::Any => "0",
            Since::Seen(version) => version,
            Since::Newest => "",
        }
    }
}
