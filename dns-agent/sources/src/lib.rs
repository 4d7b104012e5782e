//! Reads Kubernetes objects from files ([`manifests`]), watches paths for changes ([`path_watch`]),
//! and reads files without blocking ([`files`]).

#![forbid(unsafe_code)]

pub mod files;
pub mod manifests;
pub mod path_watch;
