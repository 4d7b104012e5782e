//! Names, records and answers, without I/O.
//!
//! [`ZoneData::answer`] answers questions, and [`render`] writes answers in wire form, for both the
//! kernel plane (answers by the BPF program) and the user plane (answers by the resolver).
//! [`Model`] is zone data that is stored. This crate doesn't depend on Kubernetes, the kernel or
//! sockets.

#![forbid(unsafe_code)]

mod address;
mod answer;
mod apex;
mod builder;
mod model;
mod name;
mod name_entry;
mod name_owner;
mod record;
mod renderer;
mod window;
pub mod zone_file;

pub use address::{dashed, reverse_name, reverse_network, reverse_range, reverse_zones, undashed};
pub use answer::{Answer, LiveZoneData, ZoneData, ZoneDataOwner};
pub use apex::{AbsentNames, Apex};
pub use builder::ModelBuilder;
pub use model::Model;
pub use name::{MAX_LABEL, Name, NameError};
pub use name_entry::{ComputedNames, NameEntry, OtherTypes, address_data};
pub use name_owner::NameOwner;
pub use record::{Rdata, Record, Rtype, Soa, Srv};
pub use renderer::{Sections, build_query, count_rotations, render, render_sections};
pub use window::Window;

#[cfg(test)]
pub(crate) mod tests;
