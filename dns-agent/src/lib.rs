//! Zerohop's agent.
//!
//! A *source* reads Kubernetes objects ([`source`]). Pure code turns objects into records
//! ([`cluster`], [`zone`]). Two *planes* answer queries from the records: the kernel plane
//! ([`datapath`]) and the user plane ([`resolver`]). [`agent`] runs the tasks, [`config`] is their
//! configuration, [`admin`] reports their state, and [`check`] tests whether a node supports them.

pub mod admin;
pub mod agent;
pub mod check;
pub mod cluster;
pub mod config;
pub mod datapath;
mod files;
pub mod resolver;
pub mod source;
pub mod zone;
