//! Who is answered: the addresses that are asked, and the networks that ask.

use dns_common::{
    Outcome, Settings,
    settings::{ClientKey, MAX_ALLOWED, MAX_HARDWARE, MAX_SERVED, Served4, client4},
};

use crate::{Frame, Tables, frame::Clients, verifier::load};

/// The octets of a hardware address, in a word that starts with it.
const HARDWARE: u64 = u64::from_le_bytes([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0]);

/// Whether questions to this IPv4 address and port are answered.
#[inline(always)]
pub(crate) fn serves4(settings: &Settings, asked: Served4) -> bool {
    let count = settings.served4_count as usize;
    let mut at = 0;
    while at < MAX_SERVED {
        if at >= count {
            return false;
        }
        if settings.served4[at] == asked {
            return true;
        }
        at += 1;
    }
    false
}

/// The same for IPv6.
#[inline(always)]
pub(crate) fn serves6(settings: &Settings, address: [u64; 2], port: u16) -> bool {
    let count = settings.served6_count as usize;
    let mut at = 0;
    while at < MAX_SERVED {
        if at >= count {
            return false;
        }
        let served = &settings.served6[at];
        if served.address[1] == address[1]
            && served.address[0] == address[0]
            && served.port == u64::from(port)
        {
            return true;
        }
        at += 1;
    }
    false
}

/// Whether an IPv4 client is to be answered at the frame's hook, or why its packets pass.
#[inline(always)]
pub(crate) fn admit4<F: Frame, T: Tables>(
    tables: &T,
    settings: &Settings,
    client: u32,
) -> Result<(), Outcome> {
    if !allows4::<F>(settings, client) {
        return Err(Outcome::NotAllowed);
    }
    if F::CLIENTS != Clients::All && is_odd4(settings, client) {
        return Err(Outcome::OddSource);
    }
    permit::<F, T>(tables, settings, &client4(client))
}

/// The same for IPv6.
#[inline(always)]
pub(crate) fn admit6<F: Frame, T: Tables>(
    tables: &T,
    settings: &Settings,
    client: [u64; 2],
) -> Result<(), Outcome> {
    if !allows6::<F>(settings, client) {
        return Err(Outcome::NotAllowed);
    }
    if F::CLIENTS != Clients::All && is_odd6(settings, client) {
        return Err(Outcome::OddSource);
    }
    permit::<F, T>(tables, settings, &client)
}

/// Policies are about this node's pods: networks that the operator allows hold other clients.
#[inline(always)]
fn permit<F: Frame, T: Tables>(
    tables: &T,
    settings: &Settings,
    client: &ClientKey,
) -> Result<(), Outcome> {
    if settings.clients == Settings::ANY_CLIENT
        || !allows_all::<F>(settings)
        || tables.permits(client)
    {
        return Ok(());
    }
    Err(Outcome::NotPermitted)
}

/// Whether this IPv4 client is answered at the frame's hook.
#[inline(always)]
fn allows4<F: Frame>(settings: &Settings, client: u32) -> bool {
    let count = settings.allowed4_count as usize;
    if allows_all::<F>(settings) {
        return true;
    }
    let mut at = 0;
    while at < MAX_ALLOWED {
        if at >= count {
            return false;
        }
        let network = &settings.allowed4[at];
        if client & network.mask == network.address {
            return true;
        }
        at += 1;
    }
    false
}

/// The same for IPv6.
#[inline(always)]
fn allows6<F: Frame>(settings: &Settings, client: [u64; 2]) -> bool {
    let count = settings.allowed6_count as usize;
    if allows_all::<F>(settings) {
        return true;
    }
    let mut at = 0;
    while at < MAX_ALLOWED {
        if at >= count {
            return false;
        }
        let network = &settings.allowed6[at];
        if client[0] & network.mask[0] == network.address[0]
            && client[1] & network.mask[1] == network.address[1]
        {
            return true;
        }
        at += 1;
    }
    false
}

/// Whether the frame at `start` is addressed to a network card of ours; on a pod's veth the address may
/// be that of a bridge.
#[inline(always)]
pub(crate) fn is_ours<F: Frame>(settings: &Settings, start: usize) -> bool {
    if F::CLIENTS == Clients::All {
        return true;
    }
    // SAFETY: the caller has seen that the frame is longer than an Ethernet header.
    let address: u64 = unsafe { load(start) };
    let address = address & HARDWARE;
    let count = settings.hardware_count as usize;
    let mut at = 0;
    while at < MAX_HARDWARE {
        if at >= count {
            return false;
        }
        if settings.hardware[at] == address {
            return true;
        }
        at += 1;
    }
    false
}

/// Whether no client has this IPv4 address: this network, loopback, multicast and what is reserved
/// behind it (RFC 6890), or an address that we serve.
#[inline(always)]
fn is_odd4(settings: &Settings, client: u32) -> bool {
    let [first, ..] = client.to_ne_bytes();
    if first == 0 || first == 127 || first >= 224 {
        return true;
    }
    let count = settings.served4_count as usize;
    let mut at = 0;
    while at < MAX_SERVED && at < count {
        if settings.served4[at].0 as u32 == client {
            return true;
        }
        at += 1;
    }
    false
}

/// The same for IPv6: the first /8, where the unspecified address and loopback are, and multicast.
#[inline(always)]
fn is_odd6(settings: &Settings, client: [u64; 2]) -> bool {
    let [first, ..] = client[0].to_ne_bytes();
    if first == 0 || first == 0xff {
        return true;
    }
    let count = settings.served6_count as usize;
    let mut at = 0;
    while at < MAX_SERVED && at < count {
        if settings.served6[at].address == client {
            return true;
        }
        at += 1;
    }
    false
}

/// Whether the frame's hook answers every client.
#[inline(always)]
pub(crate) fn allows_all<F: Frame>(settings: &Settings) -> bool {
    match F::CLIENTS {
        Clients::All => true,
        Clients::AllowedOrAll => {
            settings.allowed4_count as usize + settings.allowed6_count as usize == 0
        }
        Clients::Allowed => false,
    }
}
