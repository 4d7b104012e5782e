//! The memory shared with the agent, as a reader sees it.

use dns_common::{Control, Settings, directory::Bucket, settings::ClientKey};

/// The tables. `None` where the kernel's maps say that there is no such element.
pub trait Tables {
    /// The control line.
    fn control(&self) -> Option<*const Control>;

    /// One copy of the settings. The one in force is not written to.
    fn settings(&self, slot: u32) -> Option<&Settings>;

    /// A bucket of the directory.
    fn bucket(&self, number: u32) -> Option<*const Bucket>;

    /// The first octet of a chunk of records ([`dns_common::records::CHUNK`] octets).
    fn chunk(&self, number: u32) -> Option<*const u8>;

    /// Whether an address is in the table of clients.
    fn permits(&self, client: &ClientKey) -> bool;

    /// A client's bucket of tokens, of [`dns_common::settings::TOKEN_BUCKETS`]: when it was looked at
    /// last, in jiffies, and how full it was then, 32 bits each.
    fn tokens(&self, number: u32) -> Option<*mut u64>;

    /// The time in jiffies.
    fn now(&self) -> u64;
}
