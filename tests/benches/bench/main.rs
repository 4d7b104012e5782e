//! The benchmark: `docs/benchmarks.md` says what is measured and how to read it.

mod cases;
mod programs;
mod stream;
mod tables;

use std::{net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context as _, Result};
use aya::programs::ProgramFd;
use clap::Parser;
use dns_agent::{
    datapath::{
        Clients, Config, Persistence, Tables,
        grace::Rcu,
        object::{Object, Program},
        size,
    },
    zone::Model,
};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};
use zerohop_tests::{
    netns::Namespace,
    topology::{SERVED, Topology},
};

use cases::{Case, Frames};
use programs::{Counts, Expected, Lane, Programs};

#[derive(Parser)]
#[command(name = "bench", about = "Measures the kernel program")]
struct Options {
    /// A smoke test: few frames, no bars.
    #[arg(long)]
    quick: bool,
    /// Measures only the cases whose names contain this.
    #[arg(long, default_value = "")]
    case: String,
    /// Pairs of calls for each case.
    #[arg(long)]
    pairs: Option<usize>,
    /// Live frames in a call.
    #[arg(long)]
    frames: Option<u32>,
    /// The benchmark's own programs.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/ebpf/bench.o"))]
    object: PathBuf,
}

/// How much is done.
struct Effort {
    /// Live frames in a call. Below two million the fixed cost of a call hides a good part of the
    /// difference.
    frames: u32,
    /// Calls of each program.
    pairs: usize,
    /// Rounds in a call of BPF_PROG_TEST_RUN.
    rounds: u32,
    /// Names in the tables.
    names: u32,
    /// How long a TCP stream lasts.
    stream: Duration,
}

/// The least share of the reflector's rate for an A answer.
const SHARE_BAR: f64 = 0.75;
/// The least share of its rate that a TCP stream past the program must have.
const STREAM_BAR: f64 = 0.97;
/// The case of the streams.
const STREAM: &str = "stream";
/// The largest share of frames that may be lost. The rings between the devices hold 256 frames; when
/// this thread is preempted at a bad moment, one runs over.
const LOSS: f64 = 0.01;

fn main() -> Result<ExitCode> {
    let options = Options::parse();
    let effort = options.effort();
    pin_to_one_cpu()?;
    let mut failures = Vec::new();
    let namespace = Namespace::new("bench")?;
    namespace.sysctl("ipv6/conf/all/disable_ipv6", "1")?;
    namespace.sysctl("ipv6/conf/default/disable_ipv6", "1")?;
    if options.case != STREAM {
        namespace.enter(|| measure_answers(&namespace, &options, &effort, &mut failures))??;
    }
    if STREAM.contains(&options.case) {
        measure_streams(&options, &effort, &mut failures)?;
    }
    if options.case.is_empty() {
        measure_tables(&options, &effort, &mut failures)?;
    }
    for failure in &failures {
        eprintln!("failed: {failure}");
    }
    Ok(if failures.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

impl Options {
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

/// Everything between generator and checker happens on the CPU where the generator runs.
fn pin_to_one_cpu() -> Result<()> {
    let this = Pid::from_raw(0);
    let allowed = sched_getaffinity(this)?;
    let cpu = (0..CpuSet::count())
        .rev()
        .find(|cpu| allowed.is_set(*cpu).unwrap_or(false))
        .context("this process may run on no CPU")?;
    let mut one = CpuSet::new();
    one.set(cpu)?;
    Ok(sched_setaffinity(this, &one)?)
}

/// The kernel program with tables of its own.
struct Responder {
    object: Object,
    model: Model,
    // The mappings of the maps.
    _tables: Tables<Rcu>,
}

impl Responder {
    fn new() -> Result<Self> {
        let model = cases::model()?;
        let size = size(&model, None);
        let object = Object::load(size)?;
        let mut tables = Tables::new(&object, size, &config(), Rcu::new()?)?;
        tables.publish(&model, &mut || {})?;
        // Longer than anything here takes, whatever a jiffy is.
        object.set_lease(1000 * 3600)?;
        Ok(Self {
            object,
            model,
            _tables: tables,
        })
    }
}

fn config() -> Config {
    Config {
        interfaces: Vec::new(),
        allow: Vec::new(),
        rate_limit: 0,
        serve: SERVED.map(|address| SocketAddr::new(address, 53)).to_vec(),
        clients: Clients::Any,
        capacity: None,
        stale_after: Duration::from_secs(10),
        persistence: Persistence::None,
        bpffs: "/sys/fs/bpf".into(),
    }
}

fn measure_answers(
    namespace: &Namespace,
    options: &Options,
    effort: &Effort,
    failures: &mut Vec<String>,
) -> Result<()> {
    let mut responder = Responder::new()?;
    let mut programs = Programs::load(&options.object)?;
    let lanes = Lanes {
        reflector: programs.lane(namespace, "reflector")?,
        responder: programs.lane(namespace, "responder")?,
    };
    programs.reflect(&lanes.reflector)?;
    let answers = responder.object.xdp(Program::XdpVeth.name())?;
    programs::attach(answers, &lanes.responder)?;
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
        let paired = pair_up(&mut programs, &lanes, frames, effort)
            .with_context(|| format!("case {}", case.name))?;
        paired.print(case);
        paired.judge(case, options, failures);
    }

    println!();
    println!(
        "BPF_PROG_TEST_RUN, {} calls of {} rounds for each program, an empty one subtracted; medians",
        effort.pairs, effort.rounds
    );
    println!("{:<14} {:>12} {:>12}", "", "reflector ns", "responder ns");
    let reflector = programs.reflector()?;
    for (case, frames) in &cases {
        let [nothing, reflector, responder] = repeat(
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

/// The nanoseconds that a round of each program takes, run by turns.
fn repeat<const N: usize>(
    programs: &mut Programs,
    targets: [Option<&ProgramFd>; N],
    frames: &Frames,
    effort: &Effort,
) -> Result<[f64; N]> {
    let mut calls = [const { Vec::new() }; N];
    for _ in 0..effort.pairs {
        for (target, calls) in targets.iter().zip(&mut calls) {
            calls.push(programs.repeat(*target, frames, effort.rounds)?);
        }
    }
    Ok(calls.map(|calls| median(&calls)))
}

/// One for each program, so that nothing is attached between calls.
struct Lanes {
    reflector: Lane,
    responder: Lane,
}

/// What the calls of one case gave.
struct Paired {
    reflector_ns: Vec<f64>,
    responder_ns: Vec<f64>,
    /// Of all calls.
    counts: Counts,
}

/// Calls of both programs, by turns, so that both see the same moods of the machine.
fn pair_up(
    programs: &mut Programs,
    lanes: &Lanes,
    frames: &Frames,
    effort: &Effort,
) -> Result<Paired> {
    let mut paired = Paired {
        reflector_ns: Vec::new(),
        responder_ns: Vec::new(),
        counts: Counts::default(),
    };
    for _ in 0..effort.pairs {
        let mut call = |lane: &Lane, expected: &Expected| {
            let live = programs.live(lane, frames, expected, effort.frames)?;
            paired.counts.sent += live.counts.sent;
            paired.counts.right += live.counts.right;
            paired.counts.wrong += live.counts.wrong;
            Ok::<_, anyhow::Error>(live.ns)
        };
        let reflector = call(&lanes.reflector, &frames.reflected)?;
        let responder = call(&lanes.responder, &frames.answered)?;
        paired.reflector_ns.push(reflector);
        paired.responder_ns.push(responder);
    }
    Ok(paired)
}

impl Paired {
    /// The responder's rate as a share of the reflector's, of each pair, in order of size.
    fn shares(&self) -> Vec<f64> {
        let pairs = self.reflector_ns.iter().zip(&self.responder_ns);
        let mut shares: Vec<f64> = pairs
            .map(|(reflector, responder)| reflector / responder)
            .collect();
        shares.sort_by(f64::total_cmp);
        shares
    }

    fn missing(&self) -> u64 {
        let Counts { sent, right, wrong } = self.counts;
        sent.saturating_sub(right + wrong)
    }

    fn print(&self, case: &Case) {
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

    fn judge(&self, case: &Case, options: &Options, failures: &mut Vec<String>) {
        let name = case.name;
        if self.counts.wrong > 0 {
            failures.push(format!("{name}: {} wrong frames", self.counts.wrong));
        }
        let lost = self.missing() as f64 / self.counts.sent as f64;
        if lost > LOSS {
            failures.push(format!(
                "{name}: {lost:.3} of the frames are missing, more than {LOSS}"
            ));
        }
        let share = median(&self.shares());
        if name == cases::A && !options.quick && share < SHARE_BAR {
            failures.push(format!(
                "{name}: {share:.3} of the reflector's rate, less than {SHARE_BAR}"
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

fn measure_streams(options: &Options, effort: &Effort, failures: &mut Vec<String>) -> Result<()> {
    let mut responder = Responder::new()?;
    let topology = Topology::routed()?;
    println!();
    println!(
        "One TCP stream of {:?} between a pod and its node, by turns without and with the program at the host \
         veth, {} pairs; medians",
        effort.stream, effort.pairs
    );
    println!(
        "{:<14} {:>12} {:>12} {:>8}  {:<21}",
        "", "without, Gb/s", "with, Gb/s", "share", "of each pair"
    );
    for way in stream::Way::ALL {
        let object = &mut responder.object;
        let streams = stream::measure(object, &topology, way, effort.pairs, effort.stream)?;
        let pairs = streams.with.iter().zip(&streams.without);
        let mut shares: Vec<f64> = pairs.map(|(with, without)| with / without).collect();
        shares.sort_by(f64::total_cmp);
        let gigabits = |rates: &[f64]| median(rates) * 8.0 / 1e9;
        let share = median(&streams.with) / median(&streams.without);
        println!(
            "{:<14} {:>13.2} {:>12.2} {:>8.3}  {:.3} ({:.3}–{:.3})",
            way.name(),
            gigabits(&streams.without),
            gigabits(&streams.with),
            share,
            median(&shares),
            shares[0],
            shares[shares.len() - 1]
        );
        if !options.quick && share < STREAM_BAR {
            failures.push(format!(
                "a stream {}: {share:.3} of its rate, less than {STREAM_BAR}",
                way.name()
            ));
        }
    }
    Ok(())
}

fn measure_tables(options: &Options, effort: &Effort, failures: &mut Vec<String>) -> Result<()> {
    let tabled = tables::measure(&config(), effort.names)?;
    let milliseconds = |time: Duration| time.as_secs_f64() * 1000.0;
    let mebibytes = |octets: usize| octets as f64 / f64::from(1 << 20);
    println!();
    println!("{} names", tabled.names);
    println!(
        "loaded from records in memory in {:.0} ms: model {:.0}, maps {:.0}, tables {:.0}",
        milliseconds(tabled.load()),
        milliseconds(tabled.model),
        milliseconds(tabled.maps),
        milliseconds(tabled.publish)
    );
    println!(
        "memory of the tables, made for twice as many: {:.1} MiB (directory {:.1}, records {:.1}), {} octets for \
         each name",
        mebibytes(tabled.directory + tabled.records),
        mebibytes(tabled.directory),
        mebibytes(tabled.records),
        (tabled.directory + tabled.records) / tabled.names
    );
    println!(
        "all {} addresses replaced in {:.0} ms, {:.0} ns each; one replaced in {:.1} ms",
        tabled.replaced,
        milliseconds(tabled.replace),
        tabled.replace.as_nanos() as f64 / tabled.replaced as f64,
        milliseconds(tabled.replace_one)
    );
    if !options.quick && tabled.load() > tables::BAR {
        failures.push(format!(
            "{} names took {:?} to load, more than {:?}",
            tabled.names,
            tabled.load(),
            tables::BAR
        ));
    }
    Ok(())
}
