//! Selectors for the objects that make records.

use super::object_set::Object;
use super::selector::{Labels, Selector};

/// Selectors for the objects that make records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selectors {
    /// The Namespaces that are exposed.
    pub namespaces: Selector,
    /// The Services, EndpointSlices and Pods that make records.
    pub objects: Selector,
}

impl Selectors {
    /// Whether an object with these labels makes records.
    pub fn select(&self, object: &Object, labels: &Labels) -> bool {
        match object {
            Object::Namespace(_) => self.namespaces.matches(labels),
            Object::Service(_) | Object::EndpointSlice(_) | Object::Pod(_) => {
                self.objects.matches(labels)
            }
            Object::Fact(_) => true,
        }
    }
}
