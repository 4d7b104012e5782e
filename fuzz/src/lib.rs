//! Checks that must hold for every input.
//!
//! The fuzz targets run the checks on inputs that libFuzzer generates. `tests/suites/corpus.rs`
//! includes this file as a module and runs the checks on the inputs in `corpus/`.

#![forbid(unsafe_code)]

pub mod cached;
pub mod input;
pub mod kernel;
pub mod message;
pub mod model;
pub mod reply;
pub mod response;
pub mod rewritten;
pub mod tables;
