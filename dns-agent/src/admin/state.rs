//! The state that health, metrics, look-ups and dumps share.

use std::{net::SocketAddr, sync::Arc};

use zerohop_datapath::{canary::CanaryReport, explain::Explanation};
use zerohop_resolver::{Canary, Resolver};
use zerohop_zone::{Name, Providers, Rtype};

use super::{metrics::Metrics, probes::ProbeStates, status_board::StatusBoard};

/// What health, metrics, look-ups and dumps read.
pub struct AdminState {
    /// The providers of names.
    pub providers: Providers,
    /// The addresses that the resolver listens on. If empty, it answers only look-ups.
    pub listen: Vec<SocketAddr>,
    /// The resolver, which answers look-ups.
    pub resolver: Arc<Resolver>,
    /// Explains what the kernel plane does with a query.
    pub explain_kernel: KernelExplainer,
    /// Queries the kernel plane and reports whether it answers.
    pub kernel_canary: KernelCanary,
    /// A canary for each address that the resolver listens on.
    pub resolver_canaries: Vec<Arc<Canary>>,
    /// The board with the current status.
    pub board: Arc<StatusBoard>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// The results of the probes.
    pub probes: Arc<ProbeStates>,
}

/// Explains what the kernel plane does with a query.
pub type KernelExplainer = Box<dyn Fn(&Name, Rtype) -> KernelExplanation + Send + Sync>;

/// What the kernel plane does with a query.
#[derive(Clone, Debug)]
pub enum KernelExplanation {
    /// No `--interface` is given.
    Off,
    /// The kernel plane failed, or has not started yet, for the reason in the text.
    Failed(String),
    /// The outcome of a look-up in the tables.
    On(Explanation),
}

/// Runs each attached program on a query for the SOA record of the first of these zones that is in
/// the tables.
pub type KernelCanary = Box<dyn Fn(&[Name]) -> KernelHealth + Send + Sync>;

/// Whether the kernel plane answers.
#[derive(Clone, Debug)]
pub enum KernelHealth {
    /// No `--interface` is given.
    Off,
    /// The kernel plane failed, has not started yet, or can't be queried, for the reason in the
    /// text.
    Failed(String),
    /// The results of the attached programs; `None` when there is no zone, or when the tables have
    /// none of the zones.
    On(Option<CanaryReport>),
}
