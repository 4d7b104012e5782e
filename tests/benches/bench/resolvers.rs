//! The agent's resolver beside other caching forwarders: answers for each second of the server's
//! processor.
//!
//! Server and load generator have a CPU each. The upstream shares the CPU of the load generator.

mod delaying_upstream;
mod paced_client;
pub(crate) mod reflector;

use std::{
    collections::BTreeMap,
    env, fs,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    path::{Path, PathBuf},
    process::{Child, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use rand::{RngExt as _, SeedableRng as _, distr::Distribution as _, rngs::StdRng};
use tempfile::TempDir;
use zerohop_resolver::{CacheSettings, Resolver, ServerSet, Sockets, Upstreams};
use zerohop_tests::netns::NetworkNamespace;
use zerohop_zone::{Name, Providers, Rtype, build_query};

use self::{delaying_upstream::DelayingUpstream, paced_client::PacedAnswers};
use super::servers::{build_runtime, spawn_servers};

/// Names that are asked for repeatedly, with a Zipf distribution.
const HOT_NAMES: usize = 10_000;
/// Questions in a file of questions. dnsperf repeats the file.
const QUESTIONS: usize = 200_000;
/// Names that are asked for once: more than a server answers in a run.
const COLD_NAMES: usize = 2_000_000;
/// The share of new names among mixed questions, in percent.
const NEW_SHARE: u32 = 15;
/// The memory of caches that are configured in bytes.
const CACHE_BYTES: u64 = 32 << 20;
/// The argument with which this program is a resolver.
pub(crate) const SERVE: &str = "--serve-resolver";
/// The argument with which this program is a reflector.
pub(crate) const REFLECT: &str = "--serve-reflector";

/// A program that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum MeasuredForwarder {
    Zerohop,
    /// Not a forwarder: the upper bound for one that uses the same system calls.
    Reflector,
    CoreDns,
    Unbound,
    Dnsmasq,
}

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum QuestionMix {
    Hot,
    Mixed,
    Cold,
}

/// The result of one run.
struct ServerRun {
    /// Answers for each second of the server's processor.
    rate: f64,
    /// Answers a second.
    throughput: f64,
    /// The share of questions that were answered.
    answered: f64,
}

/// The amount of work.
pub(crate) struct ResolverEffort {
    pub(crate) rounds: usize,
    pub(crate) seconds: u32,
}

/// Measures all programs that this machine has, with upstreams that answer after 1 and 20 ms.
pub(crate) fn measure(effort: &ResolverEffort) -> Result<()> {
    let namespace = NetworkNamespace::new("resolvers")?;
    namespace.ip(&["link set lo up"])?;
    let files = TempDir::new()?;
    for mix in QuestionMix::ALL {
        fs::write(files.path().join(mix.name()), mix.questions())?;
    }
    let mut forwarders = Vec::new();
    for forwarder in MeasuredForwarder::ALL {
        match forwarder.program() {
            Some(program) => forwarders.push((forwarder, program)),
            None => println!("not measured: {} is not installed", forwarder.name()),
        }
    }
    for delay in [1, 20].map(Duration::from_millis) {
        let upstream = DelayingUpstream::start(&namespace, delay)?;
        let place = ServerPlace {
            namespace: &namespace,
            files: files.path(),
            upstream: upstream.address,
        };
        let runs = place.measure_rates(&forwarders, effort)?;
        println!();
        println!("Upstream after {delay:?}: answers for each second of the server's processor");
        print_rates(&runs);
        if delay == Duration::from_millis(1) {
            println!();
            println!("Latency at half of the lower rate of two servers, hot names");
            place.measure_latencies(&forwarders, &runs, effort)?;
        }
    }
    Ok(())
}

/// The runs of each server with each mix.
type MeasuredRuns = BTreeMap<(QuestionMix, MeasuredForwarder), Vec<ServerRun>>;

fn print_rates(runs: &MeasuredRuns) {
    println!(
        "{:>6} {:>9} {:>12} {:>10} {:>9} {:>10}",
        "mix", "server", "median", "Zerohop ÷", "answered", "a second"
    );
    for ((mix, forwarder), of_it) in runs {
        let ours = median(&runs[&(*mix, MeasuredForwarder::Zerohop)], |run| run.rate);
        let rate = median(of_it, |run| run.rate);
        let answered = of_it.iter().map(|run| run.answered).fold(1.0, f64::min);
        println!(
            "{:>6} {:>9} {:>12.0} {:>10.2} {:>7.2} % {:>10.0}",
            mix.name(),
            forwarder.name(),
            rate,
            ours / rate,
            answered * 100.0,
            median(of_it, |run| run.throughput)
        );
    }
}

/// Runs Zerohop's resolver until it is killed.
pub(crate) fn serve(listen: SocketAddr, upstream: SocketAddr) -> Result<()> {
    build_runtime()?.block_on(async {
        let upstreams = Upstreams {
            outside: ServerSet::plain([upstream]),
            ..Upstreams::default()
        };
        let cache = CacheSettings {
            capacity: CACHE_BYTES,
            ..CacheSettings::default()
        };
        let providers = Arc::new(Providers::new(Vec::new()));
        let resolver = Arc::new(Resolver::new(providers, upstreams, cache));
        let mut tasks = tokio::task::JoinSet::new();
        spawn_servers(resolver.servers(Sockets::bind(listen)?), &mut tasks)?;
        tasks.join_next().await;
        Ok(())
    })
}

impl MeasuredForwarder {
    const ALL: [MeasuredForwarder; 5] = [
        MeasuredForwarder::Zerohop,
        MeasuredForwarder::Reflector,
        MeasuredForwarder::CoreDns,
        MeasuredForwarder::Unbound,
        MeasuredForwarder::Dnsmasq,
    ];

    fn name(self) -> &'static str {
        match self {
            MeasuredForwarder::Zerohop => "zerohop",
            MeasuredForwarder::Reflector => "reflector",
            MeasuredForwarder::CoreDns => "coredns",
            MeasuredForwarder::Unbound => "unbound",
            MeasuredForwarder::Dnsmasq => "dnsmasq",
        }
    }

    /// The program's path. `None`: it is not installed.
    fn program(self) -> Option<PathBuf> {
        if matches!(
            self,
            MeasuredForwarder::Zerohop | MeasuredForwarder::Reflector
        ) {
            return env::current_exe().ok();
        }
        let path = env::var_os("PATH")?;
        let mut found = env::split_paths(&path).map(|folder| folder.join(self.name()));
        found.find(|program| program.is_file())
    }

    /// The program's arguments. Files that it needs are written to `folder`.
    fn arguments(
        self,
        folder: &Path,
        listen: SocketAddr,
        upstream: SocketAddr,
    ) -> Result<Vec<String>> {
        let port = listen.port();
        let config = folder.join(self.name());
        let config_text = config.display().to_string();
        Ok(match self {
            MeasuredForwarder::Zerohop => {
                [SERVE.to_owned(), listen.to_string(), upstream.to_string()].into()
            }
            MeasuredForwarder::Reflector => [REFLECT.to_owned(), listen.to_string()].into(),
            MeasuredForwarder::CoreDns => {
                let text = format!(
                    ".:{port} {{\n bind 127.0.0.1\n forward . {upstream}\n \
                     cache 3600 {{\n success 65536\n }}\n}}\n"
                );
                fs::write(&config, text)?;
                ["-conf".to_owned(), config_text].into()
            }
            MeasuredForwarder::Unbound => {
                let upstream = upstream.to_string().replace(':', "@");
                let text = format!(
                    "server:\n interface: 127.0.0.1@{port}\n num-threads: 1\n do-daemonize: no\n \
                     username: \"\"\n chroot: \"\"\n directory: \"{}\"\n pidfile: \"\"\n \
                     use-syslog: no\n do-not-query-localhost: no\n module-config: \"iterator\"\n \
                     msg-cache-size: {}\n rrset-cache-size: {}\n outgoing-range: 4096\n \
                     num-queries-per-thread: 2048\nforward-zone:\n name: \".\"\n \
                     forward-addr: {upstream}\n",
                    folder.display(),
                    CACHE_BYTES / 2,
                    CACHE_BYTES / 2
                );
                fs::write(&config, text)?;
                ["-d", "-c", &config_text].map(str::to_owned).into()
            }
            MeasuredForwarder::Dnsmasq => {
                let server = upstream.to_string().replace(':', "#");
                let mut arguments: Vec<String> = ["-k", "-C", "/dev/null", "-u", "root"]
                    .map(str::to_owned)
                    .into();
                arguments.extend([
                    format!("--port={port}"),
                    "--listen-address=127.0.0.1".to_owned(),
                    "--bind-interfaces".to_owned(),
                    "--no-resolv".to_owned(),
                    "--no-hosts".to_owned(),
                    format!("--server={server}"),
                    format!("--cache-size={HOT_NAMES}"),
                    "--dns-forward-max=1000".to_owned(),
                ]);
                arguments
            }
        })
    }
}

impl QuestionMix {
    const ALL: [QuestionMix; 3] = [QuestionMix::Hot, QuestionMix::Mixed, QuestionMix::Cold];

    fn name(self) -> &'static str {
        match self {
            QuestionMix::Hot => "hot",
            QuestionMix::Mixed => "85:15",
            QuestionMix::Cold => "cold",
        }
    }

    /// The questions, in dnsperf's format.
    fn questions(self) -> String {
        let mut random = StdRng::seed_from_u64(5);
        let weights = (1..=HOT_NAMES).map(|rank| 1.0 / rank as f64);
        let hot = rand::distr::weighted::WeightedIndex::new(weights);
        let hot_name =
            |random: &mut StdRng| hot_question(hot.as_ref().map_or(0, |hot| hot.sample(random)));
        match self {
            QuestionMix::Hot => (0..QUESTIONS).map(|_| hot_name(&mut random)).collect(),
            QuestionMix::Cold => (0..COLD_NAMES)
                .map(|number| format!("c{number}.cold{}.example.org A\n", number % 89))
                .collect(),
            QuestionMix::Mixed => (0..COLD_NAMES)
                .map(|number| match random.random_range(0..100) < NEW_SHARE {
                    true => format!("m{number}.mix.example.net A\n"),
                    false => hot_name(&mut random),
                })
                .collect(),
        }
    }
}

/// Where servers run.
struct ServerPlace<'a> {
    namespace: &'a NetworkNamespace,
    files: &'a Path,
    upstream: SocketAddr,
}

/// A server that is measured. Killed when dropped.
struct MeasuredServer {
    child: Child,
    address: SocketAddr,
}

impl ServerPlace<'_> {
    /// Measures the servers one after another in each round.
    fn measure_rates(
        &self,
        forwarders: &[(MeasuredForwarder, PathBuf)],
        effort: &ResolverEffort,
    ) -> Result<MeasuredRuns> {
        let mut runs = MeasuredRuns::new();
        for _ in 0..effort.rounds {
            for (forwarder, program) in forwarders {
                let server = self.start(*forwarder, program)?;
                for mix in QuestionMix::ALL {
                    if *forwarder == MeasuredForwarder::Reflector && mix != QuestionMix::Hot {
                        // It asks no upstream, so it is no measure for other mixes.
                        continue;
                    }
                    let run = server.run(self, mix, effort.seconds)?;
                    runs.entry((mix, *forwarder)).or_default().push(run);
                }
            }
        }
        Ok(runs)
    }

    /// Measures Zerohop beside each other server, both at half the throughput of the slower one.
    fn measure_latencies(
        &self,
        forwarders: &[(MeasuredForwarder, PathBuf)],
        runs: &MeasuredRuns,
        effort: &ResolverEffort,
    ) -> Result<()> {
        let throughput =
            |forwarder| median(&runs[&(QuestionMix::Hot, forwarder)], |run| run.throughput);
        let questions = messages(QuestionMix::Hot.questions().lines())?;
        // After these, no question needs the upstream.
        let names: Vec<String> = (0..HOT_NAMES).map(hot_question).collect();
        let names = messages(names.iter().map(String::as_str))?;
        let once = HOT_NAMES as f64;
        let duration = Duration::from_secs(effort.seconds.into());
        let Some((zerohop, others)) = forwarders.split_first() else {
            return Ok(());
        };
        println!(
            "{:>9} {:>10} {:>10} {:>10} {:>9}",
            "server", "a second", "p50", "p99", "answered"
        );
        for other in others {
            let pair = [zerohop, other];
            let slower = pair.map(|(forwarder, _)| throughput(*forwarder));
            let rate = slower[0].min(slower[1]) / 2.0;
            let mut measured: [Vec<PacedAnswers>; 2] = Default::default();
            for _ in 0..effort.rounds {
                for ((forwarder, program), answers) in pair.iter().zip(&mut measured) {
                    let server = self.start(*forwarder, program)?;
                    let measure = |questions: &[Vec<u8>], rate, duration| {
                        let (namespace, address) = (self.namespace, server.address);
                        PacedAnswers::measure(namespace, address, questions, rate, duration)
                    };
                    measure(&names, once, Duration::from_secs(1))?;
                    answers.push(measure(&questions, rate, duration)?);
                }
            }
            for ((forwarder, _), answers) in pair.iter().zip(&measured) {
                let quantile = |share| {
                    median(answers, |answers| {
                        answers.quantile(share).as_secs_f64() * 1e6
                    })
                };
                let answered = answers.iter().map(PacedAnswers::answered);
                println!(
                    "{:>9} {rate:>10.0} {:>7.0} µs {:>7.0} µs {:>7.2} %",
                    forwarder.name(),
                    quantile(0.5),
                    quantile(0.99),
                    answered.fold(1.0, f64::min) * 100.0
                );
            }
        }
        Ok(())
    }

    /// Starts a server on CPU 0, and waits until it answers.
    fn start(&self, forwarder: MeasuredForwarder, program: &Path) -> Result<MeasuredServer> {
        let bind = || UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr();
        let address = self.namespace.enter(bind)??;
        let mut command = self.namespace.command("taskset")?;
        command.args(["-c", "0"]).arg(program);
        command.args(forwarder.arguments(self.files, address, self.upstream)?);
        command.env("GOMAXPROCS", "1");
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().context("cannot start taskset")?;
        let server = MeasuredServer { child, address };
        // One second of questions fills the cache with hot names, too.
        let deadline = Instant::now() + Duration::from_secs(60);
        while server.ask(self, QuestionMix::Hot, 1)?.0 == 0.0 {
            ensure!(
                Instant::now() < deadline,
                "{} does not answer",
                forwarder.name()
            );
        }
        Ok(server)
    }
}

impl MeasuredServer {
    fn run(&self, place: &ServerPlace<'_>, mix: QuestionMix, seconds: u32) -> Result<ServerRun> {
        let before = self.processor_time()?;
        let (completed, sent) = self.ask(place, mix, seconds)?;
        let used = self.processor_time()? - before;
        Ok(ServerRun {
            rate: completed / used.as_secs_f64(),
            throughput: completed / f64::from(seconds),
            answered: completed / sent,
        })
    }

    /// Runs dnsperf from 16 sockets. Returns the questions that were answered, and those sent.
    fn ask(&self, place: &ServerPlace<'_>, mix: QuestionMix, seconds: u32) -> Result<(f64, f64)> {
        let mut dnsperf = place.namespace.command("dnsperf")?;
        dnsperf.args(["-s", "127.0.0.1", "-c", "16", "-q", "200", "-t", "5", "-p"]);
        dnsperf.arg(self.address.port().to_string());
        dnsperf.arg("-d").arg(place.files.join(mix.name()));
        dnsperf.arg("-l").arg(seconds.to_string());
        let output = dnsperf.output().context("cannot run dnsperf: install it")?;
        let text = String::from_utf8_lossy(&output.stdout);
        let number = |label: &str| {
            let line = text
                .lines()
                .find_map(|line| line.trim().strip_prefix(label));
            let word = line.and_then(|rest| rest.split_whitespace().next());
            word.and_then(|word| word.parse::<f64>().ok())
                .with_context(|| format!("dnsperf's output has no {label:?}: {text}"))
        };
        Ok((number("Queries completed:")?, number("Queries sent:")?))
    }

    /// The time that all threads of the server have run.
    fn processor_time(&self) -> Result<Duration> {
        let mut nanoseconds = 0;
        for thread in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let text = fs::read_to_string(thread?.path().join("schedstat"))?;
            let Some(running) = text.split_whitespace().next() else {
                bail!("schedstat is empty: the kernel needs CONFIG_SCHED_INFO");
            };
            nanoseconds += running.parse::<u64>()?;
        }
        Ok(Duration::from_nanos(nanoseconds))
    }
}

impl Drop for MeasuredServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A question for a name that is asked for repeatedly, in dnsperf's format.
fn hot_question(number: usize) -> String {
    format!("name{number}.zone{}.example.com A\n", number % 97)
}

/// The questions of lines in dnsperf's format, which all ask for addresses.
fn messages<'a>(lines: impl Iterator<Item = &'a str>) -> Result<Vec<Vec<u8>>> {
    let names = lines.filter_map(|line| line.split(' ').next());
    let messages = names.map(|name| Ok(build_query(0, &Name::parse(name)?, Rtype::A)));
    messages.collect()
}

fn median<T>(runs: &[T], value: impl Fn(&T) -> f64) -> f64 {
    let mut values: Vec<f64> = runs.iter().map(value).collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
