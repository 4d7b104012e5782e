//! The BPF maps, as the packet logic uses them.

use dns_common::{Control, Settings, directory::Bucket, settings::ClientKey};

/// The tables. A method returns `None` if the map has no such element.
pub trait Tables {
    /// The control words.
    fn control(&self) -> Option<*const Control>;

    /// One copy of the settings, counted from 0. The agent does not write to the copy in force, nor
    /// to a replaced copy before the grace period after its replacement has ended.
    fn settings(&self, copy: u32) -> Option<&Settings>;

    /// A bucket of the directory.
    fn bucket(&self, number: u32) -> Option<*const Bucket>;

    /// The first byte of a chunk of records ([`dns_common::records::CHUNK`] bytes).
    fn chunk(&self, number: u32) -> Option<*const u8>;

    /// Whether the map CLIENTS holds an address.
    fn permits(&self, client: &ClientKey) -> bool;

    /// A token bucket, by its number below [`dns_common::settings::TOKEN_BUCKETS`]. The upper 32
    /// bits are the time when the last token was taken, in jiffies; the lower 32 bits are the level
    /// after that. 0 if no token was ever taken.
    fn token_bucket(&self, number: u32) -> Option<*mut u64>;

    /// The time in jiffies.
    fn now(&self) -> u64;
}
