//! The client policy of an agent that reads an API server's NetworkPolicies.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use dns_agent::config::{Config, SourceConfig};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{net::TcpListener, task::JoinHandle};

use crate::{
    agent::RunningAgent,
    fake::{BodyWriter, FakeApi, PendingRequest},
    support::{FakeUpstream, config_with_source, kubeconfig},
};

// Resources: a path, and after `?` the value of the label or field selector.
const GROUPS: &str = "/apis";
const POLICIES: &str = "/apis/networking.k8s.io/v1/networkpolicies";
pub(crate) const CLIENTS: &str = "/api/v1/pods?spec.nodeName=this";
pub(crate) const DNS_SERVICE: &str =
    "/api/v1/namespaces/kube-system/services?metadata.name=kube-dns";
const NAMESPACES: &str = "/api/v1/namespaces";
const DNS_NAMESPACE: &str = "/api/v1/namespaces?metadata.name=kube-system";
pub(crate) const DNS_PODS: &str = "/api/v1/namespaces/kube-system/pods?k8s-app=kube-dns";
pub(crate) const DNS_ENDPOINTS: &str = "/apis/discovery.k8s.io/v1/namespaces/kube-system/endpointslices?kubernetes.io/service-name=kube-dns";

/// An API server with prepared lists. A list that isn't prepared is empty.
pub(crate) struct PreparedApi {
    contents: Arc<Mutex<ApiContents>>,
    kubeconfig: TempDir,
    _tasks: [JoinHandle<()>; 2],
}

/// The contents of an API server, and the requests that it has received.
#[derive(Default)]
pub(crate) struct ApiContents {
    /// The objects of each list, by resource.
    pub(crate) items: BTreeMap<&'static str, Vec<Value>>,
    /// Responses other than lists, by path.
    documents: BTreeMap<String, Value>,
    /// Resources for which the server answers 403, unless they have a document.
    pub(crate) refused: Vec<&'static str>,
    /// The requested resources, in order.
    requested: Vec<String>,
    /// Open watches, by resource. Two feeds of an agent may watch the same resource.
    watches: BTreeMap<String, Vec<Arc<BodyWriter>>>,
}

impl ApiContents {
    /// Adds the Namespaces of the clients. Their labels name a team each.
    fn add_labelled_namespaces(&mut self) {
        let namespaces = vec![namespace("shop", "a"), namespace("other", "b")];
        self.items.insert(NAMESPACES, namespaces);
    }

    /// Serves one resource in a group with one version, besides a group without policies.
    fn serve_group(&mut self, group: &str, version: &str, resource: &str) {
        let group_version = format!("{group}/{version}");
        let path = format!("/apis/{group_version}");
        let version = json!({"groupVersion": group_version, "version": version});
        let groups = json!({"kind": "APIGroupList", "groups": [
            {"name": "apps", "versions": [{"version": "v1"}]},
            {"name": group, "versions": [version], "preferredVersion": version},
        ]});
        let resources = json!({"kind": "APIResourceList", "resources": [
            {"name": "others"}, {"name": resource}, {"name": format!("{resource}/status")},
        ]});
        self.documents = BTreeMap::from([(GROUPS.to_owned(), groups), (path, resources)]);
    }

    fn answer(&mut self, request: PendingRequest) {
        let selectors = ["fieldSelector", "labelSelector"];
        let selector = selectors.iter().find_map(|name| request.parameter(name));
        let resource = match selector {
            Some(selector) => format!("{}?{selector}", request.path),
            None => request.path.clone(),
        };
        self.requested.push(resource.clone());
        // Without a version, the agent never requests a list as the beginning of a watch.
        if request.path == "/version" {
            request.refuse(404, "NotFound", "no version");
        } else if let Some(document) = self.documents.get(&*resource) {
            request.respond_with_document(document);
        } else if self.refused.contains(&&*resource) {
            request.refuse(403, "Forbidden", "not you");
        } else if request.parameter("watch").is_some() {
            let watches = self.watches.entry(resource).or_default();
            watches.push(Arc::new(request.start_body()));
        } else {
            let items = self.items.get(&*resource).cloned().unwrap_or_default();
            request.respond_with_list("7", &items);
        }
    }
}

impl PreparedApi {
    pub(crate) async fn start(contents: ApiContents) -> PreparedApi {
        let (router, mut api) = FakeApi::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = listener.local_addr().unwrap();
        let kubeconfig = kubeconfig(server);
        let contents = Arc::new(Mutex::new(contents));
        let answering = {
            let contents = contents.clone();
            async move {
                loop {
                    let request = api.next_request().await;
                    contents.lock().unwrap().answer(request);
                }
            }
        };
        let serving = async move { axum::serve(listener, router).await.unwrap() };
        PreparedApi {
            contents,
            kubeconfig,
            _tasks: [tokio::spawn(answering), tokio::spawn(serving)],
        }
    }

    /// Starts an agent with a kernel plane that matches no interface. `dns` is the DNS of the
    /// cluster. Most tests have no Corefile, so the agent answers by its own settings. The folder
    /// of `--bpffs` is not a BPF file system, so no other agent on this machine is disturbed.
    pub(crate) async fn start_agent(&self, dns: &FakeUpstream, flags: &[&str]) -> RunningAgent {
        let given = [
            "--corefile=kube-system/coredns",
            "--dns-service=kube-system/kube-dns",
            "--trust-zone",
        ];
        RunningAgent::start_with(self.config(dns, &[&given, flags].concat())).await
    }

    /// Starts an agent like [`PreparedApi::start_agent`] that finds the cluster's DNS and its
    /// Corefile.
    pub(crate) async fn start_searching_agent(
        &self,
        dns: &FakeUpstream,
        settle_time: Duration,
    ) -> RunningAgent {
        let mut config = self.config(dns, &["--node-name=this"]);
        let SourceConfig::Kubernetes(kubernetes) = &mut config.source else {
            panic!("the source is not an API server");
        };
        kubernetes.dns_settle_time = settle_time;
        RunningAgent::start_with(config).await
    }

    fn config(&self, dns: &FakeUpstream, flags: &[&str]) -> Config {
        let config = self.kubeconfig.path().join("config");
        let dns = dns.address.to_string();
        let own = [
            "--kubeconfig",
            config.to_str().unwrap(),
            "--interface=no-such-interface",
            "--bpffs",
            self.kubeconfig.path().to_str().unwrap(),
            "--cluster-dns",
            &dns,
        ];
        config_with_source(&[&own, flags].concat())
    }

    /// Replaces the objects of a resource in later lists.
    pub(crate) fn set_items(&self, resource: &'static str, items: Vec<Value>) {
        let mut contents = self.contents.lock().unwrap();
        contents.items.insert(resource, items);
    }

    /// Sends an event to all watches of a resource, and first waits until there is one.
    pub(crate) async fn send_event(&self, resource: &str, verb: &str, object: Value) {
        let watches = loop {
            if let Some(watches) = self.contents.lock().unwrap().watches.get(resource) {
                break watches.clone();
            }
            tokio::task::yield_now().await;
        };
        for watch in watches {
            watch.send_event((verb, object.clone())).await;
        }
    }

    /// Waits until at least `count` watches of a resource are open.
    async fn wait_for_watches(&self, resource: &str, count: usize) {
        let are_open = || {
            let contents = self.contents.lock().unwrap();
            contents
                .watches
                .get(resource)
                .is_some_and(|it| it.len() >= count)
        };
        while !are_open() {
            tokio::task::yield_now().await;
        }
    }

    /// Whether the agent has requested a resource that begins with `prefix`.
    pub(crate) fn was_requested(&self, prefix: &str) -> bool {
        let contents = self.contents.lock().unwrap();
        contents
            .requested
            .iter()
            .any(|resource| resource.starts_with(prefix))
    }
}

impl RunningAgent {
    async fn wait_until_all_are_permitted(&self) {
        self.status_when(|status| {
            status.missing.is_empty() && permitted_and_left_out(status) == (None, vec![])
        })
        .await;
    }
}

/// A Namespace whose label names a team.
fn namespace(name: &str, team: &str) -> Value {
    json!({
        "metadata": {"name": name, "labels": {"team": team}, "resourceVersion": "7"}
    })
}

pub(crate) fn pod(namespace: &str, name: &str, address: &str, labels: Value) -> Value {
    let mut pod = json!({
        "metadata": {"namespace": namespace, "name": name, "resourceVersion": "7"},
        "spec": {"nodeName": "this"},
        "status": {"phase": "Running", "podIPs": [{"ip": address}]},
    });
    pod["metadata"]["labels"] = labels;
    pod
}

fn policy(spec: Value) -> Value {
    let mut policy =
        json!({"metadata": {"namespace": "shop", "name": "p", "resourceVersion": "8"}});
    policy["spec"] = spec;
    policy
}

fn deny() -> Value {
    policy(json!({"podSelector": {}, "policyTypes": ["Egress"]}))
}

fn allow_dns() -> Value {
    policy(json!({
        "podSelector": {}, "policyTypes": ["Egress"],
        "egress": [{
            "to": [{
                "namespaceSelector": {"matchLabels": {"team": "core"}},
                "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}},
            }],
            "ports": [{"protocol": "UDP", "port": 53}],
        }],
    }))
}

/// The EndpointSlice of a DNS Service in kube-system with one endpoint.
pub(crate) fn dns_slice(service: &str, address: &str) -> Value {
    json!({
        "metadata": {
            "namespace": "kube-system", "name": format!("{service}-x"), "resourceVersion": "7",
            "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": [address]}],
        "ports": [{"name": "dns", "port": 53, "protocol": "UDP"}],
    })
}

/// A cluster with its DNS, two pods on this node, and these policies.
pub(crate) fn cluster(policies: &[Value]) -> ApiContents {
    let service = json!({
        "metadata": {"namespace": "kube-system", "name": "kube-dns", "resourceVersion": "7"},
        "spec": {
            "clusterIP": "10.96.0.10", "clusterIPs": ["10.96.0.10"],
            "selector": {"k8s-app": "kube-dns"},
            "ports": [{"name": "dns", "port": 53, "protocol": "UDP"}],
        },
    });
    let namespace = json!({
        "metadata": {"name": "kube-system", "labels": {"team": "core"}, "resourceVersion": "7"}
    });
    let dns_pod = pod(
        "kube-system",
        "coredns",
        "10.244.0.9",
        json!({"k8s-app": "kube-dns"}),
    );
    ApiContents {
        items: BTreeMap::from([
            ("/api/v1/services", vec![service.clone()]),
            (DNS_SERVICE, vec![service]),
            (DNS_NAMESPACE, vec![namespace]),
            (DNS_ENDPOINTS, vec![dns_slice("kube-dns", "10.244.0.9")]),
            (DNS_PODS, vec![dns_pod]),
            (
                CLIENTS,
                vec![
                    pod("shop", "web", "10.244.1.2", json!({"app": "web"})),
                    pod("other", "db", "10.244.1.3", json!({})),
                ],
            ),
            (POLICIES, policies.to_vec()),
        ]),
        documents: BTreeMap::from([(
            GROUPS.to_owned(),
            json!({"kind": "APIGroupList", "groups": []}),
        )]),
        ..ApiContents::default()
    }
}

/// The number of permitted addresses (`None`: every client is permitted), and the judged Pods that
/// are not permitted.
fn permitted_and_left_out(status: &dns_agent::admin::status::Status) -> (Option<usize>, Vec<&str>) {
    let policy = status.network_policy.as_ref().unwrap();
    assert_eq!(policy.mode, "respect");
    let left_out = policy.left_out.iter().map(|left_out| &*left_out.pod);
    (policy.permitted, left_out.collect())
}

#[tokio::test]
async fn policies_are_followed_as_they_change() {
    let server = PreparedApi::start(cluster(&[])).await;
    let dns = FakeUpstream::answering([9, 9, 9, 9]).await;
    let running = server.start_agent(&dns, &["--node-name=this"]).await;
    running.wait_until_all_are_permitted().await;

    for (verb, policy, expected) in [
        ("ADDED", deny(), (Some(1), vec!["shop/web"])),
        ("MODIFIED", allow_dns(), (Some(2), vec![])),
        ("MODIFIED", deny(), (Some(1), vec!["shop/web"])),
        ("DELETED", deny(), (None, vec![])),
        ("ADDED", allow_dns(), (Some(2), vec![])),
    ] {
        server.send_event(POLICIES, verb, policy).await;
        running
            .status_when(|status| permitted_and_left_out(status) == expected)
            .await;
    }

    // A DNS Pod that the policy doesn't select.
    let other = pod(
        "kube-system",
        "coredns",
        "10.244.0.9",
        json!({"app": "other"}),
    );
    server.send_event(DNS_PODS, "MODIFIED", other).await;
    running
        .status_when(|status| permitted_and_left_out(status) == (Some(1), vec!["shop/web"]))
        .await;
    let right = pod(
        "kube-system",
        "coredns",
        "10.244.0.9",
        json!({"k8s-app": "kube-dns"}),
    );
    server.send_event(DNS_PODS, "MODIFIED", right).await;
    running
        .status_when(|status| permitted_and_left_out(status) == (Some(2), vec![]))
        .await;

    // An unreadable policy restricts every Pod in its namespace.
    let mut bad = allow_dns();
    bad["spec"]["egress"][0]["to"] = json!([{"ipBlock": {"cidr": "10.0.0.0/99"}}]);
    server.send_event(POLICIES, "MODIFIED", bad).await;
    let status = running
        .status_when(|status| permitted_and_left_out(status) == (Some(1), vec!["shop/web"]))
        .await;
    assert!(
        status
            .problems
            .iter()
            .any(|problem| problem.contains("10.0.0.0/99")),
        "{status}"
    );
    running.stop().await;
}

#[tokio::test]
async fn without_permission_to_list_policies_no_pod_is_answered_and_the_rest_works() {
    let mut contents = cluster(&[]);
    contents.refused.push(POLICIES);
    let server = PreparedApi::start(contents).await;
    let dns = FakeUpstream::answering([9, 9, 9, 9]).await;
    let running = server.start_agent(&dns, &["--node-name=this"]).await;
    let is_reported = |text: &String| {
        text.contains("list networkpolicies.networking.k8s.io")
            && text.contains("bind a ClusterRole")
    };
    let status = running
        .status_when(|status| status.missing.is_empty() && status.degraded.iter().any(is_reported))
        .await;
    // Pods are judged only when the NetworkPolicies and the served kinds of policies are known.
    assert_eq!(permitted_and_left_out(&status), (Some(0), vec![]));
    assert_eq!(status.objects.services, 1, "{status}");
    running.stop().await;
}

#[tokio::test]
async fn without_the_node_name_no_pod_is_answered_once_a_policy_exists() {
    let server = PreparedApi::start(cluster(&[])).await;
    let dns = FakeUpstream::answering([9, 9, 9, 9]).await;
    let running = server.start_agent(&dns, &[]).await;
    let is_reported = |status: &dns_agent::admin::status::Status| {
        let mut degraded = status.degraded.iter();
        degraded.any(|text| text.contains("--node-name"))
    };
    running
        .status_when(|status| {
            status.missing.is_empty()
                && permitted_and_left_out(status) == (None, vec![])
                && !is_reported(status)
        })
        .await;
    server.send_event(POLICIES, "ADDED", allow_dns()).await;
    running
        .status_when(|status| {
            permitted_and_left_out(status) == (Some(0), vec![]) && is_reported(status)
        })
        .await;
    assert!(
        !server.was_requested("/api/v1/pods"),
        "the agent listed pods without knowing its node"
    );
    running.stop().await;
}

#[tokio::test]
async fn ignored_policies_are_not_listed() {
    let server = PreparedApi::start(cluster(&[deny()])).await;
    let dns = FakeUpstream::answering([9, 9, 9, 9]).await;
    let flags = ["--node-name=this", "--network-policy=ignore"];
    let running = server.start_agent(&dns, &flags).await;
    let status = running
        .status_when(|status| status.missing.is_empty() && status.objects.services == 1)
        .await;
    let policy = status.network_policy.unwrap();
    assert_eq!((&*policy.mode, policy.permitted), ("ignore", None));
    assert!(!server.was_requested(POLICIES), "policies were listed");
    running.stop().await;
}

/// A policy that allows ingress to the cluster's DNS from Pods in these namespaces.
fn ingress_from(namespaces: &Value) -> Value {
    let mut policy = policy(json!({
        "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}}, "policyTypes": ["Ingress"],
        "ingress": [{
            "from": [{"namespaceSelector": namespaces}],
            "ports": [{"protocol": "UDP", "port": 53}],
        }],
    }));
    policy["metadata"] = json!({"namespace": "kube-system", "name": "in", "resourceVersion": "8"});
    policy
}

#[tokio::test]
async fn ingress_policies_of_the_dns_are_followed_with_the_labels_of_namespaces() {
    let mut contents = cluster(&[]);
    contents.add_labelled_namespaces();
    let server = PreparedApi::start(contents).await;
    let dns = FakeUpstream::answering([9, 9, 9, 9]).await;
    let running = server.start_agent(&dns, &["--node-name=this"]).await;
    running.wait_until_all_are_permitted().await;

    let by_name = json!({"matchLabels": {"kubernetes.io/metadata.name": "shop"}});
    let by_team = json!({"matchLabels": {"team": "a"}});
    for (verb, policy, expected) in [
        ("ADDED", ingress_from(&by_name), (Some(1), vec!["other/db"])),
        ("MODIFIED", ingress_from(&json!({})), (Some(2), vec![])),
        (
            "MODIFIED",
            ingress_from(&by_team),
            (Some(1), vec!["other/db"]),
        ),
    ] {
        server.send_event(POLICIES, verb, policy).await;
        running
            .status_when(|status| permitted_and_left_out(status) == expected)
            .await;
    }
    // Two feeds watch the namespaces: one for names, one for policies.
    server.wait_for_watches(NAMESPACES, 2).await;
    server
        .send_event(NAMESPACES, "MODIFIED", namespace("other", "a"))
        .await;
    running
        .status_when(|status| permitted_and_left_out(status) == (Some(2), vec![]))
        .await;
    server
        .send_event(POLICIES, "DELETED", ingress_from(&json!({})))
        .await;
    running
        .status_when(|status| permitted_and_left_out(status) == (None, vec![]))
        .await;
    running.stop().await;
}

const CLUSTER_POLICIES: &str = "/apis/policy.networking.k8s.io/v1alpha2/clusternetworkpolicies";

#[tokio::test]
async fn cluster_network_policies_are_evaluated_with_the_labels_of_namespaces() {
    let mut contents = cluster(&[]);
    contents.serve_group(
        "policy.networking.k8s.io",
        "v1alpha2",
        "clusternetworkpolicies",
    );
    contents.add_labelled_namespaces();
    let server = PreparedApi::start(contents).await;
    let dns = FakeUpstream::answering([9, 9, 9, 9]).await;
    let running = server.start_agent(&dns, &["--node-name=this"]).await;
    running.wait_until_all_are_permitted().await;
    let deny = json!({
        "apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
        "metadata": {"name": "deny", "resourceVersion": "8"},
        "spec": {
            "tier": "Admin", "priority": 1,
            "subject": {"namespaces": {"matchLabels": {"team": "a"}}},
            "egress": [{"action": "Deny", "to": [{"namespaces": {}}]}],
        },
    });
    server
        .send_event(CLUSTER_POLICIES, "ADDED", deny.clone())
        .await;
    let status = running
        .status_when(|status| permitted_and_left_out(status) == (Some(1), vec!["shop/web"]))
        .await;
    let reason = &status.network_policy.unwrap().left_out[0].reason;
    assert!(
        reason.starts_with("ClusterNetworkPolicy deny does not provably let this pod reach"),
        "{reason}"
    );
    // Two feeds watch the namespaces: one for names, one for policies.
    server.wait_for_watches(NAMESPACES, 2).await;
    server
        .send_event(NAMESPACES, "MODIFIED", namespace("shop", "b"))
        .await;
    running
        .status_when(|status| permitted_and_left_out(status) == (Some(2), vec![]))
        .await;
    server.send_event(CLUSTER_POLICIES, "DELETED", deny).await;
    running
        .status_when(|status| permitted_and_left_out(status) == (None, vec![]))
        .await;
    running.stop().await;
}

const CILIUM: &str = "/apis/cilium.io/v2/ciliumnetworkpolicies";

/// A cluster whose API serves policies of Cilium.
fn with_cilium() -> ApiContents {
    let mut contents = cluster(&[]);
    contents.serve_group("cilium.io", "v2", "ciliumnetworkpolicies");
    contents
}

fn cilium_policy(spec: Value) -> Value {
    let mut policy = policy(spec);
    policy["metadata"]["name"] = json!("cnp");
    policy
}

#[tokio::test]
async fn policies_that_are_not_evaluated_leave_out_the_pods_they_may_select() {
    let server = PreparedApi::start(with_cilium()).await;
    let dns = FakeUpstream::answering([9, 9, 9, 9]).await;
    let running = server.start_agent(&dns, &["--node-name=this"]).await;
    running.wait_until_all_are_permitted().await;
    let egress = cilium_policy(json!({"endpointSelector": {}, "egress": [{}]}));
    server.send_event(CILIUM, "ADDED", egress.clone()).await;
    let status = running
        .status_when(|status| permitted_and_left_out(status) == (Some(1), vec!["shop/web"]))
        .await;
    let policy = status.network_policy.unwrap();
    assert_eq!(
        policy.left_out[0].reason,
        "CiliumNetworkPolicy shop/cnp (cilium.io) may restrict this pod, and Zerohop doesn't evaluate this kind"
    );
    server.send_event(CILIUM, "DELETED", egress).await;
    running
        .status_when(|status| permitted_and_left_out(status) == (None, vec![]))
        .await;
    // Only API groups with policies matter.
    assert!(
        !server.was_requested("/apis/apps"),
        "the resources of the group `apps` were listed"
    );
    running.stop().await;
}

#[tokio::test]
async fn without_permission_to_list_policies_of_cilium_no_pod_is_answered() {
    let mut contents = with_cilium();
    contents.refused.push(CILIUM);
    let server = PreparedApi::start(contents).await;
    let dns = FakeUpstream::answering([9, 9, 9, 9]).await;
    let running = server.start_agent(&dns, &["--node-name=this"]).await;
    let is_reported = |text: &String| {
        text.contains("list ciliumnetworkpolicies.cilium.io")
            && text.contains("bind a ClusterRole")
            && text.contains("verbs list and watch on ciliumnetworkpolicies.cilium.io")
    };
    // The pods may be read after the policies are refused.
    running
        .status_when(|status| {
            status.missing.is_empty()
                && status.degraded.iter().any(is_reported)
                && permitted_and_left_out(status) == (Some(0), vec!["other/db", "shop/web"])
        })
        .await;
    running.stop().await;
}

#[tokio::test]
async fn no_pod_is_answered_until_the_served_kinds_of_policies_are_known() {
    let mut contents = cluster(&[]);
    // The server refuses a resource only if there is no document for it.
    contents.refused.push(GROUPS);
    contents.documents.clear();
    let server = PreparedApi::start(contents).await;
    let dns = FakeUpstream::answering([9, 9, 9, 9]).await;
    let running = server.start_agent(&dns, &["--node-name=this"]).await;
    let is_reported = |text: &String| text.contains("which API groups the API server serves");
    let status = running
        .status_when(|status| status.missing.is_empty() && status.degraded.iter().any(is_reported))
        .await;
    assert_eq!(permitted_and_left_out(&status), (Some(0), vec![]));
    running.stop().await;
}
