//! Builds and publishes the settings that the kernel program reads.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    num::NonZeroU32,
    sync::atomic::Ordering,
};

use anyhow::{Context as _, bail};
use bytemuck::Zeroable as _;
use dns_common::{
    Control, Settings, checksum,
    names::HashKey,
    settings::{
        AllowedIpv4Network, AllowedIpv6Network, MAX_ALLOWED, MAX_HARDWARE, MAX_SERVED,
        MAX_SUFFIX_LENGTH, MAX_SUFFIXES, SETTINGS_COPIES, SOA_LENGTH, SOA_POINTERS, ServedIpv4,
        ServedIpv6, Suffix, TOKEN, ZoneSoa,
    },
};
use ipnet::IpNet;
use zerohop_zone::{AbsentNames, Answer, DnssecOkQueries, Name, Rtype, ZoneData, render};

use super::{interfaces::HardwareAddress, lease::Clock, memory::Memory};

/// The position in [`Control`], in words, of its field `settings`.
const SETTINGS_WORD: usize = std::mem::offset_of!(Control, settings) / 8;
/// The position in [`Control`], in words, of its field `lease`.
pub(super) const LEASE_WORD: usize = std::mem::offset_of!(Control, lease) / 8;
/// The word of [`Control`] with the steered port.
const STEERED_PORT_WORD: usize = std::mem::offset_of!(Control, steered_port) / 8;

/// The largest rate limit, in answers per second. A full token bucket then just fits into 32 bits.
const MAX_RATE: u32 = (u32::MAX as u64 / TOKEN) as u32;

/// The settings that don't depend on zone data: keys, configuration, served addresses and addresses
/// of network cards.
#[derive(Clone, Debug)]
pub struct NodeSettings {
    /// The key of the hash that selects a name's buckets.
    pub hash_key: HashKey,
    /// Buckets in the directory, minus 1.
    pub directory_mask: u32,
    /// See [`Settings::secret`].
    pub secret: u64,
    /// Server addresses (IP and port) at which the kernel answers queries.
    pub served_addresses: Vec<SocketAddr>,
    /// Networks whose clients are answered on network cards. If there are none, the agent attaches
    /// hooks only to veths ([`check_cards_restricted`](crate::hooks::check_cards_restricted)).
    pub allow: Vec<IpNet>,
    /// Hardware addresses of the network cards on which the kernel answers.
    pub card_addresses: Vec<HardwareAddress>,
    /// The rate limit of each client on network cards; `None` means no limit.
    pub rate_limit: Option<RateLimit>,
}

/// The rate limit of one client, in parts of a token. A token is one answer and has [`TOKEN`]
/// parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// Parts added per jiffy.
    pub refill: u32,
    /// Parts in a full bucket.
    pub burst: u32,
}

/// Builds the settings for zone data. [`Settings::clients`] is [`Settings::ANY_CLIENT`]. A caller
/// with a client policy (`KernelTables`) must set it before it publishes the settings.
///
/// `authoritative` says for each zone whether the tables have all its names, so that absent names
/// may be denied. Absent names below `pass_suffixes` pass in any case.
///
/// # Errors
///
/// When there are more served addresses or allowed networks than the settings hold, or when a
/// zone's SOA record has an unexpected form.
pub fn build_settings(
    node_settings: &NodeSettings,
    data: &dyn ZoneData,
    authoritative: &[bool],
    pass_suffixes: &BTreeSet<Name>,
) -> anyhow::Result<Settings> {
    let mut settings = Settings {
        hash_key: node_settings.hash_key,
        secret: node_settings.secret,
        directory_mask: node_settings.directory_mask,
        edns_flags: edns_flags(data),
        ..Settings::zeroed()
    };
    for address in &node_settings.served_addresses {
        add_served_address(&mut settings, *address)?;
    }
    for network in &node_settings.allow {
        add_allowed_network(&mut settings, *network)?;
    }
    set_card_settings(&mut settings, node_settings);
    let mut suffixes: Vec<SuffixToPush<'_>> = pass_suffixes
        .iter()
        .map(|name| SuffixToPush {
            name,
            zone: 0,
            action: Suffix::PASS,
            passed_types: 0,
        })
        .collect();
    // The zones are sorted, longest name first, so a zone that is left out never lies inside one
    // that is kept. If it did, its names would look like names of the outer zone.
    for (number, apex) in data.zones().iter().take(MAX_SUFFIXES).enumerate() {
        settings.zones[number] = build_zone(data, number)
            .with_context(|| format!("building the SOA record of {}", apex.name))?;
        // Names below an inner suffix that is too long for the settings look like names of this
        // zone. They must not be denied.
        let inner_suffixes_fit = || {
            let inner = data
                .zones()
                .iter()
                .map(|inner| &inner.name)
                .chain(pass_suffixes);
            inner
                .filter(|inner| inner.wire().len() > MAX_SUFFIX_LENGTH)
                .all(|inner| *inner == apex.name || !inner.is_at_or_below(&apex.name))
        };
        let mut passed_types = apex.passed_types.clone();
        // The kernel always passes queries for ANY, which would share the bit of other types.
        passed_types.remove(&Rtype::ANY);
        let action = match apex.absent_names {
            AbsentNames::Denied => Suffix::AUTHORITATIVE,
            AbsentNames::DeniedExceptSoa => {
                passed_types.insert(Rtype::SOA);
                Suffix::AUTHORITATIVE
            }
            AbsentNames::Passed | AbsentNames::NotYetKnown => Suffix::PASS,
        };
        // A zone that is not published yet is not authoritative.
        let is_authoritative = authoritative.get(number).is_some_and(|it| *it);
        let action = if is_authoritative && inner_suffixes_fit() {
            action
        } else {
            Suffix::PASS
        };
        let passed_types = passed_types.iter();
        suffixes.push(SuffixToPush {
            name: &apex.name,
            zone: number as u16,
            action,
            passed_types: passed_types
                .map(|rtype| Suffix::type_bit(rtype.to_int()))
                .fold(0, |all, bit| all | bit),
        });
    }
    // Longest first: the kernel uses the first suffix that matches. The order is stable, so a pass
    // suffix precedes a zone of the same name.
    suffixes.sort_by_key(|suffix| {
        let wire = suffix.name.wire();
        (std::cmp::Reverse(wire.len()), wire)
    });
    for suffix in suffixes {
        push_suffix(&mut settings, &suffix);
    }
    Ok(settings)
}

/// The value of [`Settings::edns_flags`]. The kernel program reads the OPT record before it knows
/// the zone, so the queries pass in all zones if they pass in one.
fn edns_flags(data: &dyn ZoneData) -> u32 {
    let mut zones = data.zones().iter();
    if zones.any(|apex| apex.dnssec_ok == DnssecOkQueries::Passed) {
        0
    } else {
        Settings::DNSSEC_OK
    }
}

/// A suffix for the settings.
struct SuffixToPush<'a> {
    name: &'a Name,
    /// The number of its zone. Unused in a pass suffix.
    zone: u16,
    action: u16,
    passed_types: u64,
}

/// Checks that the served addresses and allowed networks fit into the settings.
///
/// # Errors
///
/// When an option has too many values. The error names the option.
pub fn check_counts(served_addresses: &[SocketAddr], allow: &[IpNet]) -> anyhow::Result<()> {
    let mut settings = Settings::zeroed();
    served_addresses
        .iter()
        .try_for_each(|address| add_served_address(&mut settings, *address))?;
    allow
        .iter()
        .try_for_each(|network| add_allowed_network(&mut settings, *network))
}

/// The addresses that fit into the settings: the first [`MAX_SERVED`] of each family.
#[must_use]
pub fn first_of_each_family(mut addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let (mut v4, mut v6) = (0, 0);
    addresses.retain(|address| {
        let count = match address.ip() {
            IpAddr::V4(_) => &mut v4,
            IpAddr::V6(_) => &mut v6,
        };
        *count += 1;
        *count <= MAX_SERVED
    });
    addresses
}

/// Adds a suffix if it fits. Otherwise absent names below it pass:
///
/// * If the suffix is too long, every zone that includes it has the action [`Suffix::PASS`]:
///   `inner_suffixes_fit` in [`build_settings`] ensures that.
/// * If there are too many suffixes, no later suffix fits either. The zones that include this
///   suffix come later, because [`build_settings`] adds the longest suffix first.
fn push_suffix(settings: &mut Settings, suffix: &SuffixToPush<'_>) {
    let number = settings.suffix_count as usize;
    let SuffixToPush {
        name,
        zone,
        action,
        passed_types,
    } = *suffix;
    match Suffix::new(name.wire(), zone, action) {
        Some(suffix) if number < MAX_SUFFIXES => {
            settings.suffixes[number] = Suffix {
                passed_types,
                ..suffix
            };
            settings.suffix_count += 1;
        }
        Some(_) => tracing::debug!(
            "queries for absent names below {name} pass to CoreDNS, because the kernel has room \
             for at most {MAX_SUFFIXES} suffixes"
        ),
        None => tracing::debug!(
            "queries for absent names below {name}, and in the zones that include it, pass to \
             CoreDNS, because {name} has {} bytes and the kernel has room for at most \
             {MAX_SUFFIX_LENGTH} bytes of a suffix",
            name.wire().len()
        ),
    }
}

/// Sets the hardware addresses and the rate limit for network cards. Queries to hardware addresses
/// after the first [`MAX_HARDWARE`] pass.
pub(super) fn set_card_settings(settings: &mut Settings, node_settings: &NodeSettings) {
    settings.hardware = [0; MAX_HARDWARE];
    settings.hardware_count = node_settings.card_addresses.len().min(MAX_HARDWARE) as u32;
    for (word, [a, b, c, d, e, f]) in settings
        .hardware
        .iter_mut()
        .zip(&node_settings.card_addresses)
    {
        *word = u64::from_le_bytes([*a, *b, *c, *d, *e, *f, 0, 0]);
    }
    let limit = node_settings
        .rate_limit
        .map(|limit| (limit.refill, limit.burst));
    (settings.limit_refill, settings.limit_burst) = limit.unwrap_or_default();
}

fn add_served_address(settings: &mut Settings, address: SocketAddr) -> anyhow::Result<()> {
    let port = address.port().to_be();
    let count = match address.ip() {
        IpAddr::V4(_) => &mut settings.served4_count,
        IpAddr::V6(_) => &mut settings.served6_count,
    };
    let number = *count as usize;
    if number == MAX_SERVED {
        bail!(
            "--serve {address}: the kernel has room for at most {MAX_SERVED} addresses of \
             each family; give fewer"
        );
    }
    *count += 1;
    match address.ip() {
        IpAddr::V4(ip) => {
            settings.served4[number] = ServedIpv4::new(u32::from_le_bytes(ip.octets()), port);
        }
        IpAddr::V6(ip) => {
            settings.served6[number] = ServedIpv6 {
                address: bytemuck::cast(ip.octets()),
                port: port.into(),
            };
        }
    }
    Ok(())
}

fn add_allowed_network(settings: &mut Settings, network: IpNet) -> anyhow::Result<()> {
    let count = match network {
        IpNet::V4(_) => &mut settings.allowed4_count,
        IpNet::V6(_) => &mut settings.allowed6_count,
    };
    let number = *count as usize;
    if number == MAX_ALLOWED {
        bail!(
            "--allow {network}: the kernel has room for at most {MAX_ALLOWED} networks of \
             each family; give fewer"
        );
    }
    *count += 1;
    match network {
        IpNet::V4(network) => {
            settings.allowed4[number] = AllowedIpv4Network {
                address: u32::from_le_bytes(network.network().octets()),
                mask: u32::from_le_bytes(network.netmask().octets()),
            };
        }
        IpNet::V6(network) => {
            settings.allowed6[number] = AllowedIpv6Network {
                address: bytemuck::cast(network.network().octets()),
                mask: bytemuck::cast(network.netmask().octets()),
            };
        }
    }
    Ok(())
}

/// The zone's SOA record as in negative answers. Its compression pointers are zero, because the
/// kernel sets them for each question.
fn build_zone(data: &dyn ZoneData, number: usize) -> anyhow::Result<ZoneSoa> {
    let name = &data.zones()[number].name;
    // In a response to a question for the zone's own name, all pointers have the offset 12.
    let answer = render(name, &Answer::NoData { zone: number }, data.zones(), 0);
    // Padded to whole words, as in `ZoneSoa`.
    let mut soa = [0; 56];
    if answer.bytes.len() != SOA_LENGTH {
        bail!(
            "the record has {} bytes instead of {SOA_LENGTH}",
            answer.bytes.len()
        );
    }
    soa[..SOA_LENGTH].copy_from_slice(&answer.bytes);
    for at in SOA_POINTERS {
        if soa[at..at + 2] != [0xc0, 0x0c] {
            bail!("there is no pointer to the zone at byte {at}");
        }
        soa[at..at + 2].fill(0);
    }
    Ok(ZoneSoa {
        soa,
        name_length: name.wire().len() as u32,
        sum: checksum::fold(checksum::sum(&soa)).into(),
    })
}

/// The agent's side of the maps CONTROL and SETTINGS.
pub struct SettingsPublisher {
    control: Memory,
    copies: Memory,
    /// The settings published last; `None` before the first publication.
    current: Option<Settings>,
    /// The number of the copy that holds `current`.
    slot: u32,
}

impl RateLimit {
    /// A limit of `rate` answers per second. The largest burst is the answers of one second. Rates
    /// above `MAX_RATE`, about a million answers per second, count as `MAX_RATE`.
    #[must_use]
    pub fn new(rate: NonZeroU32, clock: Clock) -> RateLimit {
        let burst = u64::from(rate.get().min(MAX_RATE)) * TOKEN;
        let refill = burst / u64::from(clock.rate);
        RateLimit {
            // A bucket that is never filled again would block its clients for good. On Linux
            // `refill` is 4 or more anyway, because `clock.rate` is at most 1000, and `burst` at
            // least `TOKEN`, 4096.
            refill: refill.max(1) as u32,
            burst: burst as u32,
        }
    }
}

impl SettingsPublisher {
    /// Wraps zeroed memory: one [`Control`], and [`SETTINGS_COPIES`] copies of [`Settings`].
    #[must_use]
    pub fn new(control: Memory, copies: Memory) -> Self {
        Self {
            control,
            copies,
            current: None,
            slot: 0,
        }
    }

    /// Whether `settings` equals the current settings.
    #[must_use]
    pub fn is_current(&self, settings: &Settings) -> bool {
        let current = self.current.as_ref().map(bytemuck::bytes_of);
        current == Some(bytemuck::bytes_of(settings))
    }

    /// The settings published last; `None` before the first publication.
    #[must_use]
    pub fn current(&self) -> Option<&Settings> {
        self.current.as_ref()
    }

    /// Publishes `settings` if they differ from the current ones. Returns whether they did.
    ///
    /// The copies are used in turn, and readers may still use an old copy. So the caller must wait
    /// for a grace period after at most [`SETTINGS_COPIES`] − 1 publications.
    pub fn publish(&mut self, settings: &Settings) -> bool {
        if self.is_current(settings) {
            return false;
        }
        let bytes = bytemuck::bytes_of(settings);
        self.slot = (self.slot + 1) % SETTINGS_COPIES;
        let words = size_of::<Settings>() / 8;
        let copy = &self.copies.words()[self.slot as usize * words..][..words];
        for (word, bytes) in copy.iter().zip(bytes.chunks_exact(8)) {
            word.store(bytemuck::pod_read_unaligned(bytes), Ordering::Relaxed);
        }
        // Plus 1, because 0 means that no settings are published yet.
        self.control.words()[SETTINGS_WORD].store(u64::from(self.slot) + 1, Ordering::Release);
        self.current = Some(*settings);
        true
    }

    /// The memory of the map CONTROL, and that of the copies.
    pub(super) fn memory(&self) -> [&Memory; 2] {
        [&self.control, &self.copies]
    }

    /// The end of the lease in jiffies. It may be in the past. 0 before the first lease, and after
    /// [`SettingsPublisher::end_lease`].
    pub(super) fn lease(&self) -> u64 {
        self.control.words()[LEASE_WORD].load(Ordering::Relaxed)
    }

    /// Sets the port of packets that may be steered.
    pub(super) fn set_steered_port(&self, port: u16) {
        let word = &self.control.words()[STEERED_PORT_WORD];
        word.store(port.to_be().into(), Ordering::Release);
    }

    /// Ends the lease immediately.
    pub fn end_lease(&self) {
        self.control.words()[LEASE_WORD].store(0, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerohop_zone::ModelBuilder;

    fn node_settings() -> NodeSettings {
        NodeSettings {
            hash_key: HashKey::zeroed(),
            directory_mask: 0,
            secret: 0,
            served_addresses: Vec::new(),
            allow: Vec::new(),
            card_addresses: Vec::new(),
            rate_limit: None,
        }
    }

    /// Wire length and action of each suffix, for the zone `zone.test` with these names delegated.
    fn suffixes(passed: &[&str]) -> Vec<(u32, u16)> {
        let name = |text: &str| Name::parse(text).unwrap();
        let mut builder = ModelBuilder::new(1);
        builder.add_zone(name("zone.test"), 5).unwrap();
        for text in passed {
            builder.delegate(name(text));
        }
        let model = builder.build();
        let node_settings = node_settings();
        // The tables have all names of the zone (`true`).
        let settings = build_settings(
            &node_settings,
            &model,
            &[true],
            &ZoneData::pass_suffixes(&model),
        )
        .unwrap();
        let suffixes = &settings.suffixes[..settings.suffix_count as usize];
        suffixes
            .iter()
            .map(|suffix| (suffix.length, suffix.action))
            .collect()
    }

    #[test]
    fn a_zone_that_is_not_published_yet_is_not_authoritative() {
        let mut builder = ModelBuilder::new(1);
        let zone = Name::parse("zone.test").unwrap();
        builder.add_zone(zone, 5).unwrap();
        let model = builder.build();
        let settings = build_settings(&node_settings(), &model, &[], &BTreeSet::new()).unwrap();
        assert_eq!(settings.suffixes[0].action, Suffix::PASS);
    }

    #[test]
    fn the_first_addresses_of_each_family_fit() {
        let v4 = |number: u8| SocketAddr::from(([10, 0, 0, number], 53));
        let v6 = SocketAddr::from(([0xfd00, 0, 0, 0, 0, 0, 0, 1], 53));
        let all: Vec<_> = (0..=MAX_SERVED as u8).map(v4).chain([v6]).collect();
        let fit = first_of_each_family(all.clone());
        assert_eq!(fit, [&all[..MAX_SERVED], &[v6]].concat());
        assert!(check_counts(&fit, &[]).is_ok() && check_counts(&all, &[]).is_err());
    }

    #[test]
    fn delegated_names_precede_their_zone() {
        assert_eq!(suffixes(&[]), [(11, Suffix::AUTHORITATIVE)]);
        assert_eq!(
            suffixes(&["b.zone.test", "a.b.c.zone.test"]),
            [
                (17, Suffix::PASS),
                (13, Suffix::PASS),
                (11, Suffix::AUTHORITATIVE)
            ]
        );
        // The model drops delegations outside all zones.
        assert_eq!(suffixes(&["elsewhere.test"]), [(11, Suffix::AUTHORITATIVE)]);
    }

    #[test]
    fn a_delegated_name_too_long_for_a_suffix_makes_its_zone_pass() {
        // `.zone.test` and the length byte of the first label have 12 bytes in wire form.
        let fits = format!("{}.zone.test", "a".repeat(MAX_SUFFIX_LENGTH - 12));
        assert_eq!(
            suffixes(&[&fits]),
            [
                (MAX_SUFFIX_LENGTH as u32, Suffix::PASS),
                (11, Suffix::AUTHORITATIVE)
            ]
        );
        assert_eq!(suffixes(&[&format!("a{fits}")]), [(11, Suffix::PASS)]);
    }
}
