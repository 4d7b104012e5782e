//! Look-up of Services by their addresses, and of aliases by their targets.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use zerohop_zone::Name;

use super::Index;
use crate::endpoints::{EndpointLabel, ServiceEndpoints};
use crate::objects::{ObjectKey, ServiceKind};
use crate::settings::EndpointScope;

/// The lowest address: all IPv4 addresses sort before all IPv6 addresses.
const FIRST: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// Each address with each Service that may give it a PTR record, by the source of the address.
#[derive(Debug, Default)]
pub(crate) struct Pointers {
    cluster_ips: PointerSet,
    endpoints: PointerSet,
    nonstandard: PointerSet,
}

type PointerSet = BTreeSet<(IpAddr, Arc<ObjectKey>)>;

/// Where the address of a PTR record comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PointerSource {
    ClusterIp,
    /// An endpoint with a name.
    Endpoint,
    /// An endpoint whose names are delegated to CoreDNS.
    Nonstandard,
}

impl Pointers {
    /// The Services that may give an address a PTR record.
    pub(crate) fn services(
        &self,
        address: IpAddr,
        source: PointerSource,
    ) -> impl Iterator<Item = &ObjectKey> {
        let pairs = self.set(source).range((address, first_key())..);
        pairs
            .take_while(move |(other, _)| *other == address)
            .map(|(_, key)| &**key)
    }

    /// The next address after `after` that may have a PTR record, or the first one from `first` on.
    pub(crate) fn next_address(
        &self,
        first: Option<IpAddr>,
        after: Option<IpAddr>,
    ) -> Option<IpAddr> {
        let start = (after.or(first).unwrap_or(FIRST), first_key());
        let sets = [&self.cluster_ips, &self.endpoints, &self.nonstandard];
        let next = sets.map(|set| {
            let mut addresses = set.range(start.clone()..).map(|(address, _)| *address);
            addresses.find(|address| Some(*address) != after)
        });
        next.into_iter().flatten().min()
    }

    /// The addresses that may have PTR records, in order.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let mut last = None;
        std::iter::from_fn(move || {
            last = self.next_address(None, last);
            last
        })
    }

    pub(super) fn clear(&mut self) {
        *self = Pointers::default();
    }

    fn set(&self, source: PointerSource) -> &PointerSet {
        match source {
            PointerSource::ClusterIp => &self.cluster_ips,
            PointerSource::Endpoint => &self.endpoints,
            PointerSource::Nonstandard => &self.nonstandard,
        }
    }
}

impl Index {
    /// The addresses to which a Service may give PTR records.
    pub(super) fn pointer_addresses(&self, key: &ObjectKey) -> BTreeSet<IpAddr> {
        let own = match self.service_kind(key) {
            Some(ServiceKind::ClusterIp(addresses)) => &addresses[..],
            _ => &[],
        };
        let mut addresses: BTreeSet<IpAddr> = own.iter().copied().collect();
        if self.settings.endpoint_scope == EndpointScope::All {
            let endpoints = self.endpoints(key).into_iter();
            let endpoints = endpoints.flat_map(ServiceEndpoints::iter);
            addresses.extend(endpoints.map(|endpoint| endpoint.address));
        }
        addresses
    }

    /// Updates the pointers from these addresses to a Service.
    pub(super) fn update_pointers(
        &mut self,
        key: &ObjectKey,
        addresses: impl IntoIterator<Item = IpAddr>,
    ) {
        let shared = Arc::new(key.clone());
        let exceeds_bound = self.exceeds_bound(key);
        for address in addresses {
            let [cluster_ip, endpoint, nonstandard] = self.pointers_to(key, address, exceeds_bound);
            let sets = [
                (&mut self.pointers.cluster_ips, cluster_ip),
                (&mut self.pointers.endpoints, endpoint),
                (&mut self.pointers.nonstandard, nonstandard),
            ];
            for (set, points) in sets {
                let pair = (address, shared.clone());
                if points {
                    set.insert(pair);
                } else {
                    set.remove(&pair);
                }
            }
        }
    }

    /// Whether a Service may give an address a PTR record: as its ClusterIP, as an endpoint with a
    /// name, and as an endpoint whose names are delegated.
    fn pointers_to(&self, key: &ObjectKey, address: IpAddr, exceeds_bound: bool) -> [bool; 3] {
        let Some(endpoints) = self.endpoints(key) else {
            return [false; 3];
        };
        if !self.points_into(&key.namespace) {
            return [false; 3];
        }
        let is_cluster_ip = match self.service_kind(key) {
            Some(ServiceKind::ClusterIp(addresses)) => addresses.contains(&address),
            _ => false,
        };
        // With `Headless`, PTR records of endpoints are delegated to CoreDNS.
        if self.settings.endpoint_scope == EndpointScope::Headless {
            return [is_cluster_ip, false, false];
        }
        let reader = endpoints.reader(&self.settings);
        let (mut has_endpoint, mut has_nonstandard) = (false, false);
        for member in reader.at_address(address) {
            let label = EndpointLabel::of(member.endpoint, &self.settings);
            if !matches!(label, EndpointLabel::Invalid(_)) {
                has_nonstandard |= member.is_nonstandard || exceeds_bound;
                has_endpoint |= !member.is_nonstandard && !exceeds_bound;
            }
        }
        [is_cluster_ip, has_endpoint, has_nonstandard]
    }

    /// The target of a Service that is an alias.
    pub(super) fn alias_of(&self, key: &ObjectKey) -> Option<Name> {
        match self.service_kind(key) {
            Some(ServiceKind::ExternalName(target)) if self.points_into(&key.namespace) => {
                Name::parse(target).ok()
            }
            _ => None,
        }
    }

    /// Updates the look-up of aliases after the target of a Service has changed from `old`.
    pub(super) fn update_alias(&mut self, key: &ObjectKey, old: Option<&Name>) {
        let new = self.alias_of(key);
        if old == new.as_ref() {
            return;
        }
        for target in old.into_iter().flat_map(alias_keys) {
            if let Some(keys) = self.aliases.get_mut(&target) {
                keys.remove(key);
                if keys.is_empty() {
                    self.aliases.remove(&target);
                }
            }
        }
        for target in new.iter().flat_map(alias_keys) {
            self.aliases.entry(target).or_default().insert(key.clone());
        }
    }
}

/// The names under which an alias is found: its target, and the target's parent, which may have
/// computed names.
fn alias_keys(target: &Name) -> impl Iterator<Item = Name> {
    std::iter::once(target.clone()).chain(target.parent())
}

/// The lowest key.
fn first_key() -> Arc<ObjectKey> {
    Arc::new(ObjectKey::new("", ""))
}
