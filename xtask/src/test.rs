//! `cargo xtask test`: runs every test on this kernel, the kernel plane's tests on kernels of the
//! matrix, or the comparison with CoreDNS.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use zerohop_tests::not_run::{self, report_not_run};

use crate::{
    build_ebpf, deployment,
    guest::Guest,
    kernels::{self, BootableKernel, KernelName},
    packages::Verbosity,
    process::{build, build_each, cargo, root, run_command},
    setup::{self, Need},
    unpacked_program::{DNSTAP_TOOLS, DOCKER_REGISTRY, PROMETHEUS},
};

#[derive(Args)]
pub(crate) struct TestOptions {
    /// The kernel to run on: 5.10, 6.1, 6.12, newest, running, all (every kernel of the matrix) or
    /// each (like all, but with only the packet tests on the kernels between oldest and newest).
    #[arg(long, value_parser = parse_kernel_choice, default_value = "running")]
    kernel: KernelChoice,
    #[command(flatten)]
    cluster: ComparisonOptions,
    /// Compares the answers of the agent's resolver about names outside the cluster with those of
    /// this CoreDNS program, with each Corefile of `tests/routes/corefiles`. The program must need
    /// no libraries.
    #[arg(
        long,
        value_name = "PROGRAM",
        group = "compared",
        conflicts_with = "kernel"
    )]
    routes: Option<PathBuf>,
    /// Number of pods in the tests of steering many pods [default: 10].
    #[arg(long, value_name = "NUMBER", conflicts_with = "compared")]
    steered_pods: Option<u16>,
    /// Passed to the test binaries: test names and options.
    #[arg(last = true)]
    filter: Vec<String>,
}

/// Options of the comparison with a CoreDNS. The comparison uses namespaces of its own and deletes
/// them.
#[derive(Args)]
struct ComparisonOptions {
    /// Compares Zerohop with a CoreDNS that reads the API server of this kubeconfig.
    #[arg(
        id = "cluster",
        long = "cluster",
        value_name = "KUBECONFIG",
        requires = "coredns",
        group = "compared",
        conflicts_with = "kernel"
    )]
    kubeconfig: Option<PathBuf>,
    /// The address of that CoreDNS.
    #[arg(long, value_name = "IP:PORT", requires = "cluster", group = "coredns")]
    dns: Option<SocketAddr>,
    /// Instead, starts this CoreDNS program with each Corefile of `tests/corefiles`. The program
    /// must need no libraries, and the API server must have another address than the loopback's.
    #[arg(
        long,
        value_name = "PROGRAM",
        requires = "cluster",
        group = "coredns",
        conflicts_with_all = ["corefile", "transitions", "only", "restart_api", "compact"]
    )]
    corefiles: Option<PathBuf>,
    /// The Corefile of that CoreDNS [default: kubeadm's, with `ttl 30`, and with `cache 30`
    /// disabled for cluster.local].
    #[arg(long, value_name = "FILE", requires = "cluster")]
    corefile: Option<PathBuf>,
    /// Seed of all random choices, also with `--routes` [default: a random one].
    #[arg(long, value_name = "NUMBER", requires = "compared")]
    seed: Option<u64>,
    /// Number of transitions of Services, slices and pods while the controller manager runs. After
    /// each, the names that may have changed are queried [default: 500].
    #[arg(long, value_name = "NUMBER", requires = "cluster")]
    transitions: Option<u32>,
    /// Runs only this part.
    #[arg(long, value_name = "PART", requires = "cluster")]
    only: Option<ComparisonPart>,
    /// A shell command that kills the API server and starts it again. Without it, the parts with a
    /// restart of the API server are not run.
    #[arg(long, value_name = "COMMAND", requires = "cluster")]
    restart_api: Option<String>,
    /// A shell command that compacts etcd. Without it, the part with a compaction is not run.
    #[arg(long, value_name = "COMMAND", requires = "cluster")]
    compact: Option<String>,
}

/// A part of the comparison that can be run without the others.
#[derive(Clone, Copy, ValueEnum)]
enum ComparisonPart {
    Transitions,
}

/// Skips the test that steps the clock. The test runner counts it as filtered out.
const SKIP_CLOCK: &str = "--skip=faults::clock";

/// The kernels that `--kernel` selects.
#[derive(Clone)]
enum KernelChoice {
    Running,
    Matrix(Vec<KernelName>),
    Each,
}

/// Tests that run in guests: those for which a guest has the programs and is fast enough, and the
/// test that steps the clock.
const IN_GUESTS: [&str; 6] = [
    "kernel::",
    "agent::restarts::a_killed",
    "agent::restarts::an_agent",
    "agent::restarts::detach",
    "agent::restarts::hooks",
    "faults::clock",
];

/// Tests of single packets that are answered or pass. They show that a kernel runs the programs
/// correctly.
const PACKET_TESTS: [&str; 2] = ["kernel::packets", "kernel::passes"];

/// Tests of steering that run on every kernel: those without an agent, and some with one, which
/// take long in a guest.
const STEERING_TESTS: [&str; 8] = [
    "steering::datagrams::",
    "steering::endings::",
    "steering::interfaces::",
    "steering::many_pods::",
    "steering::namespace::",
    "steering::streams::",
    "agent::steering::a_killed",
    "agent::steering::both",
];

impl TestOptions {
    /// The environment variable with the number of pods that the tests steer, if it is given.
    fn steered_pods(&self) -> Option<(&'static str, String)> {
        let number = self.steered_pods?;
        Some(("ZEROHOP_STEERED_PODS", number.to_string()))
    }
}

/// Runs the job.
pub(crate) fn run(options: &TestOptions) -> Result<()> {
    if options.cluster.kubeconfig.is_some() {
        return options.cluster.compare();
    }
    if let Some(coredns) = &options.routes {
        return compare_routes(coredns, options.cluster.seed);
    }
    let in_guests = [&IN_GUESTS[..], &STEERING_TESTS].concat();
    let packet_tests = [&PACKET_TESTS[..], &STEERING_TESTS].concat();
    match &options.kernel {
        KernelChoice::Running => run_on_this_machine(options),
        KernelChoice::Matrix(kernels) => run_on_kernels(kernels, &in_guests, options),
        KernelChoice::Each => {
            let oldest_and_newest = run_on_kernels(&KernelName::ENDS, &in_guests, options);
            let between = run_on_kernels(&KernelName::BETWEEN, &packet_tests, options);
            oldest_and_newest.and(between)
        }
    }
}

fn parse_kernel_choice(word: &str) -> Result<KernelChoice, String> {
    match word {
        "running" => Ok(KernelChoice::Running),
        "all" => Ok(KernelChoice::Matrix(KernelName::ALL.to_vec())),
        "each" => Ok(KernelChoice::Each),
        name => KernelName::from_str(name, false)
            .map(|name| KernelChoice::Matrix(vec![name]))
            .map_err(|_| "not one of 5.10, 6.1, 6.12, newest, running, all, each".to_owned()),
    }
}

fn run_on_this_machine(options: &TestOptions) -> Result<()> {
    setup::need_root("test")?;
    setup::ensure(
        &[Need::Ebpf, Need::Namespaces, Need::Clients, Need::ZoneFiles],
        Verbosity::Changes,
    )?;
    build_ebpf::build_programs()?;
    report_not_run(
        "the test that steps the clock",
        "it would affect the whole machine; `test --kernel` runs it in guests",
    );
    let mut skipped = vec![SKIP_CLOCK];
    if let Err(reason) = deployment::ensure(Verbosity::Changes) {
        report_not_run("the tests of the manifests", format!("{reason:#}"));
        skipped.push("--skip=deployment::");
    }
    if let Err(reason) = DOCKER_REGISTRY.ensure(Verbosity::Changes) {
        report_not_run("the tests with a real registry", format!("{reason:#}"));
        skipped.push("--skip=registry::tests::real::");
    }
    if let Err(reason) = PROMETHEUS.ensure(Verbosity::Changes) {
        report_not_run("the test of dashboards", format!("{reason:#}"));
        skipped.push("--skip=agent::dashboards::");
    }
    // Without them, the test itself says that it isn't run.
    DNSTAP_TOOLS.ensure(Verbosity::Changes).ok();
    run_command(
        cargo()
            .args(["test", "--workspace", "--no-fail-fast", "--"])
            // The tests continue the numbering of the lines `not run (NUMBER)`.
            .env(not_run::VARIABLE, not_run::count().to_string())
            .envs(options.steered_pods())
            .args(&skipped)
            .args(&options.filter),
    )
}

/// Compares names outside the cluster with a CoreDNS.
fn compare_routes(coredns: &Path, seed: Option<u64>) -> Result<()> {
    setup::need_root("test --routes")?;
    let mut command = build_comparison("routes")?;
    command.env("ZEROHOP_COREDNS", coredns);
    if let Some(seed) = seed {
        command.env("ZEROHOP_SEED", seed.to_string());
    }
    run_command(&mut command)
        .context("Zerohop and CoreDNS differ, or the comparison failed: see its output above")
}

/// Builds the agent, and a comparison with CoreDNS. Returns the comparison's command.
fn build_comparison(target: &str) -> Result<Command> {
    setup::ensure(&[Need::Ebpf, Need::Namespaces], Verbosity::Changes)?;
    build_ebpf::build_programs()?;
    let agent = build(
        cargo().args(["build", "--quiet", "--package", "dns-agent"]),
        "dns-agent",
    )?;
    let comparison = ["build", "--quiet", "--package", "zerohop-tests", "--test"];
    let comparison = build(cargo().args(comparison).arg(target), target)?;
    let mut command = Command::new(comparison);
    command.env("ZEROHOP_AGENT", agent);
    Ok(command)
}

impl ComparisonOptions {
    fn compare(&self) -> Result<()> {
        setup::need_root("test --cluster")?;
        let mut command = build_comparison("cluster")?;
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
        for (variable, value) in [
            ("ZEROHOP_KUBECONFIG", path(&self.kubeconfig)),
            ("ZEROHOP_DNS", self.dns.map(|dns| dns.to_string())),
            ("ZEROHOP_COREDNS", path(&self.corefiles)),
            ("ZEROHOP_COREFILE", path(&self.corefile)),
            ("ZEROHOP_SEED", self.seed.map(|seed| seed.to_string())),
            (
                "ZEROHOP_TRANSITIONS",
                self.transitions.map(|count| count.to_string()),
            ),
            (
                "ZEROHOP_ONLY",
                self.only
                    .map(|ComparisonPart::Transitions| "transitions".to_owned()),
            ),
            ("ZEROHOP_RESTART_API", self.restart_api.clone()),
            ("ZEROHOP_COMPACT", self.compact.clone()),
        ] {
            match value {
                Some(value) => command.env(variable, value),
                None => command.env_remove(variable),
            };
        }
        run_command(&mut command)
            .context("Zerohop and CoreDNS differ, or the comparison failed: see its output above")
    }
}

/// Runs the tests that the options name on kernels of the matrix. Runs `suites` if they name none.
fn run_on_kernels(kernels: &[KernelName], suites: &[&str], options: &TestOptions) -> Result<()> {
    let object = build_ebpf::build_programs()?;
    let steering_object = build_ebpf::steering_object(&object);
    let BuiltSuites { program, agent } = BuiltSuites::build()?;
    let mut command = vec![
        program.display().to_string(),
        "--test-threads=1".to_owned(),
        // A guest is too slow for 2,000 lookups a second.
        "--skip=faults::steering".to_owned(),
    ];
    match options.filter.as_slice() {
        [] => command.extend(suites.iter().map(|suite| (*suite).to_owned())),
        filter => command.extend_from_slice(filter),
    }
    // With ZEROHOP_GUEST the suites send fewer queries, because emulation is slow.
    let mut environment = vec![("RUST_BACKTRACE", "1"), ("ZEROHOP_GUEST", "1")];
    let steered_pods = options.steered_pods();
    environment.extend(steered_pods.iter().map(|(name, number)| (*name, &**number)));
    let guest = Guest {
        command: &command,
        // Cargo runs tests in their package's directory.
        directory: &root().join("tests"),
        programs: &[agent],
        files: &[object, steering_object],
        environment: &environment,
    };
    run_on_each_kernel(kernels, &guest)
}

/// The test binary of the suites, and the agent's binary that it starts.
pub(crate) struct BuiltSuites {
    pub(crate) program: PathBuf,
    agent: PathBuf,
}

impl BuiltSuites {
    /// Builds both as `cargo test --workspace` does, with the same features of shared dependencies,
    /// so that neither is built twice. Building the agent's own tests builds its binary.
    pub(crate) fn build() -> Result<BuiltSuites> {
        let tests = ["--test", "suites", "--test", "integration", "--no-run"];
        let mut command = cargo();
        command.args(["test", "--quiet", "--workspace"]).args(tests);
        let [program, agent] = build_each(&mut command, ["suites", "dns-agent"])?;
        Ok(BuiltSuites { program, agent })
    }
}

/// Number of guests that run at the same time. An emulated machine rarely uses more than one
/// processor.
const AT_ONCE: usize = 2;

/// Runs the same guest on several kernels. Fails after the last guest if one failed, or if a kernel
/// can't be obtained. The output of a guest is printed after its end, or line by line if it is the
/// only guest.
pub(crate) fn run_on_each_kernel(kernels: &[KernelName], guest: &Guest) -> Result<()> {
    setup::ensure(&[Need::Namespaces, Need::Guests], Verbosity::Changes)?;
    let (mut failed, mut obtained) = (Vec::new(), Vec::new());
    for name in kernels {
        match kernels::obtain(*name) {
            Ok(kernel) => obtained.push((*name, kernel)),
            Err(error) => {
                eprintln!("kernel {name}: {error:#}");
                failed.push(name.to_string());
            }
        }
    }
    let is_only_guest = obtained.len() == 1;
    for batch in obtained.chunks(AT_ONCE) {
        thread::scope(|scope| {
            let run = |kernel: &BootableKernel| {
                let mut lines = Vec::new();
                let outcome = guest.run(kernel, &mut |line| {
                    if is_only_guest {
                        println!("{line}");
                    } else {
                        lines.push(line.to_owned());
                    }
                });
                (outcome, lines)
            };
            for (name, kernel) in batch {
                println!("kernel {name} ({}): running", kernel.version);
            }
            let running: Vec<_> = batch
                .iter()
                .map(|(_, kernel)| scope.spawn(move || run(kernel)))
                .collect();
            for (handle, (name, _)) in running.into_iter().zip(batch) {
                // An error means that the thread panicked, which has printed a message.
                let Ok((outcome, lines)) = handle.join() else {
                    failed.push(name.to_string());
                    continue;
                };
                println!("kernel {name}");
                for line in lines {
                    println!("{line}");
                }
                match outcome {
                    Ok(0) => continue,
                    Ok(code) => eprintln!("kernel {name}: ended with exit code {code}"),
                    Err(error) => eprintln!("kernel {name}: {error:#}"),
                }
                failed.push(name.to_string());
            }
        });
    }
    if !failed.is_empty() {
        bail!("failed on kernel {}", failed.join(", "));
    }
    Ok(())
}
