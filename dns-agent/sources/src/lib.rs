//! Objects from files: Kubernetes manifests, which are read again when they change.

#![forbid(unsafe_code)]

pub mod files;
pub mod manifests;
pub mod path_watch;
