//! The questions of the comparison: eleven query types for every name that the objects make, and
//! for many near misses. A near miss is a name that differs slightly from such a name.
//!
//! After a transition fewer types and names are asked: see [`questions_about`].

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use rand::{RngExt as _, rngs::StdRng};
use zerohop_contract::{
    addresses::{POD, SERVED},
    packet::{QueryPacket, wire_name},
};

use crate::objects::{LiveObjects, NamespacedName, service_of};

/// A question that every server gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ComparedQuestion {
    pub(crate) name: String,
    pub(crate) rtype: u16,
    pub(crate) edns: EdnsChoice,
}

/// Whether a query has an OPT record, and which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EdnsChoice {
    Without,
    With,
    /// With the DO bit, which asks for signatures.
    DnssecOk,
}

/// The query types: A, NS, CNAME, SOA, PTR, MX, TXT, AAAA, SRV, HTTPS, ANY.
const TYPES: [u16; 11] = [1, 2, 5, 6, 12, 15, 16, 28, 33, 65, 255];

/// The UDP payload size in bytes that queries with EDNS offer.
const SIZE: u16 = 1232;

/// The longest name in wire form, in bytes (RFC 1035 section 3.1).
const LONGEST: usize = 255;

/// Prefixes that, put before the zone, give the names that exist without an object, and some names
/// that do not exist.
const APEX: [&str; 15] = [
    "",
    "svc.",
    "pod.",
    "dns.",
    "ns.dns.",
    "dns-version.",
    "x.dns-version.",
    "x.dns.",
    "x.ns.dns.",
    "hostmaster.",
    "apex.dns.",
    "absent.",
    "absent.svc.",
    "absent.pod.",
    "svc.svc.",
];

/// Labels to put before a name. Some make an existing name, others do not.
const LABELS: [&str; 13] = [
    "absent",
    "10-244-0-9",
    "fd00-10-244--9",
    "10-244-0",
    "_tcp",
    "_udp",
    "_http._tcp",
    "_absent._tcp",
    "http.tcp",
    "_._tcp",
    "_zone",
    "zone-a.pin._zone",
    "a.b.c",
];

/// First labels of pods' names, and near misses.
const PODS: [&str; 9] = [
    "10-1-2-3",
    "10-1-2-300",
    "10-1-2",
    "fd00--1",
    "fd00--",
    "fd00--0",
    "--1",
    "--ffff-a01-203",
    "1-2-3-4-5-6-7-8",
];

/// All questions about the names of these objects, about `other_names`, and about near misses of
/// both, except the names that CoreDNS never answers. Near misses are asked either without or with
/// EDNS, all other names in both ways.
pub(crate) fn make_questions(
    objects: &LiveObjects,
    zone: &str,
    other_names: &BTreeSet<String>,
    random: &mut StdRng,
) -> Vec<ComparedQuestion> {
    let mut names = names_of_objects(objects, zone);
    names.extend(other_names.iter().map(|name| name.to_ascii_lowercase()));
    let unanswered = unanswered_reverse_names(objects);
    names.retain(|name| !unanswered.contains(name));
    let near: BTreeSet<String> = names
        .iter()
        .flat_map(|name| near_misses(name, objects, zone, random))
        .filter(|name| is_legal(name) && !names.contains(name) && !unanswered.contains(name))
        .collect();
    let mut questions = Vec::new();
    for name in names.into_iter().filter(|name| is_legal(name)) {
        for edns in [EdnsChoice::Without, EdnsChoice::With] {
            questions.extend(questions_of_every_type(&name, || edns));
        }
    }
    for name in near {
        questions.extend(questions_of_every_type(&name, || {
            if random.random_bool(0.5) {
                EdnsChoice::With
            } else {
                EdnsChoice::Without
            }
        }));
    }
    questions
}

/// The role of a name for a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum NameRole {
    Service,
    Endpoint,
    Port,
    Absent,
    Reverse,
}

impl NameRole {
    /// The types to query. A is always among them, because its replies show which names do not
    /// exist in CoreDNS.
    fn types(self) -> &'static [u16] {
        match self {
            NameRole::Service => &[A, AAAA, SRV, CNAME, TXT],
            NameRole::Endpoint | NameRole::Port | NameRole::Absent => &[A, AAAA, SRV],
            NameRole::Reverse => &[A, PTR],
        }
    }
}

/// The questions about these Services. `states` are the objects before and now. The questions are
/// about the names of the Services, of their endpoints and ports, about absent names next to them
/// and below them, and about the reverse names of all addresses. Every second question has EDNS.
pub(crate) fn questions_about(
    services: &BTreeSet<NamespacedName>,
    states: [&LiveObjects; 2],
    zone: &str,
) -> Vec<(NameRole, ComparedQuestion)> {
    let mut names = BTreeMap::new();
    for key in services {
        let service = service_name(key, zone);
        let (namespace, name) = key;
        names.extend(
            [
                format!("absent.{service}"),
                format!("_absent._tcp.{service}"),
                format!("_tcp.{service}"),
                // No endpoint of the transitions has this address.
                format!("100-70-255-255.{service}"),
                format!("{name}-absent.{namespace}.svc.{zone}"),
            ]
            .map(|name| (name, NameRole::Absent)),
        );
    }
    for objects in states {
        for key in services {
            if let Some(service) = objects.services.get(key) {
                let made = names_of_service(key, service, zone);
                names.extend(made.into_iter().map(with_role));
            }
        }
        for slice in objects.slices.values() {
            if service_of(slice).is_some_and(|service| services.contains(&service)) {
                let made = names_of_slice(slice, zone);
                names.extend(made.into_iter().map(with_role));
            }
        }
    }
    // `with_role` takes a Service's own name for an endpoint's.
    for key in services {
        names.insert(service_name(key, zone), NameRole::Service);
    }
    let names = names.into_iter().filter(|(name, _)| is_legal(name));
    let typed = names.flat_map(|(name, role)| {
        let types = role.types().iter();
        types.map(move |rtype| (name.clone(), *rtype, role))
    });
    let questions = typed
        .zip([EdnsChoice::Without, EdnsChoice::With].into_iter().cycle())
        .map(|((name, rtype, role), edns)| (role, ComparedQuestion { name, rtype, edns }));
    questions.collect()
}

fn with_role(name: String) -> (String, NameRole) {
    let role = if name.ends_with(".arpa") {
        NameRole::Reverse
    } else if name.starts_with('_') {
        NameRole::Port
    } else {
        NameRole::Endpoint
    };
    (name, role)
}

// Types of records.
pub(crate) const A: u16 = 1;
pub(crate) const CNAME: u16 = 5;
pub(crate) const SOA: u16 = 6;
pub(crate) const PTR: u16 = 12;
pub(crate) const TXT: u16 = 16;
pub(crate) const AAAA: u16 = 28;
pub(crate) const SRV: u16 = 33;

impl ComparedQuestion {
    /// The query message, with a random ID.
    pub(crate) fn message(&self) -> Vec<u8> {
        let query = QueryPacket {
            id: rand::random(),
            // The message does not contain the addresses.
            ..QueryPacket::new(POD[0], SERVED[0], &self.name, self.rtype)
        };
        match self.edns {
            EdnsChoice::Without => query.message(),
            EdnsChoice::With => query.with_edns(SIZE, 0, &[]).message(),
            EdnsChoice::DnssecOk => query.with_edns(SIZE, 1, &[]).message(),
        }
    }

    /// Whether the name is in the zone.
    pub(crate) fn is_inside(&self, zone: &str) -> bool {
        is_at_or_below(&self.name.to_ascii_lowercase(), zone)
    }
}

/// Whether `name` equals `above` or is below it.
pub(crate) fn is_at_or_below(name: &str, above: &str) -> bool {
    name.strip_suffix(above)
        .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// The reverse name of an address.
pub(crate) fn reverse(address: IpAddr) -> String {
    let (parts, suffix): (Vec<String>, _) = match address {
        IpAddr::V4(address) => {
            let bytes = address.octets();
            (bytes.iter().map(u8::to_string).collect(), "in-addr.arpa")
        }
        IpAddr::V6(address) => {
            let nibbles = format!("{:032x}", u128::from(address));
            (nibbles.chars().map(String::from).collect(), "ip6.arpa")
        }
    };
    let mut labels: Vec<&str> = parts.iter().map(String::as_str).rev().collect();
    labels.push(suffix);
    labels.join(".")
}

fn questions_of_every_type(
    name: &str,
    mut edns: impl FnMut() -> EdnsChoice,
) -> Vec<ComparedQuestion> {
    let question = |rtype| ComparedQuestion {
        name: name.to_owned(),
        rtype,
        edns: edns(),
    };
    TYPES.into_iter().map(question).collect()
}

fn is_legal(name: &str) -> bool {
    let labels = name.split('.');
    wire_name(name).len() <= LONGEST
        && labels
            .into_iter()
            .all(|label| (1..64).contains(&label.len()))
}

/// The names that the objects make, and the names of [`APEX`] and [`PODS`], some of which do not
/// exist.
fn names_of_objects(objects: &LiveObjects, zone: &str) -> BTreeSet<String> {
    let mut names: BTreeSet<String> = APEX.iter().map(|label| format!("{label}{zone}")).collect();
    for namespace in &objects.namespaces {
        names.insert(format!("{namespace}.svc.{zone}"));
        names.insert(format!("{namespace}.pod.{zone}"));
        names.extend(
            PODS.iter()
                .map(|pod| format!("{pod}.{namespace}.pod.{zone}")),
        );
    }
    for (key, service) in &objects.services {
        names.extend(names_of_service(key, service, zone));
    }
    for slice in objects.slices.values() {
        names.extend(names_of_slice(slice, zone));
    }
    for ((namespace, _), pod) in &objects.pods {
        let addresses = pod
            .status
            .iter()
            .flat_map(|status| status.pod_ips.iter().flatten());
        names.extend(addresses.map(|address| {
            let label = address.ip.replace(['.', ':'], "-");
            format!("{label}.{namespace}.pod.{zone}")
        }));
    }
    names
}

fn service_name((namespace, name): &NamespacedName, zone: &str) -> String {
    format!("{name}.{namespace}.svc.{zone}")
}

/// The names that a Service makes.
fn names_of_service(key: &NamespacedName, service: &Service, zone: &str) -> BTreeSet<String> {
    let name = service_name(key, zone);
    let spec = service.spec.as_ref();
    let ports = spec.and_then(|spec| spec.ports.as_ref());
    let mut names: BTreeSet<String> = ports
        .into_iter()
        .flatten()
        .filter_map(|port| port_name(port.name.as_deref(), port.protocol.as_deref(), &name))
        .collect();
    let addresses = spec.and_then(|spec| spec.cluster_ips.as_ref());
    names.extend(
        addresses
            .into_iter()
            .flatten()
            .filter_map(|address| address.parse().ok())
            .map(reverse),
    );
    names.insert(name);
    names
}

/// The names that a slice makes.
fn names_of_slice(slice: &EndpointSlice, zone: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let Some(key) = service_of(slice) else {
        return names;
    };
    let service = service_name(&key, zone);
    for port in slice.ports.iter().flatten() {
        names.extend(port_name(
            port.name.as_deref(),
            port.protocol.as_deref(),
            &service,
        ));
    }
    for endpoint in &slice.endpoints {
        let addresses = endpoint.addresses.iter();
        names.extend(
            addresses
                .clone()
                .filter_map(|address| address.parse().ok())
                .map(reverse),
        );
        let labels = addresses.map(|address| address.replace(['.', ':'], "-"));
        let pod = endpoint
            .target_ref
            .as_ref()
            .and_then(|pod| pod.name.clone());
        for label in labels.chain(endpoint.hostname.clone()).chain(pod) {
            names.insert(format!("{label}.{service}"));
            // The servers append a 0 to the label of an IPv6 address such as `fd00::`.
            if label.ends_with('-') {
                names.insert(format!("{label}0.{service}"));
            }
        }
        if let Some(topology_zone) = &endpoint.zone {
            let topology_zone = topology_zone.to_ascii_lowercase();
            for directive in ["pin", "prefer"] {
                names.insert(format!("{topology_zone}.{directive}._zone.{service}"));
            }
        }
    }
    names
}

/// The reverse names of addresses in slices without a Service. CoreDNS never answers them, because
/// it makes a PTR target that no message can hold.
pub(crate) fn unanswered_reverse_names(objects: &LiveObjects) -> BTreeSet<String> {
    let slices = objects.slices.values();
    let without_service = slices.filter(|slice| service_of(slice).is_none());
    let endpoints = without_service.flat_map(|slice| &slice.endpoints);
    endpoints
        .flat_map(|endpoint| &endpoint.addresses)
        .filter_map(|address| address.parse().ok())
        .map(reverse)
        .collect()
}

/// The name of a port of `service`. `None` if the port has no name.
fn port_name(port: Option<&str>, protocol: Option<&str>, service: &str) -> Option<String> {
    let port = port.filter(|port| !port.is_empty())?;
    let protocol = protocol.unwrap_or("TCP").to_ascii_lowercase();
    Some(format!("_{port}._{protocol}.{service}"))
}

/// Near misses of a name.
fn near_misses(name: &str, objects: &LiveObjects, zone: &str, random: &mut StdRng) -> Vec<String> {
    let mut near = vec![
        name.to_ascii_uppercase(),
        in_random_case(name, random),
        with_another_letter(name, random),
        with_another_letter(name, random),
        name.replacen('_', "", 1),
        name.replacen(".svc.", ".pod.", 1),
        name.replacen(".pod.", ".svc.", 1),
        name.replacen(".svc.", ".", 1),
        // Names as the search list of a pod's resolv.conf makes them.
        format!("{name}.svc.{zone}"),
        format!("{name}.{zone}"),
    ];
    near.extend(name.split_once('.').map(|(_, parent)| parent.to_owned()));
    near.extend(LABELS.iter().map(|label| format!("{label}.{name}")));
    // The same name in a random namespace, and in one that does not exist.
    let count = objects.namespaces.len().max(1);
    let other = objects.namespaces.iter().nth(random.random_range(0..count));
    let own = objects
        .namespaces
        .iter()
        .find(|namespace| name.contains(namespace.as_str()));
    if let (Some(own), Some(other)) = (own, other) {
        near.push(name.replacen(own.as_str(), other, 1));
        near.push(name.replacen(own.as_str(), &format!("{other}x"), 1));
    }
    near
}

fn in_random_case(name: &str, random: &mut StdRng) -> String {
    let other = |letter: char| {
        if random.random_bool(0.5) {
            letter.to_ascii_uppercase()
        } else {
            letter
        }
    };
    name.chars().map(other).collect()
}

fn with_another_letter(name: &str, random: &mut StdRng) -> String {
    let at = random.random_range(0..name.len().max(1));
    let change = |(position, letter): (usize, char)| {
        if position == at && letter != '.' {
            char::from(random.random_range(b'a'..=b'z'))
        } else {
            letter
        }
    };
    name.chars().enumerate().map(change).collect()
}
