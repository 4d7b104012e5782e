//! Turns Kubernetes objects into DNS names and records ([`zerohop_zone::ZoneData`]).
//!
//! An [`Index`] stores objects, and its [`View`] computes records from them. This crate also reads
//! CoreDNS's configuration ([`Conclusions`]) and decides which pods the agent may answer
//! ([`Facts`]). All code is synchronous and does no I/O.

#![forbid(unsafe_code)]

mod command_flags;
mod container_files;
mod convert;
mod coredns_config;
mod coredns_files;
mod coredns_pod;
mod corefile;
mod coverage;
mod endpoints;
mod event;
mod feed;
mod index;
mod kube_dns;
mod names;
mod node_cache;
mod object_set;
mod objects;
mod policy;
mod provenance;
mod provider;
mod resolv_conf;
mod selector;
mod selectors;
mod service;
mod settings;
mod zone_skeleton;

pub use container_files::{ConfigMapData, ConfigMapTexts};
pub use convert::{ApiContainer, ApiContainerStatus, ApiObject, ApiPod, ApiPodSpec, ApiPodStatus};
pub use coredns_config::CoreDnsConfig;
pub use coredns_pod::{CoreDnsServer, DnsContainers, SYSTEM_NAMESPACES};
pub use corefile::{
    AdoptedSettings, AdoptedZone, Conclusions, CorefileRoutes, NodeCacheContext, NodeCacheEffect,
    Reload, UpstreamService,
};
pub use coverage::{Coverage, Covered, ServiceNames};
pub use event::{ConfigMapUpdates, Event, WriteTime};
pub use feed::Feed;
pub use index::Index;
pub use kube_dns::KubeDnsServer;
pub use names::{Names, View, ViewPosition, build_model};
pub use node_cache::{CacheAddresses, CacheConfig, NodeCache, ReloadMode};
pub use object_set::{Object, ObjectCounts, Objects};
pub use objects::{
    Endpoint, EndpointSlice, Namespace, ObjectError, ObjectKey, Pod, Port, PortNumber, Problem,
    Service, ServiceKind, SliceReadability,
};
pub use policy::{
    ClientJudge, ClientVerdicts, DnsService, DnsSlice, Fact, Facts, LabelledNamespace, LeftOutPod,
    OtherPolicy, Policy, PolicyKind, PolicyPod,
};
pub use provenance::Provenance;
pub use resolv_conf::{MAX_NODE_SERVERS, read_servers};
pub use selector::{Labels, Selector, SelectorError};
pub use selectors::Selectors;
pub use settings::{
    Deviations, EmptyServices, EndpointNames, EndpointScope, KnownPods, NameServers,
    NonstandardEndpoints, PodMode, ZonalNames, ZoneSettings,
};

#[cfg(test)]
mod tests;
