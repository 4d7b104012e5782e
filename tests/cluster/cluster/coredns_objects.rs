//! The objects of a CoreDNS that the comparison runs itself: an agent finds out from them how
//! CoreDNS runs, as in a real cluster.

use std::{collections::BTreeMap, net::Ipv4Addr};

use anyhow::{Context as _, Result};
use k8s_openapi::{
    api::{
        authentication::v1::TokenRequest,
        core::v1::{ConfigMap, Pod, ServiceAccount},
        rbac::v1::ClusterRoleBinding,
    },
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::Timestamp,
};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use zerohop_contract::corefile_shapes::CorefileShape;

use super::{DNS, LABEL, LiveCluster, POD_START_DELAY, dns_labels, none_if_absent};
use crate::{
    coredns::ServiceAccountFiles,
    objects::{SliceWriter, label_slice, slice},
};

/// The name of the Pod, its service account and its ConfigMap.
const COREDNS: &str = "coredns";
/// The ConfigMap that Corefiles import.
const CUSTOM: &str = "coredns-custom";

impl LiveCluster {
    /// Makes the Pod of a CoreDNS with this address, in the namespace of
    /// [`LiveCluster::create_dns_service`]. It mounts the ConfigMaps of
    /// [`LiveCluster::write_corefile_shape`]. Returns what the container needs to read the API
    /// server.
    pub(crate) fn create_coredns_pod(&self, address: Ipv4Addr) -> Result<ServiceAccountFiles> {
        let namespace = self.dns_namespace();
        let account = self.create_service_account(&namespace)?;
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"namespace": namespace, "name": COREDNS, "labels": dns_labels()},
            "spec": {
                "schedulerName": "none",
                "serviceAccountName": COREDNS,
                "containers": [{
                    "name": COREDNS,
                    "image": "none",
                    "args": ["-conf", "/etc/coredns/Corefile"],
                    "ports": [{"name": "dns", "containerPort": 53, "protocol": "UDP"}],
                    "volumeMounts": [
                        {"name": "config", "mountPath": "/etc/coredns", "readOnly": true},
                        {"name": "custom", "mountPath": "/etc/coredns/custom", "readOnly": true},
                    ],
                }],
                "volumes": [
                    {"name": "config", "configMap": {"name": COREDNS}},
                    {"name": "custom", "configMap": {"name": CUSTOM, "optional": true}},
                ],
            },
            "status": pod_status(address),
        }))?;
        self.put_pod(pod)?;
        // The endpoint controller leaves out pods without a node.
        let slice = slice(
            &(namespace.clone(), COREDNS.to_owned()),
            "IPv4",
            &json!([{
                "addresses": [address],
                "conditions": {"ready": true},
                "targetRef": {"kind": "Pod", "namespace": namespace, "name": COREDNS},
            }]),
            &json!([{"name": "dns", "port": 53, "protocol": "UDP"}]),
        )?;
        self.put(
            label_slice(slice, DNS, Some(false), SliceWriter::Hand),
            None,
        )?;
        Ok(account)
    }

    /// Writes the ConfigMaps of a shape. The Pod's status then says that its container started so
    /// late that the kubelet had written the ConfigMaps into it.
    pub(crate) fn write_corefile_shape(
        &self,
        shape: &CorefileShape,
        address: Ipv4Addr,
    ) -> Result<()> {
        let namespace = self.dns_namespace();
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), &namespace);
        for (name, data) in [(COREDNS, &shape.coredns), (CUSTOM, &shape.custom)] {
            let deleted = self
                .runtime
                .block_on(maps.delete(name, &DeleteParams::default()));
            none_if_absent(deleted)?;
            if !data.is_empty() {
                self.put(config_map(&namespace, name, data)?, None)?;
            }
        }
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &namespace);
        let status = Patch::Merge(json!({"status": pod_status(address)}));
        let params = PatchParams::default();
        let patched = pods.patch_status(COREDNS, &params, &status);
        self.runtime.block_on(patched)?;
        Ok(())
    }

    /// Lets the objects of a CoreDNS read what the plugin `kubernetes` reads.
    fn create_service_account(&self, namespace: &str) -> Result<ServiceAccountFiles> {
        let account: ServiceAccount = serde_json::from_value(json!({
            "metadata": {"namespace": namespace, "name": COREDNS},
        }))?;
        self.put(account, None)?;
        let binding: ClusterRoleBinding = serde_json::from_value(json!({
            "metadata": {
                "name": format!("{}-{COREDNS}", self.prefix),
                "labels": {LABEL: self.prefix},
            },
            // Kubernetes' own role for all objects but secrets.
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view",
            },
            "subjects": [{"kind": "ServiceAccount", "namespace": namespace, "name": COREDNS}],
        }))?;
        let bindings: Api<ClusterRoleBinding> = Api::all(self.client.clone());
        let params = PostParams::default();
        let created = bindings.create(&params, &binding);
        self.runtime.block_on(created)?;

        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), namespace);
        let request: TokenRequest = serde_json::from_value(json!({"spec": {"audiences": []}}))?;
        let token = accounts.create_token_request(COREDNS, &params, &request);
        let token = self.runtime.block_on(token)?.status;
        let token = token.context("the API server gave no token for a service account")?;

        // The controller manager writes this ConfigMap into every namespace.
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), namespace);
        let name = "kube-root-ca.crt";
        self.wait(&format!("ConfigMap {namespace}/{name}"), async || {
            Ok(maps.get_opt(name).await?.is_some())
        })?;
        let map = self.runtime.block_on(maps.get(name))?;
        let authority = map.data.and_then(|mut data| data.remove("ca.crt"));
        Ok(ServiceAccountFiles {
            token: token.token,
            authority: authority.with_context(|| format!("ConfigMap {name} has no ca.crt"))?,
        })
    }
}

fn config_map(namespace: &str, name: &str, data: &BTreeMap<String, String>) -> Result<ConfigMap> {
    Ok(serde_json::from_value(json!({
        "metadata": {"namespace": namespace, "name": name},
        "data": data,
    }))?)
}

/// The status of the Pod, whose container starts [`POD_START_DELAY`] from now.
fn pod_status(address: Ipv4Addr) -> Value {
    json!({
        "phase": "Running",
        "podIP": address,
        "podIPs": [{"ip": address}],
        "conditions": [{"type": "Ready", "status": "True"}],
        "containerStatuses": [{
            "name": COREDNS, "image": "none", "imageID": "", "ready": true, "restartCount": 0,
            "state": {"running": {"startedAt": Time(Timestamp::now() + POD_START_DELAY)}},
        }],
    })
}
