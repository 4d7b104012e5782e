//! Single transitions: a Service, a slice or a pod becomes what it was not.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};
use k8s_openapi::api::{
    core::v1::{Pod, Service},
    discovery::v1::EndpointSlice,
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde_json::{Value, json};

use super::form::{Change, Form, Parts};
use crate::{
    cluster::{Cluster, unscheduled},
    objects::{
        HEADLESS, KUBERNETES, Key, MANAGED_BY, Object, SERVICE, pod, service, service_of, slice,
    },
};

/// Makes transitions.
pub(crate) struct Steps {
    seed: u64,
    zone: String,
    pub(crate) namespaces: [String; 2],
    /// Seeds that were drawn.
    drawn: u64,
    /// Addresses that were given away.
    addresses: u32,
    /// How often each form of a Service became each other one.
    pub(crate) directions: BTreeMap<(Form, Form), usize>,
}

/// A transition that was made.
pub(crate) struct Step {
    pub(crate) what: &'static str,
    /// What it was, with the objects' names.
    pub(crate) text: String,
    /// The Services whose names it concerns.
    pub(crate) services: BTreeSet<Key>,
    pub(crate) writes: Writes,
}

/// How many requests a transition took. Between several, anybody may see what lies between.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Writes {
    One,
    Several,
}

/// Services of a namespace.
const SERVICES: usize = 6;
/// Pods of a namespace, more than one for each Service.
const PODS: usize = 9;
/// Slices of a namespace, from which on one is deleted instead of made.
const SLICES: usize = 24;

const MIRRORING: &str = "endpointslicemirroring-controller.k8s.io";
const FOREIGN: &str = "controller.example.com";
/// Labels that mean nothing to anybody.
const OTHERS: [&str; 3] = ["app", "example.com/tier", "kubernetes.io/service"];

impl Steps {
    pub(crate) fn new(seed: u64, prefix: &str, zone: &str) -> Steps {
        let directions = Form::ALL.iter().flat_map(|from| {
            let others = Form::ALL.iter().filter(move |to| *to != from);
            others.map(move |to| ((*from, *to), 0))
        });
        Steps {
            seed,
            zone: zone.to_owned(),
            namespaces: [0, 1].map(|number| format!("{prefix}-t{number}")),
            drawn: 0,
            addresses: 0,
            directions: directions.collect(),
        }
    }

    /// Makes the namespaces, their pods, and a Service of each name.
    pub(crate) fn prepare(&mut self, cluster: &mut Cluster) -> Result<()> {
        for namespace in self.namespaces.clone() {
            cluster.create_namespace(&namespace)?;
            for number in 0..PODS {
                self.make_pod(cluster, &namespace, number)?;
            }
            for number in 0..SERVICES {
                let key = (namespace.clone(), format!("s{number}"));
                let mut random = self.random();
                let form = pick(&Form::ALL, &mut random);
                self.make_service(cluster, &key, form, &mut random)?;
            }
            cluster.refresh(&namespace)?;
        }
        Ok(())
    }

    /// All Services that there are or were.
    pub(crate) fn services(&self) -> BTreeSet<Key> {
        let namespaces = self.namespaces.iter();
        let keys = namespaces.flat_map(|namespace| {
            (0..SERVICES).map(move |number| (namespace.clone(), format!("s{number}")))
        });
        keys.collect()
    }

    /// Makes a transition. All choices follow from the seed, but for which of several slices it is,
    /// because the controller manager makes and deletes slices in its own time.
    pub(crate) fn make(&mut self, cluster: &mut Cluster) -> Result<Step> {
        loop {
            let mut random = self.random();
            if let Some(step) = self.attempt(cluster, &mut random)? {
                return Ok(step);
            }
        }
    }

    /// None if there is no object for what was drawn.
    fn attempt(&mut self, cluster: &mut Cluster, random: &mut StdRng) -> Result<Option<Step>> {
        let namespace = pick(&self.namespaces, random);
        let key = (
            namespace.clone(),
            format!("s{}", random.random_range(0..SERVICES)),
        );
        let what = random.random_range(0..100);
        let which = random.random::<u32>() as usize;
        let slices = cluster.objects.slices.iter();
        let slices: Vec<&EndpointSlice> = slices
            .filter(|(key, _)| key.0 == namespace)
            .map(|(_, slice)| slice)
            .collect();
        let count = slices.len();
        let slice = slices.get(which % count.max(1)).copied().cloned();
        let service = cluster.objects.services.get(&key).cloned();
        match (what, service, slice) {
            (0..40, Some(service), _) => {
                self.change_form(cluster, &key, &service, random).map(Some)
            }
            (40..44, Some(_), _) => self.change_ports(cluster, &key, random).map(Some),
            (44..47, Some(_), _) => self.change_labels(cluster, &key, random).map(Some),
            (47..50, Some(_), _) => {
                cluster.delete_service(&key)?;
                Ok(Some(Step::one("a Service deleted", &key, "")))
            }
            (0..50, None, _) => {
                let form = pick(&Form::ALL, random);
                self.make_service(cluster, &key, form, random)?;
                let text = format!("as {form:?}");
                Ok(Some(Step::one("a Service made", &key, &text)))
            }
            (50..53, ..) => self.change_pod(cluster, &namespace, random).map(Some),
            (53..100, _, Some(slice)) if count > SLICES => delete_slice(cluster, &slice).map(Some),
            (53..60, _, Some(slice)) => self.move_slice(cluster, &slice, random),
            (60..66, _, Some(slice)) => label_headless(cluster, &slice, random),
            (66..73, _, Some(slice)) => label_manager(cluster, &slice, random),
            (73..76, _, Some(slice)) => label_otherwise(cluster, &slice, random),
            (76..83, _, Some(slice)) => self.copy_slice(cluster, &slice, random).map(Some),
            (83..88, _, Some(slice)) => self.change_family(cluster, &slice, random).map(Some),
            (88..91, _, Some(slice)) => self.change_endpoints(cluster, &slice, random),
            (91..93, _, Some(slice)) => delete_slice(cluster, &slice).map(Some),
            (53.., ..) => self.make_slice(cluster, &key, random).map(Some),
            _ => Ok(None),
        }
    }

    /// A Service becomes one of a form that fewest of its form became.
    fn change_form(
        &mut self,
        cluster: &mut Cluster,
        key: &Key,
        service: &Service,
        random: &mut StdRng,
    ) -> Result<Step> {
        let from = Form::of(service);
        let others = || {
            self.directions
                .iter()
                .filter(|((form, _), _)| *form == from)
        };
        let fewest = others().map(|(_, count)| *count).min();
        let seldom = others().filter(|(_, count)| Some(**count) == fewest);
        let seldom: Vec<Form> = seldom.map(|((_, to), _)| *to).collect();
        let to = pick(&seldom, random);
        *self.directions.entry((from, to)).or_default() += 1;

        let text = format!("{from:?} -> {to:?}");
        let is_anew = random.random_bool(match from.change_to(to) {
            Change::InPlace => 0.1,
            Change::ThroughExternalName => 0.5,
        });
        if is_anew {
            cluster.delete_service(key)?;
            self.make_service(cluster, key, to, random)?;
            return Ok(Step::several("a Service deleted and made anew", key, &text));
        }
        let parts = self.parts(key, random);
        if from.change_to(to) == Change::ThroughExternalName {
            let alias = Form {
                kind: super::form::Kind::ExternalName,
                ..from
            };
            patch_spec(cluster, key, alias.fields(&parts))?;
            patch_spec(cluster, key, to.fields(&parts))?;
            return Ok(Step::several(
                "a Service's type changed by way of ExternalName",
                key,
                &text,
            ));
        }
        patch_spec(cluster, key, to.fields(&parts))?;
        Ok(match from.kind == to.kind {
            true => Step::one("a Service's selector added or removed", key, &text),
            false => Step::one("a Service's type changed", key, &text),
        })
    }

    fn make_service(
        &mut self,
        cluster: &mut Cluster,
        key: &Key,
        form: Form,
        random: &mut StdRng,
    ) -> Result<()> {
        let mut fields = form.fields(&self.parts(key, random));
        if let Some(fields) = fields.as_object_mut() {
            fields.retain(|_, value| !value.is_null());
        }
        cluster.objects.services.remove(key);
        cluster.write(service(key, &fields)?)
    }

    fn change_ports(
        &mut self,
        cluster: &mut Cluster,
        key: &Key,
        random: &mut StdRng,
    ) -> Result<Step> {
        let ports = ports(random);
        patch_spec(cluster, key, json!({"ports": ports}))?;
        Ok(Step::one(
            "a Service's ports changed",
            key,
            &ports.to_string(),
        ))
    }

    /// The controller manager copies a Service's labels to the slices that it writes.
    fn change_labels(
        &mut self,
        cluster: &mut Cluster,
        key: &Key,
        random: &mut StdRng,
    ) -> Result<Step> {
        let labels = json!({
            pick(&[HEADLESS, MANAGED_BY, OTHERS[0], OTHERS[1]], random):
                pick(&[json!(""), json!("x"), Value::Null], random),
        });
        let patch = json!({"metadata": {"labels": labels}});
        cluster.patch::<Service>(key, &patch)?;
        Ok(Step::one(
            "a Service's labels changed",
            key,
            &labels.to_string(),
        ))
    }

    /// A pod becomes one of another Service.
    fn change_pod(
        &mut self,
        cluster: &mut Cluster,
        namespace: &str,
        random: &mut StdRng,
    ) -> Result<Step> {
        let key = (
            namespace.to_owned(),
            format!("p{}", random.random_range(0..PODS)),
        );
        let pod = cluster.objects.pods.get(&key);
        let before = pod.and_then(|pod| pod.metadata.labels.as_ref()?.get("app").cloned());
        let after = format!("s{}", random.random_range(0..SERVICES));
        let patch = json!({"metadata": {"labels": {"app": after}}});
        if let Some(pod) = cluster.patch::<Pod>(&key, &patch)? {
            cluster.objects.pods.insert(key.clone(), pod);
        }
        let services = cluster.objects.services.iter();
        let selecting = services.filter(|(service, object)| {
            let spec = object.spec.as_ref();
            let app = spec.and_then(|spec| spec.selector.as_ref()?.get("app"));
            service.0 == namespace && (app == before.as_ref() || app == Some(&after))
        });
        Ok(Step {
            what: "a pod labelled otherwise",
            text: format!("{}: app={after}", key.1),
            services: selecting.map(|(key, _)| key.clone()).collect(),
            writes: Writes::One,
        })
    }

    fn move_slice(
        &mut self,
        cluster: &mut Cluster,
        slice: &EndpointSlice,
        random: &mut StdRng,
    ) -> Result<Option<Step>> {
        let number = random.random_range(0..SERVICES);
        let to = match random.random_range(0..10) {
            0 => Value::Null,
            1 => json!("ghost"),
            _ => json!(format!("s{number}")),
        };
        relabel(
            cluster,
            slice,
            SERVICE,
            &to,
            "a slice moved to another Service",
        )
    }

    fn copy_slice(
        &mut self,
        cluster: &mut Cluster,
        slice: &EndpointSlice,
        random: &mut StdRng,
    ) -> Result<Step> {
        let mut copy = slice.clone();
        let name = self.unused_name("copy");
        copy.metadata.name = Some(name.clone());
        copy.metadata.generate_name = None;
        copy.metadata.resource_version = None;
        copy.metadata.uid = None;
        copy.metadata.managed_fields = None;
        if random.random_bool(0.5) {
            copy.metadata.owner_references = None;
        }
        let labels = copy.metadata.labels.get_or_insert_default();
        match random.random_range(0..4) {
            0 => {}
            1 => drop(labels.remove(MANAGED_BY)),
            2 => drop(labels.insert(MANAGED_BY.to_owned(), FOREIGN.to_owned())),
            _ => drop(labels.insert(MANAGED_BY.to_owned(), KUBERNETES.to_owned())),
        }
        if random.random_bool(0.3) {
            labels.remove(HEADLESS);
        }
        if random.random_bool(0.5) {
            copy.endpoints = serde_json::from_value(self.endpoints(&copy.address_type, random))?;
        }
        let text = format!(
            "{} as {name} with labels {:?}",
            name_of(slice),
            copy.metadata.labels
        );
        let services = service_of(&copy).into_iter().collect();
        cluster.write(Object::Slice(Box::new(copy)))?;
        Ok(Step::of_slice("a slice copied", text, services))
    }

    /// The address type is immutable: the slice is deleted and made anew.
    fn change_family(
        &mut self,
        cluster: &mut Cluster,
        slice: &EndpointSlice,
        random: &mut StdRng,
    ) -> Result<Step> {
        let mut new = slice.clone();
        let families = ["IPv4", "IPv4", "IPv6", "IPv6", "FQDN"];
        let others: Vec<&str> = families
            .into_iter()
            .filter(|family| *family != slice.address_type)
            .collect();
        let family = pick(&others, random);
        new.address_type = family.to_owned();
        new.endpoints = serde_json::from_value(self.endpoints(family, random))?;
        new.metadata.resource_version = None;
        new.metadata.uid = None;
        new.metadata.managed_fields = None;
        new.metadata.generate_name = None;
        let key = (
            slice.metadata.namespace.clone().unwrap_or_default(),
            name_of(slice),
        );
        cluster.delete_slice(&key)?;
        let text = format!("{}: {} -> {family}", key.1, slice.address_type);
        let services = service_of(slice).into_iter().collect();
        cluster.write(Object::Slice(Box::new(new)))?;
        Ok(Step {
            writes: Writes::Several,
            ..Step::of_slice(
                "a slice made anew with another address type",
                text,
                services,
            )
        })
    }

    fn change_endpoints(
        &mut self,
        cluster: &mut Cluster,
        slice: &EndpointSlice,
        random: &mut StdRng,
    ) -> Result<Option<Step>> {
        let endpoints = self.endpoints(&slice.address_type, random);
        let text = format!("{}: {endpoints}", name_of(slice));
        let patch = json!({"endpoints": endpoints});
        let services = service_of(slice).into_iter().collect();
        patch_slice(cluster, slice, &patch, || {
            Step::of_slice("a slice's endpoints changed", text, services)
        })
    }

    /// A slice written by hand, with random labels, below a Service of any form.
    fn make_slice(
        &mut self,
        cluster: &mut Cluster,
        service: &Key,
        random: &mut StdRng,
    ) -> Result<Step> {
        let family = pick(&["IPv4", "IPv4", "IPv4", "IPv6"], random);
        let key = (service.0.clone(), self.unused_name("hand"));
        let endpoints = self.endpoints(family, random);
        let mut made = slice(&key, family, &endpoints, &ports(random))?;
        let labels = made.metadata.labels.get_or_insert_default();
        let of = match random.random_range(0..20) {
            0 => None,
            1 => Some("ghost"),
            _ => Some(service.1.as_str()),
        };
        let some = |text| Some(text);
        let random_labels = [
            (SERVICE, of),
            (
                MANAGED_BY,
                pick(
                    &[
                        None,
                        None,
                        some(KUBERNETES),
                        some(MIRRORING),
                        some(FOREIGN),
                        some(""),
                    ],
                    random,
                ),
            ),
            (
                HEADLESS,
                pick(&[None, None, some(""), some("true"), some("false")], random),
            ),
            (OTHERS[0], pick(&[None, some("x")], random)),
            (OTHERS[1], pick(&[None, some("x")], random)),
            (OTHERS[2], pick(&[None, some(service.1.as_str())], random)),
        ];
        labels.extend(
            random_labels
                .into_iter()
                .filter_map(|(label, value)| Some((label.to_owned(), value?.to_owned()))),
        );
        let text = format!("{} with labels {labels:?}", key.1);
        let services = service_of(&made).into_iter().collect();
        cluster.write(Object::Slice(Box::new(made)))?;
        Ok(Step::of_slice("a slice made by hand", text, services))
    }

    /// A pod that a selector selects. Every other one has a host name, below one of the Services.
    fn make_pod(&mut self, cluster: &mut Cluster, namespace: &str, number: usize) -> Result<()> {
        let key = (namespace.to_owned(), format!("p{number}"));
        let address = self.address("IPv4");
        let status = json!({"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]});
        let Object::Pod(mut pod) = pod(&key, &status)? else {
            anyhow::bail!("a Pod is one");
        };
        let app = format!("s{}", number % SERVICES);
        let mut spec = unscheduled()?;
        if number % 2 == 0 {
            spec.hostname = Some(format!("host-{number}"));
            spec.subdomain = Some(app.clone());
        }
        pod.spec = Some(spec);
        pod.metadata.labels = Some([("app".to_owned(), app)].into());
        cluster.write(Object::Pod(pod))
    }

    fn parts(&mut self, key: &Key, random: &mut StdRng) -> Parts {
        let other = random.random_range(0..SERVICES);
        let app = match random.random_bool(0.15) {
            true => format!("s{other}"),
            false => key.1.clone(),
        };
        let namespace = pick(&self.namespaces, random);
        let target = match random.random_range(0..4) {
            0 => "nowhere.invalid".to_owned(),
            1 => format!("ghost.{namespace}.svc.{}", self.zone),
            _ => format!("s{other}.{namespace}.svc.{}", self.zone),
        };
        Parts {
            app,
            target,
            ports: ports(random),
        }
    }

    /// One to three endpoints at addresses that nothing had before: CoreDNS's cache keeps reverse
    /// names.
    fn endpoints(&mut self, family: &str, random: &mut StdRng) -> Value {
        let count = random.random_range(1..4);
        let endpoints = (0..count).map(|_| {
            let mut endpoint = json!({"addresses": [self.address(family)]});
            if let Some(ready) = pick(&[None, Some(true), Some(true), Some(false)], random) {
                endpoint["conditions"] = json!({"ready": ready});
            }
            match random.random_range(0..6) {
                0 => endpoint["hostname"] = format!("hand-{}", self.addresses).into(),
                1 => endpoint["hostname"] = "shared".into(),
                2 => endpoint["zone"] = "zone-a".into(),
                _ => {}
            }
            endpoint
        });
        endpoints.collect()
    }

    fn address(&mut self, family: &str) -> String {
        self.addresses += 1;
        let number = self.addresses;
        match family {
            "FQDN" => format!("endpoint-{number}.invalid"),
            "IPv6" => format!("fd00:5a48:70::{number:x}"),
            _ => format!(
                "100.{}.{}.{}",
                70 + number / 62_500,
                number / 250 % 250,
                number % 250 + 1
            ),
        }
    }

    fn unused_name(&self, prefix: &str) -> String {
        format!("{prefix}-{}", self.drawn)
    }

    /// What the next choices follow from: the controller manager's slices change the number of choices.
    fn random(&mut self) -> StdRng {
        self.drawn += 1;
        StdRng::seed_from_u64(self.seed ^ (self.drawn << 32))
    }
}

impl Step {
    fn one(what: &'static str, service: &Key, text: &str) -> Step {
        Step {
            what,
            text: format!("{}/{} {text}", service.0, service.1),
            services: [service.clone()].into(),
            writes: Writes::One,
        }
    }

    fn several(what: &'static str, service: &Key, text: &str) -> Step {
        Step {
            writes: Writes::Several,
            ..Step::one(what, service, text)
        }
    }

    fn of_slice(what: &'static str, text: String, services: BTreeSet<Key>) -> Step {
        Step {
            what,
            text,
            services,
            writes: Writes::One,
        }
    }
}

fn label_headless(
    cluster: &mut Cluster,
    slice: &EndpointSlice,
    random: &mut StdRng,
) -> Result<Option<Step>> {
    let labels = slice.metadata.labels.iter().flatten();
    let has = labels.into_iter().any(|(label, _)| label == HEADLESS);
    let value = match has {
        true => Value::Null,
        false => pick(&[json!(""), json!(""), json!("true")], random),
    };
    relabel(
        cluster,
        slice,
        HEADLESS,
        &value,
        "a slice's headless label added or removed",
    )
}

fn label_manager(
    cluster: &mut Cluster,
    slice: &EndpointSlice,
    random: &mut StdRng,
) -> Result<Option<Step>> {
    let managers = [
        Value::Null,
        json!(KUBERNETES),
        json!(MIRRORING),
        json!(FOREIGN),
        json!(""),
    ];
    let value = pick(&managers, random);
    relabel(
        cluster,
        slice,
        MANAGED_BY,
        &value,
        "a slice's managed-by changed",
    )
}

fn label_otherwise(
    cluster: &mut Cluster,
    slice: &EndpointSlice,
    random: &mut StdRng,
) -> Result<Option<Step>> {
    let value = pick(&[Value::Null, json!("x"), json!("y")], random);
    let label = pick(&OTHERS, random);
    relabel(
        cluster,
        slice,
        label,
        &value,
        "another label of a slice changed",
    )
}

/// Sets a label of a slice, or removes it.
fn relabel(
    cluster: &mut Cluster,
    slice: &EndpointSlice,
    label: &str,
    value: &Value,
    what: &'static str,
) -> Result<Option<Step>> {
    let key = slice_key(slice)?;
    let text = format!("{}: {label}={value}", key.1);
    let moved_to = value.as_str().filter(|_| label == SERVICE);
    let moved_to = moved_to.map(|service| (key.0, service.to_owned()));
    let services = service_of(slice).into_iter().chain(moved_to).collect();
    let patch = json!({"metadata": {"labels": {label: value}}});
    patch_slice(cluster, slice, &patch, || {
        Step::of_slice(what, text, services)
    })
}

/// No step if the controller manager has deleted the slice meanwhile.
fn patch_slice(
    cluster: &mut Cluster,
    slice: &EndpointSlice,
    patch: &Value,
    step: impl FnOnce() -> Step,
) -> Result<Option<Step>> {
    let patched = cluster.patch::<EndpointSlice>(&slice_key(slice)?, patch)?;
    Ok(patched.map(|_| step()))
}

fn delete_slice(cluster: &mut Cluster, slice: &EndpointSlice) -> Result<Step> {
    let key = slice_key(slice)?;
    cluster.delete_slice(&key)?;
    let services = service_of(slice).into_iter().collect();
    Ok(Step::of_slice("a slice deleted", key.1, services))
}

fn patch_spec(cluster: &mut Cluster, key: &Key, fields: Value) -> Result<()> {
    let patched = cluster.patch::<Service>(key, &json!({"spec": fields}))?;
    patched
        .map(drop)
        .with_context(|| format!("Service {key:?} is not there"))
}

fn slice_key(slice: &EndpointSlice) -> Result<Key> {
    let metadata = &slice.metadata;
    let namespace = metadata.namespace.clone();
    Ok((
        namespace.context("a slice in no namespace")?,
        name_of(slice),
    ))
}

fn name_of(slice: &EndpointSlice) -> String {
    slice.metadata.name.clone().unwrap_or_default()
}

/// One port without a name, or one or two with names.
fn ports(random: &mut StdRng) -> Value {
    let names: &[&str] = pick(&[&[][..], &["http"], &["http", "dns"], &["sql"]], random);
    match names {
        [] => json!([{"port": 80}]),
        names => names
            .iter()
            .zip([80, 53])
            .map(|(name, port)| json!({"name": name, "port": port, "protocol": "TCP"}))
            .collect(),
    }
}

fn pick<T: Clone>(all: &[T], random: &mut StdRng) -> T {
    all[random.random_range(0..all.len())].clone()
}
