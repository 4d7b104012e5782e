//! Transitions of Services and slices beside a real controller manager: after each, the names that it
//! concerns are asked in both planes, until all is as CoreDNS answers or too much time has gone by.

mod form;
mod moving;
mod report;
mod services;
mod slices;
mod steps;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;

use self::{
    moving::Moving,
    report::{BAR, Report},
    steps::{Step, Steps, Writes},
};
use crate::{
    ask::Asker,
    cluster::Cluster,
    compare::{CACHED, Compared, Judged},
    objects::{Key, Objects},
    pod::PASSED,
    questions::{Edns, Question, Subject, questions_about, unanswered},
    reply::Reply,
    tally::Tally,
};

/// How long a difference may last: ten times as long as it should.
const PATIENCE: Duration = Duration::from_secs(10);
/// The same after many differences have lasted, so that a run with many ends.
const IMPATIENCE: Duration = Duration::from_secs(2);
const MANY: usize = 10;
/// The controller manager looks at a Service a second after one of its slices changed.
const REACTS: Duration = Duration::from_millis(1500);
/// Between two rounds of questions.
const PAUSE: Duration = Duration::from_millis(20);
/// Transitions of a Service that are told beside a difference.
const TOLD: usize = 8;

/// Makes transitions, and asks about each.
pub(crate) fn run(compared: &Compared<'_>, cluster: &mut Cluster) -> Result<Tally> {
    let settings = compared.settings;
    let mut steps = Steps::new(settings.seed, &cluster.prefix, &settings.zone);
    steps.prepare(cluster)?;
    let moving = Moving::new(cluster, &settings.zone)?;
    let mut phase = Phase {
        compared,
        cluster,
        steps,
        moving,
        report: Report::default(),
        tally: Tally::default(),
        again: VecDeque::new(),
        reverse: Reverse::default(),
        history: BTreeMap::new(),
    };
    // Agents that have only just started know nothing yet.
    phase.wait_until_known(|| Ok(()))?;
    let start = Instant::now();
    for number in 1..=settings.transitions {
        compared.signals.check()?;
        phase.transition(number)?;
    }
    phase.finish()?;
    let Phase {
        steps,
        report,
        mut tally,
        ..
    } = phase;
    let count = settings.transitions;
    tally.print(&format!("{count} transitions in {:.0?}", start.elapsed()));
    report.print(&steps);
    for text in report.shortcomings(&steps) {
        println!("WRONG not enough was tried: {text}");
        let kind = "not enough was tried".to_owned();
        tally.wrong.entry(kind).or_default().push(text);
    }
    Ok(tally)
}

struct Phase<'a, 'c> {
    compared: &'a Compared<'a>,
    cluster: &'c mut Cluster,
    steps: Steps,
    moving: Moving,
    report: Report,
    tally: Tally,
    /// Services to be asked about again, when the controller manager has had its say.
    again: VecDeque<(Instant, BTreeSet<Key>)>,
    reverse: Reverse,
    /// What happened to each Service.
    history: BTreeMap<Key, Vec<String>>,
}

/// Reverse names, which CoreDNS's cache keeps: none is asked for again while it may.
#[derive(Default)]
struct Reverse {
    asked: BTreeMap<String, Instant>,
    /// Those that may have changed since they were asked for.
    due: BTreeSet<String>,
}

/// What the same question was answered, by each server.
struct Seen<'a> {
    name: String,
    servers: Vec<(Server, &'a Asker, Vec<Reply>)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Server {
    CoreDns,
    Kernel(&'static str),
}

impl Phase<'_, '_> {
    fn transition(&mut self, number: usize) -> Result<()> {
        let zone = &self.compared.settings.zone;
        let before = self.state();
        let services = self.steps.services().into_iter();
        let mut seen = services.map(|key| (key.clone(), Seen::new(self.compared, &key)));
        let mut seen: BTreeMap<Key, Seen<'_>> = seen.by_ref().collect();
        seen.values_mut().try_for_each(|seen| seen.look(zone))?;

        let step = self.steps.make(self.cluster)?;
        let start = Instant::now();
        *self.report.made.entry(step.what).or_default() += 1;
        for key in &step.services {
            let told = format!("#{number} {}: {}", step.what, step.text);
            self.history.entry(key.clone()).or_default().push(told);
        }
        seen.retain(|key, _| step.services.contains(key));
        self.wait_until_known(|| seen.values_mut().try_for_each(|seen| seen.look(zone)))?;

        // Earlier ones, now that the controller manager has done what it does.
        let mut concerned = step.services.clone();
        while let Some((made, _)) = self.again.front()
            && made.elapsed() > REACTS
            && let Some((_, services)) = self.again.pop_front()
        {
            concerned.extend(services);
        }
        let is_right = self.settle(&concerned, &before, start, &step.text)?;
        match is_right {
            true => self.report.took.push(start.elapsed()),
            false => self.report.never += 1,
        }
        seen.values_mut().try_for_each(|seen| seen.look(zone))?;
        if step.writes == Writes::One {
            self.report.watched += 1;
            for (key, seen) in &seen {
                self.look_between(number, &step, key, seen);
            }
        }
        self.again.push_back((start, step.services));
        self.ask_reverse()
    }

    /// Waits until all servers know all that was written. Meanwhile `look` is called again and again.
    fn wait_until_known(&mut self, mut look: impl FnMut() -> Result<()>) -> Result<()> {
        let compared = self.compared;
        let agents = compared.agents.iter();
        let agents = agents.flat_map(|agent| [&agent.user_plane, &agent.kernel]);
        let all: Vec<&Asker> = std::iter::once(&compared.coredns).chain(agents).collect();
        self.moving.pass_by(self.cluster, &all, || {
            compared.signals.check()?;
            look()
        })
    }

    /// Asks until all planes answer as CoreDNS does; whether they did.
    fn settle(
        &mut self,
        concerned: &BTreeSet<Key>,
        before: &Objects,
        start: Instant,
        what: &str,
    ) -> Result<bool> {
        let zone = &self.compared.settings.zone;
        let mut last_wrong = Vec::new();
        loop {
            let is_late = start.elapsed() > self.patience();
            for namespace in &self.steps.namespaces {
                self.cluster.refresh(namespace)?;
            }
            let now = self.state();
            let concerned = with_aliases(concerned, &now);
            let asked = questions_about(&concerned, [before, &now], zone);
            let (reverse, asked): (Vec<_>, Vec<_>) = asked
                .into_iter()
                .partition(|(subject, _)| *subject == Subject::Reverse);
            let (subjects, questions): (Vec<_>, Vec<_>) = asked.into_iter().unzip();
            let Judged { tallies, .. } = self.compared.once(&now, &questions)?;
            let is_wrong = tallies.iter().any(Tally::is_wrong);
            if is_wrong && !is_late {
                last_wrong = kinds(&questions, &tallies);
                thread::sleep(PAUSE);
                continue;
            }
            let took = start.elapsed();
            if !is_wrong && took > BAR {
                println!("right only after {took:.1?}: {what}");
                last_wrong.iter().for_each(|kind| println!("    {kind}"));
            }
            self.reverse.note(reverse);
            if is_wrong {
                self.tell(&concerned, &questions, &tallies, what);
            }
            for ((subject, question), mut tally) in subjects.into_iter().zip(questions).zip(tallies)
            {
                self.report.count(subject, &tally);
                self.explain(&question.name, &mut tally);
                self.tally.add(tally);
            }
            return Ok(!is_wrong);
        }
    }

    /// Says at once what stays wrong.
    fn tell(
        &self,
        concerned: &BTreeSet<Key>,
        questions: &[Question],
        tallies: &[Tally],
        what: &str,
    ) {
        println!("WRONG for good after: {what}");
        for kind in kinds(questions, tallies) {
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
            println!("    {}: {}", key.1, self.told(key).join("; "));
        }
    }

    /// Adds what happened to a Service to what is wrong about it.
    fn explain(&self, name: &str, tally: &mut Tally) {
        let about = self.history.keys().find(|(namespace, service)| {
            format!(".{name}").contains(&format!(".{service}.{namespace}.svc."))
        });
        let Some(key) = about else {
            return;
        };
        let told = self.told(key).join("\n    ");
        for texts in tally.wrong.values_mut() {
            for text in texts {
                text.push_str(&format!("\n  what happened\n    {told}"));
            }
        }
    }

    fn told(&self, key: &Key) -> &[String] {
        let all = self.history.get(key).map_or(&[][..], Vec::as_slice);
        &all[all.len().saturating_sub(TOLD)..]
    }

    /// Asks for the reverse names that CoreDNS's cache knows nothing of.
    fn ask_reverse(&mut self) -> Result<()> {
        let now = self.state();
        let silent = unanswered(&now);
        self.reverse.due.retain(|name| !silent.contains(name));
        let names = self.reverse.take_uncached();
        let questions: Vec<Question> = names
            .into_iter()
            .flat_map(|name| {
                [A, PTR].map(|rtype| Question {
                    name: name.clone(),
                    rtype,
                    edns: Edns::Without,
                })
            })
            .collect();
        let Judged { known, tallies } = self.compared.once(&now, &questions)?;
        let mut wrong = Vec::new();
        for (question, tally) in questions.into_iter().zip(tallies) {
            self.report.count(Subject::Reverse, &tally);
            match tally.is_wrong() {
                true => wrong.push(question),
                false => self.tally.add(tally),
            }
        }
        self.compared.ask_again(wrong, &known, &mut self.tally)
    }

    /// Asks about everything once more, at rest.
    fn finish(&mut self) -> Result<()> {
        thread::sleep(REACTS);
        let before = self.state();
        let services = self.steps.services();
        let start = Instant::now();
        self.settle(&services, &before, start, "the last transition")?;
        while !self.reverse.due.is_empty() {
            self.compared.signals.check()?;
            self.ask_reverse()?;
            thread::sleep(PAUSE);
        }
        Ok(())
    }

    /// Counts what only the kernel answered while the transition was on its way.
    fn look_between(&mut self, number: usize, step: &Step, key: &Key, seen: &Seen<'_>) {
        let of_coredns = seen
            .servers
            .iter()
            .find(|(server, ..)| *server == Server::CoreDns);
        let Some((_, _, of_coredns)) = of_coredns else {
            return;
        };
        for (server, _, replies) in &seen.servers {
            let Server::Kernel(flags) = server else {
                continue;
            };
            // The first and the last are those before and after.
            let (Some(first), Some(last)) = (replies.first(), replies.last()) else {
                continue;
            };
            let between = replies
                .iter()
                .filter(|reply| *reply != first && *reply != last && !of_coredns.contains(reply));
            for reply in between {
                let what = match reply.has_data() {
                    true => "an answer",
                    false if reply.is_nxdomain() => "NXDOMAIN",
                    false => "NODATA",
                };
                let text = format!(
                    "#{number} {} {}: {}: {}",
                    key.1,
                    step.what,
                    step.text,
                    reply.lines().join("; ")
                );
                let kind = format!("{flags}: {what}");
                self.report.between.entry(kind).or_default().push(text);
            }
        }
    }

    fn patience(&self) -> Duration {
        match self.report.never < MANY {
            true => PATIENCE,
            false => IMPATIENCE,
        }
    }

    /// The objects as they were read last.
    fn state(&self) -> Objects {
        self.cluster.objects.within(&self.steps.namespaces)
    }
}

impl Reverse {
    /// These may have changed.
    fn note(&mut self, questions: Vec<(Subject, Question)>) {
        self.due
            .extend(questions.into_iter().map(|(_, question)| question.name));
    }

    /// Those that CoreDNS was not asked for lately.
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

impl<'a> Seen<'a> {
    fn new(compared: &'a Compared<'_>, (namespace, service): &Key) -> Seen<'a> {
        let agents = compared.agents.iter();
        let kernels = agents.map(|agent| (Server::Kernel(agent.mode.flags()), &agent.kernel));
        let servers = std::iter::once((Server::CoreDns, &compared.coredns)).chain(kernels);
        Seen {
            name: format!("{service}.{namespace}.svc.{}", compared.settings.zone),
            servers: servers
                .map(|(server, asker)| (server, asker, Vec::new()))
                .collect(),
        }
    }

    /// Notes an answer that differs from the one before. What the kernel passes is no answer.
    fn look(&mut self, zone: &str) -> Result<()> {
        let question = Question {
            name: self.name.clone(),
            rtype: A,
            edns: Edns::Without,
        };
        for (_, asker, replies) in &mut self.servers {
            let reply = asker.ask(&question.message())?;
            if reply.get(3).is_none_or(|octet| octet & 15 == PASSED) {
                continue;
            }
            let reply = Reply::read(&reply, zone)?;
            if replies.last() != Some(&reply) {
                replies.push(reply);
            }
        }
        Ok(())
    }
}

/// What is wrong about each question, in a line.
fn kinds(questions: &[Question], tallies: &[Tally]) -> Vec<String> {
    let all = questions.iter().zip(tallies).flat_map(|(question, tally)| {
        let Question { name, rtype, .. } = question;
        let kinds = tally.wrong.keys();
        kinds.map(move |kind| format!("{name} {rtype}: {kind}"))
    });
    all.collect()
}

/// Services, and the aliases that lead to them.
fn with_aliases(services: &BTreeSet<Key>, objects: &Objects) -> BTreeSet<Key> {
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

const A: u16 = 1;
const PTR: u16 = 12;
