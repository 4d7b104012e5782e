//! The zone data of several providers as one.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use super::apex::sort_zones;
use super::{
    AbsentNames, Apex, ComputedNames, Name, NameChanges, NameEntry, Window, ZoneData, reverse_range,
};

/// The zone data of several providers, in the order of their precedence.
///
/// A name belongs to the first provider that has it or denies it. A provider denies a name that is
/// in one of its zones and absent there, unless absent names of the zone pass
/// ([`AbsentNames::Passed`]). It also decides about the names that it delegates.
pub struct Union<'a> {
    members: Vec<UnionMember<'a>>,
    /// The zones of all answered members. `None` if at most one of them has zones.
    zones: Option<Vec<Apex>>,
    /// The delegated names of all answered members. `None` if at most one of them has any.
    delegated: Option<Vec<Name>>,
}

/// The data of one provider.
pub struct UnionMember<'a> {
    /// The data.
    pub data: Box<dyn ZoneData + 'a>,
    /// Whether names are answered from the data.
    pub standing: Standing,
}

/// Whether names are answered from a provider's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// They are.
    Answered,
    /// They are not, because the data may be outdated. All queries for names in the provider's
    /// zones pass, and no provider of lower precedence answers them.
    Passed,
}

impl<'a> Union<'a> {
    /// The union of these members, in the order of their precedence.
    #[must_use]
    pub fn new(members: Vec<UnionMember<'a>>) -> Union<'a> {
        let answered = || members.iter().filter(|member| member.is_answered());
        let zones = answered().map(|member| member.data.zones());
        let zones: Vec<&[Apex]> = zones.filter(|zones| !zones.is_empty()).collect();
        let zones = (zones.len() > 1).then(|| {
            let mut merged = zones.concat();
            sort_zones(&mut merged);
            merged
        });
        let delegated = answered().map(|member| member.data.delegated_names());
        let delegated: Vec<&[Name]> = delegated.filter(|names| !names.is_empty()).collect();
        let delegated = (delegated.len() > 1).then(|| delegated.concat());
        Union {
            members,
            zones,
            delegated,
        }
    }

    /// The number of the provider that a name belongs to. `None` if no provider has the name or
    /// denies it.
    #[must_use]
    pub fn provider_of(&self, name: &Name) -> Option<usize> {
        self.members.iter().position(|member| member.decides(name))
    }

    /// Whether changes of a provider may change names of other providers: whether a changed name is
    /// in a zone of another provider, whose aliases may lead to it. A name about which a provider
    /// of higher precedence decides changes nothing.
    #[must_use]
    pub fn may_change_other_names(&self, number: usize, changes: &NameChanges) -> bool {
        let others = self.members.iter().enumerate();
        let others = others.filter(|(other, _)| *other != number);
        let others: Vec<&UnionMember<'_>> = others.map(|(_, member)| member).collect();
        let mut names = changes.names.values().flatten();
        names.any(|name| {
            !self.is_outranked(number, name)
                && others.iter().any(|member| member.has_in_zones(name))
        })
    }

    /// These changes, with the names that may belong to another provider, or no longer exist, after
    /// them: names that are known one by one, and names above them, that are below a changed name.
    /// Another provider may have computed names there.
    #[must_use]
    pub fn with_decided_names(&self, mut changes: NameChanges) -> NameChanges {
        for names in changes.names.values_mut() {
            // There are no computed names below reverse names.
            let forward = names.iter().filter(|name| reverse_range(name).is_none());
            let below = forward.flat_map(|name| self.exact_names_below(name));
            let below: Vec<Name> = below.cloned().collect();
            names.extend(below);
        }
        changes
    }

    /// The zones in which absent names pass. If that changes, names in the zone that are known one
    /// by one may belong to another provider ([`Union::exact_names_in`]).
    #[must_use]
    pub fn passing_zones(&self) -> BTreeSet<Name> {
        let zones = self.zones().iter();
        let passing = zones.filter(|zone| zone.absent_names == AbsentNames::Passed);
        passing.map(|zone| zone.name.clone()).collect()
    }

    /// The names that are known one by one and are in one of these zones, and the names above them.
    #[must_use]
    pub fn exact_names_in(&self, zones: &[Name]) -> BTreeSet<Name> {
        let mut names = BTreeSet::new();
        let is_inside = |name: &Name| zones.iter().any(|zone| name.is_at_or_below(zone));
        let members = self.members.iter();
        for member in members.filter(|member| member.data.zones().is_empty()) {
            member.data.visit(Window::EXISTENCE, &mut |name, _| {
                let mut next = Some(name.clone());
                while let Some(name) = next.filter(is_inside) {
                    next = name.parent();
                    // The names above a known one are known, too.
                    if !names.insert(name) {
                        break;
                    }
                }
            });
        }
        names
    }

    /// The names of a provider without zones about which a provider of higher precedence decides.
    /// Empty for a provider with zones.
    pub(super) fn outranked_names(&self, number: usize) -> Vec<Name> {
        let mut names = Vec::new();
        if number > 0 && self.members[number].data.zones().is_empty() {
            let data = &self.members[number].data;
            data.visit(Window::EXISTENCE, &mut |name, _| {
                if self.is_outranked(number, name) {
                    names.push(name.clone());
                }
            });
        }
        names
    }

    /// Whether a provider of higher precedence than that with this number decides about a name.
    fn is_outranked(&self, number: usize, name: &Name) -> bool {
        let mut higher = self.members[..number].iter();
        higher.any(|member| member.decides(name))
    }

    /// The number of the provider whose entry of the name is answered, and the entry.
    fn owned_entry(&self, name: &Name, window: Window) -> Option<(usize, Arc<NameEntry>)> {
        for (number, member) in self.members.iter().enumerate() {
            match member.standing {
                Standing::Passed if member.decides(name) => return None,
                Standing::Passed => {}
                Standing::Answered => {
                    if let Some(entry) = member.data.entry_within(name, window) {
                        let is_answered = !self.is_outranked(number, name);
                        return is_answered.then_some((number, entry));
                    }
                }
            }
        }
        None
    }

    /// An entry of the provider with this number, with the computed names below it that a provider
    /// of lower precedence has.
    fn with_computed_names(
        &self,
        number: usize,
        name: &Name,
        entry: Arc<NameEntry>,
    ) -> Arc<NameEntry> {
        if entry.has_computed_names() {
            return entry;
        }
        let lower = self.members[number + 1..].iter();
        let lower = lower.filter(|member| member.is_answered() && !member.data.zones().is_empty());
        let mut below = lower.map(|member| member.computed_names_below(name));
        match below.find(|below| *below != ComputedNames::Nothing) {
            None => entry,
            Some(below) => {
                let mut entry = (*entry).clone();
                entry.set_computed_names(below);
                Arc::new(entry)
            }
        }
    }

    /// Whether a name without an entry exists because a name below it overrides the denial of a
    /// provider of lower precedence (RFC 8020).
    fn is_above_overriding_name(&self, name: &Name) -> bool {
        self.members.iter().enumerate().any(|(number, member)| {
            member.is_answered()
                && member.data.has_exact_name_below(name)
                && !self.is_outranked(number, name)
                && self.is_denied_below(number, name)
        })
    }

    /// Whether a provider of lower precedence than that with this number denies a name, which is
    /// then not a computed name either.
    fn is_denied_below(&self, number: usize, name: &Name) -> bool {
        let mut lower = self.members[number + 1..].iter();
        let decides = lower.find(|member| member.decides(name));
        decides.is_some_and(|member| member.is_answered() && !member.has(name))
            && !self.is_delegated(name)
    }

    /// The names above overriding names that exist only because of them.
    fn names_above(&self) -> BTreeSet<Name> {
        let mut above = BTreeSet::new();
        for (number, member) in self.members.iter().enumerate() {
            let has_lower_zones = || {
                let mut lower = self.members[number + 1..].iter();
                lower.any(|member| !member.data.zones().is_empty())
            };
            if !member.is_answered() || !member.data.zones().is_empty() || !has_lower_zones() {
                continue;
            }
            member.data.visit(Window::EXISTENCE, &mut |name, _| {
                let parents = std::iter::successors(name.parent(), Name::parent);
                for parent in parents.take_while(|parent| self.zone_of(parent).is_some()) {
                    if self.owned_entry(&parent, Window::EXISTENCE).is_none()
                        && self.is_above_overriding_name(&parent)
                    {
                        above.insert(parent);
                    }
                }
            });
        }
        above
    }
}

impl UnionMember<'_> {
    fn is_answered(&self) -> bool {
        self.standing == Standing::Answered
    }

    /// Whether the provider has a name, or decides that it is absent or delegated.
    fn decides(&self, name: &Name) -> bool {
        let may_decide = self.has_in_zones(name) || self.data.may_know(name);
        match self.standing {
            Standing::Answered => may_decide && (self.has(name) || self.denies(name)),
            Standing::Passed => may_decide,
        }
    }

    fn has(&self, name: &Name) -> bool {
        self.data.find_name(name, Window::EXISTENCE).is_some()
    }

    /// The computed names below a name, which may be a computed name itself.
    fn computed_names_below(&self, name: &Name) -> ComputedNames {
        let entry_of = |name: &Name| self.data.entry_within(name, Window::EXISTENCE);
        if let Some(entry) = entry_of(name) {
            return entry.computed_names().clone();
        }
        let parent = name.parent().and_then(|parent| entry_of(&parent));
        parent.map_or(ComputedNames::Nothing, |parent| {
            let child = parent.computed_names().child_entry(name, |_| None);
            child.computed_names().clone()
        })
    }

    /// Whether an absent name is denied or delegated.
    fn denies(&self, name: &Name) -> bool {
        if self.data.is_delegated(name) {
            return true;
        }
        let zone = self.data.zone_of(name);
        zone.is_some_and(|zone| self.data.zones()[zone].absent_names != AbsentNames::Passed)
    }

    /// Whether a name is in a zone of the provider, or delegated.
    fn has_in_zones(&self, name: &Name) -> bool {
        let mut zones = self.data.zones().iter();
        zones.any(|zone| name.is_at_or_below(&zone.name)) || self.data.is_delegated(name)
    }
}

impl ZoneData for Union<'_> {
    fn zones(&self) -> &[Apex] {
        if let Some(zones) = &self.zones {
            return zones;
        }
        let answered = self.members.iter().filter(|member| member.is_answered());
        let mut zones = answered.map(|member| member.data.zones());
        zones.find(|zones| !zones.is_empty()).unwrap_or_default()
    }

    fn delegated_names(&self) -> &[Name] {
        if let Some(delegated) = &self.delegated {
            return delegated;
        }
        let answered = self.members.iter().filter(|member| member.is_answered());
        let mut delegated = answered.map(|member| member.data.delegated_names());
        delegated
            .find(|names| !names.is_empty())
            .unwrap_or_default()
    }

    fn is_delegated(&self, name: &Name) -> bool {
        self.members.iter().any(|member| match member.standing {
            Standing::Answered => member.data.is_delegated(name),
            Standing::Passed => member.has_in_zones(name),
        })
    }

    fn entry_within(&self, name: &Name, window: Window) -> Option<Arc<NameEntry>> {
        match self.owned_entry(name, window) {
            Some((number, entry)) => Some(self.with_computed_names(number, name, entry)),
            None => self.is_above_overriding_name(name).then(Arc::default),
        }
    }

    fn has_address(&self, name: &Name, address: IpAddr) -> bool {
        let answered = self.members.iter().enumerate();
        let answered = answered.filter(|(_, member)| member.is_answered());
        let mut having = answered.filter(|(_, member)| member.data.has_address(name, address));
        having
            .next()
            .is_some_and(|(number, _)| !self.is_outranked(number, name))
    }

    fn visit(&self, window: Window, see: &mut dyn FnMut(&Name, &NameEntry)) {
        for (number, member) in self.members.iter().enumerate() {
            if !member.is_answered() {
                continue;
            }
            let may_compute_below = self.members.len() > number + 1;
            member.data.visit(window, &mut |name, entry| {
                if self.is_outranked(number, name) {
                    return;
                }
                if may_compute_below && member.data.zones().is_empty() {
                    let entry = Arc::new(entry.clone());
                    see(name, &self.with_computed_names(number, name, entry));
                } else {
                    see(name, entry);
                }
            });
        }
        for name in self.names_above() {
            see(&name, &NameEntry::default());
        }
    }

    fn pass_suffixes(&self) -> BTreeSet<Name> {
        let mut suffixes = BTreeSet::new();
        for member in &self.members {
            match member.standing {
                Standing::Answered => suffixes.extend(member.data.pass_suffixes()),
                Standing::Passed => {
                    let zones = member.data.zones().iter();
                    suffixes.extend(zones.map(|zone| zone.name.clone()));
                    suffixes.extend(member.data.delegated_names().iter().cloned());
                }
            }
        }
        suffixes
    }

    fn passes_queries(&self, name: &Name) -> bool {
        let mut members = self.members.iter();
        members.any(|member| member.data.passes_queries(name))
    }

    fn may_know(&self, name: &Name) -> bool {
        self.members.iter().any(|member| member.data.may_know(name))
    }

    fn exact_names_below(&self, name: &Name) -> &[Name] {
        let mut below = self.members.iter();
        let below = below.find_map(|member| {
            let names = member.data.exact_names_below(name);
            (!names.is_empty()).then_some(names)
        });
        below.unwrap_or_default()
    }

    fn has_exact_name_below(&self, name: &Name) -> bool {
        let mut members = self.members.iter();
        members.any(|member| member.data.has_exact_name_below(name))
    }
}
