//! Measures an agent and CoreDNS in the same run: how long a change takes, memory, requests to the
//! API server, and answers while the API server does not run.
//!
//! `cargo xtask bench --cluster KUBECONFIG --dns IP:PORT` starts this measurement.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::{
    agent::{AgentMode, ComparedAgent},
    client::RetryingClient,
    cluster::LiveCluster,
    objects::{NamespacedName, SliceWriter, WrittenObject, label_slice, service, slice},
    pod::ClientPods,
    questions::{A, ComparedQuestion, EdnsChoice},
    reply::ComparedReply,
    run_shell_command, served_address,
    settings::{ComparisonSettings, MeasurementSettings},
    signals::StopRequest,
};

/// The pause after an answer that does not show the change yet.
const PAUSE: Duration = Duration::from_micros(200);
/// The time within which a change must appear in answers, and a new agent must answer.
const LIMIT: Duration = Duration::from_secs(30);
/// The largest number of names that are queried while the API server does not run, and the least
/// number of Services. Only every second Service, a headless one, has a name that is queried.
const NAMES: usize = 200;

/// Measures an agent that knows only headless Services' endpoints, then one that knows all
/// endpoints.
pub(crate) fn measure_agents(measurement: &MeasurementSettings) -> Result<()> {
    let settings = ComparisonSettings::from_environment()?;
    let signals = StopRequest::new()?;
    let mut cluster = LiveCluster::connect(&settings.kubeconfig, settings.seed, signals.clone())?;
    let served = cluster.create_dns_namespace(&settings.corefile)?;
    let mut pods = ClientPods::new(served_address(&served)?);
    let namespace = format!("{}-measured", cluster.prefix);
    cluster.create_namespace(&namespace)?;
    let services = make_services(&mut cluster, &namespace, measurement.services)?;

    for mode in [AgentMode::Headless, AgentMode::All] {
        let start = Instant::now();
        let agent = ComparedAgent::start(&settings, &cluster, &mut pods, mode)?;
        let moving = MovingEndpoint::new(&mut cluster, &namespace, mode)?;
        let clients = [&agent.kernel];
        moving.wait_until_known(&clients, 0, start)?;
        println!("\n{}", mode.flags());
        println!(
            "  first answer of the kernel {:.1} s after the start, which includes a random wait of \
             up to 5 s",
            start.elapsed().as_secs_f64()
        );
        let before = Instant::now();
        let coredns = RetryingClient::new(settings.dns)?;
        moving.wait_until_known(&[&coredns], 0, before)?;
        measure_latency(
            &mut cluster,
            &moving,
            &coredns,
            &agent,
            measurement.changes,
            &signals,
        )?;
        print_memory(&agent, measurement)?;
        print_requests(&agent, start)?;
        if mode == AgentMode::All {
            measure_outage(&agent, &services, measurement, &signals)?;
        }
    }
    Ok(())
}

/// A headless Service with one endpoint, whose address changes in each round.
struct MovingEndpoint {
    key: NamespacedName,
    name: String,
}

impl MovingEndpoint {
    fn new(cluster: &mut LiveCluster, namespace: &str, mode: AgentMode) -> Result<MovingEndpoint> {
        let label = mode.flags().trim_start_matches("--endpoints=");
        let key = (namespace.to_owned(), format!("moving-{label}"));
        cluster.write(service(&key, &json!({"clusterIP": "None"}))?)?;
        let moving = MovingEndpoint {
            name: format!("{}.{namespace}.svc.cluster.local", key.1),
            key,
        };
        moving.write(cluster, 0)?;
        Ok(moving)
    }

    fn address(round: usize) -> String {
        format!("100.65.{}.{}", round / 250, round % 250 + 1)
    }

    fn write(&self, cluster: &mut LiveCluster, round: usize) -> Result<()> {
        let endpoints = json!([{"addresses": [MovingEndpoint::address(round)]}]);
        let slice = slice(&self.key, "IPv4", &endpoints, &Value::Null)?;
        let slice = label_slice(slice, &self.key.1, Some(true), SliceWriter::Kubernetes);
        cluster.write(WrittenObject::Slice(Box::new(slice)))
    }

    /// Waits until every client gets the round's address. Returns for each client the time since
    /// `start`.
    fn wait_until_known(
        &self,
        clients: &[&RetryingClient],
        round: usize,
        start: Instant,
    ) -> Result<Vec<Duration>> {
        let question = ComparedQuestion {
            name: self.name.clone(),
            rtype: A,
            edns: EdnsChoice::Without,
        }
        .message();
        let address = MovingEndpoint::address(round);
        let (question, address) = (&question, address.as_str());
        thread::scope(|scope| {
            let waiting: Vec<_> = clients
                .iter()
                .map(|client| {
                    scope.spawn(move || wait_for_address(client, question, address, start))
                })
                .collect();
            waiting
                .into_iter()
                .map(|thread| {
                    thread
                        .join()
                        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
                })
                .collect()
        })
    }
}

fn wait_for_address(
    client: &RetryingClient,
    question: &[u8],
    address: &str,
    start: Instant,
) -> Result<Duration> {
    loop {
        let reply = ComparedReply::read(&client.ask(question)?, "cluster.local")?;
        let took = start.elapsed();
        if reply.answer().iter().any(|record| record.data == address) {
            return Ok(took);
        }
        ensure!(
            took < LIMIT,
            "the kernel plane or CoreDNS does not answer with the new address {address} within \
             {LIMIT:?}"
        );
        thread::sleep(PAUSE);
    }
}

/// Makes `count` Services, but at least [`NAMES`], with five endpoints each. Every second one is
/// headless. Returns the names of up to [`NAMES`] headless Services, each with the address of one
/// endpoint.
fn make_services(
    cluster: &mut LiveCluster,
    namespace: &str,
    count: usize,
) -> Result<Vec<(String, String)>> {
    let mut names = Vec::new();
    for number in 0..count.max(NAMES) {
        let key = (namespace.to_owned(), format!("service-{number}"));
        let ports = json!([{"name": "http", "port": 80}]);
        let is_headless = number % 2 == 1;
        let spec = if is_headless {
            json!({"clusterIP": "None", "ports": ports})
        } else {
            json!({"ports": ports})
        };
        cluster.write(service(&key, &spec)?)?;
        let address = |at: usize| {
            let host = number * 5 + at;
            format!(
                "10.{}.{}.{}",
                128 + host / 65536,
                host / 256 % 256,
                host % 256
            )
        };
        let endpoints: Vec<Value> = (0..5)
            .map(|at| json!({
                "addresses": [address(at)],
                "zone": format!("zone-{}", at % 3),
                "targetRef": {"kind": "Pod", "name": format!("service-{number}-6bb4d5c7f9-{at:05}")}
            }))
            .collect();
        let slice = slice(&key, "IPv4", &json!(endpoints), &ports)?;
        let slice = label_slice(slice, &key.1, Some(is_headless), SliceWriter::Kubernetes);
        cluster.write(WrittenObject::Slice(Box::new(slice)))?;
        if is_headless && names.len() < NAMES {
            let name = format!("{}.{namespace}.svc.cluster.local", key.1);
            names.push((name, address(0)));
        }
    }
    Ok(names)
}

/// Measures the time from the start of each write until the new answer, and prints it with the
/// agent's own measurement of its publications.
fn measure_latency(
    cluster: &mut LiveCluster,
    moving: &MovingEndpoint,
    coredns: &RetryingClient,
    agent: &ComparedAgent,
    changes: usize,
    signals: &StopRequest,
) -> Result<()> {
    let mut took: [Vec<Duration>; 2] = Default::default();
    for round in 1..=changes {
        signals.fail_if_stopped()?;
        let start = Instant::now();
        moving.write(cluster, round)?;
        let known = moving.wait_until_known(&[&agent.kernel, coredns], round, start)?;
        for (all, took) in took.iter_mut().zip(known) {
            all.push(took);
        }
    }
    println!(
        "  {changes} endpoint changes, from the start of the write request to the new answer, ms:"
    );
    for (plane, mut took) in ["kernel", "CoreDNS"].into_iter().zip(took) {
        took.sort();
        let at =
            |share: usize| took[(took.len() * share / 100).min(took.len() - 1)].as_secs_f64() * 1e3;
        println!(
            "    {plane:<8} p50 {:.2}  p90 {:.2}  p99 {:.2}  max {:.2}",
            at(50),
            at(90),
            at(99),
            at(100)
        );
    }
    println!(
        "  of that in the agent, from reading an event to publishing it \
         (zerohop_publish_duration_seconds, since its start):"
    );
    let metrics = get_admin(&agent.process.admin, "/metrics")?;
    let buckets = metrics.lines().filter_map(|line| {
        let rest = line.strip_prefix("zerohop_publish_duration_seconds_bucket{le=\"")?;
        let (bound, count) = rest.split_once("\"} ")?;
        Some((bound, count.parse::<u64>().ok()?))
    });
    let buckets: Vec<_> = buckets.collect();
    let all = buckets.last().map_or(0, |(_, count)| *count);
    for share in [50, 99] {
        let reached = buckets.iter().find(|(_, count)| count * 100 >= all * share);
        println!(
            "    p{share} at most {} s, of {all} publications",
            reached.map_or("?", |(bound, _)| bound)
        );
    }
    Ok(())
}

/// Prints the memory of the agent, and of CoreDNS if its process ID is known. The pages of the
/// agent's program file are not counted. Those of CoreDNS are.
fn print_memory(agent: &ComparedAgent, measurement: &MeasurementSettings) -> Result<()> {
    let anonymous = kilobytes(agent.process.process_id(), "RssAnon:")?;
    let status: Value = serde_json::from_str(body(&get_admin(&agent.process.admin, "/status")?)?)?;
    let tables = &status["datapath"]["tables"];
    let maps = tables["memory_octets"]
        .as_u64()
        .context("the agent's /status has no datapath.tables.memory_octets")?
        / 1024;
    println!("  objects {}", status["objects"]);
    println!(
        "  memory: {:.1} MB (RssAnon) + {:.1} MB (maps, {} names) = {:.1} MB",
        megabytes(anonymous),
        megabytes(maps),
        tables["names"],
        megabytes(anonymous + maps)
    );
    if let Some(coredns) = measurement.dns_pid {
        let resident = kilobytes(coredns, "VmRSS:")?;
        println!(
            "  CoreDNS: {:.1} MB (VmRSS), at most {:.1} MB so far; agent / CoreDNS: {:.2}",
            megabytes(resident),
            megabytes(kilobytes(coredns, "VmHWM:")?),
            (anonymous + maps) as f64 / resident as f64
        );
    }
    Ok(())
}

/// Prints the agent's requests to the API server.
fn print_requests(agent: &ComparedAgent, start: Instant) -> Result<()> {
    let status: Value = serde_json::from_str(body(&get_admin(&agent.process.admin, "/status")?)?)?;
    let requests: BTreeMap<String, u64> =
        serde_json::from_value(status["source"]["kubernetes"]["requests"].clone())?;
    println!(
        "  requests to the API server in {:.0} s: {requests:?}",
        start.elapsed().as_secs_f64()
    );
    Ok(())
}

/// Stops the API server for the configured time, and checks that the kernel meanwhile answers every
/// name in `names`: each with five addresses, the given one among them. A query that the kernel
/// passes counts as wrong.
fn measure_outage(
    agent: &ComparedAgent,
    names: &[(String, String)],
    measurement: &MeasurementSettings,
    signals: &StopRequest,
) -> Result<()> {
    let (Some(stop), Some(start)) = (&measurement.stop_api, &measurement.start_api) else {
        println!(
            "  not run, because --stop-api or --start-api is not given: an outage of the API server"
        );
        return Ok(());
    };
    let questions: Vec<_> = names
        .iter()
        .map(|(name, address)| {
            let question = ComparedQuestion {
                name: name.clone(),
                rtype: A,
                edns: EdnsChoice::Without,
            };
            (question.message(), address)
        })
        .collect();
    run_shell_command(stop)?;
    let began = Instant::now();
    let (mut asked, mut wrong, mut slowest) = (0u64, 0u64, Duration::ZERO);
    while began.elapsed() < measurement.outage {
        signals.fail_if_stopped()?;
        for (question, address) in &questions {
            let sent = Instant::now();
            let reply = ComparedReply::read(&agent.kernel.ask(question)?, "cluster.local")?;
            slowest = slowest.max(sent.elapsed());
            asked += 1;
            let is_right = reply.answer().len() == 5
                && reply.answer().iter().any(|record| record.data == **address);
            wrong += u64::from(!is_right);
        }
    }
    println!(
        "  API server stopped for {:.0} s: {asked} queries, {wrong} without the right answer of \
         the kernel, the slowest took {:.1} ms",
        began.elapsed().as_secs_f64(),
        slowest.as_secs_f64() * 1e3
    );
    run_shell_command(start)?;
    ensure!(
        wrong == 0,
        "while the API server was stopped, the kernel answered {wrong} of {asked} queries wrongly \
         or not at all"
    );
    Ok(())
}

/// Sends a request to the agent's admin endpoints, and returns the response with its head.
fn get_admin(admin: &str, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(admin)?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
    )?;
    let mut response = String::new();
    stream.read_to_string(&mut response)?;
    Ok(response)
}

fn body(response: &str) -> Result<&str> {
    let (_, body) = response
        .split_once("\r\n\r\n")
        .context("the response of an agent's admin endpoint has no empty line before its body")?;
    Ok(body)
}

/// A field of `/proc/PID/status`, in kB.
fn kilobytes(pid: u32, field: &str) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let number = line.and_then(|line| line.split_whitespace().next());
    number
        .and_then(|number| number.parse().ok())
        .with_context(|| format!("no {field} in /proc/{pid}/status"))
}

fn megabytes(kilobytes: u64) -> f64 {
    kilobytes as f64 / 1024.0
}
