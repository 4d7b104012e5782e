//! The suites that need a kernel. `kernel` also runs in the guests of the kernel matrix.

mod agent;
mod cases;
mod contract;
mod kernel;
mod lookup;
mod tables;
mod updates;
