//! The tables in plain memory, written by the agent's code and read by the kernel program's, both
//! on the host.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    net::{Ipv4Addr, SocketAddr},
    os::fd::AsFd as _,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use dns_agent::{
    datapath::{
        grace::Grace,
        memory::Memory,
        records,
        settings::{Fixed, Publisher, build},
        table::{Full, Put, Table},
    },
    zone::{Model, ModelBuilder, Name, Rdata, Record},
};
use dns_common::{
    Control, Outcome, Settings,
    directory::Bucket,
    names::HashKey,
    records::{CHUNK, Record as Head},
    settings::{ClientKey, SLOTS},
};
use dns_ebpf::{
    Frame, Tables,
    frame::{Clients, UdpChecksum},
    respond,
};
use proptest::prelude::*;
use zerohop_tests::{
    packet::Query,
    topology::{POD, SERVED},
};

/// Names that random operations choose from: more than a directory of 32 words holds.
const NAMES: u32 = 40;

#[derive(Clone, Debug)]
enum Step {
    Put(u32, u8),
    Remove(u32),
    Ask(u32),
    /// Puts these, and sweeps away all others.
    Round(Vec<(u32, u8)>),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..NAMES, 0..4u8).prop_map(|(name, value)| Step::Put(name, value)),
        2 => (0..NAMES).prop_map(Step::Remove),
        2 => (0..NAMES).prop_map(Step::Ask),
        1 => prop::collection::vec((0..NAMES, 0..4u8), 0..20).prop_map(Step::Round),
    ];
    prop::collection::vec(step, 1..200)
}

proptest! {
    #[test]
    fn a_table_is_a_map(steps in steps()) {
        let mut bench = Bench::new(4, 1, NoReaders);
        let mut map = BTreeMap::new();
        for step in steps {
            match step {
                Step::Put(name, value) => {
                    put(&mut bench, &mut map, name, value);
                }
                Step::Remove(name) => {
                    let was_there = bench.table.remove(name_of(name).wire());
                    prop_assert_eq!(was_there, map.remove(&name).is_some());
                }
                Step::Ask(name) => {
                    prop_assert_eq!(bench.ask(name), map.get(&name).copied());
                }
                Step::Round(names) => {
                    bench.table.begin();
                    let before: Vec<u32> = map.keys().copied().collect();
                    let mut kept = BTreeMap::new();
                    for (name, value) in names {
                        if put(&mut bench, &mut map, name, value) {
                            kept.insert(name, value);
                        }
                    }
                    map.retain(|name, _| kept.contains_key(name));
                    bench.table.sweep();
                    for name in before {
                        prop_assert_eq!(bench.ask(name), map.get(&name).copied());
                    }
                }
            }
            prop_assert_eq!(bench.table.fill().names, map.len());
        }
        for name in 0..NAMES {
            prop_assert_eq!(bench.ask(name), map.get(&name).copied(), "{}", name);
        }
    }
}

/// Puts a name into both; says whether there was room.
fn put(bench: &mut Bench<NoReaders>, map: &mut BTreeMap<u32, u8>, name: u32, value: u8) -> bool {
    match bench.table.put(&mut record(name, value)) {
        Ok(put) => {
            let expected = match map.insert(name, value) {
                None => Put::Inserted,
                Some(before) if before == value => Put::Unchanged,
                Some(_) => Put::Replaced,
            };
            assert_eq!(put, expected);
            true
        }
        Err(full) => {
            assert_eq!(full, Full::Directory);
            // Four buckets of eight: nothing is refused before two of them are full, or too
            // much has been moved since the last round began.
            assert!(map.len() >= 16 && !map.contains_key(&name));
            false
        }
    }
}

#[test]
fn records_of_every_size_until_there_is_no_room() {
    let mut bench = Bench::new(1024, 1, NoReaders);
    let mut count = 0;
    let full = loop {
        let mut octets = record(count, 1);
        octets.resize(octets.len() + 64 * (count as usize % 60), 0);
        match bench.table.put(&mut octets) {
            Ok(_) => count += 1,
            Err(full) => break full,
        }
    };
    assert_eq!(full, Full::Records);
    for name in 0..count {
        assert_eq!(bench.ask(name), Some(1), "{name}");
    }
    assert_eq!(bench.ask(count), None);
    // What is given back can be used again, after the readers are gone.
    assert!(bench.table.remove(name_of(0).wire()));
    assert!(bench.table.remove(name_of(1).wire()));
    bench.table.put(&mut record(count, 2)).unwrap();
    assert_eq!(bench.ask(count), Some(2));
}

#[test]
fn a_reader_never_sees_half_a_record() {
    let reader_inside = Arc::new(AtomicU64::new(0));
    let mut bench = Bench::new(4, 1, Announced(reader_inside.clone()));
    for name in 0..16 {
        bench.table.put(&mut record(name, 0)).unwrap();
    }
    let Bench { shared, mut table } = bench;
    let stop = AtomicBool::new(false);
    let (reads, writes) = thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut writes = 0u64;
            let mut value = 0u8;
            while !stop.load(Ordering::Relaxed) {
                value = value.wrapping_add(1);
                for name in 0..16 {
                    table.put(&mut record(name, value)).unwrap();
                    writes += 1;
                }
            }
            writes
        });
        let _stop = StopWriter(&stop);
        let mut reads = 0u64;
        let end = Instant::now() + Duration::from_secs(3);
        while Instant::now() < end {
            for name in 0..16 {
                reader_inside.fetch_add(1, Ordering::SeqCst);
                let answer = ask(&shared, name);
                reader_inside.fetch_add(1, Ordering::SeqCst);
                // `ask` checks that all addresses say the same.
                assert!(answer.is_some(), "{name} was missed");
                reads += 1;
            }
        }
        stop.store(true, Ordering::Relaxed);
        (reads, writer.join().unwrap())
    });
    println!("{reads} reads during {writes} writes");
    assert!(reads > 1000 && writes > 1000);
}

#[test]
fn nothing_is_answered_before_the_first_settings() {
    let shared = Shared::new(4, 1);
    assert_eq!(respond(&mut Packet::asking(1), &shared), Outcome::NotReady);
}

#[test]
fn a_packet_that_can_not_grow_passes_unchanged() {
    let mut bench = Bench::new(4, 1, NoReaders);
    bench.table.put(&mut record(1, 1)).unwrap();
    let mut packet = Packet::asking(1);
    let before = packet.octets.clone();
    packet.can_grow = false;
    assert_eq!(respond(&mut packet, &bench.shared), Outcome::NoRoom);
    assert_eq!(packet.octets, before);
}

#[test]
fn another_name_with_the_same_tag_passes() {
    let mut bench = Bench::new(4, 1, NoReaders);
    bench.table.put(&mut record(1, 1)).unwrap();
    // The hash takes '-' and carriage return for the same, as it takes 'A' and 'a'.
    let mut packet = Packet::asking(1);
    let at = packet
        .octets
        .iter()
        .position(|octet| *octet == b'-')
        .unwrap();
    packet.octets[at] = b'\r';
    assert_eq!(respond(&mut packet, &bench.shared), Outcome::TagCollision);
}

/// Tables in shared memory, and their writer.
struct Bench<G> {
    shared: Shared,
    table: Table<G>,
}

impl<G: Grace> Bench<G> {
    fn new(buckets: usize, chunks: usize, grace: G) -> Self {
        let shared = Shared::new(buckets, chunks);
        let key = HashKey {
            words: std::array::from_fn(|number| {
                (number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
            }),
            finish: 0x2545_f491_4f6c_dd1d,
        };
        let [control, settings, directory, records] = shared.again();
        let table = Table::new(directory, records, key, grace);
        let fixed = Fixed {
            hash_key: key,
            directory_mask: table.directory_mask(),
            secret: 0,
            serve: vec![SocketAddr::new(SERVED[0], 53)],
            allow: Vec::new(),
            hardware: Vec::new(),
            limit: None,
        };
        let lease = std::mem::offset_of!(Control, lease) / 8;
        control.words()[lease].store(u64::MAX >> 1, Ordering::Relaxed);
        Publisher::new(control, settings)
            .publish(&build(&fixed, &model(0, 0), &[true], &BTreeSet::new()).unwrap());
        Self { shared, table }
    }

    /// The value of a name, by the kernel program.
    fn ask(&self, name: u32) -> Option<u8> {
        ask(&self.shared, name)
    }
}

fn ask(shared: &Shared, name: u32) -> Option<u8> {
    let mut packet = Packet::asking(name);
    match respond(&mut packet, shared) {
        Outcome::NxDomain => None,
        Outcome::Data => {
            let answers = &packet.octets[packet.octets.len() - 4 * 16..];
            let values: Vec<u8> = answers.chunks(16).map(|record| record[14]).collect();
            assert!(values.iter().all(|value| *value == values[0]), "{values:?}");
            Some(values[0])
        }
        other => panic!("{other:?}"),
    }
}

fn name_of(number: u32) -> Name {
    Name::parse(&format!("service-{number}.shop.svc.cluster.local")).unwrap()
}

/// A name whose four addresses all tell its value.
fn model(number: u32, value: u8) -> Model {
    let mut builder = ModelBuilder::new(1);
    builder
        .add_zone(Name::parse("cluster.local").unwrap(), 5)
        .unwrap();
    for last in 0..4 {
        builder.add(Record {
            owner: name_of(number),
            ttl: 5,
            data: Rdata::A(Ipv4Addr::new(10, 0, value, last)),
        });
    }
    builder.build()
}

fn record(number: u32, value: u8) -> Vec<u8> {
    let model = model(number, value);
    let name = name_of(number);
    let (_, node) = model.nodes().find(|(other, _)| **other == name).unwrap();
    let record = records::build(&model, &name, node).unwrap();
    assert!(record.len() >= size_of::<Head>());
    record
}

/// Stops the writer when the reader ends, in whatever way.
struct StopWriter<'a>(&'a AtomicBool);

impl Drop for StopWriter<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// No reader runs while the table is written.
struct NoReaders;

impl Grace for NoReaders {
    fn wait(&mut self) {}
}

/// Waits for a reader that announces itself, as RCU waits for programs: the number is odd while it
/// is inside.
struct Announced(Arc<AtomicU64>);

impl Grace for Announced {
    fn wait(&mut self) {
        let seen = self.0.load(Ordering::SeqCst);
        while seen % 2 == 1 && self.0.load(Ordering::SeqCst) == seen {
            thread::yield_now();
        }
    }
}

/// The tables' memory, as the kernel's maps are: one thing, mapped by readers and writer.
struct Shared {
    files: [(File, usize); 4],
    control: Memory,
    settings: Memory,
    directory: Memory,
    records: Memory,
}

impl Shared {
    fn new(buckets: usize, chunks: usize) -> Self {
        let files = [
            size_of::<Control>(),
            size_of::<Settings>() * SLOTS as usize,
            size_of::<Bucket>() * buckets,
            CHUNK * chunks,
        ]
        .map(|octets| (tempfile::tempfile().unwrap(), octets));
        for (file, octets) in &files {
            file.set_len(*octets as u64).unwrap();
        }
        let [control, settings, directory, records] = map(&files);
        Self {
            files,
            control,
            settings,
            directory,
            records,
        }
    }

    /// The same memory, for the writer.
    fn again(&self) -> [Memory; 4] {
        map(&self.files)
    }
}

fn map(files: &[(File, usize); 4]) -> [Memory; 4] {
    files
        .each_ref()
        .map(|(file, octets)| Memory::of_map(file.as_fd(), *octets).unwrap())
}

/// The address of an element, if there is such an element.
fn element<T>(memory: &Memory, number: u32) -> Option<*const T> {
    let octets = number as usize * size_of::<T>();
    let exists = octets + size_of::<T>() <= memory.octets();
    exists.then(|| memory.words()[octets / 8..].as_ptr().cast())
}

impl Tables for Shared {
    fn control(&self) -> Option<*const Control> {
        element(&self.control, 0)
    }

    fn settings(&self, slot: u32) -> Option<&Settings> {
        let settings = element::<Settings>(&self.settings, slot)?;
        // SAFETY: the element lies in the mapping, any octets are settings, and the copy in force is
        // not written to.
        Some(unsafe { &*settings })
    }

    fn bucket(&self, number: u32) -> Option<*const Bucket> {
        element(&self.directory, number)
    }

    fn chunk(&self, number: u32) -> Option<*const u8> {
        element::<[u8; CHUNK]>(&self.records, number).map(<*const _>::cast)
    }

    fn permits(&self, _: &ClientKey) -> bool {
        false
    }

    fn tokens(&self, _: u32) -> Option<*mut u64> {
        None
    }

    fn now(&self) -> u64 {
        0
    }
}

/// A packet in plain memory.
struct Packet {
    octets: Vec<u8>,
    can_grow: bool,
}

impl Packet {
    fn asking(name: u32) -> Self {
        let name = name_of(name).to_string();
        Self {
            octets: Query::new(POD[0], SERVED[0], &name, 1).frame(),
            can_grow: true,
        }
    }
}

impl Frame for Packet {
    const CLIENTS: Clients = Clients::All;

    fn start(&self) -> usize {
        self.octets.as_ptr() as usize
    }

    fn end(&self) -> usize {
        self.start() + self.octets.len()
    }

    fn resize(&mut self, length: usize) -> bool {
        if !self.can_grow {
            return false;
        }
        self.octets.resize(length, 0);
        true
    }

    fn set_udp_checksum(&mut self, _: usize, _: UdpChecksum) {}
}
