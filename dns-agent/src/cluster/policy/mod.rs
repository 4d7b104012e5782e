//! Who may ask the cluster's DNS, as NetworkPolicies say.
//!
//! The kernel answers before whatever enforces policies sees the question. So a pod that any policy
//! about egress selects is answered only if policies provably let its question reach the cluster's
//! DNS. In doubt they don't, and its questions go the way they went before.
//!
//! Pure: [`Facts`] are told of objects, [`Facts::verdicts`] judges this node's pods by them.
//!
//! Where in the network a policy is enforced differs: some see a question as it leaves the pod, to a
//! ClusterIP, others as it arrives, at a pod's address and port. Here it must be allowed either way.

mod convert;
mod destinations;
mod facts;
mod objects;
mod verdicts;

#[cfg(test)]
mod tests;

pub use facts::Facts;
pub use objects::{Client, DnsService, DnsSlice, Fact, LabelledNamespace, Policy};
pub use verdicts::{LeftOut, Verdicts};
