//! What the pods of a cluster ask, in proportions that are assumed, not measured: no public trace
//! of a cluster's queries is known to us. What a lookup becomes is not assumed: it follows from the
//! search list that kubelet writes and from how resolvers walk it. The shares are printed for
//! each kind, so that whoever knows better weights can do the sum again.

use std::net::IpAddr;

use dns_agent::{
    cluster::{Key, Objects, ServiceKind},
    zone::{dashed, reverse_name},
};
use rand::{RngExt as _, rngs::StdRng};
use zerohop_tests::packet::Query;

use crate::kernel::fixture::Fixture;

/// Lookups of each kind.
pub(super) const LOOKUPS: usize = 500;

/// One kind of lookup: what a program asks of its resolver once.
pub(super) struct Kind {
    /// How many of a hundred lookups.
    pub(super) weight: u32,
    pub(super) what: &'static str,
    questions: fn(&mut Asker<'_>) -> Vec<(String, u16)>,
}

/// Addresses are always asked for in both families (`getaddrinfo` with AF_UNSPEC, Go, JVM, musl).
pub(super) const KINDS: [Kind; 11] = [
    // Programs call outside services by names without a final dot, which have fewer than five dots:
    // every entry of the search list comes first, the node's own domain (DHCP) among them.
    Kind {
        weight: 40,
        what: "outside, through the search list",
        questions: |asker| asker.search("www.example.com"),
    },
    // What Kubernetes' documentation recommends within a namespace; the first entry finds it.
    Kind {
        weight: 25,
        what: "service",
        questions: |asker| {
            let service = asker.cluster_ip();
            asker.namespace = service.namespace.to_string();
            asker.search(&service.name)
        },
    },
    // And across namespaces; the second entry finds it.
    Kind {
        weight: 14,
        what: "service.namespace",
        questions: |asker| {
            let service = asker.cluster_ip();
            asker.search(&format!("{}.{}", service.name, service.namespace))
        },
    },
    // As Helm charts write it: four dots, so the list is walked to its end first.
    Kind {
        weight: 8,
        what: "service.namespace.svc.zone",
        questions: |asker| {
            let service = asker.cluster_ip();
            asker.search(&asker.full(&service))
        },
    },
    // With a final dot, or with ndots:1 in the pod's dnsConfig: who has read about ndots.
    Kind {
        weight: 4,
        what: "service.namespace.svc.zone.",
        questions: |asker| {
            let service = asker.cluster_ip();
            both(&asker.full(&service))
        },
    },
    // Databases, and gRPC clients that balance load themselves.
    Kind {
        weight: 3,
        what: "headless service",
        questions: |asker| {
            let service = asker.headless();
            asker.namespace = service.namespace.to_string();
            asker.search(&service.name)
        },
    },
    // The members of a StatefulSet call each other so.
    Kind {
        weight: 2,
        what: "endpoint.service",
        questions: |asker| {
            let (service, address) = asker.endpoint();
            let name = format!("{}.{}", dashed(address), service.name);
            asker.namespace = service.namespace.to_string();
            asker.search(&name)
        },
    },
    // Kafka, etcd, SIP and gRPC discover ports so; they ask for the full name.
    Kind {
        weight: 1,
        what: "SRV",
        questions: |asker| {
            let service = asker.headless();
            vec![(asker.full(&service), SRV)]
        },
    },
    // Logs and access lists with names in them.
    Kind {
        weight: 1,
        what: "PTR",
        questions: |asker| {
            let (_, address) = asker.endpoint();
            vec![(reverse_name(address).to_string(), PTR)]
        },
    },
    // Aliases for what stands outside the cluster.
    Kind {
        weight: 1,
        what: "ExternalName",
        questions: |asker| {
            let service = asker.alias();
            asker.namespace = service.namespace.to_string();
            asker.search(&service.name)
        },
    },
    // Programs that make certificates or host names of pods' addresses.
    Kind {
        weight: 1,
        what: "pod",
        questions: |asker| {
            let (service, address) = asker.endpoint();
            both(&format!(
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

/// The questions of [`LOOKUPS`] lookups of one kind.
pub(super) fn lookups(kind: &Kind, objects: &Objects, random: &mut StdRng) -> Vec<Query> {
    let mut queries = Vec::new();
    for _ in 0..LOOKUPS {
        let mut asker = Asker {
            objects,
            random,
            namespace: "default".to_owned(),
        };
        let questions = (kind.questions)(&mut asker);
        // glibc and musl ask without EDNS, Go with this size.
        let with_edns = random.random_bool(0.5);
        queries.extend(questions.iter().map(|(name, rtype)| {
            let query = Query {
                id: random.random(),
                port: random.random_range(1024..=u16::MAX),
                ..Fixture::query(name, *rtype)
            };
            match with_edns {
                true => query.with_edns(1232, 0, &[]),
                false => query,
            }
        }));
    }
    queries
}

/// A pod, and the cluster it knows.
struct Asker<'a> {
    objects: &'a Objects,
    random: &'a mut StdRng,
    /// Where the pod is.
    namespace: String,
}

impl Asker<'_> {
    /// What a resolver asks until it has an address: the search list of kubelet with `ndots:5`.
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
            questions.extend(both(&full));
            if self.exists(&full) {
                return questions;
            }
        }
        questions.extend(both(name));
        questions
    }

    fn exists(&self, full: &str) -> bool {
        let Some(name) = full.strip_suffix(&format!(".svc.{ZONE}")) else {
            return false;
        };
        let labels: Vec<&str> = name.split('.').collect();
        let (service, namespace) = match labels[..] {
            [service, namespace] => (service, namespace),
            // An endpoint; they are all looked for where they are.
            [_, service, namespace] => (service, namespace),
            _ => return false,
        };
        self.objects
            .services
            .contains_key(&Key::new(namespace, service))
    }

    fn full(&self, service: &Key) -> String {
        format!("{}.{}.svc.{ZONE}", service.name, service.namespace)
    }

    fn cluster_ip(&mut self) -> Key {
        self.service(|kind| matches!(kind, ServiceKind::ClusterIp(_)))
    }

    fn headless(&mut self) -> Key {
        self.service(|kind| matches!(kind, ServiceKind::Headless))
    }

    fn alias(&mut self) -> Key {
        self.service(|kind| matches!(kind, ServiceKind::ExternalName(_)))
    }

    fn service(&mut self, is_meant: impl Fn(&ServiceKind) -> bool) -> Key {
        let services = self.objects.services.values();
        let meant: Vec<&Key> = services
            .filter(|service| is_meant(&service.kind))
            .map(|service| &service.key)
            .collect();
        meant[self.random.random_range(0..meant.len())].clone()
    }

    /// An endpoint that goes by its address.
    fn endpoint(&mut self) -> (Key, IpAddr) {
        let slices = self.objects.endpoint_slices.values();
        let endpoints: Vec<(Key, IpAddr)> = slices
            .flat_map(|slice| {
                let service = Key {
                    namespace: slice.key.namespace.clone(),
                    name: slice.service.clone().unwrap_or_default(),
                };
                let named = slice
                    .endpoints
                    .iter()
                    .filter(|endpoint| endpoint.hostname.is_none());
                named.map(move |endpoint| (service.clone(), endpoint.address))
            })
            .collect();
        endpoints[self.random.random_range(0..endpoints.len())].clone()
    }
}

fn both(name: &str) -> Vec<(String, u16)> {
    vec![(name.to_owned(), A), (name.to_owned(), AAAA)]
}
