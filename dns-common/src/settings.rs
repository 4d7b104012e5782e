//! Settings: what the kernel program needs besides the names.
//!
//! They are several words that belong together, so they are published like records: the
//! writer fills one of [`SLOTS`] copies, then stores its number in [`Control::settings`].

use bytemuck::{Pod, Zeroable};

use crate::names::HashKey;

/// Copies of [`Settings`]: one that is read, one that is being written, and spare ones
/// that wait for their grace period.
pub const SLOTS: u32 = 4;

/// Served addresses of each family.
pub const MAX_SERVED: usize = 16;

/// Networks of each family whose clients are answered on a network card.
pub const MAX_ALLOWED: usize = 16;

/// Suffixes, and zones: a /12 reverse network is sixteen of each. A power of two, so that the
/// kernel can mask their positions.
pub const MAX_SUFFIXES: usize = 64;

/// Addresses of pods that may ask, of both families together, while policies restrict who may.
pub const MAX_CLIENTS: u32 = 8192;

/// Hardware addresses of network cards.
pub const MAX_HARDWARE: usize = 16;

/// Buckets of tokens that clients on network cards share.
pub const TOKEN_BUCKETS: u32 = 1 << 16;

/// What an answer costs: levels of buckets are in parts of a token, so that a jiffy may bring less
/// than one.
pub const TOKEN: u64 = 1 << 12;

/// Octets of the longest suffix, root included.
pub const MAX_SUFFIX: usize = 64;

/// Octets of a zone's SOA record as an answer holds it: owner and the parents of both names
/// are pointers, so every zone's is as long.
pub const SOA_LEN: usize = 54;

/// Where a zone's pointers stand in its SOA record: owner, end of MNAME, end of RNAME.
pub const SOA_POINTERS: [usize; 3] = [0, 19, 32];

/// What changes all the time; one cache line.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct Control {
    /// The copy of the settings that counts, plus 1. 0: none yet.
    pub settings: u64,
    /// The kernel answers until this time, in jiffies.
    pub lease: u64,
    /// Fills the line, so that nothing else shares it.
    pub reserved: [u64; 6],
}

/// One copy of the settings.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct Settings {
    /// Picks a name's buckets.
    pub hash_key: HashKey,
    /// Mixed into the choice of the first address, and of a client's bucket of tokens, so that nobody
    /// outside knows either.
    pub secret: u64,
    /// Buckets in the directory, minus 1; a power of two minus 1.
    pub directory_mask: u32,
    /// How many of `served4` count.
    pub served4_count: u32,
    /// How many of `served6` count.
    pub served6_count: u32,
    /// How many of `suffixes` count.
    pub suffix_count: u32,
    /// How many of `allowed4` count.
    pub allowed4_count: u32,
    /// How many of `allowed6` count.
    pub allowed6_count: u32,
    /// Who is answered on pods' veths: [`Settings::ANY_CLIENT`] or [`Settings::KNOWN_CLIENTS`].
    pub clients: u64,
    /// How many of `hardware` count.
    pub hardware_count: u32,
    /// What a bucket gets in a jiffy, in parts of a [`TOKEN`].
    pub limit_refill: u32,
    /// What a bucket holds, in parts of a [`TOKEN`]. 0: clients may ask as often as they like.
    pub limit_burst: u32,
    /// Fills the word.
    pub reserved: u32,
    /// The hardware addresses of network cards, as they stand on the wire in the lower 48 bits.
    pub hardware: [u64; MAX_HARDWARE],
    /// IPv4 addresses and ports whose questions are answered.
    pub served4: [Served4; MAX_SERVED],
    /// The same for IPv6.
    pub served6: [Served6; MAX_SERVED],
    /// IPv4 networks whose clients are answered on a network card.
    pub allowed4: [Network4; MAX_ALLOWED],
    /// The same for IPv6.
    pub allowed6: [Network6; MAX_ALLOWED],
    /// Longest first; the first that matches decides.
    pub suffixes: [Suffix; MAX_SUFFIXES],
    /// What NODATA and NXDOMAIN carry.
    pub zones: [Zone; MAX_SUFFIXES],
}

impl Settings {
    /// No policy restricts who asks.
    pub const ANY_CLIENT: u64 = 0;
    /// Only the addresses in the table of clients are answered on pods' veths.
    pub const KNOWN_CLIENTS: u64 = 1;
}

/// The key of an address in the table of clients: its octets, an IPv4 address as an IPv4-mapped one
/// (RFC 4291 section 2.5.5.2).
pub type ClientKey = [u64; 2];

/// The key of an IPv4 address as it stands on the wire.
#[inline(always)]
#[must_use]
pub const fn client4(address: u32) -> ClientKey {
    let [a, b, c, d] = address.to_ne_bytes();
    [0, u64::from_ne_bytes([0, 0, 0xff, 0xff, a, b, c, d])]
}

/// A served IPv4 address and port, as they stand on the wire.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Served4(pub u64);

impl Served4 {
    /// From address and port as they stand on the wire.
    #[inline(always)]
    #[must_use]
    pub const fn new(address: u32, port: u16) -> Self {
        Self((port as u64) << 32 | address as u64)
    }
}

/// A served IPv6 address and port, as they stand on the wire.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Served6 {
    /// The address's two halves.
    pub address: [u64; 2],
    /// The port.
    pub port: u64,
}

/// An IPv4 network, as on the wire.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Network4 {
    /// The address, zero outside the mask.
    pub address: u32,
    /// The netmask.
    pub mask: u32,
}

/// An IPv6 network, as on the wire.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Network6 {
    /// The address's two halves, zero outside the mask.
    pub address: [u64; 2],
    /// The netmask's two halves.
    pub mask: [u64; 2],
}

/// The end of a name, and whether its absence from the directory means anything.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Suffix {
    /// The suffix in wire form, lower-cased, at the end of the array; what stands before it is
    /// covered by `mask` and skipped.
    pub words: [u64; MAX_SUFFIX / 8],
    /// Octets of the suffix, root included.
    pub length: u32,
    /// Position in [`Settings::zones`].
    pub zone: u16,
    /// [`Suffix::OWN`], [`Suffix::OWN_EXCEPT_SOA`] or [`Suffix::PASS`].
    pub action: u16,
    /// Covers the octets of the first word in use that belong to the suffix.
    pub mask: u64,
}

impl Suffix {
    /// A name under this suffix that has no record may exist all the same.
    pub const PASS: u16 = 0;
    /// A name under this suffix that has no record does not exist.
    pub const OWN: u16 = 1;
    /// The same, but nothing is said to who asks for its SOA.
    pub const OWN_EXCEPT_SOA: u16 = 2;

    /// The entry for a name in wire form, lower-cased.
    ///
    /// `None` when it is longer than [`MAX_SUFFIX`]: then nothing can be said about absent
    /// names below it.
    #[must_use]
    pub fn new(name: &[u8], zone: u16, action: u16) -> Option<Self> {
        let start = MAX_SUFFIX.checked_sub(name.len())?;
        let mut octets = [0; MAX_SUFFIX];
        octets[start..].copy_from_slice(name);
        Some(Self {
            words: bytemuck::cast(octets),
            length: name.len() as u32,
            zone,
            action,
            mask: u64::MAX << (8 * (start % 8)),
        })
    }
}

/// A zone, for its SOA record.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Zone {
    /// The SOA record with [`SOA_POINTERS`] left zero.
    pub soa: [u8; 56],
    /// Octets of the zone's name, root included.
    pub name_len: u32,
    /// The one's complement sum of `soa`, folded.
    pub sum: u32,
}

impl Zone {
    /// The value of all three pointers in an answer to a name of `name_len` octets.
    #[inline(always)]
    #[must_use]
    pub const fn pointer(self_len: u32, name_len: u32) -> u16 {
        (0xc000 | (12 + name_len - self_len) as u16).to_be()
    }
}
