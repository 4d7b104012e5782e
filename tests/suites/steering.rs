//! Steering: packets of pods to a served address go into a network namespace of the agent, and the
//! replies come back. `docs/steering.md` has the results on each kernel.
//!
//! The programs are those of `dns-ebpf/src/bin/steering.rs`, which the agent does not use. The
//! tests also run in the guests.

mod datagrams;
mod endings;
mod interfaces;
mod many_pods;
mod namespace;
mod node;
mod servers;
mod streams;
