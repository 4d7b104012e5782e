//! Lookups of a cluster's pods, in assumed proportions, because no public trace of a cluster's
//! queries is known. Only the proportions are assumed. The queries of each lookup follow from the
//! search list that kubelet writes and from how resolvers walk it. The test prints the results of
//! each kind, so that readers can apply other proportions.

use std::net::IpAddr;

use rand::{RngExt as _, rngs::StdRng};
use zerohop_contract::packet::QueryPacket;
use zerohop_kubernetes::{ObjectKey, Objects, ServiceKind};
use zerohop_zone::{dashed, reverse_name};

use crate::kernel::fixture::KernelFixture;

/// The number of lookups of each kind.
pub(super) const LOOKUPS: usize = 500;

/// One kind of lookup. A lookup is one call to a resolver, which may send several queries.
pub(super) struct LookupKind {
    /// Percentage of all lookups.
    pub(super) weight: u32,
    pub(super) what: &'static str,
    questions: fn(&mut SimulatedPod<'_>) -> Vec<(String, u16)>,
}

/// The kinds of lookups. Address lookups always ask for both families (`getaddrinfo` with
/// AF_UNSPEC, Go, JVM, musl).
pub(super) const KINDS: [LookupKind; 11] = [
    // Programs use names of outside services without a final dot and with fewer than five dots.
    // Because of `ndots:5` the resolver first tries every entry of the search list, including the
    // node's own domain (from DHCP).
    LookupKind {
        weight: 40,
        what: "outside, through the search list",
        questions: |pod| pod.search("www.example.com"),
    },
    // The form that Kubernetes' documentation recommends within a namespace. The first entry of the
    // search list finds it.
    LookupKind {
        weight: 25,
        what: "service",
        questions: |pod| {
            let service = pod.cluster_ip_service();
            pod.namespace = service.namespace.to_string();
            pod.search(&service.name)
        },
    },
    // The form that Kubernetes' documentation recommends across namespaces. The second entry finds
    // it.
    LookupKind {
        weight: 14,
        what: "service.namespace",
        questions: |pod| {
            let service = pod.cluster_ip_service();
            pod.search(&format!("{}.{}", service.name, service.namespace))
        },
    },
    // The form in Helm charts: four dots, so the whole search list is tried first.
    LookupKind {
        weight: 8,
        what: "service.namespace.svc.zone",
        questions: |pod| {
            let service = pod.cluster_ip_service();
            pod.search(&pod.full_name(&service))
        },
    },
    // A final dot, or ndots:1 in the pod's dnsConfig, avoids the search list.
    LookupKind {
        weight: 4,
        what: "service.namespace.svc.zone.",
        questions: |pod| {
            let service = pod.cluster_ip_service();
            both_families(&pod.full_name(&service))
        },
    },
    // Used for databases, and by gRPC clients that balance load themselves.
    LookupKind {
        weight: 3,
        what: "headless service",
        questions: |pod| {
            let service = pod.headless_service();
            pod.namespace = service.namespace.to_string();
            pod.search(&service.name)
        },
    },
    // Names like those by which members of a StatefulSet reach each other. The label is an address
    // here, because these endpoints have no host name.
    LookupKind {
        weight: 2,
        what: "endpoint.service",
        questions: |pod| {
            let (service, address) = pod.endpoint_without_hostname();
            let name = format!("{}.{}", dashed(address), service.name);
            pod.namespace = service.namespace.to_string();
            pod.search(&name)
        },
    },
    // Port discovery of Kafka, etcd, SIP and gRPC, by the full name.
    LookupKind {
        weight: 1,
        what: "SRV",
        questions: |pod| {
            let service = pod.headless_service();
            vec![(pod.full_name(&service), SRV)]
        },
    },
    // Used by programs that log names or have names in access lists.
    LookupKind {
        weight: 1,
        what: "PTR",
        questions: |pod| {
            let (_, address) = pod.endpoint_without_hostname();
            vec![(reverse_name(address).to_string(), PTR)]
        },
    },
    // In real clusters, aliases for services outside the cluster. Most of the generated aliases
    // lead to names in the zones.
    LookupKind {
        weight: 1,
        what: "ExternalName",
        questions: |pod| {
            let service = pod.alias_service();
            pod.namespace = service.namespace.to_string();
            pod.search(&service.name)
        },
    },
    // Used by programs that make certificates or host names from pods' addresses.
    LookupKind {
        weight: 1,
        what: "pod",
        questions: |pod| {
            let (service, address) = pod.endpoint_without_hostname();
            both_families(&format!(
                "{}.{}.pod.{ZONE}",
                dashed(address),
                service.namespace
            ))
        },
    },
];

const A: u16 = 1;
const PTR: u16 = 12;
const AAAA: u16 = 28;
const SRV: u16 = 33;

const ZONE: &str = "cluster.local";
/// The node's own search domain, which kubelet appends to the pod's.
const NODE_DOMAIN: &str = "eu-west-1.compute.internal";

/// The queries of [`LOOKUPS`] lookups of one kind.
pub(super) fn lookups(
    kind: &LookupKind,
    objects: &Objects,
    random: &mut StdRng,
) -> Vec<QueryPacket> {
    let mut queries = Vec::new();
    for _ in 0..LOOKUPS {
        let mut pod = SimulatedPod {
            objects,
            random,
            namespace: "default".to_owned(),
        };
        let questions = (kind.questions)(&mut pod);
        // glibc and musl send no OPT record; Go sends one with a size of 1232.
        let with_edns = random.random_bool(0.5);
        queries.extend(questions.iter().map(|(name, rtype)| {
            let query = QueryPacket {
                id: random.random(),
                port: random.random_range(1024..=u16::MAX),
                ..KernelFixture::query(name, *rtype)
            };
            if with_edns {
                query.with_edns(1232, 0, &[])
            } else {
                query
            }
        }));
    }
    queries
}

/// A pod that looks names up, and the objects of its cluster.
struct SimulatedPod<'a> {
    objects: &'a Objects,
    random: &'a mut StdRng,
    /// The pod's namespace.
    namespace: String,
}

impl SimulatedPod<'_> {
    /// The questions that a resolver asks until it has an address, with kubelet's search list and
    /// `ndots:5`.
    fn search(&self, name: &str) -> Vec<(String, u16)> {
        let list = [
            format!("{}.svc.{ZONE}", self.namespace),
            format!("svc.{ZONE}"),
            ZONE.to_owned(),
            NODE_DOMAIN.to_owned(),
        ];
        let mut questions = Vec::new();
        for domain in &list {
            let full = format!("{name}.{domain}");
            questions.extend(both_families(&full));
            if self.exists(&full) {
                return questions;
            }
        }
        questions.extend(both_families(name));
        questions
    }

    /// Whether a full name is a service's or an endpoint's name.
    fn exists(&self, full: &str) -> bool {
        let Some(name) = full.strip_suffix(&format!(".svc.{ZONE}")) else {
            return false;
        };
        let labels: Vec<&str> = name.split('.').collect();
        let (service, namespace) = match labels[..] {
            [service, namespace] => (service, namespace),
            // An endpoint's name. The first label is not checked, because pods look up only
            // endpoints that exist.
            [_, service, namespace] => (service, namespace),
            _ => return false,
        };
        self.objects
            .services
            .contains_key(&ObjectKey::new(namespace, service))
    }

    fn full_name(&self, service: &ObjectKey) -> String {
        format!("{}.{}.svc.{ZONE}", service.name, service.namespace)
    }

    fn cluster_ip_service(&mut self) -> ObjectKey {
        self.random_service(|kind| matches!(kind, ServiceKind::ClusterIp(_)))
    }

    fn headless_service(&mut self) -> ObjectKey {
        self.random_service(|kind| matches!(kind, ServiceKind::Headless))
    }

    fn alias_service(&mut self) -> ObjectKey {
        self.random_service(|kind| matches!(kind, ServiceKind::ExternalName(_)))
    }

    fn random_service(&mut self, is_wanted: impl Fn(&ServiceKind) -> bool) -> ObjectKey {
        let services = self.objects.services.values();
        let wanted: Vec<&ObjectKey> = services
            .filter(|service| is_wanted(&service.kind))
            .map(|service| &service.key)
            .collect();
        wanted[self.random.random_range(0..wanted.len())].clone()
    }

    /// The service and the address of a random endpoint without a host name. The endpoint's label
    /// is the dashed address.
    fn endpoint_without_hostname(&mut self) -> (ObjectKey, IpAddr) {
        let slices = self.objects.endpoint_slices.values();
        let endpoints: Vec<(ObjectKey, IpAddr)> = slices
            .flat_map(|slice| {
                let service = ObjectKey {
                    namespace: slice.key.namespace.clone(),
                    name: slice.service.clone().unwrap_or_default(),
                };
                let nameless = slice
                    .endpoints
                    .iter()
                    .filter(|endpoint| endpoint.hostname.is_none());
                nameless.map(move |endpoint| (service.clone(), endpoint.address))
            })
            .collect();
        endpoints[self.random.random_range(0..endpoints.len())].clone()
    }
}

fn both_families(name: &str) -> Vec<(String, u16)> {
    vec![(name.to_owned(), A), (name.to_owned(), AAAA)]
}
