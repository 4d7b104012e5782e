//! The tables in plain memory, filled by the agent's own code.
//!
//! Each element is an allocation of its own, exactly as long as the element of the BPF map, so that
//! the address sanitizer detects every read beyond its end.

use std::{
    fs::File,
    net::SocketAddr,
    os::fd::AsFd as _,
    sync::{LazyLock, atomic::Ordering},
};

use bytemuck::Pod;
use dns_common::{
    Control, Settings,
    directory::Bucket,
    names::HashKey,
    records::CHUNK,
    settings::{ClientKey, SETTINGS_COPIES},
};
use zerohop_contract::addresses::SERVED;
use zerohop_datapath::{
    grace::Grace,
    hash_table::HashTable,
    memory::Memory,
    records,
    settings::{NodeSettings, SettingsPublisher, build_settings},
};
use zerohop_tests::topology::HOST_VETH_MAC;
use zerohop_zone::{Model, ZoneData};

use super::model::MODEL;

/// The tables with the names of the model.
pub static TABLES: LazyLock<HostTables> = LazyLock::new(|| HostTables::publish(&MODEL));

/// The number of directory buckets. There are few, so that several names share a bucket.
const BUCKETS: usize = 16;

/// The elements of the kernel's maps.
#[expect(clippy::vec_box, reason = "each element has bounds of its own")]
pub struct HostTables {
    control: Box<Control>,
    settings: Vec<Box<Settings>>,
    buckets: Vec<Box<Bucket>>,
    /// The only chunk. It consists of 64-bit words, because records are aligned to 8 bytes.
    chunk: Box<[u64]>,
}

impl HostTables {
    fn publish(model: &Model) -> Self {
        let sizes = [
            size_of::<Control>(),
            size_of::<Settings>() * SETTINGS_COPIES as usize,
            size_of::<Bucket>() * BUCKETS,
            CHUNK,
        ];
        let files = sizes.map(|length| {
            let file = tempfile::tempfile().unwrap();
            file.set_len(length as u64).unwrap();
            (file, length)
        });
        publish_model(model, map(&files));
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
        .map(|(file, length)| Memory::map(file.as_fd(), *length).unwrap())
}

/// Publishes the model with the agent's own code.
fn publish_model(model: &Model, [control, settings, directory, records]: [Memory; 4]) {
    // An arbitrary, fixed key, so that every run fills the same buckets.
    let key = HashKey {
        words: std::array::from_fn(|number| {
            (number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
        }),
        finish: 0x2545_f491_4f6c_dd1d,
    };
    let mut table = HashTable::new(directory, records, key, NoGracePeriod);
    // Unmutated frames of the target `kernel` come from a client in the allowed networks, and go to
    // a served address and to the host veth's hardware address.
    let node_settings = NodeSettings {
        hash_key: key,
        directory_mask: table.directory_mask(),
        secret: 0,
        served_addresses: SERVED.map(|address| SocketAddr::new(address, 53)).to_vec(),
        allow: vec![
            "10.244.0.0/16".parse().unwrap(),
            "fd00:10:244::/64".parse().unwrap(),
        ],
        card_addresses: vec![HOST_VETH_MAC],
        rate_limit: None,
    };
    let mut entries: Vec<_> = model.entries().collect();
    // Sorted, so that every run stores the records at the same positions.
    entries.sort_by_key(|(name, _)| *name);
    for (name, entry) in entries {
        if let Some(mut record) = records::build_record(model, name, entry) {
            table.put(&mut record).unwrap();
        }
    }
    let lease = std::mem::offset_of!(Control, lease) / 8;
    // The lease never ends, because `now` is always 0. The program compares signed differences, so
    // this is the latest end.
    control.words()[lease].store(u64::MAX >> 1, Ordering::Relaxed);
    let authoritative_zones = vec![true; model.zones().len()];
    let settings_copy = build_settings(
        &node_settings,
        model,
        &authoritative_zones,
        &model.pass_suffixes(),
    )
    .unwrap();
    SettingsPublisher::new(control, settings).publish(&settings_copy);
}

/// A grace period that ends at once, because nothing reads the table while it is written.
struct NoGracePeriod;

impl Grace for NoGracePeriod {
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

impl dns_ebpf::Tables for HostTables {
    fn control(&self) -> Option<*const Control> {
        Some(&raw const *self.control)
    }

    fn settings(&self, copy: u32) -> Option<&Settings> {
        self.settings.get(copy as usize).map(|settings| &**settings)
    }

    fn bucket(&self, number: u32) -> Option<*const Bucket> {
        let bucket = self.buckets.get(number as usize)?;
        Some(&raw const **bucket)
    }

    fn chunk(&self, number: u32) -> Option<*const u8> {
        (number == 0).then_some(self.chunk.as_ptr().cast())
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
