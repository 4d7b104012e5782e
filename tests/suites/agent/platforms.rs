//! What the kernel answers by default on the platforms of `tests/platforms`: one file for each,
//! with the objects of its DNS.

use std::{fs, net::SocketAddr, path::Path};

use serde_json::{Value, json};
use zerohop_contract::{
    addresses::{POD, SERVED},
    packet::QueryPacket,
    platforms::{Answers, Platform},
};
use zerohop_tests::{
    agent::AgentProcess,
    topology::Topology,
    udp::{UdpClient, eventually},
};

use super::{
    A, LIMIT, PATIENCE, PodClient, SHORT_LEASE,
    api::server::{MemoryApiServer, Undescribed},
    dns_path::AFTER,
    start_agent,
};

const FLAGS: [&str; 2] = [SHORT_LEASE, "--node-name=this"];

/// Starts an API server with the objects of a platform, and a Service `web`.
fn start_api(topology: &Topology, platform: &str) -> MemoryApiServer {
    let api = MemoryApiServer::start(&topology.node);
    for name in ["kube-system", "openshift-dns", "shop"] {
        api.apply("namespaces", json!({"metadata": {"name": name}}));
    }
    let ports = json!([{"name": "http", "port": 80}]);
    let web = super::api::service("shop", "web", "10.96.1.1", &ports);
    api.apply("services", web);
    for object in objects(platform) {
        api.apply(plural(&object), object);
    }
    api
}

/// Starts a platform and an agent, and waits until `web` is answered.
fn start_answered(
    topology: &Topology,
    platform: &str,
) -> (MemoryApiServer, AgentProcess, PodClient) {
    let api = start_api(topology, platform);
    let agent = start_agent(&topology.node, &Undescribed(&api), &FLAGS);
    let pod = PodClient::new(topology);
    let is_web_answered = || Ok(is_answered(&pod, "web"));
    let is_web_answered = eventually(LIMIT, is_web_answered).unwrap();
    assert!(is_web_answered, "{platform}: {:?}", agent.status());
    (api, agent, pod)
}

fn objects(platform: &str) -> Vec<Value> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("platforms");
    let text = fs::read_to_string(folder.join(format!("{platform}.yaml"))).unwrap();
    serde_saphyr::from_multiple(&text).unwrap()
}

fn plural(object: &Value) -> &'static str {
    match object["kind"].as_str().unwrap() {
        "ConfigMap" => "configmaps",
        "EndpointSlice" => "endpointslices",
        "Pod" => "pods",
        "Service" => "services",
        other => panic!("objects of kind {other} are not expected"),
    }
}

fn is_answered(pod: &PodClient, name: &str) -> bool {
    pod.ask(&format!("{name}.shop.svc.cluster.local"), A)
        .is_some()
}

/// Asserts that a name keeps passing.
fn assert_passes(pod: &PodClient, name: &str, platform: &str) {
    for _ in 0..5 {
        assert!(!is_answered(pod, name), "{platform} answers {name}");
    }
}

#[test]
fn each_platform_is_answered_as_documented() {
    for Platform { file, answers, .. } in Platform::all() {
        let topology = Topology::routed().unwrap();
        let api = start_api(&topology, &file);
        let agent = start_agent(&topology.node, &Undescribed(&api), &FLAGS);
        let pod = PodClient::new(&topology);
        let web_is_answered = || Ok(is_answered(&pod, "web"));
        let status = || agent.status().unwrap();
        match answers {
            Answers::Most | Answers::Existing => {
                let is_answered = eventually(LIMIT, web_is_answered).unwrap();
                assert!(is_answered, "{file} does not answer `web`: {}", status());
            }
            Answers::Nothing => {
                let has_reason = || Ok(status().contains("everything passes"));
                let has_reason = eventually(LIMIT, has_reason).unwrap();
                assert!(has_reason, "{file} has no reason: {}", status());
                assert_passes(&pod, "web", &file);
            }
        }
        match answers {
            Answers::Most => {
                let is_denied = is_answered(&pod, "absent");
                assert!(is_denied, "{file} does not deny names: {}", status());
            }
            Answers::Existing | Answers::Nothing => assert_passes(&pod, "absent", &file),
        }
    }
}

/// Pods of kubespray query the node cache, and not the Service.
#[test]
fn queries_to_a_node_cache_are_answered() {
    let topology = Topology::routed().unwrap();
    let api = start_api(&topology, "kubespray");
    let _agent = start_agent(&topology.node, &Undescribed(&api), &FLAGS);
    let cache = SocketAddr::from(([169, 254, 25, 10], 53));
    let client = UdpClient::new(&topology.pod, cache).unwrap();
    let name = "web.shop.svc.cluster.local";
    let is_answered = || {
        let query = QueryPacket::new(POD[0], SERVED[0], name, A).message();
        client.send(&query)?;
        Ok(client.receive(PATIENCE).ok().flatten().is_some())
    };
    assert!(eventually(LIMIT, is_answered).unwrap());
}

/// The object of a platform with this kind and name.
fn object(platform: &str, kind: &str, name: &str) -> Value {
    let mut objects = objects(platform).into_iter();
    let is_wanted = |object: &Value| object["kind"] == *kind && object["metadata"]["name"] == *name;
    objects.find(is_wanted).unwrap()
}

#[test]
fn imported_files_count_when_coredns_has_read_them() {
    let topology = Topology::routed().unwrap();
    let (api, _agent, pod) = start_answered(&topology, "k3s-custom");
    let mut custom = object("k3s-custom", "ConfigMap", "coredns-custom");
    custom["data"]["shop.override"] =
        json!("rewrite name exact web.shop.svc.cluster.local x.shop.svc.cluster.local\n");
    api.apply("configmaps", custom.clone());
    // CoreDNS may still have the old text.
    assert!(eventually(LIMIT, || Ok(!is_answered(&pod, "absent"))).unwrap());
    for name in ["aaaaa", "bbbbb"] {
        let mut dns = object("k3s-custom", "Pod", &format!("coredns-7d764666f9-{name}"));
        dns["status"]["containerStatuses"][0]["state"]["running"]["startedAt"] = json!(AFTER);
        api.apply("pods", dns);
    }
    assert!(eventually(LIMIT, || Ok(is_answered(&pod, "absent"))).unwrap());
    assert_passes(&pod, "web", "k3s-custom with a rewrite");
}

#[test]
fn the_status_names_a_config_map_that_the_agent_may_not_read() {
    let topology = Topology::routed().unwrap();
    let api = start_api(&topology, "k3s-custom");
    api.forbid(&["coredns-custom"]);
    let agent = start_agent(&topology.node, &Undescribed(&api), &FLAGS);
    let pod = PodClient::new(&topology);
    let reason = "add coredns-custom to resourceNames";
    let has_reason = || Ok(agent.status()?.contains(reason));
    assert!(
        eventually(LIMIT, has_reason).unwrap(),
        "{:?}",
        agent.status()
    );
    assert_passes(&pod, "web", "k3s without a right");
    api.forbid(&[]);
    let is_web_answered = || Ok(is_answered(&pod, "web"));
    assert!(
        eventually(LIMIT, is_web_answered).unwrap(),
        "{:?}",
        agent.status()
    );
}

#[test]
fn a_configuration_that_pods_do_not_share_passes() {
    let topology = Topology::routed().unwrap();
    let (api, agent, pod) = start_answered(&topology, "kubeadm");
    // A rollout to another ConfigMap, in which `web` has another meaning.
    let mut map = object("kubeadm", "ConfigMap", "coredns");
    let text = map["data"]["Corefile"].as_str().unwrap().to_owned();
    map["metadata"]["name"] = json!("coredns-2");
    map["data"]["Corefile"] = json!(text.replace(
        "    loop\n",
        "    loop\n    hosts {\n        10.0.0.1 web.shop.svc.cluster.local\n        fallthrough\n    }\n"
    ));
    api.apply("configmaps", map);
    let mut second = object("kubeadm", "Pod", "coredns-7d764666f9-bbbbb");
    second["spec"]["volumes"][0]["configMap"]["name"] = json!("coredns-2");
    api.apply("pods", second);
    let differs = || Ok(!is_answered(&pod, "web") && is_answered(&pod, "absent"));
    assert!(eventually(LIMIT, differs).unwrap(), "{:?}", agent.status());
    // An endpoint that isn't a pod of the Service may answer anything.
    let mut slice = object("kubeadm", "EndpointSlice", "kube-dns-abcde");
    let endpoint = json!({"addresses": ["10.0.0.99"], "conditions": {"ready": true}});
    slice["endpoints"].as_array_mut().unwrap().push(endpoint);
    api.apply("endpointslices", slice);
    assert!(eventually(LIMIT, || Ok(!is_answered(&pod, "absent"))).unwrap());
}

#[test]
fn services_of_tenants_are_not_taken_for_the_cluster_dns() {
    let topology = Topology::routed().unwrap();
    let api = MemoryApiServer::start(&topology.node);
    let ports = json!([{"name": "http", "port": 80}]);
    for name in ["kube-system", "shop", "tenant"] {
        api.apply("namespaces", json!({"metadata": {"name": name}}));
    }
    api.apply(
        "services",
        super::api::service("shop", "web", "10.96.1.1", &ports),
    );
    // A virtual cluster's CoreDNS, which reads another API server.
    for mut object in objects("kubeadm") {
        object["metadata"]["namespace"] = json!("tenant");
        api.apply(plural(&object), object);
    }
    let agent = start_agent(&topology.node, &Undescribed(&api), &FLAGS);
    let pod = PodClient::new(&topology);
    let reason = "holds the token of its service account";
    let has_reason = || Ok(agent.status()?.contains(reason));
    assert!(
        eventually(LIMIT, has_reason).unwrap(),
        "{:?}",
        agent.status()
    );
    assert_passes(&pod, "web", "a tenant's DNS");
    // The cluster's DNS is preferred, although it is not older.
    for mut object in objects("kubeadm") {
        if object["kind"] == "Service" {
            object["spec"]["clusterIP"] = json!("10.96.0.11");
            object["spec"]["clusterIPs"] = json!(["10.96.0.11"]);
        }
        object["metadata"]["namespace"] = json!("tenant");
        api.apply(plural(&object), object);
    }
    for object in objects("kubeadm") {
        api.apply(plural(&object), object);
    }
    assert!(eventually(LIMIT, || Ok(is_answered(&pod, "web"))).unwrap());
}
