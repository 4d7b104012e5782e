//! The suites that need a kernel. `kernel` also runs in the guests of the kernel matrix.

mod agent;
mod clients;
mod corpus;
mod kernel;
mod tables;
mod updates;
