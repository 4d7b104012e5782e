//! The tables while they are written: no reader ever sees half a record.

use std::{
    collections::BTreeSet,
    net::Ipv4Addr,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use dns_agent::{
    datapath::{
        Tables,
        grace::Rcu,
        object::{Object, Program, Size},
        records,
        settings::{Fixed, Publisher, build},
        table::Table,
    },
    zone::{Model, ModelBuilder, Name, Rdata, Record},
};
use dns_common::{checksum, names::HashKey, records as layout};
use zerohop_tests::{
    packet::{self, Query},
    topology::{POD, SERVED},
};

use crate::kernel::fixture::config;

/// Names that are replaced.
const NAMES: u32 = 1000;
/// Addresses of each, all of which say the same.
const ADDRESSES: u32 = 8;
/// How long the flood lasts.
const FLOOD: Duration = Duration::from_secs(30);

#[test]
fn a_flood_never_sees_half_a_record() {
    let model = model(NAMES, ADDRESSES);
    let size = Size {
        buckets: 1024,
        chunks: 64,
    };
    let mut object = Object::load(size).unwrap();
    let memories = object.memories(size).unwrap();
    let key = HashKey {
        words: std::array::from_fn(|_| rand::random()),
        finish: rand::random::<u64>() | 1,
    };
    let mut table = Table::new(
        memories.directory,
        memories.records,
        key,
        Rcu::new().unwrap(),
    );
    let mut publisher = Publisher::new(memories.control, memories.settings);
    let fixed = Fixed {
        hash_key: key,
        directory_mask: table.directory_mask(),
        secret: 1,
        serve: SERVED.map(|address| (address, 53).into()).to_vec(),
        allow: Vec::new(),
        hardware: Vec::new(),
        limit: None,
    };
    let mut records: Vec<_> = (0..NAMES).map(|number| record(&model, number)).collect();
    for record in &mut records {
        table.put(record).unwrap();
    }
    publisher.publish(&build(&fixed, &model, &[true], &BTreeSet::new()).unwrap());
    object.set_lease(1000 * 3600).unwrap();

    let stop = AtomicBool::new(false);
    let updates = AtomicU64::new(0);
    let answers = thread::scope(|scope| {
        scope.spawn(|| {
            let mut version = 1;
            while !stop.load(Ordering::Relaxed) {
                for (number, record) in records.iter_mut().enumerate() {
                    describe(record, number as u32, version);
                    table.put(record).unwrap();
                    updates.fetch_add(1, Ordering::Relaxed);
                }
                version = (version + 1) % VERSIONS;
            }
        });
        let frames: Vec<_> = (0..NAMES)
            .map(|number| Query::new(POD[0], SERVED[0], &text(number), 1).frame())
            .collect();
        let end = Instant::now() + FLOOD;
        let mut answers = 0u64;
        while Instant::now() < end {
            for (number, frame) in frames.iter().enumerate() {
                let (_, out) = object.test_run(Program::TcPeer, frame).unwrap();
                if let Err(wrong) = check(frame, &out, number as u32) {
                    stop.store(true, Ordering::Relaxed);
                    panic!("after {answers} answers, {}: {wrong}", text(number as u32));
                }
                answers += 1;
            }
        }
        stop.store(true, Ordering::Relaxed);
        answers
    });
    let updates = updates.into_inner();
    println!("{answers} answers during {updates} updates, none of them wrong");
    assert!(answers > 10_000 && updates > 10_000);
}

/// Every address says which name and which version it belongs to.
fn check(frame: &[u8], out: &[u8], number: u32) -> Result<(), String> {
    let message = packet::reply(frame, out).map_err(|error| error.to_string())?;
    let records = &message[message.len() - 16 * ADDRESSES as usize..];
    let mut seen: Vec<u32> = records
        .chunks(16)
        .map(|record| u32::from_be_bytes([record[12], record[13], record[14], record[15]]))
        .collect();
    seen.sort_unstable();
    let version = seen[0] >> 13;
    let expected: Vec<u32> = (0..ADDRESSES)
        .map(|address| bits(number, version, address))
        .collect();
    if seen == expected {
        return Ok(());
    }
    Err(format!("{seen:08x?} instead of {expected:08x?}"))
}

const VERSIONS: u32 = 1 << 19;

/// An address that describes itself: 19 bits of version, 10 of name, 3 of address.
fn bits(number: u32, version: u32, address: u32) -> u32 {
    version << 13 | number << 3 | address
}

/// Writes another version's addresses into a record.
fn describe(record: &mut [u8], number: u32, version: u32) {
    let head_length = size_of::<layout::Record>();
    let mut head: layout::Record = bytemuck::pod_read_unaligned(&record[..head_length]);
    let answer = &mut head.answers[0];
    let (start, length) = (usize::from(answer.offset), usize::from(answer.length));
    let stored = length + usize::from(answer.stride) * (ADDRESSES as usize - 1);
    for (at, rr) in record[start..start + stored].chunks_mut(16).enumerate() {
        let address = bits(number, version, at as u32 % ADDRESSES);
        rr[12..16].copy_from_slice(&address.to_be_bytes());
    }
    answer.sum = checksum::fold(checksum::sum(&record[start..start + length]));
    record[..head_length].copy_from_slice(bytemuck::bytes_of(&head));
}

fn record(model: &Model, number: u32) -> Vec<u8> {
    let name = Name::parse(&text(number)).unwrap();
    let (name, node) = model.nodes().find(|(other, _)| **other == name).unwrap();
    let mut record = records::build(model, name, node).unwrap();
    describe(&mut record, number, 0);
    record
}

#[test]
fn a_hundred_thousand_names() {
    const COUNT: u32 = 100_000;
    let model = model(COUNT, 1);
    let config = config();
    let size = dns_agent::datapath::size(&model, None);
    let start = Instant::now();
    let mut object = Object::load(size).unwrap();
    let mut tables = Tables::new(&object, size, &config, Rcu::new().unwrap()).unwrap();
    let published = tables.publish(&model, &mut || {}).unwrap();
    let took = start.elapsed();
    println!(
        "{} names in {took:?}; {:?}",
        published.inserted,
        tables.fill()
    );
    assert_eq!(published.inserted, model.nodes().count());
    assert_eq!(published.left_out, 0);

    object.set_lease(1_000_000).unwrap();
    for number in (0..COUNT).step_by(997) {
        let frame = Query::new(POD[0], SERVED[0], &text(number), 1).frame();
        let (_, out) = object.test_run(Program::TcPeer, &frame).unwrap();
        let message = packet::reply(&frame, &out).unwrap();
        assert_eq!(message[message.len() - 4..], (number << 3).to_be_bytes());
    }
    // The same again changes nothing; without a name only it goes.
    let again = tables.publish(&model, &mut || {}).unwrap();
    assert_eq!((again.unchanged, again.replaced), (published.inserted, 0));
}

#[test]
fn full_tables_never_deny_a_name_that_exists() {
    // 256 words for 400 names in two zones, neither of which fits.
    let mut builder = ModelBuilder::new(1);
    for zone in ["cluster.local", "10.in-addr.arpa"] {
        builder.add_zone(Name::parse(zone).unwrap(), 5).unwrap();
    }
    let mut frames = Vec::new();
    for number in 0..200 {
        let service = text(number);
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
            frames.push(Query::new(POD[0], SERVED[0], owner, rtype).frame());
        }
    }
    let model = builder.build();
    let size = Size {
        buckets: 32,
        chunks: 4,
    };
    let config = config();
    let mut object = Object::load(size).unwrap();
    let mut tables = Tables::new(&object, size, &config, Rcu::new().unwrap()).unwrap();
    object.set_lease(1_000_000).unwrap();
    let mut passes = 0;
    for _ in 0..3 {
        let mut turn = 0;
        let published = tables.publish(&model, &mut || {
            for _ in 0..40 {
                turn += 1;
                let frame = &frames[turn % frames.len()];
                let (verdict, out) = object.test_run(Program::TcPeer, frame).unwrap();
                if verdict == u32::MAX {
                    passes += 1;
                    continue;
                }
                let message = packet::reply(frame, &out).unwrap();
                assert_eq!(
                    message[3] & 15,
                    0,
                    "question {turn} of the round: {message:02x?}"
                );
            }
        });
        assert!(published.unwrap().left_out > 100);
    }
    assert!(passes > 1000, "{passes}");
}

/// Services by number, each with so many addresses.
fn model(names: u32, addresses: u32) -> Model {
    let mut builder = ModelBuilder::new(1);
    let zone = Name::parse("cluster.local").unwrap();
    builder.add_zone(zone, 5).unwrap();
    for number in 0..names {
        for address in 0..addresses {
            builder.add(Record {
                owner: Name::parse(&text(number)).unwrap(),
                ttl: 5,
                data: Rdata::A(Ipv4Addr::from_bits(number << 3 | address)),
            });
        }
    }
    builder.build()
}

fn text(number: u32) -> String {
    format!("service-{number}.shop.svc.cluster.local")
}
