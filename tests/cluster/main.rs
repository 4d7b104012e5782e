//! Zerohop beside a CoreDNS that serves the same API server: every name of a cluster of all kinds of
//! objects, and whatever is nearly one, asked of CoreDNS, of the agent and of the kernel. What differs
//! is an agreed departure, or wrong.
//!
//! `cargo xtask test --cluster KUBECONFIG --dns IP:PORT` starts it.

mod agent;
mod ask;
mod changes;
mod cluster;
mod compare;
mod departures;
mod measure;
mod objects;
mod pod;
mod questions;
mod reply;
mod settings;
mod signals;
mod tally;
mod transitions;
mod watches;

use std::{
    net::Ipv4Addr,
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::Signal;
use rand::{SeedableRng as _, rngs::StdRng};

use crate::{
    agent::{Agent, Mode},
    ask::Asker,
    changes::Changes,
    cluster::{Cluster, Marker},
    compare::Compared,
    objects::{dual_stack_zoo, zoo},
    pod::{PASSED, Pods},
    questions::{Edns, Question},
    reply::Reply,
    settings::{Measured, Parts, Settings, Watched},
    signals::Signals,
    tally::Tally,
};

/// Changes that are missed while the API server or an agent is away.
const MISSED: usize = 100;
/// How long it may take until everybody knows what was written.
const LIMIT: Duration = Duration::from_secs(120);

fn main() -> ExitCode {
    match run() {
        Ok(tally) if !tally.is_wrong() => ExitCode::SUCCESS,
        Ok(_) => {
            println!("Zerohop differs from CoreDNS where it was not agreed");
            ExitCode::FAILURE
        }
        Err(error) => {
            println!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<Tally> {
    if let Some(watched) = Watched::from_environment()? {
        return watches::run(&watched).map(|()| Tally::default());
    }
    match Measured::from_environment()? {
        Some(measured) => measure::run(&measured).map(|()| Tally::default()),
        None => compare(),
    }
}

fn compare() -> Result<Tally> {
    let settings = Settings::from_environment()?;
    println!("seed {}", settings.seed);
    let signals = Signals::new()?;
    let mut cluster = Cluster::connect(&settings.kubeconfig, settings.seed, signals.clone())?;
    println!("namespaces {}-*", cluster.prefix);
    let served = cluster.create_own(&settings.corefile)?;
    let mut pods = Pods::new(served_address(&served)?);
    if settings.parts == Parts::All {
        write_zoo(&mut cluster, &settings.zone)?;
    }
    let agents = Mode::ALL.map(|mode| Agent::start(&settings, &cluster, &mut pods, mode));
    let compared = Compared {
        settings: &settings,
        coredns: Asker::new(settings.dns)?,
        agents: agents.into_iter().collect::<Result<_>>()?,
        signals,
    };
    let mut random = StdRng::seed_from_u64(settings.seed);
    let mut all = Tally::default();
    let mut compare = |cluster: &mut Cluster, part: &str| -> Result<()> {
        all.add(compare_everything(&compared, cluster, part)?);
        Ok(())
    };

    let is_all = settings.parts == Parts::All;
    if is_all {
        compare(&mut cluster, "objects of all kinds")?;
    }
    if is_all && settings.changes > 0 {
        change(&mut cluster, &mut random, &settings, settings.changes)?;
        let part = format!("after {} changes", settings.changes);
        compare(&mut cluster, &part)?;
    }

    let transitions = match settings.transitions {
        0 => Tally::default(),
        _ => transitions::run(&compared, &mut cluster)?,
    };
    if !is_all {
        println!("\nnot run, because only transitions were asked for: all other parts");
        return Ok(transitions);
    }
    if settings.transitions > 0 {
        compare(
            &mut cluster,
            &format!("after {} transitions", settings.transitions),
        )?;
    }

    let mut left_out = 0;
    match &settings.compact {
        None => left_out += not_run("compaction of etcd", "--compact"),
        Some(command) => {
            change(&mut cluster, &mut random, &settings, MISSED)?;
            shell(command)?;
            change(&mut cluster, &mut random, &settings, MISSED)?;
            compare(&mut cluster, "after compaction of etcd")?;
        }
    }
    match &settings.restart_api {
        None => {
            left_out += not_run("restart of the API server", "--restart-api");
            left_out += not_run("watches that expired", "--restart-api");
        }
        Some(command) => {
            shell(command)?;
            cluster.wait_until_up()?;
            change(&mut cluster, &mut random, &settings, MISSED)?;
            compare(&mut cluster, "after a restart of the API server")?;

            // The agents miss changes that the restarted API server has no memory of.
            for agent in &compared.agents {
                agent.signal(Signal::SIGSTOP)?;
            }
            change(&mut cluster, &mut random, &settings, MISSED)?;
            if let Some(compact) = &settings.compact {
                shell(compact)?;
            }
            shell(command)?;
            cluster.wait_until_up()?;
            for agent in &compared.agents {
                agent.signal(Signal::SIGCONT)?;
            }
            compare(&mut cluster, "after watches that expired")?;
        }
    }
    if left_out > 0 {
        println!("{left_out} parts were not run");
    }
    all.add(transitions);
    Ok(all)
}

/// Asks about everything, once what was written is known everywhere.
fn compare_everything(compared: &Compared<'_>, cluster: &mut Cluster, part: &str) -> Result<Tally> {
    let took = wait(compared, &cluster.mark()?)?;
    let start = Instant::now();
    let tally = compared.everything(cluster)?;
    let part = format!(
        "{part}: known everywhere after {took:.1?}, asked in {:.1?}",
        start.elapsed()
    );
    tally.print(&part);
    Ok(tally)
}

/// Writes objects of all kinds.
fn write_zoo(cluster: &mut Cluster, zone: &str) -> Result<()> {
    for object in zoo(&cluster.prefix, zone)? {
        cluster.write(object)?;
    }
    if !cluster.objects.are_dual_stack() {
        println!("not asked about: Services of both families, which this cluster hasn't");
        return Ok(());
    }
    for object in dual_stack_zoo(&cluster.prefix, zone)? {
        cluster.write(object)?;
    }
    Ok(())
}

/// Makes random changes.
fn change(
    cluster: &mut Cluster,
    random: &mut StdRng,
    settings: &Settings,
    count: usize,
) -> Result<()> {
    let start = Instant::now();
    let mut changes = Changes::new(random, &settings.zone);
    changes.make(cluster, count)?;
    println!("\n{count} changes in {:.1?}:", start.elapsed());
    for (what, count) in &changes.made {
        println!("{count:>9} {what}");
    }
    Ok(())
}

/// Waits until CoreDNS and every agent, in both planes, know a marker; says how long.
fn wait(compared: &Compared<'_>, marker: &Marker) -> Result<Duration> {
    let question = Question {
        name: marker.name.clone(),
        rtype: 1,
        edns: Edns::Without,
    };
    let knows = |asker: &Asker| -> Result<bool> {
        let reply = asker.ask(&question.message())?;
        if reply.get(3).is_none_or(|octet| octet & 15 == PASSED) {
            return Ok(false);
        }
        let reply = Reply::read(&reply, &compared.settings.zone)?;
        let addresses: Vec<&str> = reply
            .answer()
            .iter()
            .map(|record| record.data.as_str())
            .collect();
        Ok(addresses == marker.addresses)
    };
    // A kernel that passes it, as it may, has no old answer either.
    let pod = Question {
        name: marker.pod.clone(),
        ..question.clone()
    };
    let knows_pod = |asker: &Asker| -> Result<bool> {
        let reply = asker.ask(&pod.message())?;
        let rcode = reply.get(3).map(|octet| octet & 15);
        Ok(rcode == Some(PASSED) || rcode == Some(0))
    };
    let start = Instant::now();
    let askers = compared
        .agents
        .iter()
        .flat_map(|agent| [&agent.user_plane, &agent.kernel]);
    let mut waited_for: Vec<&Asker> = std::iter::once(&compared.coredns).chain(askers).collect();
    while !waited_for.is_empty() {
        compared.signals.check()?;
        if start.elapsed() > LIMIT {
            bail!(
                "{} of all servers did not learn of {} in {LIMIT:?}",
                waited_for.len(),
                marker.name
            );
        }
        let mut ignorant = Vec::new();
        for asker in waited_for {
            if !knows(asker)? || !knows_pod(asker)? {
                ignorant.push(asker);
            }
        }
        waited_for = ignorant;
    }
    Ok(start.elapsed())
}

fn served_address(service: &k8s_openapi::api::core::v1::Service) -> Result<Ipv4Addr> {
    let spec = service.spec.as_ref();
    let mut addresses = spec
        .and_then(|spec| spec.cluster_ips.as_ref())
        .into_iter()
        .flatten();
    let address = addresses.find_map(|address| address.parse().ok());
    address.context("Services have no IPv4 address in this cluster, which the suite's pods ask")
}

/// Says that a part is left out.
fn not_run(part: &str, flag: &str) -> usize {
    println!("\nnot run, for want of {flag} COMMAND: {part}");
    1
}

fn shell(command: &str) -> Result<()> {
    let status = Command::new("sh").args(["-c", command]).status()?;
    ensure!(status.success(), "`{command}` ended with {status}");
    Ok(())
}
