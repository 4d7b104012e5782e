//! Zerohop's kernel program: one packet logic for every hook.
//!
//! [`respond`] reads top to bottom as the life of a query: [`query`] parses it, or says
//! why it passes; [`lookup`] finds its answer in the tables, or says why it passes;
//! [`reply`] turns the packet round. Nothing is written before everything is known, so a
//! packet that passes is the packet that came.
//!
//! The logic speaks to the world through two traits: a [`Frame`] is the packet, and
//! [`Tables`] is the memory shared with the agent. `src/bin/zerohop.rs` implements them for
//! XDP and tc; on the host they are plain memory, so `cargo test` runs the same code.
//!
//! [`verifier`] holds what is written for the kernel's verifier rather than for the
//! reader.

#![no_std]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

mod children;
mod clients;
pub mod frame;
mod limits;
pub mod lookup;
pub mod query;
pub mod reply;
mod suffixes;
pub mod tables;
pub mod verifier;

use dns_common::Outcome;

pub use frame::Frame;
pub use tables::Tables;

/// Answers the query in `frame`, if it is one that the tables can answer; else leaves it
/// untouched and says why.
#[inline(always)]
pub fn respond<F: Frame, T: Tables>(frame: &mut F, tables: &T) -> Outcome {
    let query = match query::parse(frame, tables) {
        Ok(query) => query,
        Err(outcome) => return outcome,
    };
    let answer = match lookup::find(&query, tables) {
        Ok(answer) => answer,
        Err(outcome) => return outcome,
    };
    if let Err(outcome) = limits::take::<F, T>(&query, tables) {
        return outcome;
    }
    reply::write(frame, &query, &answer)
}
