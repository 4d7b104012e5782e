//! The label of an endpoint below its Service.

use std::cmp::Ordering;
use std::net::IpAddr;

use zerohop_zone::{MAX_LABEL, Name, dashed, undashed};

use crate::objects::{Endpoint, SliceReadability};
use crate::settings::{EndpointNames, NonstandardEndpoints, ZoneSettings};
use crate::zone_skeleton::{is_label, label_below};

/// The label of an endpoint below its Service: the host name if the endpoint has one; else, with
/// [`EndpointNames::Pod`], the target's name if it is a label; else the dashed address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum EndpointLabel<'a> {
    /// The host name, or the target's name. Letter case is ignored.
    Text(&'a str),
    /// The dashed address.
    Address(IpAddr),
    /// The host name, which is not a label. The endpoint has no name.
    Invalid(&'a str),
}

impl<'a> EndpointLabel<'a> {
    pub(crate) fn of(endpoint: &'a Endpoint, settings: &ZoneSettings) -> EndpointLabel<'a> {
        if let Some(hostname) = &endpoint.hostname {
            return if is_label(hostname) {
                EndpointLabel::Text(hostname)
            } else {
                EndpointLabel::Invalid(hostname)
            };
        }
        match &endpoint.pod {
            Some(pod) if settings.endpoint_names == EndpointNames::Pod && is_label(pod) => {
                EndpointLabel::Text(pod)
            }
            _ => EndpointLabel::Address(endpoint.address),
        }
    }

    /// The same label for a text that is the dashed form of an address, and for that address.
    pub(super) fn canonical(self) -> EndpointLabel<'a> {
        match self {
            EndpointLabel::Text(text) => {
                address_of_label(text).map_or(self, EndpointLabel::Address)
            }
            EndpointLabel::Address(_) | EndpointLabel::Invalid(_) => self,
        }
    }

    /// The name of the endpoint below `service`. Fails with a reason if the host name is not a
    /// label, or if the name would be too long.
    pub(crate) fn name_below(self, service: &Name) -> Result<Name, String> {
        match self {
            EndpointLabel::Text(label) | EndpointLabel::Invalid(label) => {
                label_below(service, label)
            }
            EndpointLabel::Address(address) => label_below(service, &dashed(address)),
        }
    }
}

/// The address whose dashed form is this label.
pub(super) fn address_of_label(label: &str) -> Option<IpAddr> {
    undashed(label.as_bytes()).filter(|address| dashed(*address) == label)
}

/// Compares labels without regard to letter case.
pub(super) fn compare_labels(a: &str, b: &str) -> Ordering {
    let [a, b] = [a, b].map(|label| label.bytes().map(|byte| byte.to_ascii_lowercase()));
    a.cmp(b)
}

/// Whether the names of a slice's endpoints are delegated to CoreDNS, because the slice can't be
/// read, or because CoreDNS may read an address differently or names an endpoint after a target
/// that is not a lower-case label. Never true with [`NonstandardEndpoints::Read`].
pub(super) fn is_nonstandard<'a>(
    readability: SliceReadability,
    mut endpoints: impl Iterator<Item = &'a Endpoint>,
    settings: &ZoneSettings,
) -> bool {
    let is_in_label = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    // Zerohop and CoreDNS both ignore a name that is too long for a label.
    let is_standard = |pod: &str| pod.len() > MAX_LABEL || pod.bytes().all(is_in_label);
    let has_nonstandard_name = |endpoint: &Endpoint| {
        let pod = endpoint.pod.as_deref();
        endpoint.hostname.is_none() && pod.is_some_and(|pod| !is_standard(pod))
    };
    settings.nonstandard_endpoints == NonstandardEndpoints::Passed
        && (readability != SliceReadability::Plain
            || settings.endpoint_names == EndpointNames::Pod && endpoints.any(has_nonstandard_name))
}
