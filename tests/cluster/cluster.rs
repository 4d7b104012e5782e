//! The suite's namespaces in a real cluster. Dropping [`LiveCluster`] deletes them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    net::{IpAddr, SocketAddr},
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        core::v1::{ConfigMap, Namespace, Pod, PodSpec, Service, ServiceAccount},
        discovery::v1::EndpointSlice,
        rbac::v1::ClusterRoleBinding,
    },
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::Timestamp,
};
use kube::{
    Api, Client, Config, Resource,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::{runtime::Runtime, time::sleep};

mod coredns_objects;

use crate::{
    objects::{
        HIDDEN, LiveObjects, NamespacedName, SliceWriter, WrittenObject, key, label_slice, pod,
        service, slice,
    },
    signals::StopRequest,
};

/// A connection to the API server, and the namespaces of one run.
pub(crate) struct LiveCluster {
    runtime: Runtime,
    client: Client,
    /// Host and port of the API server, as the kubeconfig has them.
    server: String,
    /// Prefix of the names of all namespaces of the run.
    pub(crate) prefix: String,
    /// The objects about which questions are asked.
    pub(crate) objects: LiveObjects,
    /// Pods that are being deleted, and that a finalizer keeps.
    terminating: BTreeSet<NamespacedName>,
    /// Number of markers written so far.
    markers: u32,
    signals: StopRequest,
}

/// Names that show what a server knows: a server that answers `name` with `addresses`, and knows
/// `pod`, knows all earlier writes of namespaces, Services, slices and pods.
pub(crate) struct Marker {
    pub(crate) name: String,
    pub(crate) addresses: [&'static str; 2],
    /// The DNS name of a pod in the same namespace.
    pub(crate) pod: String,
}

/// The label of all namespaces of a run; its value is the run's prefix.
const LABEL: &str = "zerohop.test/run";
/// The name of the DNS Service.
const DNS: &str = "dns";
/// The finalizer that keeps a pod while it is being deleted.
const FINALIZER: &str = "zerohop.test/held";
/// The longest wait for the API server: to delete a namespace, to create a service account, or to
/// start again.
const LIMIT: Duration = Duration::from_secs(180);
/// The interval between requests while the suite waits for the API server.
const PAUSE: Duration = Duration::from_millis(100);
/// The time from the creation of the Corefile's ConfigMap to the claimed start of the DNS pod. It
/// is longer than the 90 s that an agent allows the kubelet to write a ConfigMap into the pods.
const POD_START_DELAY: Duration = Duration::from_secs(120);

impl LiveCluster {
    /// Connects to the API server. The names of the namespaces follow from the seed, so that a
    /// Corefile can name them.
    pub(crate) fn connect(
        kubeconfig: &Path,
        seed: u64,
        signals: StopRequest,
    ) -> Result<LiveCluster> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let connected = runtime.block_on(async {
            let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
            let options = KubeConfigOptions::default();
            let config = Config::from_custom_kubeconfig(kubeconfig, &options).await?;
            let server = config.cluster_url.authority();
            let server = server.map_or_else(String::new, ToString::to_string);
            anyhow::Ok((Client::try_from(config)?, server))
        });
        let (client, server) = connected.with_context(|| {
            format!(
                "cannot connect to the API server of {}",
                kubeconfig.display()
            )
        })?;
        Ok(LiveCluster {
            runtime,
            client,
            server,
            prefix: format!("zerohop-{seed:x}"),
            objects: LiveObjects::default(),
            terminating: BTreeSet::new(),
            markers: 0,
            signals,
        })
    }

    /// The API server's address, at which pods can reach it.
    pub(crate) fn pod_server(&self) -> Result<SocketAddr> {
        let with_port = self.server.parse::<SocketAddr>();
        let without_port = |_| {
            self.server
                .parse()
                .map(|address: IpAddr| (address, 443).into())
        };
        let address = with_port.or_else(without_port).with_context(|| {
            format!(
                "the server in the kubeconfig, {}, is not an address",
                self.server
            )
        })?;
        ensure!(
            !address.ip().is_loopback(),
            "the server in the kubeconfig, {address}, can't be reached from other network \
             namespaces: name another address of the API server"
        );
        Ok(address)
    }

    pub(crate) fn create_namespace(&mut self, name: &str) -> Result<()> {
        self.write(WrittenObject::Namespace(Box::new(namespace_object(name)?)))
    }

    /// Adds the label [`HIDDEN`] to a namespace, or removes it. Returns a description of the
    /// change.
    pub(crate) fn toggle_hidden(&mut self, name: &str) -> Result<&'static str> {
        let api: Api<Namespace> = Api::all(self.client.clone());
        let (label, change) = if self.objects.hidden.contains(name) {
            (Value::Null, "a namespace shown")
        } else {
            (json!(""), "a namespace hidden")
        };
        let patch = json!({"metadata": {"labels": {HIDDEN: label}}});
        self.runtime
            .block_on(api.patch(name, &PatchParams::default(), &Patch::Merge(patch)))?;
        if !self.objects.hidden.remove(name) {
            self.objects.hidden.insert(name.to_owned());
        }
        Ok(change)
    }

    /// Deletes a namespace and its objects, and waits until the namespace is gone.
    pub(crate) fn delete_namespace(&mut self, name: &str) -> Result<()> {
        self.release_pods(|key| key.0 == name)?;
        let api: Api<Namespace> = Api::all(self.client.clone());
        self.runtime
            .block_on(api.delete(name, &DeleteParams::default()))?;
        self.wait(&format!("namespace {name} to be gone"), async || {
            Ok(api.get_opt(name).await?.is_none())
        })?;
        let objects = &mut self.objects;
        objects.namespaces.remove(name);
        objects.hidden.remove(name);
        objects.services.retain(|key, _| key.0 != name);
        objects.slices.retain(|key, _| key.0 != name);
        objects.pods.retain(|key, _| key.0 != name);
        Ok(())
    }

    /// Creates an object, or replaces the one of the same name. A namespace must be new. Of a Pod
    /// only the status is replaced.
    pub(crate) fn write(&mut self, object: WrittenObject) -> Result<()> {
        match object {
            WrittenObject::Namespace(namespace) => {
                let (_, name) = key(&namespace.metadata);
                let labels = namespace.metadata.labels.as_ref();
                if labels.is_some_and(|labels| labels.contains_key(HIDDEN)) {
                    self.objects.hidden.insert(name.clone());
                }
                self.add_namespace(*namespace)?;
                self.objects.namespaces.insert(name);
                Ok(())
            }
            WrittenObject::Service(service) => {
                let key = key(&service.metadata);
                let stored = self.put(*service, self.objects.services.get(&key))?;
                self.objects.services.insert(key, stored);
                Ok(())
            }
            WrittenObject::Slice(slice) => {
                let key = key(&slice.metadata);
                let stored = self.put(*slice, self.objects.slices.get(&key))?;
                self.objects.slices.insert(key, stored);
                Ok(())
            }
            WrittenObject::Pod(pod) => {
                let key = key(&pod.metadata);
                let stored = self.put_pod(*pod)?;
                self.objects.pods.insert(key, stored);
                Ok(())
            }
        }
    }

    pub(crate) fn delete_service(&mut self, key: &NamespacedName) -> Result<()> {
        self.delete::<Service>(key)?;
        self.objects.services.remove(key);
        Ok(())
    }

    /// Deletes a slice, which a controller may already have deleted.
    pub(crate) fn delete_slice(&mut self, key: &NamespacedName) -> Result<()> {
        self.delete::<EndpointSlice>(key)?;
        self.objects.slices.remove(key);
        Ok(())
    }

    pub(crate) fn delete_pod(&mut self, key: &NamespacedName) -> Result<()> {
        if self.terminating.contains(key) {
            self.release_pods(|held| held == key)?;
        } else {
            self.delete::<Pod>(key)?;
        }
        self.objects.pods.remove(key);
        Ok(())
    }

    /// Deletes a pod, but keeps the object by a finalizer. On a node, the object of a deleted pod
    /// also stays until its containers have ended.
    pub(crate) fn terminate_pod(&mut self, key: &NamespacedName) -> Result<()> {
        self.set_finalizers(key, &json!([FINALIZER]))?;
        self.delete::<Pod>(key)?;
        self.terminating.insert(key.clone());
        Ok(())
    }

    /// Applies a JSON merge patch, and returns the new object. `None` if a controller has deleted
    /// the object.
    pub(crate) fn patch<K>(&self, key: &NamespacedName, patch: &Value) -> Result<Option<K>>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
        K: Clone + Debug + DeserializeOwned,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), &key.0);
        let patch = Patch::Merge(patch);
        let params = PatchParams::default();
        let patched = self.runtime.block_on(api.patch(&key.1, &params, &patch));
        none_if_absent(patched)
            .with_context(|| format!("cannot change {} {key:?} by {patch:?}", K::kind(&())))
    }

    /// Reads the Services and slices of a namespace again, because controllers change them too.
    pub(crate) fn refresh(&mut self, namespace: &str) -> Result<()> {
        let services = self.list::<Service>(namespace)?;
        let slices = self.list::<EndpointSlice>(namespace)?;
        let objects = &mut self.objects;
        objects.services.retain(|key, _| key.0 != namespace);
        objects.services.extend(services);
        objects.slices.retain(|key, _| key.0 != namespace);
        objects.slices.extend(slices);
        Ok(())
    }

    fn list<K>(&self, namespace: &str) -> Result<Vec<(NamespacedName, K)>>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
        K: Clone + Debug + DeserializeOwned,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), namespace);
        let all = self.runtime.block_on(api.list(&ListParams::default()))?;
        let all = all.items.into_iter();
        Ok(all.map(|object| (key(object.meta()), object)).collect())
    }

    /// Removes the finalizers of those pods that are being deleted and that `which` selects.
    fn release_pods(&mut self, which: impl Fn(&NamespacedName) -> bool) -> Result<()> {
        let held = self.terminating.extract_if(.., |key| which(key));
        let held: Vec<NamespacedName> = held.collect();
        held.iter()
            .try_for_each(|key| self.set_finalizers(key, &Value::Null))
    }

    fn set_finalizers(&self, key: &NamespacedName, finalizers: &Value) -> Result<()> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.0);
        let patch = Patch::Merge(json!({"metadata": {"finalizers": finalizers}}));
        let patched = self
            .runtime
            .block_on(api.patch(&key.1, &PatchParams::default(), &patch));
        patched
            .map(drop)
            .with_context(|| format!("cannot set the finalizers of pod {key:?}"))
    }

    /// Makes the suite's DNS namespace: a ConfigMap with the Corefile, a Service with the ClusterIP
    /// that the client pods query, and a Pod object that represents CoreDNS's pod.
    pub(crate) fn create_dns_namespace(&self, corefile: &str) -> Result<Service> {
        let service = self.create_dns_service()?;
        let name = self.dns_namespace();
        let map: ConfigMap = serde_json::from_value(json!({
            "metadata": {"namespace": name, "name": "coredns"},
            "data": {"Corefile": corefile},
        }))?;
        self.put(map, None)?;
        let key = (name, DNS.to_owned());
        // CoreDNS already uses this Corefile, but the ConfigMap is new. An agent trusts the
        // ConfigMap only if the pod started long enough after the ConfigMap's creation.
        let started = Time(Timestamp::now() + POD_START_DELAY);
        let status = json!({
            "phase": "Running",
            "podIP": "100.64.0.4",
            "podIPs": [{"ip": "100.64.0.4"}],
            "containerStatuses": [{
                "name": "none", "image": "none", "imageID": "", "ready": false, "restartCount": 0,
                "state": {"running": {"startedAt": started}},
            }],
        });
        let WrittenObject::Pod(mut pod) = pod(&key, &status)? else {
            bail!("`pod` made no Pod");
        };
        pod.metadata.labels = Some(dns_labels());
        self.put_pod(*pod)?;
        Ok(service)
    }

    /// Makes the suite's DNS namespace with a Service only.
    pub(crate) fn create_dns_service(&self) -> Result<Service> {
        let namespace = self.dns_namespace();
        self.add_namespace(namespace_object(&namespace)?)?;
        let ports = json!([{"name": "dns", "port": 53, "protocol": "UDP"}]);
        let spec = json!({"ports": ports, "selector": dns_labels()});
        let WrittenObject::Service(service) = service(&(namespace, DNS.to_owned()), &spec)? else {
            bail!("`service` made no Service");
        };
        self.put(*service, None)
    }

    /// The namespace of the Corefile's ConfigMap, the DNS Service and its Pod.
    pub(crate) fn dns_namespace(&self) -> String {
        format!("{}-own", self.prefix)
    }

    /// Writes the objects of a [`Marker`]: at least one of every kind that makes names.
    pub(crate) fn write_marker(&mut self) -> Result<Marker> {
        self.markers += 1;
        let namespace = format!("{}-marker-{}", self.prefix, self.markers);
        let key = (namespace.clone(), "marker".to_owned());
        self.add_namespace(namespace_object(&namespace)?)?;
        let WrittenObject::Service(service) = service(&key, &json!({"clusterIP": "None"}))? else {
            bail!("`service` made no Service");
        };
        self.put(*service, None)?;
        let addresses = ["100.64.0.1", "100.64.0.2"];
        for (address, writer) in addresses
            .into_iter()
            .zip([SliceWriter::Kubernetes, SliceWriter::Hand])
        {
            let key = (namespace.clone(), format!("marker-{address}"));
            let slice = slice(
                &key,
                "IPv4",
                &json!([{"addresses": [address]}]),
                &Value::Null,
            )?;
            self.put(label_slice(slice, "marker", Some(true), writer), None)?;
        }
        let status =
            json!({"phase": "Running", "podIP": "100.64.0.3", "podIPs": [{"ip": "100.64.0.3"}]});
        let WrittenObject::Pod(pod) = pod(&key, &status)? else {
            bail!("`pod` made no Pod");
        };
        self.put_pod(*pod)?;
        Ok(Marker {
            name: format!("marker.{namespace}.svc.cluster.local"),
            addresses,
            pod: format!("100-64-0-3.{namespace}.pod.cluster.local"),
        })
    }

    /// Waits until the API server answers.
    pub(crate) fn wait_until_up(&self) -> Result<()> {
        let api: Api<Namespace> = Api::all(self.client.clone());
        self.wait("the API server to answer", async || {
            Ok(api.list(&ListParams::default().limit(1)).await.is_ok())
        })
    }

    /// Creates a namespace with the run's label, but does not add it to `objects`.
    fn add_namespace(&self, mut namespace: Namespace) -> Result<()> {
        let labels = namespace.metadata.labels.get_or_insert_default();
        labels.insert(LABEL.to_owned(), self.prefix.clone());
        let api: Api<Namespace> = Api::all(self.client.clone());
        let created = self
            .runtime
            .block_on(api.create(&PostParams::default(), &namespace));
        created
            .map(drop)
            .with_context(|| format!("cannot create namespace {:?}", namespace.metadata.name))
    }

    /// Writes a Pod and then its status, because the status is a subresource.
    fn put_pod(&self, mut pod: Pod) -> Result<Pod> {
        let (namespace, name) = key(&pod.metadata);
        let status = json!({"status": pod.status});
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &namespace);
        if !self
            .objects
            .pods
            .contains_key(&(namespace.clone(), name.clone()))
        {
            // The API server rejects pods in a namespace without its default service account.
            let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), &namespace);
            let what = format!("the service account of namespace {namespace}");
            self.wait(&what, async || {
                Ok(accounts.get_opt("default").await?.is_some())
            })?;
            if pod.spec.is_none() {
                pod.spec = Some(unscheduled_spec()?);
            }
            self.runtime
                .block_on(api.create(&PostParams::default(), &pod))?;
        }
        let patch = Patch::Merge(status);
        let stored =
            self.runtime
                .block_on(api.patch_status(&name, &PatchParams::default(), &patch));
        stored.with_context(|| format!("cannot write the status of pod {namespace}/{name}"))
    }

    /// Creates `object`, or replaces `old`. Returns the object as stored.
    fn put<K>(&self, mut object: K, old: Option<&K>) -> Result<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
        K: Clone + Debug + Serialize + DeserializeOwned,
    {
        let (namespace, name) = key(object.meta());
        let api: Api<K> = Api::namespaced(self.client.clone(), &namespace);
        let params = PostParams::default();
        let stored = match old {
            None => self.runtime.block_on(api.create(&params, &object)),
            Some(old) => {
                object.meta_mut().resource_version = old.meta().resource_version.clone();
                self.runtime.block_on(api.replace(&name, &params, &object))
            }
        };
        stored.with_context(|| format!("cannot write {} {namespace}/{name}", K::kind(&())))
    }

    fn delete<K>(&self, key: &NamespacedName) -> Result<()>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
        K: Clone + Debug + DeserializeOwned,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), &key.0);
        let params = DeleteParams::default();
        none_if_absent(self.runtime.block_on(api.delete(&key.1, &params)))
            .map(drop)
            .with_context(|| format!("cannot delete {} {key:?}", K::kind(&())))
    }

    /// Waits until `is_reached` returns true. Fails after [`LIMIT`], when `is_reached` fails, or
    /// when the suite is told to stop. `what` describes the state in the error message.
    fn wait(&self, what: &str, is_reached: impl AsyncFn() -> Result<bool>) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        self.runtime.block_on(async {
            while !is_reached().await? {
                self.signals.fail_if_stopped()?;
                if Instant::now() > deadline {
                    bail!("waited {LIMIT:?} in vain for {what}");
                }
                sleep(PAUSE).await;
            }
            Ok(())
        })
    }

    /// Deletes the run's namespaces, and waits until they are gone.
    fn remove(&mut self) -> Result<()> {
        self.release_pods(|_| true)?;
        let api: Api<Namespace> = Api::all(self.client.clone());
        let bindings: Api<ClusterRoleBinding> = Api::all(self.client.clone());
        let of_this_run = ListParams::default().labels(&format!("{LABEL}={}", self.prefix));
        self.runtime.block_on(async {
            let params = DeleteParams::default();
            bindings.delete_collection(&params, &of_this_run).await?;
            for namespace in api.list(&of_this_run).await? {
                let (_, name) = key(&namespace.metadata);
                api.delete(&name, &DeleteParams::default()).await?;
            }
            let deadline = Instant::now() + LIMIT;
            while !api.list(&of_this_run).await?.items.is_empty() {
                if Instant::now() > deadline {
                    bail!("namespaces still exist after {LIMIT:?}");
                }
                sleep(PAUSE).await;
            }
            Ok(())
        })
    }
}

/// `None` if the API server answers 404.
fn none_if_absent<T>(outcome: kube::Result<T>) -> kube::Result<Option<T>> {
    match outcome {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
        outcome => outcome.map(Some),
    }
}

fn namespace_object(name: &str) -> Result<Namespace> {
    Ok(serde_json::from_value(json!({"metadata": {"name": name}}))?)
}

/// The labels of the Pods that the DNS Service selects.
fn dns_labels() -> BTreeMap<String, String> {
    BTreeMap::from([("app".to_owned(), "dns".to_owned())])
}

/// The spec of a Pod that no scheduler places.
pub(crate) fn unscheduled_spec() -> Result<PodSpec> {
    Ok(serde_json::from_value(json!({
        "schedulerName": "none",
        "containers": [{"name": "none", "image": "none"}],
    }))?)
}

impl Drop for LiveCluster {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            eprintln!(
                "cannot delete the namespaces with the label {LABEL}={}: {error:#}",
                self.prefix
            );
        }
    }
}
