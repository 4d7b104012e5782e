//! The random generator of transitions. A transition changes one Service, slice or pod.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde_json::{Value, json};

use super::form::ServiceForm;
use crate::{cluster::LiveCluster, objects::NamespacedName};

/// Generates random transitions from a seed.
pub(crate) struct TransitionGenerator {
    seed: u64,
    pub(super) zone: String,
    pub(crate) namespaces: [String; 2],
    /// How often each Service was renamed, by its namespace and number.
    pub(super) renamed: BTreeMap<(String, usize), usize>,
    /// Number of random generators made so far.
    generators_made: u64,
    /// Number of addresses used so far.
    pub(super) addresses: u32,
    /// Number of changes made from each form of a Service to each other form.
    pub(crate) directions: BTreeMap<(ServiceForm, ServiceForm), usize>,
}

/// A transition that was made.
pub(crate) struct Transition {
    pub(crate) kind: &'static str,
    /// Details, with the objects' names.
    pub(crate) description: String,
    /// The Services whose names may change.
    pub(crate) services: BTreeSet<NamespacedName>,
    pub(crate) writes: WriteCount,
}

/// Whether a transition took one request or several. Servers may see the states between requests.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum WriteCount {
    One,
    Several,
}

/// Number of Services in a namespace.
pub(super) const SERVICES: usize = 6;
/// Number of pods in a namespace; more than Services, so that some Services have two pods.
pub(super) const PODS: usize = 9;

/// Labels of Services and slices without a meaning for DNS. The last one is the beginning of the
/// label that names a slice's Service.
pub(super) const OTHER_LABELS: [&str; 3] = ["app", "example.com/tier", "kubernetes.io/service"];

impl TransitionGenerator {
    pub(crate) fn new(seed: u64, prefix: &str, zone: &str) -> TransitionGenerator {
        let directions = ServiceForm::ALL.iter().flat_map(|from| {
            let others = ServiceForm::ALL.iter().filter(move |to| *to != from);
            others.map(move |to| ((*from, *to), 0))
        });
        TransitionGenerator {
            seed,
            zone: zone.to_owned(),
            namespaces: [0, 1].map(|number| format!("{prefix}-t{number}")),
            renamed: BTreeMap::new(),
            generators_made: 0,
            addresses: 0,
            directions: directions.collect(),
        }
    }

    /// Makes the namespaces, their pods, and a Service of each name.
    pub(crate) fn prepare(&mut self, cluster: &mut LiveCluster) -> Result<()> {
        for namespace in self.namespaces.clone() {
            cluster.create_namespace(&namespace)?;
            for number in 0..PODS {
                self.make_pod(cluster, &namespace, number)?;
            }
            for number in 0..SERVICES {
                let key = (namespace.clone(), self.service_name(&namespace, number));
                let mut random = self.random();
                let form = pick(&ServiceForm::ALL, &mut random);
                self.make_service(cluster, &key, form, &mut random)?;
            }
            cluster.refresh(&namespace)?;
        }
        Ok(())
    }

    /// The names of all Services. Some of these Services may not exist now.
    pub(crate) fn services(&self) -> BTreeSet<NamespacedName> {
        let namespaces = self.namespaces.iter();
        let keys = namespaces.flat_map(|namespace| {
            let names = (0..SERVICES).map(|number| self.service_name(namespace, number));
            names.map(|name| (namespace.clone(), name))
        });
        keys.collect()
    }

    /// The current name of a Service.
    pub(super) fn service_name(&self, namespace: &str, number: usize) -> String {
        let service = (namespace.to_owned(), number);
        match self.renamed.get(&service) {
            None => app(number),
            Some(renamed) => format!("{}-{renamed}", app(number)),
        }
    }

    /// An address, or a domain name for the family FQDN, that was not used before.
    pub(super) fn address(&mut self, family: &str) -> String {
        self.addresses += 1;
        let number = self.addresses;
        match family {
            "FQDN" => format!("endpoint-{number}.invalid"),
            "IPv6" => format!("fd00:5a48:70::{number:x}"),
            // Each of the last two bytes has 250 values. The second byte starts at 70, because
            // other objects of the suite have addresses in 100.64.0.0 to 100.67.255.255.
            _ => format!(
                "100.{}.{}.{}",
                70 + number / 62_500,
                number / 250 % 250,
                number % 250 + 1
            ),
        }
    }

    /// A name that no earlier transition used: each transition makes a random generator.
    pub(super) fn unused_name(&self, prefix: &str) -> String {
        format!("{prefix}-{}", self.generators_made)
    }

    /// A new random generator. Each attempt to make a transition has its own, because the number of
    /// choices in an attempt depends on the controller manager's slices.
    pub(super) fn random(&mut self) -> StdRng {
        self.generators_made += 1;
        StdRng::seed_from_u64(self.seed ^ (self.generators_made << 32))
    }
}

impl Transition {
    pub(super) fn by_one_write(
        kind: &'static str,
        service: &NamespacedName,
        text: &str,
    ) -> Transition {
        Transition {
            kind,
            description: format!("{}/{} {text}", service.0, service.1),
            services: [service.clone()].into(),
            writes: WriteCount::One,
        }
    }

    pub(super) fn by_several_writes(
        kind: &'static str,
        service: &NamespacedName,
        text: &str,
    ) -> Transition {
        Transition {
            writes: WriteCount::Several,
            ..Transition::by_one_write(kind, service, text)
        }
    }

    pub(super) fn of_slice(
        kind: &'static str,
        text: String,
        services: BTreeSet<NamespacedName>,
    ) -> Transition {
        Transition {
            kind,
            description: text,
            services,
            writes: WriteCount::One,
        }
    }
}

/// The `app` label of a Service's pods. It stays the same when the Service is renamed.
pub(super) fn app(number: usize) -> String {
    format!("s{number}")
}

/// One port without a name, or one or two ports with names.
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
