//! Sends the same queries to CoreDNS and to both planes of every agent, and compares the replies.

use std::{
    collections::{BTreeSet, HashSet},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use rand::{SeedableRng as _, rngs::StdRng};

use crate::{
    agent::{AgentMode, ComparedAgent},
    client::RetryingClient,
    cluster::LiveCluster,
    deviations::{AnswerDifference, ComparisonContext, find_deviation},
    objects::{LiveObjects, key, service_of},
    pod::is_passed,
    questions::{A, ComparedQuestion, make_questions, reverse},
    reply::{ComparedReply, TtlRule},
    settings::ComparisonSettings,
    signals::StopRequest,
    tally::{AskedPlane, ComparisonTally},
};

/// The servers that are compared.
pub(crate) struct Comparison<'a> {
    pub(crate) settings: &'a ComparisonSettings,
    pub(crate) coredns: RetryingClient,
    pub(crate) agents: Vec<ComparedAgent>,
    pub(crate) signals: StopRequest,
}

/// All replies to one question.
struct QuestionReplies {
    coredns: Vec<u8>,
    /// For each agent the replies of the user plane and of the kernel plane; `None` if the kernel
    /// passed the query.
    agents: Vec<[Option<Vec<u8>>; 2]>,
}

/// The comparison of the replies to questions that were each asked once.
pub(crate) struct QuestionTallies<'a> {
    pub(crate) context: ComparisonContext<'a>,
    /// One for each question, in order.
    pub(crate) tallies: Vec<ComparisonTally>,
}

/// Number of questions that are sent between two checks for a stop signal.
const CHUNK: usize = 4096;
/// CoreDNS's cache keeps no record outside the cluster's zone for longer than this: 30 s by the
/// default Corefile, and a margin.
pub(crate) const CACHED: Duration = Duration::from_secs(35);

impl Comparison<'_> {
    /// Asks all questions about the current objects, and about all names in the run's namespaces
    /// that the agents dump, and compares the replies.
    pub(crate) fn compare_all_names(&self, cluster: &LiveCluster) -> Result<ComparisonTally> {
        let mut random = StdRng::seed_from_u64(self.settings.seed);
        let zone = &self.settings.zone;
        let mut served_names = BTreeSet::new();
        for agent in &self.agents {
            served_names.append(&mut agent.dump(&cluster.prefix)?);
        }
        let questions = make_questions(&cluster.objects, zone, &served_names, &mut random);
        let QuestionTallies { context, tallies } = self.ask_once(&cluster.objects, &questions)?;
        let mut tally = ComparisonTally::default();
        let mut again = Vec::new();
        for (question, found) in questions.iter().zip(tallies) {
            // CoreDNS's cache may still hold an old record of a name outside the zone. For the zone
            // the suite's Corefile turns the cache off.
            if found.is_wrong() && !question.is_inside(zone) {
                again.push(question.clone());
            } else {
                tally.add(found);
            }
        }
        self.repeat_wrong_questions(again, &context, &mut tally)?;
        Ok(tally)
    }

    /// Asks each question once, and compares the replies.
    pub(crate) fn ask_once<'k>(
        &'k self,
        objects: &'k LiveObjects,
        questions: &[ComparedQuestion],
    ) -> Result<QuestionTallies<'k>> {
        let mut replies = Vec::new();
        for chunk in questions.chunks(CHUNK) {
            self.signals.fail_if_stopped()?;
            replies.extend(self.ask_all_servers(chunk)?);
        }
        let context = self.collect_context(objects, questions, &replies)?;
        let judged = questions.iter().zip(&replies);
        let tallies =
            judged.map(|(question, replies)| self.judge_replies(question, replies, &context));
        let tallies = tallies.collect::<Result<_>>()?;
        Ok(QuestionTallies { context, tallies })
    }

    /// Asks questions again until no reply is wrong, or CoreDNS's cache holds no older record. No
    /// pause is needed between the rounds, because each waits for the replies of all servers.
    pub(crate) fn repeat_wrong_questions(
        &self,
        mut questions: Vec<ComparedQuestion>,
        context: &ComparisonContext<'_>,
        tally: &mut ComparisonTally,
    ) -> Result<()> {
        let deadline = Instant::now() + CACHED;
        while !questions.is_empty() {
            self.signals.fail_if_stopped()?;
            let is_late = Instant::now() > deadline;
            let replies = self.ask_all_servers(&questions)?;
            let mut again = Vec::new();
            for (question, replies) in questions.iter().zip(&replies) {
                let found = self.judge_replies(question, replies, context)?;
                if found.is_wrong() && !is_late {
                    again.push(question.clone());
                } else {
                    tally.add(found);
                }
            }
            questions = again;
        }
        Ok(())
    }

    /// Asks all servers at the same time, and each server one question after another. With
    /// [`TtlRule::AtMost`] CoreDNS is asked before the others, because its cache counts the TTLs
    /// down when an agent asks it the same.
    fn ask_all_servers(&self, questions: &[ComparedQuestion]) -> Result<Vec<QuestionReplies>> {
        let messages: Vec<Vec<u8>> = questions.iter().map(ComparedQuestion::message).collect();
        let ask = |client: &RetryingClient| {
            let replies = messages.iter().map(|message| client.ask(message));
            replies.collect::<Result<Vec<_>>>()
        };
        let early = match self.settings.ttls {
            TtlRule::AtMost => Some(ask(&self.coredns)),
            TtlRule::Equal => None,
        };
        let (coredns, agents) = thread::scope(|scope| {
            let coredns = scope.spawn(|| early.unwrap_or_else(|| ask(&self.coredns)));
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
        // A panic of one of the threads continues in this thread.
        let joined = |thread: thread::Result<Result<Vec<Vec<u8>>>>| {
            thread.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        let mut all: Vec<QuestionReplies> = joined(coredns)
            .context("asking CoreDNS")?
            .into_iter()
            .map(|coredns| QuestionReplies {
                coredns,
                agents: Vec::new(),
            })
            .collect();
        for [user_plane, kernel] in agents {
            let user_plane = joined(user_plane).context("asking a user plane")?;
            let kernel = joined(kernel).context("asking a kernel plane")?;
            for ((all, user_plane), kernel) in all.iter_mut().zip(user_plane).zip(kernel) {
                let kernel = (!is_passed(&kernel)).then_some(kernel);
                all.agents.push([Some(user_plane), kernel]);
            }
        }
        Ok(all)
    }

    /// Collects the facts that the rules for deviations need from the replies to all questions.
    fn collect_context<'k>(
        &'k self,
        objects: &'k LiveObjects,
        questions: &[ComparedQuestion],
        replies: &[QuestionReplies],
    ) -> Result<ComparisonContext<'k>> {
        let zone = &self.settings.zone;
        let mut context = ComparisonContext {
            zone,
            objects,
            denied: HashSet::new(),
            above: HashSet::new(),
        };
        for (question, replies) in questions.iter().zip(replies) {
            let name = question.name.to_ascii_lowercase();
            let coredns = ComparedReply::read(&replies.coredns, zone)?;
            if question.rtype == A && coredns.is_nxdomain() {
                context.denied.insert(name.clone());
            }
            let has_data =
                |reply: &[u8]| ComparedReply::read(reply, zone).is_ok_and(|reply| reply.has_data());
            let user_planes = replies
                .agents
                .iter()
                .filter_map(|[user_plane, _]| user_plane.as_deref());
            if coredns.has_data() && user_planes.into_iter().all(has_data) {
                let labels: Vec<&str> = name.split('.').collect();
                context
                    .above
                    .extend((1..labels.len()).map(|at| labels[at..].join(".")));
            }
        }
        Ok(context)
    }

    /// Compares all replies to a question.
    fn judge_replies(
        &self,
        question: &ComparedQuestion,
        replies: &QuestionReplies,
        context: &ComparisonContext<'_>,
    ) -> Result<ComparisonTally> {
        let mut tally = ComparisonTally::default();
        let zone = &self.settings.zone;
        let coredns = ComparedReply::read(&replies.coredns, zone)?;
        for (agent, planes) in self.agents.iter().zip(&replies.agents) {
            for (plane, reply) in [AskedPlane::User, AskedPlane::Kernel]
                .into_iter()
                .zip(planes)
            {
                let counts = tally.counts.entry((agent.mode.flags(), plane)).or_default();
                counts.asked += 1;
                let Some(reply) = reply else {
                    counts.passed += 1;
                    continue;
                };
                if *reply == replies.coredns {
                    continue;
                }
                match self.compare_reply(question, &coredns, reply, agent, context)? {
                    ReplyJudgement::Same => {}
                    ReplyJudgement::Deviates(summary) => {
                        counts.deviating += 1;
                        *tally
                            .deviations
                            .entry((summary, agent.mode.flags()))
                            .or_default() += 1;
                    }
                    ReplyJudgement::Wrong(kind, text) => {
                        counts.wrong += 1;
                        let kind = format!("{} {plane:?} plane: {kind}", agent.mode.flags());
                        tally.wrong.entry(kind).or_default().push(text);
                    }
                }
            }
        }
        Ok(tally)
    }

    fn compare_reply(
        &self,
        question: &ComparedQuestion,
        coredns: &ComparedReply,
        reply: &[u8],
        agent: &ComparedAgent,
        context: &ComparisonContext<'_>,
    ) -> Result<ReplyJudgement> {
        let zone = &self.settings.zone;
        let mut zerohop = match ComparedReply::read(reply, zone) {
            Ok(reply) => reply,
            Err(error) => {
                return Ok(ReplyJudgement::Wrong(
                    "unreadable".into(),
                    format!("{error:#}"),
                ));
            }
        };
        let mut coredns = coredns.clone();
        self.settings.ttls.settle(&mut coredns, &mut zerohop);
        if coredns.truncated || zerohop.truncated {
            return self.compare_truncated(question, &coredns, &zerohop, agent, context);
        }
        Ok(judge_difference(
            question, &coredns, &zerohop, agent.mode, context,
        ))
    }

    /// Compares two replies of which at least one is truncated. Asks for the whole replies over TCP
    /// and compares these. If they are equal, checks that the replies over UDP are parts of them.
    fn compare_truncated(
        &self,
        question: &ComparedQuestion,
        coredns: &ComparedReply,
        zerohop: &ComparedReply,
        agent: &ComparedAgent,
        context: &ComparisonContext<'_>,
    ) -> Result<ReplyJudgement> {
        let zone = &self.settings.zone;
        let message = question.message();
        let mut whole_coredns = ComparedReply::read(&self.coredns.ask_tcp(&message)?, zone)?;
        // The kernel does not answer over TCP.
        let mut whole_zerohop = ComparedReply::read(&agent.user_plane.ask_tcp(&message)?, zone)?;
        if self.settings.ttls == TtlRule::AtMost {
            whole_coredns.remove_ttls();
            whole_zerohop.remove_ttls();
        }
        let whole = judge_difference(
            question,
            &whole_coredns,
            &whole_zerohop,
            agent.mode,
            context,
        );
        if !matches!(whole, ReplyJudgement::Same) {
            return Ok(whole);
        }
        let is_part = |part: &ComparedReply| {
            let sections = part.sections.iter().zip(&whole_coredns.sections);
            sections
                .into_iter()
                .all(|(part, all)| part.iter().all(|record| all.contains(record)))
        };
        if !is_part(coredns) || !is_part(zerohop) {
            return Ok(wrong_reply(question, coredns, zerohop, context));
        }
        let has_answer_and_authority = zerohop.sections[..2] == whole_coredns.sections[..2];
        Ok(match (coredns.truncated, zerohop.truncated) {
            (true, true) => ReplyJudgement::Same,
            (true, false) if has_answer_and_authority => {
                ReplyJudgement::Deviates(OMITTED_ADDITIONALS)
            }
            _ => wrong_reply(question, coredns, zerohop, context),
        })
    }
}

/// The judgement of one reply.
enum ReplyJudgement {
    Same,
    /// The summary of the agreed deviation.
    Deviates(&'static str),
    /// The kind of difference, and its details.
    Wrong(String, String),
}

/// RFC 2181 section 9: TC is not needed for additional records.
const OMITTED_ADDITIONALS: &str = "additional records that do not fit are omitted without TC";

fn judge_difference(
    question: &ComparedQuestion,
    coredns: &ComparedReply,
    zerohop: &ComparedReply,
    mode: AgentMode,
    context: &ComparisonContext<'_>,
) -> ReplyJudgement {
    if coredns == zerohop {
        return ReplyJudgement::Same;
    }
    let difference = AnswerDifference {
        question,
        name: question.name.to_ascii_lowercase(),
        coredns,
        zerohop,
        mode,
        context,
    };
    match find_deviation(&difference) {
        Some(deviation) => ReplyJudgement::Deviates(deviation.summary),
        None => wrong_reply(question, coredns, zerohop, context),
    }
}

fn wrong_reply(
    question: &ComparedQuestion,
    coredns: &ComparedReply,
    zerohop: &ComparedReply,
    context: &ComparisonContext<'_>,
) -> ReplyJudgement {
    let lines = |reply: &ComparedReply| reply.lines().join("\n    ");
    let objects: Vec<String> = related_objects(&question.name, context.objects);
    ReplyJudgement::Wrong(
        coredns.differences(zerohop).join(", "),
        format!(
            "{question:?}\n  CoreDNS\n    {}\n  Zerohop\n    {}\n  objects\n    {}",
            lines(coredns),
            lines(zerohop),
            objects.join("\n    "),
        ),
    )
}

/// The Services and slices that may make a name, as text.
fn related_objects(name: &str, objects: &LiveObjects) -> Vec<String> {
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
