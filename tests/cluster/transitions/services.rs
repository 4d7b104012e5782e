//! Transitions of Services, and of the pods that they select.

use anyhow::{Context as _, Result, bail};
use k8s_openapi::api::core::v1::{Pod, Service};
use rand::{RngExt as _, rngs::StdRng};
use serde_json::{Value, json};

use super::{
    form::{FormChange, FormType, ServiceFields, ServiceForm},
    generator::{
        OTHER_LABELS, PODS, SERVICES, Transition, TransitionGenerator, WriteCount, app, pick, ports,
    },
};
use crate::{
    cluster::{LiveCluster, unscheduled_spec},
    objects::{HEADLESS, MANAGED_BY, NamespacedName, WrittenObject, pod, service},
};

impl TransitionGenerator {
    /// Changes a Service's form. Among the possible changes, one of the rarest so far is drawn.
    pub(super) fn change_form(
        &mut self,
        cluster: &mut LiveCluster,
        key: &NamespacedName,
        service: &Service,
        random: &mut StdRng,
    ) -> Result<Transition> {
        let from = ServiceForm::from_service(service);
        let others = || {
            self.directions
                .iter()
                .filter(|((form, _), _)| *form == from)
        };
        let fewest = others().map(|(_, count)| *count).min();
        let seldom = others().filter(|(_, count)| Some(**count) == fewest);
        let seldom: Vec<ServiceForm> = seldom.map(|((_, to), _)| *to).collect();
        let to = pick(&seldom, random);
        *self.directions.entry((from, to)).or_default() += 1;

        let text = format!("{from:?} -> {to:?}");
        let is_recreated = random.random_bool(match from.change_to(to) {
            FormChange::InPlace => 0.1,
            FormChange::ThroughExternalName => 0.5,
        });
        if is_recreated {
            cluster.delete_service(key)?;
            self.make_service(cluster, key, to, random)?;
            return Ok(Transition::by_several_writes(
                "a Service deleted and made again",
                key,
                &text,
            ));
        }
        let fields = self.random_fields(key, random);
        if from.change_to(to) == FormChange::ThroughExternalName {
            let alias = ServiceForm {
                kind: FormType::ExternalName,
                ..from
            };
            patch_spec(cluster, key, &alias.spec_patch(&fields))?;
            patch_spec(cluster, key, &to.spec_patch(&fields))?;
            return Ok(Transition::by_several_writes(
                "a Service's type changed by way of ExternalName",
                key,
                &text,
            ));
        }
        patch_spec(cluster, key, &to.spec_patch(&fields))?;
        Ok(if from.kind == to.kind {
            Transition::by_one_write("a Service's selector added or removed", key, &text)
        } else {
            Transition::by_one_write("a Service's type changed", key, &text)
        })
    }

    pub(super) fn make_service(
        &mut self,
        cluster: &mut LiveCluster,
        key: &NamespacedName,
        form: ServiceForm,
        random: &mut StdRng,
    ) -> Result<()> {
        let mut fields = form.spec_patch(&self.random_fields(key, random));
        if let Some(fields) = fields.as_object_mut() {
            fields.retain(|_, value| !value.is_null());
        }
        cluster.write(service(key, &fields)?)
    }

    pub(super) fn change_ports(
        &mut self,
        cluster: &mut LiveCluster,
        key: &NamespacedName,
        random: &mut StdRng,
    ) -> Result<Transition> {
        let ports = ports(random);
        patch_spec(cluster, key, &json!({"ports": ports}))?;
        Ok(Transition::by_one_write(
            "a Service's ports changed",
            key,
            &ports.to_string(),
        ))
    }

    /// Changes a Service's labels. The controller manager copies them to the slices that it writes,
    /// except the labels that it sets itself, such as [`HEADLESS`] and [`MANAGED_BY`].
    pub(super) fn change_labels(
        &mut self,
        cluster: &mut LiveCluster,
        key: &NamespacedName,
        random: &mut StdRng,
    ) -> Result<Transition> {
        let labels = json!({
            pick(&[HEADLESS, MANAGED_BY, OTHER_LABELS[0], OTHER_LABELS[1]], random):
                pick(&[json!(""), json!("x"), Value::Null], random),
        });
        let patch = json!({"metadata": {"labels": labels}});
        cluster.patch::<Service>(key, &patch)?;
        Ok(Transition::by_one_write(
            "a Service's labels changed",
            key,
            &labels.to_string(),
        ))
    }

    /// Gives a pod a random `app` label, so that mostly another Service's selector selects it.
    pub(super) fn change_pod(
        &mut self,
        cluster: &mut LiveCluster,
        namespace: &str,
        random: &mut StdRng,
    ) -> Result<Transition> {
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
        Ok(Transition {
            kind: "a pod's label changed",
            description: format!("{}: app={after}", key.1),
            services: selecting.map(|(key, _)| key.clone()).collect(),
            writes: WriteCount::One,
        })
    }

    /// Makes a pod that the selector of a Service may select. Every second pod has a host name, and
    /// the original name of that Service as its subdomain.
    pub(super) fn make_pod(
        &mut self,
        cluster: &mut LiveCluster,
        namespace: &str,
        number: usize,
    ) -> Result<()> {
        let key = (namespace.to_owned(), format!("p{number}"));
        let address = self.address("IPv4");
        let status = json!({"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]});
        let WrittenObject::Pod(mut pod) = pod(&key, &status)? else {
            bail!("`pod` made no Pod");
        };
        let app = app(number % SERVICES);
        let mut spec = unscheduled_spec()?;
        if number.is_multiple_of(2) {
            spec.hostname = Some(format!("host-{number}"));
            spec.subdomain = Some(app.clone());
        }
        pod.spec = Some(spec);
        pod.metadata.labels = Some([("app".to_owned(), app)].into());
        cluster.write(WrittenObject::Pod(pod))
    }

    /// Random values for a Service's fields. The selector mostly selects the Service's own pods.
    pub(super) fn random_fields(
        &mut self,
        key: &NamespacedName,
        random: &mut StdRng,
    ) -> ServiceFields {
        let other = random.random_range(0..SERVICES);
        // The name without the suffix that counts how often the Service was renamed.
        let own = key.1.split('-').next().unwrap_or_default();
        let app = if random.random_bool(0.15) {
            app(other)
        } else {
            own.to_owned()
        };
        let namespace = pick(&self.namespaces, random);
        let target = match random.random_range(0..4) {
            0 => "nowhere.invalid".to_owned(),
            1 => format!("ghost.{namespace}.svc.{}", self.zone),
            _ => {
                let service = self.service_name(&namespace, other);
                format!("{service}.{namespace}.svc.{}", self.zone)
            }
        };
        ServiceFields {
            app,
            target,
            ports: ports(random),
        }
    }
}

fn patch_spec(cluster: &mut LiveCluster, key: &NamespacedName, fields: &Value) -> Result<()> {
    let patched = cluster.patch::<Service>(key, &json!({"spec": fields}))?;
    patched
        .map(drop)
        .with_context(|| format!("Service {key:?} does not exist"))
}
