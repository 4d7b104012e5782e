//! PTR records: which of its names an address goes by.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::zone::Name;

use super::service::{Pointer, Source};

/// The names of all addresses of all services.
#[derive(Debug, Default)]
pub(super) struct Pointers(BTreeMap<IpAddr, Candidates>);

#[derive(Debug, Default)]
struct Candidates {
    cluster_ip: Option<Name>,
    endpoints: Vec<Name>,
}

impl Pointers {
    /// Takes the pointers of one more service. Of two services with one ClusterIP
    /// the one that came first keeps it.
    pub(super) fn extend(&mut self, pointers: Vec<Pointer>) {
        for pointer in pointers {
            let candidates = self.0.entry(pointer.address).or_default();
            match pointer.source {
                Source::Endpoint => candidates.endpoints.push(pointer.target),
                Source::ClusterIp => {
                    candidates.cluster_ip.get_or_insert(pointer.target);
                }
            }
        }
    }

    /// The addresses and their names: the service whose ClusterIP it is, alone, or
    /// else every endpoint.
    pub(super) fn into_names(self) -> impl Iterator<Item = (IpAddr, Vec<Name>)> {
        self.0.into_iter().map(|(address, candidates)| {
            let names = match candidates.cluster_ip {
                Some(service) => vec![service],
                None => candidates.endpoints,
            };
            (address, names)
        })
    }
}
