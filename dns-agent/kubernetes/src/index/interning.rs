//! Interning: values that many objects share are stored once.

use std::borrow::Borrow;
use std::collections::HashSet;
use std::hash::Hash;
use std::sync::Arc;

use crate::objects::{EndpointSlice, Port, Service};

/// Interned names of namespaces and topology zones, and lists of ports.
#[derive(Debug, Default)]
pub(super) struct Interner {
    texts: HashSet<Arc<str>>,
    ports: HashSet<Arc<[Port]>>,
    /// Number of values after the last [`Interner::remove_unused`].
    used: usize,
}

/// Unused values are removed when there are more than 2 * `used` + `SLACK` values.
const SLACK: usize = 1024;

impl Interner {
    /// Replaces a Service's values with interned ones.
    pub(super) fn intern_service(&mut self, service: &mut Service) {
        intern(&mut self.texts, &mut service.key.namespace);
        intern(&mut self.ports, &mut service.ports);
        self.remove_unused_if_many();
    }

    /// Replaces a slice's values with interned ones.
    pub(super) fn intern_slice(&mut self, slice: &mut EndpointSlice) {
        intern(&mut self.texts, &mut slice.key.namespace);
        intern(&mut self.ports, &mut slice.ports);
        let endpoints = slice.endpoints.iter_mut();
        for zone in endpoints.flat_map(|endpoint| &mut endpoint.zone) {
            intern(&mut self.texts, zone);
        }
        self.remove_unused_if_many();
    }

    /// Removes values that no stored object uses.
    pub(super) fn remove_unused(&mut self) {
        self.texts.retain(|text| Arc::strong_count(text) > 1);
        self.ports.retain(|ports| Arc::strong_count(ports) > 1);
        self.used = self.len();
    }

    /// Removes unused values if there may be many. Frequently changing objects leave them behind.
    fn remove_unused_if_many(&mut self) {
        if self.len() > 2 * self.used + SLACK {
            self.remove_unused();
        }
    }

    fn len(&self) -> usize {
        self.texts.len() + self.ports.len()
    }
}

fn intern<T: ?Sized + Eq + Hash>(known: &mut HashSet<Arc<T>>, value: &mut Arc<T>) {
    match known.get(Borrow::<T>::borrow(value)) {
        Some(same) => *value = same.clone(),
        None => {
            known.insert(value.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unused_values_are_removed() {
        let mut interner = Interner::default();
        let mut last = None;
        for number in 0..10 * SLACK {
            let mut text: Arc<str> = number.to_string().into();
            intern(&mut interner.texts, &mut text);
            interner.remove_unused_if_many();
            last = Some(text);
        }
        assert!(interner.len() <= SLACK + 1, "{}", interner.len());
        assert!(interner.texts.contains(&last.unwrap()));
    }
}
