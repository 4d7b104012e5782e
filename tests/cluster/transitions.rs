//! Transitions of Services, slices and pods while a real controller manager runs. After each
//! transition CoreDNS and both planes of every agent receive queries for the names that may have
//! changed, until every reply is right or a time limit has passed.

mod choice;
mod form;
mod generator;
mod marker;
mod report;
mod services;
mod slices;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;

use self::{
    generator::{Transition, TransitionGenerator, WriteCount},
    marker::MovingMarker,
    report::{RIGHT_WITHIN, TransitionReport},
};
use crate::{
    client::RetryingClient,
    cluster::LiveCluster,
    compare::{CACHED, Comparison, QuestionTallies},
    objects::{LiveObjects, NamespacedName},
    pod::is_passed,
    questions::{
        A, ComparedQuestion, EdnsChoice, NameRole, PTR, questions_about, unanswered_reverse_names,
    },
    reply::ComparedReply,
    tally::ComparisonTally,
};

/// The time after which a difference counts as lasting: ten times [`RIGHT_WITHIN`].
const LASTING_AFTER: Duration = Duration::from_secs(10);
/// The same once [`MANY`] transitions had lasting differences, so that a bad run also ends soon.
const LASTING_AFTER_MANY: Duration = Duration::from_secs(2);
/// Number of transitions with lasting differences from which [`LASTING_AFTER_MANY`] applies.
const MANY: usize = 10;
/// The time that the controller manager gets to react to a change. It reads a Service 1 s after a
/// change of the Service's slices; 0.5 s is a margin.
const CONTROLLER_REACTION: Duration = Duration::from_millis(1500);
/// The pause between two rounds of questions.
const PAUSE: Duration = Duration::from_millis(20);
/// Number of the last transitions of a Service that are printed with a difference.
const HISTORY_PRINTED: usize = 8;

/// Makes the configured number of transitions, and compares replies after each.
pub(crate) fn run_transitions(
    comparison: &Comparison<'_>,
    cluster: &mut LiveCluster,
) -> Result<ComparisonTally> {
    let settings = comparison.settings;
    let mut generator = TransitionGenerator::new(settings.seed, &cluster.prefix, &settings.zone);
    generator.prepare(cluster)?;
    let marker = MovingMarker::new(cluster, &settings.zone)?;
    let mut phase = TransitionPhase {
        comparison,
        cluster,
        generator,
        marker,
        report: TransitionReport::default(),
        tally: ComparisonTally::default(),
        revisit: VecDeque::new(),
        reverse: ReverseNames::default(),
        history: BTreeMap::new(),
    };
    // The agents may have just started, and may not know all objects yet.
    phase.wait_until_known(|| Ok(()))?;
    let start = Instant::now();
    for number in 1..=settings.transitions {
        comparison.signals.fail_if_stopped()?;
        phase.make_transition(number)?;
    }
    phase.finish()?;
    let TransitionPhase {
        generator,
        report,
        mut tally,
        ..
    } = phase;
    let count = settings.transitions;
    tally.print(&format!("{count} transitions in {:.0?}", start.elapsed()));
    report.print(&generator);
    for text in report.shortcomings(&generator) {
        println!("WRONG not enough was tried: {text}");
        let kind = "not enough was tried".to_owned();
        tally.wrong.entry(kind).or_default().push(text);
    }
    Ok(tally)
}

/// The state of the transitions of one run.
struct TransitionPhase<'a, 'c> {
    comparison: &'a Comparison<'a>,
    cluster: &'c mut LiveCluster,
    generator: TransitionGenerator,
    marker: MovingMarker,
    report: TransitionReport,
    tally: ComparisonTally,
    /// Services to ask about again after [`CONTROLLER_REACTION`], with the time of their
    /// transition.
    revisit: VecDeque<(Instant, BTreeSet<NamespacedName>)>,
    reverse: ReverseNames,
    /// The transitions of each Service.
    history: BTreeMap<NamespacedName, Vec<String>>,
}

/// The reverse names to ask about. CoreDNS's cache may keep their records, because the suite's
/// Corefile turns the cache off only for the cluster's zone. So each name is asked about again only
/// after the cache has dropped its records, except to repeat a question with a wrong reply.
#[derive(Default)]
struct ReverseNames {
    /// When each name was last asked about.
    asked: BTreeMap<String, Instant>,
    /// Names that may have changed since they were last asked about.
    due: BTreeSet<String>,
}

/// The answers of CoreDNS and of each kernel plane to the same question, over time.
struct AnswerHistory<'a> {
    name: String,
    servers: Vec<(AnsweringServer, &'a RetryingClient, Vec<ComparedReply>)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum AnsweringServer {
    CoreDns,
    /// The kernel plane of the agent with these flags.
    Kernel(&'static str),
}

impl TransitionPhase<'_, '_> {
    fn make_transition(&mut self, number: usize) -> Result<()> {
        let zone = &self.comparison.settings.zone;
        let before = self.state();
        // Every Service, because the generator has not yet chosen the one to change.
        let services = self.generator.services().into_iter();
        let mut histories: BTreeMap<NamespacedName, AnswerHistory<'_>> = services
            .map(|key| (key.clone(), AnswerHistory::new(self.comparison, &key)))
            .collect();
        histories
            .values_mut()
            .try_for_each(|history| history.record_answers(zone))?;

        let transition = self.generator.make_transition(self.cluster)?;
        let start = Instant::now();
        *self.report.made.entry(transition.kind).or_default() += 1;
        for key in &transition.services {
            let line = format!("#{number} {}: {}", transition.kind, transition.description);
            self.history.entry(key.clone()).or_default().push(line);
        }
        histories.retain(|key, _| transition.services.contains(key));
        self.wait_until_known(|| {
            histories
                .values_mut()
                .try_for_each(|history| history.record_answers(zone))
        })?;

        // Also the Services of earlier transitions to which the controller manager has had time to
        // react.
        let mut concerned = transition.services.clone();
        while let Some((made, _)) = self.revisit.front()
            && made.elapsed() > CONTROLLER_REACTION
            && let Some((_, services)) = self.revisit.pop_front()
        {
            concerned.extend(services);
        }
        let is_right =
            self.wait_until_right(&concerned, &before, start, &transition.description)?;
        if is_right {
            self.report.took.push(start.elapsed());
        } else {
            self.report.never_right += 1;
        }
        histories
            .values_mut()
            .try_for_each(|history| history.record_answers(zone))?;
        // Answers between several writes may be right for a state between them.
        if transition.writes == WriteCount::One {
            self.report.observed += 1;
            for (key, history) in &histories {
                self.record_transient_answers(number, &transition, key, history);
            }
        }
        self.revisit.push_back((start, transition.services));
        self.ask_reverse()
    }

    /// Waits until all servers know all writes, with the exception that [`marker`] describes. Calls
    /// `observe` in each round.
    fn wait_until_known(&mut self, mut observe: impl FnMut() -> Result<()>) -> Result<()> {
        let comparison = self.comparison;
        let agents = comparison.agents.iter();
        let agents = agents.flat_map(|agent| [&agent.user_plane, &agent.kernel]);
        let all: Vec<&RetryingClient> =
            std::iter::once(&comparison.coredns).chain(agents).collect();
        self.marker.move_and_wait(self.cluster, &all, || {
            comparison.signals.fail_if_stopped()?;
            observe()
        })
    }

    /// Asks about the Services in `concerned`, and about the aliases that lead to them, until every
    /// reply of every plane equals CoreDNS's or has an agreed deviation. A query that the kernel
    /// passes has no reply. Returns false if a reply is still wrong at the time limit after
    /// `start`. Reverse names are not asked about here but become due.
    fn wait_until_right(
        &mut self,
        concerned: &BTreeSet<NamespacedName>,
        before: &LiveObjects,
        start: Instant,
        description: &str,
    ) -> Result<bool> {
        let zone = &self.comparison.settings.zone;
        let mut last_wrong = Vec::new();
        loop {
            let is_late = start.elapsed() > self.lasting_after();
            for namespace in &self.generator.namespaces {
                self.cluster.refresh(namespace)?;
            }
            let now = self.state();
            let concerned = with_aliases(concerned, &now);
            let asked = questions_about(&concerned, [before, &now], zone);
            let (reverse, asked): (Vec<_>, Vec<_>) = asked
                .into_iter()
                .partition(|(role, _)| *role == NameRole::Reverse);
            let (roles, questions): (Vec<_>, Vec<_>) = asked.into_iter().unzip();
            let QuestionTallies { tallies, .. } = self.comparison.ask_once(&now, &questions)?;
            let is_wrong = tallies.iter().any(ComparisonTally::is_wrong);
            if is_wrong && !is_late {
                last_wrong = difference_lines(&questions, &tallies);
                thread::sleep(PAUSE);
                continue;
            }
            let took = start.elapsed();
            if !is_wrong && took > RIGHT_WITHIN {
                println!("right only after {took:.1?}: {description}");
                last_wrong.iter().for_each(|kind| println!("    {kind}"));
            }
            self.reverse.add_due(reverse);
            if is_wrong {
                self.print_wrong(&concerned, &questions, &tallies, description);
            }
            for ((role, question), mut tally) in roles.into_iter().zip(questions).zip(tallies) {
                self.report.count(role, &tally);
                self.append_history(&question.name, &mut tally);
                self.tally.add(tally);
            }
            return Ok(!is_wrong);
        }
    }

    /// Prints the questions with lasting differences at once, before the run's summary.
    fn print_wrong(
        &self,
        concerned: &BTreeSet<NamespacedName>,
        questions: &[ComparedQuestion],
        tallies: &[ComparisonTally],
        description: &str,
    ) {
        println!("WRONG until the time limit, after: {description}");
        for kind in difference_lines(questions, tallies) {
            println!("    {kind}");
        }
        let about = concerned.iter().filter(|(namespace, name)| {
            let name = format!("{name}.{namespace}.svc.");
            let mut wrong = questions
                .iter()
                .zip(tallies)
                .filter(|(_, tally)| tally.is_wrong());
            wrong.any(|(question, _)| format!(".{}", question.name).contains(&format!(".{name}")))
        });
        for key in about {
            println!("    {}: {}", key.1, self.recent_history(key).join("; "));
        }
    }

    /// Appends to the differences of a name the last transitions of its Service.
    fn append_history(&self, name: &str, tally: &mut ComparisonTally) {
        let about = self.history.keys().find(|(namespace, service)| {
            format!(".{name}").contains(&format!(".{service}.{namespace}.svc."))
        });
        let Some(key) = about else {
            return;
        };
        let lines = self.recent_history(key).join("\n    ");
        for texts in tally.wrong.values_mut() {
            for text in texts {
                text.push_str(&format!("\n  transitions\n    {lines}"));
            }
        }
    }

    /// The last transitions of a Service.
    fn recent_history(&self, key: &NamespacedName) -> &[String] {
        let all = self.history.get(key).map_or(&[][..], Vec::as_slice);
        &all[all.len().saturating_sub(HISTORY_PRINTED)..]
    }

    /// Asks about the due reverse names that CoreDNS's cache cannot hold, and asks again about
    /// those with a wrong reply, for at most [`CACHED`]. Names that CoreDNS never answers are no
    /// longer due.
    fn ask_reverse(&mut self) -> Result<()> {
        let now = self.state();
        let unanswered_names = unanswered_reverse_names(&now);
        self.reverse
            .due
            .retain(|name| !unanswered_names.contains(name));
        let names = self.reverse.take_uncached();
        let questions: Vec<ComparedQuestion> = names
            .into_iter()
            .flat_map(|name| {
                [A, PTR].map(|rtype| ComparedQuestion {
                    name: name.clone(),
                    rtype,
                    edns: EdnsChoice::Without,
                })
            })
            .collect();
        let QuestionTallies { context, tallies } = self.comparison.ask_once(&now, &questions)?;
        let mut wrong = Vec::new();
        for (question, tally) in questions.into_iter().zip(tallies) {
            self.report.count(NameRole::Reverse, &tally);
            if tally.is_wrong() {
                wrong.push(question);
            } else {
                self.tally.add(tally);
            }
        }
        self.comparison
            .repeat_wrong_questions(wrong, &context, &mut self.tally)
    }

    /// Asks about all Services once more, without another transition, and then about all due
    /// reverse names.
    fn finish(&mut self) -> Result<()> {
        thread::sleep(CONTROLLER_REACTION);
        let before = self.state();
        let services = self.generator.services();
        let start = Instant::now();
        self.wait_until_right(&services, &before, start, "the last transition")?;
        while !self.reverse.due.is_empty() {
            self.comparison.signals.fail_if_stopped()?;
            self.ask_reverse()?;
            thread::sleep(PAUSE);
        }
        Ok(())
    }

    /// Records answers that only the kernel gave, and that it gave only during the transition.
    fn record_transient_answers(
        &mut self,
        number: usize,
        transition: &Transition,
        key: &NamespacedName,
        history: &AnswerHistory<'_>,
    ) {
        let coredns = history
            .servers
            .iter()
            .find(|(server, ..)| *server == AnsweringServer::CoreDns);
        let Some((_, _, coredns_replies)) = coredns else {
            return;
        };
        for (server, _, replies) in &history.servers {
            let AnsweringServer::Kernel(flags) = server else {
                continue;
            };
            // The first reply is from before the transition, and the last from after it, unless
            // the kernel passed the queries at that time.
            let (Some(first), Some(last)) = (replies.first(), replies.last()) else {
                continue;
            };
            let between = replies.iter().filter(|reply| {
                *reply != first && *reply != last && !coredns_replies.contains(reply)
            });
            for reply in between {
                let what = if reply.has_data() {
                    "an answer"
                } else if reply.is_nxdomain() {
                    "NXDOMAIN"
                } else {
                    "NODATA"
                };
                let text = format!(
                    "#{number} {} {}: {}: {}",
                    key.1,
                    transition.kind,
                    transition.description,
                    reply.lines().join("; ")
                );
                let kind = format!("{flags}: {what}");
                self.report.transient.entry(kind).or_default().push(text);
            }
        }
    }

    fn lasting_after(&self) -> Duration {
        if self.report.never_right < MANY {
            LASTING_AFTER
        } else {
            LASTING_AFTER_MANY
        }
    }

    /// The Services and slices of the transitions' namespaces, as they were last written or listed.
    fn state(&self) -> LiveObjects {
        self.cluster.objects.within(&self.generator.namespaces)
    }
}

impl ReverseNames {
    /// Adds names that may have changed.
    fn add_due(&mut self, questions: Vec<(NameRole, ComparedQuestion)>) {
        self.due
            .extend(questions.into_iter().map(|(_, question)| question.name));
    }

    /// Removes and returns the due names that CoreDNS's cache cannot hold.
    fn take_uncached(&mut self) -> Vec<String> {
        let asked = &mut self.asked;
        asked.retain(|_, at| at.elapsed() < CACHED);
        let names: Vec<String> = self
            .due
            .extract_if(.., |name| !asked.contains_key(name))
            .collect();
        asked.extend(names.iter().map(|name| (name.clone(), Instant::now())));
        names
    }
}

impl<'a> AnswerHistory<'a> {
    fn new(
        comparison: &'a Comparison<'_>,
        (namespace, service): &NamespacedName,
    ) -> AnswerHistory<'a> {
        let agents = comparison.agents.iter();
        let kernels =
            agents.map(|agent| (AnsweringServer::Kernel(agent.mode.flags()), &agent.kernel));
        let servers =
            std::iter::once((AnsweringServer::CoreDns, &comparison.coredns)).chain(kernels);
        AnswerHistory {
            name: format!("{service}.{namespace}.svc.{}", comparison.settings.zone),
            servers: servers
                .map(|(server, client)| (server, client, Vec::new()))
                .collect(),
        }
    }

    /// Asks each server, and records its answer if it differs from the last one. Queries that the
    /// kernel passes count as no answer.
    fn record_answers(&mut self, zone: &str) -> Result<()> {
        let question = ComparedQuestion {
            name: self.name.clone(),
            rtype: A,
            edns: EdnsChoice::Without,
        };
        for (_, client, replies) in &mut self.servers {
            let reply = client.ask(&question.message())?;
            if is_passed(&reply) {
                continue;
            }
            let reply = ComparedReply::read(&reply, zone)?;
            if replies.last() != Some(&reply) {
                replies.push(reply);
            }
        }
        Ok(())
    }
}

/// The differences of each question, a line each.
fn difference_lines(questions: &[ComparedQuestion], tallies: &[ComparisonTally]) -> Vec<String> {
    let all = questions.iter().zip(tallies).flat_map(|(question, tally)| {
        let ComparedQuestion { name, rtype, .. } = question;
        let kinds = tally.wrong.keys();
        kinds.map(move |kind| format!("{name} {rtype}: {kind}"))
    });
    all.collect()
}

/// These Services, and the aliases whose target is one of them.
fn with_aliases(
    services: &BTreeSet<NamespacedName>,
    objects: &LiveObjects,
) -> BTreeSet<NamespacedName> {
    let aliases = objects.services.iter().filter(|(_, service)| {
        let target = service
            .spec
            .as_ref()
            .and_then(|spec| spec.external_name.as_ref());
        target.is_some_and(|target| {
            let mut services = services.iter();
            services
                .any(|(namespace, name)| target.starts_with(&format!("{name}.{namespace}.svc.")))
        })
    });
    let aliases = aliases.map(|(key, _)| key.clone());
    services.iter().cloned().chain(aliases).collect()
}
