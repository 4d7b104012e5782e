//! What is answered, and how it looks on the wire.
//!
//! Pure code without I/O: a [`Model`] is built once from records, answers
//! questions by one function ([`Model::answer`]) and is shared by both planes;
//! [`render`] writes an answer in wire form for both of them. Nothing here
//! knows Kubernetes, the kernel or a socket.

mod address;
mod builder;
pub mod master;
mod model;
mod name;
mod record;
mod wire;

pub use address::{dashed, reverse_name, reverse_zones, undashed};
pub use builder::ModelBuilder;
pub(crate) use model::address_data;
pub use model::{Answer, Apex, Below, Model, Node};
pub use name::{Name, NameError};
pub use record::{Rdata, Record, Rtype, Soa, Srv};
pub use wire::{Sections, orders, render};

#[cfg(test)]
pub(crate) mod tests;
