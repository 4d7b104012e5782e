//! The index as a provider of names.

use std::collections::BTreeSet;

use zerohop_zone::{Name, NameChanges, Origin, Provider, Record, Rtype, WalkPosition, ZoneData};

use super::{Index, Provenance, names};

impl Provider for Index {
    fn zone_data(&self) -> Box<dyn ZoneData + '_> {
        Box::new(self.view())
    }

    fn is_complete(&self) -> bool {
        Index::is_complete(self)
    }

    fn take_changes(&mut self) -> NameChanges {
        Index::take_changes(self)
    }

    fn set_serial(&mut self, serial: u32) {
        Index::set_serial(self, serial);
    }

    fn problems(&self) -> BTreeSet<String> {
        let problems = Index::problems(self);
        problems.iter().map(ToString::to_string).collect()
    }

    fn origin_of(&self, record: &Record) -> Origin {
        Provenance::new(self).origin_of(record)
    }

    fn reasons_for_absence(&self, name: &Name, rtype: Rtype) -> Vec<String> {
        Provenance::new(self).reasons_for_absence(name, rtype)
    }

    fn walk(&self, zone: Option<&Name>, from: &WalkPosition) -> Option<(Vec<Name>, WalkPosition)> {
        let view = self.view();
        let number = match zone {
            None => None,
            Some(zone) => Some(view.zones().iter().position(|apex| apex.name == *zone)?),
        };
        let start = match zone {
            None => names::ViewPosition::ADDRESSES,
            Some(_) => names::ViewPosition::START,
        };
        let (names, next) = view.walk(number, from.get().unwrap_or(&start))?;
        let names = names.into_iter().map(|(name, _)| name).collect();
        Some((names, WalkPosition::new(next)))
    }
}
