//! The test suites that need root and a kernel. `kernel` also runs in the guests of the kernel
//! matrix.

#![deny(unsafe_code)]

mod agent;
mod cases;
mod clients;
mod corpus;
mod kernel;
mod lookup;
mod scenario_list;
#[expect(unsafe_code, reason = "it maps a file twice")]
mod tables;
mod updates;
