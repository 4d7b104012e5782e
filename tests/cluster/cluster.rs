//! The suite's own part of a cluster, in namespaces that are gone when it is dropped.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        core::v1::{ConfigMap, Namespace, Pod, PodSpec, Service, ServiceAccount},
        discovery::v1::EndpointSlice,
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

use crate::{
    objects::{HIDDEN, Key, Object, Objects, Writer, key, owned, pod, service, slice},
    signals::Signals,
};

/// The namespaces of one run, and what is in them.
pub(crate) struct Cluster {
    runtime: Runtime,
    client: Client,
    /// What the names of its namespaces start with.
    pub(crate) prefix: String,
    /// What is asked about.
    pub(crate) objects: Objects,
    /// Pods that are being deleted and held.
    terminating: BTreeSet<Key>,
    markers: u32,
    signals: Signals,
}

/// A name that has these addresses when everything written before it is known.
pub(crate) struct Marker {
    pub(crate) name: String,
    pub(crate) addresses: [&'static str; 2],
    /// A pod's name.
    pub(crate) pod: String,
}

/// On the namespaces of a run, with its prefix.
const LABEL: &str = "zerohop.test/run";
/// What holds a pod that is being deleted.
const FINALIZER: &str = "zerohop.test/held";
/// How long the API server may take, to delete a namespace or to come back.
const LIMIT: Duration = Duration::from_secs(180);
/// How often it is asked meanwhile.
const PAUSE: Duration = Duration::from_millis(100);
/// After so long no pod has the text of before an edit of its ConfigMap: longer than the 90 s that an
/// agent allows the kubelet.
const CONFIG_AGE: Duration = Duration::from_secs(120);

impl Cluster {
    /// A connection, and no namespace yet. The names of the namespaces follow from the seed, so that a
    /// Corefile can name them.
    pub(crate) fn connect(kubeconfig: &Path, seed: u64, signals: Signals) -> Result<Cluster> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let client = runtime.block_on(async {
            let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
            let options = KubeConfigOptions::default();
            let config = Config::from_custom_kubeconfig(kubeconfig, &options).await?;
            anyhow::Ok(Client::try_from(config)?)
        });
        let client = client
            .with_context(|| format!("no way to the API server with {}", kubeconfig.display()))?;
        Ok(Cluster {
            runtime,
            client,
            prefix: format!("zerohop-{seed:x}"),
            objects: Objects::default(),
            terminating: BTreeSet::new(),
            markers: 0,
            signals,
        })
    }

    /// Makes a namespace, or waits until the API server has forgotten the one before and makes it.
    pub(crate) fn create_namespace(&mut self, name: &str) -> Result<()> {
        self.write(Object::Namespace(Box::new(named(name)?)))
    }

    /// Labels a namespace as one that a Corefile may leave out, or takes the label away.
    pub(crate) fn turn_namespace(&mut self, name: &str) -> Result<&'static str> {
        let api: Api<Namespace> = Api::all(self.client.clone());
        let (label, what) = match self.objects.hidden.contains(name) {
            true => (Value::Null, "a namespace shown"),
            false => (json!(""), "a namespace hidden"),
        };
        let patch = json!({"metadata": {"labels": {HIDDEN: label}}});
        self.runtime
            .block_on(api.patch(name, &PatchParams::default(), &Patch::Merge(patch)))?;
        if !self.objects.hidden.remove(name) {
            self.objects.hidden.insert(name.to_owned());
        }
        Ok(what)
    }

    /// Deletes a namespace with all that is in it, and waits until it is gone.
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

    /// Writes an object, in place of one with its name.
    pub(crate) fn write(&mut self, object: Object) -> Result<()> {
        match object {
            Object::Namespace(namespace) => {
                let (_, name) = key(&namespace.metadata);
                let labels = namespace.metadata.labels.as_ref();
                if labels.is_some_and(|labels| labels.contains_key(HIDDEN)) {
                    self.objects.hidden.insert(name.clone());
                }
                self.add_namespace(*namespace)?;
                self.objects.namespaces.insert(name);
                Ok(())
            }
            Object::Service(service) => {
                let key = key(&service.metadata);
                let stored = self.put(*service, self.objects.services.get(&key))?;
                self.objects.services.insert(key, stored);
                Ok(())
            }
            Object::Slice(slice) => {
                let key = key(&slice.metadata);
                let stored = self.put(*slice, self.objects.slices.get(&key))?;
                self.objects.slices.insert(key, stored);
                Ok(())
            }
            Object::Pod(pod) => {
                let key = key(&pod.metadata);
                let stored = self.put_pod(*pod)?;
                self.objects.pods.insert(key, stored);
                Ok(())
            }
        }
    }

    pub(crate) fn delete_service(&mut self, key: &Key) -> Result<()> {
        self.delete::<Service>(key)?;
        self.objects.services.remove(key);
        Ok(())
    }

    /// The slice may be gone: a controller deletes slices too.
    pub(crate) fn delete_slice(&mut self, key: &Key) -> Result<()> {
        self.delete::<EndpointSlice>(key)?;
        self.objects.slices.remove(key);
        Ok(())
    }

    pub(crate) fn delete_pod(&mut self, key: &Key) -> Result<()> {
        match self.terminating.contains(key) {
            true => self.release_pods(|held| held == key)?,
            false => self.delete::<Pod>(key)?,
        }
        self.objects.pods.remove(key);
        Ok(())
    }

    /// Deletes a pod, and holds it as a kubelet does until its containers have ended.
    pub(crate) fn terminate_pod(&mut self, key: &Key) -> Result<()> {
        self.hold_pod(key, &json!([FINALIZER]))?;
        self.delete::<Pod>(key)?;
        self.terminating.insert(key.clone());
        Ok(())
    }

    /// Changes fields of an object by a JSON merge patch. None when the object is not there, because
    /// a controller deleted it.
    pub(crate) fn patch<K>(&self, key: &Key, patch: &Value) -> Result<Option<K>>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
        K: Clone + Debug + DeserializeOwned,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), &key.0);
        let patch = Patch::Merge(patch);
        let params = PatchParams::default();
        let patched = self.runtime.block_on(api.patch(&key.1, &params, &patch));
        there(patched)
            .with_context(|| format!("cannot change {} {key:?} by {patch:?}", K::kind(&())))
    }

    /// Reads the Services and slices of a namespace, which controllers change too.
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

    fn list<K>(&self, namespace: &str) -> Result<Vec<(Key, K)>>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
        K: Clone + Debug + DeserializeOwned,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), namespace);
        let all = self.runtime.block_on(api.list(&ListParams::default()))?;
        let all = all.items.into_iter();
        Ok(all.map(|object| (key(object.meta()), object)).collect())
    }

    /// Lets go of pods that are being deleted.
    fn release_pods(&mut self, which: impl Fn(&Key) -> bool) -> Result<()> {
        let held = self.terminating.extract_if(.., |key| which(key));
        let held: Vec<Key> = held.collect();
        held.iter()
            .try_for_each(|key| self.hold_pod(key, &Value::Null))
    }

    fn hold_pod(&self, key: &Key, finalizers: &Value) -> Result<()> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.0);
        let patch = Patch::Merge(json!({"metadata": {"finalizers": finalizers}}));
        let patched = self
            .runtime
            .block_on(api.patch(&key.1, &PatchParams::default(), &patch));
        patched
            .map(drop)
            .with_context(|| format!("cannot hold pod {key:?}, or let go of it"))
    }

    /// Makes the namespace of what serves the suite itself: the Corefile, a Service whose ClusterIP the
    /// pods ask, and a Pod that stands for the CoreDNS that is compared with.
    pub(crate) fn create_own(&self, corefile: &str) -> Result<Service> {
        let name = self.own_namespace();
        self.add_namespace(named(&name)?)?;
        let map: ConfigMap = serde_json::from_value(json!({
            "metadata": {"namespace": name, "name": "coredns"},
            "data": {"Corefile": corefile},
        }))?;
        self.put(map, None)?;
        let key = (name, "dns".to_owned());
        let labels = BTreeMap::from([("app".to_owned(), "dns".to_owned())]);
        let ports = json!([{"name": "dns", "port": 53, "protocol": "UDP"}]);
        let spec = json!({"ports": ports, "selector": labels});
        let Object::Service(service) = service(&key, &spec)? else {
            bail!("a Service is one");
        };
        let service = self.put(*service, None)?;
        // CoreDNS has had this Corefile all along. The ConfigMap is new, so an agent believes that only of
        // a pod that was started some time after it.
        let started = Time(Timestamp::now() + CONFIG_AGE);
        let status = json!({
            "phase": "Running",
            "podIP": "100.64.0.4",
            "podIPs": [{"ip": "100.64.0.4"}],
            "containerStatuses": [{
                "name": "none", "image": "none", "imageID": "", "ready": false, "restartCount": 0,
                "state": {"running": {"startedAt": started}},
            }],
        });
        let Object::Pod(mut pod) = pod(&key, &status)? else {
            bail!("a Pod is one");
        };
        pod.metadata.labels = Some(labels);
        self.put_pod(*pod)?;
        Ok(service)
    }

    /// The namespace of what serves the suite itself.
    pub(crate) fn own_namespace(&self) -> String {
        format!("{}-own", self.prefix)
    }

    /// Writes a name of which every feed of objects has its part, after all that was written
    /// before: whoever knows it knows all of that.
    pub(crate) fn mark(&mut self) -> Result<Marker> {
        self.markers += 1;
        let namespace = format!("{}-marker-{}", self.prefix, self.markers);
        let key = (namespace.clone(), "marker".to_owned());
        self.add_namespace(named(&namespace)?)?;
        let Object::Service(service) = service(&key, &json!({"clusterIP": "None"}))? else {
            bail!("a Service is one");
        };
        self.put(*service, None)?;
        let addresses = ["100.64.0.1", "100.64.0.2"];
        for (address, writer) in addresses
            .into_iter()
            .zip([Writer::Kubernetes, Writer::Hand])
        {
            let key = (namespace.clone(), format!("marker-{address}"));
            let slice = slice(
                &key,
                "IPv4",
                &json!([{"addresses": [address]}]),
                &Value::Null,
            )?;
            self.put(owned(slice, "marker", Some(true), writer), None)?;
        }
        let status =
            json!({"phase": "Running", "podIP": "100.64.0.3", "podIPs": [{"ip": "100.64.0.3"}]});
        let Object::Pod(pod) = pod(&key, &status)? else {
            bail!("a Pod is one");
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

    /// Writes a Pod and its state, which is an object of its own to the API server.
    fn put_pod(&self, mut pod: Pod) -> Result<Pod> {
        let (namespace, name) = key(&pod.metadata);
        let status = json!({"status": pod.status});
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &namespace);
        if !self
            .objects
            .pods
            .contains_key(&(namespace.clone(), name.clone()))
        {
            let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), &namespace);
            self.wait("a namespace's service account", async || {
                Ok(accounts.get_opt("default").await?.is_some())
            })?;
            if pod.spec.is_none() {
                pod.spec = Some(unscheduled()?);
            }
            self.runtime
                .block_on(api.create(&PostParams::default(), &pod))?;
        }
        let patch = Patch::Merge(status);
        let stored =
            self.runtime
                .block_on(api.patch_status(&name, &PatchParams::default(), &patch));
        stored.with_context(|| format!("cannot write the state of pod {namespace}/{name}"))
    }

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

    fn delete<K>(&self, key: &Key) -> Result<()>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
        K: Clone + Debug + DeserializeOwned,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), &key.0);
        let params = DeleteParams::default();
        there(self.runtime.block_on(api.delete(&key.1, &params)))
            .map(drop)
            .with_context(|| format!("cannot delete {} {key:?}", K::kind(&())))
    }

    fn wait(&self, what: &str, is_there: impl AsyncFn() -> Result<bool>) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        self.runtime.block_on(async {
            while !is_there().await? {
                self.signals.check()?;
                if Instant::now() > deadline {
                    bail!("waited {LIMIT:?} for {what}");
                }
                sleep(PAUSE).await;
            }
            Ok(())
        })
    }

    /// Deletes everything, and waits until it is gone.
    fn remove(&mut self) -> Result<()> {
        self.release_pods(|_| true)?;
        let api: Api<Namespace> = Api::all(self.client.clone());
        let ours = ListParams::default().labels(&format!("{LABEL}={}", self.prefix));
        self.runtime.block_on(async {
            for namespace in api.list(&ours).await? {
                let (_, name) = key(&namespace.metadata);
                api.delete(&name, &DeleteParams::default()).await?;
            }
            let deadline = Instant::now() + LIMIT;
            while !api.list(&ours).await?.items.is_empty() {
                if Instant::now() > deadline {
                    bail!("they were still there after {LIMIT:?}");
                }
                sleep(PAUSE).await;
            }
            Ok(())
        })
    }
}

/// None of an object that is not there.
fn there<T>(outcome: kube::Result<T>) -> kube::Result<Option<T>> {
    match outcome {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
        outcome => outcome.map(Some),
    }
}

fn named(name: &str) -> Result<Namespace> {
    Ok(serde_json::from_value(json!({"metadata": {"name": name}}))?)
}

/// What a Pod consists of that no scheduler places.
pub(crate) fn unscheduled() -> Result<PodSpec> {
    Ok(serde_json::from_value(json!({
        "schedulerName": "nobody",
        "containers": [{"name": "none", "image": "none"}],
    }))?)
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            eprintln!(
                "namespaces with the label {LABEL}={} could not be removed: {error:#}",
                self.prefix
            );
        }
    }
}
