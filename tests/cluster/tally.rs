//! What came of many questions, and how it is printed.

use std::collections::{BTreeMap, HashMap};

use crate::agent::Mode;

/// What came of many questions.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) counts: BTreeMap<(&'static str, Plane), Counts>,
    /// How often each departure was seen.
    pub(crate) departures: BTreeMap<(&'static str, &'static str), u64>,
    /// What no rule explains, by its kind.
    pub(crate) wrong: BTreeMap<String, Vec<String>>,
}

/// Who of an agent is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Plane {
    User,
    Kernel,
}

/// How often what came of them.
#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) asked: u64,
    pub(crate) passed: u64,
    pub(crate) departing: u64,
    pub(crate) wrong: u64,
}

/// Examples of each kind of difference that are printed.
const EXAMPLES: usize = 3;

impl Tally {
    pub(crate) fn is_wrong(&self) -> bool {
        !self.wrong.is_empty()
    }

    /// Adds what came of other questions.
    pub(crate) fn add(&mut self, other: Tally) {
        for (plane, counts) in other.counts {
            let sum = self.counts.entry(plane).or_default();
            sum.asked += counts.asked;
            sum.passed += counts.passed;
            sum.departing += counts.departing;
            sum.wrong += counts.wrong;
        }
        for (departure, count) in other.departures {
            *self.departures.entry(departure).or_default() += count;
        }
        for (kind, mut texts) in other.wrong {
            self.wrong.entry(kind).or_default().append(&mut texts);
        }
    }

    /// Prints counts, and examples of everything that is wrong.
    pub(crate) fn print(&self, part: &str) {
        println!(
            "\n{part}\n{:>9} {:>9} {:>9} {:>6}  who",
            "asked", "passed", "departs", "wrong"
        );
        for ((flags, plane), counts) in &self.counts {
            let Counts {
                asked,
                passed,
                departing,
                wrong,
            } = counts;
            println!("{asked:>9} {passed:>9} {departing:>9} {wrong:>6}  {flags}, {plane:?} plane");
        }
        let mut departures: BTreeMap<&str, HashMap<&str, u64>> = BTreeMap::new();
        for ((what, flags), count) in &self.departures {
            departures.entry(what).or_default().insert(flags, *count);
        }
        println!("departures, by {}:", Mode::ALL.map(Mode::flags).join(" | "));
        for (what, counts) in departures {
            let counts =
                Mode::ALL.map(|mode| counts.get(mode.flags()).copied().unwrap_or_default());
            println!("{:>9} {:>9} {:>9}  {what}", counts[0], counts[1], counts[2]);
        }
        for (kind, texts) in &self.wrong {
            println!("WRONG {kind}: {}", texts.len());
            texts
                .iter()
                .take(EXAMPLES)
                .for_each(|text| println!("  {text}"));
        }
    }
}
