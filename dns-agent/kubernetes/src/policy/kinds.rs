//! Kinds of policies that Zerohop lists and watches, besides NetworkPolicy.
//!
//! The rules of most kinds aren't evaluated, so an object may restrict access to the cluster's DNS
//! in ways that Zerohop doesn't know. While such an object exists, the pods that it may restrict
//! aren't answered: see [`super::possible_restrictions`].
//!
//! The agent lists and watches these resources, so each row needs a rule in
//! `deploy/kustomize/rbac.yaml` and in the chart. A test compares them.

use std::fmt;

use serde_json::Value;

use super::cluster_policy::PolicyApi;

/// A kind of policy other than NetworkPolicy: an index into `ROWS`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PolicyKind(u8);

/// Which connections an object of a kind may restrict.
///
/// `ByDirection` is for kinds with namespaces of which some objects restrict only packets to pods,
/// and all others contain the word "egress". Every other kind counts as `Both`, or as `BothIfSet`
/// if it has objects in clusters without policies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    /// The rules of its objects are evaluated: see [`super::cluster_policy`].
    Evaluated,
    /// The object may restrict packets to pods. It may also restrict packets from pods if a key or
    /// a string in the object contains "egress".
    ByDirection,
    /// The object may restrict packets of both directions. Kinds whose objects restrict only
    /// packets from pods are included, because [`Reach`] has no value for these. At worst, more
    /// queries pass.
    Both,
    /// The object may restrict packets of both directions if one of these fields of its spec is set
    /// and is neither `false` nor an empty list. Otherwise it restricts nothing.
    BothIfSet(&'static [&'static str]),
}

/// Which connections an object may restrict. *The object's pods* are the pods in its namespace, or
/// all pods if it has no namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// Connections to the object's pods.
    Ingress,
    /// Connections to and from the object's pods.
    Both,
    /// No connections.
    Nothing,
}

struct KindRow {
    /// The resource with its group, as `kubectl` names it.
    resource: &'static str,
    kind: &'static str,
    effect: Effect,
}

const fn row(resource: &'static str, kind: &'static str, effect: Effect) -> KindRow {
    KindRow {
        resource,
        kind,
        effect,
    }
}

/// Every [`PolicyKind`]. Calico's staged policies, AWS's PolicyEndpoints and Antrea's
/// `controlplane` group are not listed, because they enforce nothing or repeat other objects.
const ROWS: &[KindRow] = &[
    // The network policy API: OVN-Kubernetes, Antrea, Kube-OVN, Calico, kube-network-policies.
    row(
        "adminnetworkpolicies.policy.networking.k8s.io",
        "AdminNetworkPolicy",
        Effect::Evaluated,
    ),
    row(
        "baselineadminnetworkpolicies.policy.networking.k8s.io",
        "BaselineAdminNetworkPolicy",
        Effect::Evaluated,
    ),
    row(
        "clusternetworkpolicies.policy.networking.k8s.io",
        "ClusterNetworkPolicy",
        Effect::Evaluated,
    ),
    // Calico: its stored objects, and the API of its API server. Newer versions can also store
    // the objects of that API directly.
    row(
        "globalnetworkpolicies.crd.projectcalico.org",
        "GlobalNetworkPolicy",
        Effect::Both,
    ),
    row(
        "networkpolicies.crd.projectcalico.org",
        "NetworkPolicy",
        Effect::ByDirection,
    ),
    row(
        "globalnetworkpolicies.projectcalico.org",
        "GlobalNetworkPolicy",
        Effect::Both,
    ),
    row(
        "networkpolicies.projectcalico.org",
        "NetworkPolicy",
        Effect::ByDirection,
    ),
    // Cilium.
    row(
        "ciliumclusterwidenetworkpolicies.cilium.io",
        "CiliumClusterwideNetworkPolicy",
        Effect::Both,
    ),
    row(
        "ciliumnetworkpolicies.cilium.io",
        "CiliumNetworkPolicy",
        Effect::ByDirection,
    ),
    // This kind can redirect packets for the cluster's DNS to other pods.
    row(
        "ciliumlocalredirectpolicies.cilium.io",
        "CiliumLocalRedirectPolicy",
        Effect::Both,
    ),
    row(
        "isovalentclusterwidenetworkpolicies.isovalent.com",
        "IsovalentClusterwideNetworkPolicy",
        Effect::Both,
    ),
    row(
        "isovalentnetworkpolicies.isovalent.com",
        "IsovalentNetworkPolicy",
        Effect::ByDirection,
    ),
    // Antrea: the current group, and the group before version 1.0.
    row(
        "clusternetworkpolicies.crd.antrea.io",
        "ClusterNetworkPolicy",
        Effect::Both,
    ),
    row(
        "networkpolicies.crd.antrea.io",
        "NetworkPolicy",
        Effect::ByDirection,
    ),
    row(
        "clusternetworkpolicies.security.antrea.tanzu.vmware.com",
        "ClusterNetworkPolicy",
        Effect::Both,
    ),
    row(
        "networkpolicies.security.antrea.tanzu.vmware.com",
        "NetworkPolicy",
        Effect::ByDirection,
    ),
    // Kube-OVN. Every cluster with Kube-OVN has Subnets. A Subnet counts only if `acls` or
    // `private` is set, because these fields restrict packets.
    row("security-groups.kubeovn.io", "SecurityGroup", Effect::Both),
    row(
        "subnets.kubeovn.io",
        "Subnet",
        Effect::BothIfSet(&["acls", "private"]),
    ),
    // OVN-Kubernetes, and OpenShift's SDN before it.
    row(
        "egressfirewalls.k8s.ovn.org",
        "EgressFirewall",
        Effect::Both,
    ),
    row(
        "egressnetworkpolicies.network.openshift.io",
        "EgressNetworkPolicy",
        Effect::Both,
    ),
    // AWS: the network policy agent, and security groups for pods.
    row(
        "applicationnetworkpolicies.networking.k8s.aws",
        "ApplicationNetworkPolicy",
        Effect::ByDirection,
    ),
    row(
        "clusternetworkpolicies.networking.k8s.aws",
        "ClusterNetworkPolicy",
        Effect::Both,
    ),
    row(
        "securitygrouppolicies.vpcresources.k8s.aws",
        "SecurityGroupPolicy",
        Effect::Both,
    ),
    // GKE: the group in its documentation, and a second group in case a cluster serves the kind
    // there.
    row(
        "fqdnnetworkpolicies.networking.gke.io",
        "FQDNNetworkPolicy",
        Effect::ByDirection,
    ),
    row(
        "fqdnnetworkpolicies.netpol.networking.gke.io",
        "FQDNNetworkPolicy",
        Effect::ByDirection,
    ),
    // VMware NSX: the API for VPCs, and the API before it.
    row(
        "securitypolicies.crd.nsx.vmware.com",
        "SecurityPolicy",
        Effect::Both,
    ),
    row(
        "securitypolicies.nsx.vmware.com",
        "SecurityPolicy",
        Effect::Both,
    ),
];

impl PolicyKind {
    /// Every kind.
    pub fn all() -> impl Iterator<Item = PolicyKind> {
        (0..).map(PolicyKind).take(ROWS.len())
    }

    /// The kind with this `kind` in the group of this `apiVersion`, whatever the version. `None` if
    /// it is not one of [`PolicyKind::all`].
    #[must_use]
    pub fn from_api(api_version: &str, kind: &str) -> Option<PolicyKind> {
        let (group, _) = api_version.split_once('/')?;
        PolicyKind::all().find(|candidate| candidate.group() == group && candidate.name() == kind)
    }

    /// The resource with its group, as `kubectl` names it.
    #[must_use]
    pub fn resource(self) -> &'static str {
        self.row().resource
    }

    /// The API group.
    #[must_use]
    pub fn group(self) -> &'static str {
        let parts = self.resource().split_once('.');
        parts.map_or("", |(_, group)| group)
    }

    /// The resource without its group.
    #[must_use]
    pub fn plural(self) -> &'static str {
        let parts = self.resource().split_once('.');
        parts.map_or("", |(plural, _)| plural)
    }

    /// The `kind` field of its objects.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.row().kind
    }

    /// Whether the rules of this kind are evaluated.
    pub(super) fn is_evaluated(self) -> bool {
        self.row().effect == Effect::Evaluated
    }

    /// Whether objects in this version of the kind's group can be read.
    #[must_use]
    pub fn reads_version(self, version: &str) -> bool {
        !self.is_evaluated()
            || PolicyApi::of_kind(self.name())
                .versions()
                .contains(&version)
    }

    /// Which connections an object of this kind may restrict, if its rules aren't evaluated.
    pub(super) fn reach(self, object: &Value) -> Reach {
        let is_set = |field: &str| match &object["spec"][field] {
            Value::Null | Value::Bool(false) => false,
            Value::Array(list) => !list.is_empty(),
            _ => true,
        };
        match self.row().effect {
            Effect::Evaluated | Effect::Both => Reach::Both,
            Effect::BothIfSet(fields) if fields.iter().any(|field| is_set(field)) => Reach::Both,
            Effect::BothIfSet(_) => Reach::Nothing,
            Effect::ByDirection if mentions_egress(object) => Reach::Both,
            Effect::ByDirection => Reach::Ingress,
        }
    }

    fn row(self) -> &'static KindRow {
        &ROWS[usize::from(self.0)]
    }
}

impl fmt::Debug for PolicyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.resource())
    }
}

/// Whether a key or a string in an object contains "egress", in upper or lower case. Examples:
/// `egress`, `egressDeny`, `types: [Egress]`.
fn mentions_egress(object: &Value) -> bool {
    let is_egress = |text: &str| text.to_ascii_lowercase().contains("egress");
    match object {
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
        Value::String(text) => is_egress(text),
        Value::Array(list) => list.iter().any(mentions_egress),
        Value::Object(fields) => {
            let mut fields = fields.iter();
            fields.any(|(key, value)| is_egress(key) || mentions_egress(value))
        }
    }
}
