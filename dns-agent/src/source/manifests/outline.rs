//! What kind of object stands where.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{self, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_saphyr::Spanned;

/// A node of a document, seen from far away.
#[derive(Debug, Default)]
pub(super) enum Outline {
    /// Nothing: an empty document.
    #[default]
    Empty,
    /// A mapping, which may be an object.
    Mapping(Mapping),
    /// A list, of objects where the kind is one of lists.
    Sequence(Vec<Spanned<Outline>>),
    /// Text or a number.
    Scalar,
}

/// The parts of a mapping that say which object it is.
#[derive(Debug, Default)]
pub(super) struct Mapping {
    pub(super) api_version: Option<String>,
    pub(super) kind: Option<String>,
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
                // Other kinds may use the word for something else.
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
