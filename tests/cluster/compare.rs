//! One question after the other, to CoreDNS and to all agents, in both planes.

use std::{
    collections::HashSet,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use rand::{SeedableRng as _, rngs::StdRng};

use crate::{
    agent::{Agent, Mode},
    ask::Asker,
    cluster::Cluster,
    departures::{Difference, Known, departure},
    objects::{Objects, key, service_of},
    pod::PASSED,
    questions::{Question, questions, reverse},
    reply::Reply,
    settings::Settings,
    signals::Signals,
    tally::{Plane, Tally},
};

/// Who takes part.
pub(crate) struct Compared<'a> {
    pub(crate) settings: &'a Settings,
    pub(crate) coredns: Asker,
    pub(crate) agents: Vec<Agent>,
    pub(crate) signals: Signals,
}

/// All replies to one question.
struct Replies {
    coredns: Vec<u8>,
    /// Of each agent, the user plane's and the kernel's; none for what the kernel passed.
    agents: Vec<[Option<Vec<u8>>; 2]>,
}

/// What came of many questions that were asked once.
pub(crate) struct Judged<'a> {
    pub(crate) known: Known<'a>,
    /// Of each question.
    pub(crate) tallies: Vec<Tally>,
}

/// Questions that are on their way at once.
const CHUNK: usize = 4096;
/// How long CoreDNS's cache may keep what lies outside the cluster's zone.
pub(crate) const CACHED: Duration = Duration::from_secs(35);

impl Compared<'_> {
    /// Asks everything about the objects of this moment.
    pub(crate) fn everything(&self, cluster: &Cluster) -> Result<Tally> {
        let mut random = StdRng::seed_from_u64(self.settings.seed);
        let zone = &self.settings.zone;
        let mut others = Default::default();
        for agent in &self.agents {
            let mut dumped = agent.dump(self.settings, &cluster.prefix)?;
            dumped.append(&mut others);
            others = dumped;
        }
        let questions = questions(&cluster.objects, zone, &others, &mut random);
        let Judged { known, tallies } = self.once(&cluster.objects, &questions)?;
        let mut tally = Tally::default();
        let mut again = Vec::new();
        for (question, found) in questions.iter().zip(tallies) {
            match found.is_wrong() && !question.is_inside(zone) {
                true => again.push(question.clone()),
                false => tally.add(found),
            }
        }
        self.ask_again(again, &known, &mut tally)?;
        Ok(tally)
    }

    /// Asks each question once.
    pub(crate) fn once<'k>(
        &'k self,
        objects: &'k Objects,
        questions: &[Question],
    ) -> Result<Judged<'k>> {
        let mut replies = Vec::new();
        for chunk in questions.chunks(CHUNK) {
            self.signals.check()?;
            replies.extend(self.ask(chunk)?);
        }
        let known = self.known(objects, questions, &replies)?;
        let judged = questions.iter().zip(&replies);
        let tallies = judged.map(|(question, replies)| self.judge(question, replies, &known));
        let tallies = tallies.collect::<Result<_>>()?;
        Ok(Judged { known, tallies })
    }

    /// Asks until CoreDNS's cache has forgotten what was before.
    pub(crate) fn ask_again(
        &self,
        mut questions: Vec<Question>,
        known: &Known<'_>,
        tally: &mut Tally,
    ) -> Result<()> {
        let deadline = Instant::now() + CACHED;
        while !questions.is_empty() {
            self.signals.check()?;
            let is_late = Instant::now() > deadline;
            let replies = self.ask(&questions)?;
            let mut again = Vec::new();
            for (question, replies) in questions.iter().zip(&replies) {
                let found = self.judge(question, replies, known)?;
                match found.is_wrong() && !is_late {
                    true => again.push(question.clone()),
                    false => tally.add(found),
                }
            }
            questions = again;
        }
        Ok(())
    }

    /// Asks everybody at once.
    fn ask(&self, questions: &[Question]) -> Result<Vec<Replies>> {
        let messages: Vec<Vec<u8>> = questions.iter().map(Question::message).collect();
        let ask = |asker: &Asker| {
            let replies = messages.iter().map(|message| asker.ask(message));
            replies.collect::<Result<Vec<_>>>()
        };
        let (coredns, agents) = thread::scope(|scope| {
            let coredns = scope.spawn(|| ask(&self.coredns));
            let agents: Vec<_> = self
                .agents
                .iter()
                .map(|agent| {
                    [&agent.user_plane, &agent.kernel].map(|plane| scope.spawn(move || ask(plane)))
                })
                .collect();
            let coredns = coredns.join();
            let agents: Vec<_> = agents
                .into_iter()
                .map(|planes| planes.map(thread::ScopedJoinHandle::join))
                .collect();
            (coredns, agents)
        });
        let joined = |thread: thread::Result<Result<Vec<Vec<u8>>>>| {
            thread.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        let mut all: Vec<Replies> = joined(coredns)
            .context("CoreDNS")?
            .into_iter()
            .map(|coredns| Replies {
                coredns,
                agents: Vec::new(),
            })
            .collect();
        for [user_plane, kernel] in agents {
            let user_plane = joined(user_plane).context("a user plane")?;
            let kernel = joined(kernel).context("a kernel plane")?;
            for ((all, user_plane), kernel) in all.iter_mut().zip(user_plane).zip(kernel) {
                let answered = kernel.get(3).is_some_and(|octet| octet & 15 != PASSED);
                all.agents
                    .push([Some(user_plane), answered.then_some(kernel)]);
            }
        }
        Ok(all)
    }

    fn known<'k>(
        &'k self,
        objects: &'k Objects,
        questions: &[Question],
        replies: &[Replies],
    ) -> Result<Known<'k>> {
        let zone = &self.settings.zone;
        let mut known = Known {
            zone,
            objects,
            denied: HashSet::new(),
            above: HashSet::new(),
        };
        for (question, replies) in questions.iter().zip(replies) {
            let name = question.name.to_ascii_lowercase();
            let coredns = Reply::read(&replies.coredns, zone)?;
            if question.rtype == A && coredns.is_nxdomain() {
                known.denied.insert(name.clone());
            }
            let agreed =
                |reply: &[u8]| Reply::read(reply, zone).is_ok_and(|reply| reply.has_data());
            let user_planes = replies
                .agents
                .iter()
                .filter_map(|[user_plane, _]| user_plane.as_deref());
            if coredns.has_data() && user_planes.into_iter().all(agreed) {
                let labels: Vec<&str> = name.split('.').collect();
                known
                    .above
                    .extend((1..labels.len()).map(|at| labels[at..].join(".")));
            }
        }
        Ok(known)
    }

    /// Compares all replies to a question.
    fn judge(&self, question: &Question, replies: &Replies, known: &Known<'_>) -> Result<Tally> {
        let mut tally = Tally::default();
        let zone = &self.settings.zone;
        let coredns = Reply::read(&replies.coredns, zone)?;
        for (agent, planes) in self.agents.iter().zip(&replies.agents) {
            for (plane, reply) in [Plane::User, Plane::Kernel].into_iter().zip(planes) {
                let counts = tally.counts.entry((agent.mode.flags(), plane)).or_default();
                counts.asked += 1;
                let Some(reply) = reply else {
                    counts.passed += 1;
                    continue;
                };
                if *reply == replies.coredns {
                    continue;
                }
                match self.compare(question, &coredns, reply, agent, known)? {
                    Verdict::Same => {}
                    Verdict::Departs(what) => {
                        counts.departing += 1;
                        *tally
                            .departures
                            .entry((what, agent.mode.flags()))
                            .or_default() += 1;
                    }
                    Verdict::Wrong(kind, text) => {
                        counts.wrong += 1;
                        let kind = format!("{} {plane:?} plane: {kind}", agent.mode.flags());
                        tally.wrong.entry(kind).or_default().push(text);
                    }
                }
            }
        }
        Ok(tally)
    }

    fn compare(
        &self,
        question: &Question,
        coredns: &Reply,
        reply: &[u8],
        agent: &Agent,
        known: &Known<'_>,
    ) -> Result<Verdict> {
        let zone = &self.settings.zone;
        let zerohop = match Reply::read(reply, zone) {
            Ok(reply) => reply,
            Err(error) => return Ok(Verdict::Wrong("can't be read".into(), format!("{error:#}"))),
        };
        if coredns.truncated || zerohop.truncated {
            return self.compare_cut(question, coredns, &zerohop, agent, known);
        }
        Ok(verdict(question, coredns, &zerohop, agent.mode, known))
    }

    /// Compares replies that were cut with each other, and whole ones over TCP.
    fn compare_cut(
        &self,
        question: &Question,
        coredns: &Reply,
        zerohop: &Reply,
        agent: &Agent,
        known: &Known<'_>,
    ) -> Result<Verdict> {
        let zone = &self.settings.zone;
        let message = question.message();
        let all_of_coredns = Reply::read(&self.coredns.ask_tcp(&message)?, zone)?;
        let all_of_zerohop = Reply::read(&agent.user_plane.ask_tcp(&message)?, zone)?;
        let whole = verdict(
            question,
            &all_of_coredns,
            &all_of_zerohop,
            agent.mode,
            known,
        );
        if !matches!(whole, Verdict::Same) {
            return Ok(whole);
        }
        let is_part = |part: &Reply| {
            let sections = part.sections.iter().zip(&all_of_coredns.sections);
            sections
                .into_iter()
                .all(|(part, all)| part.iter().all(|record| all.contains(record)))
        };
        if !is_part(coredns) || !is_part(zerohop) {
            return Ok(wrong(question, coredns, zerohop, known));
        }
        let lacks_only_additional = zerohop.sections[..2] == all_of_coredns.sections[..2];
        Ok(match (coredns.truncated, zerohop.truncated) {
            (true, true) => Verdict::Same,
            (true, false) if lacks_only_additional => Verdict::Departs(ADDITIONAL),
            _ => wrong(question, coredns, zerohop, known),
        })
    }
}

/// What is thought of a reply.
enum Verdict {
    Same,
    Departs(&'static str),
    /// Its kind, and all that is to be known of it.
    Wrong(String, String),
}

/// RFC 2181 section 9: nothing is lost that was asked for.
const ADDITIONAL: &str = "additional records that find no room are left out without TC";

fn verdict(
    question: &Question,
    coredns: &Reply,
    zerohop: &Reply,
    mode: Mode,
    known: &Known<'_>,
) -> Verdict {
    if coredns == zerohop {
        return Verdict::Same;
    }
    let difference = Difference {
        question,
        name: question.name.to_ascii_lowercase(),
        coredns,
        zerohop,
        mode,
        known,
    };
    match departure(&difference) {
        Some(departure) => Verdict::Departs(departure.what),
        None => wrong(question, coredns, zerohop, known),
    }
}

fn wrong(question: &Question, coredns: &Reply, zerohop: &Reply, known: &Known<'_>) -> Verdict {
    let lines = |reply: &Reply| reply.lines().join("\n    ");
    let objects: Vec<String> = objects_of(&question.name, known.objects);
    Verdict::Wrong(
        coredns.differences(zerohop).join(", "),
        format!(
            "{question:?}\n  CoreDNS\n    {}\n  Zerohop\n    {}\n  objects\n    {}",
            lines(coredns),
            lines(zerohop),
            objects.join("\n    "),
        ),
    )
}

/// The objects that a name is made of, or that it is about.
fn objects_of(name: &str, objects: &Objects) -> Vec<String> {
    let name = name.to_ascii_lowercase();
    let is_about = |(namespace, service): &(String, String)| {
        format!(".{name}").contains(&format!(".{service}.{namespace}."))
    };
    let has_address = |text: &str| text.parse().is_ok_and(|address| reverse(address) == name);
    let services = objects.services.iter().filter(|(key, service)| {
        let spec = service.spec.as_ref();
        let mut addresses = spec
            .and_then(|spec| spec.cluster_ips.as_ref())
            .into_iter()
            .flatten();
        is_about(key) || addresses.any(|address| has_address(address))
    });
    let slices = objects.slices.values().filter(|slice| {
        let mut addresses = slice
            .endpoints
            .iter()
            .flat_map(|endpoint| &endpoint.addresses);
        service_of(slice).is_some_and(|key| is_about(&key))
            || addresses.any(|address| has_address(address))
    });
    let services = services.map(|(key, service)| {
        let spec = serde_json::to_string(&service.spec).unwrap_or_default();
        format!("Service {key:?} {spec}")
    });
    let slices = slices.map(|slice| {
        let mut slice = slice.clone();
        let key = key(&slice.metadata);
        slice.metadata.managed_fields = None;
        format!(
            "EndpointSlice {key:?} {}",
            serde_json::to_string(&slice).unwrap_or_default()
        )
    });
    services.chain(slices).collect()
}

const A: u16 = 1;
