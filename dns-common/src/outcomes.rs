//! Every way a packet can end.

/// What became of a packet. One counter each, for each hook, [`Source`] and CPU.
///
/// The first three are answers, the others say why a packet passed on unchanged.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// Answered with data.
    Data = 0,
    /// Answered: the name exists, the type does not (RFC 2308 section 2.2).
    NoData,
    /// Answered: the name does not exist (RFC 2308 section 2.1).
    NxDomain,
    /// Neither IPv4 nor IPv6, or with a VLAN tag.
    NotIp,
    /// Shorter than its headers say, or not in one piece of memory.
    Short,
    /// A link-layer multicast or broadcast.
    Multicast,
    /// IPv4 with options.
    IpOptions,
    /// A fragment.
    Fragment,
    /// Not UDP, or IPv6 with extension headers.
    NotUdp,
    /// To an address and port that we don't serve.
    NotServed,
    /// On a network card, from a client outside the allowed networks.
    NotAllowed,
    /// On a network card, from an address that no client has: multicast, broadcast, loopback, or one
    /// that we serve.
    OddSource,
    /// On a network card, to another hardware address than the card's.
    Misdirected,
    /// On a network card, from a client that asks more often than it may.
    OverLimit,
    /// On a pod's veth, from an address that isn't known to be allowed to ask, while NetworkPolicies
    /// restrict who asks.
    NotPermitted,
    /// The agent has not renewed the lease.
    LeaseStale,
    /// The IP and UDP lengths don't agree, or the UDP checksum is missing over IPv6.
    OddUdp,
    /// A reply (QR=1).
    Reply,
    /// An opcode other than QUERY, or header bits that a query does not have.
    OddHeader,
    /// QDCOUNT other than 1, or records where a query has none.
    OddCounts,
    /// A name longer than the kernel looks up, or shorter.
    NameLength,
    /// A name that is no sequence of labels, or a compressed one.
    OddName,
    /// A class other than IN.
    OddClass,
    /// A meta type (ANY, AXFR, …: RFC 6895 section 3.1).
    MetaType,
    /// An additional record that is no plain OPT of version 0 (RFC 6891).
    OddEdns,
    /// Octets behind the message.
    TrailingOctets,
    /// The name's record says that the agent must answer.
    PassMark,
    /// Names may exist below the parent that the tables don't hold.
    BelowUnknown,
    /// Another name has the same tag; the agent can tell.
    TagCollision,
    /// Outside the owned name space.
    NotOwned,
    /// The answer is longer than the client takes.
    TooLarge,
    /// The packet could not be made longer.
    NoRoom,
    /// Aggregated by segmentation offload.
    Aggregated,
    /// The tables are not set up.
    NotReady,
}

impl Outcome {
    /// How many there are.
    pub const COUNT: usize = Self::ALL.len();

    /// All of them, in the order of their counters.
    pub const ALL: [Self; 34] = [
        Self::Data,
        Self::NoData,
        Self::NxDomain,
        Self::NotIp,
        Self::Short,
        Self::Multicast,
        Self::IpOptions,
        Self::Fragment,
        Self::NotUdp,
        Self::NotServed,
        Self::NotAllowed,
        Self::OddSource,
        Self::Misdirected,
        Self::OverLimit,
        Self::NotPermitted,
        Self::LeaseStale,
        Self::OddUdp,
        Self::Reply,
        Self::OddHeader,
        Self::OddCounts,
        Self::NameLength,
        Self::OddName,
        Self::OddClass,
        Self::MetaType,
        Self::OddEdns,
        Self::TrailingOctets,
        Self::PassMark,
        Self::BelowUnknown,
        Self::TagCollision,
        Self::NotOwned,
        Self::TooLarge,
        Self::NoRoom,
        Self::Aggregated,
        Self::NotReady,
    ];

    /// The kernel answered.
    #[inline(always)]
    #[must_use]
    pub const fn is_answer(self) -> bool {
        (self as u32) <= Self::NxDomain as u32
    }

    /// The name used in `status` and in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::NoData => "nodata",
            Self::NxDomain => "nxdomain",
            Self::NotIp => "not_ip",
            Self::Short => "short",
            Self::Multicast => "multicast",
            Self::IpOptions => "ip_options",
            Self::Fragment => "fragment",
            Self::NotUdp => "not_udp",
            Self::NotServed => "not_served",
            Self::NotAllowed => "not_allowed",
            Self::OddSource => "odd_source",
            Self::Misdirected => "misdirected",
            Self::OverLimit => "over_limit",
            Self::NotPermitted => "not_permitted",
            Self::LeaseStale => "lease_stale",
            Self::OddUdp => "odd_udp",
            Self::Reply => "reply",
            Self::OddHeader => "odd_header",
            Self::OddCounts => "odd_counts",
            Self::NameLength => "name_length",
            Self::OddName => "odd_name",
            Self::OddClass => "odd_class",
            Self::MetaType => "meta_type",
            Self::OddEdns => "odd_edns",
            Self::TrailingOctets => "trailing_octets",
            Self::PassMark => "pass_mark",
            Self::BelowUnknown => "below_unknown",
            Self::TagCollision => "tag_collision",
            Self::NotOwned => "not_owned",
            Self::TooLarge => "too_large",
            Self::NoRoom => "no_room",
            Self::Aggregated => "aggregated",
            Self::NotReady => "not_ready",
        }
    }
}

/// The hook a packet came in by; each has counters of its own.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// XDP on a network device.
    Xdp = 0,
    /// tc ingress on a host veth.
    Tc = 1,
}

impl Hook {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Xdp, Self::Tc];

    /// The line that packets from `source` are counted in.
    #[inline(always)]
    #[must_use]
    pub const fn line(self, source: Source) -> u32 {
        let line = match source {
            Source::TestRun => 0,
            Source::Veths => 1,
            Source::Device(index) => 2 + index % DEVICES,
        };
        self as u32 * (2 + DEVICES) + line
    }

    /// The name used in `status` and in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Xdp => "xdp",
            Self::Tc => "tc",
        }
    }
}

/// Where a packet came in, as far as it is counted apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// From nowhere: the agent itself ran the program, by BPF_PROG_TEST_RUN. The kernel then says
    /// that the packet came in by the loopback device, which never has a hook.
    TestRun,
    /// From a program that is made for pods' veths, whichever. There are hundreds on a node, and they come and go.
    Veths,
    /// From any other device, by its number. Numbers that are [`DEVICES`] apart share their counters.
    Device(u32),
}

/// The number of the loopback device in every network namespace (Linux: `LOOPBACK_IFINDEX`).
pub const LOOPBACK: u32 = 1;

/// How many other devices are counted apart. They are among the first of a node, so
/// that two of them hardly ever share a line.
pub const DEVICES: u32 = 64;

/// Counters of all outcomes, in their order, with room up to a power of two: so the verifier sees
/// with one instruction that none is outside.
pub type Counters = [u64; 64];

/// Nothing was counted.
pub const NOTHING_COUNTED: Counters = [0; 64];

/// How many lines of counters there are for each CPU.
pub const LINES: u32 = Hook::ALL.len() as u32 * (2 + DEVICES);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_is_in_the_order_of_the_counters() {
        for (at, outcome) in Outcome::ALL.iter().enumerate() {
            assert_eq!(*outcome as usize, at, "{}", outcome.name());
        }
    }
    #[test]
    fn lines_are_shared_by_devices_with_the_same_remainder_only() {
        let mut is_taken = [false; LINES as usize];
        let sources = [Source::TestRun, Source::Veths].into_iter();
        let sources = sources.chain((2..2 + DEVICES).map(Source::Device));
        for hook in Hook::ALL {
            for source in sources.clone() {
                let line = &mut is_taken[hook.line(source) as usize];
                assert!(!core::mem::replace(line, true), "{hook:?} {source:?}");
            }
        }
        assert!(is_taken.iter().all(|taken| *taken));
        let [near, far] = [2, 2 + DEVICES].map(|index| Hook::Tc.line(Source::Device(index)));
        assert_eq!(near, far);
        assert!(Outcome::COUNT <= size_of::<Counters>() / size_of::<u64>());
    }
}
