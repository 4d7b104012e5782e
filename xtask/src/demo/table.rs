//! The printed tables, row by row as replies arrive, and a summary.

use std::time::Duration;

use anyhow::Result;

use super::{
    agent::{DemoAgent, KernelPlaneSwitch, QueryCounts},
    ask, pod,
    questions::{AnswerSource, AskMethod, DemoQuestion, OUTSIDE_NAME},
};

/// The result of a question that was asked several times.
pub(crate) struct MeasuredReply<'q> {
    question: &'q DemoQuestion,
    plane: KernelPlaneSwitch,
    answer: String,
    /// The median round trip.
    median: Duration,
    /// How many times the question was answered; at least 1, because other numbers are divided by
    /// it.
    repetitions: u64,
    /// The queries that all repetitions made.
    queries: QueryCounts,
}

impl<'q> MeasuredReply<'q> {
    /// Asks the question many times.
    pub(crate) fn measure(question: &'q DemoQuestion, agent: &DemoAgent<'_>) -> Result<Self> {
        agent.scene.signals.check()?;
        let asking_pod = &agent.scene.topology.pod;
        let before = agent.counts()?;
        let (answer, times) = match &question.method {
            AskMethod::Call(name) => pod::call(asking_pod, name)?,
            AskMethod::Query(query) => ask::send_query(asking_pod, query, question.source)?,
        };
        let after = agent.counts()?;
        Ok(MeasuredReply {
            question,
            plane: agent.plane,
            answer,
            repetitions: times.len().max(1) as u64,
            median: median(times),
            queries: QueryCounts {
                kernel: after.kernel - before.kernel,
                agent: after.agent - before.agent,
                outside: after.outside - before.outside,
            },
        })
    }

    /// Whether the expected answer came from the expected plane.
    pub(crate) fn is_right(&self) -> bool {
        let QueryCounts {
            kernel,
            agent,
            outside,
        } = self.queries;
        let is_outside = self.question.source == AnswerSource::Outside;
        let right_plane = match self.plane {
            // The names that the search list makes are the cluster's, so only queries for names
            // outside of it may reach the agent.
            KernelPlaneSwitch::On => agent == outside,
            KernelPlaneSwitch::Off => kernel == 0,
        };
        self.answer == self.question.answer
            && right_plane
            && kernel + agent > 0
            && is_outside == (outside > 0)
    }

    pub(crate) fn print_answer(&self) {
        let (planes, time) = (self.answering_planes(), microseconds(self.median));
        print_answer_row([&self.question.text, &self.answer, &planes, &time]);
    }

    /// Prints the time of this reply and that of `with`, which was measured with the kernel plane.
    pub(crate) fn print_times(&self, with: &MeasuredReply) {
        let planes = self.answering_planes();
        let times = [self, with].map(|reply| microseconds(reply.median));
        let ratio = format!("×{:.1}", ratio(self.median, with.median));
        print_time_row([&self.question.text, &planes, &times[0], &times[1], &ratio]);
    }

    /// The planes that answered, with the number of queries for each if a question makes several;
    /// and what is wrong.
    fn answering_planes(&self) -> String {
        let count = |queries: u64| (queries / self.repetitions, queries % self.repetitions);
        let text = |plane: &str, queries: u64| match count(queries) {
            (0, 0) => None,
            (1, 0) => Some(plane.to_owned()),
            (each, 0) => Some(format!("{plane} ×{each}")),
            _ => Some(format!("{plane} {queries} in {}", self.repetitions)),
        };
        let kernel = text("kernel", self.queries.kernel);
        let parts: Vec<_> = kernel
            .into_iter()
            .chain(text("agent", self.queries.agent))
            .collect();
        if self.is_right() {
            return parts.join(", ");
        }
        let plane = match (self.plane, self.question.source) {
            (KernelPlaneSwitch::On, AnswerSource::Cluster) => "kernel",
            _ => "agent",
        };
        let (answer, expected) = (&self.answer, self.question.answer);
        parts.join(", ") + &format!(" WRONG: {answer}; expected {expected} from the {plane}")
    }
}

// The widths of the columns, in characters: those of the longest texts.
const QUESTION: usize = 41;
const ANSWER: usize = 34;
const PLANES: usize = 19;
const TIME: usize = 10;

/// Prints a row of the table with answers.
pub(crate) fn print_answer_row([question, answer, planes, time]: [&str; 4]) {
    println!("  {question:<QUESTION$}  {answer:<ANSWER$}  {planes:<PLANES$}  {time:>TIME$}");
}

/// Prints a row of the table with the times without and with the kernel plane.
pub(crate) fn print_time_row([question, planes, time, with, ratio]: [&str; 5]) {
    println!(
        "  {question:<QUESTION$}  {planes:<PLANES$}  {time:>TIME$}  {with:>TIME$}  {ratio:>6}"
    );
}

/// A summary of both tables.
pub(crate) fn summary(with: &[MeasuredReply], without: &[MeasuredReply]) -> String {
    let [fast, slow] = [with, without].map(|replies| {
        let queries = replies.iter().filter(|reply| {
            reply.question.source == AnswerSource::Cluster
                && matches!(reply.question.method, AskMethod::Query(_))
        });
        median(queries.map(|reply| reply.median).collect())
    });
    let mut text = format!(
        "A query for a cluster name took {} in the kernel and {} through the agent, \
         {:.1} times as long (medians).",
        microseconds(fast),
        microseconds(slow),
        ratio(slow, fast),
    );
    let calls_outside =
        |reply: &&MeasuredReply| matches!(reply.question.method, AskMethod::Call(OUTSIDE_NAME));
    if let Some(reply) = with.iter().find(calls_outside) {
        let kernel = reply.queries.kernel / reply.repetitions;
        text += &format!(
            "\nOne getaddrinfo(\"{OUTSIDE_NAME}\") makes {} queries, since the search list comes \
             first: the kernel answered {kernel} of them.",
            kernel + reply.queries.agent / reply.repetitions,
        );
    }
    text
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

fn microseconds(time: Duration) -> String {
    format!("{:.1} µs", time.as_secs_f64() * 1e6)
}

fn ratio(long: Duration, short: Duration) -> f64 {
    long.as_secs_f64() / short.as_secs_f64()
}
