//! Clients of the cluster's DNS, as policies see them.

use super::facts::NamespaceLabels;
use crate::selector::Labels;

/// Clients that policies don't distinguish.
pub(super) struct Clients<'a> {
    pub(super) namespace: &'a str,
    pub(super) namespace_labels: NamespaceLabels<'a>,
    /// The labels of the pods.
    pub(super) labels: &'a Labels,
}
