//! The names that wait for publication.
//!
//! Names wait by owner, such as a Service. Owners with few names are published first, the others in
//! turns of limited time. So an owner with very many names, or with changes that come faster than
//! they can be published, delays only itself.
//!
//! The kernel may answer from the tables only until `--stale-after` after the oldest change that
//! was received and is not published. An owner that waits too long is *passed*: queries for its
//! changed names pass to CoreDNS until they are published, so its changes no longer count.

use std::{
    collections::{BTreeSet, HashMap},
    time::{Duration, Instant},
};

use zerohop_zone::{Name, NameChanges, NameOwner};

/// An owner with at most this many waiting names is published before the others.
const FEW_NAMES: usize = 64;

/// A passed owner is published only after it has not changed for this time. Until then the work
/// would be in vain.
const QUIET: Duration = Duration::from_secs(1);

/// The names that wait for publication, by owner.
#[derive(Debug, Default)]
pub(super) struct PublicationQueue {
    owners: HashMap<NameOwner, WaitingOwner>,
}

/// The names of an owner that wait.
#[derive(Debug)]
struct WaitingOwner {
    names: BTreeSet<Name>,
    /// When the oldest of the changes was received.
    since: Instant,
    /// When the newest of the changes was received.
    changed: Instant,
    state: WaitingState,
}

/// What the kernel does with queries for an owner's waiting names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WaitingState {
    /// It answers as before the changes.
    Answered,
    /// The queries pass.
    Passed,
}

/// Names to publish next.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NextNames {
    pub(super) owners: Vec<NameOwner>,
    pub(super) names: BTreeSet<Name>,
}

impl PublicationQueue {
    /// Adds changes that were received at this time. Returns the names that must pass at once,
    /// because their owners are passed.
    pub(super) fn add(&mut self, changes: NameChanges, received: Instant) -> BTreeSet<Name> {
        let mut passed = BTreeSet::new();
        for (owner, names) in changes.names {
            let waiting = self.owners.entry(owner).or_insert(WaitingOwner {
                names: BTreeSet::new(),
                since: received,
                changed: received,
                state: WaitingState::Answered,
            });
            waiting.changed = waiting.changed.max(received);
            if waiting.state == WaitingState::Passed {
                passed.extend(names.iter().cloned());
            }
            waiting.names.extend(names);
        }
        passed
    }

    /// Removes all names, because all names of the index are published.
    pub(super) fn clear(&mut self) {
        self.owners.clear();
    }

    /// Whether no names wait.
    pub(super) fn is_empty(&self) -> bool {
        self.owners.is_empty()
    }

    /// Whether an owner is passed.
    pub(super) fn is_passed(&self, owner: &NameOwner) -> bool {
        let owner = self.owners.get(owner);
        owner.is_some_and(|owner| owner.state == WaitingState::Passed)
    }

    /// Whether names of an owner wait.
    pub(super) fn is_waiting(&self, owner: &NameOwner) -> bool {
        self.owners.contains_key(owner)
    }

    /// Whether any names can be published now.
    pub(super) fn has_work(&self, now: Instant) -> bool {
        self.owners.values().any(|owner| owner.is_ready(now))
    }

    /// The names of all owners with few names, longest waiting first, but at most `limit` names.
    pub(super) fn next_few(&self, now: Instant, limit: usize) -> NextNames {
        let ready = self
            .owners
            .iter()
            .filter(|(_, owner)| owner.is_ready(now) && owner.names.len() <= FEW_NAMES);
        let mut ready: Vec<_> = ready.collect();
        ready.sort_by_key(|(_, owner)| owner.since);
        let mut next = NextNames {
            owners: Vec::new(),
            names: BTreeSet::new(),
        };
        for (name, owner) in ready {
            if next.names.len() >= limit {
                break;
            }
            next.owners.push(name.clone());
            next.names.extend(owner.names.iter().cloned());
        }
        next
    }

    /// The names of the owner with many names that has waited longest. Owners that are not passed
    /// come first.
    pub(super) fn next_many(&self, now: Instant) -> Option<NextNames> {
        let ready = self
            .owners
            .iter()
            .filter(|(_, owner)| owner.is_ready(now) && owner.names.len() > FEW_NAMES);
        let (name, owner) =
            ready.min_by_key(|(_, owner)| (owner.state == WaitingState::Passed, owner.since))?;
        Some(NextNames {
            owners: vec![name.clone()],
            names: owner.names.clone(),
        })
    }

    /// Records that names were published, apart from those that are `left`.
    pub(super) fn finish(&mut self, published: &NextNames, left: &BTreeSet<Name>) {
        for name in &published.owners {
            let Some(owner) = self.owners.get_mut(name) else {
                continue;
            };
            owner.names.retain(|name| left.contains(name));
            if owner.names.is_empty() {
                self.owners.remove(name);
            }
        }
    }

    /// Passes an owner with many names that has waited for longer than `limit`. Returns its names,
    /// which must pass now. An owner with few names is not passed, because publishing its names
    /// takes no longer.
    pub(super) fn pass_overdue(&mut self, now: Instant, limit: Duration) -> Option<NextNames> {
        let overdue = self.owners.iter_mut().find(|(_, owner)| {
            owner.state == WaitingState::Answered
                && owner.names.len() > FEW_NAMES
                && now.saturating_duration_since(owner.since) > limit
        });
        let (name, owner) = overdue?;
        owner.state = WaitingState::Passed;
        Some(NextNames {
            owners: vec![name.clone()],
            names: owner.names.clone(),
        })
    }

    /// The owner of the oldest change after which the kernel still answers as before, and when that
    /// change was received.
    pub(super) fn oldest(&self) -> Option<(&NameOwner, Instant)> {
        let answered = self
            .owners
            .iter()
            .filter(|(_, owner)| owner.state == WaitingState::Answered);
        let times = answered.map(|(name, owner)| (name, owner.since));
        times.min_by_key(|(_, since)| *since)
    }

    /// The names that pass until they are published.
    pub(super) fn passed_names(&self) -> BTreeSet<Name> {
        let owners = self.owners.values();
        let passed = owners.filter(|owner| owner.state == WaitingState::Passed);
        passed
            .flat_map(|owner| owner.names.iter().cloned())
            .collect()
    }

    /// The owners whose changed names pass, in order.
    pub(super) fn passed(&self) -> BTreeSet<&NameOwner> {
        let passed = self
            .owners
            .iter()
            .filter(|(_, owner)| owner.state == WaitingState::Passed);
        passed.map(|(name, _)| name).collect()
    }
}

impl WaitingOwner {
    /// Whether the names can be published now.
    fn is_ready(&self, now: Instant) -> bool {
        match self.state {
            WaitingState::Answered => true,
            WaitingState::Passed => now.saturating_duration_since(self.changed) >= QUIET,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes(owner: &str, names: usize) -> NameChanges {
        let names =
            (0..names).map(|number| Name::parse(&format!("name-{number}.{owner}")).unwrap());
        NameChanges {
            names: [(NameOwner::new(owner), names.collect())].into(),
            everything: false,
        }
    }

    fn owners(next: &NextNames) -> Vec<String> {
        next.owners.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn owners_with_few_names_come_first_and_the_others_in_turns() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut queue = PublicationQueue::default();
        queue.add(changes("large", 1000), at(0));
        queue.add(changes("late", 2), at(2));
        queue.add(changes("early", 3), at(1));
        // Large Services wait in the order of their oldest changes.
        queue.add(changes("larger", 2000), at(3));

        let few = queue.next_few(at(4), 100);
        assert_eq!(owners(&few), ["early", "late"]);
        assert_eq!(few.names.len(), 5);
        // A limit keeps the rest for later, but never returns nothing.
        assert_eq!(owners(&queue.next_few(at(4), 1)), ["early"]);
        queue.finish(&few, &BTreeSet::new());
        assert_eq!(queue.next_few(at(4), 100).names.len(), 0);

        let many = queue.next_many(at(4)).unwrap();
        assert_eq!(owners(&many), ["large"]);
        // What the deadline has left waits on, since the same time.
        let left: BTreeSet<Name> = many.names.iter().take(400).cloned().collect();
        queue.finish(&many, &left);
        let many = queue.next_many(at(5)).unwrap();
        assert_eq!(
            (owners(&many), many.names.len()),
            (vec!["large".into()], 400)
        );
        assert_eq!(queue.oldest().unwrap().1, at(0));
        queue.finish(&many, &BTreeSet::new());
        assert_eq!(owners(&queue.next_many(at(6)).unwrap()), ["larger"]);
    }

    #[test]
    fn an_overdue_owner_passes_and_no_longer_counts() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let limit = Duration::from_millis(2500);
        let mut queue = PublicationQueue::default();
        queue.add(changes("dear", 1000), at(0));
        queue.add(changes("other", 1), at(2000));
        assert_eq!(queue.oldest().unwrap().1, at(0));
        assert_eq!(queue.pass_overdue(at(2500), limit), None);

        let passed = queue.pass_overdue(at(2501), limit).unwrap();
        assert_eq!(
            (owners(&passed), passed.names.len()),
            (vec!["dear".into()], 1000)
        );
        // It is passed once, and an owner with few names never.
        assert_eq!(queue.pass_overdue(at(9000), limit), None);
        assert_eq!(queue.oldest().unwrap().1, at(2000));
        let texts: Vec<_> = queue
            .passed()
            .into_iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(texts, ["dear"]);

        // Later changes of a passed owner pass at once, and delay its publication.
        assert_eq!(queue.add(changes("dear", 3), at(3000)).len(), 3);
        assert_eq!(queue.next_many(at(3900)), None);
        let many = queue.next_many(at(4000)).unwrap();
        queue.finish(&many, &BTreeSet::new());
        assert!(queue.passed().is_empty());
        assert_eq!(queue.add(changes("dear", 3), at(5000)), BTreeSet::new());
    }
}
