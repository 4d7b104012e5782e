//! The tables, row by row as the replies come, and what they say together.

use std::time::Duration;

use super::{
    Reply, Show,
    agent::Plane,
    answer::Source,
    median,
    questions::{Asked, Question},
    upstream,
};

/// With the kernel plane: questions and answers.
pub(crate) struct First {
    question: usize,
    answer: usize,
}

impl First {
    /// Writes the head.
    pub(crate) fn new(questions: &[Question]) -> First {
        let answers = questions.iter().map(|question| width(&question.expected));
        let table = First {
            question: question_width(questions),
            answer: answers.max().unwrap_or_default(),
        };
        table.row("question", "answer", "answered by", "round trip");
        table
    }

    fn row(&self, question: &str, answer: &str, planes: &str, time: &str) {
        println!(
            "  {question:<0$}  {answer:<1$}  {planes:<PLANES$}  {time:>TIME$}",
            self.question, self.answer
        );
    }
}

impl Show for First {
    fn show(&mut self, question: &Question, reply: &Reply) {
        self.row(
            &question.to_string(),
            &reply.answer.to_string(),
            &marked(question, reply, Plane::On),
            &time(reply.median),
        );
    }
}

/// Without it: the times beside each other.
pub(crate) struct Second<'a> {
    question: usize,
    /// The replies with the kernel plane that are still to be shown.
    with: std::slice::Iter<'a, Reply>,
}

impl<'a> Second<'a> {
    /// Writes the head.
    pub(crate) fn new(questions: &[Question], with: &'a [Reply]) -> Second<'a> {
        let table = Second {
            question: question_width(questions),
            with: with.iter(),
        };
        table.row("question", "answered by", "round trip", "with it", "");
        table
    }

    fn row(&self, question: &str, planes: &str, time: &str, before: &str, ratio: &str) {
        println!(
            "  {question:<0$}  {planes:<PLANES$}  {time:>TIME$}  {before:>TIME$}  {ratio:>6}",
            self.question
        );
    }
}

impl Show for Second<'_> {
    fn show(&mut self, question: &Question, reply: &Reply) {
        let (before, ratio) = match self.with.next() {
            Some(before) => (time(before.median), ratio(reply.median, before.median)),
            None => Default::default(),
        };
        self.row(
            &question.to_string(),
            &marked(question, reply, Plane::Off),
            &time(reply.median),
            &before,
            &format!("×{ratio:.1}"),
        );
    }
}

/// What both tables say, in a few sentences.
pub(crate) fn summary(questions: &[Question], with: &[Reply], without: &[Reply]) -> String {
    let of_cluster = |replies: &[Reply]| {
        let queries = questions.iter().zip(replies).filter(|(question, _)| {
            question.source == Source::Cluster && matches!(question.asked, Asked::Packet(_))
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
        question.source == Source::Outside && matches!(question.asked, Asked::Call(_))
    });
    if let Some((_, reply)) = calls.next() {
        let (kernel, agent) = (reply.by.kernel / reply.times, reply.by.agent / reply.times);
        text += &format!(
            "\nOne getaddrinfo(\"{}\") makes {} queries, since the search list comes first: the kernel ended {kernel} of them on the spot.",
            upstream::NAME,
            kernel + agent,
        );
    }
    text
}

/// Room for "kernel ×6, agent ×2".
const PLANES: usize = 19;
/// Room for "round trip".
const TIME: usize = 10;

/// Who answered, and a mark if something is not as it should be.
fn marked(question: &Question, reply: &Reply, plane: Plane) -> String {
    let mark = if reply.is_right(question, plane) {
        ""
    } else {
        " WRONG"
    };
    reply.planes() + mark
}

fn question_width(questions: &[Question]) -> usize {
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
