//! What the kernel would do with a question, by the kernel program's own code.
//!
//! `dns-ebpf` is a library too: here it runs over the shared memory, with a packet that exists only
//! here. It counts nothing and touches nobody's packet.

use std::{
    net::{IpAddr, SocketAddr},
    sync::atomic::{AtomicU64, Ordering},
};

use dns_common::{
    Control, Outcome, Settings,
    directory::Bucket,
    records::CHUNK,
    settings::{ClientKey, SLOTS},
};
use dns_ebpf::{
    Frame, Tables,
    frame::{Clients, UdpChecksum},
    query::{DNS, ETHERNET, IPV4, MAX_MESSAGE, UDP},
    respond,
};

use super::{Datapath, memory::Memory, settings::LEASE};
use crate::zone::{Name, Rtype, query};

/// What the kernel would do with a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Explained {
    /// Whether there is a hook anywhere: else no packet gets to the program.
    pub is_attached: bool,
    /// What becomes of the question of a client that takes 512 octets.
    pub plain: Outcome,
    /// If the answer is longer, what becomes of the question of a client that takes as much as
    /// is ever sent in one datagram (EDNS, RFC 6891).
    pub edns: Option<Outcome>,
}

impl Datapath {
    /// What the kernel would do with a question to a served address.
    #[must_use]
    pub fn explain(&self, name: &Name, rtype: Rtype) -> Explained {
        let [directory, records] = self.tables.table.memories();
        let [control, settings] = self.tables.publisher.memories();
        let memories = Memories {
            control,
            settings,
            directory,
            records,
        };
        let lease = if self.renewed.elapsed() < self.config.stale_after {
            Lease::Fresh
        } else {
            Lease::Stale
        };
        let ask = |client| match self.config.serve.first() {
            Some(served) => explain(&memories, lease, *served, (name, rtype), client),
            None => Outcome::NotServed,
        };
        let plain = ask(Client::Plain);
        Explained {
            is_attached: self.hooks.attached().next().is_some(),
            plain,
            edns: (plain == Outcome::TooLarge).then(|| ask(Client::Edns)),
        }
    }
}

/// The tables' memory. Nobody writes to it while it is read here.
struct Memories<'a> {
    control: &'a Memory,
    settings: &'a Memory,
    directory: &'a Memory,
    records: &'a Memory,
}

/// What a client says about the size of answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Client {
    /// It takes 512 octets.
    Plain,
    /// It takes as much as is ever sent in one datagram (EDNS, RFC 6891).
    Edns,
}

/// Whether the kernel may answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lease {
    Fresh,
    /// Not renewed in time. User space can't read the clock that the kernel compares with.
    Stale,
}

/// What becomes of a question to a served address.
fn explain(
    memories: &Memories<'_>,
    lease: Lease,
    served: SocketAddr,
    (name, rtype): (&Name, Rtype),
    client: Client,
) -> Outcome {
    let message = message(name, rtype, client);
    let tables = Snapshot::new(memories, lease);
    // From that address itself: nobody is sent the answer.
    respond(&mut Packet(frame(served.ip(), served, &message)), &tables)
}

/// The tables as they are now.
struct Snapshot<'a> {
    memories: &'a Memories<'a>,
    settings: Vec<Settings>,
    now: u64,
}

impl<'a> Snapshot<'a> {
    fn new(memories: &'a Memories<'a>, lease: Lease) -> Self {
        let copies = memories.settings.words();
        let copies = copies.chunks_exact(size_of::<Settings>() / 8);
        let until = memories.control.words()[LEASE].load(Ordering::Relaxed);
        Self {
            memories,
            settings: copies
                .take(SLOTS as usize)
                .map(|words| bytemuck::pod_read_unaligned(bytemuck::cast_slice(&load(words))))
                .collect(),
            now: match lease {
                // Before every lease but an ended one, which is 0.
                Lease::Fresh => 0,
                Lease::Stale => until,
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

    /// The question is that of a client that may ask.
    fn permits(&self, _: &ClientKey) -> bool {
        true
    }

    fn tokens(&self, _: u32) -> Option<*mut u64> {
        None
    }

    fn now(&self) -> u64 {
        self.now
    }
}

/// A packet in plain memory.
struct Packet(Vec<u8>);

impl Frame for Packet {
    /// As on a veth; who is allowed on a network card depends on the client.
    const CLIENTS: Clients = Clients::All;

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

/// The address of an element, if there is such an element.
fn element<T>(memory: &Memory, number: u32) -> Option<*const T> {
    let octets = number as usize * size_of::<T>();
    let exists = octets + size_of::<T>() <= memory.octets();
    exists.then(|| memory.words()[octets / 8..].as_ptr().cast())
}

fn load(words: &[AtomicU64]) -> Vec<u64> {
    words
        .iter()
        .map(|word| word.load(Ordering::Relaxed))
        .collect()
}

/// A query of a client that sends EDNS or none.
fn message(name: &Name, rtype: Rtype, client: Client) -> Vec<u8> {
    let mut message = query(0, name, rtype);
    if client == Client::Edns {
        // ARCOUNT, and the OPT record.
        message[DNS - 1] = 1;
        message.extend([0, 0, 41]);
        message.extend((MAX_MESSAGE as u16).to_be_bytes());
        message.extend([0; 6]);
    }
    message
}

/// The message in a frame to a served address, from a client of the same family.
pub(super) fn frame(client: IpAddr, served: SocketAddr, message: &[u8]) -> Vec<u8> {
    let udp_length = (UDP + message.len()) as u16;
    let mut frame = vec![0; ETHERNET];
    if served.is_ipv4() {
        frame[ETHERNET - 2..].copy_from_slice(&[0x08, 0x00]);
        frame.extend([0x45, 0]);
        frame.extend((IPV4 as u16 + udp_length).to_be_bytes());
        frame.extend([0, 0, 0, 0, 64, 17, 0, 0]);
    } else {
        frame[ETHERNET - 2..].copy_from_slice(&[0x86, 0xdd]);
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
    // Any port, and any checksum but none at all: the program verifies none.
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
        records,
        settings::{Fixed, Publisher, build},
        table::Table,
    };
    use super::*;
    use crate::zone::{Model, ModelBuilder, Rdata, Record};

    /// Nobody but the test reads.
    struct NoReaders;

    impl Grace for NoReaders {
        fn wait(&mut self) {}
    }

    const SERVED: [&str; 2] = ["10.96.0.10:53", "[fd00::a]:5353"];

    /// `web.z.example` with one address, `many.z.example` with 40.
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

    fn memory(octets: usize) -> Memory {
        let file = tempfile::tempfile().unwrap();
        file.set_len(octets as u64).unwrap();
        Memory::of_map(file.as_fd(), octets).unwrap()
    }

    /// Tables with the model in them, handed over with their writers.
    fn with_tables(check: impl Fn(&Memories<'_>, &Publisher)) {
        let key = HashKey {
            words: [0x9e37_79b9_7f4a_7c15; MAX_WORDS],
            finish: 1,
        };
        let mut table = Table::new(
            memory(size_of::<Bucket>() * 16),
            memory(CHUNK),
            key,
            NoReaders,
        );
        let control = memory(size_of::<Control>());
        let lease = std::mem::offset_of!(Control, lease) / 8;
        control.words()[lease].store(1000, Ordering::Relaxed);
        let copies = memory(size_of::<Settings>() * SLOTS as usize);
        let mut publisher = Publisher::new(control, copies);

        let model = model();
        for (name, node) in model.nodes() {
            let mut record = records::build(&model, name, node).unwrap();
            table.put(&mut record).unwrap();
        }
        let fixed = Fixed {
            hash_key: key,
            directory_mask: table.directory_mask(),
            secret: 0,
            serve: SERVED.map(|served| served.parse().unwrap()).to_vec(),
            allow: Vec::new(),
            hardware: Vec::new(),
            limit: None,
        };
        publisher.publish(&build(&fixed, &model, &[true], &BTreeSet::new()).unwrap());

        let [directory, records] = table.memories();
        let [control, settings] = publisher.memories();
        let memories = Memories {
            control,
            settings,
            directory,
            records,
        };
        check(&memories, &publisher);
    }

    fn ask(
        memories: &Memories<'_>,
        lease: Lease,
        served: &str,
        name: &str,
        client: Client,
    ) -> Outcome {
        let name = Name::parse(name).unwrap();
        let served = served.parse().unwrap();
        explain(memories, lease, served, (&name, Rtype::A), client)
    }

    #[test]
    fn questions_end_as_in_the_kernel() {
        with_tables(|memories, _| {
            for served in SERVED {
                for (name, client, outcome) in [
                    ("web.z.example", Client::Plain, Outcome::Data),
                    ("web.z.example", Client::Edns, Outcome::Data),
                    ("many.z.example", Client::Plain, Outcome::TooLarge),
                    ("many.z.example", Client::Edns, Outcome::Data),
                    ("z.example", Client::Plain, Outcome::NoData),
                    ("ghost.z.example", Client::Edns, Outcome::NxDomain),
                    ("www.example", Client::Plain, Outcome::NotOwned),
                    ("a.b", Client::Plain, Outcome::NameLength),
                ] {
                    assert_eq!(
                        ask(memories, Lease::Fresh, served, name, client),
                        outcome,
                        "{name} {client:?} at {served}"
                    );
                }
            }
            let elsewhere = ask(
                memories,
                Lease::Fresh,
                "10.96.0.11:53",
                "web.z.example",
                Client::Plain,
            );
            assert_eq!(elsewhere, Outcome::NotServed);
        });
    }

    #[test]
    fn a_lease_is_over_when_it_was_not_renewed_or_was_ended() {
        with_tables(|memories, publisher| {
            let asked = |lease| ask(memories, lease, SERVED[0], "web.z.example", Client::Plain);
            assert_eq!(asked(Lease::Fresh), Outcome::Data);
            assert_eq!(asked(Lease::Stale), Outcome::LeaseStale);
            publisher.end_lease();
            assert_eq!(asked(Lease::Fresh), Outcome::LeaseStale);
        });
    }
}
