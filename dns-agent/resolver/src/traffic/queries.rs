//! Replies to clients, by the labels of CoreDNS's metrics.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use super::{
    histogram::{DurationHistogram, HistogramCounts, SizeHistogram},
    rcodes::{RCODE_COUNT, RcodeIndex},
    writers::Writers,
};
use crate::{message::QueryAction, query::Transport};

/// The types that CoreDNS's metrics name (RFC 1035, RFC 9460, and the IANA registry). Every other
/// type counts as [`OTHER_TYPE`].
const TYPE_NAMES: [(u16, &str); 19] = [
    (1, "A"),
    (28, "AAAA"),
    (255, "ANY"),
    (252, "AXFR"),
    (5, "CNAME"),
    (48, "DNSKEY"),
    (43, "DS"),
    (65, "HTTPS"),
    (251, "IXFR"),
    (15, "MX"),
    (2, "NS"),
    (47, "NSEC"),
    (50, "NSEC3"),
    (12, "PTR"),
    (46, "RRSIG"),
    (6, "SOA"),
    (33, "SRV"),
    (64, "SVCB"),
    (16, "TXT"),
];
const OTHER_TYPE: &str = "other";
/// Number of label values of types.
const TYPES: usize = TYPE_NAMES.len() + 1;

const HEADER_LEN: usize = 12;
/// The type OPT (RFC 6891 section 6.1.2).
const OPT: [u8; 2] = [0, 41];
/// The upper bit of the flags in an OPT record (RFC 3225).
const DNSSEC_OK: u8 = 0x80;

/// The part of the agent that made a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplySource {
    /// None: the query was refused before its name was looked up.
    Refusal,
    /// The local data, also if upstreams completed an alias.
    LocalData,
    /// The cache, without a wait for upstreams.
    Cache,
    /// The upstreams.
    Upstreams,
}

/// Whether a query was looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrafficZone {
    /// It was looked up. CoreDNS gives the zone of the server block.
    Served,
    /// It was refused, because it is malformed, or of a kind that the resolver does not answer.
    Dropped,
}

/// The address family of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressFamily {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

/// The labels of a query. Malformed queries get labels too, so they are read from the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct QueryLabels {
    transport: Transport,
    family: AddressFamily,
    /// The index in [`TYPE_NAMES`], or its length for another type.
    qtype: u8,
    is_dnssec_ok: bool,
    length: u16,
    /// The offset of the first byte after the question. A reply has the same question.
    question_end: u16,
}

/// The counters of one listening address.
#[derive(Debug)]
pub(super) struct ServerTraffic {
    /// Each is written by one of the tasks that receive over UDP.
    udp_tasks: Vec<[ZoneTraffic; ZONES]>,
    /// Written by all other tasks.
    other_tasks: [ZoneTraffic; ZONES],
}

const ZONES: usize = TrafficZone::ALL.len();
const SOURCES: usize = ReplySource::ALL.len();
const FAMILIES: usize = AddressFamily::ALL.len();
const TRANSPORTS: usize = TRANSPORT_VALUES.len();
const TRANSPORT_VALUES: [Transport; 2] = [Transport::Udp, Transport::Tcp];

/// The counters of one zone.
#[derive(Debug, Default)]
struct ZoneTraffic {
    requests: [[[AtomicU64; TYPES]; FAMILIES]; TRANSPORTS],
    responses: [[AtomicU64; RCODE_COUNT]; SOURCES],
    dnssec_ok: AtomicU64,
    durations: DurationHistogram,
    request_sizes: [SizeHistogram; TRANSPORTS],
    response_sizes: [SizeHistogram; TRANSPORTS],
}

/// Counts the replies of a task that receives over UDP. There is one for each task.
#[derive(Debug)]
pub(in super::super) struct UdpTally {
    server: Arc<ServerTraffic>,
    /// The index in [`ServerTraffic::udp_tasks`].
    task: usize,
}

/// Counts the replies of a server's other tasks.
#[derive(Clone, Debug)]
pub(in super::super) struct TaskTally(Arc<ServerTraffic>);

/// A snapshot of the counters of one listening address. Counters that are 0 may be left out.
#[derive(Clone, Debug)]
pub struct DnsServerCounts {
    /// The listening address.
    pub address: SocketAddr,
    /// Queries that got a reply, by zone, transport, family and the name of the type.
    pub requests: Vec<(TrafficZone, Transport, AddressFamily, &'static str, u64)>,
    /// Replies, by zone, source and the name of the response code.
    pub responses: Vec<(TrafficZone, ReplySource, &'static str, u64)>,
    /// Queries with the DO bit.
    pub dnssec_ok: Vec<(TrafficZone, u64)>,
    /// The time from the arrival of a query until its reply was sent.
    pub durations: Vec<(TrafficZone, HistogramCounts)>,
    /// The lengths of queries.
    pub request_sizes: Vec<(TrafficZone, Transport, HistogramCounts)>,
    /// The lengths of replies.
    pub response_sizes: Vec<(TrafficZone, Transport, HistogramCounts)>,
}

impl ReplySource {
    /// All sources.
    pub const ALL: [ReplySource; 4] = [
        ReplySource::Refusal,
        ReplySource::LocalData,
        ReplySource::Cache,
        ReplySource::Upstreams,
    ];

    /// The source of the reply of an action that was decided without cache and upstreams. Replies
    /// from local data have NOERROR, NXDOMAIN, or, while the data is incomplete, SERVFAIL. Refusals
    /// have other codes.
    pub(in super::super) fn of_local_action(action: &QueryAction) -> ReplySource {
        let QueryAction::Send(message) = action else {
            return ReplySource::LocalData;
        };
        match RcodeIndex::of_reply(message, question_end(message)).name() {
            "NOERROR" | "NXDOMAIN" | "SERVFAIL" => ReplySource::LocalData,
            _ => ReplySource::Refusal,
        }
    }

    /// The source of the reply of an action that the cache decided.
    pub(in super::super) fn of_cache_action(action: &QueryAction) -> ReplySource {
        match action {
            QueryAction::Send(_) => ReplySource::Cache,
            _ => ReplySource::Upstreams,
        }
    }

    fn zone(self) -> TrafficZone {
        match self {
            ReplySource::Refusal => TrafficZone::Dropped,
            ReplySource::LocalData | ReplySource::Cache | ReplySource::Upstreams => {
                TrafficZone::Served
            }
        }
    }
}

impl TrafficZone {
    /// Both zones.
    pub const ALL: [TrafficZone; 2] = [TrafficZone::Served, TrafficZone::Dropped];
}

impl AddressFamily {
    /// Both families.
    pub const ALL: [AddressFamily; 2] = [AddressFamily::Ipv4, AddressFamily::Ipv6];
}

impl QueryLabels {
    pub(in super::super) fn read(
        message: &[u8],
        transport: Transport,
        client: IpAddr,
    ) -> QueryLabels {
        let end = question_end(message);
        let qtype = end
            .checked_sub(4)
            .and_then(|start| message.get(start..)?.first_chunk())
            .filter(|_| end > HEADER_LEN)
            .map(|bytes| u16::from_be_bytes(*bytes));
        let index = TYPE_NAMES
            .iter()
            .position(|(number, _)| Some(*number) == qtype);
        QueryLabels {
            transport,
            family: match client {
                IpAddr::V4(_) => AddressFamily::Ipv4,
                IpAddr::V6(_) => AddressFamily::Ipv6,
            },
            qtype: index.unwrap_or(TYPE_NAMES.len()) as u8,
            is_dnssec_ok: is_dnssec_ok(message, end),
            length: u16::try_from(message.len()).unwrap_or(u16::MAX),
            question_end: u16::try_from(end).unwrap_or(u16::MAX),
        }
    }
}

impl QueryLabels {
    /// Whether the query has the DO bit.
    pub(in super::super) fn is_dnssec_ok(&self) -> bool {
        self.is_dnssec_ok
    }

    /// The offset of the first byte after the question, in the query and in its reply.
    pub(in super::super) fn question_end(&self) -> usize {
        self.question_end.into()
    }

    /// The name of the response code of the query's reply.
    pub(in super::super) fn rcode_of(&self, reply: &[u8]) -> &'static str {
        RcodeIndex::of_reply(reply, self.question_end()).name()
    }
}

/// The offset of the first byte after the first question. [`HEADER_LEN`] if the question can't be
/// read.
fn question_end(message: &[u8]) -> usize {
    let mut at = HEADER_LEN;
    loop {
        match message.get(at) {
            Some(0) => break,
            // The two highest bits mark a compressed name, which a question can't have.
            Some(length @ ..=63) => at += 1 + usize::from(*length),
            _ => return HEADER_LEN,
        }
    }
    // The root label, the type and the class.
    let end = at + 5;
    if end <= message.len() {
        end
    } else {
        HEADER_LEN
    }
}

/// The DO bit of an OPT record that follows the question. Clients put it there.
fn is_dnssec_ok(message: &[u8], question_end: usize) -> bool {
    match message.get(question_end..) {
        // Root, type, size, extended code, version, flags.
        Some([0, high, low, _, _, _, _, flags, ..]) => {
            [*high, *low] == OPT && flags & DNSSEC_OK != 0
        }
        _ => false,
    }
}

impl UdpTally {
    pub(super) fn new(server: Arc<ServerTraffic>, task: usize) -> UdpTally {
        UdpTally { server, task }
    }

    /// Counts a reply that was sent, and its query.
    pub(in super::super) fn count(
        &mut self,
        query: &QueryLabels,
        source: ReplySource,
        reply: &[u8],
        took: Duration,
    ) {
        let zones = &self.server.udp_tasks[self.task];
        count(zones, Writers::One, query, source, reply, took);
    }
}

impl TaskTally {
    pub(super) fn new(server: Arc<ServerTraffic>) -> TaskTally {
        TaskTally(server)
    }

    /// Counts a reply, and its query.
    pub(in super::super) fn count(
        &self,
        query: &QueryLabels,
        source: ReplySource,
        reply: &[u8],
        took: Duration,
    ) {
        let zones = &self.0.other_tasks;
        count(zones, Writers::Several, query, source, reply, took);
    }
}

fn count(
    zones: &[ZoneTraffic; ZONES],
    writers: Writers,
    query: &QueryLabels,
    source: ReplySource,
    reply: &[u8],
    took: Duration,
) {
    let zone = &zones[source.zone() as usize];
    let (transport, family) = (query.transport as usize, query.family as usize);
    let rcode = RcodeIndex::of_reply(reply, query.question_end.into());
    writers.add(
        &zone.requests[transport][family][usize::from(query.qtype)],
        1,
    );
    writers.add(&zone.responses[source as usize][rcode.index()], 1);
    if query.is_dnssec_ok {
        writers.add(&zone.dnssec_ok, 1);
    }
    zone.durations.observe(took, writers);
    zone.request_sizes[transport].observe(query.length.into(), writers);
    zone.response_sizes[transport].observe(reply.len(), writers);
}

impl ServerTraffic {
    /// The counters of a server with this number of tasks that receive over UDP.
    pub(super) fn new(udp_tasks: usize) -> ServerTraffic {
        ServerTraffic {
            udp_tasks: (0..udp_tasks).map(|_| Default::default()).collect(),
            other_tasks: Default::default(),
        }
    }

    pub(super) fn snapshot(&self, address: SocketAddr) -> DnsServerCounts {
        let mut counts = DnsServerCounts {
            address,
            requests: Vec::new(),
            responses: Vec::new(),
            dnssec_ok: Vec::new(),
            durations: Vec::new(),
            request_sizes: Vec::new(),
            response_sizes: Vec::new(),
        };
        for zone in TrafficZone::ALL {
            let tasks = self.udp_tasks.iter().chain([&self.other_tasks]);
            let parts: Vec<&ZoneTraffic> = tasks.map(|zones| &zones[zone as usize]).collect();
            counts.add_zone(zone, &parts);
        }
        counts
    }
}

impl DnsServerCounts {
    /// Adds a zone's counters, which are the sums of these parts. A zone without queries is left
    /// out if it stands for refused queries.
    fn add_zone(&mut self, zone: TrafficZone, parts: &[&ZoneTraffic]) {
        let sum = |counter: &dyn Fn(&ZoneTraffic) -> HistogramCounts| {
            let parts = parts.iter().map(|part| counter(part));
            parts
                .reduce(|sum, part| sum.plus(&part))
                .unwrap_or_default()
        };
        let durations = sum(&|part| part.durations.snapshot());
        if zone == TrafficZone::Dropped && durations.count() == 0 {
            return;
        }
        let total = |counter: &dyn Fn(&ZoneTraffic) -> u64| -> u64 {
            parts.iter().map(|part| counter(part)).sum()
        };
        for transport in TRANSPORT_VALUES {
            for family in AddressFamily::ALL {
                for qtype in 0..TYPES {
                    let count = total(&|part| {
                        part.requests[transport as usize][family as usize][qtype].load(Relaxed)
                    });
                    let name = TYPE_NAMES.get(qtype).map_or(OTHER_TYPE, |(_, name)| name);
                    if count > 0 {
                        self.requests.push((zone, transport, family, name, count));
                    }
                }
            }
        }
        for source in ReplySource::ALL {
            for rcode in RcodeIndex::all() {
                let count =
                    total(&|part| part.responses[source as usize][rcode.index()].load(Relaxed));
                if count > 0 || is_usual(source, rcode) && zone == TrafficZone::Served {
                    self.responses.push((zone, source, rcode.name(), count));
                }
            }
        }
        let dnssec_ok = total(&|part| part.dnssec_ok.load(Relaxed));
        self.dnssec_ok.push((zone, dnssec_ok));
        self.durations.push((zone, durations));
        for transport in TRANSPORT_VALUES {
            let requests = sum(&|part| part.request_sizes[transport as usize].snapshot());
            let responses = sum(&|part| part.response_sizes[transport as usize].snapshot());
            self.request_sizes.push((zone, transport, requests));
            self.response_sizes.push((zone, transport, responses));
        }
    }
}

/// Whether a response code is shown even if it is 0, because alert rules divide by it or wait for
/// it to grow.
fn is_usual(source: ReplySource, rcode: RcodeIndex) -> bool {
    matches!(source, ReplySource::LocalData | ReplySource::Upstreams)
        && matches!(rcode.name(), "NOERROR" | "NXDOMAIN" | "SERVFAIL")
}
