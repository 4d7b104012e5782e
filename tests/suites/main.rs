//! The suites.
mod kernel;
