//! Objects as lists and watches bring them, read into events.

use std::{borrow::Cow, time::SystemTime};

use k8s_openapi::{
    api::{core::v1 as core, discovery::v1 as discovery, networking::v1 as networking},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::core::Status;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::value::RawValue;

use crate::{
    cluster::{
        ApiObject, ApiPod, EndpointSlice, Fact, Key, MapData, NodeCache, Object, OtherPolicy,
        Problem, Service,
    },
    source::{Event, Feed, Updates, Written},
};

/// The key of the ConfigMap's text that CoreDNS reads.
const COREFILE: &str = "Corefile";
/// What is in the JSON of every Pod that may be a node cache.
const LOCAL_IP: &[u8] = b"-localip";

/// An object's JSON.
pub(super) struct Item<'a> {
    feed: Feed,
    json: &'a [u8],
    metadata: Metadata,
}

/// What a watch's line says.
pub(super) enum Change<'a> {
    /// An object is there, new or changed.
    Applied(Item<'a>),
    /// An object is gone, or not selected any more.
    Deleted(Item<'a>),
    /// All changes up to this version were told.
    Bookmark(String),
    /// All objects that existed at this version were told.
    InitialEnd(String),
    /// The watch can't go on.
    Error(Status),
    /// It makes no sense.
    Unreadable(Problem),
}

/// Whatever can be read of an object's metadata.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Metadata {
    namespace: String,
    name: String,
    resource_version: String,
    annotations: Option<Annotations>,
    labels: Option<Labels>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Labels {
    /// The service that a slice belongs to.
    #[serde(rename = "kubernetes.io/service-name")]
    service: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Annotations {
    /// When the change happened that a slice was written for.
    #[serde(rename = "endpoints.kubernetes.io/last-change-trigger-time")]
    changed: Option<String>,
    /// Marks the bookmark after a watch's first events.
    #[serde(rename = "k8s.io/initial-events-end")]
    initial_end: Option<String>,
}

impl<'a> Item<'a> {
    pub(super) fn new(feed: Feed, json: &'a [u8]) -> Item<'a> {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Outline {
            metadata: Metadata,
        }
        // Where this fails the object as a whole will, and says why.
        let Outline { metadata } = serde_json::from_slice(json).unwrap_or_default();
        Item {
            feed,
            json,
            metadata,
        }
    }

    /// The version of the object, which is that of the change too; none if it can't be read.
    pub(super) fn version(&self) -> Option<&str> {
        Some(self.metadata.resource_version.as_str()).filter(|version| !version.is_empty())
    }

    /// It is there.
    pub(super) fn applied(&self) -> Event {
        let object = match self.feed {
            Feed::Namespaces => self.object::<core::Namespace>(),
            Feed::Services => self.object::<core::Service>(),
            Feed::Slices(_) | Feed::DnsSlices => self.object::<discovery::EndpointSlice>(),
            Feed::Pods => self.object::<ApiPod>(),
            Feed::Policies => self.object::<networking::NetworkPolicy>(),
            Feed::Clients | Feed::DnsPods => self.pod(),
            Feed::DnsNamespace | Feed::ClientNamespaces => self.fact(Fact::of_namespace),
            Feed::OtherPolicies(kind) => {
                self.fact(|object| OtherPolicy::of(kind, object).map(Fact::Other))
            }
            // It is no list of objects.
            Feed::PolicyKinds => Err(self.problem("kind", "is not expected here".into())),
            Feed::DnsService | Feed::UpstreamServices => self.fact(Fact::of_service),
            Feed::DnsEndpoints => self.fact(Fact::of_slice),
            Feed::Corefile => return self.corefile(),
            Feed::CacheConfig => return self.cache_config(),
        };
        match object {
            Ok(object) => Event::Applied {
                feed: self.feed,
                object,
                changed: self.changed(),
            },
            Err(problem) => Event::Unusable {
                feed: self.feed,
                problem,
                stand_in: self.stand_in(),
            },
        }
    }

    /// It is gone.
    pub(super) fn deleted(&self) -> Event {
        if let Some(absent) = Event::absent(self.feed) {
            return absent;
        }
        if self.metadata.name.is_empty() {
            let problem = self.problem("metadata.name", "can't be read".into());
            return Event::unusable(self.feed, problem);
        }
        Event::Deleted {
            feed: self.feed,
            key: Key::new(&*self.metadata.namespace, &*self.metadata.name),
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

    fn corefile(&self) -> Event {
        match self.parse::<core::ConfigMap>() {
            Ok(map) => Event::Corefile {
                written: written(&map.metadata),
                updates: updates(&map),
                text: texts(map).remove(COREFILE),
            },
            Err(problem) => Event::unusable(self.feed, problem),
        }
    }

    fn cache_config(&self) -> Event {
        match self.parse::<core::ConfigMap>() {
            Ok(map) => Event::CacheConfig {
                written: written(&map.metadata),
                updates: updates(&map),
                data: Some(texts(map)),
            },
            Err(problem) => Event::unusable(self.feed, problem),
        }
    }

    /// A Pod as one that may ask or is asked, and as a node cache. Only a Pod that may be one is read
    /// whole.
    fn pod(&self) -> Result<Object, Problem> {
        let mut fact = Fact::of_pod(&self.parse::<ApiPod>()?)?;
        let is_candidate = self
            .json
            .windows(LOCAL_IP.len())
            .any(|octets| octets == LOCAL_IP);
        if let (Fact::Pod(pod), true) = (&mut fact, is_candidate) {
            let cache = match self.parse::<core::Pod>() {
                Ok(whole) => NodeCache::of_pod(&whole),
                Err(_) => Some(NodeCache::unreadable("its Pod can't be read")),
            };
            pod.node_cache = cache.map(Box::new);
        }
        Ok(Object::Fact(fact))
    }

    /// What leaves the names that it may make to somebody else.
    fn stand_in(&self) -> Option<Object> {
        let Metadata {
            namespace,
            name,
            labels,
            ..
        } = &self.metadata;
        if name.is_empty() {
            return None;
        }
        let key = Key::new(&**namespace, &**name);
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

    fn changed(&self) -> Option<SystemTime> {
        let text = self.metadata.annotations.as_ref()?.changed.as_ref()?;
        humantime::parse_rfc3339(text).ok()
    }

    fn problem(&self, field: &str, reason: String) -> Problem {
        Problem {
            kind: kind(self.feed),
            namespace: self.metadata.namespace.clone(),
            name: self.metadata.name.clone(),
            field: field.to_owned(),
            reason,
        }
    }
}

impl<'a> Change<'a> {
    pub(super) fn new(feed: Feed, line: &'a [u8]) -> Change<'a> {
        #[derive(Deserialize)]
        struct Line<'a> {
            #[serde(borrow, rename = "type")]
            verb: Cow<'a, str>,
            #[serde(borrow)]
            object: &'a RawValue,
        }
        let Line { verb, object } = match serde_json::from_slice(line) {
            Ok(line) => line,
            Err(error) => return Change::unreadable(feed, &error.to_string()),
        };
        let item = Item::new(feed, object.get().as_bytes());
        match verb.as_ref() {
            "ADDED" | "MODIFIED" => Change::Applied(item),
            "DELETED" => Change::Deleted(item),
            "BOOKMARK" => {
                let Metadata {
                    resource_version,
                    annotations,
                    ..
                } = item.metadata;
                match annotations
                    .and_then(|annotations| annotations.initial_end)
                    .as_deref()
                {
                    Some("true") => Change::InitialEnd(resource_version),
                    _ => Change::Bookmark(resource_version),
                }
            }
            "ERROR" => match serde_json::from_str(object.get()) {
                Ok(status) => Change::Error(status),
                Err(error) => Change::Error(Status::failure(
                    &format!("an error that can't be read: {error}"),
                    "Unknown",
                )),
            },
            other => Change::unreadable(feed, &format!("{other:?} is no type of event")),
        }
    }

    fn unreadable(feed: Feed, reason: &str) -> Change<'static> {
        let event = Item {
            feed,
            json: &[],
            metadata: Metadata::default(),
        };
        Change::Unreadable(
            event.problem("type", format!("a watch's event can't be read: {reason}")),
        )
    }
}

/// When an object was written last, as far as it says so.
fn written(metadata: &ObjectMeta) -> Option<Written> {
    let made = metadata.creation_timestamp.as_ref()?;
    let fields = metadata.managed_fields.iter().flatten();
    let edited = fields.filter_map(|fields| fields.time.as_ref()).max();
    Some(match edited.filter(|edited| *edited > made) {
        Some(edited) => Written::Edited(edited.0.into()),
        None => Written::Made(made.0.into()),
    })
}

fn updates(map: &core::ConfigMap) -> Updates {
    match map.immutable {
        Some(true) => Updates::Never,
        _ => Updates::Brought,
    }
}

/// All that a ConfigMap holds. What is no UTF-8 stands in `binaryData`, and is a file in pods like the
/// rest; octets that are none become U+FFFD.
fn texts(map: core::ConfigMap) -> MapData {
    let binary = map.binary_data.into_iter().flatten();
    let binary = binary.map(|(key, octets)| {
        let text = String::from_utf8_lossy(&octets.0).into_owned();
        (key, text)
    });
    map.data.into_iter().flatten().chain(binary).collect()
}

fn kind(feed: Feed) -> &'static str {
    match feed {
        Feed::Namespaces | Feed::DnsNamespace | Feed::ClientNamespaces => "Namespace",
        Feed::Services | Feed::DnsService | Feed::UpstreamServices => "Service",
        Feed::Slices(_) | Feed::DnsSlices | Feed::DnsEndpoints => "EndpointSlice",
        Feed::Pods | Feed::Clients | Feed::DnsPods => "Pod",
        Feed::Policies => "NetworkPolicy",
        Feed::OtherPolicies(kind) => kind.name(),
        Feed::PolicyKinds => "APIGroup",
        Feed::Corefile | Feed::CacheConfig => "ConfigMap",
    }
}
