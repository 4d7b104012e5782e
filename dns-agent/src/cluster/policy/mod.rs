//! Who may ask the cluster's DNS, as NetworkPolicies say.
//!
//! The kernel answers before whatever enforces policies sees the question. So a pod is answered only if
//! policies provably let its question leave the pod and enter every server of the cluster's DNS. In
//! doubt they don't, and its questions go the way they went before.
//!
//! [`destinations`] holds the egress rules against the places that a question goes to, [`ingress`] the
//! ingress rules against the client, and [`others`] looks for policies that are not evaluated.
//!
//! Pure: [`Facts`] are told of objects, [`Facts::verdicts`] judges this node's pods by them.
//!
//! Where in the network a policy is enforced differs: some see a question as it leaves the pod, to a
//! ClusterIP, others as it arrives, at a pod's address and port. Here it must be allowed either way.

mod convert;
mod destinations;
mod facts;
mod ingress;
mod kinds;
mod objects;
mod others;
mod verdicts;

#[cfg(test)]
mod tests;

pub use facts::Facts;
pub use kinds::{PolicyKind, Reach};
pub use objects::{Client, DnsService, DnsSlice, Fact, LabelledNamespace, Policy};
pub use others::OtherPolicy;
pub use verdicts::{LeftOut, Verdicts};
