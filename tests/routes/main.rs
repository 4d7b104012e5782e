//! Compares the answers of the agent's resolver with those of a CoreDNS that has the same Corefile,
//! for names outside the cluster, names of stub domains and `hosts`, and rewritten names. Scripted
//! upstream servers answer both.
//!
//! `cargo xtask test --routes COREDNS` starts this program.

#![forbid(unsafe_code)]

mod api;
mod corefile;
mod deviations;
mod exchange;
mod processes;
mod questions;
mod reply;
mod reply_pair;
mod script;
mod servers;

use std::{collections::BTreeMap, env, process::ExitCode, time::Instant};

use anyhow::{Context as _, Result};
use rand::{SeedableRng as _, rngs::StdRng};

use crate::{
    corefile::RouteShape,
    processes::{ComparedPrograms, RouteNetwork},
    questions::RouteQuestion,
    reply_pair::ReplyPair,
};

/// The number of questions, over all Corefiles.
const QUESTIONS: usize = 20_000;
/// The number of pairs of questions of which all first ones are asked before the second ones.
const CHUNK: usize = 50;
/// The number of examples that are printed of each kind of wrong reply.
const EXAMPLES: usize = 3;

/// Counts of replies.
#[derive(Default)]
struct RouteTally {
    asked: usize,
    equal: usize,
    /// By their summaries. A reply may have several.
    deviations: BTreeMap<&'static str, usize>,
    wrong: BTreeMap<String, Vec<String>>,
}

fn main() -> ExitCode {
    match compare_all() {
        Ok(tally) if tally.wrong.is_empty() => ExitCode::SUCCESS,
        Ok(_) => {
            println!("Zerohop differs from CoreDNS in ways that no rule allows: see WRONG");
            ExitCode::FAILURE
        }
        Err(error) => {
            println!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn compare_all() -> Result<RouteTally> {
    let path = |variable: &str| {
        let unset = || format!("{variable} is not set: start `cargo xtask test --routes`");
        env::var_os(variable).map(Into::into).with_context(unset)
    };
    let programs = ComparedPrograms {
        coredns: path("ZEROHOP_COREDNS")?,
        agent: path("ZEROHOP_AGENT")?,
    };
    let seed = match env::var("ZEROHOP_SEED") {
        Ok(seed) => seed.parse().context("ZEROHOP_SEED is not a number")?,
        Err(_) => u64::from(rand::random::<u32>()),
    };
    println!("seed {seed}");
    deviations::check_documentation(include_str!("../../docs/resolver.md"))?;
    let only = env::var("ZEROHOP_SHAPES").unwrap_or_default();
    let only: Vec<&str> = only.split_whitespace().collect();
    let shapes = RouteShape::all()?;
    let pairs = QUESTIONS / 2 / shapes.len() + 1;
    let network = RouteNetwork::new()?;
    let mut total = RouteTally::default();
    for shape in &shapes {
        if !only.is_empty() && !only.contains(&&*shape.title) {
            continue;
        }
        let mut random = StdRng::seed_from_u64(seed);
        let questions = RouteQuestion::pairs(shape, pairs, &mut random);
        let start = Instant::now();
        let tally = compare_shape(&network, &programs, shape, &questions)
            .with_context(|| shape.title.clone())?;
        tally.print(&format!("{} ({:.0?})", shape.title, start.elapsed()));
        total.add(tally);
    }
    total.print("all Corefiles");
    Ok(total)
}

fn compare_shape(
    network: &RouteNetwork,
    programs: &ComparedPrograms,
    shape: &RouteShape,
    pairs: &[[RouteQuestion; 2]],
) -> Result<RouteTally> {
    let servers = network.start(programs, shape)?;
    let mut tally = RouteTally::default();
    for chunk in pairs.chunks(CHUNK) {
        for index in [0, 1] {
            for pair in chunk {
                let replies = ReplyPair::ask(&servers, shape, &pair[index])?;
                tally.count(&replies);
            }
        }
    }
    Ok(tally)
}

impl RouteTally {
    fn count(&mut self, pair: &ReplyPair<'_>) {
        let judgement = deviations::judge(pair);
        self.asked += 1;
        if judgement.deviations.is_empty() && judgement.wrong.is_empty() {
            self.equal += 1;
        }
        for deviation in judgement.deviations {
            *self.deviations.entry(deviation.summary).or_default() += 1;
        }
        for kind in judgement.wrong {
            self.wrong.entry(kind).or_default().push(pair.describe());
        }
    }

    fn add(&mut self, other: RouteTally) {
        self.asked += other.asked;
        self.equal += other.equal;
        for (summary, count) in other.deviations {
            *self.deviations.entry(summary).or_default() += count;
        }
        for (kind, texts) in other.wrong {
            self.wrong.entry(kind).or_default().extend(texts);
        }
    }

    fn print(&self, title: &str) {
        let wrong: usize = self.wrong.values().map(Vec::len).sum();
        println!(
            "\n{title}: {} questions, {} equal, {wrong} wrong",
            self.asked, self.equal
        );
        for (summary, count) in &self.deviations {
            println!("{count:>8}  {summary}");
        }
        for (kind, texts) in &self.wrong {
            println!("WRONG {kind}: {}", texts.len());
            texts
                .iter()
                .take(EXAMPLES)
                .for_each(|text| print!("{text}"));
        }
    }
}
