//! The contract between Zerohop's agent and its kernel program.
//!
//! The agent writes finished answers into memory that it shares with the
//! kernel; the program in the kernel only reads. This crate says what that
//! memory looks like, and nothing else: it allocates nothing and does no I/O.
//!
//! A question takes this way through the tables:
//!
//! 1. [`settings`]: is the address served, is the [`Control::lease`] fresh, which
//!    key hashes the name?
//! 2. [`names`]: the name's keyed hash, read eight octets at a time.
//! 3. [`directory`]: the hash picks two buckets; a word with its tag names a record.
//! 4. [`records`]: the full name is compared, the answer's octets are copied.
//! 5. No record: the [`settings::Suffix`] list says whether that proves that the name
//!    does not exist.
//! 6. However it ends, it ends as an [`outcomes::Outcome`], which is counted.
//!
//! All words are little-endian: the kernel program is built for little-endian
//! machines only. Values that travel on the wire are kept as they stand there.

#![no_std]
#![forbid(unsafe_code)]

pub mod checksum;
pub mod directory;
pub mod names;
pub mod outcomes;
pub mod records;
pub mod settings;

pub use outcomes::Outcome;
pub use settings::{Control, Settings};

const _: () = assert!(
    cfg!(target_endian = "little"),
    "Zerohop's tables are laid out for little-endian machines"
);
