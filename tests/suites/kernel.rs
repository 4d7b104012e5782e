//! Tests of the kernel plane, which also run in the guests of the kernel matrix.

mod authority;
mod check;
mod client_policy;
mod differential;
pub(crate) mod fixture;
mod generated;
mod harness;
mod lease;
mod models;
mod network_cards;
mod packets;
mod passes;
mod rotation;
pub(crate) mod scenarios;
mod search_lists;
mod veths;
