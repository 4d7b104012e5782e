//! Transitions of Services, and of the pods that they select.

use anyhow::{Context as _, Result, bail};
use k8s_openapi::api::core::v1::{Pod, Service};
use rand::{RngExt as _, rngs::StdRng};
use serde_json::{Value, json};

use super::{
    form::{Change, Form, Kind, Parts},
    steps::{OTHERS, PODS, SERVICES, Step, Steps, Writes, app, pick, ports},
};
use crate::{
    cluster::{Cluster, unscheduled},
    objects::{HEADLESS, Key, MANAGED_BY, Object, pod, service},
};

impl Steps {
    /// A Service becomes one of a form that fewest of its form became.
    pub(super) fn change_form(
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
                kind: Kind::ExternalName,
                ..from
            };
            patch_spec(cluster, key, &alias.fields(&parts))?;
            patch_spec(cluster, key, &to.fields(&parts))?;
            return Ok(Step::several(
                "a Service's type changed by way of ExternalName",
                key,
                &text,
            ));
        }
        patch_spec(cluster, key, &to.fields(&parts))?;
        Ok(match from.kind == to.kind {
            true => Step::one("a Service's selector added or removed", key, &text),
            false => Step::one("a Service's type changed", key, &text),
        })
    }

    pub(super) fn make_service(
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

    pub(super) fn change_ports(
        &mut self,
        cluster: &mut Cluster,
        key: &Key,
        random: &mut StdRng,
    ) -> Result<Step> {
        let ports = ports(random);
        patch_spec(cluster, key, &json!({"ports": ports}))?;
        Ok(Step::one(
            "a Service's ports changed",
            key,
            &ports.to_string(),
        ))
    }

    /// The controller manager copies a Service's labels to the slices that it writes.
    pub(super) fn change_labels(
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
    pub(super) fn change_pod(
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
        let after = app(random.random_range(0..SERVICES));
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

    /// A pod that a selector selects. Every other one has a host name, below one of the Services.
    pub(super) fn make_pod(
        &mut self,
        cluster: &mut Cluster,
        namespace: &str,
        number: usize,
    ) -> Result<()> {
        let key = (namespace.to_owned(), format!("p{number}"));
        let address = self.address("IPv4");
        let status = json!({"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]});
        let Object::Pod(mut pod) = pod(&key, &status)? else {
            bail!("a Pod is one");
        };
        let app = app(number % SERVICES);
        let mut spec = unscheduled()?;
        if number.is_multiple_of(2) {
            spec.hostname = Some(format!("host-{number}"));
            spec.subdomain = Some(app.clone());
        }
        pod.spec = Some(spec);
        pod.metadata.labels = Some([("app".to_owned(), app)].into());
        cluster.write(Object::Pod(pod))
    }

    pub(super) fn parts(&mut self, key: &Key, random: &mut StdRng) -> Parts {
        let other = random.random_range(0..SERVICES);
        let own = key.1.split('-').next().unwrap_or_default();
        let app = match random.random_bool(0.15) {
            true => app(other),
            false => own.to_owned(),
        };
        let namespace = pick(&self.namespaces, random);
        let target = match random.random_range(0..4) {
            0 => "nowhere.invalid".to_owned(),
            1 => format!("ghost.{namespace}.svc.{}", self.zone),
            _ => {
                let service = self.service(&namespace, other);
                format!("{service}.{namespace}.svc.{}", self.zone)
            }
        };
        Parts {
            app,
            target,
            ports: ports(random),
        }
    }
}

fn patch_spec(cluster: &mut Cluster, key: &Key, fields: &Value) -> Result<()> {
    let patched = cluster.patch::<Service>(key, &json!({"spec": fields}))?;
    patched
        .map(drop)
        .with_context(|| format!("Service {key:?} is not there"))
}
