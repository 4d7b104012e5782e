//! What addresses are called: PTR records, of which only all services together can tell which there are.
//!
//! A pod is behind several services, and each gives it a name.

use std::net::IpAddr;

use super::frame::label_below;
use super::objects::{Endpoint, EndpointSlice, Reading, Service, ServiceKind};
use super::settings::{EndpointNames, Endpoints, OddEndpoints, ZoneSettings};
use crate::zone::{MAX_LABEL, Name, dashed};

/// A name of an address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Pointer {
    pub(super) address: IpAddr,
    pub(super) target: Name,
    pub(super) source: PointerSource,
}

/// Whose address it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum PointerSource {
    ClusterIp,
    Endpoint,
    /// An endpoint whose names are CoreDNS's to tell.
    Odd,
}

/// What a service calls its addresses, or its slices do where there is none.
pub(super) fn pointers(
    service: Option<&Service>,
    slices: &[&EndpointSlice],
    name: &Name,
    settings: &ZoneSettings,
) -> Vec<Pointer> {
    pointers_of(|_| true, service, slices, name, settings)
}

/// The same of those addresses that are meant.
pub(super) fn pointers_of(
    is_meant: impl Fn(IpAddr) -> bool,
    service: Option<&Service>,
    slices: &[&EndpointSlice],
    name: &Name,
    settings: &ZoneSettings,
) -> Vec<Pointer> {
    let cluster_ips = match service.map(|service| &service.kind) {
        Some(ServiceKind::ClusterIp(addresses)) => &addresses[..],
        _ => &[],
    };
    let slices = match settings.endpoints {
        Endpoints::All => slices,
        Endpoints::Headless => &[],
    };
    let cluster_ips = cluster_ips
        .iter()
        .filter(|address| is_meant(**address))
        .map(|address| Pointer {
            address: *address,
            target: name.clone(),
            source: PointerSource::ClusterIp,
        });
    let endpoints = slices.iter().flat_map(|slice| {
        let source = match is_odd(slice, settings) {
            true => PointerSource::Odd,
            false => PointerSource::Endpoint,
        };
        let endpoints = slice.endpoints.iter();
        let meant = endpoints.filter(|endpoint| is_meant(endpoint.address));
        meant.filter_map(move |endpoint| {
            Some(Pointer {
                address: endpoint.address,
                target: endpoint_name(endpoint, name, settings).ok()?,
                source,
            })
        })
    });
    cluster_ips.chain(endpoints).collect()
}

/// Whether a slice's endpoints are CoreDNS's to name: where they aren't what we take them for, or are
/// named after what is no label in lower case.
pub(super) fn is_odd(slice: &EndpointSlice, settings: &ZoneSettings) -> bool {
    let is_in_label =
        |octet: u8| octet.is_ascii_lowercase() || octet.is_ascii_digit() || octet == b'-';
    let is_label = |pod: &str| pod.len() > MAX_LABEL || pod.bytes().all(is_in_label);
    let is_named_so = |endpoint: &Endpoint| {
        endpoint.hostname.is_none() && endpoint.pod.as_deref().is_some_and(|pod| !is_label(pod))
    };
    settings.odd_endpoints == OddEndpoints::Passed
        && (slice.reading != Reading::Plain
            || settings.endpoint_names == EndpointNames::Pod
                && slice.endpoints.iter().any(is_named_so))
}

/// What an endpoint is called below its service: by its host name, else by its pod's if wished and
/// if it is a label, else by the address.
pub(super) fn endpoint_name(
    endpoint: &Endpoint,
    service: &Name,
    settings: &ZoneSettings,
) -> Result<Name, String> {
    if let Some(hostname) = &endpoint.hostname {
        return label_below(service, hostname);
    }
    if settings.endpoint_names == EndpointNames::Pod
        && let Some(Ok(name)) = endpoint.pod.as_ref().map(|pod| label_below(service, pod))
    {
        return Ok(name);
    }
    label_below(service, &dashed(endpoint.address))
}
