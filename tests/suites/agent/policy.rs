//! NetworkPolicies: whom the kernel answers, and who goes on asking the cluster's DNS.

use std::net::SocketAddr;

use zerohop_tests::{
    topology::{SERVED, Topology},
    udp::{Server, eventually},
};

use super::{Agent, LIMIT, Manifests, Pod, SHORT_LEASE, WEB, stand_in};

/// The TTL of the kernel's answers, and of the cluster's DNS's.
const KERNEL: Option<u32> = Some(5);
const PASSED: Option<u32> = Some(77);

/// The cluster's DNS, and the pod that asks.
const CLUSTER: &str = "
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

const CLIENT: &str = "
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: shop, labels: {app: client}}
status: {phase: Running, podIPs: [{ip: 10.244.0.2}, {ip: 'fd00:10:244::2'}]}
---
";

const DENY: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny, namespace: shop}
spec: {podSelector: {}, policyTypes: [Egress]}
---
";

const ALLOW: &str = "
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

const CILIUM: &str = "
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: cnp, namespace: shop}
spec: {endpointSelector: {}, egress: [{}]}
---
";

/// A node whose cluster has a DNS of its own, and a pod on it.
struct Node {
    topology: Topology,
    manifests: Manifests,
    pod: Pod,
    _dns: Server,
}

impl Node {
    fn new(documents: &[&str]) -> Node {
        let topology = Topology::routed().unwrap();
        topology.assign_served().unwrap();
        let address = SocketAddr::new(SERVED[0], 53);
        let dns = Server::start(&topology.node, address, |query| Some(stand_in(query)));
        Node {
            manifests: Manifests::new(&text(documents)),
            pod: Pod::new(&topology),
            topology,
            _dns: dns.unwrap(),
        }
    }

    fn agent(&self, more: &[&str]) -> Agent {
        let flags = [&[SHORT_LEASE], more].concat();
        Agent::start(&self.topology.node, &self.manifests, &flags)
    }

    /// Brings other objects, and waits until the pod's question is answered like this.
    fn becomes(&self, documents: &[&str], ttl: Option<u32>) {
        self.manifests.write(&text(documents));
        let is_so = || Ok(self.pod.ttl() == ttl);
        assert!(eventually(LIMIT, is_so).unwrap(), "{documents:?}");
    }
}

fn text(documents: &[&str]) -> String {
    [documents, &[WEB]].concat().concat()
}

#[test]
fn a_pod_that_may_not_ask_is_left_to_whoever_enforces_that() {
    let node = Node::new(&[CLUSTER, CLIENT]);
    let agent = node.agent(&[]);
    assert_eq!(node.pod.ttl(), KERNEL);
    assert!(
        agent
            .status(&node.topology.node)
            .contains("policies   none about egress")
    );

    node.becomes(&[CLUSTER, CLIENT, DENY], PASSED);
    let said = agent.line_with("the kernel does not answer Pod shop/client");
    assert!(said.contains("NetworkPolicy shop/deny"), "{said}");
    let listed = || {
        let status = agent.status(&node.topology.node);
        Ok(status.contains(
            "left out   Pod shop/client (10.244.0.2, fd00:10:244::2): NetworkPolicy shop/deny",
        ))
    };
    assert!(
        eventually(LIMIT, listed).unwrap(),
        "{}",
        agent.status(&node.topology.node)
    );
    let status = agent.status(&node.topology.node);
    assert!(status.contains("outcome not_permitted"), "{status}");
    // It stays so.
    assert_eq!(node.pod.ttl(), PASSED);

    node.becomes(&[CLUSTER, CLIENT, DENY, ALLOW], KERNEL);
    // The pod's name is another's now, for all that is known.
    node.becomes(&[CLUSTER, DENY, ALLOW], PASSED);
    node.becomes(&[CLUSTER, CLIENT, DENY, ALLOW], KERNEL);
    // Where its questions go is not known.
    node.becomes(&[CLIENT, DENY, ALLOW], PASSED);
    node.becomes(&[CLUSTER, CLIENT], KERNEL);
}

#[test]
fn a_pod_that_may_not_enter_the_dns_is_left_to_whoever_enforces_that() {
    let node = Node::new(&[CLUSTER, CLIENT, CLOSED]);
    let agent = node.agent(&[]);
    assert_eq!(node.pod.ttl(), PASSED);
    let said = agent.line_with("the kernel does not answer Pod shop/client");
    assert!(said.contains("NetworkPolicy kube-system/closed"), "{said}");
    node.becomes(&[CLUSTER, CLIENT, CLOSED, OPEN], KERNEL);
    node.becomes(&[CLUSTER, CLIENT, CLOSED, OPEN, DENY], PASSED);
    node.becomes(&[CLUSTER, CLIENT, CLOSED, OPEN, DENY, ALLOW], KERNEL);
    node.becomes(&[CLUSTER, CLIENT, CLOSED, DENY, ALLOW], PASSED);
    node.becomes(&[CLUSTER, CLIENT], KERNEL);
}

#[test]
fn a_pod_that_a_policy_of_cilium_may_restrict_passes() {
    let node = Node::new(&[CLUSTER, CLIENT, CILIUM]);
    let agent = node.agent(&[]);
    assert_eq!(node.pod.ttl(), PASSED);
    agent.line_with("CiliumNetworkPolicy shop/cnp");
    node.becomes(&[CLUSTER, CLIENT], KERNEL);
    node.becomes(&[CLUSTER, CLIENT, CILIUM], PASSED);
}

#[test]
fn what_is_restricted_at_the_start_is_never_answered() {
    let node = Node::new(&[CLUSTER, CLIENT, DENY]);
    let _agent = node.agent(&[]);
    for _ in 0..10 {
        assert_eq!(node.pod.ttl(), PASSED);
    }
}

#[test]
fn policies_can_be_ignored() {
    let node = Node::new(&[CLUSTER, CLIENT, DENY]);
    let agent = node.agent(&["--network-policy=ignore"]);
    assert_eq!(node.pod.ttl(), KERNEL);
    assert!(
        agent
            .status(&node.topology.node)
            .contains("policies   ignored")
    );
}
