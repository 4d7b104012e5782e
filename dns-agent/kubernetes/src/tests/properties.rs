//! Properties of every model, checked on random clusters.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use proptest::prelude::*;
use zerohop_contract::message::Message;
use zerohop_zone::{
    AbsentNames, Answer, Model, Name, NameEntry, Rdata, Record, Rtype, Sections, Window, ZoneData,
    render,
};

use super::name;
use crate::{
    Endpoint, EndpointNames, EndpointSlice, Index, Namespace, NonstandardEndpoints, Object,
    ObjectKey, Objects, Pod, PodMode, Port, PortNumber, Service, ServiceKind, SliceReadability,
    ZoneSettings, build_model,
};

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
    fn every_entry_answers_its_types(cluster in clusters()) {
        let model = cluster.model();
        for (name, entry) in model.entries() {
            let types: HashSet<Rtype> = entry.types().collect();
            for rtype in TYPES {
                let answer = model.answer(name, rtype);
                let is_followed = entry.is_alias() && !matches!(rtype, Rtype::CNAME | Rtype::ANY);
                let is_valid = match &answer {
                    Answer::Data { answer, .. } if is_followed => !answer.is_empty(),
                    Answer::Alias { target, .. } => is_followed && model.zone_of(target).is_none(),
                    Answer::Data { answer, .. } => {
                        types.contains(&rtype)
                            && answer.iter().all(|record| record.owner == *name)
                            && answer.iter().all(|record| record.data.rtype() == rtype)
                            && answer.is_sorted_by(|a, b| a < b)
                    }
                    Answer::NoData { zone } => {
                        model.zone_of(name) == Some(*zone)
                            && (is_followed || !types.contains(&rtype))
                    }
                    Answer::NotAuthoritative => {
                        let is_outside = model.zone_of(name).is_none() && !types.contains(&rtype);
                        // An alias may lead to a delegated name.
                        is_followed || is_outside || entry.delegates_type(rtype)
                    }
                    Answer::NoDataAtName { .. }
                    | Answer::NxDomain { .. }
                    | Answer::NotYetKnown => false,
                };
                prop_assert!(is_valid, "{} {}: {:?}", name, rtype, answer);
            }
        }
    }

    #[test]
    fn every_name_has_its_parents_and_only_fixed_names_are_empty(cluster in clusters()) {
        let model = cluster.model();
        let entries: HashMap<&Name, &NameEntry> = model.entries().collect();
        let parents: HashSet<Name> = entries.keys().filter_map(|name| name.parent()).collect();
        for (name, entry) in &entries {
            let parent = name.parent().expect("the root has no entry");
            if model.zone_of(&parent).is_some() {
                prop_assert!(entries.contains_key(&parent), "{} without its parent", name);
            }
            // An entry without data and without names below it must be one of the fixed names:
            // `svc`, `pod`, a namespace below them, or `ns.dns`.
            let has_names_below = parents.contains(*name) || entry.has_computed_names();
            if entry.types().next().is_none() && !has_names_below {
                let labels: Vec<&[u8]> = name.labels().take(2).collect();
                let is_fixed = [&b"svc"[..], b"pod", b"ns"].contains(&labels[0])
                    || [&b"svc"[..], b"pod"].contains(&labels[1]);
                prop_assert!(is_fixed, "{} has neither data nor names below it", name);
            }
        }
    }

    #[test]
    fn a_name_without_an_entry_does_not_exist(
        cluster in clusters(),
        letter in b'a'..=b'z',
        at in any::<prop::sample::Index>(),
    ) {
        let model = cluster.model();
        let entries: HashMap<&Name, &NameEntry> = model.entries().collect();
        let is_computed = |name: &Name| {
            let mut ancestors = std::iter::successors(name.parent(), Name::parent);
            let (parent, grandparent) = (ancestors.next(), ancestors.next());
            let depth = |name: Option<Name>| {
                let entry = name.and_then(|name| entries.get(&name));
                entry.map_or(0, |entry| entry.computed_depth())
            };
            depth(parent) > 0 || depth(grandparent) > 1
        };
        // Tests names with one letter or digit replaced, and names one and two labels below an
        // entry.
        for name in entries.keys() {
            let mut changed = name.wire().to_vec();
            let letters: Vec<usize> =
                (0..changed.len()).filter(|&at| changed[at].is_ascii_alphanumeric()).collect();
            changed[letters[at.index(letters.len())]] = letter;
            let changed = Name::from_wire(&changed).expect("a valid name");
            let below = name.child(b"x").expect("room for a label");
            let far_below = below.child(b"x").expect("room for a label");
            for other in [changed, below, far_below] {
                if entries.contains_key(&other) || is_computed(&other) {
                    continue;
                }
                for rtype in [Rtype::A, Rtype::SOA, Rtype::PTR] {
                    // With these settings, queries for absent names are denied or pass.
                    let expected = match model.zone_of(&other) {
                        Some(zone) if model.zones()[zone].absent_names == AbsentNames::Denied => {
                            Answer::NxDomain { zone }
                        }
                        _ => Answer::NotAuthoritative,
                    };
                    prop_assert_eq!(model.answer(&other, rtype), expected, "{} {}", other, rtype);
                }
            }
        }
    }

    #[test]
    fn only_answers_that_do_not_fit_are_cut(
        cluster in clusters(),
        bytes in 0..600usize,
        rotation in 0..50usize,
    ) {
        let index = cluster.index();
        let view = index.view();
        let window = Window { bytes, rotation, rtype: None };
        for (name, _) in cluster.model().entries() {
            for rtype in TYPES {
                let whole = view.answer(name, rtype);
                let cut = view.answer_within(name, rtype, window);
                if whole == cut {
                    continue;
                }
                // The answer section alone is longer than the window, or the additional records
                // are, which the sender leaves out first.
                let length = |answer: &Answer| render(name, answer, view.zones(), 0).bytes.len();
                let records = |answer: &Answer| match answer {
                    Answer::Data { answer, .. } => answer.clone(),
                    _ => Vec::new(),
                };
                let is_too_long = length(&whole) > bytes;
                prop_assert!(is_too_long, "{} {} fits {} bytes", name, rtype, bytes);
                if records(&whole) != records(&cut) {
                    let only_answer = Answer::Data {
                        answer: records(&cut),
                        additional: Vec::new(),
                    };
                    prop_assert!(length(&only_answer) > bytes, "{} {}: {:?}", name, rtype, cut);
                }
            }
        }
    }

    #[test]
    fn rendered_answers_parse_back_to_the_same_records(
        cluster in clusters(),
        rotation in any::<usize>(),
    ) {
        let model = cluster.model();
        for (name, _) in model.entries() {
            for rtype in TYPES {
                let answer = model.answer(name, rtype);
                let sections = render(name, &answer, model.zones(), rotation);
                let parsed = parsed_sections(name, &sections);
                let expected = match answer {
                    Answer::Data { answer, additional } => {
                        [rotated(answer, rotation), vec![], additional]
                    }
                    Answer::Alias { chain, .. } => [chain, vec![], vec![]],
                    Answer::NoData { zone } | Answer::NxDomain { zone } => {
                        // A SOA record with compressed names: the owner (2 bytes); type, class, TTL
                        // and length (10); MNAME (9), RNAME (13) and five numbers (20).
                        prop_assert_eq!(sections.bytes.len(), 54);
                        let apex = &model.zones()[zone];
                        let data = Rdata::Soa(apex.soa.clone());
                        let soa = Record { owner: apex.name.clone(), ttl: apex.negative_ttl, data };
                        [vec![], vec![soa], vec![]]
                    }
                    Answer::NoDataAtName { soa } => [vec![], vec![soa], vec![]],
                    Answer::NotYetKnown | Answer::NotAuthoritative => [vec![], vec![], vec![]],
                };
                let expected = expected.map(|records| texts(&records));
                prop_assert_eq!(parsed, expected, "{} {}", name, rtype);
            }
        }
    }
}

/// The sections of a message with this question and these rendered sections, as text.
fn parsed_sections(question: &Name, sections: &Sections) -> [Vec<String>; 3] {
    // ID 0, the flags QR and AA, and one question.
    let mut message = vec![0, 0, 0x84, 0, 0, 1];
    for count in [sections.answers, sections.authorities, sections.additionals] {
        message.extend(count.to_be_bytes());
    }
    message.extend(question.wire());
    // Type A, class IN.
    message.extend([0, 1, 0, 1]);
    message.extend(&sections.bytes);
    Message::read(&message)
        .expect("a well-formed message")
        .sections
}

fn texts(records: &[Record]) -> Vec<String> {
    records.iter().map(Record::to_string).collect()
}

/// The answer section with its addresses rotated, as they are rendered. The addresses are at the
/// end and have one owner.
fn rotated(mut answer: Vec<Record>, rotation: usize) -> Vec<Record> {
    let is_address = |record: &Record| matches!(record.data, Rdata::A(_) | Rdata::Aaaa(_));
    let first = answer.iter().position(is_address).unwrap_or(answer.len());
    let addresses = &mut answer[first..];
    if !addresses.is_empty() {
        addresses.rotate_left(rotation % addresses.len());
    }
    answer
}

#[derive(Debug)]
pub(super) struct ArbitraryCluster {
    pub(super) list: Vec<Object>,
    pub(super) settings: ZoneSettings,
}

impl ArbitraryCluster {
    fn model(&self) -> Model {
        build_model(&self.objects(), &self.settings, 7).0
    }

    fn index(&self) -> Index {
        Index::from_objects(self.objects(), self.settings.clone(), 7)
    }

    fn objects(&self) -> Objects {
        let mut objects = Objects::default();
        for object in &self.list {
            objects.insert(object.clone());
        }
        objects
    }
}

/// Random clusters with few names and addresses, so that collisions are frequent. Each key has at
/// most one object of a kind.
pub(super) fn clusters() -> impl Strategy<Value = ArbitraryCluster> {
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
            .map(|(key, (service, endpoints, ports, readability))| {
                Object::EndpointSlice(EndpointSlice {
                    key,
                    service: Some(service.into()),
                    endpoints: endpoints.into(),
                    readability,
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
        ArbitraryCluster { list, settings }
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
    let nonstandard = prop::sample::select(vec![
        NonstandardEndpoints::Read,
        NonstandardEndpoints::Passed,
    ]);
    (
        domains,
        reverse,
        pods,
        names,
        nonstandard,
        listed,
        addresses(),
    )
        .prop_map(
            |(domains, reverse, pods, endpoint_names, nonstandard_endpoints, listed, servers)| {
                ZoneSettings {
                    cluster_domains: domains.into_iter().map(name).collect(),
                    reverse: reverse
                        .iter()
                        .map(|text| text.parse().expect("a network"))
                        .collect(),
                    pods,
                    endpoint_names,
                    nonstandard_endpoints,
                    namespaces: listed.into_iter().map(String::from).collect(),
                    name_server_addresses: servers,
                    ..ZoneSettings::default()
                }
            },
        )
}

pub(super) fn word() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["a", "b", "c", "d"]).prop_map(String::from)
}

pub(super) fn key() -> impl Strategy<Value = ObjectKey> {
    (word(), word()).prop_map(|(namespace, name)| ObjectKey::new(namespace, name))
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

fn slice() -> impl Strategy<Value = (String, Vec<Endpoint>, Vec<Port>, SliceReadability)> {
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
    let readability = prop_oneof![
        8 => Just(SliceReadability::Plain),
        1 => Just(SliceReadability::Nonstandard),
        1 => Just(SliceReadability::Unreadable),
    ];
    (word(), endpoints, ports(), readability)
}

fn ports() -> impl Strategy<Value = Vec<Port>> {
    let protocol = prop::sample::select(vec!["tcp", "udp"]).prop_map(Cow::from);
    let port = (
        prop::option::of(word()),
        protocol,
        prop::option::of(1..5u16),
    )
        .prop_map(|(name, protocol, number)| Port {
            name: name.map(Into::into),
            protocol,
            number: match number {
                None => PortNumber::Absent,
                // The strategy makes 4 for a number that is out of range.
                Some(4) => PortNumber::OutOfRange,
                Some(number) => PortNumber::Valid(number),
            },
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
