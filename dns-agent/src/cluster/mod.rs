//! Kubernetes objects in, names and records out ([`crate::zone::ZoneData`]).
//!
//! Pure and synchronous: an [`Index`] is told of objects, its [`View`] makes records of them.
//! Nothing here talks to an API server.

mod convert;
mod corefile;
mod coverage;
mod feed;
mod frame;
mod index;
mod node_cache;
mod objects;
mod pointers;
mod policy;
mod provenance;
mod selector;
mod service;
mod settings;
mod view;

pub use convert::{ApiContainer, ApiContainerStatus, ApiObject, ApiPod, ApiPodSpec, ApiPodStatus};
pub use corefile::{
    Adopted, AdoptedZone, Conclusions, Filter, Reload, Surroundings, UpstreamService,
};
pub use coverage::{Coverage, Covered, ServiceNames};
pub use feed::Feed;
pub use index::{Changes, Index, build};
pub use node_cache::{Binds, CacheConfig, MapData, NodeCache, TakesUp};
pub use objects::{
    Endpoint, EndpointSlice, Key, Namespace, Object, ObjectCounts, ObjectError, Objects, Pod, Port,
    Problem, Reading, Service, ServiceKind,
};
pub use policy::{
    Client, DnsService, DnsSlice, Fact, Facts, LabelledNamespace, LeftOut, OtherPolicy, Policy,
    PolicyKind, Reach, Verdicts,
};
pub use provenance::{ObjectRef, Origin, Provenance};
pub use selector::{Labels, Selector, SelectorError, Selectors};
pub use settings::{
    Departures, EmptyServices, EndpointNames, Endpoints, KnownPods, NameServers, OddEndpoints,
    PodMode, ZonalNames, ZoneSettings,
};
pub use view::{Names, View, WalkPosition};

#[cfg(test)]
mod tests;
