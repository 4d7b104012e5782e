//! Candidates for PTR records: the names that one Service gives to addresses.
//!
//! A Pod may be behind several Services, and each Service gives it a name. Therefore all Services
//! together decide which candidates become PTR records.

use std::net::IpAddr;

use zerohop_zone::{MAX_LABEL, Name, dashed};

use super::objects::{Endpoint, EndpointSlice, Service, ServiceKind, SliceReadability};
use super::settings::{EndpointNames, EndpointScope, NonstandardEndpoints, ZoneSettings};
use super::zone_skeleton::label_below;

/// A name that a Service gives to an address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Pointer {
    pub(super) address: IpAddr,
    pub(super) target: Name,
    pub(super) source: PointerSource,
}

/// Where the address of a pointer comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum PointerSource {
    ClusterIp,
    Endpoint,
    /// An endpoint of a nonstandard slice. Its names are delegated to CoreDNS.
    Nonstandard,
}

/// The pointers of a Service's addresses. `service` is `None` if only slices exist. `name` is the
/// name of the Service.
pub(super) fn service_pointers(
    service: Option<&Service>,
    slices: &[&EndpointSlice],
    name: &Name,
    settings: &ZoneSettings,
) -> Vec<Pointer> {
    selected_pointers(|_| true, service, slices, name, settings)
}

/// The pointers of a Service's addresses, limited to addresses for which `is_selected` is true.
pub(super) fn selected_pointers(
    is_selected: impl Fn(IpAddr) -> bool,
    service: Option<&Service>,
    slices: &[&EndpointSlice],
    name: &Name,
    settings: &ZoneSettings,
) -> Vec<Pointer> {
    let cluster_ips = match service.map(|service| &service.kind) {
        Some(ServiceKind::ClusterIp(addresses)) => &addresses[..],
        _ => &[],
    };
    let slices = match settings.endpoint_scope {
        EndpointScope::All => slices,
        // PTR records of endpoints are delegated to CoreDNS.
        EndpointScope::Headless => &[],
    };
    let cluster_ips = cluster_ips
        .iter()
        .filter(|address| is_selected(**address))
        .map(|address| Pointer {
            address: *address,
            target: name.clone(),
            source: PointerSource::ClusterIp,
        });
    let endpoints = slices.iter().flat_map(|slice| {
        let source = if is_nonstandard(slice, settings) {
            PointerSource::Nonstandard
        } else {
            PointerSource::Endpoint
        };
        let endpoints = slice.endpoints.iter();
        let selected = endpoints.filter(|endpoint| is_selected(endpoint.address));
        selected.filter_map(move |endpoint| {
            Some(Pointer {
                address: endpoint.address,
                target: endpoint_name(endpoint, name, settings).ok()?,
                source,
            })
        })
    });
    cluster_ips.chain(endpoints).collect()
}

/// Whether the names of a slice's endpoints are delegated to CoreDNS, because the slice can't be
/// read, or because CoreDNS may read an address differently or names an endpoint after a target
/// that is not a lower-case label. Never true with [`NonstandardEndpoints::Read`].
pub(super) fn is_nonstandard(slice: &EndpointSlice, settings: &ZoneSettings) -> bool {
    let is_in_label = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    // Zerohop and CoreDNS both ignore a name that is too long for a label.
    let is_standard = |pod: &str| pod.len() > MAX_LABEL || pod.bytes().all(is_in_label);
    let has_nonstandard_name = |endpoint: &Endpoint| {
        let pod = endpoint.pod.as_deref();
        endpoint.hostname.is_none() && pod.is_some_and(|pod| !is_standard(pod))
    };
    settings.nonstandard_endpoints == NonstandardEndpoints::Passed
        && (slice.readability != SliceReadability::Plain
            || settings.endpoint_names == EndpointNames::Pod
                && slice.endpoints.iter().any(has_nonstandard_name))
}

/// The name of an endpoint below `service`. The label is the host name if the endpoint has one;
/// else, with [`EndpointNames::Pod`], the target's name if it is a valid label; else the dashed
/// address. Fails with a reason if the host name is not a label, or if the name would be too long.
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
