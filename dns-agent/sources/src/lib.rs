//! Reads Kubernetes objects from files ([`manifests`]), watches paths for changes ([`path_watch`]),
//! and reads files without blocking on another process ([`files`]).

#![forbid(unsafe_code)]

pub mod files;
pub mod manifests;
pub mod path_watch;
