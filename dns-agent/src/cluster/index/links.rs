//! What finds a service: addresses, and the name that an alias leads to.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use super::Index;
use crate::cluster::objects::{Key, ServiceKind};
use crate::cluster::settings::Endpoints;
use crate::zone::Name;

/// What finds a service, by what it says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Links {
    addresses: BTreeSet<IpAddr>,
    alias: Option<Name>,
}

impl Index {
    /// What is to find a service. It is cheaper than what the service makes, and is kept from
    /// the start.
    pub(super) fn links(&self, key: &Key) -> Links {
        if !self.points_into(&key.namespace) {
            return Links::default();
        }
        let (mut addresses, alias) = match self.service_kind(key) {
            Some(ServiceKind::ExternalName(target)) => (BTreeSet::new(), Name::parse(target).ok()),
            Some(ServiceKind::ClusterIp(addresses)) => (addresses.iter().copied().collect(), None),
            Some(
                ServiceKind::Headless | ServiceKind::HeadlessElsewhere | ServiceKind::Unreadable,
            )
            | None => (BTreeSet::new(), None),
        };
        if self.settings.endpoints == Endpoints::All {
            let slices = self.slices_of(key).into_iter();
            let endpoints = slices.flat_map(|slice| &slice.endpoints);
            addresses.extend(endpoints.map(|endpoint| endpoint.address));
        }
        Links { addresses, alias }
    }

    /// Brings what finds a service up to date.
    pub(super) fn link(&mut self, key: &Key, old: &Links) {
        let new = self.links(key);
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
        for target in targets(&old.alias) {
            if let Some(keys) = self.aliases.get_mut(&target) {
                keys.remove(key);
                if keys.is_empty() {
                    self.aliases.remove(&target);
                }
            }
        }
        for target in targets(&new.alias) {
            self.aliases.entry(target).or_default().insert(key.clone());
        }
    }
}

/// Where an alias is found: at the name it leads to, and at the name above, which may say
/// what is below it.
fn targets(alias: &Option<Name>) -> impl Iterator<Item = Name> {
    let target = alias.iter().cloned();
    target.chain(alias.iter().filter_map(Name::parent))
}
