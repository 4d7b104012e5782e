//! The second step of parsing: whether this packet may be answered. It must be sent to a served
//! address and, on a network card, to this node. It must not be multicast, its hook must answer
//! the client, and the lease must be valid.

use dns_common::{
    Outcome, Settings,
    settings::{
        ClientKey, MAX_ALLOWED, MAX_HARDWARE, MAX_SERVED, SETTINGS_COPIES, ServedIpv4,
        ipv4_client_key,
    },
};

use crate::{
    Frame, Tables,
    frame::AnsweredClients,
    headers::{Addresses, Headers, ethernet},
    verifier::{load, load_shared},
};

/// The mask of a hardware address in a word that starts with it.
const HARDWARE_MASK: u64 = u64::from_le_bytes([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0]);

/// The bit of a hardware address's first byte that marks multicast and broadcast (IEEE 802.3).
const MULTICAST: u8 = 1;

/// Returns the settings in force if the packet may be answered.
#[inline(always)]
pub(crate) fn admit<'t, F: Frame, T: Tables>(
    headers: &Headers,
    tables: &'t T,
) -> Result<&'t Settings, Outcome> {
    let settings;
    match headers.addresses {
        Addresses::Ipv4 {
            client,
            server,
            port,
        } => {
            settings = current_settings(tables)?;
            if !serves_ipv4(settings, ServedIpv4::new(server, port)) {
                return Err(Outcome::NotServed);
            }
            admit_ipv4_client::<F, T>(tables, settings, client)?;
        }
        Addresses::Ipv6 {
            client,
            server,
            port,
        } => {
            settings = current_settings(tables)?;
            if !serves_ipv6(settings, server, port) {
                return Err(Outcome::NotServed);
            }
            admit_ipv6_client::<F, T>(tables, settings, client)?;
        }
    }
    // SAFETY: `headers::read` checked that the frame is longer than an Ethernet header.
    let destination: u8 = unsafe { load(headers.start + ethernet::DESTINATION) };
    if destination & MULTICAST != 0 {
        return Err(Outcome::Multicast);
    }
    if !is_for_this_node::<F>(settings, headers.start) {
        return Err(Outcome::Misdirected);
    }
    check_lease(tables)?;
    Ok(settings)
}

/// The copy of the settings that [`Control::settings`](dns_common::Control::settings) selects.
#[inline(always)]
fn current_settings<T: Tables>(tables: &T) -> Result<&Settings, Outcome> {
    let control = tables.control().ok_or(Outcome::NotReady)?;
    // SAFETY: the control words are a map element, which is never freed while the program runs.
    let copy = unsafe { load_shared(&raw const (*control).settings as usize) };
    if copy == 0 {
        return Err(Outcome::NotReady);
    }
    // `copy` is at most `SETTINGS_COPIES`, so the remainder changes nothing.
    tables
        .settings((copy as u32 - 1) % SETTINGS_COPIES)
        .ok_or(Outcome::NotReady)
}

/// Fails when the lease has expired.
#[inline(always)]
fn check_lease<T: Tables>(tables: &T) -> Result<(), Outcome> {
    let control = tables.control().ok_or(Outcome::NotReady)?;
    // SAFETY: as in `current_settings`.
    let until = unsafe { load_shared(&raw const (*control).lease as usize) };
    if until.wrapping_sub(tables.now()) as i64 <= 0 {
        return Err(Outcome::LeaseStale);
    }
    Ok(())
}

/// Whether queries to this IPv4 address and port are answered.
#[inline(always)]
fn serves_ipv4(settings: &Settings, destination: ServedIpv4) -> bool {
    let count = settings.served4_count as usize;
    let mut at = 0;
    while at < MAX_SERVED {
        if at >= count {
            return false;
        }
        if settings.served4[at] == destination {
            return true;
        }
        at += 1;
    }
    false
}

/// Whether queries to this IPv6 address and port are answered.
#[inline(always)]
fn serves_ipv6(settings: &Settings, address: [u64; 2], port: u16) -> bool {
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

/// Fails unless the frame's hook answers this IPv4 client.
#[inline(always)]
fn admit_ipv4_client<F: Frame, T: Tables>(
    tables: &T,
    settings: &Settings,
    client: u32,
) -> Result<(), Outcome> {
    if !allows_ipv4::<F>(settings, client) {
        return Err(Outcome::NotAllowed);
    }
    if F::CLIENTS != AnsweredClients::All && is_nonstandard_ipv4(settings, client) {
        return Err(Outcome::NonstandardSource);
    }
    check_policy::<F, T>(tables, settings, &ipv4_client_key(client))
}

/// Fails unless the frame's hook answers this IPv6 client.
#[inline(always)]
fn admit_ipv6_client<F: Frame, T: Tables>(
    tables: &T,
    settings: &Settings,
    client: [u64; 2],
) -> Result<(), Outcome> {
    if !allows_ipv6::<F>(settings, client) {
        return Err(Outcome::NotAllowed);
    }
    if F::CLIENTS != AnsweredClients::All && is_nonstandard_ipv6(settings, client) {
        return Err(Outcome::NonstandardSource);
    }
    check_policy::<F, T>(tables, settings, &client)
}

/// Fails unless policies permit the client. Policies do not matter where the allowed networks
/// decide, because the operator has allowed these clients.
#[inline(always)]
fn check_policy<F: Frame, T: Tables>(
    tables: &T,
    settings: &Settings,
    client: &ClientKey,
) -> Result<(), Outcome> {
    if settings.clients == Settings::ANY_CLIENT
        || !answers_all_clients::<F>(settings)
        || tables.permits(client)
    {
        return Ok(());
    }
    Err(Outcome::NotPermitted)
}

/// Whether this IPv4 client is in an allowed network. True at hooks that answer all clients.
#[inline(always)]
fn allows_ipv4<F: Frame>(settings: &Settings, client: u32) -> bool {
    let count = settings.allowed4_count as usize;
    if answers_all_clients::<F>(settings) {
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

/// Whether this IPv6 client is in an allowed network. True at hooks that answer all clients.
#[inline(always)]
fn allows_ipv6<F: Frame>(settings: &Settings, client: [u64; 2]) -> bool {
    let count = settings.allowed6_count as usize;
    if answers_all_clients::<F>(settings) {
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

/// Whether the frame's destination address is one of this node. On a network card it must be in
/// [`Settings::hardware`]. On a pod veth it may be the address of a bridge, so every address is
/// accepted.
#[inline(always)]
fn is_for_this_node<F: Frame>(settings: &Settings, start: usize) -> bool {
    if F::CLIENTS == AnsweredClients::All {
        return true;
    }
    // SAFETY: `headers::read` checked that the frame is longer than an Ethernet header.
    let address: u64 = unsafe { load(start + ethernet::DESTINATION) };
    let address = address & HARDWARE_MASK;
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

/// Whether this IPv4 address is not accepted as a client's. That holds for 0.0.0.0/8, loopback,
/// multicast and reserved addresses (RFC 6890), and for the served addresses.
#[inline(always)]
fn is_nonstandard_ipv4(settings: &Settings, client: u32) -> bool {
    let [first, ..] = client.to_ne_bytes();
    if first == 0 || first == 127 || first >= 224 {
        return true;
    }
    let count = settings.served4_count as usize;
    let mut at = 0;
    while at < MAX_SERVED && at < count {
        // The lower half is the address.
        if settings.served4[at].0 as u32 == client {
            return true;
        }
        at += 1;
    }
    false
}

/// Whether this IPv6 address is not accepted as a client's. That holds for ::/8 (with the
/// unspecified address and loopback), for multicast, and for the served addresses.
#[inline(always)]
fn is_nonstandard_ipv6(settings: &Settings, client: [u64; 2]) -> bool {
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

/// Whether the frame's hook answers clients outside the allowed networks too.
#[inline(always)]
pub(crate) fn answers_all_clients<F: Frame>(settings: &Settings) -> bool {
    match F::CLIENTS {
        AnsweredClients::All => true,
        AnsweredClients::AllowedOrAll => {
            settings.allowed4_count as usize + settings.allowed6_count as usize == 0
        }
        AnsweredClients::Allowed => false,
    }
}
