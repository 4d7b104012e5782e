//! Who is answered on pods' veths: everybody, or the addresses in a table.

use std::{collections::BTreeSet, net::IpAddr};

use anyhow::Context as _;
use aya::maps::{HashMap, MapData, MapError};
use dns_common::{
    Settings,
    settings::{ClientKey, client4},
};

/// Whose questions the kernel answers on pods' veths.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Clients {
    /// Everybody's: no policy restricts who asks.
    #[default]
    Any,
    /// Those of these addresses.
    Known(BTreeSet<IpAddr>),
}

impl Clients {
    /// What the settings say of them.
    pub(super) fn setting(&self) -> u64 {
        match self {
            Clients::Any => Settings::ANY_CLIENT,
            Clients::Known(_) => Settings::KNOWN_CLIENTS,
        }
    }
}

/// The kernel's table of clients, and what is in it.
pub(super) struct ClientTable {
    map: HashMap<MapData, ClientKey, u8>,
    inside: BTreeSet<IpAddr>,
    /// How many addresses found no room.
    left_out: usize,
}

impl ClientTable {
    /// Over an empty map.
    pub(super) fn new(map: HashMap<MapData, ClientKey, u8>) -> Self {
        Self {
            map,
            inside: BTreeSet::new(),
            left_out: 0,
        }
    }

    /// How many addresses found no room.
    pub(super) fn left_out(&self) -> usize {
        self.left_out
    }

    /// Brings the table to these addresses. Others are taken out first, so that nobody is answered
    /// by a table that is half old and half new. An address for which there is no room isn't answered.
    ///
    /// # Errors
    ///
    /// When the kernel doesn't take an address out.
    pub(super) fn set(&mut self, addresses: &BTreeSet<IpAddr>) -> anyhow::Result<()> {
        for address in self.inside.difference(addresses) {
            match self.map.remove(&key(*address)) {
                Ok(()) | Err(MapError::KeyNotFound) => {}
                Err(error) => {
                    return Err(error).with_context(|| format!("taking the client {address} out"));
                }
            }
        }
        self.inside.retain(|address| addresses.contains(address));
        self.left_out = 0;
        for address in addresses {
            if self.inside.contains(address) {
                continue;
            }
            match self.map.insert(key(*address), 0, 0) {
                Ok(()) => {
                    self.inside.insert(*address);
                }
                Err(error) => {
                    self.left_out += 1;
                    tracing::warn!(
                        "the client {address} is not answered: the kernel's table of clients does not take it: {error}"
                    );
                }
            }
        }
        Ok(())
    }
}

fn key(address: IpAddr) -> ClientKey {
    match address {
        IpAddr::V4(address) => client4(u32::from_ne_bytes(address.octets())),
        IpAddr::V6(address) => bytemuck::cast(address.octets()),
    }
}
