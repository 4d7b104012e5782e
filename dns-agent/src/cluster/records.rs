//! All objects in, a model out.

use std::collections::{BTreeSet, HashMap};

use ipnet::IpNet;

use crate::zone::{
    Below, Model, ModelBuilder, Name, NameError, Rdata, Record, address_data, dashed, reverse_name,
    reverse_zones,
};

use super::objects::{EndpointSlice, Key, Objects, Problem};
use super::reverse::Pointers;
use super::service::{Contribution, Source, contribution};
use super::settings::{PodMode, ZoneSettings};

/// The version of the cluster's naming scheme.
const DNS_VERSION: &[u8] = b"1.1.0";
/// How long the version may be kept, in seconds.
const DNS_VERSION_TTL: u32 = 28800;

/// The names of one cluster domain that all others stand below.
struct Domain {
    apex: Name,
    /// Its name server, if no service is one.
    server: Name,
    svc: Name,
    pod: Name,
}

/// The objects as far as they are exposed, with what belongs together side by side.
pub(super) struct Exposed<'a> {
    pub(super) objects: &'a Objects,
    /// The namespaces: those known, or those other objects are in.
    pub(super) namespaces: BTreeSet<&'a str>,
    /// Whether every other namespace exists too.
    pub(super) any_namespace: bool,
    /// The slices by namespace and service.
    pub(super) slices: HashMap<(&'a str, &'a str), Vec<&'a EndpointSlice>>,
}

/// Makes the model of all objects. An object that makes no sense is a problem and
/// left out; the others are built. `serial` is the version of all zones: the Unix
/// time of the last change.
pub fn build(objects: &Objects, settings: &ZoneSettings, serial: u32) -> (Model, Vec<Problem>) {
    let exposed = Exposed::new(objects, settings);
    let mut builder = ModelBuilder::new(serial);
    let mut problems = BTreeSet::new();
    let mut pointers = Pointers::default();

    for (index, name) in settings.cluster_domains.iter().enumerate() {
        let domain = match add_domain(&mut builder, name, settings) {
            Ok(domain) => domain,
            Err(error) => {
                problems.insert(setting("cluster domain", name.to_string(), error));
                continue;
            }
        };
        problems.extend(add_namespaces(&mut builder, &domain, &exposed, settings));
        if settings.pods == PodMode::Verified {
            add_pods(&mut builder, &domain, &exposed, settings);
        }
        let mut servers = BTreeSet::new();
        for contribution in exposed.services(&domain, settings) {
            servers.extend(name_server(&contribution, settings));
            builder.extend(contribution.records);
            for (name, below) in contribution.below {
                builder.compute_below(name, below);
            }
            problems.extend(contribution.problems);
            if index == 0 {
                pointers.extend(contribution.pointers);
            }
        }
        add_name_servers(&mut builder, &domain, servers, settings);
    }
    for network in &settings.reverse {
        if let Err(error) = add_reverse(&mut builder, *network, settings) {
            problems.insert(setting("reverse network", network.to_string(), error));
        }
    }
    add_pointers(&mut builder, pointers, settings);
    for name in &settings.passed {
        builder.pass(name.clone());
    }
    (builder.build(), problems.into_iter().collect())
}

impl<'a> Exposed<'a> {
    pub(super) fn new(objects: &'a Objects, settings: &'a ZoneSettings) -> Exposed<'a> {
        let listed = &settings.namespaces;
        let any_namespace = !objects.namespaces_known && listed.is_empty();
        let namespaces: BTreeSet<&str> = if objects.namespaces_known {
            let known = objects.namespaces.iter();
            known
                .filter(|name| listed.is_empty() || listed.contains(name))
                .map(String::as_str)
                .collect()
        } else if any_namespace {
            let keys = objects.services.keys().chain(objects.pods.keys());
            keys.map(|key| key.namespace.as_str()).collect()
        } else {
            listed.iter().map(String::as_str).collect()
        };
        let mut slices: HashMap<_, Vec<_>> = HashMap::new();
        for slice in objects.endpoint_slices.values() {
            if let Some(service) = &slice.service {
                let key = (slice.key.namespace.as_str(), service.as_str());
                slices.entry(key).or_default().push(slice);
            }
        }
        Exposed {
            objects,
            namespaces,
            any_namespace,
            slices,
        }
    }

    pub(super) fn contains(&self, key: &Key) -> bool {
        self.namespaces.contains(key.namespace.as_str())
    }

    /// What each service gives to a domain.
    fn services(
        &self,
        domain: &Domain,
        settings: &ZoneSettings,
    ) -> impl Iterator<Item = Contribution> {
        let services = self.objects.services.values();
        services
            .filter(|service| self.contains(&service.key))
            .map(|service| {
                let key = (service.key.namespace.as_str(), service.key.name.as_str());
                let slices = self.slices.get(&key).map_or(&[][..], Vec::as_slice);
                contribution(service, slices, &domain.svc, settings)
            })
    }
}

/// A zone, its name server, and the version of the naming scheme.
fn add_zone(
    builder: &mut ModelBuilder,
    name: &Name,
    settings: &ZoneSettings,
) -> Result<Name, NameError> {
    let version = name.child(b"dns-version")?;
    let server = builder.add_zone(name.clone(), settings.ttl)?.soa.mname;
    builder.add(Record {
        owner: version,
        ttl: DNS_VERSION_TTL,
        data: Rdata::Txt(DNS_VERSION.into()),
    });
    builder.exists(server.clone());
    for address in &settings.name_server_addresses {
        builder.add(Record {
            owner: server.clone(),
            ttl: settings.ttl,
            data: (*address).into(),
        });
    }
    Ok(server)
}

fn add_domain(
    builder: &mut ModelBuilder,
    name: &Name,
    settings: &ZoneSettings,
) -> Result<Domain, NameError> {
    let svc = name.child(b"svc")?;
    let pod = name.child(b"pod")?;
    let server = add_zone(builder, name, settings)?;
    builder.exists(svc.clone());
    builder.exists(pod.clone());
    Ok(Domain {
        apex: name.clone(),
        server,
        svc,
        pod,
    })
}

/// The service's name, if its ClusterIP is asked by the cluster's clients.
fn name_server(contribution: &Contribution, settings: &ZoneSettings) -> Option<Name> {
    let mut pointers = contribution.pointers.iter();
    pointers
        .find(|pointer| {
            pointer.source == Source::ClusterIp && settings.served.contains(&pointer.address)
        })
        .map(|pointer| pointer.target.clone())
}

fn add_name_servers(
    builder: &mut ModelBuilder,
    domain: &Domain,
    mut servers: BTreeSet<Name>,
    settings: &ZoneSettings,
) {
    if servers.is_empty() {
        servers.insert(domain.server.clone());
    }
    builder.extend(servers.into_iter().map(|server| Record {
        owner: domain.apex.clone(),
        ttl: settings.ttl,
        data: Rdata::Ns(server),
    }));
}

fn add_reverse(
    builder: &mut ModelBuilder,
    network: IpNet,
    settings: &ZoneSettings,
) -> Result<(), NameError> {
    for name in reverse_zones(network) {
        add_zone(builder, &name, settings)?;
    }
    Ok(())
}

fn add_namespaces(
    builder: &mut ModelBuilder,
    domain: &Domain,
    exposed: &Exposed<'_>,
    settings: &ZoneSettings,
) -> Vec<Problem> {
    if exposed.any_namespace {
        builder.compute_below(domain.svc.clone(), Below::Empty);
        let pods = match settings.pods {
            PodMode::Disabled => Below::Nothing,
            PodMode::Insecure => Below::EmptyThenAddresses(settings.ttl),
            PodMode::Verified => Below::Empty,
        };
        builder.compute_below(domain.pod.clone(), pods);
    }
    let mut problems = Vec::new();
    for namespace in &exposed.namespaces {
        match (
            label_below(&domain.svc, namespace),
            label_below(&domain.pod, namespace),
        ) {
            (Ok(services), Ok(pods)) => {
                builder.exists(services);
                match settings.pods {
                    PodMode::Disabled => {}
                    PodMode::Insecure => {
                        builder.compute_below(pods, Below::Addresses(settings.ttl));
                    }
                    PodMode::Verified => builder.exists(pods),
                }
            }
            (Err(reason), _) | (_, Err(reason)) => problems.push(Problem {
                kind: "Namespace",
                namespace: String::new(),
                name: namespace.to_string(),
                field: "metadata.name".into(),
                reason,
            }),
        }
    }
    problems
}

fn add_pods(
    builder: &mut ModelBuilder,
    domain: &Domain,
    exposed: &Exposed<'_>,
    settings: &ZoneSettings,
) {
    let pods = exposed.objects.pods.values();
    for pod in pods.filter(|pod| exposed.contains(&pod.key)) {
        for &address in &pod.addresses {
            // A namespace that cannot be a label is a problem already.
            let Ok(owner) = label_below(&domain.pod, &pod.key.namespace)
                .and_then(|namespace| label_below(&namespace, &dashed(address)))
            else {
                continue;
            };
            builder.extend(address_data(&owner, address).map(|data| Record {
                owner: owner.clone(),
                ttl: settings.ttl,
                data,
            }));
        }
    }
}

fn add_pointers(builder: &mut ModelBuilder, pointers: Pointers, settings: &ZoneSettings) {
    for (address, names) in pointers.into_names() {
        let owner = reverse_name(address);
        builder.extend(names.into_iter().map(|name| Record {
            owner: owner.clone(),
            ttl: settings.ttl,
            data: Rdata::Ptr(name),
        }));
    }
}

fn setting(kind: &'static str, name: String, error: NameError) -> Problem {
    Problem {
        kind,
        namespace: String::new(),
        name,
        field: "name".into(),
        reason: error.to_string(),
    }
}

/// The name with a label of an object's in front of it. Only what can stand in a
/// Kubernetes name may stand there, and underscores: a dot would not be a new
/// label, but part of one.
pub(super) fn label_below(name: &Name, label: &str) -> Result<Name, String> {
    if !label
        .bytes()
        .all(|octet| octet.is_ascii_alphanumeric() || octet == b'-' || octet == b'_')
    {
        return Err(format!("{label:?} is not a label of a domain name"));
    }
    name.child(label.as_bytes())
        .map_err(|error| format!("{label:?} below {name}: {error}"))
}
