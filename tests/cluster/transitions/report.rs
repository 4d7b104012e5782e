//! What is counted besides right and wrong: how long it took, what the kernel passed, and what was
//! answered in between.

use std::{collections::BTreeMap, time::Duration};

use super::{form::Form, steps::Steps};
use crate::{
    questions::Subject,
    tally::{Plane, Tally},
};

/// Counts of a phase.
#[derive(Default)]
pub(crate) struct Report {
    /// Transitions of each kind.
    pub(crate) made: BTreeMap<&'static str, usize>,
    /// From the last write of each transition until every answer about it was right.
    pub(crate) took: Vec<Duration>,
    /// Transitions whose answers never became right.
    pub(crate) never: usize,
    /// Asked and passed by the kernel plane, by what the name was and by agent.
    passed: BTreeMap<(Subject, &'static str), (u64, u64)>,
    /// Transitions of one write that were watched.
    pub(crate) watched: usize,
    /// Answers of the kernel plane that were neither before nor after the transition, and that
    /// CoreDNS was not seen to give either.
    pub(crate) between: BTreeMap<String, Vec<String>>,
}

/// Answers are to be right after this time.
pub(crate) const BAR: Duration = Duration::from_secs(1);
/// Examples that are printed.
const EXAMPLES: usize = 3;
/// From here on every direction must have been made, and the kernel must have answered enough.
const MEANT: usize = 500;
/// The least share of questions about Services' own names that the kernel must answer itself, in
/// percent: a kernel that passes everything is never wrong.
const ANSWERED: u64 = 60;

impl Report {
    /// Counts what the kernel did with a question.
    pub(crate) fn count(&mut self, subject: Subject, tally: &Tally) {
        for ((flags, plane), counts) in &tally.counts {
            if *plane == Plane::Kernel {
                let (asked, passed) = self.passed.entry((subject, flags)).or_default();
                *asked += counts.asked;
                *passed += counts.passed;
            }
        }
    }

    /// What was not tried, though it should have been.
    pub(crate) fn shortcomings(&self, steps: &Steps) -> Vec<String> {
        let made: usize = self.made.values().sum();
        if made < MEANT {
            return Vec::new();
        }
        let never = steps.directions.iter().filter(|(_, count)| **count == 0);
        let never = never.map(|((from, to), _)| format!("no Service of {from:?} became {to:?}"));
        let of_services = self
            .passed
            .iter()
            .filter(|((subject, _), _)| *subject == Subject::Service);
        let seldom =
            of_services.filter(|(_, (asked, passed))| (asked - passed) * 100 < asked * ANSWERED);
        let seldom = seldom.map(|((_, flags), (asked, passed))| {
            format!("the kernel passed {passed} of {asked} questions for Services, with {flags}")
        });
        never.chain(seldom).collect()
    }

    pub(crate) fn print(&self, steps: &Steps) {
        for (what, count) in &self.made {
            println!("{count:>9} {what}");
        }
        let fewest = steps.directions.values().min().copied().unwrap_or_default();
        println!(
            "{} directions of {} forms of a Service, each made {fewest} times at least",
            steps.directions.len(),
            Form::ALL.len()
        );
        let mut took = self.took.clone();
        took.sort();
        let at = |share: usize| {
            let at = (took.len() * share / 100).min(took.len().saturating_sub(1));
            took.get(at).copied().unwrap_or_default()
        };
        let late = took.iter().filter(|took| **took > BAR).count();
        println!(
            "until right in both planes of every agent: p50 {:.0?}, p99 {:.0?}, max {:.0?}; \
             {late} took longer than {BAR:?}, {} never became right",
            at(50),
            at(99),
            at(100),
            self.never
        );
        println!("passed by the kernel, of what was asked about:");
        for ((subject, flags), (asked, passed)) in &self.passed {
            println!("{passed:>9} of {asked:>7}  {subject:?}, {flags}");
        }
        println!(
            "seen in between, of {} transitions by one write: {}",
            self.watched,
            self.between.values().map(Vec::len).sum::<usize>()
        );
        for (kind, examples) in &self.between {
            println!("{:>9} {kind}", examples.len());
            for example in examples.iter().take(EXAMPLES) {
                println!("            {example}");
            }
        }
    }
}
