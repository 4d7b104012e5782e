//! What policies permit clients of the cluster's DNS.

use std::collections::BTreeSet;

use zerohop_datapath::PermittedClients;

/// What policies permit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct PermittedQueries {
    /// The clients that may query over UDP.
    pub(super) udp: PermittedClients,
    /// The clients that may query over TCP.
    pub(super) tcp: PermittedClients,
    /// Why this agent's resolver may not answer any client in place of the cluster's DNS, as a
    /// clause for people. `None`: it may.
    pub(super) steering_objection: Option<String>,
}

impl PermittedQueries {
    /// No client may query.
    pub(super) fn none() -> PermittedQueries {
        let no_client = PermittedClients::Only(BTreeSet::new());
        PermittedQueries {
            udp: no_client.clone(),
            tcp: no_client,
            steering_objection: None,
        }
    }
}
