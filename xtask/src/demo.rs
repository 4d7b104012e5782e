//! `cargo xtask demo`: a pod asks for the names of a small shop, with the kernel plane and without
//! it.
//!
//! ```text
//! pod namespace                      node namespace
//!   this program again ──── veth ────  dns-agent on examples/
//!   (getaddrinfo)                      a server for one outside name
//! ```
//!
//! Dropping the values that own namespaces and processes removes them, so nothing remains after an
//! error or a signal.

mod agent;
mod answer;
pub(crate) mod pod;
mod questions;
mod signals;
mod table;
mod upstream;
mod wire;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Result, bail};
use clap::Args;
use zerohop_contract::addresses::{POD, SERVED};
use zerohop_tests::topology::Topology;

use self::{
    agent::{DemoAgent, KernelPlaneSwitch, QueryCounts},
    answer::DemoAnswer,
    pod::PodProcess,
    questions::{AskMethod, DemoQuestion},
    signals::CaughtSignals,
    table::{AnswerTable, TimeComparisonTable},
    upstream::ScriptedUpstream,
};
use crate::{
    build_ebpf,
    packages::Verbosity,
    process::{build, cargo},
    setup::{self, Need},
};

#[derive(Args)]
pub(crate) struct DemoOptions {
    /// Keeps the demo running after the tables, and prints commands to look around.
    #[arg(long)]
    keep: bool,
}

/// Runs the job.
pub(crate) fn run(options: &DemoOptions) -> Result<()> {
    setup::need_root("demo")?;
    println!("Building the kernel programs and dns-agent (the first time takes minutes)");
    let program = build_agent()?;

    let questions = questions::all();
    let wrong = run_demo(options, &program, &questions)?;
    if wrong > 0 {
        bail!("{wrong} of {} answers were wrong", questions.len() * 2);
    }
    println!(
        "All {} answers were right. The demo has removed everything that it made.",
        questions.len() * 2
    );
    Ok(())
}

/// Runs the whole demo. Returns the number of wrong replies.
fn run_demo(options: &DemoOptions, program: &Path, questions: &[DemoQuestion]) -> Result<usize> {
    // From here on signals must not kill the process, because it has things to remove.
    let signals = CaughtSignals::catch()?;
    let scene = DemoScene::build(program)?;
    scene.print_description();

    let agent = scene.start_agent(KernelPlaneSwitch::On, &signals)?;
    println!("\nWith the kernel plane: {}\n", agent.attachment()?);
    let with = scene.ask_all(questions, &agent, &signals, AnswerTable::new(questions))?;
    drop(agent);

    let agent = scene.start_agent(KernelPlaneSwitch::Off, &signals)?;
    println!("\nThe same without it: dns-agent started again, without --interface\n");
    let second = TimeComparisonTable::new(questions, &with);
    let without = scene.ask_all(questions, &agent, &signals, second)?;
    drop(agent);

    println!("\n{}", table::summary(questions, &with, &without));
    let mut wrong = wrong_reply_lines(questions, KernelPlaneSwitch::On, &with);
    wrong.extend(wrong_reply_lines(
        questions,
        KernelPlaneSwitch::Off,
        &without,
    ));
    for line in &wrong {
        eprintln!("{line}");
    }
    if options.keep {
        scene.keep_running(&signals)?;
    }
    Ok(wrong.len())
}

/// The result of a question that was asked several times.
pub(crate) struct MeasuredReply {
    /// The answer; `Unexpected` if it was not the same every time.
    answer: DemoAnswer,
    /// The median round trip.
    median: Duration,
    /// How many times the question was asked.
    repetitions: u64,
    /// The queries that the planes answered for it.
    queries: QueryCounts,
}

impl MeasuredReply {
    /// Whether the expected answer came from the expected plane.
    fn is_right(&self, question: &DemoQuestion, plane: KernelPlaneSwitch) -> bool {
        self.answer == question.expected && self.queries.is_right(question.source, plane)
    }

    /// The planes that answered; with the number of queries for each if a question makes several.
    fn answering_planes(&self) -> String {
        let part = |plane: &str, queries: u64| match (
            queries / self.repetitions,
            queries % self.repetitions,
        ) {
            (0, 0) => None,
            (1, 0) => Some(plane.to_owned()),
            (each, 0) => Some(format!("{plane} ×{each}")),
            _ => Some(format!("{plane} {queries} in {}", self.repetitions)),
        };
        let parts = [
            part("kernel", self.queries.kernel),
            part("agent", self.queries.agent),
        ];
        let parts: Vec<_> = parts.into_iter().flatten().collect();
        if parts.is_empty() {
            return "none".to_owned();
        }
        parts.join(", ")
    }
}

/// A printed table with a row for each reply.
trait ReplyTable {
    fn print_row(&mut self, question: &DemoQuestion, reply: &MeasuredReply);
}

/// The pod, the node and the upstream. Agents are started and ended in it.
struct DemoScene<'a> {
    program: &'a Path,
    /// Dropped before the namespaces, so that the process ends first.
    pod: PodProcess,
    upstream: ScriptedUpstream,
    topology: Topology,
}

impl<'a> DemoScene<'a> {
    fn build(program: &'a Path) -> Result<DemoScene<'a>> {
        let topology = Topology::routed()?;
        topology.assign_served_addresses()?;
        Ok(DemoScene {
            program,
            pod: PodProcess::start(&topology.pod)?,
            upstream: ScriptedUpstream::start(&topology.node)?,
            topology,
        })
    }

    fn print_description(&self) {
        let [pod, pod6] = POD;
        let [served, served6] = SERVED;
        println!(
            "\nA cluster of one node and one pod, in two network namespaces:\n  \
             pod       {}: {pod}, {pod6}; three search domains and ndots:5\n  \
             node      {}: kube-dns is {served}, {served6}\n  \
             objects   examples/: services frontend and cart in namespace shop, database in data\n  \
             upstream  {}, a server in this demo: {} is {}, no other name exists\n\
             Each call is made {} times, each query sent {} times; round trips are medians.",
            self.topology.pod.name(),
            self.topology.node.name(),
            self.upstream.address(),
            upstream::NAME,
            upstream::ADDRESS,
            pod::REPETITIONS,
            wire::REPETITIONS,
        );
    }

    fn start_agent(
        &self,
        plane: KernelPlaneSwitch,
        signals: &CaughtSignals,
    ) -> Result<DemoAgent<'_>> {
        let upstream = self.upstream.address();
        DemoAgent::start(self.program, &self.topology.node, plane, upstream, signals)
    }

    fn ask_all(
        &self,
        questions: &[DemoQuestion],
        agent: &DemoAgent<'_>,
        signals: &CaughtSignals,
        mut table: impl ReplyTable,
    ) -> Result<Vec<MeasuredReply>> {
        questions
            .iter()
            .map(|question| {
                signals.check()?;
                let reply = self.ask(question, agent)?;
                table.print_row(question, &reply);
                Ok(reply)
            })
            .collect()
    }

    fn ask(&self, question: &DemoQuestion, agent: &DemoAgent<'_>) -> Result<MeasuredReply> {
        let before = agent.counts()?;
        let (answer, times) = match &question.method {
            AskMethod::Call(name) => self.pod.look_up_name(name)?,
            AskMethod::Query(query) => {
                wire::send_query(&self.topology.pod, query, question.source)?
            }
        };
        Ok(MeasuredReply {
            answer,
            repetitions: times.len() as u64,
            median: median(times),
            queries: agent.counts()?.since(before),
        })
    }

    /// Starts the agent once more, and waits for the user.
    fn keep_running(&self, signals: &CaughtSignals) -> Result<()> {
        let agent = self.start_agent(KernelPlaneSwitch::On, signals)?;
        let [served, _] = SERVED;
        let (node, pod) = (self.topology.node.name(), self.topology.pod.name());
        println!(
            "\nKept running, with the kernel plane. Look around from another terminal, as root:\n  \
             nsenter --target {process} --net --mount getent ahosts cart.shop\n      \
             as a program in the pod asks, with the pod's /etc/resolv.conf\n  \
             ip netns exec {pod} dig @{served} database.data.svc.cluster.local\n      \
             one query, if dig is installed; change a file in examples/ and ask again\n  \
             ip netns exec {node} {program} status --admin {admin}\n      \
             what is attached, and how many packets ended how\n  \
             ip netns exec {node} ss --udp --listening --numeric --processes\n      \
             the agent's sockets; kernel plane answers never reach them\n  \
             cat /proc/{agent_process}/fd/2\n      \
             the agent's log\n\
             Press Enter or Ctrl-C to end it.",
            process = self.pod.process_id(),
            program = self.program.display(),
            admin = agent::ADMIN,
            agent_process = agent.process_id(),
        );
        signals.wait_or_enter()
    }
}

fn build_agent() -> Result<PathBuf> {
    setup::ensure(&[Need::Ebpf, Need::Namespaces], Verbosity::Changes)?;
    build_ebpf::programs()?;
    build(
        cargo().args(["build", "--release", "--package", "dns-agent"]),
        "dns-agent",
    )
}

/// A line for each wrong reply.
fn wrong_reply_lines(
    questions: &[DemoQuestion],
    plane: KernelPlaneSwitch,
    replies: &[MeasuredReply],
) -> Vec<String> {
    questions
        .iter()
        .zip(replies)
        .filter(|(question, reply)| !reply.is_right(question, plane))
        .map(|(question, reply)| {
            format!(
                "{question}, {plane}: expected {} from the {}, got {} from {}",
                question.expected,
                plane.expected_plane(question.source),
                reply.answer,
                reply.answering_planes(),
            )
        })
        .collect()
}

/// The median.
fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}
