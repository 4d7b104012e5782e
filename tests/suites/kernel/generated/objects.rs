//! Generates a cluster from a seed: objects of every kind that has names, with unusual but legal
//! names.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use k8s_openapi::{
    api::{core::v1 as core, discovery::v1 as discovery},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use rand::{RngExt as _, rngs::StdRng};
use zerohop_kubernetes::{ApiPod, ApiPodStatus, Object, ObjectError, ObjectKey, Objects};

/// The cluster domains.
pub(super) const DOMAINS: [&str; 2] = ["cluster.local", "k8s.example.org"];

/// A label of the longest legal length, 63 bytes.
const LONGEST: &str = "a23456789-123456789-123456789-123456789-123456789-123456789-123";

/// Includes words that have a meaning elsewhere in a name, and a top-level domain.
const NAMESPACES: [&str; 10] = [
    "default",
    "kube-system",
    "pod",
    "svc",
    "dns",
    "com",
    "0day",
    "10-244-0-9",
    "empty",
    LONGEST,
];
/// The namespace without Services.
const EMPTY: &str = "empty";

const SERVICES: [&str; 14] = [
    "svc",
    "pod",
    "dns",
    "ns",
    "pin",
    "prefer",
    "dns-version",
    "0",
    "1st",
    "x--y",
    "10-96-0-1",
    "fd00--1",
    "www",
    LONGEST,
];

const ZONES: [&str; 5] = ["eu-west-1a", "eu-west-1b", "0", "svc", LONGEST];

const PORTS: [&str; 7] = [
    "http",
    "dns",
    "dns-tcp",
    "0a",
    "tcp",
    "svc",
    "a23456789-12345",
];

/// Number of aliases in a chain: more than an answer follows (11).
const CHAIN: usize = 14;

/// The objects of `services` services, their endpoints, and pods.
pub(super) fn generate_objects(random: &mut StdRng, services: usize) -> Objects {
    let mut cluster = GeneratedCluster {
        objects: Objects::default(),
        keys: Vec::new(),
        cluster_ips: 0,
        endpoints: 0,
    };
    for name in NAMESPACES {
        cluster.insert(core::Namespace {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                ..ObjectMeta::default()
            },
            ..core::Namespace::default()
        });
    }
    cluster.keys = random_keys(random, services);
    for key in cluster.keys.clone() {
        match random.random_range(0..100) {
            0..50 => cluster.insert_cluster_ip(random, &key),
            50..85 => cluster.insert_headless(random, &key),
            _ => {
                let target = cluster.random_target(random, &key);
                cluster.insert_alias(&key, &target);
            }
        }
    }
    cluster.insert_chain();
    for number in 0..services / 4 {
        cluster.insert_pod(random, number);
    }
    cluster.objects
}

/// `count` different keys. Up to half of them have names of [`SERVICES`].
fn random_keys(random: &mut StdRng, count: usize) -> Vec<ObjectKey> {
    let namespaces: Vec<&str> = NAMESPACES
        .into_iter()
        .filter(|name| *name != EMPTY)
        .collect();
    let mut keys = BTreeSet::new();
    for (namespace, name) in namespaces
        .iter()
        .flat_map(|namespace| SERVICES.map(|name| (*namespace, name)))
        .take(count / 2)
    {
        keys.insert(key(namespace, name));
    }
    while keys.len() < count {
        let namespace = namespaces[random.random_range(0..namespaces.len())];
        let length = random.random_range(1..30);
        keys.insert(key(namespace, &random_label(random, length)));
    }
    keys.into_iter().collect()
}

fn key(namespace: &str, name: &str) -> ObjectKey {
    ObjectKey::new(namespace, name)
}

/// A label of letters, digits and dashes that neither starts nor ends with a dash.
fn random_label(random: &mut StdRng, length: usize) -> String {
    const BYTES: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789-";
    (0..length)
        .map(|at| {
            // At both ends the last byte, the dash, is left out.
            let left_out = usize::from(at == 0 || at + 1 == length);
            char::from(BYTES[random.random_range(0..BYTES.len() - left_out)])
        })
        .collect()
}

struct GeneratedCluster {
    objects: Objects,
    /// The keys of all services except the chain's, including services that are not inserted yet.
    keys: Vec<ObjectKey>,
    /// Number of different pairs of ClusterIPs assigned.
    cluster_ips: u16,
    /// Number of addresses assigned to endpoints and pods.
    endpoints: u16,
}

impl GeneratedCluster {
    fn insert<T>(&mut self, object: T)
    where
        Object: TryFrom<T, Error = ObjectError>,
    {
        self.objects.insert(Object::try_from(object).unwrap());
    }

    fn insert_cluster_ip(&mut self, random: &mut StdRng, key: &ObjectKey) {
        let (v4, v6) = self.next_cluster_ip(random);
        let addresses = match random.random_range(0..4) {
            0 | 1 => vec![v4.to_string()],
            2 => vec![v6.to_string()],
            _ => vec![v4.to_string(), v6.to_string()],
        };
        let ports = random_ports(random);
        self.insert_service(
            key,
            core::ServiceSpec {
                type_: Some("ClusterIP".to_owned()),
                cluster_ip: addresses.first().cloned(),
                cluster_ips: Some(addresses),
                ports: Some(ports),
                ..core::ServiceSpec::default()
            },
        );
        if random.random_bool(0.4) {
            self.insert_slices(random, key, 3);
        }
    }

    fn insert_headless(&mut self, random: &mut StdRng, key: &ObjectKey) {
        self.insert_service(
            key,
            core::ServiceSpec {
                cluster_ip: Some("None".to_owned()),
                cluster_ips: Some(vec!["None".to_owned()]),
                ports: Some(random_ports(random)),
                ..core::ServiceSpec::default()
            },
        );
        self.insert_slices(random, key, 20);
    }

    fn insert_alias(&mut self, key: &ObjectKey, target: &str) {
        self.insert_service(
            key,
            core::ServiceSpec {
                type_: Some("ExternalName".to_owned()),
                external_name: Some(target.to_owned()),
                ..core::ServiceSpec::default()
            },
        );
    }

    /// A random target of the alias `own`: a name inside or outside the zones, which need not
    /// exist. Targets that are aliases, or `own`, make chains and loops.
    fn random_target(&self, random: &mut StdRng, own: &ObjectKey) -> String {
        let domain = DOMAINS[random.random_range(0..DOMAINS.len())];
        let other = &self.keys[random.random_range(0..self.keys.len())];
        let name = |key: &ObjectKey| format!("{}.{}.svc.{domain}", key.name, key.namespace);
        match random.random_range(0..16) {
            0 => "www.example.com".to_owned(),
            1 => "www.Example.com.".to_owned(),
            2 => "localhost".to_owned(),
            3 => name(own),
            4 => format!("absent.{}", name(other)),
            5 => format!("{}.", name(other).to_uppercase()),
            6 => format!("10-244-0-9.default.pod.{domain}"),
            7 => format!("fd00-10-244--9.default.pod.{domain}"),
            8 => format!("absent.default.pod.{domain}"),
            9 => format!("default.svc.{domain}"),
            10 => format!("eu-west-1a.prefer._zone.{}", name(other)),
            11 => "1.0.96.10.in-addr.arpa".to_owned(),
            _ => name(other),
        }
    }

    /// Inserts a chain of aliases that ends in a service with an address.
    fn insert_chain(&mut self) {
        for link in 0..CHAIN {
            let target = format!("link-{}.default.svc.{}", link + 1, DOMAINS[0]);
            self.insert_alias(&key("default", &format!("link-{link}")), &target);
        }
        self.insert_service(
            &key("default", &format!("link-{CHAIN}")),
            core::ServiceSpec {
                cluster_ip: Some("10.96.255.1".to_owned()),
                ..core::ServiceSpec::default()
            },
        );
    }

    fn insert_service(&mut self, key: &ObjectKey, spec: core::ServiceSpec) {
        self.insert(core::Service {
            metadata: metadata(key),
            spec: Some(spec),
            ..core::Service::default()
        });
    }

    /// Inserts up to three slices of a service, with at most `most` endpoints in all.
    fn insert_slices(&mut self, random: &mut StdRng, key: &ObjectKey, most: usize) {
        for (number, family) in ["IPv4", "IPv6", "IPv4"].into_iter().enumerate() {
            if random.random_bool(0.4) {
                continue;
            }
            let share = if number == 0 { most / 2 } else { most / 4 };
            let count = random.random_range(0..=share);
            let endpoints = (0..count)
                .map(|_| self.random_endpoint(random, family))
                .collect();
            let ports = random_ports(random).into_iter().map(slice_port).collect();
            let name = format!("{}-{number}", key.name);
            let mut metadata = metadata(&ObjectKey::new(key.namespace.clone(), name));
            let label = (
                "kubernetes.io/service-name".to_owned(),
                key.name.to_string(),
            );
            metadata.labels = Some([label].into());
            self.insert(discovery::EndpointSlice {
                address_type: family.to_owned(),
                metadata,
                endpoints,
                ports: Some(ports),
            });
        }
    }

    fn random_endpoint(&mut self, random: &mut StdRng, family: &str) -> discovery::Endpoint {
        // Some endpoints belong to several services, and some addresses may be ClusterIPs.
        let number = match random.random_range(0..20) {
            0..4 => random.random_range(0..=self.endpoints),
            _ => self.next_endpoint(),
        };
        let network = if random.random_bool(0.02) { 96 } else { 244 };
        let hostname = match random.random_range(0..10) {
            0..2 => Some(format!("host-{number}")),
            2..4 => Some("shared".to_owned()),
            4 => Some(LONGEST.to_owned()),
            _ => None,
        };
        let ready = [None, Some(true), Some(true), Some(false)][random.random_range(0..4)];
        let zone = random
            .random_bool(0.6)
            .then(|| ZONES[random.random_range(0..ZONES.len())].to_owned());
        discovery::Endpoint {
            addresses: vec![match family {
                "IPv4" => v4(network, number).to_string(),
                _ => v6(network, number).to_string(),
            }],
            conditions: Some(discovery::EndpointConditions {
                ready,
                ..discovery::EndpointConditions::default()
            }),
            hostname,
            target_ref: Some(core::ObjectReference {
                name: Some(format!("pod-{number}")),
                ..core::ObjectReference::default()
            }),
            zone,
            ..discovery::Endpoint::default()
        }
    }

    fn insert_pod(&mut self, random: &mut StdRng, number: usize) {
        let namespace = NAMESPACES[random.random_range(0..NAMESPACES.len())];
        let phase = ["Running", "Running", "Pending", "Succeeded"][random.random_range(0..4)];
        let address = self.next_endpoint();
        let addresses: Vec<IpAddr> = match random.random_range(0..4) {
            0 => vec![v6(244, address).into()],
            1 => vec![v4(244, address).into(), v6(244, address).into()],
            _ => vec![v4(244, address).into()],
        };
        let addresses = addresses.iter().map(|address| core::PodIP {
            ip: address.to_string(),
        });
        self.insert(ApiPod {
            metadata: metadata(&key(namespace, &format!("pod-{number}"))),
            status: Some(ApiPodStatus {
                phase: Some(phase.to_owned()),
                pod_ips: Some(addresses.collect()),
                ..ApiPodStatus::default()
            }),
            ..ApiPod::default()
        });
    }

    /// The next pair of ClusterIPs; in 1 % of the cases the previous pair again.
    fn next_cluster_ip(&mut self, random: &mut StdRng) -> (Ipv4Addr, Ipv6Addr) {
        if self.cluster_ips == 0 || random.random_bool(0.99) {
            self.cluster_ips += 1;
        }
        (v4(96, self.cluster_ips), v6(96, self.cluster_ips))
    }

    fn next_endpoint(&mut self) -> u16 {
        self.endpoints += 1;
        self.endpoints
    }
}

fn metadata(key: &ObjectKey) -> ObjectMeta {
    ObjectMeta {
        namespace: Some(key.namespace.to_string()),
        name: Some(key.name.to_string()),
        ..ObjectMeta::default()
    }
}

/// The IPv4 address of a number.
fn v4(network: u8, number: u16) -> Ipv4Addr {
    let [high, low] = number.to_be_bytes();
    Ipv4Addr::new(10, network, high, low)
}

/// The IPv6 address of a number. Every 16th address ends in zeros, so its label would end in a
/// dash.
fn v6(network: u8, number: u16) -> Ipv6Addr {
    // The digits of the IPv4 network, read as hexadecimal: 0x96 or 0x244.
    let third = u16::from_str_radix(&network.to_string(), 16).unwrap();
    match number % 16 {
        0 => Ipv6Addr::new(0xfd00, 0x10, third, number, 0, 0, 0, 0),
        _ => Ipv6Addr::new(0xfd00, 0x10, third, 0, 0, 0, 0, number),
    }
}

/// Random ports: none, one with or without a name, or several with names.
fn random_ports(random: &mut StdRng) -> Vec<core::ServicePort> {
    let count = random.random_range(0..4);
    let first = random.random_range(0..PORTS.len());
    (0..count)
        .map(|number| core::ServicePort {
            name: (count > 1 || random.random_bool(0.5))
                .then(|| PORTS[(first + number) % PORTS.len()].to_owned()),
            port: random.random_range(1..=65_535),
            protocol: [None, Some("TCP"), Some("UDP"), Some("SCTP")][random.random_range(0..4)]
                .map(str::to_owned),
            ..core::ServicePort::default()
        })
        .collect()
}

fn slice_port(port: core::ServicePort) -> discovery::EndpointPort {
    discovery::EndpointPort {
        name: port.name,
        // One port in 16 has no number, which stands for all ports.
        port: (port.port % 16 != 0).then_some(port.port),
        protocol: port.protocol,
        ..discovery::EndpointPort::default()
    }
}
