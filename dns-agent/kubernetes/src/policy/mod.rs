//! Client policy: which pods may be answered, because the cluster's policies permit them to query
//! the cluster's DNS.
//!
//! The kernel answers a query before the network plugin can enforce a policy on the query. A pod is
//! therefore answered only if policies provably let its query leave the pod and enter every server
//! of the cluster's DNS. If in doubt, Zerohop doesn't answer the pod, and its queries pass.
//!
//! Each protocol of queries has its own verdicts: [`QueryProtocol`](ports::QueryProtocol). The same
//! code finds both, because [`Servers`](destinations::Servers) are the servers of one protocol, and
//! each [`QueryAddress`](destinations::QueryAddress) has a protocol. The kernel answers only
//! queries over UDP.
//!
//! [`egress`] checks egress rules against the [`destinations`] of a query. [`ingress`] checks the
//! servers' ingress rules against the client. Both ask [`tiers`] what cluster-wide policies decide.
//! [`known_objections`] keeps the results that still hold after a change. [`possible_restrictions`]
//! finds the pods that may be restricted by policies of kinds that Zerohop doesn't evaluate.
//! [`server_egress`] finds policies about what the servers of the cluster's DNS may reach.
//!
//! This module does no I/O. [`Facts`] collects objects, and [`ClientJudge`] judges this node's
//! pods.
//!
//! Network plugins enforce policies at different places. Some plugins check a query as it leaves
//! the pod, with a ClusterIP as its destination. Other plugins check the query when it arrives,
//! with the address and port of a DNS server's pod. A pod is answered only if the rules permit
//! both.

mod certainty;
mod clients;
mod cluster_policy;
mod convert;
mod destinations;
mod egress;
mod facts;
mod ingress;
mod kinds;
mod known_objections;
mod objects;
mod other_policies;
mod policies;
mod ports;
mod possible_restrictions;
mod server_egress;
mod tiers;
mod verdicts;

#[cfg(test)]
mod tests;

pub use facts::Facts;
pub use kinds::PolicyKind;
pub use objects::{DnsService, DnsSlice, Fact, LabelledNamespace, Policy, PolicyPod};
pub use other_policies::OtherPolicy;
pub use verdicts::{ClientJudge, ClientVerdicts, LeftOutPod};
