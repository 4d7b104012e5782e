//! The tables in plain memory, filled by the agent's own code.
//!
//! Each element is an allocation of its own, as long as the kernel's element is: the address sanitizer sees whoever
//! reads beyond one.

use std::{
    fs::File,
    net::SocketAddr,
    os::fd::AsFd as _,
    sync::{LazyLock, atomic::Ordering},
};

use bytemuck::Pod;
use dns_agent::{
    datapath::{
        grace::Grace,
        memory::Memory,
        records,
        settings::{Fixed, Publisher, build},
        table::Table,
    },
    zone::{Model, ZoneData},
};
use dns_common::{
    Control, Settings,
    directory::Bucket,
    names::HashKey,
    records::CHUNK,
    settings::{ClientKey, SLOTS},
};
use zerohop_tests::topology::{HOST_VETH_MAC, SERVED};

use super::model::MODEL;

/// The model's tables.
pub static TABLES: LazyLock<Tables> = LazyLock::new(|| Tables::of(&MODEL));

/// Buckets of the directory: so few that some names stand in their second one.
const BUCKETS: usize = 16;

/// Elements as the kernel's maps have them.
#[expect(clippy::vec_box, reason = "each element has bounds of its own")]
pub struct Tables {
    control: Box<Control>,
    settings: Vec<Box<Settings>>,
    buckets: Vec<Box<Bucket>>,
    /// In words, since records start at addresses of words.
    chunk: Box<[u64]>,
}

impl Tables {
    fn of(model: &Model) -> Self {
        let sizes = [
            size_of::<Control>(),
            size_of::<Settings>() * SLOTS as usize,
            size_of::<Bucket>() * BUCKETS,
            CHUNK,
        ];
        let files = sizes.map(|octets| {
            let file = tempfile::tempfile().unwrap();
            file.set_len(octets as u64).unwrap();
            (file, octets)
        });
        fill(model, map(&files));
        let [control, settings, buckets, chunk] = map(&files);
        Self {
            control: elements(&control).remove(0),
            settings: elements(&settings),
            buckets: elements(&buckets),
            chunk: words(&chunk).into(),
        }
    }
}

fn map(files: &[(File, usize); 4]) -> [Memory; 4] {
    files
        .each_ref()
        .map(|(file, octets)| Memory::of_map(file.as_fd(), *octets).unwrap())
}

/// Publishes the model, as the agent does for the kernel.
fn fill(model: &Model, [control, settings, directory, records]: [Memory; 4]) {
    let key = HashKey {
        words: std::array::from_fn(|number| {
            (number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
        }),
        finish: 0x2545_f491_4f6c_dd1d,
    };
    let mut table = Table::new(directory, records, key, NoReaders);
    let fixed = Fixed {
        hash_key: key,
        directory_mask: table.directory_mask(),
        secret: 0,
        serve: SERVED.map(|address| SocketAddr::new(address, 53)).to_vec(),
        allow: vec![
            "10.244.0.0/16".parse().unwrap(),
            "fd00:10:244::/64".parse().unwrap(),
        ],
        hardware: vec![HOST_VETH_MAC],
        limit: None,
    };
    let mut nodes: Vec<_> = model.nodes().collect();
    // Where a record lies is to be the same each time.
    nodes.sort_by_key(|(name, _)| *name);
    for (name, node) in nodes {
        if let Some(mut record) = records::build(model, name, node) {
            table.put(&mut record).unwrap();
        }
    }
    let lease = std::mem::offset_of!(Control, lease) / 8;
    control.words()[lease].store(u64::MAX >> 1, Ordering::Relaxed);
    let owned = vec![true; model.zones().len()];
    let filled = build(&fixed, model, &owned, &model.deep_names()).unwrap();
    Publisher::new(control, settings).publish(&filled);
}

/// No reader runs while the table is written.
struct NoReaders;

impl Grace for NoReaders {
    fn wait(&mut self) {}
}

fn elements<T: Pod>(memory: &Memory) -> Vec<Box<T>> {
    bytemuck::cast_slice::<u64, u8>(&words(memory))
        .chunks_exact(size_of::<T>())
        .map(|element| Box::new(bytemuck::pod_read_unaligned(element)))
        .collect()
}

fn words(memory: &Memory) -> Vec<u64> {
    memory
        .words()
        .iter()
        .map(|word| word.load(Ordering::Relaxed))
        .collect()
}

impl dns_ebpf::Tables for Tables {
    fn control(&self) -> Option<*const Control> {
        Some(&raw const *self.control)
    }

    fn settings(&self, slot: u32) -> Option<&Settings> {
        self.settings.get(slot as usize).map(|settings| &**settings)
    }

    fn bucket(&self, number: u32) -> Option<*const Bucket> {
        let bucket = self.buckets.get(number as usize)?;
        Some(&raw const **bucket)
    }

    fn chunk(&self, number: u32) -> Option<*const u8> {
        (number == 0).then_some(self.chunk.as_ptr().cast())
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
