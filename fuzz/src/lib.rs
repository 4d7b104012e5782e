//! What must hold for every input.
//!
//! The fuzz targets run these checks over inputs of libFuzzer's making. `tests/suites/corpus.rs` has this
//! same file as a module, and runs them over the inputs of `corpus/`.

pub mod kernel;
pub mod message;
pub mod model;
pub mod reader;
pub mod reply;
pub mod response;
pub mod tables;
