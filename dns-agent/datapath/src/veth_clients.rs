//! The clients answered on pods' veths: all of them, or the addresses in the kernel's map.

use std::{collections::BTreeSet, net::IpAddr};

use anyhow::Context as _;
use aya::maps::{HashMap, MapData, MapError};
use dns_common::{
    Settings,
    settings::{ClientKey, ipv4_client_key},
};

/// The clients whose queries the kernel answers on pods' veths.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum VethClients {
    /// All clients, because no NetworkPolicy restricts access to the DNS servers.
    #[default]
    Any,
    /// Clients with these addresses.
    Known(BTreeSet<IpAddr>),
}

impl VethClients {
    /// The value for [`Settings::clients`].
    pub(super) fn setting(&self) -> u64 {
        match self {
            VethClients::Any => Settings::ANY_CLIENT,
            VethClients::Known(_) => Settings::KNOWN_CLIENTS,
        }
    }
}

/// The kernel's map of clients, and a copy of its contents.
pub(super) struct ClientTable {
    map: HashMap<MapData, ClientKey, u8>,
    addresses: BTreeSet<IpAddr>,
    /// Number of addresses for which the map had no room.
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

    /// Number of addresses for which the map had no room.
    pub(super) fn left_out(&self) -> usize {
        self.left_out
    }

    /// Replaces the map's addresses. Removals come first: no outdated address is left when new ones
    /// are added. An address for which there is no room is not answered.
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
                        format!("removing the client {address} from the kernel's map")
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
                        "the queries of the client {address} pass: it can't be added to the kernel's map of clients: {error}"
                    );
                }
            }
        }
        Ok(())
    }
}

fn client_key(address: IpAddr) -> ClientKey {
    match address {
        IpAddr::V4(address) => ipv4_client_key(u32::from_ne_bytes(address.octets())),
        IpAddr::V6(address) => bytemuck::cast(address.octets()),
    }
}
