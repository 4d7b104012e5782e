//! Names, records and answers, without I/O.
//!
//! [`ZoneData::answer`] answers questions for both planes. [`Model`] stores zone data. [`render`]
//! writes answers in wire form for both planes. This crate doesn't depend on Kubernetes, the kernel
//! or sockets.

#![forbid(unsafe_code)]

mod address;
mod answer;
mod apex;
mod builder;
mod model;
mod name;
mod name_entry;
mod record;
mod renderer;
pub mod zone_file;

pub use address::{dashed, reverse_name, reverse_network, reverse_range, reverse_zones, undashed};
pub use answer::{Answer, LiveZoneData, ZoneData, ZoneDataOwner};
pub use apex::{AbsentNames, Apex};
pub use builder::ModelBuilder;
pub use model::Model;
pub use name::MAX_LABEL;
pub use name::{Name, NameError};
pub use name_entry::address_data;
pub use name_entry::{ComputedNames, NameEntry, OtherTypes};
pub use record::{Rdata, Record, Rtype, Soa, Srv};
pub use renderer::query;
pub use renderer::{Sections, answer_orders, render, render_sections};

#[cfg(test)]
pub(crate) mod tests;
