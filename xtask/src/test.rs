//! `cargo xtask test`: every test on this kernel, those of the kernel plane on a kernel of the matrix,
//! or a comparison with a CoreDNS.

use std::{net::SocketAddr, path::PathBuf, process::Command, thread};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

use crate::{
    build_ebpf,
    deployment::{self, Checked},
    guest::Guest,
    kernels::{self, Kernel, Name},
    process::{build, build_each, cargo, root, run as run_command},
    setup::{self, Need, Say},
};

#[derive(Args)]
pub(crate) struct Options {
    /// The kernel to run on: 5.10, 6.1, 6.12, newest, running, all (of the matrix), or each: like all, but only
    /// the packets on those between the oldest and the newest.
    #[arg(long, value_parser = choice, default_value = "running")]
    kernel: Choice,
    #[command(flatten)]
    cluster: Cluster,
    /// Passed to the test binaries: which tests, and their options.
    #[arg(last = true)]
    filter: Vec<String>,
}

/// The comparison with a CoreDNS, in namespaces of its own that are removed at the end.
#[derive(Args)]
struct Cluster {
    /// Compare Zerohop with a CoreDNS that serves the API server of this kubeconfig.
    #[arg(
        id = "cluster",
        long = "cluster",
        value_name = "KUBECONFIG",
        requires = "dns",
        conflicts_with = "kernel"
    )]
    kubeconfig: Option<PathBuf>,
    /// Where that CoreDNS answers.
    #[arg(long, value_name = "IP:PORT", requires = "cluster")]
    dns: Option<SocketAddr>,
    /// What it is configured with [default: kubeadm's Corefile with `ttl 30`, and `cache 30` that
    /// leaves out cluster.local].
    #[arg(long, value_name = "FILE", requires = "cluster")]
    corefile: Option<PathBuf>,
    /// What all random choices follow from [default: a random one].
    #[arg(long, value_name = "NUMBER", requires = "cluster")]
    seed: Option<u64>,
    /// Transitions of Services and slices beside the controller manager, after each of which the
    /// names concerned are asked for [default: 500].
    #[arg(long, value_name = "NUMBER", requires = "cluster")]
    transitions: Option<u32>,
    /// Run the transitions alone.
    #[arg(long, value_name = "PART", requires = "cluster")]
    only: Option<Part>,
    /// A shell command that kills the API server and starts it again; without it, that part is left
    /// out.
    #[arg(long, value_name = "COMMAND", requires = "cluster")]
    restart_api: Option<String>,
    /// A shell command that compacts etcd; without it, that part is left out.
    #[arg(long, value_name = "COMMAND", requires = "cluster")]
    compact: Option<String>,
}

/// A part of the comparison that can be run alone.
#[derive(Clone, Copy, ValueEnum)]
enum Part {
    Transitions,
}

/// Leaves out what changes the whole machine.
const CLOCK: &str = "--skip=faults::clock";

/// The kernels that one word on the command line stands for.
#[derive(Clone)]
enum Choice {
    Running,
    Matrix(Vec<Name>),
    Each,
}

/// What can do with what a guest has, and with its speed; and the clock is a guest's to step.
const IN_GUESTS: [&str; 6] = [
    "kernel::",
    "agent::life::a_killed",
    "agent::life::an_agent",
    "agent::life::detach",
    "agent::life::hooks",
    "faults::clock",
];

/// The part of it that shows that a kernel runs the programs as the others do: every packet, and every outcome.
const PACKETS: [&str; 2] = ["kernel::packets", "kernel::passes"];

/// The job itself.
pub(crate) fn run(options: &Options) -> Result<()> {
    if options.cluster.kubeconfig.is_some() {
        return options.cluster.compare();
    }
    match &options.kernel {
        Choice::Running => on_this_machine(&options.filter),
        Choice::Matrix(kernels) => on_kernels(kernels, &IN_GUESTS, &options.filter),
        Choice::Each => {
            let ends = on_kernels(&Name::ENDS, &IN_GUESTS, &options.filter);
            let between = on_kernels(&Name::BETWEEN, &PACKETS, &options.filter);
            ends.and(between)
        }
    }
}

fn choice(word: &str) -> Result<Choice, String> {
    match word {
        "running" => Ok(Choice::Running),
        "all" => Ok(Choice::Matrix(Name::ALL.to_vec())),
        "each" => Ok(Choice::Each),
        name => Name::from_str(name, false)
            .map(|name| Choice::Matrix(vec![name]))
            .map_err(|_| "not one of 5.10, 6.1, 6.12, newest, running, all, each".to_owned()),
    }
}

fn on_this_machine(filter: &[String]) -> Result<()> {
    setup::need_root("test")?;
    setup::ensure(
        &[Need::Ebpf, Need::Namespaces, Need::Clients, Need::ZoneFiles],
        Say::Changes,
    )?;
    build_ebpf::programs()?;
    // Counted as filtered out, not as passed.
    println!("not run here: stepping the clock, which is left to the guests of `test --kernel`");
    let mut skipped = vec![CLOCK];
    if let Checked::No = deployment::ensure(Say::Changes) {
        skipped.push("--skip=deployment::");
    }
    run_command(
        cargo()
            .args(["test", "--workspace", "--no-fail-fast", "--"])
            .args(&skipped)
            .args(filter),
    )
}

impl Cluster {
    fn compare(&self) -> Result<()> {
        setup::need_root("test --cluster")?;
        setup::ensure(&[Need::Ebpf, Need::Namespaces], Say::Changes)?;
        build_ebpf::programs()?;
        let agent = build(
            cargo().args(["build", "--quiet", "--package", "dns-agent"]),
            "dns-agent",
        )?;
        let comparison = [
            "build",
            "--quiet",
            "--package",
            "zerohop-tests",
            "--test",
            "cluster",
        ];
        let comparison = build(cargo().args(comparison), "cluster")?;
        let mut command = Command::new(comparison);
        command.env("ZEROHOP_AGENT", agent);
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
        for (variable, value) in [
            ("ZEROHOP_KUBECONFIG", path(&self.kubeconfig)),
            ("ZEROHOP_DNS", self.dns.map(|dns| dns.to_string())),
            ("ZEROHOP_COREFILE", path(&self.corefile)),
            ("ZEROHOP_SEED", self.seed.map(|seed| seed.to_string())),
            (
                "ZEROHOP_TRANSITIONS",
                self.transitions.map(|count| count.to_string()),
            ),
            (
                "ZEROHOP_ONLY",
                self.only.map(|Part::Transitions| "transitions".to_owned()),
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
            .context("Zerohop and CoreDNS were not compared to the end, or differ")
    }
}

/// Runs what the filter names, or else these suites, on kernels of the matrix.
fn on_kernels(kernels: &[Name], suites: &[&str], filter: &[String]) -> Result<()> {
    let object = build_ebpf::programs()?;
    let Suites { program, agent } = Suites::build()?;
    let mut command = vec![program.display().to_string(), "--test-threads=1".to_owned()];
    match filter {
        [] => command.extend(suites.iter().map(|suite| (*suite).to_owned())),
        filter => command.extend_from_slice(filter),
    }
    let guest = Guest {
        command: &command,
        // Where Cargo would start it.
        directory: &root().join("tests"),
        programs: &[agent],
        files: &[object],
        // Suites ask fewer questions of an emulated machine.
        environment: &[("RUST_BACKTRACE", "1"), ("ZEROHOP_GUEST", "1")],
    };
    on_each(kernels, &guest)
}

/// The suites, and the agent that they start.
pub(crate) struct Suites {
    pub(crate) program: PathBuf,
    agent: PathBuf,
}

impl Suites {
    /// Builds both as `cargo test --workspace` does, with the same features of what they share, so that neither
    /// is built twice. The agent comes with its own package's tests.
    pub(crate) fn build() -> Result<Suites> {
        let tests = ["--test", "suites", "--test", "integration", "--no-run"];
        let mut command = cargo();
        command.args(["test", "--quiet", "--workspace"]).args(tests);
        let [program, agent] = build_each(&mut command, ["suites", "dns-agent"])?;
        Ok(Suites { program, agent })
    }
}

/// How many guests run at once: an emulated machine keeps a processor busy, and seldom more.
const AT_ONCE: usize = 2;

/// Runs the same guest on several kernels, and fails at the end if one failed. What one says is told
/// when it has ended, or line by line if it is the only one.
pub(crate) fn on_each(kernels: &[Name], guest: &Guest) -> Result<()> {
    setup::ensure(&[Need::Namespaces, Need::Guests], Say::Changes)?;
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
    let is_told_at_once = obtained.len() == 1;
    for some in obtained.chunks(AT_ONCE) {
        thread::scope(|scope| {
            let run = |(name, kernel): &(Name, Kernel)| {
                let mut said = Vec::new();
                let outcome = guest.run(kernel, &mut |line| match is_told_at_once {
                    true => println!("{line}"),
                    false => said.push(line.to_owned()),
                });
                (*name, outcome, said)
            };
            for (name, kernel) in some {
                println!("kernel {name} ({}): running", kernel.version);
            }
            let running: Vec<_> = some
                .iter()
                .map(|one| scope.spawn(move || run(one)))
                .collect();
            for one in running {
                let Ok((name, outcome, said)) = one.join() else {
                    failed.push("unknown".to_owned());
                    continue;
                };
                println!("kernel {name}");
                for line in said {
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
