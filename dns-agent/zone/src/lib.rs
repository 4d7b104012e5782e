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
mod exact_names;
mod model;
mod name;
mod name_changes;
mod name_entry;
mod name_owner;
mod origin;
mod provider;
mod record;
mod renderer;
mod union;
mod window;
pub mod zone_file;

pub use address::{dashed, reverse_name, reverse_network, reverse_range, reverse_zones, undashed};
pub use answer::{Answer, LiveZoneData, ZoneData};
pub use apex::{AbsentNames, Apex, ChangedAnswers, DnssecOkQueries};
pub use builder::ModelBuilder;
pub use exact_names::ExactNames;
pub use model::Model;
pub use name::{MAX_LABEL, Name, NameError};
pub use name_changes::NameChanges;
pub use name_entry::{ComputedNames, NameEntry, OtherTypes, address_data};
pub use name_owner::NameOwner;
pub use origin::{ObjectRef, Origin};
pub use provider::{Provider, Providers, ReadProviders, WalkPosition};
pub use record::{Rdata, Record, Rtype, Soa, Srv};
pub use renderer::{Sections, build_query, count_rotations, render, render_sections};
pub use union::{Standing, Union, UnionMember};
pub use window::Window;

#[cfg(test)]
pub(crate) mod tests;
