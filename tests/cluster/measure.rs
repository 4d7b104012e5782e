//! How long a change takes, what an agent holds and asks for, and what is answered while the API server
//! is away: beside CoreDNS, in the same run.
//!
//! `cargo xtask bench --cluster KUBECONFIG --dns IP:PORT` starts it.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::{
    agent::{Agent, Mode},
    ask::Asker,
    cluster::Cluster,
    objects::{Key, Object, Writer, owned, service, slice},
    pod::Pods,
    questions::{Edns, Question},
    reply::Reply,
    served_address,
    settings::{Measured, Settings},
    shell,
    signals::Signals,
};

/// Between two questions whether a change is there.
const PAUSE: Duration = Duration::from_micros(200);
/// How long a change may take.
const LIMIT: Duration = Duration::from_secs(30);
/// Names that are asked for while the API server is away.
const NAMES: usize = 200;

/// Measures everything that is asked for.
pub(crate) fn run(measured: &Measured) -> Result<()> {
    let settings = Settings::from_environment()?;
    let signals = Signals::new()?;
    let mut cluster = Cluster::connect(&settings.kubeconfig, settings.seed, signals.clone())?;
    let served = cluster.create_own(&settings.corefile)?;
    let mut pods = Pods::new(served_address(&served)?);
    let namespace = format!("{}-measured", cluster.prefix);
    cluster.create_namespace(&namespace)?;
    let services = fill(&mut cluster, &namespace, measured.services)?;

    for mode in [Mode::Headless, Mode::All] {
        let start = Instant::now();
        let agent = Agent::start(&settings, &cluster, &mut pods, mode)?;
        let moving = Moving::new(&mut cluster, &namespace, mode)?;
        let askers = [&agent.kernel];
        moving.wait(&askers, 0, start)?;
        println!("\n{}", mode.flags());
        println!(
            "  known {:.1} s after the start, of which the first list waits up to 5 s at random",
            start.elapsed().as_secs_f64()
        );
        let before = Instant::now();
        let coredns = Asker::new(settings.dns)?;
        moving.wait(&[&coredns], 0, before)?;
        latency(
            &mut cluster,
            &moving,
            &coredns,
            &agent,
            measured.changes,
            &signals,
        )?;
        memory(&agent, measured)?;
        requests(&agent, start)?;
        if mode == Mode::All {
            outage(&agent, &services, measured, &signals)?;
        }
    }
    Ok(())
}

/// A headless service whose one endpoint moves.
struct Moving {
    key: Key,
    name: String,
}

impl Moving {
    fn new(cluster: &mut Cluster, namespace: &str, mode: Mode) -> Result<Moving> {
        let label = mode.flags().trim_start_matches("--endpoints=");
        let key = (namespace.to_owned(), format!("moving-{label}"));
        cluster.write(service(&key, &json!({"clusterIP": "None"}))?)?;
        let moving = Moving {
            name: format!("{}.{namespace}.svc.cluster.local", key.1),
            key,
        };
        moving.write(cluster, 0)?;
        Ok(moving)
    }

    fn address(round: usize) -> String {
        format!("100.65.{}.{}", round / 250, round % 250 + 1)
    }

    fn write(&self, cluster: &mut Cluster, round: usize) -> Result<()> {
        let endpoints = json!([{"addresses": [Moving::address(round)]}]);
        let slice = slice(&self.key, "IPv4", &endpoints, &Value::Null)?;
        let slice = owned(slice, &self.key.1, Some(true), Writer::Kubernetes);
        cluster.write(Object::Slice(Box::new(slice)))
    }

    /// How long after `start` each of them knows where the endpoint is.
    fn wait(&self, askers: &[&Asker], round: usize, start: Instant) -> Result<Vec<Duration>> {
        let (sender, known) = mpsc::channel();
        let question = Question {
            name: self.name.clone(),
            rtype: 1,
            edns: Edns::Without,
        }
        .message();
        let address = Moving::address(round);
        let (question, address) = (&question, address.as_str());
        thread::scope(|scope| {
            for (at, asker) in askers.iter().enumerate() {
                let sender = sender.clone();
                scope.spawn(move || {
                    sender
                        .send((at, wait(asker, question, address, start)))
                        .ok();
                });
            }
        });
        drop(sender);
        let mut all: Vec<_> = known.iter().collect();
        all.sort_by_key(|(at, _)| *at);
        all.into_iter().map(|(_, took)| took).collect()
    }
}

fn wait(asker: &Asker, question: &[u8], address: &str, start: Instant) -> Result<Duration> {
    loop {
        let reply = Reply::read(&asker.ask(question)?, "cluster.local")?;
        let took = start.elapsed();
        if reply.answer().iter().any(|record| record.data == address) {
            return Ok(took);
        }
        ensure!(took < LIMIT, "no answer with {address} in {LIMIT:?}");
        thread::sleep(PAUSE);
    }
}

/// Services with a ClusterIP and a headless one in turn, each with five endpoints. Gives names with
/// an address each.
fn fill(cluster: &mut Cluster, namespace: &str, count: usize) -> Result<Vec<(String, String)>> {
    let mut names = Vec::new();
    for number in 0..count.max(NAMES) {
        let key = (namespace.to_owned(), format!("service-{number}"));
        let ports = json!([{"name": "http", "port": 80}]);
        let is_headless = number % 2 == 1;
        let spec = match is_headless {
            true => json!({"clusterIP": "None", "ports": ports}),
            false => json!({"ports": ports}),
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
            .map(|at| json!({"addresses": [address(at)], "zone": format!("zone-{}", at % 3), "targetRef": {"kind": "Pod", "name": format!("service-{number}-6bb4d5c7f9-{at:05}")}}))
            .collect();
        let slice = slice(&key, "IPv4", &json!(endpoints), &ports)?;
        let slice = owned(slice, &key.1, Some(is_headless), Writer::Kubernetes);
        cluster.write(Object::Slice(Box::new(slice)))?;
        if is_headless && names.len() < NAMES {
            let name = format!("{}.{namespace}.svc.cluster.local", key.1);
            names.push((name, address(0)));
        }
    }
    Ok(names)
}

/// From the writing of a change to its being answered.
fn latency(
    cluster: &mut Cluster,
    moving: &Moving,
    coredns: &Asker,
    agent: &Agent,
    changes: usize,
    signals: &Signals,
) -> Result<()> {
    let mut took: [Vec<Duration>; 2] = Default::default();
    for round in 1..=changes {
        signals.check()?;
        let start = Instant::now();
        moving.write(cluster, round)?;
        let known = moving.wait(&[&agent.kernel, coredns], round, start)?;
        for (all, took) in took.iter_mut().zip(known) {
            all.push(took);
        }
    }
    println!(
        "  {changes} changes of an endpoint, from before the request that writes it to the new answer, ms:"
    );
    for (who, mut took) in ["kernel", "CoreDNS"].into_iter().zip(took) {
        took.sort();
        let at =
            |share: usize| took[(took.len() * share / 100).min(took.len() - 1)].as_secs_f64() * 1e3;
        println!(
            "    {who:<8} p50 {:.2}  p90 {:.2}  p99 {:.2}  max {:.2}",
            at(50),
            at(90),
            at(99),
            at(100)
        );
    }
    println!(
        "  of that from the reading of the event to being served (zerohop_publish_duration_seconds):"
    );
    let metrics = get(&agent.admin, "/metrics")?;
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
            "    p{share} at most {} s, of {all}",
            reached.map_or("?", |(bound, _)| bound)
        );
    }
    Ok(())
}

/// What the agent and CoreDNS hold.
fn memory(agent: &Agent, measured: &Measured) -> Result<()> {
    let anonymous = kilobytes(agent.id(), "RssAnon:")?;
    let status: Value = serde_json::from_str(body(&get(&agent.admin, "/status")?)?)?;
    let tables = &status["datapath"]["tables"];
    let maps = tables["memory_octets"].as_u64().context("no tables")? / 1024;
    println!("  objects {}", status["objects"]);
    println!(
        "  memory: {:.1} MB (RssAnon) + {:.1} MB (maps, {} names) = {:.1} MB",
        megabytes(anonymous),
        megabytes(maps),
        tables["names"],
        megabytes(anonymous + maps)
    );
    if let Some(coredns) = measured.dns_pid {
        let resident = kilobytes(coredns, "VmRSS:")?;
        println!(
            "  CoreDNS: {:.1} MB (VmRSS), at most {:.1} MB so far; the agent holds {:.2} of what it holds now",
            megabytes(resident),
            megabytes(kilobytes(coredns, "VmHWM:")?),
            (anonymous + maps) as f64 / resident as f64
        );
    }
    Ok(())
}

fn requests(agent: &Agent, start: Instant) -> Result<()> {
    let status: Value = serde_json::from_str(body(&get(&agent.admin, "/status")?)?)?;
    let requests: BTreeMap<String, u64> =
        serde_json::from_value(status["source"]["kubernetes"]["requests"].clone())?;
    println!(
        "  requests to the API server in {:.0} s: {requests:?}",
        start.elapsed().as_secs_f64()
    );
    Ok(())
}

/// Every name goes on being answered while the API server is away, with nothing else that answers.
fn outage(
    agent: &Agent,
    names: &[(String, String)],
    measured: &Measured,
    signals: &Signals,
) -> Result<()> {
    let (Some(stop), Some(start)) = (&measured.stop_api, &measured.start_api) else {
        println!("  not run, for want of --stop-api and --start-api: an outage of the API server");
        return Ok(());
    };
    let questions: Vec<_> = names
        .iter()
        .map(|(name, address)| {
            let question = Question {
                name: name.clone(),
                rtype: 1,
                edns: Edns::Without,
            };
            (question.message(), address)
        })
        .collect();
    shell(stop)?;
    let began = Instant::now();
    let (mut asked, mut wrong, mut slowest) = (0u64, 0u64, Duration::ZERO);
    while began.elapsed() < measured.outage {
        signals.check()?;
        for (question, address) in &questions {
            let start = Instant::now();
            let reply = Reply::read(&agent.kernel.ask(question)?, "cluster.local")?;
            slowest = slowest.max(start.elapsed());
            asked += 1;
            let is_right = reply.answer().len() == 5
                && reply.answer().iter().any(|record| record.data == **address);
            wrong += u64::from(!is_right);
        }
    }
    println!(
        "  API server away for {:.0} s: {asked} questions answered by the kernel, {wrong} failed, the slowest took {:.1} ms",
        began.elapsed().as_secs_f64(),
        slowest.as_secs_f64() * 1e3
    );
    shell(start)?;
    ensure!(wrong == 0, "{wrong} answers were wrong");
    Ok(())
}

/// The response to a request for the agent's admin endpoints.
fn get(admin: &str, path: &str) -> Result<String> {
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
    let (_, body) = response.split_once("\r\n\r\n").context("no body")?;
    Ok(body)
}

/// A line of `/proc/PID/status`, in kB.
fn kilobytes(pid: u32, what: &str) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(what));
    let number = line.and_then(|line| line.split_whitespace().next());
    number
        .and_then(|number| number.parse().ok())
        .with_context(|| format!("no {what} of {pid}"))
}

fn megabytes(kilobytes: u64) -> f64 {
    kilobytes as f64 / 1024.0
}
