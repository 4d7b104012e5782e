//! Successors of objects and addresses, in the order in which names are walked.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::Bound;
use std::sync::Arc;

use super::Index;
use crate::objects::ObjectKey;

/// The lowest address: all IPv4 addresses sort before all IPv6 addresses.
const FIRST: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

impl Index {
    /// The next namespace that settings or objects name.
    pub(crate) fn next_namespace(&self, after: &str) -> Option<Arc<str>> {
        fn next<T>(objects: &BTreeMap<ObjectKey, T>, start: &ObjectKey) -> Option<Arc<str>> {
            let (key, _) = objects.range(start..).next()?;
            Some(key.namespace.clone())
        }
        // The smallest string greater than `after`.
        let start = ObjectKey::first_in(&format!("{after}\0"));
        let listed = self.settings.namespaces.iter();
        let listed = listed.filter(|name| name.as_str() > after).min();
        let stored = self.namespaces.range(start.namespace.clone()..).next();
        [
            listed.map(|name| name.as_str().into()),
            stored.map(|(name, _)| name.clone()),
            next(&self.services, &start),
            next(&self.pods, &start),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// The next Service of the same namespace, or else the next namespace, as a key without a name.
    pub(crate) fn next_service(&self, after: &ObjectKey) -> Option<ObjectKey> {
        let behind = (Bound::Excluded(after), Bound::Unbounded);
        let next = self.services.range(behind).map(|(key, _)| key).next();
        match next.filter(|key| key.is_in(&after.namespace)) {
            Some(key) => Some(key.clone()),
            None => Some(ObjectKey::new(self.next_namespace(&after.namespace)?, "")),
        }
    }

    /// The next address of a Pod in a namespace.
    pub(crate) fn next_pod(&self, namespace: &Arc<str>, after: Option<IpAddr>) -> Option<IpAddr> {
        let start = (namespace.clone(), after.unwrap_or(FIRST));
        let addresses = self.pod_addresses.range(start..);
        let here = addresses
            .map(|(key, _)| key)
            .take_while(|key| key.0 == *namespace);
        let mut addresses = here.map(|(_, address)| *address);
        addresses.find(|address| Some(*address) != after)
    }
}
