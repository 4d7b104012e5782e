//! What it takes to move queries of pods to the agent's resolver on the same node: a network
//! namespace of the agent's own ([`AgentNamespace`]), and which device leads to which pod
//! ([`PodInterfaces`]).
//!
//! `docs/steering.md` says how packets get there and back, and what was tried.

#![forbid(unsafe_code)]

mod namespace;
mod pod_interfaces;

pub use self::{
    namespace::{AgentNamespace, is_agent_device},
    pod_interfaces::{InterfaceReader, PodInterfaces},
};
