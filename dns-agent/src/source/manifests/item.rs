//! Objects read where an outline says they are.

use std::fmt;

use k8s_openapi::api::{
    core::v1::{Namespace, Service},
    discovery::v1::EndpointSlice,
    networking::v1::NetworkPolicy,
};
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_saphyr::Spanned;
use tracing::debug;

use super::{
    LineError,
    outline::{Mapping, Outline},
};
use crate::cluster::{
    ApiObject, ApiPod, Fact, Feed, Key, Labels, Object, OtherPolicy, PolicyKind, Problem,
};

/// What is to be read at a node of a document.
pub(super) struct Item<'a> {
    outline: &'a Spanned<Outline>,
    kind: Kind<'a>,
}

/// The kinds that matter, and the rest.
enum Kind<'a> {
    Namespace,
    Service,
    EndpointSlice,
    Pod,
    NetworkPolicy,
    /// A policy of a kind that is not evaluated.
    OtherPolicy(PolicyKind),
    List(Vec<Item<'a>>),
    /// A kind without records of its own, or nothing at all.
    Ignored,
}

/// An object with its labels, or what is wrong with it.
type Found = Result<(Object, Labels), LineError>;

impl<'a> Item<'a> {
    /// Finds out which objects a document holds.
    pub(super) fn of(outline: &'a Spanned<Outline>) -> Result<Item<'a>, LineError> {
        let kind = match &outline.value {
            Outline::Empty => Kind::Ignored,
            Outline::Mapping(mapping) => {
                let Some(kind) = mapping.kind.as_deref() else {
                    return Err(LineError::at(
                        outline,
                        "is no Kubernetes object: it has no `kind`",
                    ));
                };
                let Some(api_version) = mapping.api_version.as_deref() else {
                    return Err(LineError::at(
                        outline,
                        format!("the {kind} has no `apiVersion`"),
                    ));
                };
                Kind::new(api_version, kind, mapping)?
            }
            Outline::Sequence(_) | Outline::Scalar => {
                return Err(LineError::at(
                    outline,
                    "is no Kubernetes object: it must be a mapping with `apiVersion` and `kind`",
                ));
            }
        };
        Ok(Item { outline, kind })
    }

    /// An entry of a list of one kind, which need not say its kind again.
    fn of_kind(outline: &'a Spanned<Outline>, kind: Kind<'a>) -> Item<'a> {
        Item { outline, kind }
    }

    /// What reads the item's objects into `found`.
    pub(super) fn reader<'f>(&'a self, found: &'f mut Vec<Found>) -> ItemReader<'a, 'f> {
        ItemReader { item: self, found }
    }
}

impl<'a> Kind<'a> {
    fn new(api_version: &str, kind: &str, mapping: &'a Mapping) -> Result<Kind<'a>, LineError> {
        let items = mapping.items.iter();
        let kind = match (api_version, kind) {
            ("v1", "Namespace") => Kind::Namespace,
            ("v1", "Service") => Kind::Service,
            ("v1", "Pod") => Kind::Pod,
            ("discovery.k8s.io/v1", "EndpointSlice") => Kind::EndpointSlice,
            ("networking.k8s.io/v1", "NetworkPolicy") => Kind::NetworkPolicy,
            ("v1", "List") => Kind::List(items.map(Item::of).collect::<Result<_, _>>()?),
            ("v1", "NamespaceList") => Kind::List(
                items
                    .map(|item| Item::of_kind(item, Kind::Namespace))
                    .collect(),
            ),
            ("v1", "ServiceList") => Kind::List(
                items
                    .map(|item| Item::of_kind(item, Kind::Service))
                    .collect(),
            ),
            ("v1", "PodList") => {
                Kind::List(items.map(|item| Item::of_kind(item, Kind::Pod)).collect())
            }
            ("discovery.k8s.io/v1", "EndpointSliceList") => Kind::List(
                items
                    .map(|item| Item::of_kind(item, Kind::EndpointSlice))
                    .collect(),
            ),
            ("networking.k8s.io/v1", "NetworkPolicyList") => Kind::List(
                items
                    .map(|item| Item::of_kind(item, Kind::NetworkPolicy))
                    .collect(),
            ),
            _ if let Some(kind) = PolicyKind::of(api_version, kind) => Kind::OtherPolicy(kind),
            _ if let Some(kind) = listed_policy(api_version, kind) => Kind::List(
                items
                    .map(|item| Item::of_kind(item, Kind::OtherPolicy(kind)))
                    .collect(),
            ),
            _ => {
                debug!(api_version, kind, "a kind without records is ignored");
                Kind::Ignored
            }
        };
        Ok(kind)
    }
}

/// The kind of policies that a list of one kind holds.
fn listed_policy(api_version: &str, kind: &str) -> Option<PolicyKind> {
    PolicyKind::of(api_version, kind.strip_suffix("List")?)
}

/// Reads an item where it stands, so that the parser knows the line of whatever
/// is wrong inside.
pub(super) struct ItemReader<'a, 'f> {
    item: &'a Item<'a>,
    found: &'f mut Vec<Found>,
}

impl ItemReader<'_, '_> {
    fn object<'de, T, D>(self, deserializer: D) -> Result<(), D::Error>
    where
        T: ApiObject,
        D: Deserializer<'de>,
    {
        let object = T::deserialize(deserializer)?;
        let labels = object.metadata().labels.clone().unwrap_or_default();
        let fact = object.fact();
        let wrong = |problem: Problem| LineError::at(self.item.outline, problem.to_string());
        let object = object.try_into().map(|object| (object, labels));
        // What is wrong with an object is wrong with what it says of who may ask, too. But an object that
        // makes its records may leave that in doubt.
        if let (Ok(_), Some(fact)) = (&object, fact.transpose()) {
            let fact = fact.or_else(|problem| unreadable(&problem).ok_or(problem));
            let fact = fact.map(|fact| (Object::Fact(fact), Labels::new()));
            self.found.push(fact.map_err(wrong));
        }
        self.found.push(object.map_err(wrong));
        Ok(())
    }
}

/// What stands for an object that says nothing certain of who may ask; none of a kind that is not
/// judged by.
fn unreadable(problem: &Problem) -> Option<Fact> {
    let feed = match problem.kind {
        "EndpointSlice" => Feed::DnsEndpoints,
        "Service" => Feed::DnsService,
        "Pod" => Feed::Clients,
        _ => return None,
    };
    let key = Key::new(&*problem.namespace, &*problem.name);
    Some(Fact::Unreadable { feed, key })
}

impl<'de> DeserializeSeed<'de> for ItemReader<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        match &self.item.kind {
            Kind::Namespace => self.object::<Namespace, D>(deserializer),
            Kind::Service => self.object::<Service, D>(deserializer),
            Kind::EndpointSlice => self.object::<EndpointSlice, D>(deserializer),
            Kind::Pod => self.object::<ApiPod, D>(deserializer),
            Kind::NetworkPolicy => self.object::<NetworkPolicy, D>(deserializer),
            Kind::OtherPolicy(kind) => {
                let object = serde_json::Value::deserialize(deserializer)?;
                let policy = OtherPolicy::of(*kind, &object).map(Fact::Other);
                let object = policy.map(|policy| (Object::Fact(policy), Labels::new()));
                let wrong =
                    |problem: Problem| LineError::at(self.item.outline, problem.to_string());
                self.found.push(object.map_err(wrong));
                Ok(())
            }
            Kind::List(items) => deserializer.deserialize_map(ListReader {
                items,
                found: self.found,
            }),
            Kind::Ignored => IgnoredAny::deserialize(deserializer).map(|IgnoredAny| ()),
        }
    }
}

/// Reads the objects under a list's `items`.
struct ListReader<'a, 'f> {
    items: &'a [Item<'a>],
    found: &'f mut Vec<Found>,
}

impl<'de> Visitor<'de> for ListReader<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of Kubernetes objects")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            if key == "items" && !self.items.is_empty() {
                map.next_value_seed(ItemsReader {
                    items: self.items,
                    found: self.found,
                })?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }
}

/// Reads the entries of a list, each as what its outline says.
struct ItemsReader<'a, 'f> {
    items: &'a [Item<'a>],
    found: &'f mut Vec<Found>,
}

impl<'de> DeserializeSeed<'de> for ItemsReader<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for ItemsReader<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Kubernetes objects")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        for item in self.items {
            seq.next_element_seed(item.reader(self.found))?;
        }
        // The parser wants to be asked for the end.
        seq.next_element::<IgnoredAny>()?;
        Ok(())
    }
}
