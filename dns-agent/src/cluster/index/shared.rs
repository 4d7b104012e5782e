//! What many objects say alike, kept once.

use std::borrow::Borrow;
use std::collections::HashSet;
use std::hash::Hash;
use std::sync::Arc;

use crate::cluster::objects::{EndpointSlice, Port, Service};

/// Names of namespaces, topology zones, and lists of ports.
#[derive(Debug, Default)]
pub(super) struct Shared {
    texts: HashSet<Arc<str>>,
    ports: HashSet<Arc<[Port]>>,
    /// How many there were after the last [`Shared::tidy`].
    tidied: usize,
}

/// How many more there may be than twice as many as were in use, before they are looked through.
const SLACK: usize = 1024;

impl Shared {
    /// Lets a Service have what others have.
    pub(super) fn share_service(&mut self, service: &mut Service) {
        share(&mut self.texts, &mut service.key.namespace);
        share(&mut self.ports, &mut service.ports);
        self.tidy_sometimes();
    }

    /// Lets a slice have what others have.
    pub(super) fn share_slice(&mut self, slice: &mut EndpointSlice) {
        share(&mut self.texts, &mut slice.key.namespace);
        share(&mut self.ports, &mut slice.ports);
        let endpoints = slice.endpoints.iter_mut();
        for zone in endpoints.flat_map(|endpoint| &mut endpoint.zone) {
            share(&mut self.texts, zone);
        }
        self.tidy_sometimes();
    }

    /// Forgets what no object has any more.
    pub(super) fn tidy(&mut self) {
        self.texts.retain(|text| Arc::strong_count(text) > 1);
        self.ports.retain(|ports| Arc::strong_count(ports) > 1);
        self.tidied = self.len();
    }

    /// Objects that change all the time must not leave more behind than there is in use.
    fn tidy_sometimes(&mut self) {
        if self.len() > 2 * self.tidied + SLACK {
            self.tidy();
        }
    }

    fn len(&self) -> usize {
        self.texts.len() + self.ports.len()
    }
}

fn share<T: ?Sized + Eq + Hash>(known: &mut HashSet<Arc<T>>, value: &mut Arc<T>) {
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
    fn what_nobody_has_any_more_is_forgotten() {
        let mut shared = Shared::default();
        let mut last = None;
        for number in 0..10 * SLACK {
            let mut text: Arc<str> = number.to_string().into();
            share(&mut shared.texts, &mut text);
            shared.tidy_sometimes();
            last = Some(text);
        }
        assert!(shared.len() <= SLACK + 1, "{}", shared.len());
        assert!(shared.texts.contains(&last.unwrap()));
    }
}
