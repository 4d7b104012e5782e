//! Converts the objects in lists and watches to events.

use std::{borrow::Cow, time::SystemTime};

use k8s_openapi::{
    api::{core::v1 as core, discovery::v1 as discovery, networking::v1 as networking},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::core::Status;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use zerohop_kubernetes::{
    ApiObject, ApiPod, ConfigMapData, ConfigMapUpdates, DnsContainers, EndpointSlice, Event, Fact,
    Feed, NodeCache, Object, ObjectKey, OtherPolicy, Problem, Service, WriteTime,
};

/// An option of NodeLocal DNSCache. The JSON of every Pod that may be NodeLocal DNSCache contains
/// it.
const LOCAL_IP: &[u8] = b"-localip";

/// The JSON of one object.
pub(super) struct ObjectJson<'a> {
    feed: Feed,
    json: &'a [u8],
    metadata: ReadableMetadata,
}

/// One line of a watch's body.
pub(super) enum WatchEvent<'a> {
    /// An object was created or changed.
    Applied(ObjectJson<'a>),
    /// An object was deleted, or no longer matches the feed's selectors.
    Deleted(ObjectJson<'a>),
    /// All changes up to this resource version have been sent.
    Bookmark(String),
    /// All objects that existed at this resource version have been sent.
    InitialEnd(String),
    /// The watch failed.
    Error(Status),
    /// The line can't be parsed, or has an unknown type.
    Unreadable(Problem),
}

/// The fields of an object's metadata that this module reads. All are empty if the metadata can't
/// be parsed.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ReadableMetadata {
    namespace: String,
    name: String,
    resource_version: String,
    annotations: Option<ObjectAnnotations>,
    labels: Option<SliceLabels>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct SliceLabels {
    /// The Service that an EndpointSlice belongs to.
    #[serde(rename = "kubernetes.io/service-name")]
    service: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ObjectAnnotations {
    /// The time of the change that an EndpointSlice was written for (RFC 3339).
    #[serde(rename = "endpoints.kubernetes.io/last-change-trigger-time")]
    changed: Option<String>,
    /// Marks the bookmark after the initial events of a streamed list.
    #[serde(rename = "k8s.io/initial-events-end")]
    initial_end: Option<String>,
}

impl<'a> ObjectJson<'a> {
    pub(super) fn new(feed: Feed, json: &'a [u8]) -> ObjectJson<'a> {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct ObjectOutline {
            metadata: ReadableMetadata,
        }
        // If this fails, parsing the whole object generally fails too, and reports the reason.
        let ObjectOutline { metadata } = serde_json::from_slice(json).unwrap_or_default();
        ObjectJson {
            feed,
            json,
            metadata,
        }
    }

    /// The resource version of the object, which is also the version of its last change. `None` if
    /// it can't be read.
    pub(super) fn resource_version(&self) -> Option<&str> {
        Some(self.metadata.resource_version.as_str()).filter(|version| !version.is_empty())
    }

    /// The event for a new, changed or listed object.
    pub(super) fn applied_event(&self) -> Event {
        let object = match self.feed {
            Feed::Namespaces => self.object::<core::Namespace>(),
            Feed::Services => self.object::<core::Service>(),
            Feed::Slices(_) | Feed::DnsSlices => self.object::<discovery::EndpointSlice>(),
            Feed::Pods => self.object::<ApiPod>(),
            Feed::Policies => self.object::<networking::NetworkPolicy>(),
            Feed::Clients | Feed::DnsPods => self.pod(),
            Feed::DnsNamespace | Feed::ClientNamespaces => self.fact(Fact::from_namespace),
            Feed::OtherPolicies(kind) => {
                self.fact(|object| OtherPolicy::from_object(kind, object).map(Fact::OtherPolicy))
            }
            // This feed has no objects.
            Feed::PolicyKinds => Err(self.problem("kind", "is unexpected here".into())),
            Feed::DnsService | Feed::UpstreamServices => self.fact(Fact::from_service),
            Feed::DnsEndpoints => self.fact(Fact::from_slice),
            Feed::ConfigMap => return self.config_map(),
            Feed::DnsCandidates => return self.dns_candidate(),
        };
        match object {
            Ok(object) => Event::Applied {
                feed: self.feed,
                object,
                changed: self.change_time(),
            },
            Err(problem) => Event::Unusable {
                feed: self.feed,
                problem,
                placeholder: self.placeholder(),
            },
        }
    }

    /// The event for a deleted object. For the feed of a ConfigMap, it reports that the ConfigMap
    /// doesn't exist.
    pub(super) fn deleted_event(&self) -> Event {
        if let Some(absent) = Event::absent(self.feed) {
            return absent;
        }
        if self.metadata.name.is_empty() {
            let problem = self.problem("metadata.name", "can't be read".into());
            return Event::unusable(self.feed, problem);
        }
        Event::Deleted {
            feed: self.feed,
            key: ObjectKey::new(&*self.metadata.namespace, &*self.metadata.name),
        }
    }

    fn object<K: ApiObject>(&self) -> Result<Object, Problem> {
        self.parse::<K>()?.try_into()
    }

    fn fact<K: DeserializeOwned>(
        &self,
        read: impl FnOnce(&K) -> Result<Fact, Problem>,
    ) -> Result<Object, Problem> {
        read(&self.parse::<K>()?).map(Object::Fact)
    }

    fn config_map(&self) -> Event {
        match self.parse::<core::ConfigMap>() {
            Ok(map) => Event::ConfigMap {
                written: write_time(&map.metadata),
                updates: config_map_updates(&map),
                data: Some(config_map_data(map)),
            },
            Err(problem) => Event::unusable(self.feed, problem),
        }
    }

    /// Reads a Service that may be the cluster's DNS. Other Services count as deleted.
    fn dns_candidate(&self) -> Event {
        let feed = self.feed;
        match self.fact(Fact::from_service) {
            Ok(Object::Fact(Fact::Service(service))) if service.may_be_dns() => Event::Applied {
                feed,
                object: Object::Fact(Fact::Service(service)),
                changed: None,
            },
            Ok(_) => self.deleted_event(),
            Err(problem) => Event::unusable(feed, problem),
        }
    }

    /// Reads a Pod as a DNS client or server, and as NodeLocal DNSCache. The complete Pod is parsed
    /// only if it may be NodeLocal DNSCache.
    fn pod(&self) -> Result<Object, Problem> {
        let mut fact = Fact::from_pod(&self.parse::<ApiPod>()?)?;
        let is_candidate = self
            .json
            .windows(LOCAL_IP.len())
            .any(|bytes| bytes == LOCAL_IP);
        if let (Fact::Pod(pod), true) = (&mut fact, is_candidate) {
            let cache = match self.parse::<core::Pod>() {
                Ok(whole) => NodeCache::find_in_pod(&whole),
                Err(_) => Some(NodeCache::unreadable("its Pod can't be read")),
            };
            pod.node_cache = cache.map(Box::new);
        }
        if let (Fact::Pod(pod), Feed::DnsPods) = (&mut fact, self.feed) {
            let whole = self.parse::<core::Pod>()?;
            pod.dns_containers = Some(Box::new(DnsContainers::of_pod(&whole)));
        }
        Ok(Object::Fact(fact))
    }

    /// A placeholder that delegates this object's names to CoreDNS. `None` for feeds other than
    /// [`Feed::Services`], [`Feed::Slices`] and [`Feed::DnsSlices`], for an object without a
    /// readable name, and for an EndpointSlice without a readable Service.
    fn placeholder(&self) -> Option<Object> {
        let ReadableMetadata {
            namespace,
            name,
            labels,
            ..
        } = &self.metadata;
        if name.is_empty() {
            return None;
        }
        let key = ObjectKey::new(&**namespace, &**name);
        match self.feed {
            Feed::Services => Some(Object::Service(Service::unreadable(key))),
            Feed::Slices(_) | Feed::DnsSlices => {
                let service = labels.as_ref()?.service.as_deref()?.into();
                let slice = EndpointSlice::unreadable(key, Some(service));
                Some(Object::EndpointSlice(slice))
            }
            _ => None,
        }
    }

    fn parse<K: DeserializeOwned>(&self) -> Result<K, Problem> {
        let mut json = serde_json::Deserializer::from_slice(self.json);
        serde_path_to_error::deserialize(&mut json).map_err(|error| {
            let field = error.path().to_string();
            self.problem(&field, error.into_inner().to_string())
        })
    }

    fn change_time(&self) -> Option<SystemTime> {
        let text = self.metadata.annotations.as_ref()?.changed.as_ref()?;
        humantime::parse_rfc3339(text).ok()
    }

    fn problem(&self, field: &str, reason: String) -> Problem {
        Problem {
            kind: object_kind(self.feed),
            namespace: self.metadata.namespace.clone(),
            name: self.metadata.name.clone(),
            field: field.to_owned(),
            reason,
        }
    }
}

impl<'a> WatchEvent<'a> {
    pub(super) fn new(feed: Feed, line: &'a [u8]) -> WatchEvent<'a> {
        #[derive(Deserialize)]
        struct WatchLine<'a> {
            #[serde(borrow, rename = "type")]
            event_type: Cow<'a, str>,
            #[serde(borrow)]
            object: &'a RawValue,
        }
        let WatchLine { event_type, object } = match serde_json::from_slice(line) {
            Ok(line) => line,
            Err(error) => return WatchEvent::unreadable(feed, &error.to_string()),
        };
        let object_json = ObjectJson::new(feed, object.get().as_bytes());
        match event_type.as_ref() {
            "ADDED" | "MODIFIED" => WatchEvent::Applied(object_json),
            "DELETED" => WatchEvent::Deleted(object_json),
            "BOOKMARK" => {
                let ReadableMetadata {
                    resource_version,
                    annotations,
                    ..
                } = object_json.metadata;
                match annotations
                    .and_then(|annotations| annotations.initial_end)
                    .as_deref()
                {
                    Some("true") => WatchEvent::InitialEnd(resource_version),
                    _ => WatchEvent::Bookmark(resource_version),
                }
            }
            "ERROR" => match serde_json::from_str(object.get()) {
                Ok(status) => WatchEvent::Error(status),
                Err(error) => WatchEvent::Error(Status::failure(
                    &format!("an unreadable error: {error}"),
                    "Unknown",
                )),
            },
            other => WatchEvent::unreadable(feed, &format!("unknown event type {other:?}")),
        }
    }

    fn unreadable(feed: Feed, reason: &str) -> WatchEvent<'static> {
        let object = ObjectJson {
            feed,
            json: &[],
            metadata: ReadableMetadata::default(),
        };
        WatchEvent::Unreadable(
            object.problem("type", format!("can't parse a watch event: {reason}")),
        )
    }
}

/// When an object was created or, if later, last edited. `None` if its metadata has no creation
/// time.
fn write_time(metadata: &ObjectMeta) -> Option<WriteTime> {
    let created = metadata.creation_timestamp.as_ref()?;
    let fields = metadata.managed_fields.iter().flatten();
    let edited = fields.filter_map(|fields| fields.time.as_ref()).max();
    Some(match edited.filter(|edited| *edited > created) {
        Some(edited) => WriteTime::Edited(edited.0.into()),
        None => WriteTime::Created(created.0.into()),
    })
}

fn config_map_updates(map: &core::ConfigMap) -> ConfigMapUpdates {
    match map.immutable {
        Some(true) => ConfigMapUpdates::Never,
        _ => ConfigMapUpdates::Propagated,
    }
}

/// All entries of a ConfigMap. Entries of `binaryData` become files in Pods like entries of `data`,
/// but need not be UTF-8. Invalid UTF-8 becomes U+FFFD.
fn config_map_data(map: core::ConfigMap) -> ConfigMapData {
    let binary = map.binary_data.into_iter().flatten();
    let binary = binary.map(|(key, bytes)| {
        let text = String::from_utf8_lossy(&bytes.0).into_owned();
        (key, text)
    });
    map.data.into_iter().flatten().chain(binary).collect()
}

fn object_kind(feed: Feed) -> &'static str {
    match feed {
        Feed::Namespaces | Feed::DnsNamespace | Feed::ClientNamespaces => "Namespace",
        Feed::Services | Feed::DnsService | Feed::DnsCandidates | Feed::UpstreamServices => {
            "Service"
        }
        Feed::Slices(_) | Feed::DnsSlices | Feed::DnsEndpoints => "EndpointSlice",
        Feed::Pods | Feed::Clients | Feed::DnsPods => "Pod",
        Feed::Policies => "NetworkPolicy",
        Feed::OtherPolicies(kind) => kind.name(),
        Feed::PolicyKinds => "APIGroup",
        Feed::ConfigMap => "ConfigMap",
    }
}
