//! `cargo xtask demo`: a pod asks for the names of a small shop, with the kernel
//! plane and without it.
//!
//! ```text
//! pod namespace                      node namespace
//!   this program again ──── veth ────  dns-agent on examples/
//!   (getaddrinfo)                      a server for one outside name
//! ```
//!
//! Everything it makes is owned by a value whose drop takes it away, so an error
//! or a signal leaves nothing behind.

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
use zerohop_tests::topology::{POD, SERVED, Topology};

use self::{
    agent::{Agent, Counts, Plane},
    answer::Answer,
    pod::Pod,
    questions::{Asked, Question},
    signals::Signals,
    table::{First, Second},
    upstream::Upstream,
};
use crate::{
    build_ebpf,
    process::{build, cargo},
    setup::{self, Need, Say},
};

#[derive(Args)]
pub(crate) struct Options {
    /// Leaves it running after the tables, and says how to look around.
    #[arg(long)]
    keep: bool,
}

/// The job itself.
pub(crate) fn run(options: &Options) -> Result<()> {
    setup::need_root("demo")?;
    println!("Building the kernel programs and dns-agent (the first time takes minutes)");
    let program = build_all()?;

    let questions = questions::all();
    let wrong = play(options, &program, &questions)?;
    if wrong > 0 {
        bail!(
            "{wrong} of {} answers were not as they should be",
            questions.len() * 2
        );
    }
    println!(
        "All {} answers were right. Nothing of this is left on the machine.",
        questions.len() * 2
    );
    Ok(())
}

/// The demo from first to last; gives the number of replies that were wrong.
fn play(options: &Options, program: &Path, questions: &[Question]) -> Result<usize> {
    // From here on there is something to take away.
    let signals = Signals::catch()?;
    let scene = Scene::set(program)?;
    scene.describe();

    let agent = scene.agent(Plane::On, &signals)?;
    println!("\nWith the kernel plane: {}\n", agent.attached()?);
    let with = scene.ask_all(questions, &agent, &signals, First::new(questions))?;
    drop(agent);

    let agent = scene.agent(Plane::Off, &signals)?;
    println!("\nThe same without it: dns-agent started again, without --interface\n");
    let second = Second::new(questions, &with);
    let without = scene.ask_all(questions, &agent, &signals, second)?;
    drop(agent);

    println!("\n{}", table::summary(questions, &with, &without));
    let mut wrong = mistakes(questions, Plane::On, &with);
    wrong.extend(mistakes(questions, Plane::Off, &without));
    for line in &wrong {
        eprintln!("{line}");
    }
    if options.keep {
        scene.keep(&signals)?;
    }
    Ok(wrong.len())
}

/// What came of a question that was asked several times.
pub(crate) struct Reply {
    /// The answer; the same every time, or it is an odd one.
    answer: Answer,
    /// The median round trip.
    median: Duration,
    /// How many times it was asked.
    times: u64,
    /// How many queries that made for each plane.
    by: Counts,
}

impl Reply {
    /// Whether it is what should come, from where it should come.
    fn is_right(&self, question: &Question, plane: Plane) -> bool {
        self.answer == question.expected && self.by.right(question.source, plane)
    }

    /// The planes that answered, and how many queries each when one question
    /// makes several.
    fn planes(&self) -> String {
        let part = |plane: &str, queries: u64| match (queries / self.times, queries % self.times) {
            (0, 0) => None,
            (1, 0) => Some(plane.to_owned()),
            (each, 0) => Some(format!("{plane} ×{each}")),
            _ => Some(format!("{plane} {queries} in {}", self.times)),
        };
        let parts = [part("kernel", self.by.kernel), part("agent", self.by.agent)];
        let parts: Vec<_> = parts.into_iter().flatten().collect();
        if parts.is_empty() {
            return "nobody".to_owned();
        }
        parts.join(", ")
    }
}

/// Who shows the replies, one by one.
trait Show {
    fn show(&mut self, question: &Question, reply: &Reply);
}

/// Pod, node, and who is in them. The agent comes and goes.
struct Scene<'a> {
    program: &'a Path,
    /// Before the namespaces, so that it ends first.
    pod: Pod,
    upstream: Upstream,
    topology: Topology,
}

impl<'a> Scene<'a> {
    fn set(program: &'a Path) -> Result<Scene<'a>> {
        let topology = Topology::routed()?;
        topology.assign_served()?;
        Ok(Scene {
            program,
            pod: Pod::start(&topology.pod)?,
            upstream: Upstream::start(&topology.node)?,
            topology,
        })
    }

    fn describe(&self) {
        let [pod, pod6] = POD;
        let [served, served6] = SERVED;
        println!(
            "\nA cluster of one node and one pod, in two network namespaces:\n  \
             pod       {}: {pod}, {pod6}; three search domains and ndots:5\n  \
             node      {}: kube-dns is {served}, {served6}\n  \
             objects   examples/: services frontend and cart in namespace shop, database in data\n  \
             upstream  {}, a script of this demo: {} is {}, no other name exists\n\
             Each call is made {} times, each query sent {} times; round trips are medians.",
            self.topology.pod.name(),
            self.topology.node.name(),
            self.upstream.address(),
            upstream::NAME,
            upstream::ADDRESS,
            pod::TIMES,
            wire::TIMES,
        );
    }

    fn agent(&self, plane: Plane, signals: &Signals) -> Result<Agent<'_>> {
        let upstream = self.upstream.address();
        Agent::start(self.program, &self.topology.node, plane, upstream, signals)
    }

    fn ask_all(
        &self,
        questions: &[Question],
        agent: &Agent<'_>,
        signals: &Signals,
        mut table: impl Show,
    ) -> Result<Vec<Reply>> {
        questions
            .iter()
            .map(|question| {
                signals.check()?;
                let reply = self.ask(question, agent)?;
                table.show(question, &reply);
                Ok(reply)
            })
            .collect()
    }

    fn ask(&self, question: &Question, agent: &Agent<'_>) -> Result<Reply> {
        let before = agent.counts()?;
        let (answer, times) = match &question.asked {
            Asked::Call(name) => self.pod.look_up(name)?,
            Asked::Packet(packet) => wire::ask(&self.topology.pod, packet, question.source)?,
        };
        Ok(Reply {
            answer,
            times: times.len() as u64,
            median: median(times),
            by: agent.counts()?.since(before),
        })
    }

    /// Starts the agent once more and waits for the user.
    fn keep(&self, signals: &Signals) -> Result<()> {
        let agent = self.agent(Plane::On, signals)?;
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
            process = self.pod.process(),
            program = self.program.display(),
            admin = agent::ADMIN,
            agent_process = agent.process(),
        );
        signals.wait_or_enter()
    }
}

fn build_all() -> Result<PathBuf> {
    setup::ensure(&[Need::Ebpf, Need::Namespaces], Say::Changes)?;
    build_ebpf::programs()?;
    build(
        cargo().args(["build", "--release", "--package", "dns-agent"]),
        "dns-agent",
    )
}

/// What was not as it should be, a line each.
fn mistakes(questions: &[Question], plane: Plane, replies: &[Reply]) -> Vec<String> {
    questions
        .iter()
        .zip(replies)
        .filter(|(question, reply)| !reply.is_right(question, plane))
        .map(|(question, reply)| {
            format!(
                "{question}, {plane}: expected {} from the {}, came {} from {}",
                question.expected,
                plane.expected(question.source),
                reply.answer,
                reply.planes(),
            )
        })
        .collect()
}

/// The middle one.
fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}
