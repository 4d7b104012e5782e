//! Zerohop's kernel program: one packet logic for every hook.
//!
//! [`respond`] follows the life of a query from top to bottom:
//!
//! 1. [`query`] parses the packet in three steps: the [`headers`], the admission of the client, and
//!    the DNS message.
//! 2. [`answer`] finds the answer in the tables.
//! 3. `rate_limit` takes a token from the client's bucket. It applies only on network cards and
//!    other devices that are not pod veths, and only where the allowed networks decide who is
//!    answered.
//! 4. [`reply`] turns the packet into the reply.
//!
//! Every step either succeeds or returns the [`Outcome`] that says why the packet passes. Only the
//! last step writes to the packet, so a packet that passes is unchanged.
//!
//! The logic uses two traits: a [`Frame`] is the packet, and [`Tables`] is the memory shared with
//! the agent. `src/bin/zerohop.rs` implements them for XDP and tc. On the host both are plain
//! memory, so `cargo test` runs the same code.
//!
//! [`steering`] decides which packets that pass go to the agent's network namespace. The programs
//! in `src/bin/steering.rs` move them.
//!
//! [`verifier`] holds the memory access, and the code that only the kernel's verifier needs.

#![no_std]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

mod admission;
pub mod answer;
mod authority;
mod computed;
pub mod frame;
pub mod headers;
pub mod query;
mod rate_limit;
mod records;
pub mod reply;
pub mod steering;
pub mod tables;
pub mod verdict;
pub mod verifier;

use dns_common::Outcome;

pub use frame::Frame;
pub use tables::Tables;
pub use verdict::Verdict;

/// Turns the query in `frame` into its reply if the tables hold the answer. Otherwise leaves the
/// frame unchanged.
#[inline(always)]
pub fn respond<F: Frame, T: Tables>(frame: &mut F, tables: &T) -> Outcome {
    let query = match query::parse(frame, tables) {
        Ok(query) => query,
        Err(outcome) => return outcome,
    };
    let answer = match answer::find(&query, tables) {
        Ok(answer) => answer,
        Err(outcome) => return outcome,
    };
    if let Err(outcome) = rate_limit::take_token::<F, T>(&query, tables) {
        return outcome;
    }
    reply::write(frame, &query, &answer)
}
