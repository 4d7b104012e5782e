//! What the kernel would do with a question, by the kernel program's own code.
//!
//! `dns-ebpf` is a library too: here it runs over the shared memory, with a packet that exists only
//! here. It counts nothing and touches nobody's packet.

use std::{
    net::{IpAddr, SocketAddr},
    sync::atomic::{AtomicU64, Ordering},
};

use dns_common::{Control, Outcome, Settings, directory::Bucket, records::CHUNK, settings::SLOTS};
use dns_ebpf::{
    Frame, Tables,
    frame::{Clients, UdpChecksum},
    query::{DNS, ETHERNET, IPV4, MAX_MESSAGE, OPT, UDP},
    respond,
};

use super::{Datapath, memory::Memory};
use crate::zone::{Name, Rtype};

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
    let message = query(name, rtype, client);
    let tables = Snapshot::new(memories, lease);
    respond(&mut Packet(frame(served, &message)), &tables)
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
        let until = memories.control.words()[std::mem::offset_of!(Control, lease) / 8]
            .load(Ordering::Relaxed);
        Self {
            memories,
            settings: copies
                .take(SLOTS as usize)
                .map(|words| bytemuck::pod_read_unaligned(bytemuck::cast_slice(&load(words))))
                .collect(),
            now: match lease {
                // An ended lease stays ended.
                Lease::Fresh => until.saturating_sub(1),
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

/// A query with RD, as stub resolvers send it (RFC 1035 section 4.1).
fn query(name: &Name, rtype: Rtype, client: Client) -> Vec<u8> {
    let mut message = Vec::with_capacity(DNS + name.wire().len() + 4 + OPT);
    let additionals = u16::from(client == Client::Edns);
    for word in [0, 0x0100, 1, 0, 0, additionals] {
        message.extend(word.to_be_bytes());
    }
    message.extend(name.wire());
    message.extend(rtype.to_int().to_be_bytes());
    message.extend(1u16.to_be_bytes());
    if client == Client::Edns {
        message.extend([0, 0, 41]);
        message.extend((MAX_MESSAGE as u16).to_be_bytes());
        message.extend([0; 6]);
    }
    message
}

/// The message in a frame to a served address, from that address itself: nobody is sent the answer.
fn frame(served: SocketAddr, message: &[u8]) -> Vec<u8> {
    let udp_length = (UDP + message.len()) as u16;
    let mut frame = vec![0; ETHERNET];
    match served.ip() {
        IpAddr::V4(address) => {
            frame[ETHERNET - 2..].copy_from_slice(&[0x08, 0x00]);
            let mut header = [0; IPV4];
            header[0] = 0x45;
            header[2..4].copy_from_slice(&(IPV4 as u16 + udp_length).to_be_bytes());
            header[8..10].copy_from_slice(&[64, 17]);
            header[12..16].copy_from_slice(&address.octets());
            header[16..20].copy_from_slice(&address.octets());
            frame.extend(header);
        }
        IpAddr::V6(address) => {
            frame[ETHERNET - 2..].copy_from_slice(&[0x86, 0xdd]);
            frame.extend([0x60, 0, 0, 0]);
            frame.extend(udp_length.to_be_bytes());
            frame.extend([17, 64]);
            frame.extend(address.octets());
            frame.extend(address.octets());
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
