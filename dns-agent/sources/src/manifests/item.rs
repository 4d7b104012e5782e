//! Reads the objects of a document. The document's outline says of which kinds they are.

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
use zerohop_kubernetes::{
    ApiObject, ApiPod, Fact, Feed, Labels, Object, ObjectKey, OtherPolicy, PolicyKind, Problem,
};

use super::{
    LineError,
    outline::{Mapping, Outline},
};

/// A YAML node and the kind of object to read there.
pub(super) struct ManifestItem<'a> {
    outline: &'a Spanned<Outline>,
    kind: ManifestKind<'a>,
}

/// The kind of a manifest item.
enum ManifestKind<'a> {
    Namespace,
    Service,
    EndpointSlice,
    Pod,
    NetworkPolicy,
    /// A policy of another kind than NetworkPolicy.
    OtherPolicy(PolicyKind),
    List(Vec<ManifestItem<'a>>),
    /// A kind that Zerohop doesn't read, or an empty node.
    Ignored,
}

/// An object with its labels, or the error that makes it unusable. A fact has no labels here,
/// because [`Selectors`](zerohop_kubernetes::Selectors) select every fact.
type ItemResult = Result<(Object, Labels), LineError>;

impl<'a> ManifestItem<'a> {
    /// Determines which objects a YAML node holds.
    ///
    /// # Errors
    /// When the node, or an item of its `List`, is neither empty nor a mapping with `kind` and
    /// `apiVersion`.
    pub(super) fn from_outline(
        outline: &'a Spanned<Outline>,
    ) -> Result<ManifestItem<'a>, LineError> {
        let kind = match &outline.value {
            Outline::Empty => ManifestKind::Ignored,
            Outline::Mapping(mapping) => {
                let Some(kind) = mapping.kind.as_deref() else {
                    return Err(LineError::at(
                        outline,
                        "is not a Kubernetes object: it has no `kind`",
                    ));
                };
                let Some(api_version) = mapping.api_version.as_deref() else {
                    return Err(LineError::at(
                        outline,
                        format!("the {kind} has no `apiVersion`"),
                    ));
                };
                ManifestKind::new(api_version, kind, mapping)?
            }
            Outline::Sequence(_) | Outline::Scalar => {
                return Err(LineError::at(
                    outline,
                    "is not a Kubernetes object: it must be a mapping with `apiVersion` and `kind`",
                ));
            }
        };
        Ok(ManifestItem { outline, kind })
    }

    /// An entry of a list of one kind. The entry need not have `kind` and `apiVersion`.
    fn of_kind(outline: &'a Spanned<Outline>, kind: ManifestKind<'a>) -> ManifestItem<'a> {
        ManifestItem { outline, kind }
    }

    /// A deserializer seed that reads the item's objects into `found`.
    pub(super) fn reader<'f>(&'a self, found: &'f mut Vec<ItemResult>) -> ItemReader<'a, 'f> {
        ItemReader { item: self, found }
    }
}

impl<'a> ManifestKind<'a> {
    fn new(
        api_version: &str,
        kind: &str,
        mapping: &'a Mapping,
    ) -> Result<ManifestKind<'a>, LineError> {
        let items = mapping.items.iter();
        let kind = match (api_version, kind) {
            ("v1", "Namespace") => ManifestKind::Namespace,
            ("v1", "Service") => ManifestKind::Service,
            ("v1", "Pod") => ManifestKind::Pod,
            ("discovery.k8s.io/v1", "EndpointSlice") => ManifestKind::EndpointSlice,
            ("networking.k8s.io/v1", "NetworkPolicy") => ManifestKind::NetworkPolicy,
            ("v1", "List") => ManifestKind::List(
                items
                    .map(ManifestItem::from_outline)
                    .collect::<Result<_, _>>()?,
            ),
            ("v1", "NamespaceList") => ManifestKind::List(
                items
                    .map(|item| ManifestItem::of_kind(item, ManifestKind::Namespace))
                    .collect(),
            ),
            ("v1", "ServiceList") => ManifestKind::List(
                items
                    .map(|item| ManifestItem::of_kind(item, ManifestKind::Service))
                    .collect(),
            ),
            ("v1", "PodList") => ManifestKind::List(
                items
                    .map(|item| ManifestItem::of_kind(item, ManifestKind::Pod))
                    .collect(),
            ),
            ("discovery.k8s.io/v1", "EndpointSliceList") => ManifestKind::List(
                items
                    .map(|item| ManifestItem::of_kind(item, ManifestKind::EndpointSlice))
                    .collect(),
            ),
            ("networking.k8s.io/v1", "NetworkPolicyList") => ManifestKind::List(
                items
                    .map(|item| ManifestItem::of_kind(item, ManifestKind::NetworkPolicy))
                    .collect(),
            ),
            _ if let Some(kind) = PolicyKind::from_api(api_version, kind) => {
                ManifestKind::OtherPolicy(kind)
            }
            _ if let Some(kind) = listed_policy(api_version, kind) => ManifestKind::List(
                items
                    .map(|item| ManifestItem::of_kind(item, ManifestKind::OtherPolicy(kind)))
                    .collect(),
            ),
            _ => {
                debug!(
                    api_version,
                    kind, "ignoring an object, because Zerohop doesn't read its kind"
                );
                ManifestKind::Ignored
            }
        };
        Ok(kind)
    }
}

/// The kind of policy in a list such as `CiliumNetworkPolicyList`.
fn listed_policy(api_version: &str, kind: &str) -> Option<PolicyKind> {
    PolicyKind::from_api(api_version, kind.strip_suffix("List")?)
}

/// Reads an item in place, so that the parser knows the line of an error inside the item.
pub(super) struct ItemReader<'a, 'f> {
    item: &'a ManifestItem<'a>,
    found: &'f mut Vec<ItemResult>,
}

impl ItemReader<'_, '_> {
    fn read_object<'de, T, D>(self, deserializer: D) -> Result<(), D::Error>
    where
        T: ApiObject,
        D: Deserializer<'de>,
    {
        let object = T::deserialize(deserializer)?;
        let labels = object.metadata().labels.clone().unwrap_or_default();
        let fact = object.fact();
        let line_error = |problem: Problem| LineError::at(self.item.outline, problem.to_string());
        let object = object.try_into().map(|object| (object, labels));
        // A usable object can have an unreadable fact for the client policy. If the object itself
        // is unusable, only that error is reported.
        if let (Ok(_), Some(fact)) = (&object, fact.transpose()) {
            let fact = fact.or_else(|problem| unreadable_fact(&problem).ok_or(problem));
            let fact = fact.map(|fact| (Object::Fact(fact), Labels::new()));
            self.found.push(fact.map_err(line_error));
        }
        self.found.push(object.map_err(line_error));
        Ok(())
    }
}

/// The fact for an object whose effect on the client policy is unknown. `None` for the other kinds,
/// whose facts can be read if the object can.
fn unreadable_fact(problem: &Problem) -> Option<Fact> {
    let feed = match problem.kind {
        "EndpointSlice" => Feed::DnsEndpoints,
        "Service" => Feed::DnsService,
        "Pod" => Feed::Clients,
        _ => return None,
    };
    let key = ObjectKey::new(&*problem.namespace, &*problem.name);
    Some(Fact::Unreadable { feed, key })
}

impl<'de> DeserializeSeed<'de> for ItemReader<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        match &self.item.kind {
            ManifestKind::Namespace => self.read_object::<Namespace, D>(deserializer),
            ManifestKind::Service => self.read_object::<Service, D>(deserializer),
            ManifestKind::EndpointSlice => self.read_object::<EndpointSlice, D>(deserializer),
            ManifestKind::Pod => self.read_object::<ApiPod, D>(deserializer),
            ManifestKind::NetworkPolicy => self.read_object::<NetworkPolicy, D>(deserializer),
            ManifestKind::OtherPolicy(kind) => {
                let object = serde_json::Value::deserialize(deserializer)?;
                let policy = OtherPolicy::from_object(*kind, &object).map(Fact::OtherPolicy);
                let object = policy.map(|policy| (Object::Fact(policy), Labels::new()));
                let line_error =
                    |problem: Problem| LineError::at(self.item.outline, problem.to_string());
                self.found.push(object.map_err(line_error));
                Ok(())
            }
            ManifestKind::List(items) => deserializer.deserialize_map(ListReader {
                items,
                found: self.found,
            }),
            ManifestKind::Ignored => IgnoredAny::deserialize(deserializer).map(|IgnoredAny| ()),
        }
    }
}

/// Reads the objects under a list's `items`.
struct ListReader<'a, 'f> {
    items: &'a [ManifestItem<'a>],
    found: &'f mut Vec<ItemResult>,
}

impl<'de> Visitor<'de> for ListReader<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of Kubernetes objects")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            // Without entries, the value need not be a sequence. It may be null.
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

/// Reads the entries of a list, each as the kind of its [`ManifestItem`].
struct ItemsReader<'a, 'f> {
    items: &'a [ManifestItem<'a>],
    found: &'f mut Vec<ItemResult>,
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
        // The parser requires the end of the sequence to be consumed.
        seq.next_element::<IgnoredAny>()?;
        Ok(())
    }
}
