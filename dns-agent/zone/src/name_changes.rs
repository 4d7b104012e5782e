//! Which names a change of objects may have changed.

use std::collections::{BTreeMap, BTreeSet};

use super::{Name, NameOwner};

/// Names that may have changed.
#[derive(Clone, Debug, Default)]
pub struct NameChanges {
    /// The names that may have changed, by the object that they are attributed to. Incomplete if
    /// `everything` is true.
    pub names: BTreeMap<NameOwner, BTreeSet<Name>>,
    /// Whether every name may have changed.
    pub everything: bool,
}

impl NameChanges {
    /// Whether nothing has changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.names.is_empty() && !self.everything
    }

    /// The names that may have changed.
    #[must_use]
    pub fn all_names(self) -> BTreeSet<Name> {
        self.names.into_values().flatten().collect()
    }
}
