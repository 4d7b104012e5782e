//! Compares Zerohop with a CoreDNS that reads the same API server. CoreDNS, and the resolver and
//! the kernel program of three agents with different flags, receive the same queries: for every
//! name that the objects make, and for many similar names. A difference is either an agreed CoreDNS
//! deviation or an error.
//!
//! `cargo xtask test --cluster KUBECONFIG --dns IP:PORT` starts this program. For `cargo xtask
//! bench`, the same program measures instead of comparing: see `measure` and `watch_cost`.

#![forbid(unsafe_code)]

mod agent;
mod changes;
mod client;
mod cluster;
mod compare;
mod coredns;
mod deviations;
mod measure;
mod objects;
mod pod;
mod questions;
mod reply;
mod settings;
mod shapes;
mod signals;
mod tally;
mod transitions;
mod watch_cost;

use std::{
    net::Ipv4Addr,
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::Signal;
use rand::{SeedableRng as _, rngs::StdRng};

use crate::{
    agent::{AgentMode, ComparedAgent},
    changes::RandomChanges,
    client::RetryingClient,
    cluster::{LiveCluster, Marker},
    compare::Comparison,
    objects::{dual_stack_zoo, zoo},
    pod::{ClientPods, NOERROR, PASSED, is_passed, rcode},
    questions::{A, ComparedQuestion, EdnsChoice},
    reply::ComparedReply,
    settings::{
        ComparisonParts, ComparisonSettings, MeasurementSettings, ShapeSettings, WatchCostSettings,
    },
    signals::StopRequest,
    tally::ComparisonTally,
};

/// Number of random changes before, during or after a fault: a compaction of etcd, a restart of the
/// API server, and stopped agents.
const FAULT_CHANGES: usize = 100;
/// The time after a write within which every server must answer with the new state.
const LIMIT: Duration = Duration::from_secs(120);

fn main() -> ExitCode {
    match run_selected_job() {
        Ok(tally) if !tally.is_wrong() => ExitCode::SUCCESS,
        Ok(_) => {
            println!(
                "Zerohop differs from CoreDNS in ways that no rule allows, or not enough was \
                 tried: see the WRONG lines"
            );
            ExitCode::FAILURE
        }
        Err(error) => {
            println!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the comparison or the measurement that the environment variables select. A measurement
/// returns an empty tally.
fn run_selected_job() -> Result<ComparisonTally> {
    if let Some(watched) = WatchCostSettings::from_environment()? {
        return watch_cost::measure_watch_cost(&watched).map(|()| ComparisonTally::default());
    }
    if let Some(settings) = ShapeSettings::from_environment()? {
        return shapes::compare_shapes(&settings);
    }
    match MeasurementSettings::from_environment()? {
        Some(measured) => measure::measure_agents(&measured).map(|()| ComparisonTally::default()),
        None => run_comparison(),
    }
}

fn run_comparison() -> Result<ComparisonTally> {
    let settings = ComparisonSettings::from_environment()?;
    println!("seed {}", settings.seed);
    let signals = StopRequest::new()?;
    let mut cluster = LiveCluster::connect(&settings.kubeconfig, settings.seed, signals.clone())?;
    println!("namespaces {}-*", cluster.prefix);
    let served = cluster.create_dns_namespace(&settings.corefile)?;
    let mut pods = ClientPods::new(served_address(&served)?);
    if settings.parts == ComparisonParts::All {
        write_zoo(&mut cluster, &settings.zone)?;
    }
    let agents =
        AgentMode::ALL.map(|mode| ComparedAgent::start(&settings, &cluster, &mut pods, mode));
    let comparison = Comparison {
        settings: &settings,
        coredns: RetryingClient::new(settings.dns)?,
        agents: agents.into_iter().collect::<Result<_>>()?,
        signals,
    };
    let mut random = StdRng::seed_from_u64(settings.seed);
    let mut total = ComparisonTally::default();
    let mut compare_part = |cluster: &mut LiveCluster, part: &str| -> Result<()> {
        total.add(compare_everything(&comparison, cluster, part)?);
        Ok(())
    };

    let has_all_parts = settings.parts == ComparisonParts::All;
    if has_all_parts {
        compare_part(&mut cluster, "objects of all kinds")?;
    }
    if has_all_parts && settings.changes > 0 {
        make_changes(&mut cluster, &mut random, &settings, settings.changes)?;
        let part = format!("after {} changes", settings.changes);
        compare_part(&mut cluster, &part)?;
    }

    let transition_tally = match settings.transitions {
        0 => ComparisonTally::default(),
        _ => transitions::run_transitions(&comparison, &mut cluster)?,
    };
    if !has_all_parts {
        println!("\nnot run, because of --only transitions: all other parts");
        return Ok(transition_tally);
    }
    if settings.transitions > 0 {
        compare_part(
            &mut cluster,
            &format!("after {} transitions", settings.transitions),
        )?;
    }

    let mut skipped = 0;
    match &settings.compact {
        None => skipped += not_run("compaction of etcd", "--compact"),
        Some(command) => {
            make_changes(&mut cluster, &mut random, &settings, FAULT_CHANGES)?;
            run_shell_command(command)?;
            make_changes(&mut cluster, &mut random, &settings, FAULT_CHANGES)?;
            compare_part(&mut cluster, "after compaction of etcd")?;
        }
    }
    match &settings.restart_api {
        None => {
            skipped += not_run("restart of the API server", "--restart-api");
            skipped += not_run("watches that expired", "--restart-api");
        }
        Some(command) => {
            run_shell_command(command)?;
            cluster.wait_until_up()?;
            make_changes(&mut cluster, &mut random, &settings, FAULT_CHANGES)?;
            compare_part(&mut cluster, "after a restart of the API server")?;

            // The agents miss changes that the restarted API server no longer holds in its watch
            // cache.
            for agent in &comparison.agents {
                agent.process.send_signal(Signal::SIGSTOP)?;
            }
            make_changes(&mut cluster, &mut random, &settings, FAULT_CHANGES)?;
            if let Some(compact) = &settings.compact {
                run_shell_command(compact)?;
            }
            run_shell_command(command)?;
            cluster.wait_until_up()?;
            for agent in &comparison.agents {
                agent.process.send_signal(Signal::SIGCONT)?;
            }
            compare_part(&mut cluster, "after watches that expired")?;
        }
    }
    if skipped > 0 {
        println!("{skipped} parts were not run");
    }
    total.add(transition_tally);
    Ok(total)
}

/// Waits until every server knows all writes, then sends all queries and compares the replies.
fn compare_everything(
    comparison: &Comparison<'_>,
    cluster: &mut LiveCluster,
    part: &str,
) -> Result<ComparisonTally> {
    let took = wait_until_known(comparison, &cluster.write_marker()?)?;
    let start = Instant::now();
    let tally = comparison.compare_all_names(cluster)?;
    let part = format!(
        "{part}: known everywhere after {took:.1?}, asked in {:.1?}",
        start.elapsed()
    );
    tally.print(&part);
    Ok(tally)
}

/// Writes the objects of `zoo.yaml`, and those of `dual-stack.yaml` if the cluster is dual-stack.
fn write_zoo(cluster: &mut LiveCluster, zone: &str) -> Result<()> {
    for object in zoo(&cluster.prefix, zone)? {
        cluster.write(object)?;
    }
    if !cluster.objects.are_dual_stack() {
        println!("not compared: dual-stack Services, because this cluster has one address family");
        return Ok(());
    }
    for object in dual_stack_zoo(&cluster.prefix, zone)? {
        cluster.write(object)?;
    }
    Ok(())
}

/// Makes random changes, and prints the number of changes of each kind.
fn make_changes(
    cluster: &mut LiveCluster,
    random: &mut StdRng,
    settings: &ComparisonSettings,
    count: usize,
) -> Result<()> {
    let start = Instant::now();
    let mut changes = RandomChanges::new(random, &settings.zone);
    changes.make_changes(cluster, count)?;
    println!("\n{count} changes in {:.1?}:", start.elapsed());
    for (kind, count) in &changes.made {
        println!("{count:>9} {kind}");
    }
    Ok(())
}

/// Waits until CoreDNS and both planes of every agent know a marker. Returns the elapsed time. The
/// loop needs no pause, because each query waits for its reply.
fn wait_until_known(comparison: &Comparison<'_>, marker: &Marker) -> Result<Duration> {
    let question = ComparedQuestion {
        name: marker.name.clone(),
        rtype: A,
        edns: EdnsChoice::Without,
    };
    let knows = |client: &RetryingClient| -> Result<bool> {
        let reply = client.ask(&question.message())?;
        if is_passed(&reply) {
            return Ok(false);
        }
        let reply = ComparedReply::read(&reply, &comparison.settings.zone)?;
        let addresses: Vec<&str> = reply
            .answer()
            .iter()
            .map(|record| record.data.as_str())
            .collect();
        Ok(addresses == marker.addresses)
    };
    // The kernel may also pass this query, because then it holds no stale answer.
    let pod = ComparedQuestion {
        name: marker.pod.clone(),
        ..question.clone()
    };
    let knows_pod = |client: &RetryingClient| -> Result<bool> {
        let reply = client.ask(&pod.message())?;
        Ok(matches!(rcode(&reply), Some(PASSED | NOERROR)))
    };
    let start = Instant::now();
    let clients = comparison
        .agents
        .iter()
        .flat_map(|agent| [&agent.user_plane, &agent.kernel]);
    let mut waited_for: Vec<&RetryingClient> = std::iter::once(&comparison.coredns)
        .chain(clients)
        .collect();
    while !waited_for.is_empty() {
        comparison.signals.fail_if_stopped()?;
        if start.elapsed() > LIMIT {
            bail!(
                "{} servers do not know the marker {} after {LIMIT:?}",
                waited_for.len(),
                marker.name
            );
        }
        let mut pending = Vec::new();
        for client in waited_for {
            if !knows(client)? || !knows_pod(client)? {
                pending.push(client);
            }
        }
        waited_for = pending;
    }
    Ok(start.elapsed())
}

/// The IPv4 ClusterIP of the suite's DNS Service.
fn served_address(service: &k8s_openapi::api::core::v1::Service) -> Result<Ipv4Addr> {
    let spec = service.spec.as_ref();
    let mut addresses = spec
        .and_then(|spec| spec.cluster_ips.as_ref())
        .into_iter()
        .flatten();
    let address = addresses.find_map(|address| address.parse().ok());
    address.context(
        "the DNS Service has no IPv4 address, but the suite's pods query over IPv4: use a cluster \
         with IPv4 Services",
    )
}

/// Prints that a part is not run. Returns 1, for the count of skipped parts.
fn not_run(part: &str, flag: &str) -> usize {
    println!("\nnot run, because {flag} COMMAND is not given: {part}");
    1
}

fn run_shell_command(command: &str) -> Result<()> {
    let status = Command::new("sh").args(["-c", command]).status()?;
    ensure!(status.success(), "`{command}` ended with {status}");
    Ok(())
}
