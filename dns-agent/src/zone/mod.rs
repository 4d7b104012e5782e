//! What is answered, and how it looks on the wire.
//!
//! Pure code without I/O: [`ZoneData`] is all names there are, and answers
//! questions by one function ([`ZoneData::answer`]) for both planes; a [`Model`] is such
//! data stored; [`render`] writes an answer in wire form for both of them. Nothing here
//! knows Kubernetes, the kernel or a socket.

mod address;
mod builder;
mod data;
pub mod master;
mod model;
mod name;
mod node;
mod record;
mod wire;

pub use address::{dashed, reverse_name, reverse_network, reverse_range, reverse_zones, undashed};
pub use builder::ModelBuilder;
pub use data::{Answer, Live, ZoneData};
pub use model::{Absent, Apex, Model};
pub(crate) use name::MAX_LABEL;
pub use name::{Name, NameError};
pub(crate) use node::address_data;
pub use node::{Below, Node, Rest};
pub use record::{Rdata, Record, Rtype, Soa, Srv};
pub(crate) use wire::query;
pub use wire::{Sections, orders, render, render_sections};

#[cfg(test)]
pub(crate) mod tests;
