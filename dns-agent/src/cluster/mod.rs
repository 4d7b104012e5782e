//! Kubernetes objects in, a [`crate::zone::Model`] out.
//!
//! Pure and synchronous: [`Objects`] holds what matters of each object, [`build`]
//! makes records of it. Nothing here talks to an API server.

mod convert;
mod corefile;
mod objects;
mod provenance;
mod records;
mod reverse;
mod selector;
mod service;
mod settings;

pub use corefile::{Absent, Adopted, AdoptedZone, Conclusions, ZonalNames};
pub use objects::{
    Endpoint, EndpointSlice, Key, Namespace, Object, ObjectError, Objects, Pod, Port, Problem,
    Service, ServiceKind,
};
pub use provenance::{ObjectRef, Origin, Provenance};
pub use records::build;
pub use selector::{Labels, Selector, SelectorError, Selectors};
pub use settings::{EmptyServices, EndpointNames, PodMode, ZoneSettings};

#[cfg(test)]
mod tests;
