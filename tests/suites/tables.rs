//! Tables in plain memory, written by the agent's code and read by the kernel program's code, both
//! compiled for the host.

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

use dns_common::{
    Control, Outcome, Settings,
    directory::Bucket,
    names::HashKey,
    records::{CHUNK, RecordHead as Head},
    settings::{ClientKey, SETTINGS_COPIES},
};
use dns_ebpf::{
    Frame, Tables,
    frame::{AnsweredClients, UdpChecksum},
    respond,
};
use proptest::prelude::*;
use zerohop_contract::{
    addresses::{POD, SERVED},
    packet::QueryPacket,
};
use zerohop_datapath::{
    grace::Grace,
    hash_table::{HashTable, PutOutcome, TableFull},
    memory::Memory,
    records,
    settings::{NodeSettings, SettingsPublisher, build_settings},
};
use zerohop_zone::{Model, ModelBuilder, Name, Rdata, Record};

/// Number of names in random steps: more than fit in the 32 words of the directory.
const NAMES: u32 = 40;

#[derive(Clone, Debug)]
enum TableStep {
    /// Puts this name with this value.
    Put(u32, u8),
    Remove(u32),
    /// Compares the kernel program's answer for this name with the map.
    Ask(u32),
    /// Puts these names and removes all others.
    Round(Vec<(u32, u8)>),
}

fn steps() -> impl Strategy<Value = Vec<TableStep>> {
    let step = prop_oneof![
        4 => (0..NAMES, 0..4u8).prop_map(|(name, value)| TableStep::Put(name, value)),
        2 => (0..NAMES).prop_map(TableStep::Remove),
        2 => (0..NAMES).prop_map(TableStep::Ask),
        1 => prop::collection::vec((0..NAMES, 0..4u8), 0..20).prop_map(TableStep::Round),
    ];
    prop::collection::vec(step, 1..200)
}

proptest! {
    #[test]
    fn a_table_behaves_like_a_map(steps in steps()) {
        let mut bench = TableBench::new(4, 1, NoReaders);
        let mut map = BTreeMap::new();
        for step in steps {
            match step {
                TableStep::Put(name, value) => {
                    put(&mut bench, &mut map, name, value);
                }
                TableStep::Remove(name) => {
                    let was_there = bench.table.remove(name_of(name).wire());
                    prop_assert_eq!(was_there, map.remove(&name).is_some());
                }
                TableStep::Ask(name) => {
                    prop_assert_eq!(bench.ask_kernel(name), map.get(&name).copied());
                }
                TableStep::Round(names) => {
                    bench.table.begin_full_round();
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
                        prop_assert_eq!(bench.ask_kernel(name), map.get(&name).copied());
                    }
                }
            }
            prop_assert_eq!(bench.table.usage().names, map.len());
        }
        for name in 0..NAMES {
            prop_assert_eq!(bench.ask_kernel(name), map.get(&name).copied(), "{}", name);
        }
    }
}

/// Puts a name into the table and the map. Returns whether the table had room.
fn put(
    bench: &mut TableBench<NoReaders>,
    map: &mut BTreeMap<u32, u8>,
    name: u32,
    value: u8,
) -> bool {
    match bench.table.put(&mut build_record(name, value)) {
        Ok(outcome) => {
            let expected = match map.insert(name, value) {
                None => PutOutcome::Inserted,
                Some(before) if before == value => PutOutcome::Unchanged,
                Some(_) => PutOutcome::Replaced,
            };
            assert_eq!(outcome, expected);
            true
        }
        Err(full) => {
            assert_eq!(full, TableFull::Directory);
            // A put fails only for a new name whose two buckets, of eight words each, are full. If
            // the two are the same bucket, the other buckets of its names are full: otherwise a
            // name would have moved.
            assert!(map.len() >= 16 && !map.contains_key(&name));
            false
        }
    }
}

#[test]
fn records_of_every_size_are_found_until_the_table_is_full() {
    let mut bench = TableBench::new(1024, 1, NoReaders);
    let mut count = 0;
    let full = loop {
        let mut record = build_record(count, 1);
        // Records of 60 different sizes.
        record.resize(record.len() + 64 * (count as usize % 60), 0);
        match bench.table.put(&mut record) {
            Ok(_) => count += 1,
            Err(full) => break full,
        }
    };
    assert_eq!(full, TableFull::Records);
    for name in 0..count {
        assert_eq!(bench.ask_kernel(name), Some(1), "{name}");
    }
    assert_eq!(bench.ask_kernel(count), None);
    // Freed slots are reused after a grace period. Name 1 is removed too, because the new record
    // may need a larger slot than that of name 0.
    assert!(bench.table.remove(name_of(0).wire()));
    assert!(bench.table.remove(name_of(1).wire()));
    bench.table.put(&mut build_record(count, 2)).unwrap();
    assert_eq!(bench.ask_kernel(count), Some(2));
}

#[test]
fn a_reader_never_sees_a_partial_record() {
    let reader_inside = Arc::new(AtomicU64::new(0));
    let mut bench = TableBench::new(4, 1, AnnouncedReader(reader_inside.clone()));
    for name in 0..16 {
        bench.table.put(&mut build_record(name, 0)).unwrap();
    }
    let TableBench { shared, mut table } = bench;
    let stop = AtomicBool::new(false);
    let (reads, writes) = thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut writes = 0u64;
            let mut value = 0u8;
            while !stop.load(Ordering::Relaxed) {
                value = value.wrapping_add(1);
                for name in 0..16 {
                    table.put(&mut build_record(name, value)).unwrap();
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
                let answer = ask_kernel(&shared, name);
                reader_inside.fetch_add(1, Ordering::SeqCst);
                // `ask_kernel` checks that all addresses carry the same value.
                assert!(answer.is_some(), "{name} was missed");
                reads += 1;
            }
        }
        stop.store(true, Ordering::Relaxed);
        (reads, writer.join().unwrap())
    });
    println!("{reads} reads during {writes} writes");
    assert!(
        reads > 1000 && writes > 1000,
        "too few: {reads} reads, {writes} writes"
    );
}

#[test]
fn nothing_is_answered_before_the_first_settings() {
    let shared = SharedTables::new(4, 1);
    assert_eq!(
        respond(&mut PlainPacket::asking(1), &shared),
        Outcome::NotReady
    );
}

#[test]
fn a_packet_that_cannot_grow_passes_unchanged() {
    let mut bench = TableBench::new(4, 1, NoReaders);
    bench.table.put(&mut build_record(1, 1)).unwrap();
    let mut packet = PlainPacket::asking(1);
    let before = packet.bytes.clone();
    packet.can_grow = false;
    assert_eq!(respond(&mut packet, &bench.shared), Outcome::NoRoom);
    assert_eq!(packet.bytes, before);
}

#[test]
fn another_name_with_the_same_tag_passes() {
    let mut bench = TableBench::new(4, 1, NoReaders);
    bench.table.put(&mut build_record(1, 1)).unwrap();
    // The hash maps '-' and carriage return to the same value, like 'A' and 'a'.
    let mut packet = PlainPacket::asking(1);
    let at = packet.bytes.iter().position(|byte| *byte == b'-').unwrap();
    packet.bytes[at] = b'\r';
    assert_eq!(respond(&mut packet, &bench.shared), Outcome::TagCollision);
}

/// Tables in shared memory, and their writer.
struct TableBench<G> {
    shared: SharedTables,
    table: HashTable<G>,
}

impl<G: Grace> TableBench<G> {
    /// `buckets` is the size of the directory, `chunks` that of the records.
    fn new(buckets: usize, chunks: usize, grace: G) -> Self {
        let shared = SharedTables::new(buckets, chunks);
        // A fixed key of arbitrary words. `finish` must be odd.
        let key = HashKey {
            words: std::array::from_fn(|number| {
                (number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
            }),
            finish: 0x2545_f491_4f6c_dd1d,
        };
        let [control, settings, directory, records] = shared.map_again();
        let table = HashTable::new(directory, records, key, grace);
        let node_settings = NodeSettings {
            hash_key: key,
            directory_mask: table.directory_mask(),
            secret: 0,
            served_addresses: vec![SocketAddr::new(SERVED[0], 53)],
            allow: Vec::new(),
            card_addresses: Vec::new(),
            rate_limit: None,
        };
        // A lease that never ends, because `now` is always 0. The program compares the times as
        // signed numbers, so this is the latest one.
        let lease = std::mem::offset_of!(Control, lease) / 8;
        control.words()[lease].store(u64::MAX >> 1, Ordering::Relaxed);
        // The table counts as complete for the only zone, so absent names are denied.
        SettingsPublisher::new(control, settings).publish(
            &build_settings(&node_settings, &model(0, 0), &[true], &BTreeSet::new()).unwrap(),
        );
        Self { shared, table }
    }

    /// The value in the kernel program's answer for a name. `None`: NXDOMAIN.
    fn ask_kernel(&self, name: u32) -> Option<u8> {
        ask_kernel(&self.shared, name)
    }
}

/// Sends a query to the kernel program. Returns the value in its answer, or `None` for NXDOMAIN.
fn ask_kernel(shared: &SharedTables, name: u32) -> Option<u8> {
    let mut packet = PlainPacket::asking(name);
    match respond(&mut packet, shared) {
        Outcome::NxDomain => None,
        Outcome::Data => {
            // Four address records of 16 bytes. The value is the third byte of each address.
            let answers = &packet.bytes[packet.bytes.len() - 4 * 16..];
            let values: Vec<u8> = answers.chunks(16).map(|record| record[14]).collect();
            assert!(values.iter().all(|value| *value == values[0]), "{values:?}");
            Some(values[0])
        }
        other => panic!("{}: {other:?}", name_of(name)),
    }
}

fn name_of(number: u32) -> Name {
    Name::parse(&format!("service-{number}.shop.svc.cluster.local")).unwrap()
}

/// A model of one name. Its four addresses carry `value` in the third byte.
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

fn build_record(number: u32, value: u8) -> Vec<u8> {
    let model = model(number, value);
    let name = name_of(number);
    let (_, entry) = model.entries().find(|(other, _)| **other == name).unwrap();
    let record = records::build_record(&model, &name, entry).unwrap();
    assert!(record.len() >= size_of::<Head>());
    record
}

/// Stops the writer when dropped, even if the reader panics.
struct StopWriter<'a>(&'a AtomicBool);

impl Drop for StopWriter<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A grace period that ends at once, because there is no concurrent reader.
struct NoReaders;

impl Grace for NoReaders {
    fn wait(&mut self) {}
}

/// A grace period that waits for one reader, as RCU waits for programs. The counter is odd while
/// the reader is inside the tables.
struct AnnouncedReader(Arc<AtomicU64>);

impl Grace for AnnouncedReader {
    fn wait(&mut self) {
        let seen = self.0.load(Ordering::SeqCst);
        while seen % 2 == 1 && self.0.load(Ordering::SeqCst) == seen {
            thread::yield_now();
        }
    }
}

/// The memory of the tables. The reader and the writer map it separately, like the kernel's maps.
struct SharedTables {
    files: [(File, usize); 4],
    control: Memory,
    settings: Memory,
    directory: Memory,
    records: Memory,
}

impl SharedTables {
    fn new(buckets: usize, chunks: usize) -> Self {
        let files = [
            size_of::<Control>(),
            size_of::<Settings>() * SETTINGS_COPIES as usize,
            size_of::<Bucket>() * buckets,
            CHUNK * chunks,
        ]
        .map(|length| (tempfile::tempfile().unwrap(), length));
        for (file, length) in &files {
            file.set_len(*length as u64).unwrap();
        }
        let [control, settings, directory, records] = map_files(&files);
        Self {
            files,
            control,
            settings,
            directory,
            records,
        }
    }

    /// Maps the same memory again, for the writer.
    fn map_again(&self) -> [Memory; 4] {
        map_files(&self.files)
    }
}

fn map_files(files: &[(File, usize); 4]) -> [Memory; 4] {
    files
        .each_ref()
        .map(|(file, length)| Memory::map(file.as_fd(), *length).unwrap())
}

/// The address of element `number`. `None`: the memory ends before the element's end.
fn element<T>(memory: &Memory, number: u32) -> Option<*const T> {
    let offset = number as usize * size_of::<T>();
    let exists = offset + size_of::<T>() <= memory.bytes();
    exists.then(|| memory.words()[offset / 8..].as_ptr().cast())
}

impl Tables for SharedTables {
    fn control(&self) -> Option<*const Control> {
        element(&self.control, 0)
    }

    fn settings(&self, slot: u32) -> Option<&Settings> {
        let settings = element::<Settings>(&self.settings, slot)?;
        // SAFETY: the element lies in the mapping, any bytes are valid settings, and the publisher
        // does not write to the current copy.
        Some(unsafe { &*settings })
    }

    fn bucket(&self, number: u32) -> Option<*const Bucket> {
        element(&self.directory, number)
    }

    fn chunk(&self, number: u32) -> Option<*const u8> {
        element::<[u8; CHUNK]>(&self.records, number).map(<*const _>::cast)
    }

    /// Not called, because the settings permit any client.
    fn permits(&self, _: &ClientKey) -> bool {
        false
    }

    /// Not called, because the settings have no rate limit.
    fn token_bucket(&self, _: u32) -> Option<*mut u64> {
        None
    }

    fn now(&self) -> u64 {
        0
    }
}

/// A packet in plain memory.
struct PlainPacket {
    bytes: Vec<u8>,
    can_grow: bool,
}

impl PlainPacket {
    /// A query for the A records of the name with this number.
    fn asking(name: u32) -> Self {
        let name = name_of(name).to_string();
        Self {
            bytes: QueryPacket::new(POD[0], SERVED[0], &name, 1).frame(),
            can_grow: true,
        }
    }
}

impl Frame for PlainPacket {
    const CLIENTS: AnsweredClients = AnsweredClients::All;

    fn start(&self) -> usize {
        self.bytes.as_ptr() as usize
    }

    fn end(&self) -> usize {
        self.start() + self.bytes.len()
    }

    fn resize(&mut self, length: usize) -> bool {
        if !self.can_grow {
            return false;
        }
        self.bytes.resize(length, 0);
        true
    }

    fn set_udp_checksum(&mut self, _: usize, _: UdpChecksum) {}
}
