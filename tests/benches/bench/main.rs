//! The benchmark. `docs/benchmarks.md` describes the measurements and their output.

#![deny(unsafe_code)]

mod cases;
mod costs;
mod forger;
mod hostile_clients;
#[expect(unsafe_code, reason = "it shares structures with BPF programs")]
mod programs;
mod resolvers;
mod servers;
mod stream;
mod tables;

use std::{env, net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context as _, Result};
use aya::programs::ProgramFd;
use cases::BenchCase;
use clap::Parser;
use mimalloc::MiMalloc;
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};
use programs::{BenchPrograms, CaseFrames, ExpectedFrame, FrameCounts, VethPair};
use zerohop_contract::addresses::SERVED;
use zerohop_datapath::{
    DatapathConfig, KernelTables, PermittedClients, Persistence,
    grace::Rcu,
    program::{EbpfObject, HookProgram},
    table_size,
};
use zerohop_tests::{netns::NetworkNamespace, topology::Topology};
use zerohop_zone::Model;

#[derive(Parser)]
#[command(name = "bench", about = "Measures the kernel program")]
struct BenchmarkOptions {
    /// A smoke test: few frames, no required rates.
    #[arg(long)]
    quick: bool,
    /// Measures only the cases with this text in their names. The TCP streams are the case
    /// `stream`, and those of large Services the case `costs`. The tables are measured only without
    /// this option. Three cases are measured only if they are named: `resolvers` is the agent's
    /// resolver beside CoreDNS, Unbound and dnsmasq, with dnsperf; `forger` attacks the agent's
    /// resolver with forged responses; and `hostile-clients` is what the attacks of clients cost
    /// the others.
    #[arg(long, default_value = "")]
    case: String,
    /// Seconds for which each attack of `hostile-clients` lasts.
    #[arg(long, value_name = "SECONDS")]
    seconds: Option<u64>,
    /// Only the attacks of `hostile-clients` with this text in their descriptions.
    #[arg(long, value_name = "TEXT", default_value = "")]
    attack: String,
    /// The agent's binary, which `hostile-clients` attacks.
    #[arg(long, default_value = AGENT)]
    agent: PathBuf,
    /// Pairs of calls for each case, and pairs of TCP streams.
    #[arg(long)]
    pairs: Option<usize>,
    /// Questions that the forger attacks.
    #[arg(long)]
    runs: Option<usize>,
    /// Live frames in a call.
    #[arg(long)]
    frames: Option<u32>,
    /// The object file with the benchmark's own BPF programs.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/ebpf/bench.o"))]
    object: PathBuf,
}

/// The release build of the agent.
const AGENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/release/dns-agent");

/// The amount of work in a run.
struct Effort {
    /// Live frames in a call. Below two million the fixed cost of a call hides much of the
    /// difference between programs.
    frames: u32,
    /// Number of calls of each program, and of TCP streams without and with the program.
    pairs: usize,
    /// Rounds in a call of BPF_PROG_TEST_RUN.
    rounds: u32,
    /// Number of Services whose names are in the measured tables.
    names: u32,
    /// The duration of a TCP stream.
    stream: Duration,
}

/// That of the agent, because this program is also the measured resolver.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// The least rate of A answers, as a share of the reflector's rate: the goal in
/// `docs/benchmarks.md`. The reflector is a BPF program that only swaps the MAC addresses and sends
/// the frame back.
const LEAST_SHARE: f64 = 0.75;
/// The least rate of a TCP stream with the program, as a share of its rate without the program.
const LEAST_STREAM_SHARE: f64 = 0.97;
/// The `--case` name of the TCP streams.
const STREAM: &str = "stream";
/// The `--case` name of the costs of large Services.
const COSTS: &str = "costs";
/// The `--case` name of the resolver beside other forwarders.
const RESOLVERS: &str = "resolvers";
/// The `--case` name of the forged responses.
const FORGER: &str = "forger";
/// The `--case` name of the attacks of clients.
const HOSTILE_CLIENTS: &str = "hostile-clients";
/// The largest share of frames that may be lost. The rings between the devices hold 256 frames and
/// overflow when this thread is preempted at a bad moment.
const LOSS_LIMIT: f64 = 0.01;

fn main() -> Result<ExitCode> {
    let arguments: Vec<String> = env::args().collect();
    if let [_, first, listen, upstream] = arguments.as_slice()
        && first == resolvers::SERVE
    {
        resolvers::serve(listen.parse()?, upstream.parse()?)?;
        return Ok(ExitCode::SUCCESS);
    }
    if let [_, first, listen] = arguments.as_slice()
        && first == resolvers::REFLECT
    {
        resolvers::reflector::serve(listen.parse()?)?;
        return Ok(ExitCode::SUCCESS);
    }
    if let [_, first, name] = arguments.as_slice()
        && first == hostile_clients::ATTACK
    {
        hostile_clients::attack(name)?;
        return Ok(ExitCode::SUCCESS);
    }
    let options = BenchmarkOptions::parse();
    let effort = options.effort();
    if options.case == FORGER {
        let runs = if options.quick { 10 } else { 1000 };
        forger::measure(options.runs.unwrap_or(runs))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut failures = Vec::new();
    if options.case == HOSTILE_CLIENTS {
        hostile_clients::measure(&options.hostile_effort(), &mut failures)?;
        return Ok(report_failures(&failures));
    }
    pin_to_one_cpu()?;
    if options.case == RESOLVERS {
        resolvers::measure(&options.resolver_effort())?;
        return Ok(ExitCode::SUCCESS);
    }
    let namespace = NetworkNamespace::new("bench")?;
    // With IPv6 the kernel would send neighbour discovery through the veths. The queries over IPv6
    // need no IPv6 in the namespace, because only BPF programs handle them.
    namespace.sysctl("ipv6/conf/all/disable_ipv6", "1")?;
    namespace.sysctl("ipv6/conf/default/disable_ipv6", "1")?;
    if ![STREAM, COSTS].contains(&options.case.as_str()) {
        namespace.enter(|| measure_answers(&namespace, &options, &effort, &mut failures))??;
    }
    // `contains` is also true for an empty `--case`, which selects everything.
    if STREAM.contains(&options.case) {
        measure_streams(&options, &effort, &mut failures)?;
    }
    if options.case.is_empty() {
        measure_tables(&options, &effort, &mut failures)?;
    }
    if COSTS.contains(&options.case) {
        measure_costs(&options)?;
    }
    Ok(report_failures(&failures))
}

fn report_failures(failures: &[String]) -> ExitCode {
    for failure in failures {
        eprintln!("failed: {failure}");
    }
    if failures.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

impl BenchmarkOptions {
    fn hostile_effort(&self) -> hostile_clients::HostileEffort {
        let seconds = if self.quick { 1 } else { 6 };
        hostile_clients::HostileEffort {
            length: Duration::from_secs(self.seconds.unwrap_or(seconds)),
            filter: self.attack.clone(),
            agent: self.agent.clone(),
        }
    }

    fn resolver_effort(&self) -> resolvers::ResolverEffort {
        let (rounds, seconds) = if self.quick { (1, 1) } else { (5, 4) };
        resolvers::ResolverEffort {
            rounds: self.pairs.unwrap_or(rounds),
            seconds,
        }
    }

    fn effort(&self) -> Effort {
        let effort = if self.quick {
            Effort {
                frames: 20_000,
                pairs: 1,
                rounds: 1_000,
                names: 1_000,
                stream: Duration::from_millis(50),
            }
        } else {
            Effort {
                frames: 2_000_000,
                pairs: 11,
                rounds: 500_000,
                names: 100_000,
                stream: Duration::from_secs(2),
            }
        };
        Effort {
            pairs: self.pairs.unwrap_or(effort.pairs),
            frames: self.frames.unwrap_or(effort.frames),
            ..effort
        }
    }
}

/// Pins this process to the last CPU that it may use. The whole path from generator to checker then
/// runs on that CPU.
fn pin_to_one_cpu() -> Result<()> {
    let this = Pid::from_raw(0);
    let allowed = sched_getaffinity(this)?;
    let cpu = (0..CpuSet::count())
        .rev()
        .find(|cpu| allowed.is_set(*cpu).unwrap_or(false))
        .context("this process has no CPU in its affinity mask")?;
    let mut one = CpuSet::new();
    one.set(cpu)?;
    Ok(sched_setaffinity(this, &one)?)
}

/// The kernel program with filled tables and a lease.
struct ReadyResponder {
    object: EbpfObject,
    model: Model,
    /// Keeps the maps mapped, as in a running agent.
    _tables: KernelTables<Rcu>,
}

impl ReadyResponder {
    fn new() -> Result<Self> {
        let model = cases::model()?;
        // No capacity is configured, so the tables have the agent's default size.
        let size = table_size(&model, None);
        let object = EbpfObject::load(dns_agent::KERNEL_OBJECT, size)?;
        let mut tables = KernelTables::new(&object, size, &config(), Rcu::new()?)?;
        tables.publish_all(&model, &mut || {})?;
        // 3,600,000 jiffies: at least one hour at any HZ, longer than a run takes.
        object.set_lease(1000 * 3600)?;
        Ok(Self {
            object,
            model,
            _tables: tables,
        })
    }
}

fn config() -> DatapathConfig {
    DatapathConfig {
        object_file: dns_agent::KERNEL_OBJECT,
        interfaces: Vec::new(),
        allow: Vec::new(),
        rate_limit: None,
        served_addresses: SERVED.map(|address| SocketAddr::new(address, 53)).to_vec(),
        clients: PermittedClients::Any,
        capacity: None,
        stale_after: Duration::from_secs(10),
        persistence: Persistence::UntilAgentStops,
        bpffs: "/sys/fs/bpf".into(),
        steering: None,
    }
}

fn measure_answers(
    namespace: &NetworkNamespace,
    options: &BenchmarkOptions,
    effort: &Effort,
    failures: &mut Vec<String>,
) -> Result<()> {
    let mut responder = ReadyResponder::new()?;
    let mut programs = BenchPrograms::load(&options.object)?;
    let pairs = VethPairs {
        reflector: programs.make_veth_pair(namespace, "reflector")?,
        responder: programs.make_veth_pair(namespace, "responder")?,
    };
    programs.attach_reflector(&pairs.reflector)?;
    let answers = responder.object.loaded_xdp(HookProgram::XdpVeth.name())?;
    programs::attach(answers, &pairs.responder)?;
    let answers = answers.fd()?.try_clone()?;

    let mut cases = Vec::new();
    for case in cases::all() {
        if case.name.contains(&options.case) {
            let frames = case.frames(&responder.model)?;
            cases.push((case, frames));
        }
    }

    println!(
        "Live frames through native XDP on a veth pair, one CPU: {} calls of {} frames for each program",
        effort.pairs, effort.frames
    );
    println!(
        "{:<14} {:>10} {:>10}  {:<21} {:>7} {:>6} {:>6} {:>7}",
        "", "reflector", "responder", "share, for each pair", "share,", "more", "wrong", "missing"
    );
    println!(
        "{:<14} {:>10} {:>10}  {:<21} {:>7} {:>6} {:>6} {:>7}",
        "", "million/s", "million/s", "median (min–max)", "fastest", "ns", "frames", "frames"
    );
    for (case, frames) in &cases {
        let paired = measure_case(&mut programs, &pairs, frames, effort)
            .with_context(|| format!("case {}", case.name))?;
        paired.print(case);
        paired.check_limits(case, options, failures);
    }

    println!();
    println!(
        "BPF_PROG_TEST_RUN, {} calls of {} rounds for each program; medians, minus that of an \
         empty program",
        effort.pairs, effort.rounds
    );
    println!("{:<14} {:>12} {:>12}", "", "reflector ns", "responder ns");
    let reflector = programs.reflector()?;
    for (case, frames) in &cases {
        let [nothing, reflector, responder] = run_in_turns(
            &mut programs,
            [None, Some(&reflector), Some(&answers)],
            frames,
            effort,
        )
        .with_context(|| format!("case {}", case.name))?;
        println!(
            "{:<14} {:>12} {:>12}",
            case.name,
            reflector - nothing,
            responder - nothing
        );
    }
    Ok(())
}

/// Prints what large Services cost.
fn measure_costs(options: &BenchmarkOptions) -> Result<()> {
    let service = |endpoints, ports, aliases| costs::LargeService {
        endpoints,
        ports,
        aliases,
    };
    let mut services = vec![service(1, 1, 0), service(100, 1, 0)];
    if !options.quick {
        services.extend([1_000, 5_000, 20_000].map(|endpoints| service(endpoints, 1, 0)));
        services.extend([service(10, 500, 0), service(10, 500, 1_000)]);
    }
    println!();
    println!("A headless Service: times in microseconds, medians; the start in milliseconds");
    println!(
        "{:>9} {:>6} {:>7} {:>10} {:>10} {:>10} {:>10} {:>10} {:>10}",
        "endpoints", "ports", "aliases", "start", "event", "A", "SRV", "A socket", "small A"
    );
    for service in services {
        let costs = costs::measure(&config(), service)?;
        let micros = |time: Duration| time.as_secs_f64() * 1e6;
        println!(
            "{:>9} {:>6} {:>7} {:>10.1} {:>10.1} {:>10.2} {:>10.2} {:>10.2} {:>10.2}",
            service.endpoints,
            service.ports,
            service.aliases,
            micros(costs.start) / 1e3,
            micros(costs.event),
            micros(costs.question),
            micros(costs.srv_question),
            micros(costs.socket_question),
            micros(costs.small_socket_question),
        );
    }
    Ok(())
}

/// Runs the programs in turns. Returns the median nanoseconds of a round for each.
fn run_in_turns<const N: usize>(
    programs: &mut BenchPrograms,
    targets: [Option<&ProgramFd>; N],
    frames: &CaseFrames,
    effort: &Effort,
) -> Result<[f64; N]> {
    let mut calls = [const { Vec::new() }; N];
    for _ in 0..effort.pairs {
        for (target, calls) in targets.iter().zip(&mut calls) {
            calls.push(programs.run_repeatedly(*target, frames, effort.rounds)?);
        }
    }
    Ok(calls.map(|calls| median(&calls)))
}

/// One veth pair for each program, so that the programs stay attached between calls.
struct VethPairs {
    reflector: VethPair,
    responder: VethPair,
}

/// The results of all calls of one case.
struct PairedCalls {
    /// Nanoseconds for each frame, one value for each call.
    reflector_ns: Vec<f64>,
    responder_ns: Vec<f64>,
    /// Sums over all calls of both programs.
    counts: FrameCounts,
}

/// Calls both programs in turns, so that load of the machine affects both alike.
fn measure_case(
    programs: &mut BenchPrograms,
    pairs: &VethPairs,
    frames: &CaseFrames,
    effort: &Effort,
) -> Result<PairedCalls> {
    let mut paired = PairedCalls {
        reflector_ns: Vec::new(),
        responder_ns: Vec::new(),
        counts: FrameCounts::default(),
    };
    for _ in 0..effort.pairs {
        let mut call = |pair: &VethPair, expected: &ExpectedFrame| {
            let live = programs.send_live_frames(pair, frames, expected, effort.frames)?;
            paired.counts.sent += live.counts.sent;
            paired.counts.right += live.counts.right;
            paired.counts.wrong += live.counts.wrong;
            Ok::<_, anyhow::Error>(live.ns)
        };
        let reflector = call(&pairs.reflector, &frames.reflected)?;
        let responder = call(&pairs.responder, &frames.answered)?;
        paired.reflector_ns.push(reflector);
        paired.responder_ns.push(responder);
    }
    Ok(paired)
}

impl PairedCalls {
    /// The responder's rate as a share of the reflector's, for each pair of calls, in ascending
    /// order.
    fn shares(&self) -> Vec<f64> {
        let pairs = self.reflector_ns.iter().zip(&self.responder_ns);
        let mut shares: Vec<f64> = pairs
            .map(|(reflector, responder)| reflector / responder)
            .collect();
        shares.sort_by(f64::total_cmp);
        shares
    }

    fn missing(&self) -> u64 {
        let FrameCounts { sent, right, wrong } = self.counts;
        sent.saturating_sub(right + wrong)
    }

    fn print(&self, case: &BenchCase) {
        let shares = self.shares();
        let (reflector, responder) = (median(&self.reflector_ns), median(&self.responder_ns));
        let (fastest_reflector, fastest) = (least(&self.reflector_ns), least(&self.responder_ns));
        println!(
            "{:<14} {:>10.2} {:>10.2}  {:<21} {:>7.3} {:>6.0} {:>6} {:>7}",
            case.name,
            1000.0 / reflector,
            1000.0 / responder,
            format!(
                "{:.3} ({:.3}–{:.3})",
                median(&shares),
                shares[0],
                shares[shares.len() - 1]
            ),
            fastest_reflector / fastest,
            fastest - fastest_reflector,
            self.counts.wrong,
            self.missing()
        );
    }

    fn check_limits(
        &self,
        case: &BenchCase,
        options: &BenchmarkOptions,
        failures: &mut Vec<String>,
    ) {
        let name = case.name;
        if self.counts.wrong > 0 {
            failures.push(format!("{name}: {} wrong frames", self.counts.wrong));
        }
        let lost = self.missing() as f64 / self.counts.sent as f64;
        if lost > LOSS_LIMIT {
            failures.push(format!(
                "{name}: the share of frames that are missing is {lost:.3}, more than {LOSS_LIMIT}"
            ));
        }
        let share = median(&self.shares());
        if name == cases::A && !options.quick && share < LEAST_SHARE {
            failures.push(format!(
                "{name}: the rate is {share:.3} of the reflector's, less than {LEAST_SHARE}"
            ));
        }
    }
}

fn least(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::INFINITY, f64::min)
}

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn measure_streams(
    options: &BenchmarkOptions,
    effort: &Effort,
    failures: &mut Vec<String>,
) -> Result<()> {
    let mut responder = ReadyResponder::new()?;
    let topology = Topology::routed()?;
    println!();
    println!(
        "One TCP stream of {:?} between a pod and its node, in turns without and with the program \
         at the host veth, {} pairs; medians",
        effort.stream, effort.pairs
    );
    println!(
        "{:<14} {:>13} {:>12} {:>8}  {:<21}",
        "", "without, Gb/s", "with, Gb/s", "share", "of each pair"
    );
    for direction in stream::StreamDirection::ALL {
        let object = &mut responder.object;
        let streams = stream::measure(object, &topology, direction, effort.pairs, effort.stream)?;
        let pairs = streams.with.iter().zip(&streams.without);
        let mut shares: Vec<f64> = pairs.map(|(with, without)| with / without).collect();
        shares.sort_by(f64::total_cmp);
        let gigabits = |rates: &[f64]| median(rates) * 8.0 / 1e9;
        let share = median(&streams.with) / median(&streams.without);
        println!(
            "{:<14} {:>13.2} {:>12.2} {:>8.3}  {:.3} ({:.3}–{:.3})",
            direction.name(),
            gigabits(&streams.without),
            gigabits(&streams.with),
            share,
            median(&shares),
            shares[0],
            shares[shares.len() - 1]
        );
        if !options.quick && share < LEAST_STREAM_SHARE {
            failures.push(format!(
                "TCP stream {}: the rate is {share:.3} of that without the program, less than \
                 {LEAST_STREAM_SHARE}",
                direction.name()
            ));
        }
    }
    Ok(())
}

fn measure_tables(
    options: &BenchmarkOptions,
    effort: &Effort,
    failures: &mut Vec<String>,
) -> Result<()> {
    let measured = tables::measure(&config(), effort.names)?;
    let milliseconds = |time: Duration| time.as_secs_f64() * 1000.0;
    let mebibytes = |bytes: usize| bytes as f64 / f64::from(1 << 20);
    println!();
    println!("{} names", measured.names);
    println!(
        "loaded from records in memory in {:.0} ms: model {:.0}, maps {:.0}, tables {:.0}",
        milliseconds(measured.load()),
        milliseconds(measured.model),
        milliseconds(measured.maps),
        milliseconds(measured.publish)
    );
    println!(
        "memory of the tables, including spare room: {:.1} MiB (directory {:.1}, records {:.1}), \
         {} bytes for each name",
        mebibytes(measured.directory + measured.records),
        mebibytes(measured.directory),
        mebibytes(measured.records),
        (measured.directory + measured.records) / measured.names
    );
    println!(
        "all {} addresses replaced in {:.0} ms, {:.0} ns each; one replaced in {:.1} ms",
        measured.replaced,
        milliseconds(measured.replace),
        measured.replace.as_nanos() as f64 / measured.replaced as f64,
        milliseconds(measured.replace_one)
    );
    if !options.quick && measured.load() > tables::LOAD_LIMIT {
        failures.push(format!(
            "{} names took {:?} to load, more than {:?}",
            measured.names,
            measured.load(),
            tables::LOAD_LIMIT
        ));
    }
    Ok(())
}
