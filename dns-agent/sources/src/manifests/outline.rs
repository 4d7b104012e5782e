//! The outline of a YAML document: which kind of object is on which line.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{self, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_saphyr::Spanned;

/// The outline of a YAML node.
#[derive(Debug, Default)]
pub(super) enum Outline {
    /// An empty document, or null.
    #[default]
    Empty,
    /// A mapping, which may be an object.
    Mapping(Mapping),
    /// A sequence, such as the items of a list.
    Sequence(Vec<Spanned<Outline>>),
    /// Text, a number or a boolean.
    Scalar,
}

/// The keys of a mapping that identify an object.
#[derive(Debug, Default)]
pub(super) struct Mapping {
    pub(super) api_version: Option<String>,
    pub(super) kind: Option<String>,
    /// The entries of `items`. Empty if there is no `items`, or its value is not a sequence.
    pub(super) items: Vec<Spanned<Outline>>,
}

impl<'de> Deserialize<'de> for Outline {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(OutlineVisitor)
    }
}

struct OutlineVisitor;

impl<'de> Visitor<'de> for OutlineVisitor {
    type Value = Outline;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a Kubernetes object")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Outline, E> {
        Ok(Outline::Empty)
    }

    fn visit_none<E: de::Error>(self) -> Result<Outline, E> {
        Ok(Outline::Empty)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Outline, D::Error> {
        Outline::deserialize(deserializer)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Outline, A::Error> {
        let mut mapping = Mapping::default();
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "apiVersion" => mapping.api_version = map.next_value()?,
                "kind" => mapping.kind = map.next_value()?,
                // Kinds that are not lists may use the key for other values.
                "items" => {
                    if let Outline::Sequence(items) = map.next_value()? {
                        mapping.items = items;
                    }
                }
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(Outline::Mapping(mapping))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Outline, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Outline::Sequence(items))
    }

    fn visit_str<E: de::Error>(self, _: &str) -> Result<Outline, E> {
        Ok(Outline::Scalar)
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<Outline, E> {
        Ok(Outline::Scalar)
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<Outline, E> {
        Ok(Outline::Scalar)
    }

    fn visit_u64<E: de::Error>(self, _: u64) -> Result<Outline, E> {
        Ok(Outline::Scalar)
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<Outline, E> {
        Ok(Outline::Scalar)
    }
}
