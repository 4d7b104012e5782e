//! Collects the names of the cluster's headless Services.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::watch;
use zerohop_kubernetes::{Event, Object, ObjectKey, ServiceKind, ServiceNames};

/// The headless Services, collected from the events of the Services feed.
#[derive(Debug, Default)]
pub(super) struct HeadlessServices {
    services: Mutex<HeadlessIndex>,
    names: watch::Sender<Option<ServiceNames>>,
}

#[derive(Debug, Default)]
struct HeadlessIndex {
    /// The Services that are headless now.
    headless: BTreeSet<ObjectKey>,
    /// The headless Services in the list that is being read. `None` while no list is being read.
    listing: Option<BTreeSet<ObjectKey>>,
}

impl HeadlessServices {
    /// Applies an event of the Services feed.
    pub(super) fn apply_event(&self, event: &Event) {
        let mut services = self.services.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(names) = services.apply_event(event) {
            self.names.send_replace(Some(names));
        }
    }

    /// Subscribes to the names of all headless Services. The value is `None` before the first list
    /// has ended.
    pub(super) fn subscribe_names(&self) -> watch::Receiver<Option<ServiceNames>> {
        self.names.subscribe()
    }
}

impl HeadlessIndex {
    /// Applies an event. Returns the names of all headless Services if the event may have changed
    /// them. `None` while a list is being read.
    fn apply_event(&mut self, event: &Event) -> Option<ServiceNames> {
        let is_changed = match event {
            Event::ListStarted(_) => {
                self.listing = Some(BTreeSet::new());
                false
            }
            Event::ListEnded(_) => {
                self.headless = self.listing.take().unwrap_or_default();
                true
            }
            Event::Applied {
                object: Object::Service(service),
                ..
            } if service.kind == ServiceKind::Headless => {
                let key = &service.key;
                if let Some(listing) = &mut self.listing {
                    listing.insert(key.clone());
                }
                self.headless.insert(key.clone())
            }
            Event::Applied { object, .. } => self.headless.remove(&object.key()),
            // CoreDNS answers for an unreadable Service, so its slices aren't needed.
            Event::Unusable {
                placeholder: Some(object),
                ..
            } => self.headless.remove(&object.key()),
            Event::Deleted { key, .. } => self.headless.remove(key),
            _ => false,
        };
        // During a list, the names are incomplete.
        let has_new_names = is_changed && self.listing.is_none();
        has_new_names.then(|| {
            let names = self.headless.iter().map(|key| key.name.clone());
            Arc::new(names.collect())
        })
    }
}
