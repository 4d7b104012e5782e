//! Settings: what the kernel program needs besides the names.
//!
//! The settings are many words that must change together, so they are published like records: the
//! agent fills one of [`SETTINGS_COPIES`] copies, then stores its number in [`Control::settings`].

use bytemuck::{Pod, Zeroable};

use crate::names::HashKey;

/// Copies of [`Settings`]. One is in force. Replaced copies may be read until a grace period has
/// passed. With four copies the agent need not wait for one after each publication.
pub const SETTINGS_COPIES: u32 = 4;

/// The maximum number of served addresses of each address family.
pub const MAX_SERVED: usize = 16;

/// The maximum number of allowed networks of each address family.
pub const MAX_ALLOWED: usize = 16;

/// The maximum number of suffixes, and of zones. A /12 network takes sixteen of each for its
/// reverse zones. A power of two, so that the kernel program can mask positions. Not 256, because
/// verifiers would then process up to 909,000 instructions, of the million that they allow.
pub const MAX_SUFFIXES: usize = 128;

/// The maximum number of permitted client addresses, both address families together.
pub const MAX_CLIENTS: u32 = 8192;

/// The maximum number of hardware addresses of network cards.
pub const MAX_HARDWARE: usize = 16;

/// The number of token buckets for the rate limit of clients on network cards.
pub const TOKEN_BUCKETS: u32 = 1 << 16;

/// One token, which is the cost of an answer. Bucket levels are counted in 4096ths of a token, so
/// that the refill of one jiffy can be less than a token.
pub const TOKEN: u64 = 1 << 12;

/// Bytes of the longest suffix, root label included.
pub const MAX_SUFFIX_LENGTH: usize = 64;

/// Bytes of the SOA record in a negative answer. Every zone has this length, because the owner is a
/// compression pointer to the zone's name, MNAME is `ns.dns` and such a pointer, and RNAME is
/// `hostmaster` and such a pointer.
pub const SOA_LENGTH: usize = 54;

/// Offsets of the compression pointers in the SOA record: owner, end of MNAME, end of RNAME.
pub const SOA_POINTERS: [usize; 3] = [0, 19, 32];

/// The words that change often, on one cache line of their own.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct Control {
    /// The number of the copy of the settings in force, plus 1. 0 before the first one is
    /// published.
    pub settings: u64,
    /// The time, in jiffies, until which the kernel program answers. 0 before the first lease, and
    /// after the agent has ended the lease.
    pub lease: u64,
    /// The port of packets that may be steered, in network order ([`crate::steering`]). 0 while
    /// nothing is steered.
    pub steered_port: u64,
    /// Padding, so that nothing else shares the cache line.
    pub reserved: [u64; 5],
}

/// The settings that are published together. The agent writes them, the kernel program reads them.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct Settings {
    /// The key of the name hash.
    pub hash_key: HashKey,
    /// A secret that is mixed into the choice of the first address and of a client's token bucket,
    /// so that clients can predict neither.
    pub secret: u64,
    /// The number of buckets in the directory, which is a power of two, minus 1.
    pub directory_mask: u32,
    /// The number of used elements of `served4`.
    pub served4_count: u32,
    /// The number of used elements of `served6`.
    pub served6_count: u32,
    /// The number of used elements of `suffixes`.
    pub suffix_count: u32,
    /// The number of used elements of `allowed4`.
    pub allowed4_count: u32,
    /// The number of used elements of `allowed6`.
    pub allowed6_count: u32,
    /// The clients that policies permit: [`Settings::ANY_CLIENT`] or
    /// [`Settings::PERMITTED_CLIENTS`]. They are checked on pod veths, at XDP on all veths, and
    /// at tc on other devices if there are no allowed networks.
    pub clients: u64,
    /// The number of used elements of `hardware`.
    pub hardware_count: u32,
    /// The refill of a token bucket per jiffy, in the unit of [`TOKEN`].
    pub limit_refill: u32,
    /// The capacity of a token bucket, in the unit of [`TOKEN`]. 0 if there is no rate limit.
    pub limit_burst: u32,
    /// The flags of an OPT record with which queries are answered, in network order:
    /// [`Settings::DNSSEC_OK`] or 0.
    pub edns_flags: u32,
    /// The hardware addresses of the network cards on which the kernel answers, in network order in
    /// the lower 48 bits.
    pub hardware: [u64; MAX_HARDWARE],
    /// The served IPv4 addresses and ports. The kernel answers only queries to one of these.
    pub served4: [ServedIpv4; MAX_SERVED],
    /// The same for IPv6.
    pub served6: [ServedIpv6; MAX_SERVED],
    /// The allowed IPv4 networks. Their clients are answered on network cards, whatever `clients`
    /// says. If there are none of either address family, the agent attaches hooks only to veths.
    /// XDP on network cards would answer no client, and tc answers the clients that policies
    /// permit.
    pub allowed4: [AllowedIpv4Network; MAX_ALLOWED],
    /// The same for IPv6.
    pub allowed6: [AllowedIpv6Network; MAX_ALLOWED],
    /// The suffixes, longest first. The first suffix with which a name ends decides.
    pub suffixes: [Suffix; MAX_SUFFIXES],
    /// The SOA records of negative answers.
    pub zones: [ZoneSoa; MAX_SUFFIXES],
}

impl Settings {
    /// The DO bit in the TTL of an OPT record (RFC 3225), in network order. Queries with this bit
    /// pass if the answers in any zone are signed.
    pub const DNSSEC_OK: u32 = 0x8000_u32.to_be();
    /// All clients are permitted, because no policy restricts DNS queries.
    pub const ANY_CLIENT: u64 = 0;
    /// Only clients with an address in the map CLIENTS are permitted.
    pub const PERMITTED_CLIENTS: u64 = 1;
}

/// A key of the map CLIENTS: an IPv6 address, or an IPv4-mapped one (RFC 4291 section 2.5.5.2).
pub type ClientKey = [u64; 2];

/// The key of an IPv4 address in network order.
#[inline(always)]
#[must_use]
pub const fn ipv4_client_key(address: u32) -> ClientKey {
    let [a, b, c, d] = address.to_ne_bytes();
    [0, u64::from_ne_bytes([0, 0, 0xff, 0xff, a, b, c, d])]
}

/// A served IPv4 address and port: `port << 32 | address`, each in network order.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct ServedIpv4(pub u64);

impl ServedIpv4 {
    /// `address` and `port` in network order.
    #[inline(always)]
    #[must_use]
    pub const fn new(address: u32, port: u16) -> Self {
        Self((port as u64) << 32 | address as u64)
    }
}

/// A served IPv6 address and port, in network order.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct ServedIpv6 {
    /// The two halves of the address.
    pub address: [u64; 2],
    /// The port, in the lower 16 bits.
    pub port: u64,
}

/// An allowed IPv4 network, in network order.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct AllowedIpv4Network {
    /// The network address. Bits outside the mask are zero.
    pub address: u32,
    /// The netmask.
    pub mask: u32,
}

/// An allowed IPv6 network, in network order.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct AllowedIpv6Network {
    /// The two halves of the network address. Bits outside the mask are zero.
    pub address: [u64; 2],
    /// The two halves of the netmask.
    pub mask: [u64; 2],
}

/// A suffix of names, and what the absence of a record proves for names with this suffix.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Suffix {
    /// The suffix in wire form and lower case, at the end of the array. `mask` and `length` exclude
    /// the bytes before it.
    pub words: [u64; MAX_SUFFIX_LENGTH / 8],
    /// Bytes of the suffix, root label included.
    pub length: u32,
    /// Position in [`Settings::zones`] of the zone whose SOA record goes into NXDOMAIN answers
    /// below this suffix. Unused with [`Suffix::PASS`].
    pub zone: u16,
    /// [`Suffix::AUTHORITATIVE`] or [`Suffix::PASS`].
    pub action: u16,
    /// The types whose queries pass, with [`Suffix::AUTHORITATIVE`]: a sum of [`Suffix::type_bit`].
    pub passed_types: u64,
    /// Selects the bytes of the first used word that belong to the suffix.
    pub mask: u64,
}

impl Suffix {
    /// Queries for names without a record pass, because the name may exist.
    pub const PASS: u16 = 0;
    /// A name without a record does not exist, but queries for [`Suffix::passed_types`] pass.
    pub const AUTHORITATIVE: u16 = 1;

    /// The bit of a type in [`Suffix::passed_types`]. All types from 63 share the last bit.
    #[inline(always)]
    #[must_use]
    pub const fn type_bit(rtype: u16) -> u64 {
        let bit = if rtype < 63 { rtype } else { 63 };
        1 << bit
    }

    /// The suffix `name`, in wire form and lower case.
    ///
    /// `None` if `name` has more than [`MAX_SUFFIX_LENGTH`] bytes.
    #[must_use]
    pub fn new(name: &[u8], zone: u16, action: u16) -> Option<Self> {
        let start = MAX_SUFFIX_LENGTH.checked_sub(name.len())?;
        let mut bytes = [0; MAX_SUFFIX_LENGTH];
        bytes[start..].copy_from_slice(name);
        Some(Self {
            words: bytemuck::cast(bytes),
            length: name.len() as u32,
            zone,
            action,
            passed_types: 0,
            mask: u64::MAX << (8 * (start % 8)),
        })
    }
}

/// The SOA record of a zone.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct ZoneSoa {
    /// The SOA record ([`SOA_LENGTH`] bytes), padded to whole words. The pointers at
    /// [`SOA_POINTERS`] are zero.
    pub soa: [u8; 56],
    /// Bytes of the zone's name, root label included.
    pub name_length: u32,
    /// The folded one's complement sum of `soa`.
    pub sum: u32,
}

impl ZoneSoa {
    /// The compression pointer (RFC 1035 section 4.1.4) to the zone's name, which is the end of the
    /// question's name, in network order. It goes to all of [`SOA_POINTERS`].
    ///
    /// `zone_length` is [`ZoneSoa::name_length`]. `name_length` is the length of the question's
    /// name, which starts after the 12 bytes of the DNS header.
    #[inline(always)]
    #[must_use]
    pub const fn pointer(zone_length: u32, name_length: u32) -> u16 {
        (0xc000 | (12 + name_length - zone_length) as u16).to_be()
    }
}
