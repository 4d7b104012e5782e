//! Predicts what the kernel does with a query, by running the kernel program's code in user space.
//!
//! The library of `dns-ebpf` reads the mapped tables and answers a packet in plain memory. No
//! counter and no real packet is touched.

use std::{
    net::{IpAddr, SocketAddr},
    sync::atomic::{AtomicU64, Ordering},
};

use dns_common::{
    Control, Outcome, Settings,
    directory::Bucket,
    records::CHUNK,
    settings::{ClientKey, SETTINGS_COPIES},
};
use dns_ebpf::{
    Frame, Tables,
    frame::{AnsweredClients, UdpChecksum},
    headers::{dns, ethernet, ipv4, udp},
    query::MAX_MESSAGE,
    respond,
};
use zerohop_zone::{Name, Rtype, build_query};

use super::{Datapath, memory::Memory, settings::LEASE_WORD};

/// What the kernel does with a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// Whether any device has a hook. Without one no packet reaches the program.
    pub is_attached: bool,
    /// The outcome for a client without EDNS, which accepts 512 bytes.
    pub plain: Outcome,
    /// The outcome for a client with EDNS (RFC 6891) that accepts [`MAX_MESSAGE`] bytes. `None`
    /// unless `plain` is [`Outcome::TooLarge`].
    pub edns: Option<Outcome>,
}

impl Datapath {
    /// Predicts what the kernel does with a query to the first served address, from a client that
    /// may be answered. Without served addresses the outcome is [`Outcome::NotServed`].
    #[must_use]
    pub fn explain_question(&self, name: &Name, rtype: Rtype) -> Explanation {
        let [directory, records] = self.tables.table.memory();
        let [control, settings] = self.tables.settings.memory();
        let memory = TableMemory {
            control,
            settings,
            directory,
            records,
        };
        let lease = if self.is_leased() {
            LeaseState::Fresh
        } else {
            LeaseState::Stale
        };
        let outcome_for = |limit| match self.config.served_addresses.first() {
            Some(served) => explain(&memory, lease, *served, (name, rtype), limit),
            None => Outcome::NotServed,
        };
        let plain = outcome_for(ResponseLimit::Plain);
        Explanation {
            is_attached: self.hooks.attached().next().is_some(),
            plain,
            edns: (plain == Outcome::TooLarge).then(|| outcome_for(ResponseLimit::Edns)),
        }
    }
}

/// The tables' memory. It does not change while [`Datapath`] is borrowed.
struct TableMemory<'a> {
    control: &'a Memory,
    settings: &'a Memory,
    directory: &'a Memory,
    records: &'a Memory,
}

/// The length of responses that a client accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ResponseLimit {
    /// 512 bytes: the query has no OPT record.
    Plain,
    /// `MAX_MESSAGE` bytes: the query has an OPT record (RFC 6891).
    Edns,
}

/// Whether the prediction assumes that the lease has expired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LeaseState {
    /// The lease has not expired. It may have been ended by the agent.
    Fresh,
    /// The lease has expired according to the agent's clock. User space can't read jiffies.
    Stale,
}

/// The outcome of a query to a served address.
fn explain(
    memories: &TableMemory<'_>,
    lease: LeaseState,
    served: SocketAddr,
    (name, rtype): (&Name, Rtype),
    limit: ResponseLimit,
) -> Outcome {
    let message = query_message(name, rtype, limit);
    let tables = Snapshot::new(memories, lease);
    // The served address is also the client, because the answer is sent nowhere.
    respond(
        &mut PacketBuffer(build_frame(served.ip(), served, &message)),
        &tables,
    )
}

/// The tables as the kernel program's code reads them. The settings are copied; the other tables
/// are read in place.
struct Snapshot<'a> {
    memories: &'a TableMemory<'a>,
    settings: Vec<Settings>,
    now: u64,
}

impl<'a> Snapshot<'a> {
    fn new(memories: &'a TableMemory<'a>, lease: LeaseState) -> Self {
        let copies = memories.settings.words();
        let copies = copies.chunks_exact(size_of::<Settings>() / 8);
        let lease_end = memories.control.words()[LEASE_WORD].load(Ordering::Relaxed);
        Self {
            memories,
            settings: copies
                .take(SETTINGS_COPIES as usize)
                .map(|words| bytemuck::pod_read_unaligned(bytemuck::cast_slice(&load(words))))
                .collect(),
            now: match lease {
                // Earlier than the end of any lease, except an ended one, which is 0.
                LeaseState::Fresh => 0,
                // At its end the lease has expired.
                LeaseState::Stale => lease_end,
            },
        }
    }
}

impl Tables for Snapshot<'_> {
    fn control(&self) -> Option<*const Control> {
        element(self.memories.control, 0)
    }

    fn settings(&self, slot: u32) -> Option<&Settings> {
        self.settings.get(slot as usize)
    }

    fn bucket(&self, number: u32) -> Option<*const Bucket> {
        element(self.memories.directory, number)
    }

    fn chunk(&self, number: u32) -> Option<*const u8> {
        element::<[u8; CHUNK]>(self.memories.records, number).map(<*const _>::cast)
    }

    /// The client is assumed to be permitted.
    fn permits(&self, _: &ClientKey) -> bool {
        true
    }

    /// Not called, because hooks that answer all clients have no rate limit.
    fn token_bucket(&self, _: u32) -> Option<*mut u64> {
        None
    }

    fn now(&self) -> u64 {
        self.now
    }
}

/// A packet in plain memory.
struct PacketBuffer(Vec<u8>);

impl Frame for PacketBuffer {
    /// As on a pod veth. On a network card the answer depends on the client.
    const CLIENTS: AnsweredClients = AnsweredClients::All;

    fn start(&self) -> usize {
        self.0.as_ptr() as usize
    }

    fn end(&self) -> usize {
        self.start() + self.0.len()
    }

    fn resize(&mut self, length: usize) -> bool {
        self.0.resize(length, 0);
        true
    }

    fn set_udp_checksum(&mut self, _: usize, _: UdpChecksum) {}
}

/// The address of element `number`, if it exists.
fn element<T>(memory: &Memory, number: u32) -> Option<*const T> {
    let offset = number as usize * size_of::<T>();
    let exists = offset + size_of::<T>() <= memory.bytes();
    exists.then(|| memory.words()[offset / 8..].as_ptr().cast())
}

fn load(words: &[AtomicU64]) -> Vec<u64> {
    words
        .iter()
        .map(|word| word.load(Ordering::Relaxed))
        .collect()
}

/// A query. It has an OPT record if `limit` is [`ResponseLimit::Edns`].
fn query_message(name: &Name, rtype: Rtype, limit: ResponseLimit) -> Vec<u8> {
    let mut message = build_query(0, name, rtype);
    if limit == ResponseLimit::Edns {
        // ARCOUNT is 1. The OPT record has the root as owner, type 41, and the UDP payload size in
        // place of the class (RFC 6891 section 6.1.2).
        message[dns::LENGTH - 1] = 1;
        message.extend([0, 0, 41]);
        message.extend((MAX_MESSAGE as u16).to_be_bytes());
        message.extend([0; 6]);
    }
    message
}

/// Builds the frame of a UDP message to a served address, from a client of the same family.
pub(super) fn build_frame(client: IpAddr, served: SocketAddr, message: &[u8]) -> Vec<u8> {
    let udp_length = (udp::LENGTH + message.len()) as u16;
    let mut frame = vec![0; ethernet::LENGTH];
    if served.is_ipv4() {
        frame[ethernet::TYPE..].copy_from_slice(&[0x08, 0x00]);
        // A header of five words, TTL 64, protocol 17 (UDP), no header checksum.
        frame.extend([0x45, 0]);
        frame.extend((ipv4::LENGTH as u16 + udp_length).to_be_bytes());
        frame.extend([0, 0, 0, 0, 64, 17, 0, 0]);
    } else {
        frame[ethernet::TYPE..].copy_from_slice(&[0x86, 0xdd]);
        // Next header 17 (UDP), hop limit 64.
        frame.extend([0x60, 0, 0, 0]);
        frame.extend(udp_length.to_be_bytes());
        frame.extend([17, 64]);
    }
    for address in [client, served.ip()] {
        match address {
            IpAddr::V4(address) => frame.extend(address.octets()),
            IpAddr::V6(address) => frame.extend(address.octets()),
        }
    }
    // The client's port is arbitrary. So is the checksum, which the program doesn't verify, but 0
    // would mean that there is none.
    frame.extend([0x80, 0]);
    frame.extend(served.port().to_be_bytes());
    frame.extend(udp_length.to_be_bytes());
    frame.extend([0xff, 0xff]);
    frame.extend(message);
    frame
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, os::fd::AsFd as _};

    use dns_common::names::{HashKey, MAX_WORDS};

    use super::super::{
        grace::Grace,
        hash_table::HashTable,
        records,
        settings::{NodeSettings, SettingsPublisher, build_settings},
    };
    use super::*;
    use zerohop_zone::{Model, ModelBuilder, Rdata, Record};

    /// Waits for nothing, because only the test reads.
    struct NoConcurrentReaders;

    impl Grace for NoConcurrentReaders {
        fn wait(&mut self) {}
    }

    const SERVED: [&str; 2] = ["10.96.0.10:53", "[fd00::a]:5353"];

    /// `web.z.example` with one address, `many.z.example` with 40, whose records have 640 bytes
    /// in an answer: more than a client without EDNS accepts.
    fn model() -> Model {
        let mut builder = ModelBuilder::new(7);
        let name = |text| Name::parse(text).unwrap();
        builder.add_zone(name("z.example"), 5).unwrap();
        for (owner, count) in [("web.z.example", 1), ("many.z.example", 40)] {
            builder.extend((0..count).map(|last| Record {
                owner: name(owner),
                ttl: 5,
                data: Rdata::A([10, 0, 0, last].into()),
            }));
        }
        builder.build()
    }

    fn memory(bytes: usize) -> Memory {
        let file = tempfile::tempfile().unwrap();
        file.set_len(bytes as u64).unwrap();
        Memory::map(file.as_fd(), bytes).unwrap()
    }

    /// Runs `check` over tables with the model in them.
    fn with_tables(check: impl Fn(&TableMemory<'_>, &SettingsPublisher)) {
        // An arbitrary key.
        let key = HashKey {
            words: [0x9e37_79b9_7f4a_7c15; MAX_WORDS],
            finish: 1,
        };
        let mut table = HashTable::new(
            memory(size_of::<Bucket>() * 16),
            memory(CHUNK),
            key,
            NoConcurrentReaders,
        );
        let control = memory(size_of::<Control>());
        let lease = std::mem::offset_of!(Control, lease) / 8;
        // Any time after 0.
        control.words()[lease].store(1000, Ordering::Relaxed);
        let copies = memory(size_of::<Settings>() * SETTINGS_COPIES as usize);
        let mut publisher = SettingsPublisher::new(control, copies);

        let model = model();
        for (name, entry) in model.entries() {
            let mut record = records::build_record(&model, name, entry).unwrap();
            table.put(&mut record).unwrap();
        }
        let node_settings = NodeSettings {
            hash_key: key,
            directory_mask: table.directory_mask(),
            secret: 0,
            served_addresses: SERVED.map(|served| served.parse().unwrap()).to_vec(),
            allow: Vec::new(),
            card_addresses: Vec::new(),
            rate_limit: None,
        };
        // The tables have all names of the only zone (`true`), and no names pass.
        publisher
            .publish(&build_settings(&node_settings, &model, &[true], &BTreeSet::new()).unwrap());

        let [directory, records] = table.memory();
        let [control, settings] = publisher.memory();
        let memories = TableMemory {
            control,
            settings,
            directory,
            records,
        };
        check(&memories, &publisher);
    }

    fn outcome_of(
        memories: &TableMemory<'_>,
        lease: LeaseState,
        served: &str,
        name: &str,
        limit: ResponseLimit,
    ) -> Outcome {
        let name = Name::parse(name).unwrap();
        let served = served.parse().unwrap();
        explain(memories, lease, served, (&name, Rtype::A), limit)
    }

    #[test]
    fn outcomes_are_predicted_from_the_tables() {
        with_tables(|memories, _| {
            for served in SERVED {
                for (name, limit, outcome) in [
                    ("web.z.example", ResponseLimit::Plain, Outcome::Data),
                    ("web.z.example", ResponseLimit::Edns, Outcome::Data),
                    ("many.z.example", ResponseLimit::Plain, Outcome::TooLarge),
                    ("many.z.example", ResponseLimit::Edns, Outcome::Data),
                    ("z.example", ResponseLimit::Plain, Outcome::NoData),
                    ("ghost.z.example", ResponseLimit::Edns, Outcome::NxDomain),
                    (
                        "www.example",
                        ResponseLimit::Plain,
                        Outcome::NotAuthoritative,
                    ),
                    // 5 bytes in wire form, fewer than `MIN_NAME`.
                    ("a.b", ResponseLimit::Plain, Outcome::NameLength),
                ] {
                    assert_eq!(
                        outcome_of(memories, LeaseState::Fresh, served, name, limit),
                        outcome,
                        "{name} {limit:?} at {served}"
                    );
                }
            }
            let elsewhere = outcome_of(
                memories,
                LeaseState::Fresh,
                "10.96.0.11:53",
                "web.z.example",
                ResponseLimit::Plain,
            );
            assert_eq!(elsewhere, Outcome::NotServed);
        });
    }

    #[test]
    fn queries_pass_under_a_stale_or_ended_lease() {
        with_tables(|memories, publisher| {
            let outcome_under = |lease| {
                outcome_of(
                    memories,
                    lease,
                    SERVED[0],
                    "web.z.example",
                    ResponseLimit::Plain,
                )
            };
            assert_eq!(outcome_under(LeaseState::Fresh), Outcome::Data);
            assert_eq!(outcome_under(LeaseState::Stale), Outcome::LeaseStale);
            publisher.end_lease();
            assert_eq!(outcome_under(LeaseState::Fresh), Outcome::LeaseStale);
        });
    }
}
