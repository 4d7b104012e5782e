//! Test suites, most of which need root. `kernel` and some tests of `agent` also run in the guests:
//! the virtual machines of the kernel matrix.

#![deny(unsafe_code)]

mod agent;
mod cases;
mod clients;
mod corpus;
mod kernel;
mod lookup;
mod scenario_list;
mod steering;
#[expect(unsafe_code, reason = "it reads mapped memory by pointers")]
mod tables;
mod updates;
