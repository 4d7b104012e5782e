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
mod ask;
pub(crate) mod pod;
mod questions;
mod signals;
mod table;

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use anyhow::{Result, ensure};
use clap::Args;
use zerohop_contract::addresses::{POD, SERVED};
use zerohop_tests::{
    topology::Topology,
    udp::UdpServer,
    upstream::{self, UpstreamName},
};

use self::{
    agent::{DemoAgent, KernelPlaneSwitch},
    questions::{DemoQuestion, OUTSIDE_ADDRESS, OUTSIDE_NAME},
    signals::CaughtSignals,
    table::MeasuredReply,
};
use crate::{
    build_ebpf,
    packages::Verbosity,
    process::{build, cargo},
    setup::{self, Need},
};

#[derive(Args)]
pub(crate) struct DemoOptions {
    /// Keeps the demo running after the tables, and prints commands to explore it.
    #[arg(long)]
    keep: bool,
}

/// Runs the job.
pub(crate) fn run(options: &DemoOptions) -> Result<()> {
    setup::need_root("demo")?;
    println!("Building the kernel programs and dns-agent (the first time takes minutes)");
    let program = build_agent()?;
    // From here on signals must not kill the process, because it has things to remove.
    let signals = CaughtSignals::catch()?;
    let scene = DemoScene::build(&program, &signals)?;
    let questions = questions::all();
    let wrong = scene.compare_planes(&questions)?;
    if options.keep {
        scene.keep_running()?;
    }
    drop(scene);
    let all = questions.len() * 2;
    ensure!(
        wrong == 0,
        "{wrong} of {all} answers were wrong, or came from the wrong plane: see WRONG in the tables"
    );
    println!("All {all} answers were right. The demo has removed everything that it made.");
    Ok(())
}

/// Builds the agent as for a release, but does not optimize the packages that no DNS query reaches,
/// because that saves time.
fn build_agent() -> Result<PathBuf> {
    setup::ensure(&[Need::Ebpf, Need::Namespaces], Verbosity::Changes)?;
    build_ebpf::build_programs()?;
    build(
        cargo().args(["build", "--profile", "demo", "--package", "dns-agent"]),
        "dns-agent",
    )
}

/// The pod, the node and the upstream, for one agent after another.
struct DemoScene<'a> {
    program: &'a Path,
    signals: &'a CaughtSignals,
    upstream: UdpServer,
    topology: Topology,
}

impl<'a> DemoScene<'a> {
    fn build(program: &'a Path, signals: &'a CaughtSignals) -> Result<DemoScene<'a>> {
        let topology = Topology::routed()?;
        topology.assign_served_addresses()?;
        let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let outside = UpstreamName {
            name: OUTSIDE_NAME,
            address: OUTSIDE_ADDRESS.parse()?,
        };
        Ok(DemoScene {
            program,
            signals,
            upstream: upstream::start(&topology.node, any_port, outside)?,
            topology,
        })
    }

    /// Prints both tables and the summary. Returns the number of wrong replies.
    fn compare_planes(&self, questions: &[DemoQuestion]) -> Result<usize> {
        self.print_description();
        let agent = DemoAgent::start(self, KernelPlaneSwitch::On)?;
        println!("\nWith the kernel plane: {}\n", agent.attachment()?);
        table::print_answer_row(["question", "answer", "answered by", "round trip"]);
        let mut with = Vec::new();
        for question in questions {
            let reply = MeasuredReply::measure(question, &agent)?;
            reply.print_answer();
            with.push(reply);
        }
        agent.process.stop()?;

        let agent = DemoAgent::start(self, KernelPlaneSwitch::Off)?;
        println!("\nThe same without it: dns-agent started again, without --interface\n");
        table::print_time_row(["question", "answered by", "round trip", "with it", ""]);
        let mut without = Vec::new();
        for (question, before) in questions.iter().zip(&with) {
            let reply = MeasuredReply::measure(question, &agent)?;
            reply.print_times(before);
            without.push(reply);
        }
        agent.process.stop()?;

        println!("\n{}", table::summary(&with, &without));
        let replies = with.iter().chain(&without);
        Ok(replies.filter(|reply| !reply.is_right()).count())
    }

    fn print_description(&self) {
        let [pod, pod6] = POD;
        let [served, served6] = SERVED;
        println!(
            "\nA cluster of one node and one pod, in two network namespaces:\n  \
             pod       {}: {pod}, {pod6}; three search domains and ndots:5\n  \
             node      {}: kube-dns is {served}, {served6}\n  \
             objects   examples/: services frontend and cart in namespace shop, \
             database in data\n  \
             upstream  {}, a server in this demo: {OUTSIDE_NAME} is {OUTSIDE_ADDRESS}, \
             no other name exists\n\
             Each call is made {} times, each query sent {} times; round trips are medians.",
            self.topology.pod.name(),
            self.topology.node.name(),
            self.upstream.address(),
            pod::CALLS,
            ask::QUERIES,
        );
    }

    /// Starts the agent once more, and waits for the user.
    fn keep_running(&self) -> Result<()> {
        let agent = DemoAgent::start(self, KernelPlaneSwitch::On)?;
        let mut process = pod::start_idle_process(&self.topology.pod)?;
        let [served, _] = SERVED;
        let (node, pod) = (self.topology.node.name(), self.topology.pod.name());
        println!(
            "\nKept running, with the kernel plane. Look around from another terminal, as root:\n  \
             nsenter --target {process} --net --mount getent ahosts cart.shop\n      \
             as a program in the pod asks, with the pod's /etc/resolv.conf\n  \
             ip netns exec {pod} dig @{served} database.data.svc.cluster.local\n      \
             one query, if dig is installed; change a file in examples/ and ask again\n  \
             ip netns exec {node} {program} status\n      \
             what is attached, and how many packets ended how\n  \
             ip netns exec {node} ss --udp --listening --numeric --processes\n      \
             the agent's sockets; kernel plane answers never reach them\n  \
             cat /proc/{agent}/fd/2\n      \
             the agent's log\n\
             Press Enter or Ctrl-C to end it.",
            process = process.id(),
            program = self.program.display(),
            agent = agent.process.process_id(),
        );
        self.signals.wait_or_enter()?;
        process.kill()?;
        process.wait()?;
        agent.process.stop()
    }
}
