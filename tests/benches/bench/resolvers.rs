//! The agent's resolver beside other caching forwarders: answers for each second of the server's
//! processor.
//!
//! Server and load generator have a CPU each. The upstream shares the CPU of the load generator.

use std::{
    collections::{BTreeMap, VecDeque},
    env, fs,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    poll::{PollFd, PollFlags, ppoll},
    sys::time::TimeSpec,
};
use rand::{RngExt as _, SeedableRng as _, distr::Distribution as _, rngs::StdRng};
use tempfile::TempDir;
use zerohop_contract::packet;
use zerohop_resolver::{CacheSettings, Resolver, ServerSet, Sockets, Upstreams};
use zerohop_tests::netns::NetworkNamespace;
use zerohop_zone::Providers;

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
/// The TTL of the upstream's answers, in seconds: longer than a run.
const TTL: u32 = 3600;
/// The argument with which this program is a resolver.
pub(crate) const SERVE: &str = "--serve-resolver";

/// A program that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum MeasuredForwarder {
    Zerohop,
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
    let mixes = [QuestionMix::Hot, QuestionMix::Mixed, QuestionMix::Cold];
    for mix in mixes {
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
        let mut runs: BTreeMap<(QuestionMix, MeasuredForwarder), Vec<ServerRun>> = BTreeMap::new();
        for _ in 0..effort.rounds {
            for (forwarder, program) in &forwarders {
                let place = ServerPlace {
                    namespace: &namespace,
                    files: files.path(),
                    upstream: upstream.address,
                };
                let server = place.start(*forwarder, program)?;
                for mix in mixes {
                    let run = server.run(&place, mix, effort.seconds)?;
                    runs.entry((mix, *forwarder)).or_default().push(run);
                }
            }
        }
        println!();
        println!("Upstream after {delay:?}: answers for each second of the server's processor");
        println!(
            "{:>6} {:>8} {:>12} {:>10} {:>9}",
            "mix", "server", "median", "Zerohop ÷", "answered"
        );
        for ((mix, forwarder), of_it) in &runs {
            let ours = median(&runs[&(*mix, MeasuredForwarder::Zerohop)]);
            let answered = of_it.iter().map(|run| run.answered).fold(1.0, f64::min);
            println!(
                "{:>6} {:>8} {:>12.0} {:>10.2} {:>7.2} %",
                mix.name(),
                forwarder.name(),
                median(of_it),
                ours / median(of_it),
                answered * 100.0
            );
        }
    }
    Ok(())
}

/// Runs Zerohop's resolver until it is killed.
pub(crate) fn serve(listen: SocketAddr, upstream: SocketAddr) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    runtime.block_on(async {
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
        resolver.spawn_servers(Sockets::bind(listen)?, &mut tasks);
        tasks.join_next().await;
        Ok(())
    })
}

impl MeasuredForwarder {
    const ALL: [MeasuredForwarder; 4] = [
        MeasuredForwarder::Zerohop,
        MeasuredForwarder::CoreDns,
        MeasuredForwarder::Unbound,
        MeasuredForwarder::Dnsmasq,
    ];

    fn name(self) -> &'static str {
        match self {
            MeasuredForwarder::Zerohop => "zerohop",
            MeasuredForwarder::CoreDns => "coredns",
            MeasuredForwarder::Unbound => "unbound",
            MeasuredForwarder::Dnsmasq => "dnsmasq",
        }
    }

    /// The program's path. `None`: it is not installed.
    fn program(self) -> Option<PathBuf> {
        if self == MeasuredForwarder::Zerohop {
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
        let hot_name = |random: &mut StdRng| {
            let number = hot.as_ref().map_or(0, |hot| hot.sample(random));
            format!("name{number}.zone{}.example.com A\n", number % 97)
        };
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

/// An upstream that answers each question for an address after a delay. Stopped when dropped.
struct DelayingUpstream {
    address: SocketAddr,
    is_over: Arc<AtomicBool>,
}

impl DelayingUpstream {
    fn start(namespace: &NetworkNamespace, delay: Duration) -> Result<DelayingUpstream> {
        let bind = || UdpSocket::bind((Ipv4Addr::LOCALHOST, 0));
        let socket = namespace.enter(bind)??;
        socket.set_nonblocking(true)?;
        let address = socket.local_addr()?;
        let is_over = Arc::new(AtomicBool::new(false));
        let until = is_over.clone();
        thread::spawn(move || answer_later(&socket, delay, &until));
        Ok(DelayingUpstream { address, is_over })
    }
}

impl Drop for DelayingUpstream {
    fn drop(&mut self) {
        self.is_over.store(true, Relaxed);
    }
}

fn answer_later(socket: &UdpSocket, delay: Duration, is_over: &AtomicBool) {
    let mut waiting: VecDeque<(Instant, Vec<u8>, SocketAddr)> = VecDeque::new();
    let mut buffer = [0; 1500];
    while !is_over.load(Relaxed) {
        let pause = waiting
            .front()
            .map_or(Duration::from_millis(100), |(due, ..)| {
                due.saturating_duration_since(Instant::now())
            });
        let mut polled = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
        let _ = ppoll(&mut polled, Some(TimeSpec::from_duration(pause)), None);
        while let Ok((length, client)) = socket.recv_from(&mut buffer) {
            let address = Ipv4Addr::new(192, 0, 2, 1);
            let reply = packet::address_reply(&buffer[..length], 0x8180, TTL, address);
            waiting.extend(reply.map(|reply| (Instant::now() + delay, reply, client)));
        }
        while let Some((due, ..)) = waiting.front()
            && *due <= Instant::now()
        {
            if let Some((_, reply, client)) = waiting.pop_front() {
                let _ = socket.send_to(&reply, client);
            }
        }
    }
}

fn median(runs: &[ServerRun]) -> f64 {
    let mut rates: Vec<f64> = runs.iter().map(|run| run.rate).collect();
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}
