//! The printed tables, row by row as replies arrive, and a summary.

use std::time::Duration;

use super::{
    MeasuredReply, ReplyTable,
    agent::KernelPlaneSwitch,
    answer::AnswerSource,
    median,
    questions::{AskMethod, DemoQuestion},
    upstream,
};

/// The table of answers with the kernel plane.
pub(crate) struct AnswerTable {
    question_width: usize,
    answer_width: usize,
}

impl AnswerTable {
    /// Prints the header.
    pub(crate) fn new(questions: &[DemoQuestion]) -> AnswerTable {
        let answers = questions.iter().map(|question| width(&question.expected));
        let table = AnswerTable {
            question_width: question_width(questions),
            answer_width: answers.max().unwrap_or_default(),
        };
        table.print_cells("question", "answer", "answered by", "round trip");
        table
    }

    fn print_cells(&self, question: &str, answer: &str, planes: &str, time: &str) {
        println!(
            "  {question:<0$}  {answer:<1$}  {planes:<PLANES_WIDTH$}  {time:>TIME_WIDTH$}",
            self.question_width, self.answer_width
        );
    }
}

impl ReplyTable for AnswerTable {
    fn print_row(&mut self, question: &DemoQuestion, reply: &MeasuredReply) {
        self.print_cells(
            &question.to_string(),
            &reply.answer.to_string(),
            &marked_planes(question, reply, KernelPlaneSwitch::On),
            &time(reply.median),
        );
    }
}

/// The table without the kernel plane, with the times of both runs.
pub(crate) struct TimeComparisonTable<'a> {
    question_width: usize,
    /// The replies with the kernel plane for the rows that are not printed yet.
    with: std::slice::Iter<'a, MeasuredReply>,
}

impl<'a> TimeComparisonTable<'a> {
    /// Prints the header.
    pub(crate) fn new(
        questions: &[DemoQuestion],
        with: &'a [MeasuredReply],
    ) -> TimeComparisonTable<'a> {
        let table = TimeComparisonTable {
            question_width: question_width(questions),
            with: with.iter(),
        };
        table.print_cells("question", "answered by", "round trip", "with it", "");
        table
    }

    fn print_cells(&self, question: &str, planes: &str, time: &str, before: &str, ratio: &str) {
        println!(
            "  {question:<0$}  {planes:<PLANES_WIDTH$}  {time:>TIME_WIDTH$}  {before:>TIME_WIDTH$}  {ratio:>6}",
            self.question_width
        );
    }
}

impl ReplyTable for TimeComparisonTable<'_> {
    fn print_row(&mut self, question: &DemoQuestion, reply: &MeasuredReply) {
        let (before, ratio) = match self.with.next() {
            Some(before) => (time(before.median), ratio(reply.median, before.median)),
            None => Default::default(),
        };
        self.print_cells(
            &question.to_string(),
            &marked_planes(question, reply, KernelPlaneSwitch::Off),
            &time(reply.median),
            &before,
            &format!("×{ratio:.1}"),
        );
    }
}

/// A summary of both tables.
pub(crate) fn summary(
    questions: &[DemoQuestion],
    with: &[MeasuredReply],
    without: &[MeasuredReply],
) -> String {
    let of_cluster = |replies: &[MeasuredReply]| {
        let queries = questions.iter().zip(replies).filter(|(question, _)| {
            question.source == AnswerSource::Cluster
                && matches!(question.method, AskMethod::Query(_))
        });
        median(queries.map(|(_, reply)| reply.median).collect())
    };
    let (fast, slow) = (of_cluster(with), of_cluster(without));
    let mut text = format!(
        "A query for a cluster name took {} in the kernel and {} through the agent, {:.1} times as long (medians).",
        time(fast),
        time(slow),
        ratio(slow, fast),
    );
    let mut calls = questions.iter().zip(with).filter(|(question, _)| {
        question.source == AnswerSource::Outside && matches!(question.method, AskMethod::Call(_))
    });
    if let Some((_, reply)) = calls.next() {
        let (kernel, agent) = (
            reply.queries.kernel / reply.repetitions,
            reply.queries.agent / reply.repetitions,
        );
        text += &format!(
            "\nOne getaddrinfo(\"{}\") makes {} queries, since the search list comes first: the kernel answered {kernel} of them.",
            upstream::NAME,
            kernel + agent,
        );
    }
    text
}

/// Room for "kernel ×6, agent ×2".
const PLANES_WIDTH: usize = 19;
/// Room for "round trip".
const TIME_WIDTH: usize = 10;

/// The planes that answered, with a mark if the reply is wrong.
fn marked_planes(
    question: &DemoQuestion,
    reply: &MeasuredReply,
    plane: KernelPlaneSwitch,
) -> String {
    let mark = if reply.is_right(question, plane) {
        ""
    } else {
        " WRONG"
    };
    reply.answering_planes() + mark
}

fn question_width(questions: &[DemoQuestion]) -> usize {
    questions.iter().map(width).max().unwrap_or_default()
}

fn width(text: &impl ToString) -> usize {
    text.to_string().chars().count()
}

fn time(time: Duration) -> String {
    format!("{:.1} µs", time.as_secs_f64() * 1e6)
}

fn ratio(long: Duration, short: Duration) -> f64 {
    long.as_secs_f64() / short.as_secs_f64()
}
