//! Applies random sequences of changes to two providers, an index and names that are known one by
//! one. A model of the kernel's tables is updated as the publisher does it: only for changed names,
//! later than the changes, and with names that pass until they are published. In the end, the
//! tables equal those of the same objects at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;
use zerohop_zone::{
    Answer, ExactNames, Model, Name, NameChanges, NameEntry, NameOwner, Provider as _, Standing,
    Union, UnionMember, ZoneData as _,
};

use super::changes::{IndexEvent, answers, apply_event, index_event, other_settings};
use super::name;
use super::properties::clusters;
use crate::{Index, Objects, ZoneSettings};

/// Names that hosts may have: outside the cluster, names of Services and names below them, names
/// that the cluster computes, and reverse names.
const HOSTS: [&str; 12] = [
    "www.example.org",
    "a.a.svc.cluster.local",
    "b.a.svc.cluster.local",
    "c.b.svc.cluster.local",
    "x.svc.cluster.local",
    "deep.x.y.svc.cluster.local",
    "below.c.b.svc.cluster.local",
    "10-0-0-1.a.pod.cluster.local",
    "10-0-0-1.b.pod.cluster.local",
    "below.10-0-0-1.a.pod.cluster.local",
    "1.0.0.10.in-addr.arpa",
    "a.b.svc.inner.deep.cluster.local",
];

/// A change of one of the providers, or of what the tables hold.
#[derive(Clone, Debug)]
enum ProviderEvent {
    Index(IndexEvent),
    /// Hosts with these positions in [`HOSTS`], each with this address.
    Hosts(BTreeMap<usize, [u8; 4]>),
    /// Some of the waiting names are published: those whose numbers have this remainder modulo 3.
    Published(usize),
    /// All waiting names pass.
    Passed,
    /// The index becomes stale, or current again.
    Standing(Standing),
}

/// Both providers, in the order of their precedence.
struct TwoProviders {
    index: Index,
    hosts: ExactNames,
    /// Whether the hosts come first.
    overrides: bool,
    standing: Standing,
}

/// What the tables answer for a name.
#[derive(Clone, Debug, PartialEq)]
enum TableEntry {
    Answers(Vec<Answer>),
    Pass,
}

/// A model of the kernel's tables, and the names that wait for publication.
#[derive(Default)]
struct WaitingTables {
    entries: BTreeMap<Name, TableEntry>,
    waiting: BTreeSet<Name>,
    /// The zones in which absent names passed after the last event.
    passing_zones: BTreeSet<Name>,
}

impl TwoProviders {
    fn union(&self) -> Union<'_> {
        let index = UnionMember {
            data: self.index.zone_data(),
            standing: self.standing,
        };
        let hosts = UnionMember {
            data: Box::new(&self.hosts),
            standing: Standing::Answered,
        };
        Union::new(match self.overrides {
            true => vec![hosts, index],
            false => vec![index, hosts],
        })
    }

    /// All names with their answers.
    fn all_names(&self) -> BTreeMap<Name, TableEntry> {
        let union = self.union();
        let model = Model::from_zone_data(&union);
        let names = model.entries().map(|(name, _)| name);
        let entries = names.map(|name| {
            let answers = answers(&union, name);
            (name.clone(), TableEntry::Answers(answers))
        });
        entries.collect()
    }

    /// Applies an event. Returns the number of the provider that has changed, and its changes.
    fn apply(&mut self, event: &ProviderEvent) -> Option<(usize, NameChanges)> {
        match event {
            ProviderEvent::Index(event) => {
                apply_event(&mut self.index, event.clone());
                let changes = self.index.take_changes();
                (self.standing == Standing::Answered)
                    .then_some((usize::from(self.overrides), changes))
            }
            ProviderEvent::Hosts(hosts) => {
                let entries = hosts.iter().map(|(at, address)| {
                    let entry = NameEntry::of_host(5, &[(*address).into()]);
                    (name(HOSTS[*at]), Arc::new(entry))
                });
                let hosts = ExactNames::new(entries.collect());
                let changed = self.hosts.difference(&hosts);
                self.hosts = hosts;
                let changes = NameChanges {
                    names: [(NameOwner::new("hosts"), changed)].into(),
                    everything: false,
                };
                Some((usize::from(!self.overrides), changes))
            }
            ProviderEvent::Standing(standing) => {
                let before = std::mem::replace(&mut self.standing, *standing);
                let changes = NameChanges {
                    everything: before != *standing,
                    ..NameChanges::default()
                };
                Some((0, changes))
            }
            ProviderEvent::Published(_) | ProviderEvent::Passed => None,
        }
    }
}

impl WaitingTables {
    fn add(&mut self, providers: &TwoProviders, number: usize, changes: NameChanges) {
        let union = providers.union();
        if changes.everything || union.may_change_other_names(number, &changes) {
            self.waiting.clear();
            self.entries = providers.all_names();
            return;
        }
        let changes = union.with_decided_names(changes);
        self.waiting.extend(changes.all_names());
    }

    /// What the publisher does at each tick: names in zones that begin or cease to deny absent
    /// names may belong to another provider.
    fn add_names_of_changed_zones(&mut self, providers: &TwoProviders) {
        let union = providers.union();
        let passing = union.passing_zones();
        let changed = passing.symmetric_difference(&self.passing_zones);
        let changed: Vec<Name> = changed.cloned().collect();
        self.passing_zones = passing;
        self.waiting.extend(union.exact_names_in(&changed));
    }

    fn publish(&mut self, providers: &TwoProviders, names: BTreeSet<Name>) {
        let union = providers.union();
        for name in names {
            self.waiting.remove(&name);
            if union.entry(&name).is_some() {
                let answers = answers(&union, &name);
                self.entries.insert(name, TableEntry::Answers(answers));
            } else {
                self.entries.remove(&name);
            }
        }
    }

    fn pass(&mut self) {
        let waiting = self.waiting.iter().cloned();
        self.entries
            .extend(waiting.map(|name| (name, TableEntry::Pass)));
    }

    /// The names whose entry is neither right, nor waiting.
    fn wrong_names(&self, providers: &TwoProviders) -> Vec<Name> {
        let right = providers.all_names();
        let names = right.keys().chain(self.entries.keys());
        let is_wrong = |name: &&Name| {
            !self.waiting.contains(*name) && self.entries.get(*name) != right.get(*name)
        };
        names.filter(is_wrong).cloned().collect()
    }
}

proptest! {
    // Fewer than the default of 256, because each case computes all names after each event.
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn tables_follow_changes_of_several_providers(
        cluster in clusters(),
        settings in other_settings(),
        has_fallthrough in any::<bool>(),
        overrides in any::<bool>(),
        events in prop::collection::vec(provider_event(), 1..40),
    ) {
        let mut settings = ZoneSettings {
            endpoint_scope: settings.endpoint_scope,
            known_pods: settings.known_pods,
            name_servers: settings.name_servers,
            ..cluster.settings.clone()
        };
        if has_fallthrough {
            settings.fallthrough_zones = settings.cluster_domains.clone();
        }
        let mut index = Index::from_objects(Objects::default(), settings, 7);
        index.take_changes();
        let mut providers = TwoProviders {
            index,
            hosts: ExactNames::default(),
            overrides,
            standing: Standing::Answered,
        };
        let mut tables = WaitingTables {
            entries: providers.all_names(),
            passing_zones: providers.union().passing_zones(),
            ..WaitingTables::default()
        };
        for event in events {
            if let Some((number, changes)) = providers.apply(&event) {
                tables.add(&providers, number, changes);
            }
            tables.add_names_of_changed_zones(&providers);
            match event {
                ProviderEvent::Published(remainder) => {
                    let waiting = tables.waiting.iter().enumerate();
                    let some = waiting.filter(|(number, _)| number % 3 == remainder);
                    let some = some.map(|(_, name)| name.clone()).collect();
                    tables.publish(&providers, some);
                }
                ProviderEvent::Passed => tables.pass(),
                _ => {}
            }
            prop_assert_eq!(tables.wrong_names(&providers), [], "after {:?}", event);
        }
        let waiting = tables.waiting.clone();
        tables.publish(&providers, waiting);
        prop_assert_eq!(tables.wrong_names(&providers), []);
    }
}

fn provider_event() -> impl Strategy<Value = ProviderEvent> {
    let address = (1..4u8).prop_map(|last| [192, 0, 2, last]);
    let hosts = prop::collection::btree_map(0..HOSTS.len(), address, 0..8);
    let standings = prop::sample::select(vec![Standing::Answered, Standing::Passed]);
    prop_oneof![
        6 => index_event().prop_map(ProviderEvent::Index),
        4 => hosts.prop_map(ProviderEvent::Hosts),
        2 => (0..3usize).prop_map(ProviderEvent::Published),
        1 => Just(ProviderEvent::Passed),
        1 => standings.prop_map(ProviderEvent::Standing),
    ]
}
