//! Zone data without zones: names that are known one by one.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::{Apex, Name, NameEntry, Window, ZoneData};

/// Names that are known one by one, such as those of a hosts file. Nothing is known about any other
/// name, so no name is denied because it is absent here.
#[derive(Clone, Debug, Default)]
pub struct ExactNames {
    entries: BTreeMap<Name, Arc<NameEntry>>,
    /// For each parent and grandparent of a name, or of a name above one, the names below it.
    below: HashMap<Name, Vec<Name>>,
    /// All names above another one, without the root.
    above: BTreeSet<Name>,
}

impl ExactNames {
    /// These names with their entries.
    #[must_use]
    pub fn new(entries: BTreeMap<Name, Arc<NameEntry>>) -> ExactNames {
        let mut above = BTreeSet::new();
        for name in entries.keys() {
            for ancestor in name.suffixes().skip(1) {
                // Those above a name that is known are known, too.
                if !above.insert(Name::from_suffix(ancestor)) {
                    break;
                }
            }
        }
        let mut below: HashMap<Name, Vec<Name>> = HashMap::new();
        for name in entries.keys().chain(above.iter()) {
            for ancestor in name.suffixes().skip(1).take(2) {
                let names = below.entry(Name::from_suffix(ancestor)).or_default();
                names.push(name.clone());
            }
        }
        ExactNames {
            entries,
            below,
            above,
        }
    }

    /// The names that this data or `other` lacks, or that have different entries.
    #[must_use]
    pub fn difference(&self, other: &ExactNames) -> BTreeSet<Name> {
        let differs = |name: &&Name| self.entries.get(*name) != other.entries.get(*name);
        let names = self.entries.keys().chain(other.entries.keys());
        names.filter(differs).cloned().collect()
    }

    /// The number of names.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no names.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The names in a fixed order, after one of them or from the start.
    pub fn names_after(&self, after: Option<&Name>) -> impl Iterator<Item = &Name> {
        use std::ops::Bound;
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let following = self.entries.range::<Name, _>((start, Bound::Unbounded));
        following.map(|(name, _)| name)
    }
}

impl ZoneData for ExactNames {
    fn zones(&self) -> &[Apex] {
        &[]
    }

    fn delegated_names(&self) -> &[Name] {
        &[]
    }

    fn entry_within(&self, name: &Name, _window: Window) -> Option<Arc<NameEntry>> {
        self.entries.get(name).cloned()
    }

    fn visit(&self, _window: Window, see: &mut dyn FnMut(&Name, &NameEntry)) {
        for (name, entry) in &self.entries {
            see(name, entry);
        }
    }

    fn pass_suffixes(&self) -> BTreeSet<Name> {
        BTreeSet::new()
    }

    fn is_delegated(&self, _name: &Name) -> bool {
        false
    }

    fn exact_names_below(&self, name: &Name) -> &[Name] {
        self.below.get(name).map_or(&[], Vec::as_slice)
    }

    fn has_exact_name_below(&self, name: &Name) -> bool {
        self.above.contains(name)
    }
}
