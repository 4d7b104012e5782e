//! The contract between Zerohop's agent and its kernel program.
//!
//! The agent writes finished answers into memory that it shares with the kernel. The kernel
//! program reads that memory. This crate describes the layout of the memory, and holds the
//! arithmetic that both sides share: hashes and checksums. It allocates nothing and does no I/O.
//!
//! The kernel program answers a query in these steps:
//!
//! 1. [`settings`]: check the server address, the client and [`Control::lease`].
//! 2. [`names`]: hash the name with [`Settings::hash_key`], eight bytes at a time.
//! 3. [`directory`]: the hash selects two buckets. A word with the name's tag gives a record
//!    number.
//! 4. [`records`]: compare the whole name, then copy the bytes of the answer.
//! 5. Without a record, the [`settings::Suffix`]es and the record of the parent decide whether the
//!    name does not exist, is a computed name, or may exist.
//! 6. [`outcomes`]: count the [`Outcome`] of the packet.
//!
//! All words are little-endian, because the kernel program is built for little-endian machines
//! only. Values from packets keep their byte order (network order).

#![no_std]
#![forbid(unsafe_code)]

pub mod checksum;
pub mod directory;
pub mod names;
pub mod outcomes;
pub mod records;
pub mod settings;
pub mod steering;

pub use outcomes::Outcome;
pub use settings::{Control, Settings};

const _: () = assert!(
    cfg!(target_endian = "little"),
    "Zerohop's tables are laid out for little-endian machines"
);
