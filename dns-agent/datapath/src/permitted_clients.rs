//! The client policy in the kernel: any client, or only the addresses in the map CLIENTS.

use std::{collections::BTreeSet, net::IpAddr};

use anyhow::Context as _;
use aya::maps::{HashMap, MapData, MapError};
use dns_common::{
    Settings,
    settings::{ClientKey, ipv4_client_key},
};

/// The clients that policies permit to query the served addresses.
///
/// The kernel checks them on pods' veths, and at XDP on all veths. On other devices, the networks
/// of [`DatapathConfig::allow`](crate::DatapathConfig::allow) decide which clients are answered. If
/// there are none, the only other devices with a hook are veths at tc, and the kernel checks the
/// permitted clients there too.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum PermittedClients {
    /// All clients, because no policy restricts DNS queries or policies are ignored.
    #[default]
    Any,
    /// Clients with these addresses. An empty set permits no client.
    Only(BTreeSet<IpAddr>),
}

impl PermittedClients {
    /// The value of [`Settings::clients`].
    pub(super) fn setting(&self) -> u64 {
        match self {
            PermittedClients::Any => Settings::ANY_CLIENT,
            PermittedClients::Only(_) => Settings::PERMITTED_CLIENTS,
        }
    }
}

/// The kernel's map of clients, and a copy of its contents.
pub(super) struct ClientTable {
    /// The keys are the clients. The values are not used.
    map: HashMap<MapData, ClientKey, u8>,
    /// The addresses in `map`.
    addresses: BTreeSet<IpAddr>,
    left_out: usize,
}

impl ClientTable {
    /// Wraps an empty map.
    pub(super) fn new(map: HashMap<MapData, ClientKey, u8>) -> Self {
        Self {
            map,
            addresses: BTreeSet::new(),
            left_out: 0,
        }
    }

    /// Number of permitted addresses that could not be added to the map.
    pub(super) fn left_out(&self) -> usize {
        self.left_out
    }

    /// Replaces the map's addresses. All outdated addresses are removed before new ones are added:
    /// they are no longer permitted, and they take room. Queries from an address that can't be
    /// added pass.
    ///
    /// # Errors
    ///
    /// When an address can't be removed from the map.
    pub(super) fn replace_addresses(&mut self, addresses: &BTreeSet<IpAddr>) -> anyhow::Result<()> {
        for address in self.addresses.difference(addresses) {
            match self.map.remove(&client_key(*address)) {
                Ok(()) | Err(MapError::KeyNotFound) => {}
                Err(error) => {
                    return Err(error).with_context(|| {
                        format!("removing the client {address} from the kernel's map of clients")
                    });
                }
            }
        }
        self.addresses.retain(|address| addresses.contains(address));
        self.left_out = 0;
        for address in addresses {
            if self.addresses.contains(address) {
                continue;
            }
            match self.map.insert(client_key(*address), 0, 0) {
                Ok(()) => {
                    self.addresses.insert(*address);
                }
                Err(error) => {
                    self.left_out += 1;
                    tracing::warn!(
                        "the client {address} can't be added to the kernel's map of clients, so \
                         CoreDNS answers its queries: {error}"
                    );
                }
            }
        }
        Ok(())
    }
}

/// The key of an address in the kernel's maps.
pub(super) fn client_key(address: IpAddr) -> ClientKey {
    match address {
        IpAddr::V4(address) => ipv4_client_key(u32::from_ne_bytes(address.octets())),
        IpAddr::V6(address) => bytemuck::cast(address.octets()),
    }
}
