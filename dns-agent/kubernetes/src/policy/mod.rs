//! Client policy: which pods NetworkPolicies allow to ask the cluster's DNS.
//!
//! The kernel answers a question before the network plugin can enforce a policy on it. A pod is
//! therefore answered only if policies provably let its question leave the pod and enter every
//! server of the cluster's DNS. In doubt the pod isn't answered, and its questions pass through.
//!
//! [`destinations`] checks egress rules against the places that a question goes to. [`ingress`]
//! checks the servers' ingress rules against the client. [`other_policies`] looks for policies of
//! kinds that aren't evaluated.
//!
//! Pure and synchronous: [`Facts`] collects objects, and [`Facts::judge_clients`] judges this
//! node's pods.
//!
//! Network plugins enforce policies at different places. Some see a question as it leaves the pod,
//! addressed to a ClusterIP; others see it arrive at a pod's address and port. Both views must
//! allow the question here.

mod convert;
mod destinations;
mod facts;
mod ingress;
mod kinds;
mod objects;
mod other_policies;
mod verdicts;

#[cfg(test)]
mod tests;

pub use facts::Facts;
pub use kinds::{PolicyKind, Reach};
pub use objects::{DnsService, DnsSlice, Fact, LabelledNamespace, Policy, PolicyPod};
pub use other_policies::OtherPolicy;
pub use verdicts::{ClientVerdicts, LeftOutPod};
