//! Statistics of the transitions: the time until all answers were right, the queries that the
//! kernel passed, and transient answers.

use std::{collections::BTreeMap, time::Duration};

use super::{form::ServiceForm, generator::TransitionGenerator};
use crate::{
    questions::NameRole,
    tally::{AskedPlane, ComparisonTally},
};

/// Statistics of all transitions.
#[derive(Default)]
pub(crate) struct TransitionReport {
    /// Number of transitions of each kind.
    pub(crate) made: BTreeMap<&'static str, usize>,
    /// For each transition after which every answer became right, the time from its last write
    /// until then.
    pub(crate) took: Vec<Duration>,
    /// Number of transitions after which an answer stayed wrong.
    pub(crate) never_right: usize,
    /// Numbers of all queries to the kernel plane and of those that it passed, by the name's role
    /// and the agent's flags.
    passed: BTreeMap<(NameRole, &'static str), (u64, u64)>,
    /// Number of transitions in which transient answers were looked for: those by one write.
    pub(crate) observed: usize,
    /// Transient answers, by kind. The kernel plane gave them during a transition, but neither
    /// before nor after it, and CoreDNS was not seen to give them.
    pub(crate) transient: BTreeMap<String, Vec<String>>,
}

/// The time within which answers should be right. Answers that become right later, but before the
/// time limit, are reported and are no errors.
pub(crate) const RIGHT_WITHIN: Duration = Duration::from_secs(1);
/// Number of transient answers of each kind that are printed.
const EXAMPLES: usize = 3;
/// The smallest run in which every change of form must occur and the kernel must answer the share
/// [`ANSWERED`]. A shorter run may miss a change of form by chance.
const ENOUGH_TRANSITIONS: usize = 500;
/// The least share of queries for Services' own names that the kernel must answer, in percent.
/// Without this limit a kernel that passes every query would be right. The share depends on the
/// random transitions; in the last result of `docs/comparison.md` it was 83 percent.
const ANSWERED: u64 = 60;

impl TransitionReport {
    /// Adds the queries to the kernel planes, and those that they passed, for a name of this role.
    pub(crate) fn count(&mut self, role: NameRole, tally: &ComparisonTally) {
        for ((flags, plane), counts) in &tally.counts {
            if *plane == AskedPlane::Kernel {
                let (asked, passed) = self.passed.entry((role, flags)).or_default();
                *asked += counts.asked;
                *passed += counts.passed;
            }
        }
    }

    /// Requirements that the transitions did not meet, as text. A run of fewer than
    /// [`ENOUGH_TRANSITIONS`] has no requirements.
    pub(crate) fn shortcomings(&self, generator: &TransitionGenerator) -> Vec<String> {
        let made: usize = self.made.values().sum();
        if made < ENOUGH_TRANSITIONS {
            return Vec::new();
        }
        let never = generator
            .directions
            .iter()
            .filter(|(_, count)| **count == 0);
        let never = never.map(|((from, to), _)| format!("no Service of {from:?} became {to:?}"));
        let of_services = self
            .passed
            .iter()
            .filter(|((role, _), _)| *role == NameRole::Service);
        let seldom =
            of_services.filter(|(_, (asked, passed))| (asked - passed) * 100 < asked * ANSWERED);
        let seldom = seldom.map(|((_, flags), (asked, passed))| {
            format!(
                "the kernel passed {passed} of {asked} queries for Services, with {flags}; it must \
                 answer at least {ANSWERED} %"
            )
        });
        never.chain(seldom).collect()
    }

    pub(crate) fn print(&self, generator: &TransitionGenerator) {
        for (kind, count) in &self.made {
            println!("{count:>9} {kind}");
        }
        let fewest = generator
            .directions
            .values()
            .min()
            .copied()
            .unwrap_or_default();
        println!(
            "{} changes between {} forms of a Service, each made at least {fewest} times",
            generator.directions.len(),
            ServiceForm::ALL.len()
        );
        let mut took = self.took.clone();
        took.sort();
        let at = |share: usize| {
            let at = (took.len() * share / 100).min(took.len().saturating_sub(1));
            took.get(at).copied().unwrap_or_default()
        };
        let late = took.iter().filter(|took| **took > RIGHT_WITHIN).count();
        println!(
            "until right in both planes of every agent: p50 {:.0?}, p99 {:.0?}, max {:.0?}; \
             {late} took longer than {RIGHT_WITHIN:?}, {} never became right",
            at(50),
            at(99),
            at(100),
            self.never_right
        );
        println!("queries that the kernel passed:");
        for ((role, flags), (asked, passed)) in &self.passed {
            println!("{passed:>9} of {asked:>7}  {role:?}, {flags}");
        }
        println!(
            "transient answers of the kernel in {} transitions by one write: {}",
            self.observed,
            self.transient.values().map(Vec::len).sum::<usize>()
        );
        for (kind, examples) in &self.transient {
            println!("{:>9} {kind}", examples.len());
            for example in examples.iter().take(EXAMPLES) {
                println!("            {example}");
            }
        }
    }
}
