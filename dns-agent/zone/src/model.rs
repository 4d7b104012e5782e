//! Zone data that is stored as a map.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::{Apex, LiveZoneData, Name, NameEntry, Window, ZoneData};

/// Stored zone data: all names with their entries. Immutable once built.
#[derive(Debug, Default)]
pub struct Model {
    pub(super) zones: Vec<Apex>,
    pub(super) entries: HashMap<Name, Arc<NameEntry>>,
    pub(super) delegated: Vec<Name>,
    /// The names whose queries pass ([`ZoneData::passes_queries`]).
    pub(super) passed: BTreeSet<Name>,
}

impl Model {
    /// Stores the zones, the entries and the delegated names of `data`. If `data` overrides
    /// [`ZoneData::is_delegated`], [`ZoneData::pass_suffixes`] or [`ZoneData::passes_queries`],
    /// their other names are lost, also computed names.
    pub fn from_zone_data(data: &dyn ZoneData) -> Model {
        let mut entries = HashMap::new();
        let mut passed = BTreeSet::new();
        data.visit(Window::WHOLE, &mut |name, entry| {
            entries.insert(name.clone(), Arc::new(entry.clone()));
            if data.passes_queries(name) {
                passed.insert(name.clone());
            }
        });
        Model {
            zones: data.zones().to_vec(),
            entries,
            delegated: data.delegated_names().to_vec(),
            passed,
        }
    }

    /// All names that have entries, with their entries, as in [`ZoneData::visit`].
    pub fn entries(&self) -> impl Iterator<Item = (&Name, &NameEntry)> {
        self.entries.iter().map(|(name, entry)| (name, &**entry))
    }
}

impl LiveZoneData for Model {
    fn with_data(&self, see: &mut dyn FnMut(&dyn ZoneData)) {
        see(self);
    }
}

impl ZoneData for Model {
    fn zones(&self) -> &[Apex] {
        &self.zones
    }

    fn delegated_names(&self) -> &[Name] {
        &self.delegated
    }

    fn passes_queries(&self, name: &Name) -> bool {
        self.passed.contains(name)
    }

    fn entry_within(&self, name: &Name, _window: Window) -> Option<Arc<NameEntry>> {
        self.entries.get(name).cloned()
    }

    fn visit(&self, _window: Window, see: &mut dyn FnMut(&Name, &NameEntry)) {
        for (name, entry) in &self.entries {
            see(name, entry);
        }
    }
}
