//! NetworkPolicies: which pods the kernel answers, and which pods' queries pass to the cluster's
//! DNS.

use std::net::SocketAddr;

use zerohop_contract::addresses::SERVED;
use zerohop_tests::{
    topology::Topology,
    udp::{UdpServer, eventually},
};

use super::{
    AgentProcess, LIMIT, ManifestFolder, PodClient, SHORT_LEASE, WEB, stand_in_reply, start_agent,
};

/// The TTL of the kernel's answers.
const KERNEL: Option<u32> = Some(5);
/// The TTL of answers by the stand-in for the cluster's DNS.
const PASSED: Option<u32> = Some(77);

/// The cluster's DNS: Service, EndpointSlices and pod.
pub(super) const CLUSTER: &str = "
apiVersion: v1
kind: Service
metadata: {name: kube-dns, namespace: kube-system}
spec:
  clusterIP: 10.96.0.10
  clusterIPs: [10.96.0.10, 'fd00:10:96::a']
  selector: {k8s-app: kube-dns}
  ports: [{name: dns, port: 53, protocol: UDP}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: kube-dns-4, namespace: kube-system, labels: {kubernetes.io/service-name: kube-dns}}
addressType: IPv4
endpoints: [{addresses: [10.244.3.9]}]
ports: [{name: dns, port: 53, protocol: UDP}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: kube-dns-6, namespace: kube-system, labels: {kubernetes.io/service-name: kube-dns}}
addressType: IPv6
endpoints: [{addresses: ['fd00:10:244:3::9']}]
ports: [{name: dns, port: 53, protocol: UDP}]
---
apiVersion: v1
kind: Pod
metadata: {name: coredns, namespace: kube-system, labels: {k8s-app: kube-dns}}
status: {phase: Running, podIPs: [{ip: 10.244.3.9}, {ip: 'fd00:10:244:3::9'}]}
---
";

/// The pod that sends the queries.
pub(super) const CLIENT: &str = "
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: shop, labels: {app: client}}
status: {phase: Running, podIPs: [{ip: 10.244.0.2}, {ip: 'fd00:10:244::2'}]}
---
";

/// Denies all egress of pods in `shop`.
pub(super) const DENY: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny, namespace: shop}
spec: {podSelector: {}, policyTypes: [Egress]}
---
";

/// Allows the pod's egress to the cluster's DNS. The manifests need no Namespace objects, because
/// every namespace has the label `kubernetes.io/metadata.name`.
pub(super) const ALLOW: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: allow-dns, namespace: shop}
spec:
  podSelector: {matchLabels: {app: client}}
  policyTypes: [Egress]
  egress:
    - to:
        - namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: kube-system}}
          podSelector: {matchLabels: {k8s-app: kube-dns}}
      ports: [{port: 53, protocol: UDP}]
---
";

/// Allows ingress to the cluster's DNS only from the namespace `other`.
const CLOSED: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed, namespace: kube-system}
spec:
  podSelector: {matchLabels: {k8s-app: kube-dns}}
  policyTypes: [Ingress]
  ingress:
    - from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: other}}}]
---
";

/// Allows ingress to port 53 of all pods in `kube-system` from the namespace `shop`.
const OPEN: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: open, namespace: kube-system}
spec:
  podSelector: {}
  policyTypes: [Ingress]
  ingress:
    - from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: shop}}}]
      ports: [{port: 53, protocol: UDP}]
---
";

/// A policy of a kind that the agent does not evaluate.
const CILIUM: &str = "
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: cnp, namespace: shop}
spec: {endpointSelector: {}, egress: [{}]}
---
";

/// A node with a pod and a stand-in for the cluster's DNS.
struct PolicyNode {
    topology: Topology,
    manifests: ManifestFolder,
    pod: PodClient,
    _dns: UdpServer,
}

impl PolicyNode {
    fn new(documents: &[&str]) -> PolicyNode {
        let topology = Topology::routed().unwrap();
        topology.assign_served_addresses().unwrap();
        let address = SocketAddr::new(SERVED[0], 53);
        let dns = UdpServer::start(&topology.node, address, stand_in_reply);
        PolicyNode {
            manifests: ManifestFolder::new(&text(documents)),
            pod: PodClient::new(&topology),
            topology,
            _dns: dns.unwrap(),
        }
    }

    fn start_agent(&self, flags: &[&str]) -> AgentProcess {
        let all_flags = [&[SHORT_LEASE], flags].concat();
        start_agent(&self.topology.node, &self.manifests, &all_flags)
    }

    /// Replaces the objects, and waits until the pod's answer for `web` has this TTL.
    fn apply_and_wait(&self, documents: &[&str], ttl: Option<u32>) {
        self.manifests.write(&text(documents));
        let has_ttl = || Ok(self.pod.web_ttl() == ttl);
        assert!(
            eventually(LIMIT, has_ttl).unwrap(),
            "the TTL of `web` never became {ttl:?} with {documents:?}"
        );
    }
}

/// The manifests of these documents and of `web`.
fn text(documents: &[&str]) -> String {
    [documents, &[WEB]].concat().concat()
}

#[test]
fn queries_of_a_pod_with_denied_egress_pass() {
    let node = PolicyNode::new(&[CLUSTER, CLIENT]);
    let mut agent = node.start_agent(&[]);
    assert_eq!(node.pod.web_ttl(), KERNEL);
    let status = agent.status().unwrap();
    assert!(
        status.contains("policies   none for egress"),
        "a policy is reported without any: {status}"
    );

    node.apply_and_wait(&[CLUSTER, CLIENT, DENY], PASSED);
    let line = agent
        .wait_for_line("CoreDNS answers the queries of Pod shop/client")
        .unwrap();
    assert!(
        line.contains("NetworkPolicy shop/deny"),
        "the line does not name the policy: {line}"
    );
    let listed = || {
        let status = agent.status().unwrap();
        Ok(status.contains(
            "left out   Pod shop/client (10.244.0.2, fd00:10:244::2): NetworkPolicy shop/deny",
        ))
    };
    assert!(
        eventually(LIMIT, listed).unwrap(),
        "the pod is not listed as left out: {}",
        agent.status().unwrap()
    );
    let status = agent.status().unwrap();
    assert!(
        status.contains("outcome not_permitted"),
        "no query is counted as not permitted: {status}"
    );
    // The queries keep passing.
    assert_eq!(node.pod.web_ttl(), PASSED);

    node.apply_and_wait(&[CLUSTER, CLIENT, DENY, ALLOW], KERNEL);
    // Without its Pod object the pod's address may belong to any pod.
    node.apply_and_wait(&[CLUSTER, DENY, ALLOW], PASSED);
    node.apply_and_wait(&[CLUSTER, CLIENT, DENY, ALLOW], KERNEL);
    // Without the objects of the cluster's DNS the destination of the pod's queries is unknown.
    node.apply_and_wait(&[CLIENT, DENY, ALLOW], PASSED);
    node.apply_and_wait(&[CLUSTER, CLIENT], KERNEL);
}

#[test]
fn queries_pass_if_ingress_to_the_dns_servers_is_denied() {
    let node = PolicyNode::new(&[CLUSTER, CLIENT, CLOSED]);
    let mut agent = node.start_agent(&[]);
    assert_eq!(node.pod.web_ttl(), PASSED);
    let line = agent
        .wait_for_line("CoreDNS answers the queries of Pod shop/client")
        .unwrap();
    assert!(
        line.contains("NetworkPolicy kube-system/closed"),
        "the line does not name the policy: {line}"
    );
    node.apply_and_wait(&[CLUSTER, CLIENT, CLOSED, OPEN], KERNEL);
    node.apply_and_wait(&[CLUSTER, CLIENT, CLOSED, OPEN, DENY], PASSED);
    node.apply_and_wait(&[CLUSTER, CLIENT, CLOSED, OPEN, DENY, ALLOW], KERNEL);
    node.apply_and_wait(&[CLUSTER, CLIENT, CLOSED, DENY, ALLOW], PASSED);
    node.apply_and_wait(&[CLUSTER, CLIENT], KERNEL);
}

#[test]
fn queries_of_a_pod_that_a_cilium_policy_may_restrict_pass() {
    let node = PolicyNode::new(&[CLUSTER, CLIENT, CILIUM]);
    let mut agent = node.start_agent(&[]);
    assert_eq!(node.pod.web_ttl(), PASSED);
    agent.wait_for_line("CiliumNetworkPolicy shop/cnp").unwrap();
    node.apply_and_wait(&[CLUSTER, CLIENT], KERNEL);
    node.apply_and_wait(&[CLUSTER, CLIENT, CILIUM], PASSED);
}

#[test]
fn a_pod_that_is_restricted_at_the_start_is_never_answered() {
    let node = PolicyNode::new(&[CLUSTER, CLIENT, DENY]);
    let _agent = node.start_agent(&[]);
    for _ in 0..10 {
        assert_eq!(node.pod.web_ttl(), PASSED);
    }
}

#[test]
fn policies_can_be_ignored() {
    let node = PolicyNode::new(&[CLUSTER, CLIENT, DENY]);
    let agent = node.start_agent(&["--network-policy=ignore"]);
    assert_eq!(node.pod.web_ttl(), KERNEL);
    let status = agent.status().unwrap();
    assert!(
        status.contains("policies   ignored"),
        "the policies are not reported as ignored: {status}"
    );
}
