//! Tests of the kernel plane, which also run in the guests of the kernel matrix.

mod harness;
