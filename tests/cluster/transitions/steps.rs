//! Single transitions: a Service, a slice or a pod becomes what it was not.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde_json::{Value, json};

use super::{
    form::Form,
    slices::{delete_slice, label_headless, label_manager, label_otherwise},
};
use crate::{cluster::Cluster, objects::Key};

/// Makes transitions.
pub(crate) struct Steps {
    seed: u64,
    pub(super) zone: String,
    pub(crate) namespaces: [String; 2],
    /// How many names each Service had before, by namespace and number.
    renamed: BTreeMap<(String, usize), usize>,
    /// Seeds that were drawn.
    drawn: u64,
    /// Addresses that were given away.
    pub(super) addresses: u32,
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
pub(super) const SERVICES: usize = 6;
/// Pods of a namespace, more than one for each Service.
pub(super) const PODS: usize = 9;
/// Slices of a namespace, from which on one is deleted instead of made.
const SLICES: usize = 24;

/// Labels that mean nothing to anybody.
pub(super) const OTHERS: [&str; 3] = ["app", "example.com/tier", "kubernetes.io/service"];

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
            renamed: BTreeMap::new(),
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
                let key = (namespace.clone(), self.service(&namespace, number));
                let mut random = self.random();
                let form = pick(&Form::ALL, &mut random);
                self.make_service(cluster, &key, form, &mut random)?;
            }
            cluster.refresh(&namespace)?;
        }
        Ok(())
    }

    /// The Services, some of which are not there now.
    pub(crate) fn services(&self) -> BTreeSet<Key> {
        let namespaces = self.namespaces.iter();
        let keys = namespaces.flat_map(|namespace| {
            let names = (0..SERVICES).map(|number| self.service(namespace, number));
            names.map(|name| (namespace.clone(), name))
        });
        keys.collect()
    }

    /// The name of a Service.
    pub(super) fn service(&self, namespace: &str, number: usize) -> String {
        let service = (namespace.to_owned(), number);
        match self.renamed.get(&service) {
            None => app(number),
            Some(renamed) => format!("{}-{renamed}", app(number)),
        }
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
        let number = random.random_range(0..SERVICES);
        let key = (namespace.clone(), self.service(&namespace, number));
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
            (0..38, Some(service), _) => {
                self.change_form(cluster, &key, &service, random).map(Some)
            }
            (38..42, Some(_), _) => self.change_ports(cluster, &key, random).map(Some),
            (42..45, Some(_), _) => self.change_labels(cluster, &key, random).map(Some),
            (45..50, Some(_), _) => {
                cluster.delete_service(&key)?;
                // A name that no Service had is something else than one that is there again.
                if random.random_bool(0.7) {
                    *self.renamed.entry((namespace, number)).or_default() += 1;
                }
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

    pub(super) fn address(&mut self, family: &str) -> String {
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

    pub(super) fn unused_name(&self, prefix: &str) -> String {
        format!("{prefix}-{}", self.drawn)
    }

    /// What the next choices follow from: the controller manager's slices change the number of choices.
    pub(super) fn random(&mut self) -> StdRng {
        self.drawn += 1;
        StdRng::seed_from_u64(self.seed ^ (self.drawn << 32))
    }
}

impl Step {
    pub(super) fn one(what: &'static str, service: &Key, text: &str) -> Step {
        Step {
            what,
            text: format!("{}/{} {text}", service.0, service.1),
            services: [service.clone()].into(),
            writes: Writes::One,
        }
    }

    pub(super) fn several(what: &'static str, service: &Key, text: &str) -> Step {
        Step {
            writes: Writes::Several,
            ..Step::one(what, service, text)
        }
    }

    pub(super) fn of_slice(what: &'static str, text: String, services: BTreeSet<Key>) -> Step {
        Step {
            what,
            text,
            services,
            writes: Writes::One,
        }
    }
}

/// What the pods of a Service, whatever its name is now, are labelled with.
pub(super) fn app(number: usize) -> String {
    format!("s{number}")
}

/// One port without a name, or one or two with names.
pub(super) fn ports(random: &mut StdRng) -> Value {
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

pub(super) fn pick<T: Clone>(all: &[T], random: &mut StdRng) -> T {
    all[random.random_range(0..all.len())].clone()
}
