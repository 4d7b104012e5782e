//! The settings that the kernel program reads, and their publication.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    sync::atomic::Ordering,
};

use anyhow::{Context as _, bail};
use bytemuck::Zeroable as _;
use dns_common::{
    Control, Settings, checksum,
    names::HashKey,
    settings::{
        MAX_ALLOWED, MAX_HARDWARE, MAX_SERVED, MAX_SUFFIX, MAX_SUFFIXES, Network4, Network6, SLOTS,
        SOA_LEN, SOA_POINTERS, Served4, Served6, Suffix, TOKEN, Zone,
    },
};
use ipnet::IpNet;

use super::{interfaces::HardwareAddress, lease::Clock, memory::Memory};
use crate::zone::{Absent, Answer, Name, ZoneData, render};

/// The words of [`Control`].
const SETTINGS: usize = std::mem::offset_of!(Control, settings) / 8;
pub(super) const LEASE: usize = std::mem::offset_of!(Control, lease) / 8;

/// Answers a second that a limit may be: so many tokens fit into 32 bits.
const MAX_RATE: u32 = (u32::MAX as u64 / TOKEN) as u32;

/// What settings are made of beside the zones: keys, and what the operator, the cluster's DNS and the devices say.
#[derive(Clone, Debug)]
pub struct Fixed {
    /// Picks a name's buckets.
    pub hash_key: HashKey,
    /// Buckets in the directory, minus 1.
    pub directory_mask: u32,
    /// See [`Settings::secret`].
    pub secret: u64,
    /// Addresses and ports that the kernel answers for.
    pub serve: Vec<SocketAddr>,
    /// Networks whose clients are answered on network cards.
    pub allow: Vec<IpNet>,
    /// Hardware addresses of the network cards that answer.
    pub hardware: Vec<HardwareAddress>,
    /// How often one client is answered on a network card.
    pub limit: Option<Limit>,
}

/// How often one client is answered, in parts of a [`TOKEN`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// What is added in a jiffy.
    pub refill: u32,
    /// What there is at most.
    pub burst: u32,
}

/// The settings for a model.
///
/// `owned` says for each zone of the model whether the absence of a name in it means anything;
/// below the names in `deep` it never does.
///
/// # Errors
///
/// When there are more addresses to serve than the kernel program looks through.
pub fn build(
    fixed: &Fixed,
    model: &dyn ZoneData,
    owned: &[bool],
    deep: &BTreeSet<Name>,
) -> anyhow::Result<Settings> {
    let mut settings = Settings {
        hash_key: fixed.hash_key,
        secret: fixed.secret,
        directory_mask: fixed.directory_mask,
        ..Settings::zeroed()
    };
    for address in &fixed.serve {
        serve(&mut settings, *address)?;
    }
    for network in &fixed.allow {
        allow(&mut settings, *network)?;
    }
    guard(&mut settings, fixed);
    let mut suffixes: Vec<(&[u8], u16, u16)> = deep
        .iter()
        .map(|name| (name.wire(), 0, Suffix::PASS))
        .collect();
    let zones = || model.zones().iter().take(MAX_SUFFIXES);
    for (number, apex) in zones().enumerate() {
        settings.zones[number] = zone(model, number)
            .with_context(|| format!("building the SOA record of {}", apex.name))?;
        // What can't have a suffix of its own must not fall under this one.
        let covers_all = || {
            let inner = model.zones().iter().map(|inner| &inner.name).chain(deep);
            inner
                .filter(|inner| inner.wire().len() > MAX_SUFFIX)
                .all(|inner| *inner == apex.name || !inner.is_at_or_below(&apex.name))
        };
        let action = match apex.absent {
            Absent::Denied => Suffix::OWN,
            Absent::DeniedExceptSoa => Suffix::OWN_EXCEPT_SOA,
            Absent::Passed | Absent::NotYetKnown => Suffix::PASS,
        };
        let action = match owned[number] && covers_all() {
            true => action,
            false => Suffix::PASS,
        };
        suffixes.push((apex.name.wire(), number as u16, action));
    }
    suffixes.sort_by_key(|(name, ..)| (std::cmp::Reverse(name.len()), *name));
    for (name, zone, action) in suffixes {
        push_suffix(&mut settings, name, zone, action);
    }
    Ok(settings)
}

/// Refuses more addresses or networks than the kernel program looks through.
///
/// # Errors
///
/// Says which setting has too many.
pub fn check(serve: &[SocketAddr], allow: &[IpNet]) -> anyhow::Result<()> {
    let mut settings = Settings::zeroed();
    serve
        .iter()
        .try_for_each(|address| self::serve(&mut settings, *address))?;
    allow
        .iter()
        .try_for_each(|network| self::allow(&mut settings, *network))
}

/// Those addresses that the kernel program looks through, if they were served: the first of each family.
#[must_use]
pub fn fitting(mut addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
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

/// Adds a suffix. Without one the names below it that have no record pass.
fn push_suffix(settings: &mut Settings, name: &[u8], zone: u16, action: u16) {
    let number = settings.suffix_count as usize;
    match Suffix::new(name, zone, action) {
        Some(suffix) if number < MAX_SUFFIXES => {
            settings.suffixes[number] = suffix;
            settings.suffix_count += 1;
        }
        _ => tracing::debug!(
            "no room for a suffix of {} octets (at most {MAX_SUFFIX}; at most {MAX_SUFFIXES} of them)",
            name.len()
        ),
    }
}

/// Says which network cards answer, and how often; those beyond the first [`MAX_HARDWARE`] pass
/// everything.
pub(super) fn guard(settings: &mut Settings, fixed: &Fixed) {
    settings.hardware = [0; MAX_HARDWARE];
    settings.hardware_count = fixed.hardware.len().min(MAX_HARDWARE) as u32;
    for (word, [a, b, c, d, e, f]) in settings.hardware.iter_mut().zip(&fixed.hardware) {
        *word = u64::from_le_bytes([*a, *b, *c, *d, *e, *f, 0, 0]);
    }
    let limit = fixed.limit.map(|limit| (limit.refill, limit.burst));
    (settings.limit_refill, settings.limit_burst) = limit.unwrap_or_default();
}

fn serve(settings: &mut Settings, address: SocketAddr) -> anyhow::Result<()> {
    let port = address.port().to_be();
    let count = match address.ip() {
        IpAddr::V4(_) => &mut settings.served4_count,
        IpAddr::V6(_) => &mut settings.served6_count,
    };
    let number = *count as usize;
    if number == MAX_SERVED {
        bail!("--serve {address}: the kernel serves at most {MAX_SERVED} addresses of each family");
    }
    *count += 1;
    match address.ip() {
        IpAddr::V4(ip) => {
            settings.served4[number] = Served4::new(u32::from_le_bytes(ip.octets()), port);
        }
        IpAddr::V6(ip) => {
            settings.served6[number] = Served6 {
                address: bytemuck::cast(ip.octets()),
                port: port.into(),
            };
        }
    }
    Ok(())
}

fn allow(settings: &mut Settings, network: IpNet) -> anyhow::Result<()> {
    let count = match network {
        IpNet::V4(_) => &mut settings.allowed4_count,
        IpNet::V6(_) => &mut settings.allowed6_count,
    };
    let number = *count as usize;
    if number == MAX_ALLOWED {
        bail!("--allow {network}: at most {MAX_ALLOWED} networks of each family");
    }
    *count += 1;
    match network {
        IpNet::V4(network) => {
            settings.allowed4[number] = Network4 {
                address: u32::from_le_bytes(network.network().octets()),
                mask: u32::from_le_bytes(network.netmask().octets()),
            };
        }
        IpNet::V6(network) => {
            settings.allowed6[number] = Network6 {
                address: bytemuck::cast(network.network().octets()),
                mask: bytemuck::cast(network.netmask().octets()),
            };
        }
    }
    Ok(())
}

/// The zone's SOA record as negative answers carry it, its pointers blank.
fn zone(model: &dyn ZoneData, number: usize) -> anyhow::Result<Zone> {
    let name = &model.zones()[number].name;
    // Rendered behind the zone's own name, where every pointer is the same.
    let answer = render(name, &Answer::NoData { zone: number }, model.zones(), 0);
    let mut soa = [0; 56];
    if answer.bytes.len() != SOA_LEN {
        bail!(
            "it takes {} octets instead of {SOA_LEN}",
            answer.bytes.len()
        );
    }
    soa[..SOA_LEN].copy_from_slice(&answer.bytes);
    for at in SOA_POINTERS {
        if soa[at..at + 2] != [0xc0, 0x0c] {
            bail!("octet {at} starts no pointer to the zone");
        }
        soa[at..at + 2].fill(0);
    }
    Ok(Zone {
        soa,
        name_len: name.wire().len() as u32,
        sum: checksum::fold(checksum::sum(&soa)).into(),
    })
}

/// The writer's side of the control line and the copies of the settings.
pub struct Publisher {
    control: Memory,
    copies: Memory,
    current: Option<Settings>,
    slot: u32,
}

impl Limit {
    /// So many answers a second, and in one go; none if it is 0.
    #[must_use]
    pub fn new(rate: u32, clock: Clock) -> Option<Limit> {
        // Both fit: more than a million a second is no limit that anybody reaches.
        let burst = u64::from(rate.min(MAX_RATE)) * TOKEN;
        let refill = burst / u64::from(clock.rate);
        (rate > 0).then_some(Limit {
            refill: refill.max(1) as u32,
            burst: burst as u32,
        })
    }
}

impl Publisher {
    /// Over zeroed memory: one [`Control`], and [`SLOTS`] copies of [`Settings`].
    #[must_use]
    pub fn new(control: Memory, copies: Memory) -> Self {
        Self {
            control,
            copies,
            current: None,
            slot: 0,
        }
    }

    /// Whether these are the settings that were published last.
    #[must_use]
    pub fn is_current(&self, settings: &Settings) -> bool {
        let current = self.current.as_ref().map(bytemuck::bytes_of);
        current == Some(bytemuck::bytes_of(settings))
    }

    /// The settings that were published last.
    #[must_use]
    pub fn current(&self) -> Option<&Settings> {
        self.current.as_ref()
    }

    /// Publishes settings that differ from the current ones; says whether they did.
    ///
    /// A copy is written again only after [`SLOTS`] − 1 others: the caller must see to it that a
    /// grace period passes in every [`SLOTS`] − 1 publications.
    pub fn publish(&mut self, settings: &Settings) -> bool {
        if self.is_current(settings) {
            return false;
        }
        let octets = bytemuck::bytes_of(settings);
        self.slot = (self.slot + 1) % SLOTS;
        let words = size_of::<Settings>() / 8;
        let copy = &self.copies.words()[self.slot as usize * words..][..words];
        for (word, octets) in copy.iter().zip(octets.chunks_exact(8)) {
            word.store(bytemuck::pod_read_unaligned(octets), Ordering::Relaxed);
        }
        self.control.words()[SETTINGS].store(u64::from(self.slot) + 1, Ordering::Release);
        self.current = Some(*settings);
        true
    }

    /// The control line's memory, and the copies'.
    pub(super) fn memories(&self) -> [&Memory; 2] {
        [&self.control, &self.copies]
    }

    /// Until when the kernel answers, in jiffies; 0 after [`Publisher::end_lease`].
    pub(super) fn lease(&self) -> u64 {
        self.control.words()[LEASE].load(Ordering::Relaxed)
    }

    /// Ends the lease at once.
    pub fn end_lease(&self) {
        self.control.words()[LEASE].store(0, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zone::ModelBuilder;

    /// The suffixes for a zone `zone.test` with these names passed, and what they say.
    fn suffixes(passed: &[&str]) -> Vec<(u32, u16)> {
        let name = |text: &str| Name::parse(text).unwrap();
        let mut builder = ModelBuilder::new(1);
        builder.add_zone(name("zone.test"), 5).unwrap();
        for text in passed {
            builder.pass(name(text));
        }
        let model = builder.build();
        let fixed = Fixed {
            hash_key: HashKey::zeroed(),
            directory_mask: 0,
            secret: 0,
            serve: Vec::new(),
            allow: Vec::new(),
            hardware: Vec::new(),
            limit: None,
        };
        let settings = build(&fixed, &model, &[true], &ZoneData::deep_names(&model)).unwrap();
        let suffixes = &settings.suffixes[..settings.suffix_count as usize];
        suffixes
            .iter()
            .map(|suffix| (suffix.length, suffix.action))
            .collect()
    }

    #[test]
    fn the_first_addresses_of_each_family_fit() {
        let v4 = |number: u8| SocketAddr::from(([10, 0, 0, number], 53));
        let v6 = SocketAddr::from(([0xfd00, 0, 0, 0, 0, 0, 0, 1], 53));
        let all: Vec<_> = (0..20).map(v4).chain([v6]).collect();
        let fit = fitting(all.clone());
        assert_eq!(fit, [&all[..MAX_SERVED], &[v6]].concat());
        assert!(check(&fit, &[]).is_ok() && check(&all, &[]).is_err());
    }

    #[test]
    fn passed_names_come_before_their_zone() {
        assert_eq!(suffixes(&[]), [(11, Suffix::OWN)]);
        assert_eq!(
            suffixes(&["b.zone.test", "a.b.c.zone.test"]),
            [(17, Suffix::PASS), (13, Suffix::PASS), (11, Suffix::OWN)]
        );
        assert_eq!(suffixes(&["elsewhere.test"]), [(11, Suffix::OWN)]);
    }

    #[test]
    fn a_passed_name_too_long_for_a_suffix_takes_its_zone_with_it() {
        let fits = format!("{}.zone.test", "a".repeat(MAX_SUFFIX - 12));
        assert_eq!(
            suffixes(&[&fits]),
            [(MAX_SUFFIX as u32, Suffix::PASS), (11, Suffix::OWN)]
        );
        assert_eq!(suffixes(&[&format!("a{fits}")]), [(11, Suffix::PASS)]);
    }
}
