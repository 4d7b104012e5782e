//! The label selectors of the operator or the Corefile, for the objects that make records.

use super::object_set::Object;
use super::selector::{Labels, Selector};

/// Selects the objects that make records by their labels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selectors {
    /// `--namespace-labels`, or the Corefile's `namespace_labels`: the Namespaces that are exposed.
    pub namespaces: Selector,
    /// `--labels`, or the Corefile's `labels`: the Services, EndpointSlices and Pods that make
    /// records.
    pub objects: Selector,
}

impl Selectors {
    /// Whether an object with these labels is selected. A fact for the client policy always is.
    pub fn selects(&self, object: &Object, labels: &Labels) -> bool {
        match object {
            Object::Namespace(_) => self.namespaces.matches(labels),
            Object::Service(_) | Object::EndpointSlice(_) | Object::Pod(_) => {
                self.objects.matches(labels)
            }
            Object::Fact(_) => true,
        }
    }
}
