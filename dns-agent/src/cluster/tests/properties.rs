//! What holds for every cluster.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use proptest::prelude::*;

use crate::cluster::{
    Endpoint, EndpointNames, EndpointSlice, Key, Namespace, Object, Objects, OddEndpoints, Pod,
    PodMode, Port, Reading, Service, ServiceKind, ZoneSettings, build,
};
use crate::zone::tests::rendering::parse;
use crate::zone::{Absent, Answer, Model, Name, Node, Rdata, Record, Rtype, ZoneData, render};

use super::name;

const TYPES: [Rtype; 10] = [
    Rtype::A,
    Rtype::NS,
    Rtype::CNAME,
    Rtype::SOA,
    Rtype::PTR,
    Rtype::TXT,
    Rtype::AAAA,
    Rtype::SRV,
    Rtype::HTTPS,
    Rtype::ANY,
];

proptest! {
    #[test]
    fn every_node_answers_as_it_says(cluster in clusters()) {
        let model = cluster.model();
        for (name, node) in model.nodes() {
            let types: HashSet<Rtype> = node.types().collect();
            for rtype in TYPES {
                let answer = model.answer(name, rtype);
                let followed = node.is_alias() && !matches!(rtype, Rtype::CNAME | Rtype::ANY);
                let right = match &answer {
                    // A CNAME alone leads into another zone.
                    Answer::Data { answer, .. } if followed => !answer.is_empty(),
                    Answer::Alias { target, .. } => followed && model.zone_of(target).is_none(),
                    Answer::Data { answer, .. } => {
                        types.contains(&rtype)
                            && answer.iter().all(|record| record.owner == *name)
                            && answer.iter().all(|record| record.data.rtype() == rtype)
                            && answer.is_sorted_by(|a, b| a < b)
                    }
                    Answer::NoData { zone } => {
                        model.zone_of(name) == Some(*zone) && (followed || !types.contains(&rtype))
                    }
                    Answer::NotOurs => {
                        // An alias may lead to a name that is left to somebody else.
                        let is_beyond = model.zone_of(name).is_none() && !types.contains(&rtype);
                        followed || is_beyond || node.passes(rtype)
                    }
                    Answer::NxDomain { .. } | Answer::NotYetKnown => false,
                };
                prop_assert!(right, "{} {}: {:?}", name, rtype, answer);
            }
        }
    }

    #[test]
    fn names_exist_down_to_those_with_something_to_say(cluster in clusters()) {
        let model = cluster.model();
        let nodes: HashMap<&Name, &Node> = model.nodes().collect();
        let parents: HashSet<Name> = nodes.keys().filter_map(|name| name.parent()).collect();
        for (name, node) in &nodes {
            let parent = name.parent().expect("the root is no node");
            if model.zone_of(&parent).is_some() {
                prop_assert!(nodes.contains_key(&parent), "{} without its parent", name);
            }
            // A node without data, and without names below it, is one of the few
            // that are always there: svc, pod, a namespace below them, ns.dns.
            if node.types().next().is_none() && !parents.contains(*name) && !node.below_is_computed() {
                let labels: Vec<&[u8]> = name.labels().take(2).collect();
                let fixed = [&b"svc"[..], b"pod", b"ns"].contains(&labels[0])
                    || [&b"svc"[..], b"pod"].contains(&labels[1]);
                prop_assert!(fixed, "{} exists for nothing", name);
            }
        }
    }

    #[test]
    fn a_name_that_is_no_node_does_not_exist(cluster in clusters(), octet in b'a'..=b'z', at in any::<prop::sample::Index>()) {
        let model = cluster.model();
        let nodes: HashMap<&Name, &Node> = model.nodes().collect();
        let computed = |name: &Name| {
            let mut ancestors = std::iter::successors(name.parent(), Name::parent);
            let (parent, grandparent) = (ancestors.next(), ancestors.next());
            let depth = |name: Option<Name>| {
                name.and_then(|name| nodes.get(&name).map(|node| node.computed_depth())).unwrap_or(0)
            };
            depth(parent) > 0 || depth(grandparent) > 1
        };
        for name in nodes.keys() {
            let mut changed = name.wire().to_vec();
            let letters: Vec<usize> =
                (0..changed.len()).filter(|&at| changed[at].is_ascii_alphanumeric()).collect();
            changed[letters[at.index(letters.len())]] = octet;
            let above = name.child(b"x").expect("room for a label");
            let twice = above.child(b"x").expect("room for a label");
            for other in [Name::from_wire(&changed).expect("a name still"), above, twice] {
                if nodes.contains_key(&other) || computed(&other) {
                    continue;
                }
                for rtype in [Rtype::A, Rtype::SOA, Rtype::PTR] {
                    let expected = match model.zone_of(&other) {
                        Some(zone) if model.zones()[zone].absent == Absent::Denied => {
                            Answer::NxDomain { zone }
                        }
                        _ => Answer::NotOurs,
                    };
                    prop_assert_eq!(model.answer(&other, rtype), expected, "{} {}", other, rtype);
                }
            }
        }
    }

    #[test]
    fn answers_survive_the_wire(cluster in clusters(), rotation in any::<usize>()) {
        let model = cluster.model();
        for (name, _) in model.nodes() {
            for rtype in TYPES {
                let answer = model.answer(name, rtype);
                let sections = render(name, &answer, model.zones(), rotation);
                let parsed = parse(name, &sections);
                let expected = match answer {
                    Answer::Data { answer, additional } => [turned(answer, rotation), vec![], additional],
                    Answer::Alias { chain, .. } => [chain, vec![], vec![]],
                    Answer::NoData { zone } | Answer::NxDomain { zone } => {
                        prop_assert_eq!(sections.bytes.len(), 54);
                        let apex = &model.zones()[zone];
                        let data = Rdata::Soa(apex.soa.clone());
                        let soa = Record { owner: apex.name.clone(), ttl: apex.negative_ttl, data };
                        [vec![], vec![soa], vec![]]
                    }
                    Answer::NotYetKnown | Answer::NotOurs => [vec![], vec![], vec![]],
                };
                prop_assert_eq!(parsed, expected, "{} {}", name, rtype);
            }
        }
    }
}

/// What a message shows of an answer: in ours all addresses have one owner, and
/// stand at the end.
fn turned(mut answer: Vec<Record>, rotation: usize) -> Vec<Record> {
    let is_address = |record: &Record| matches!(record.data, Rdata::A(_) | Rdata::Aaaa(_));
    let first = answer.iter().position(is_address).unwrap_or(answer.len());
    let addresses = &mut answer[first..];
    if !addresses.is_empty() {
        addresses.rotate_left(rotation % addresses.len());
    }
    answer
}

#[derive(Debug)]
pub(super) struct Cluster {
    pub(super) list: Vec<Object>,
    pub(super) settings: ZoneSettings,
}

impl Cluster {
    fn model(&self) -> Model {
        let mut objects = Objects::default();
        for object in &self.list {
            objects.insert(object.clone());
        }
        build(&objects, &self.settings, 7).0
    }
}

/// Clusters of few names and addresses, so that they meet often. No two objects
/// have one key.
pub(super) fn clusters() -> impl Strategy<Value = Cluster> {
    let objects = (
        prop::collection::btree_set(word(), 0..3),
        prop::collection::btree_map(key(), service(), 0..8),
        prop::collection::btree_map(key(), slice(), 0..8),
        prop::collection::btree_map(key(), (addresses(), prop::bool::weighted(0.2)), 0..4),
    );
    (objects, settings()).prop_map(|((namespaces, services, slices, pods), settings)| {
        let namespaces = namespaces
            .into_iter()
            .map(|name| Object::Namespace(Namespace { name: name.into() }));
        let services = services.into_iter().map(|(key, (kind, ports))| {
            let ports = ports.into();
            Object::Service(Service { key, kind, ports })
        });
        let slices = slices
            .into_iter()
            .map(|(key, (service, endpoints, ports, reading))| {
                let service = Some(service);
                Object::EndpointSlice(EndpointSlice {
                    key,
                    service: service.map(Into::into),
                    endpoints: endpoints.into(),
                    reading,
                    ports: ports.into(),
                })
            });
        let pods = pods.into_iter().map(|(key, (addresses, is_terminating))| {
            Object::Pod(Pod {
                key,
                addresses,
                is_terminating,
            })
        });
        let list = namespaces
            .chain(services)
            .chain(slices)
            .chain(pods)
            .collect();
        Cluster { list, settings }
    })
}

fn settings() -> impl Strategy<Value = ZoneSettings> {
    let domains = prop::sample::select(vec![
        vec!["cluster.local"],
        vec!["cluster.local", "inner.deep.cluster.local"],
        vec!["k8s", "cluster.local"],
    ]);
    let reverse = prop::sample::subsequence(vec!["10.0.0.0/15", "10.0.0.0/24", "fd00::/9"], 0..=3);
    let pods = prop::sample::select(vec![
        PodMode::Disabled,
        PodMode::Insecure,
        PodMode::Verified,
    ]);
    let names = prop::sample::select(vec![EndpointNames::Address, EndpointNames::Pod]);
    let listed = prop::sample::select(vec![vec![], vec!["a"], vec!["a", "b"]]);
    let odd = prop::sample::select(vec![OddEndpoints::Read, OddEndpoints::Passed]);
    (domains, reverse, pods, names, odd, listed, addresses()).prop_map(
        |(domains, reverse, pods, endpoint_names, odd_endpoints, listed, servers)| ZoneSettings {
            cluster_domains: domains.into_iter().map(name).collect(),
            reverse: reverse
                .iter()
                .map(|text| text.parse().expect("a network"))
                .collect(),
            pods,
            endpoint_names,
            odd_endpoints,
            namespaces: listed.into_iter().map(String::from).collect(),
            name_server_addresses: servers,
            ..ZoneSettings::default()
        },
    )
}

pub(super) fn word() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["a", "b", "c", "d"]).prop_map(String::from)
}

pub(super) fn key() -> impl Strategy<Value = Key> {
    (word(), word()).prop_map(|(namespace, name)| Key::new(namespace, name))
}

fn service() -> impl Strategy<Value = (ServiceKind, Vec<Port>)> {
    let target = prop_oneof![
        Just("www.example.org".to_string()),
        (word(), word()).prop_map(|(service, namespace)| {
            format!("{service}.{namespace}.svc.cluster.local")
        }),
    ];
    let kind = prop_oneof![
        addresses().prop_map(|addresses| ServiceKind::ClusterIp(addresses.into())),
        Just(ServiceKind::Headless),
        Just(ServiceKind::Unreadable),
        target.prop_map(|target| ServiceKind::ExternalName(target.into())),
    ];
    (kind, ports())
}

fn slice() -> impl Strategy<Value = (String, Vec<Endpoint>, Vec<Port>, Reading)> {
    let endpoint = (
        address(),
        prop::option::of(word()),
        prop::option::of(word()),
        prop::option::of(word()),
    )
        .prop_map(|(address, hostname, pod, zone)| Endpoint {
            address,
            hostname: hostname.map(Into::into),
            pod: pod.map(Into::into),
            zone: zone.map(Into::into),
        });
    let endpoints = prop::collection::vec(endpoint, 0..5);
    let reading = prop_oneof![
        8 => Just(Reading::Plain),
        1 => Just(Reading::Odd),
        1 => Just(Reading::Unreadable),
    ];
    (word(), endpoints, ports(), reading)
}

fn ports() -> impl Strategy<Value = Vec<Port>> {
    let protocol = prop::sample::select(vec!["tcp", "udp"]).prop_map(Cow::from);
    let port = (
        prop::option::of(word()),
        protocol,
        prop::option::of(1..4u16),
    )
        .prop_map(|(name, protocol, number)| Port {
            name: name.map(Into::into),
            protocol,
            number,
        });
    prop::collection::vec(port, 0..3)
}

fn addresses() -> impl Strategy<Value = Vec<IpAddr>> {
    prop::collection::vec(address(), 0..4)
}

fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        (0..2u8, 0..6u8).prop_map(|(net, host)| IpAddr::from([10, net, 0, host])),
        (0..6u16).prop_map(|host| IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, host])),
    ]
}
