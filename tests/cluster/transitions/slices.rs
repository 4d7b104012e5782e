//! Transitions of slices.

use anyhow::{Context as _, Result};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use rand::{RngExt as _, rngs::StdRng};
use serde_json::{Value, json};

use super::generator::{
    OTHER_LABELS, SERVICES, Transition, TransitionGenerator, WriteCount, pick, ports,
};
use crate::{
    cluster::LiveCluster,
    objects::{
        HEADLESS, KUBERNETES, MANAGED_BY, NamespacedName, SERVICE, WrittenObject, service_of, slice,
    },
};

// Values of `managed-by`: another controller of Kubernetes, and a controller of other software.
const MIRRORING: &str = "endpointslicemirroring-controller.k8s.io";
const FOREIGN: &str = "controller.example.com";

impl TransitionGenerator {
    /// Moves a slice to a random Service, to an absent one, or to none.
    pub(super) fn move_slice(
        &mut self,
        cluster: &mut LiveCluster,
        slice: &EndpointSlice,
        random: &mut StdRng,
    ) -> Result<Option<Transition>> {
        let namespace = slice.metadata.namespace.as_deref().unwrap_or_default();
        let service = self.service_name(namespace, random.random_range(0..SERVICES));
        let to = match random.random_range(0..10) {
            0 => Value::Null,
            1 => json!("ghost"),
            _ => json!(service),
        };
        relabel(
            cluster,
            slice,
            SERVICE,
            &to,
            "a slice moved to another Service",
        )
    }

    /// Copies a slice with random differences in its owner, labels and endpoints.
    pub(super) fn copy_slice(
        &mut self,
        cluster: &mut LiveCluster,
        slice: &EndpointSlice,
        random: &mut StdRng,
    ) -> Result<Transition> {
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
            slice_name(slice),
            copy.metadata.labels
        );
        let services = service_of(&copy).into_iter().collect();
        cluster.write(WrittenObject::Slice(Box::new(copy)))?;
        Ok(Transition::of_slice("a slice copied", text, services))
    }

    /// Deletes a slice and creates it with another address type, because the type is immutable.
    pub(super) fn change_family(
        &mut self,
        cluster: &mut LiveCluster,
        slice: &EndpointSlice,
        random: &mut StdRng,
    ) -> Result<Transition> {
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
            slice_name(slice),
        );
        cluster.delete_slice(&key)?;
        let text = format!("{}: {} -> {family}", key.1, slice.address_type);
        let services = service_of(slice).into_iter().collect();
        cluster.write(WrittenObject::Slice(Box::new(new)))?;
        Ok(Transition {
            writes: WriteCount::Several,
            ..Transition::of_slice(
                "a slice made again with another address type",
                text,
                services,
            )
        })
    }

    pub(super) fn change_endpoints(
        &mut self,
        cluster: &mut LiveCluster,
        slice: &EndpointSlice,
        random: &mut StdRng,
    ) -> Result<Option<Transition>> {
        let endpoints = self.endpoints(&slice.address_type, random);
        let text = format!("{}: {endpoints}", slice_name(slice));
        let patch = json!({"endpoints": endpoints});
        let services = service_of(slice).into_iter().collect();
        patch_slice(cluster, slice, &patch, || {
            Transition::of_slice("a slice's endpoints changed", text, services)
        })
    }

    /// Makes a slice without an owner, with random labels, mostly for `service`, which may be of
    /// any form or absent.
    pub(super) fn make_slice(
        &mut self,
        cluster: &mut LiveCluster,
        service: &NamespacedName,
        random: &mut StdRng,
    ) -> Result<Transition> {
        let family = pick(&["IPv4", "IPv4", "IPv4", "IPv6"], random);
        let key = (service.0.clone(), self.unused_name("hand"));
        let endpoints = self.endpoints(family, random);
        let mut made = slice(&key, family, &endpoints, &ports(random))?;
        let labels = made.metadata.labels.get_or_insert_default();
        let service_label = match random.random_range(0..20) {
            0 => None,
            1 => Some("ghost"),
            _ => Some(service.1.as_str()),
        };
        let random_labels = [
            (SERVICE, service_label),
            (
                MANAGED_BY,
                pick(
                    &[
                        None,
                        None,
                        Some(KUBERNETES),
                        Some(MIRRORING),
                        Some(FOREIGN),
                        Some(""),
                    ],
                    random,
                ),
            ),
            (
                HEADLESS,
                pick(&[None, None, Some(""), Some("true"), Some("false")], random),
            ),
            (OTHER_LABELS[0], pick(&[None, Some("x")], random)),
            (OTHER_LABELS[1], pick(&[None, Some("x")], random)),
            (
                OTHER_LABELS[2],
                pick(&[None, Some(service.1.as_str())], random),
            ),
        ];
        labels.extend(
            random_labels
                .into_iter()
                .filter_map(|(label, value)| Some((label.to_owned(), value?.to_owned()))),
        );
        let text = format!("{} with labels {labels:?}", key.1);
        let services = service_of(&made).into_iter().collect();
        cluster.write(WrittenObject::Slice(Box::new(made)))?;
        Ok(Transition::of_slice("a slice made by hand", text, services))
    }

    /// One to three endpoints. Each has a new address, because CoreDNS's cache keeps the reverse
    /// names of addresses that were used before.
    pub(super) fn endpoints(&mut self, family: &str, random: &mut StdRng) -> Value {
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
}

pub(super) fn label_headless(
    cluster: &mut LiveCluster,
    slice: &EndpointSlice,
    random: &mut StdRng,
) -> Result<Option<Transition>> {
    let labels = slice.metadata.labels.iter().flatten();
    let is_labelled = labels.into_iter().any(|(label, _)| label == HEADLESS);
    let value = if is_labelled {
        Value::Null
    } else {
        pick(&[json!(""), json!(""), json!("true")], random)
    };
    relabel(
        cluster,
        slice,
        HEADLESS,
        &value,
        "a slice's headless label added or removed",
    )
}

pub(super) fn label_manager(
    cluster: &mut LiveCluster,
    slice: &EndpointSlice,
    random: &mut StdRng,
) -> Result<Option<Transition>> {
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

pub(super) fn label_other(
    cluster: &mut LiveCluster,
    slice: &EndpointSlice,
    random: &mut StdRng,
) -> Result<Option<Transition>> {
    let value = pick(&[Value::Null, json!("x"), json!("y")], random);
    let label = pick(&OTHER_LABELS, random);
    relabel(
        cluster,
        slice,
        label,
        &value,
        "another label of a slice changed",
    )
}

pub(super) fn delete_slice(cluster: &mut LiveCluster, slice: &EndpointSlice) -> Result<Transition> {
    let key = slice_key(slice)?;
    cluster.delete_slice(&key)?;
    let services = service_of(slice).into_iter().collect();
    Ok(Transition::of_slice("a slice deleted", key.1, services))
}

/// Sets a label of a slice, or removes it if `value` is null. Returns `None` if the controller
/// manager has deleted the slice.
fn relabel(
    cluster: &mut LiveCluster,
    slice: &EndpointSlice,
    label: &str,
    value: &Value,
    kind: &'static str,
) -> Result<Option<Transition>> {
    let key = slice_key(slice)?;
    let text = format!("{}: {label}={value}", key.1);
    let moved_to = value.as_str().filter(|_| label == SERVICE);
    let moved_to = moved_to.map(|service| (key.0, service.to_owned()));
    let services = service_of(slice).into_iter().chain(moved_to).collect();
    let patch = json!({"metadata": {"labels": {label: value}}});
    patch_slice(cluster, slice, &patch, || {
        Transition::of_slice(kind, text, services)
    })
}

/// Patches a slice. `None` if the controller manager has deleted it.
fn patch_slice(
    cluster: &mut LiveCluster,
    slice: &EndpointSlice,
    patch: &Value,
    transition: impl FnOnce() -> Transition,
) -> Result<Option<Transition>> {
    let patched = cluster.patch::<EndpointSlice>(&slice_key(slice)?, patch)?;
    Ok(patched.map(|_| transition()))
}

fn slice_key(slice: &EndpointSlice) -> Result<NamespacedName> {
    let metadata = &slice.metadata;
    let namespace = metadata.namespace.clone();
    Ok((
        namespace.context("a slice has no namespace")?,
        slice_name(slice),
    ))
}

fn slice_name(slice: &EndpointSlice) -> String {
    slice.metadata.name.clone().unwrap_or_default()
}
