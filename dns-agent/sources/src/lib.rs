//! Kubernetes objects from files ([`manifests`]), and the watch that reports changed files
//! ([`path_watch`]).

#![forbid(unsafe_code)]

pub mod files;
pub mod manifests;
pub mod path_watch;
