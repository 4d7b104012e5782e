//! Tests of the kernel plane, which also run in the guests of the kernel matrix.

mod cards;
mod check;
mod clients;
mod cluster;
mod differential;
pub(crate) mod fixture;
mod generated;
mod harness;
mod lease;
mod owned;
mod packets;
mod passes;
mod rotation;
pub(crate) mod scenarios;
mod storms;
mod wired;
