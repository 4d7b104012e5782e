//! Zerohop's agent.
//!
//! A *source* yields Kubernetes objects ([`source`]), pure code turns them into
//! records ([`cluster`], [`zone`]), and two *planes* serve them: the kernel's
//! tables ([`datapath`]) and the resolver ([`resolver`]).

pub mod admin;
pub mod cluster;
pub mod config;
pub mod datapath;
pub mod resolver;
pub mod source;
pub mod zone;
