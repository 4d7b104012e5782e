//! Lists of a Service's endpoints in several orders.

use std::cmp::Ordering;

use super::StoredEndpoints;
use super::label::{EndpointLabel, compare_labels};
use crate::objects::Endpoint;
use crate::settings::ZoneSettings;

/// The numbers of a Service's endpoints in several orders. Endpoints that are equal in an order are
/// in the order of their numbers.
#[derive(Clone, Debug, Default)]
pub(super) struct SortedEndpoints {
    /// All endpoints, by address.
    pub(super) by_address: Vec<u32>,
    /// The endpoints with an [`EndpointLabel::Text`], by label and then by address.
    pub(super) by_label: Vec<u32>,
    /// The endpoints with a topology zone, by zone and then by address.
    pub(super) by_zone: Vec<u32>,
    /// The endpoints with an [`EndpointLabel::Invalid`], by address.
    pub(super) unnamed: Vec<u32>,
}

/// An order of endpoints.
type Order = fn(&Endpoint, &Endpoint, &ZoneSettings) -> Ordering;

impl SortedEndpoints {
    /// The lists of all stored endpoints.
    pub(super) fn of_all(stored: &StoredEndpoints, settings: &ZoneSettings) -> SortedEndpoints {
        let mut sorted = SortedEndpoints::default();
        for (number, endpoint) in stored.endpoints.iter().enumerate() {
            if let Some(endpoint) = endpoint {
                for (list, _) in sorted.lists_for(&endpoint.endpoint, settings) {
                    list.push(number as u32);
                }
            }
        }
        for (list, order) in sorted.all_lists() {
            list.sort_unstable_by(|a, b| compare(*a, *b, order, stored, settings));
            list.shrink_to_fit();
        }
        sorted
    }

    /// Adds a stored endpoint.
    pub(super) fn insert(
        &mut self,
        number: u32,
        stored: &StoredEndpoints,
        settings: &ZoneSettings,
    ) {
        for (list, order) in self.lists_for(stored.endpoint(number), settings) {
            let order = |other: &u32| compare(*other, number, order, stored, settings);
            if let Err(at) = list.binary_search_by(order) {
                list.insert(at, number);
            }
        }
    }

    /// Removes an endpoint, which must still be stored.
    pub(super) fn remove(
        &mut self,
        number: u32,
        stored: &StoredEndpoints,
        settings: &ZoneSettings,
    ) {
        for (list, order) in self.lists_for(stored.endpoint(number), settings) {
            let order = |other: &u32| compare(*other, number, order, stored, settings);
            if let Ok(at) = list.binary_search_by(order) {
                list.remove(at);
            }
        }
    }

    fn all_lists(&mut self) -> [(&mut Vec<u32>, Order); 4] {
        [
            (&mut self.by_address, by_address),
            (&mut self.by_label, by_label),
            (&mut self.by_zone, by_zone),
            (&mut self.unnamed, by_address),
        ]
    }

    /// The lists that hold an endpoint.
    fn lists_for(
        &mut self,
        endpoint: &Endpoint,
        settings: &ZoneSettings,
    ) -> impl Iterator<Item = (&mut Vec<u32>, Order)> {
        let label = EndpointLabel::of(endpoint, settings);
        let is_held = [
            true,
            matches!(label, EndpointLabel::Text(_)),
            endpoint.zone.is_some(),
            matches!(label, EndpointLabel::Invalid(_)),
        ];
        let lists = self.all_lists().into_iter().zip(is_held);
        lists.filter_map(|(list, is_held)| is_held.then_some(list))
    }
}

fn compare(
    a: u32,
    b: u32,
    order: Order,
    stored: &StoredEndpoints,
    settings: &ZoneSettings,
) -> Ordering {
    order(stored.endpoint(a), stored.endpoint(b), settings).then(a.cmp(&b))
}

fn by_address(a: &Endpoint, b: &Endpoint, _settings: &ZoneSettings) -> Ordering {
    a.address.cmp(&b.address)
}

fn by_zone(a: &Endpoint, b: &Endpoint, _settings: &ZoneSettings) -> Ordering {
    a.zone.cmp(&b.zone).then(a.address.cmp(&b.address))
}

fn by_label(a: &Endpoint, b: &Endpoint, settings: &ZoneSettings) -> Ordering {
    let labels = [a, b].map(|endpoint| match EndpointLabel::of(endpoint, settings) {
        EndpointLabel::Text(label) => label,
        // Not in this list.
        EndpointLabel::Address(_) | EndpointLabel::Invalid(_) => "",
    });
    compare_labels(labels[0], labels[1]).then(a.address.cmp(&b.address))
}
