//! Look-up of Services by their addresses, and of aliases by their targets.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use zerohop_zone::Name;

use super::Index;
use crate::{
    objects::{ObjectKey, ServiceKind},
    settings::EndpointScope,
};

/// The keys under which a Service is found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct LookupKeys {
    addresses: BTreeSet<IpAddr>,
    alias: Option<Name>,
}

impl Index {
    /// The look-up keys of a Service. They are cheaper to compute than its names, so the index
    /// keeps them current even while it is incomplete.
    pub(super) fn lookup_keys(&self, key: &ObjectKey) -> LookupKeys {
        if !self.points_into(&key.namespace) {
            return LookupKeys::default();
        }
        let (mut addresses, alias) = match self.service_kind(key) {
            Some(ServiceKind::ExternalName(target)) => (BTreeSet::new(), Name::parse(target).ok()),
            Some(ServiceKind::ClusterIp(addresses)) => (addresses.iter().copied().collect(), None),
            Some(
                ServiceKind::Headless
                | ServiceKind::HeadlessWithoutSlices
                | ServiceKind::Unreadable,
            )
            | None => (BTreeSet::new(), None),
        };
        if self.settings.endpoint_scope == EndpointScope::All {
            let slices = self.slices_of(key).into_iter();
            let endpoints = slices.flat_map(|slice| &slice.endpoints);
            addresses.extend(endpoints.map(|endpoint| endpoint.address));
        }
        LookupKeys { addresses, alias }
    }

    /// Replaces the old look-up keys of a Service with the current ones.
    pub(super) fn update_lookup(&mut self, key: &ObjectKey, old: &LookupKeys) {
        let new = self.lookup_keys(key);
        let shared = Arc::new(key.clone());
        for address in old.addresses.difference(&new.addresses) {
            self.pointers.remove(&(*address, shared.clone()));
        }
        for address in new.addresses.difference(&old.addresses) {
            self.pointers.insert((*address, shared.clone()));
        }
        if old.alias == new.alias {
            return;
        }
        for target in alias_keys(&old.alias) {
            if let Some(keys) = self.aliases.get_mut(&target) {
                keys.remove(key);
                if keys.is_empty() {
                    self.aliases.remove(&target);
                }
            }
        }
        for target in alias_keys(&new.alias) {
            self.aliases.entry(target).or_default().insert(key.clone());
        }
    }
}

/// The names under which an alias is found: its target, and the target's parent, which may have
/// computed names.
fn alias_keys(alias: &Option<Name>) -> impl Iterator<Item = Name> {
    let target = alias.iter().cloned();
    target.chain(alias.iter().filter_map(Name::parent))
}
