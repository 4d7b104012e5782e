//! Reads Kubernetes objects from files ([`manifests`]) and names from hosts files ([`hosts`]),
//! watches paths for changes ([`path_watch`]), and reads files without blocking on another process
//! ([`files`]).

#![forbid(unsafe_code)]

pub mod files;
pub mod hosts;
pub mod manifests;
pub mod path_watch;
