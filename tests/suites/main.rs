//! The test suites that need root and a kernel. `kernel` also runs in the guests of the kernel
//! matrix.

mod agent;
mod cases;
mod clients;
mod corpus;
mod kernel;
mod lookup;
mod scenario_list;
mod tables;
mod updates;
