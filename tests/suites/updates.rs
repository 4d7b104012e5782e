//! The kernel's tables while the agent writes them: the program sees no partly written record,
//! 100,000 names fit, and full tables deny no existing name.

use std::{
    collections::BTreeSet,
    net::Ipv4Addr,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use dns_common::{checksum, names::HashKey, records as layout};
use zerohop_contract::{
    addresses::{POD, SERVED},
    packet::{self, QueryPacket},
};
use zerohop_datapath::{
    KernelTables,
    grace::Rcu,
    hash_table::HashTable,
    program::{EbpfObject, HookProgram, TableSize},
    records,
    settings::{NodeSettings, SettingsPublisher, build_settings},
};
use zerohop_zone::{Model, ModelBuilder, Name, Rdata, Record};

use crate::kernel::fixture::{LONG_LEASE_JIFFIES, TC_PASS, config, rcode};

/// Number of names whose records are replaced. At most 1,024, see [`encode_address`].
const NAMES: u32 = 1000;
/// Number of addresses of each name; at most 8. All addresses of a record carry the same version.
const ADDRESSES: u32 = 8;
/// Duration of the flood of queries.
const FLOOD: Duration = Duration::from_secs(30);

#[test]
fn a_flood_of_queries_never_sees_a_partial_record() {
    let model = model(NAMES, ADDRESSES);
    let size = TableSize {
        buckets: 1024,
        chunks: 64,
    };
    let mut object = EbpfObject::load(dns_agent::KERNEL_OBJECT, size).unwrap();
    let memories = object.map_tables(size).unwrap();
    let key = HashKey {
        words: std::array::from_fn(|_| rand::random()),
        // `HashKey::finish` must be odd.
        finish: rand::random::<u64>() | 1,
    };
    let mut table = HashTable::new(
        memories.directory,
        memories.records,
        key,
        Rcu::new().unwrap(),
    );
    let mut publisher = SettingsPublisher::new(memories.control, memories.settings);
    let node_settings = NodeSettings {
        hash_key: key,
        directory_mask: table.directory_mask(),
        secret: 1,
        served_addresses: SERVED.map(|address| (address, 53).into()).to_vec(),
        allow: Vec::new(),
        card_addresses: Vec::new(),
        rate_limit: None,
    };
    let mut records: Vec<_> = (0..NAMES)
        .map(|number| build_record(&model, number))
        .collect();
    for record in &mut records {
        table.put(record).unwrap();
    }
    // The only zone is complete, and there are no pass suffixes.
    publisher.publish(&build_settings(&node_settings, &model, &[true], &BTreeSet::new()).unwrap());
    object.set_lease(LONG_LEASE_JIFFIES).unwrap();

    let stop = AtomicBool::new(false);
    let updates = AtomicU64::new(0);
    let answers = thread::scope(|scope| {
        scope.spawn(|| {
            let mut version = 1;
            while !stop.load(Ordering::Relaxed) {
                for (number, record) in records.iter_mut().enumerate() {
                    write_addresses(record, number as u32, version);
                    table.put(record).unwrap();
                    updates.fetch_add(1, Ordering::Relaxed);
                }
                version = (version + 1) % VERSIONS;
            }
        });
        let frames: Vec<_> = (0..NAMES)
            .map(|number| QueryPacket::new(POD[0], SERVED[0], &service_name(number), 1).frame())
            .collect();
        let end = Instant::now() + FLOOD;
        let mut answers = 0u64;
        while Instant::now() < end {
            for (number, frame) in frames.iter().enumerate() {
                let (_, out) = object.test_run(HookProgram::TcPeer, frame).unwrap();
                if let Err(wrong) = check_answer(frame, &out, number as u32) {
                    stop.store(true, Ordering::Relaxed);
                    panic!(
                        "after {answers} answers, {}: {wrong}",
                        service_name(number as u32)
                    );
                }
                answers += 1;
            }
        }
        stop.store(true, Ordering::Relaxed);
        answers
    });
    let updates = updates.into_inner();
    println!("{answers} answers during {updates} updates, none of them wrong");
    assert!(
        answers > 10_000 && updates > 10_000,
        "too few: {answers} answers, {updates} updates"
    );
}

/// Checks that all addresses of an answer carry the same name and version.
fn check_answer(frame: &[u8], out: &[u8], number: u32) -> Result<(), String> {
    let message = packet::parse_reply(frame, out).map_err(|error| error.to_string())?;
    let records = &message[message.len() - ADDRESS_RECORD * ADDRESSES as usize..];
    let mut seen: Vec<u32> = records
        .chunks(ADDRESS_RECORD)
        .map(|record| u32::from_be_bytes([record[12], record[13], record[14], record[15]]))
        .collect();
    seen.sort_unstable();
    let version = seen[0] >> 13;
    let expected: Vec<u32> = (0..ADDRESSES)
        .map(|address| encode_address(number, version, address))
        .collect();
    if seen == expected {
        return Ok(());
    }
    Err(format!("{seen:08x?} instead of {expected:08x?}"))
}

/// Length of an A record whose owner name is compressed, in bytes.
const ADDRESS_RECORD: usize = 16;

/// Number of versions that an address can carry.
const VERSIONS: u32 = 1 << 19;

/// An address that encodes 19 bits of version, 10 bits of name and 3 bits of address number.
fn encode_address(number: u32, version: u32, address: u32) -> u32 {
    version << 13 | number << 3 | address
}

/// Writes the addresses of a version into a record, and updates the checksum of its answer.
fn write_addresses(record: &mut [u8], number: u32, version: u32) {
    let head_length = size_of::<layout::RecordHead>();
    let mut head: layout::RecordHead = bytemuck::pod_read_unaligned(&record[..head_length]);
    let answer = &mut head.answers[0];
    let (start, length) = (usize::from(answer.offset), usize::from(answer.length));
    // An answer of n addresses is stored as 2n - 1 records.
    let stored = length + usize::from(answer.stride) * (ADDRESSES as usize - 1);
    for (at, rr) in record[start..start + stored]
        .chunks_mut(ADDRESS_RECORD)
        .enumerate()
    {
        let address = encode_address(number, version, at as u32 % ADDRESSES);
        rr[12..16].copy_from_slice(&address.to_be_bytes());
    }
    answer.sum = checksum::fold(checksum::sum(&record[start..start + length]));
    record[..head_length].copy_from_slice(bytemuck::bytes_of(&head));
}

fn build_record(model: &Model, number: u32) -> Vec<u8> {
    let name = Name::parse(&service_name(number)).unwrap();
    let (name, entry) = model.entries().find(|(other, _)| **other == name).unwrap();
    let mut record = records::build_record(model, name, entry).unwrap();
    write_addresses(&mut record, number, 0);
    record
}

#[test]
fn a_hundred_thousand_names_are_published_and_answered() {
    const COUNT: u32 = 100_000;
    let model = model(COUNT, 1);
    let config = config();
    // The default capacity, which has room for 12.5 % more names than the model.
    let size = zerohop_datapath::table_size(&model, None);
    let start = Instant::now();
    let mut object = EbpfObject::load(dns_agent::KERNEL_OBJECT, size).unwrap();
    let mut tables = KernelTables::new(&object, size, &config, Rcu::new().unwrap()).unwrap();
    let published = tables.publish_all(&model, &mut || {}).unwrap();
    let took = start.elapsed();
    println!(
        "{} names in {took:?}; {:?}",
        published.inserted,
        tables.usage()
    );
    assert_eq!(published.inserted, model.entries().count());
    assert_eq!(published.left_out, 0);

    object.set_lease(LONG_LEASE_JIFFIES).unwrap();
    // A sample of about a hundred names.
    for number in (0..COUNT).step_by(997) {
        let frame = QueryPacket::new(POD[0], SERVED[0], &service_name(number), 1).frame();
        let (_, out) = object.test_run(HookProgram::TcPeer, &frame).unwrap();
        let message = packet::parse_reply(&frame, &out).unwrap();
        assert_eq!(message[message.len() - 4..], (number << 3).to_be_bytes());
    }
    // Publishing the same model again changes nothing.
    let again = tables.publish_all(&model, &mut || {}).unwrap();
    assert_eq!((again.unchanged, again.replaced), (published.inserted, 0));
}

#[test]
fn full_tables_never_deny_a_name_that_exists() {
    // The directory has 256 words, and there are more than 400 names in two zones. So some names of
    // both zones are left out.
    let mut builder = ModelBuilder::new(1);
    for zone in ["cluster.local", "10.in-addr.arpa"] {
        builder.add_zone(Name::parse(zone).unwrap(), 5).unwrap();
    }
    let mut frames = Vec::new();
    for number in 0..200 {
        let service = service_name(number);
        let reverse = format!("{number}.0.96.10.in-addr.arpa");
        let target = Name::parse(&service).unwrap();
        for (owner, data, rtype) in [
            (&service, Rdata::A(Ipv4Addr::from_bits(number)), 1),
            (&reverse, Rdata::Ptr(target), 12),
        ] {
            builder.add(Record {
                owner: Name::parse(owner).unwrap(),
                ttl: 5,
                data,
            });
            frames.push(QueryPacket::new(POD[0], SERVED[0], owner, rtype).frame());
        }
    }
    let model = builder.build();
    let size = TableSize {
        buckets: 32,
        chunks: 4,
    };
    let config = config();
    let mut object = EbpfObject::load(dns_agent::KERNEL_OBJECT, size).unwrap();
    let mut tables = KernelTables::new(&object, size, &config, Rcu::new().unwrap()).unwrap();
    object.set_lease(LONG_LEASE_JIFFIES).unwrap();
    let mut passes = 0;
    // The first round begins with empty tables, the others with full ones.
    for _ in 0..3 {
        let mut query_number = 0;
        // `publish_all` calls the closure after each name.
        let published = tables.publish_all(&model, &mut || {
            for _ in 0..40 {
                query_number += 1;
                let frame = &frames[query_number % frames.len()];
                let (verdict, out) = object.test_run(HookProgram::TcPeer, frame).unwrap();
                if verdict == TC_PASS {
                    passes += 1;
                    continue;
                }
                let message = packet::parse_reply(frame, &out).unwrap();
                assert_eq!(
                    rcode(&message),
                    0,
                    "query {query_number} while publishing: {message:02x?}"
                );
            }
        });
        assert!(published.unwrap().left_out > 100, "the tables are not full");
    }
    assert!(passes > 1000, "only {passes} queries passed");
}

#[test]
fn a_publication_can_be_continued() {
    // Services 0 to 99 change their address, 100 to 199 disappear, and 200 to 299 are new.
    let numbered = |numbers: std::ops::Range<u32>, offset: u32| {
        let mut builder = ModelBuilder::new(1);
        let zone = Name::parse("cluster.local").unwrap();
        builder.add_zone(zone, 5).unwrap();
        builder.extend(numbers.map(|number| Record {
            owner: Name::parse(&service_name(number)).unwrap(),
            ttl: 5,
            data: Rdata::A(Ipv4Addr::from_bits(number + offset)),
        }));
        builder.build()
    };
    let before = numbered(0..200, 0);
    let mut all: Vec<u32> = (0..100).chain(200..300).collect();
    all.sort_unstable();
    let after = {
        let mut builder = ModelBuilder::new(1);
        builder
            .add_zone(Name::parse("cluster.local").unwrap(), 5)
            .unwrap();
        builder.extend(all.iter().map(|number| Record {
            owner: Name::parse(&service_name(*number)).unwrap(),
            ttl: 5,
            data: Rdata::A(Ipv4Addr::from_bits(number + 1000)),
        }));
        builder.build()
    };
    let (mut object, mut tables) = filled_tables(&before);
    let mut ask = |number: u32| ask_address(&mut object, number);
    let names = before.entries().chain(after.entries());
    let mut left: BTreeSet<Name> = names.map(|(name, _)| name.clone()).collect();
    let mut calls = 0;
    while !left.is_empty() {
        let count = left.len();
        // Without time, a call publishes a single name.
        left = tables
            .publish_names(&after, &left, Duration::ZERO)
            .unwrap()
            .left;
        calls += 1;
        assert!(left.len() < count, "no name is published with {count} left");
        // Until the end, each name is answered as before or as afterwards.
        for number in [calls % 100, 100 + calls % 100, 200 + calls % 100] {
            let is_valid = match ask(number) {
                Some(address) => address == number && number < 200 || address == number + 1000,
                None => number >= 100,
            };
            assert!(is_valid, "service {number} after {calls} calls");
        }
    }
    assert!(calls >= 300, "only {calls} calls for 300 names");
    for number in 0..300 {
        let expected = all.contains(&number).then_some(number + 1000);
        assert_eq!(ask(number), expected, "service {number} at the end");
    }
}

#[test]
fn passed_names_pass_until_they_are_published() {
    let model = model(10, 1);
    let (mut object, mut tables) = filled_tables(&model);
    let verdict = |object: &mut EbpfObject, number| {
        let frame = QueryPacket::new(POD[0], SERVED[0], &service_name(number), 1).frame();
        object.test_run(HookProgram::TcPeer, &frame).unwrap().0
    };
    // Service 3 exists, and service 77 doesn't: a name that a later change may add.
    let names = [3, 77].map(|number| Name::parse(&service_name(number)).unwrap());
    let names = BTreeSet::from(names);
    tables.pass_names(&model, &names).unwrap();
    assert_eq!(verdict(&mut object, 3), TC_PASS);
    assert_eq!(verdict(&mut object, 77), TC_PASS);
    assert_ne!(verdict(&mut object, 4), TC_PASS, "another name passes too");

    let limit = Duration::from_secs(60);
    let publication = tables.publish_names(&model, &names, limit).unwrap();
    assert_eq!(publication.left, BTreeSet::new());
    assert_eq!(ask_address(&mut object, 3), Some(3 << 3));
    assert_eq!(ask_address(&mut object, 77), None);
}

/// The kernel program with a lease, and tables with the names of `model` and room for more.
fn filled_tables(model: &Model) -> (EbpfObject, KernelTables<Rcu>) {
    let config = config();
    let size = zerohop_datapath::table_size(model, Some(1000));
    let object = EbpfObject::load(dns_agent::KERNEL_OBJECT, size).unwrap();
    let mut tables = KernelTables::new(&object, size, &config, Rcu::new().unwrap()).unwrap();
    tables.publish_all(model, &mut || {}).unwrap();
    object.set_lease(LONG_LEASE_JIFFIES).unwrap();
    (object, tables)
}

/// The address of a numbered Service in the kernel's answer. `None` for NXDOMAIN.
fn ask_address(object: &mut EbpfObject, number: u32) -> Option<u32> {
    let frame = QueryPacket::new(POD[0], SERVED[0], &service_name(number), 1).frame();
    let (verdict, out) = object.test_run(HookProgram::TcPeer, &frame).unwrap();
    assert_ne!(verdict, TC_PASS, "the query for service {number} passes");
    let message = packet::parse_reply(&frame, &out).unwrap();
    match rcode(&message) {
        0 => {
            let address = message[message.len() - 4..].try_into().unwrap();
            Some(u32::from_be_bytes(address))
        }
        3 => None,
        other => panic!("service {number} is answered with response code {other}"),
    }
}

/// A model of numbered services with `addresses` addresses each.
fn model(names: u32, addresses: u32) -> Model {
    let mut builder = ModelBuilder::new(1);
    let zone = Name::parse("cluster.local").unwrap();
    builder.add_zone(zone, 5).unwrap();
    for number in 0..names {
        for address in 0..addresses {
            builder.add(Record {
                owner: Name::parse(&service_name(number)).unwrap(),
                ttl: 5,
                data: Rdata::A(Ipv4Addr::from_bits(number << 3 | address)),
            });
        }
    }
    builder.build()
}

fn service_name(number: u32) -> String {
    format!("service-{number}.shop.svc.cluster.local")
}
