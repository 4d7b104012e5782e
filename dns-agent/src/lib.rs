//! Zerohop's agent.
//!
//! [`agent`] runs the tasks, [`config`] is their configuration, [`admin`] reports their state, and
//! [`check`] tests whether a node supports them.
//!
//! The rest is in separate crates: `zerohop_kubernetes_api` and `zerohop_sources` read objects,
//! `zerohop_kubernetes` turns them into names, and `zerohop_zone` answers questions about these
//! names. Two *planes* answer clients: the kernel plane (`zerohop_datapath`) and the user plane
//! (`zerohop_resolver`).

#![forbid(unsafe_code)]

pub mod admin;
pub mod agent;
pub mod check;
pub mod config;

use zerohop_datapath::{ObjectFile, include_bytes_aligned};

/// The kernel programs, built by `cargo xtask build-ebpf` and copied to `OUT_DIR` by `build.rs`.
pub const KERNEL_OBJECT: ObjectFile = ObjectFile(include_bytes_aligned!(concat!(
    env!("OUT_DIR"),
    "/zerohop.o"
)));

/// The steering programs, built and copied in the same way.
pub const STEERING_OBJECT: ObjectFile = ObjectFile(include_bytes_aligned!(concat!(
    env!("OUT_DIR"),
    "/steering.o"
)));
