//! Counts of compared replies.

use std::collections::{BTreeMap, HashMap};

use crate::agent::AgentMode;

/// Counts of compared replies, and the differences that were found.
#[derive(Default)]
pub(crate) struct ComparisonTally {
    /// By the agent's flags and the plane.
    pub(crate) counts: BTreeMap<(&'static str, AskedPlane), ReplyCounts>,
    /// The number of times that each deviation was seen, by its summary and the agent's flags.
    pub(crate) deviations: BTreeMap<(&'static str, &'static str), u64>,
    /// Differences that no rule explains, by kind; and requirements that the transitions did not
    /// meet (`TransitionReport::shortcomings`).
    pub(crate) wrong: BTreeMap<String, Vec<String>>,
}

/// The plane of an agent that received the queries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum AskedPlane {
    User,
    Kernel,
}

/// Numbers of queries to one plane, by the outcome of the comparison. Equal replies are the rest.
#[derive(Default)]
pub(crate) struct ReplyCounts {
    pub(crate) asked: u64,
    /// Queries that the kernel passed.
    pub(crate) passed: u64,
    /// Replies with an agreed deviation.
    pub(crate) deviating: u64,
    /// Replies with a difference that no rule explains.
    pub(crate) wrong: u64,
}

/// Number of examples that are printed for each kind of difference.
const EXAMPLES: usize = 3;

impl ComparisonTally {
    pub(crate) fn is_wrong(&self) -> bool {
        !self.wrong.is_empty()
    }

    /// Adds the counts and differences of other questions.
    pub(crate) fn add(&mut self, other: ComparisonTally) {
        for (plane, counts) in other.counts {
            let sum = self.counts.entry(plane).or_default();
            sum.asked += counts.asked;
            sum.passed += counts.passed;
            sum.deviating += counts.deviating;
            sum.wrong += counts.wrong;
        }
        for (deviation, count) in other.deviations {
            *self.deviations.entry(deviation).or_default() += count;
        }
        for (kind, mut texts) in other.wrong {
            self.wrong.entry(kind).or_default().append(&mut texts);
        }
    }

    /// Prints the counts, and examples of the differences that no rule explains.
    pub(crate) fn print(&self, title: &str) {
        println!(
            "\n{title}\n{:>9} {:>9} {:>9} {:>6}  plane",
            "asked", "passed", "deviates", "wrong"
        );
        for ((flags, plane), counts) in &self.counts {
            let ReplyCounts {
                asked,
                passed,
                deviating,
                wrong,
            } = counts;
            println!("{asked:>9} {passed:>9} {deviating:>9} {wrong:>6}  {flags}, {plane:?} plane");
        }
        let mut deviations: BTreeMap<&str, HashMap<&str, u64>> = BTreeMap::new();
        for ((summary, flags), count) in &self.deviations {
            deviations.entry(summary).or_default().insert(flags, *count);
        }
        println!(
            "deviations, by {}:",
            AgentMode::ALL.map(AgentMode::flags).join(" | ")
        );
        for (summary, counts) in deviations {
            let counts =
                AgentMode::ALL.map(|mode| counts.get(mode.flags()).copied().unwrap_or_default());
            println!(
                "{:>9} {:>9} {:>9}  {summary}",
                counts[0], counts[1], counts[2]
            );
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
