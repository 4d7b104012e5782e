//! Steering: packets of pods to a served address go into a network namespace of the agent, and the
//! replies come back. `docs/steering.md` has the results on each kernel.
//!
//! The tests use the programs and the namespace without an agent's process (`agent/steering.rs` has
//! the tests with one). They also run in the guests.

mod datagrams;
mod endings;
mod interfaces;
mod many_pods;
mod namespace;
mod node;
mod servers;
mod streams;
