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
}

impl Shared {
    /// Lets a Service have what others have.
    pub(super) fn share_service(&mut self, service: &mut Service) {
        share(&mut self.texts, &mut service.key.namespace);
        share(&mut self.ports, &mut service.ports);
    }

    /// Lets a slice have what others have.
    pub(super) fn share_slice(&mut self, slice: &mut EndpointSlice) {
        share(&mut self.texts, &mut slice.key.namespace);
        share(&mut self.ports, &mut slice.ports);
        let endpoints = slice.endpoints.iter_mut();
        for zone in endpoints.flat_map(|endpoint| &mut endpoint.zone) {
            share(&mut self.texts, zone);
        }
    }

    /// Forgets what no object has any more.
    pub(super) fn tidy(&mut self) {
        self.texts.retain(|text| Arc::strong_count(text) > 1);
        self.ports.retain(|ports| Arc::strong_count(ports) > 1);
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
