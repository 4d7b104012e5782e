//! The state that the admin endpoints share.

use std::{
    net::SocketAddr,
    sync::{Arc, RwLock},
};

use zerohop_datapath::{canary::CanaryReport, explain::Explanation};
use zerohop_kubernetes::Index;
use zerohop_resolver::{Canary, Resolver};
use zerohop_zone::{Name, Rtype};

use super::{metrics::Metrics, status_board::StatusBoard};

/// The state that the admin endpoints read.
pub struct AdminState {
    /// The index of objects.
    pub index: Arc<RwLock<Index>>,
    /// The addresses that the resolver listens on; empty when it is off.
    pub listen: Vec<SocketAddr>,
    /// The resolver, which answers look-ups.
    pub resolver: Arc<Resolver>,
    /// Explains what the kernel plane does with a query.
    pub kernel: KernelExplainer,
    /// Queries the kernel plane and reports whether it answers.
    pub kernel_canary: KernelCanary,
    /// A canary for each address that the resolver listens on.
    pub resolver_canaries: Vec<Arc<Canary>>,
    /// The current status.
    pub board: Arc<StatusBoard>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
}

/// Explains what the kernel plane does with a query.
pub type KernelExplainer = Box<dyn Fn(&Name, Rtype) -> KernelExplanation + Send + Sync>;

/// What the kernel plane does with a query.
#[derive(Clone, Debug)]
pub enum KernelExplanation {
    /// No `--interface` is given.
    Off,
    /// The kernel plane has no tables, for the reason in the text.
    Failed(String),
    /// The outcome of a look-up in the tables.
    On(Explanation),
}

/// Runs the kernel program on a query for the SOA record of one of these zones.
pub type KernelCanary = Box<dyn Fn(&[Name]) -> KernelHealth + Send + Sync>;

/// Whether the kernel plane answers.
#[derive(Clone, Debug)]
pub enum KernelHealth {
    /// No `--interface` is given.
    Off,
    /// The kernel plane does not answer, for the reason in the text.
    Failed(String),
    /// The results of the attached programs; `None` when there is no zone.
    On(Option<CanaryReport>),
}
