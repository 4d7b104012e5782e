//! Where records come from.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Where a record came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The objects that make the record, such as a Service and EndpointSlices, or lines of a file.
    Objects(Vec<ObjectRef>),
    /// The settings. No object is needed for the record.
    Settings,
    /// No object makes the record, for example because objects have changed since it was made.
    Unknown,
}

/// A reference to an object.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct ObjectRef {
    /// The object's kind, such as `Service`.
    pub kind: String,
    /// The object's namespace; empty for a kind without namespaces.
    pub namespace: String,
    /// The object's name.
    pub name: String,
}

/// Writes `Service shop/web`, or `Namespace shop` for a kind without namespaces.
impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            kind,
            namespace,
            name,
        } = self;
        if namespace.is_empty() {
            write!(f, "{kind} {name}")
        } else {
            write!(f, "{kind} {namespace}/{name}")
        }
    }
}
