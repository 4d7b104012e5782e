//! Providers: the owners of objects of one origin, and of the names that these objects make.

use std::any::Any;
use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use super::union::{Standing, Union, UnionMember};
use super::{LiveZoneData, Name, NameChanges, Origin, Record, Rtype, ZoneData};

/// The owner of objects of one origin, such as the Kubernetes API or a hosts file.
///
/// A provider takes events of its own kind, by methods of its own. This trait is what all users of
/// names know of it.
pub trait Provider: Send + Sync {
    /// The names that the objects make.
    fn zone_data(&self) -> Box<dyn ZoneData + '_>;

    /// Whether all objects have been read once. Before that, an absent name may exist.
    fn is_complete(&self) -> bool;

    /// Returns and clears the changes since the last call.
    fn take_changes(&mut self) -> NameChanges;

    /// Sets the serial of the zones: the Unix time of the last change. The names whose answers
    /// contain it count as changed.
    fn set_serial(&mut self, serial: u32);

    /// Problems with objects, each as a sentence for an operator. The affected objects or parts
    /// make no names.
    fn problems(&self) -> BTreeSet<String>;

    /// Explains to an operator that a name of this provider is not answered, because a provider of
    /// higher precedence decides about it. `None` if that needs no explanation.
    fn outranked_problem(&self, _name: &Name) -> Option<String> {
        None
    }

    /// Where a record came from.
    fn origin_of(&self, record: &Record) -> Origin;

    /// Explains to an operator why a name has no record of a type. Empty if there is nothing to
    /// explain.
    fn reasons_for_absence(&self, name: &Name, rtype: Rtype) -> Vec<String>;

    /// The next names of a zone, or, with `None`, outside all zones, which are all names of a
    /// provider without zones. Also returns the position after them. `None` after the last name.
    /// There may be no names before the end. A caller may change the provider between two steps.
    fn walk(&self, zone: Option<&Name>, from: &WalkPosition) -> Option<(Vec<Name>, WalkPosition)>;
}

/// The position of a walk over a provider's names. Only the provider knows what it means.
#[derive(Default)]
pub struct WalkPosition(Option<Box<dyn Any + Send>>);

impl WalkPosition {
    /// A position after the start.
    pub fn new<T: Any + Send>(position: T) -> WalkPosition {
        WalkPosition(Some(Box::new(position)))
    }

    /// The position that a provider made. `None` at the start.
    #[must_use]
    pub fn get<T: Any>(&self) -> Option<&T> {
        self.0.as_ref()?.downcast_ref()
    }
}

/// All providers of the agent, in the order of their precedence. See [`Union`].
#[derive(Clone)]
pub struct Providers(Vec<Arc<RwLock<dyn Provider>>>);

impl Providers {
    /// These providers, in the order of their precedence.
    #[must_use]
    pub fn new(providers: Vec<Arc<RwLock<dyn Provider>>>) -> Providers {
        Providers(providers)
    }

    /// Locks all providers for reading. Changes wait until the guards are dropped.
    ///
    /// A writer locks one provider at a time, and readers lock in the same order, so none of them
    /// waits for another in a circle.
    #[must_use]
    pub fn read(&self) -> ReadProviders<'_> {
        // Poisoning is ignored: a panic of a writer ends the agent.
        let locked = self.0.iter();
        let locked = locked.map(|provider| provider.read().unwrap_or_else(PoisonError::into_inner));
        ReadProviders(locked.collect())
    }
}

impl LiveZoneData for Providers {
    fn with_data(&self, see: &mut dyn FnMut(&dyn ZoneData)) {
        see(&self.read().union());
    }
}

/// All providers, locked for reading.
pub struct ReadProviders<'a>(Vec<RwLockReadGuard<'a, dyn Provider + 'static>>);

impl ReadProviders<'_> {
    /// The names of all providers.
    #[must_use]
    pub fn union(&self) -> Union<'_> {
        self.union_of(&[])
    }

    /// The names of all providers, with the standing of each. A provider without one is answered.
    #[must_use]
    pub fn union_of(&self, standings: &[Standing]) -> Union<'_> {
        let standings = standings.iter().copied();
        let standings = standings.chain(std::iter::repeat(Standing::Answered));
        let members = self.0.iter().zip(standings);
        let members = members.map(|(provider, standing)| UnionMember {
            data: provider.zone_data(),
            standing,
        });
        Union::new(members.collect())
    }

    /// The providers, in the order of their precedence.
    pub fn iter(&self) -> impl Iterator<Item = &dyn Provider> {
        self.0.iter().map(|provider| &**provider)
    }

    /// Explanations for names that are not answered, because another provider decides about them
    /// ([`Provider::outranked_problem`]): the first `limit`, and the number of such names.
    #[must_use]
    pub fn outranked_problems(&self, limit: usize) -> (Vec<String>, usize) {
        let union = self.union();
        let (mut problems, mut count) = (Vec::new(), 0);
        for (number, provider) in self.iter().enumerate() {
            for name in union.outranked_names(number) {
                count += 1;
                if problems.len() < limit {
                    problems.extend(provider.outranked_problem(&name));
                }
            }
        }
        (problems, count)
    }

    /// Where a record came from.
    #[must_use]
    pub fn origin_of(&self, record: &Record) -> Origin {
        let provider = self.provider_of(&record.owner);
        provider.map_or(Origin::Unknown, |provider| provider.origin_of(record))
    }

    /// Explains to an operator why a name has no record of a type.
    #[must_use]
    pub fn reasons_for_absence(&self, name: &Name, rtype: Rtype) -> Vec<String> {
        let provider = self.provider_of(name);
        provider.map_or_else(Vec::new, |it| it.reasons_for_absence(name, rtype))
    }

    /// The provider that decides about a name.
    fn provider_of(&self, name: &Name) -> Option<&dyn Provider> {
        self.iter().nth(self.union().provider_of(name)?)
    }
}
