//! The suites that need a kernel. `kernel` also runs in the guests of the kernel matrix.

mod agent;
mod cases;
mod clients;
mod contract;
mod corpus;
mod kernel;
mod lookup;
mod tables;
mod updates;
