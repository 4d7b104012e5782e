//! Every outcome that a packet can have, and the counters of outcomes.

/// The outcome of one packet. There is a counter of each outcome for each hook, [`PacketSource`]
/// and CPU.
///
/// The first three outcomes are answers. The others are reasons why the packet passed unchanged.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// Answered with data.
    Data = 0,
    /// Answered: the name exists but has no records of the type (RFC 2308 section 2.2).
    NoData,
    /// Answered: the name does not exist (RFC 2308 section 2.1).
    NxDomain,
    /// Neither IPv4 nor IPv6, or with a VLAN tag.
    NotIp,
    /// Shorter than its headers say or than any query that can be answered, or not contiguous in
    /// memory.
    Short,
    /// Sent by link-layer multicast or broadcast.
    Multicast,
    /// IPv4 with options, or with a wrong version or header length.
    IpOptions,
    /// An IPv4 fragment.
    Fragment,
    /// Not UDP, or IPv6 with extension headers or a wrong version.
    NotUdp,
    /// To an address and port that are not served.
    NotServed,
    /// On a network card, from a client outside the allowed networks.
    NotAllowed,
    /// On a network card, from an address that no client has: multicast, broadcast, loopback,
    /// reserved (0.0.0.0/8, 240.0.0.0/4, ::/8) or served.
    NonstandardSource,
    /// On a network card, to a hardware address that is not in
    /// [`Settings::hardware`](crate::Settings::hardware).
    Misdirected,
    /// On a network card, from a client that exceeded the rate limit.
    OverLimit,
    /// From an address that is not in CLIENTS while policies restrict DNS queries: on a pod veth,
    /// at XDP on any veth, or at tc on another device if there are no allowed networks.
    NotPermitted,
    /// The lease has expired, or the agent has ended it or not yet started one.
    LeaseStale,
    /// The IP and UDP lengths differ, or the UDP checksum is missing over IPv6.
    NonstandardUdp,
    /// A reply (QR=1).
    Reply,
    /// An opcode other than QUERY, or header bits that queries do not set.
    NonstandardHeader,
    /// QDCOUNT is not 1, ANCOUNT or NSCOUNT is not 0, or ARCOUNT is more than 1.
    NonstandardCounts,
    /// A name of fewer than [`MIN_NAME`](crate::names::MIN_NAME) or more than 255 bytes. Or a name
    /// without a record whose parent has fewer than [`MIN_NAME`](crate::names::MIN_NAME) bytes.
    NameLength,
    /// A name that is compressed, is not a sequence of labels, or has 40 or more labels before its
    /// suffix.
    NonstandardName,
    /// A class other than IN.
    NonstandardClass,
    /// A meta type (ANY, AXFR, …: RFC 6895 section 3.1).
    MetaType,
    /// An additional record that is not an OPT record (RFC 6891) of version 0 with at most one
    /// option and no flag other than those of
    /// [`Settings::edns_flags`](crate::Settings::edns_flags).
    NonstandardEdns,
    /// The message does not end where its question or OPT record ends.
    TrailingBytes,
    /// The record of the name, or of the parent that computes the name, says that the query passes.
    PassMark,
    /// The name has no record but may exist: its parent's record says so, or its label may be the
    /// IPv6 address of a pod.
    BelowUnknown,
    /// Another name with the same tag was found, so whether this name, or its parent, has a record
    /// is unknown.
    TagCollision,
    /// The name has no record, and its suffix in the settings says that queries for the type pass.
    PassSuffix,
    /// The name has no record, and no suffix of the settings; a name of fewer than ten bytes over
    /// IPv4 is not compared with the suffixes. Or the name has no records of the type, and lies in
    /// no zone of the settings.
    NotAuthoritative,
    /// The reply would be longer than the client or the kernel program allows (1232 bytes).
    TooLarge,
    /// The kernel could not resize the packet.
    NoRoom,
    /// Several packets that segmentation offload has aggregated into one (GRO or GSO).
    Aggregated,
    /// The agent has not published the tables yet.
    NotReady,
}

impl Outcome {
    /// The number of outcomes.
    pub const COUNT: usize = Self::ALL.len();

    /// All outcomes, in the order of their counters.
    pub const ALL: [Self; 35] = [
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
        Self::NonstandardSource,
        Self::Misdirected,
        Self::OverLimit,
        Self::NotPermitted,
        Self::LeaseStale,
        Self::NonstandardUdp,
        Self::Reply,
        Self::NonstandardHeader,
        Self::NonstandardCounts,
        Self::NameLength,
        Self::NonstandardName,
        Self::NonstandardClass,
        Self::MetaType,
        Self::NonstandardEdns,
        Self::TrailingBytes,
        Self::PassMark,
        Self::BelowUnknown,
        Self::TagCollision,
        Self::PassSuffix,
        Self::NotAuthoritative,
        Self::TooLarge,
        Self::NoRoom,
        Self::Aggregated,
        Self::NotReady,
    ];

    /// Whether the packet was answered. Otherwise it passed.
    #[inline(always)]
    #[must_use]
    pub const fn is_answer(self) -> bool {
        (self as u32) <= Self::NxDomain as u32
    }

    /// Whether the agent's resolver may answer in place of the cluster's DNS: the packet is a query
    /// of a permitted client, and neither the tables nor CoreDNS's configuration say that the
    /// cluster's DNS decides.
    #[inline(always)]
    #[must_use]
    pub const fn is_for_resolver(self) -> bool {
        const OUTCOMES: u64 = 1 << Outcome::NameLength as u32
            | 1 << Outcome::MetaType as u32
            | 1 << Outcome::NonstandardEdns as u32
            | 1 << Outcome::TagCollision as u32
            | 1 << Outcome::NotAuthoritative as u32
            | 1 << Outcome::TooLarge as u32
            | 1 << Outcome::NoRoom as u32;
        OUTCOMES >> self as u32 & 1 != 0
    }

    /// The name in `status` and the label value in metrics. Dashboards depend on these texts, so
    /// they stay as they are when a variant is renamed.
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
            Self::NonstandardSource => "odd_source",
            Self::Misdirected => "misdirected",
            Self::OverLimit => "over_limit",
            Self::NotPermitted => "not_permitted",
            Self::LeaseStale => "lease_stale",
            Self::NonstandardUdp => "odd_udp",
            Self::Reply => "reply",
            Self::NonstandardHeader => "odd_header",
            Self::NonstandardCounts => "odd_counts",
            Self::NameLength => "name_length",
            Self::NonstandardName => "odd_name",
            Self::NonstandardClass => "odd_class",
            Self::MetaType => "meta_type",
            Self::NonstandardEdns => "odd_edns",
            Self::TrailingBytes => "trailing_octets",
            Self::PassMark => "pass_mark",
            Self::BelowUnknown => "below_unknown",
            Self::TagCollision => "tag_collision",
            Self::PassSuffix => "pass_suffix",
            Self::NotAuthoritative => "not_owned",
            Self::TooLarge => "too_large",
            Self::NoRoom => "no_room",
            Self::Aggregated => "aggregated",
            Self::NotReady => "not_ready",
        }
    }
}

/// The kind of hook at which a packet arrived. Each has counters of its own.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// XDP on a network device.
    Xdp = 0,
    /// tc ingress on a network device.
    Tc = 1,
}

impl Hook {
    /// Both hooks.
    pub const ALL: [Self; 2] = [Self::Xdp, Self::Tc];

    /// The number of the counter line of packets from `source`. Each hook has a line for test runs,
    /// a line for pod veths, and [`COUNTED_DEVICES`] lines for other devices.
    #[inline(always)]
    #[must_use]
    pub const fn line(self, source: PacketSource) -> u32 {
        let line = match source {
            PacketSource::TestRun => 0,
            PacketSource::Veths => 1,
            PacketSource::Device(index) => 2 + index % COUNTED_DEVICES,
        };
        self as u32 * (2 + COUNTED_DEVICES) + line
    }

    /// The name in `status` and the label value in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Xdp => "xdp",
            Self::Tc => "tc",
        }
    }
}

/// Where a packet arrived. Each source has counters of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PacketSource {
    /// The agent ran the program by BPF_PROG_TEST_RUN. The kernel then reports the loopback device
    /// as the ingress interface. The loopback device never has a hook, because its link type is not
    /// Ethernet.
    TestRun,
    /// Any pod veth, and at XDP any veth. A node may have hundreds of them and they come and go, so
    /// they share their counters.
    Veths,
    /// Another device, by its interface index. Devices whose indexes differ by a multiple of
    /// [`COUNTED_DEVICES`] share their counters.
    Device(u32),
}

/// The interface index of the loopback device in every network namespace (`LOOPBACK_IFINDEX` in
/// Linux).
pub const LOOPBACK_INDEX: u32 = 1;

/// Counter lines of each hook for devices other than pod veths. Such devices are usually created
/// when a node starts and have small indexes, so two of them rarely share a line.
pub const COUNTED_DEVICES: u32 = 64;

/// A line of counters, one for each outcome. Its length is a power of two, so that one mask bounds
/// an offset for the verifier.
pub type OutcomeCounters = [u64; 64];

/// A line of counters that are all zero.
pub const NO_COUNTS: OutcomeCounters = [0; 64];

/// Counter lines per CPU.
pub const COUNTER_LINES: u32 = Hook::ALL.len() as u32 * (2 + COUNTED_DEVICES);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_are_listed_in_the_order_of_their_counters() {
        for (at, outcome) in Outcome::ALL.iter().enumerate() {
            assert_eq!(*outcome as usize, at, "{}", outcome.name());
        }
    }

    #[test]
    fn only_devices_with_the_same_remainder_share_a_counter_line() {
        let mut is_taken = [false; COUNTER_LINES as usize];
        let sources = [PacketSource::TestRun, PacketSource::Veths].into_iter();
        let sources = sources.chain((2..2 + COUNTED_DEVICES).map(PacketSource::Device));
        for hook in Hook::ALL {
            for source in sources.clone() {
                let line = &mut is_taken[hook.line(source) as usize];
                assert!(
                    !core::mem::replace(line, true),
                    "{hook:?} {source:?} shares a line"
                );
            }
        }
        assert!(is_taken.iter().all(|taken| *taken), "a line is unused");
        let [near, far] =
            [2, 2 + COUNTED_DEVICES].map(|index| Hook::Tc.line(PacketSource::Device(index)));
        assert_eq!(near, far);
        assert!(
            Outcome::COUNT <= size_of::<OutcomeCounters>() / size_of::<u64>(),
            "there are more outcomes than counters in a line"
        );
    }
}
