//! Kinds of policies that are noticed, but not evaluated.
//!
//! An object of such a kind may restrict who asks the cluster's DNS in ways that are not known here. So
//! its presence alone keeps pods from being answered: see [`super::others`].
//!
//! The agent must list and watch these resources, so each row here needs its rule in
//! `deploy/kustomize/rbac.yaml` and in the chart: a test holds them together.

use std::fmt;

use serde_json::Value;

/// A kind of policy that is not evaluated.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PolicyKind(u8);

/// What objects of a kind may restrict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    /// Packets to the pods of its namespace; and from them, unless the word egress is nowhere in it.
    ByDirection,
    /// Packets of both directions.
    Both,
    /// Packets of both directions, if one of these fields of its spec is set.
    BothIfSet(&'static [&'static str]),
}

/// The connections of its namespace's pods that an object may restrict. An object without a namespace
/// may restrict every pod's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Those to its pods.
    Ingress,
    /// Those to its pods, and those from them.
    Both,
    /// None.
    Nothing,
}

struct Row {
    /// The resource, with its group, as RBAC and `kubectl` name it.
    resource: &'static str,
    kind: &'static str,
    effect: Effect,
}

const fn row(resource: &'static str, kind: &'static str, effect: Effect) -> Row {
    Row {
        resource,
        kind,
        effect,
    }
}

/// Every kind. Calico's staged policies, AWS's PolicyEndpoints and Antrea's `controlplane` group are left
/// out: they enforce nothing, or repeat what other objects say.
const ROWS: &[Row] = &[
    // The network policy API: OVN-Kubernetes, Antrea, Kube-OVN, Calico, kube-network-policies.
    row(
        "adminnetworkpolicies.policy.networking.k8s.io",
        "AdminNetworkPolicy",
        Effect::Both,
    ),
    row(
        "baselineadminnetworkpolicies.policy.networking.k8s.io",
        "BaselineAdminNetworkPolicy",
        Effect::Both,
    ),
    row(
        "clusternetworkpolicies.policy.networking.k8s.io",
        "ClusterNetworkPolicy",
        Effect::Both,
    ),
    // Calico: its stored objects, and the API of its API server (or, since 3.32, its only one).
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
    // It leads what pods send to the cluster's DNS to other pods.
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
    // Antrea, today and before 1.0.
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
    // Kube-OVN. Every cluster has Subnets; these fields of one separate pods.
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
    // GKE.
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
    // VMware NSX.
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

    /// The kind with this `apiVersion` and `kind`, of any version.
    #[must_use]
    pub fn of(api_version: &str, kind: &str) -> Option<PolicyKind> {
        let (group, _) = api_version.split_once('/')?;
        PolicyKind::all().find(|it| it.group() == group && it.name() == kind)
    }

    /// The resource with its group, as RBAC and `kubectl` name it.
    #[must_use]
    pub fn resource(self) -> &'static str {
        self.row().resource
    }

    /// The group of the API.
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

    /// The `kind` of its objects.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.row().kind
    }

    /// What an object of this kind may restrict.
    #[must_use]
    pub fn reach(self, object: &Value) -> Reach {
        let is_set = |field: &str| match &object["spec"][field] {
            Value::Null | Value::Bool(false) => false,
            Value::Array(list) => !list.is_empty(),
            _ => true,
        };
        match self.row().effect {
            Effect::Both => Reach::Both,
            Effect::BothIfSet(fields) if fields.iter().any(|field| is_set(field)) => Reach::Both,
            Effect::BothIfSet(_) => Reach::Nothing,
            Effect::ByDirection if mentions_egress(object) => Reach::Both,
            Effect::ByDirection => Reach::Ingress,
        }
    }

    fn row(self) -> &'static Row {
        &ROWS[usize::from(self.0)]
    }
}

impl fmt::Debug for PolicyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.resource())
    }
}

/// Whether the word egress is in a key or a text of an object, in any spelling: `egress`,
/// `egressDeny`, `types: [Egress]`.
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
