//! Zerohop's agent.
//!
//! A *source* yields Kubernetes objects ([`source`]), pure code turns them into
//! records ([`cluster`], [`zone`]), and two *planes* serve them: the kernel's
//! tables ([`datapath`]) and the resolver ([`resolver`]). [`agent`] runs them,
//! [`config`] says how, [`admin`] tells what they do, [`check`] whether a node can.

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
