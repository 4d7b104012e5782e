//! Kubernetes objects in, names and records out ([`zerohop_zone::ZoneData`]).
//!
//! Pure and synchronous: an [`Index`] stores objects, and its [`View`] computes records from them.
//! Nothing here talks to an API server.

#![forbid(unsafe_code)]

mod convert;
mod corefile;
mod coverage;
mod event;
mod feed;
mod index;
mod names;
mod node_cache;
mod objects;
mod pointers;
mod policy;
mod provenance;
mod selector;
mod service;
mod settings;
mod zone_skeleton;

pub use convert::{ApiContainer, ApiContainerStatus, ApiObject, ApiPod, ApiPodSpec, ApiPodStatus};
pub use corefile::{
    AdoptedSettings, AdoptedZone, Conclusions, NodeCacheContext, NodeCacheEffect, Reload,
    UpstreamService,
};
pub use coverage::{Coverage, Covered, ServiceNames};
pub use event::{ConfigMapUpdates, Event, WriteTime};
pub use feed::Feed;
pub use index::{Index, NameChanges};
pub use names::{Names, View, WalkPosition, build_model};
pub use node_cache::{CacheAddresses, CacheConfig, ConfigMapData, NodeCache, ReloadMode};
pub use objects::{
    Endpoint, EndpointSlice, Namespace, Object, ObjectCounts, ObjectError, ObjectKey, Objects, Pod,
    Port, Problem, Service, ServiceKind, SliceReadability,
};
pub use policy::{
    ClientVerdicts, DnsService, DnsSlice, Fact, Facts, LabelledNamespace, LeftOutPod, OtherPolicy,
    Policy, PolicyKind, PolicyPod, Reach,
};
pub use provenance::{ObjectRef, Origin, Provenance};
pub use selector::{Labels, Selector, SelectorError, Selectors};
pub use settings::{
    Deviations, EmptyServices, EndpointNames, EndpointScope, KnownPods, NameServers,
    NonstandardEndpoints, PodMode, ZonalNames, ZoneSettings,
};

#[cfg(test)]
mod tests;
