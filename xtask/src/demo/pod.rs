//! The process in the pod, which looks names up as any program does: by getaddrinfo().
//!
//! The process is this program again, in the pod's network namespace and with an /etc of its own,
//! because getaddrinfo() reads the /etc of its process. The demo writes it a name a line, and reads
//! a line of results for each.

use std::{
    collections::BTreeSet,
    env, fs,
    io::{self, BufRead, BufReader, Write},
    net::{SocketAddr, ToSocketAddrs},
    os::{
        fd::OwnedFd,
        unix::{net::UnixStream, process::CommandExt},
    },
    process::Child,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};
use zerohop_contract::addresses::SERVED;
use zerohop_tests::netns::NetworkNamespace;

use super::answer::DemoAnswer;

/// Number of lookups of each name; enough for a stable median.
pub(crate) const REPETITIONS: usize = 51;

/// The running process. If the demo is killed, the process ends too, because its input ends.
pub(crate) struct PodProcess {
    process: Child,
    line: UnixStream,
}

impl PodProcess {
    /// Starts the process in a namespace.
    pub(crate) fn start(namespace: &NetworkNamespace) -> Result<PodProcess> {
        let (line, theirs) = UnixStream::pair().context("cannot make a pair of sockets")?;
        let input = OwnedFd::from(theirs);
        let output = input.try_clone().context("cannot duplicate a socket")?;
        let this = env::current_exe().context("cannot find this program's file")?;
        let process = namespace
            .command(&this.to_string_lossy())?
            .arg("demo-pod")
            .stdin(input)
            .stdout(output)
            // Ctrl-C must reach only the demo, which then ends this process in order.
            .process_group(0)
            .spawn()
            .context("cannot start the process in the pod")?;
        Ok(PodProcess { process, line })
    }

    pub(crate) fn process_id(&self) -> u32 {
        self.process.id()
    }

    /// Looks a name up repeatedly. Returns the answer, and the time of each lookup.
    pub(crate) fn look_up_name(&self, name: &str) -> Result<(DemoAnswer, Vec<Duration>)> {
        let ask = || {
            writeln!(&self.line, "{name}")?;
            let mut reply = String::new();
            BufReader::new(&self.line).read_line(&mut reply)?;
            Ok::<_, io::Error>(reply)
        };
        let reply = ask().context("the process in the pod ended")?;
        parse_results(reply.trim_end())
            .with_context(|| format!("cannot read the reply {reply:?} of the process in the pod"))
    }
}

impl Drop for PodProcess {
    fn drop(&mut self) {
        // The process leaves nothing behind. Killing fails only if it has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Runs the process: reads names, and writes results.
pub(crate) fn run() -> Result<()> {
    mount_own_etc()?;
    for name in io::stdin().lines() {
        let (answer, times) = look_up_repeatedly(&name?);
        let times: Vec<_> = times
            .iter()
            .map(|time| time.as_nanos().to_string())
            .collect();
        let line = match answer {
            Ok(addresses) => format!("found\t{}\t{}", addresses.join(" "), times.join(" ")),
            Err(reason) => format!("failed\t{reason}\t{}", times.join(" ")),
        };
        println!("{line}");
    }
    Ok(())
}

/// Parses a line of results.
fn parse_results(line: &str) -> Option<(DemoAnswer, Vec<Duration>)> {
    let mut parts = line.split('\t');
    let (outcome, text, times) = (parts.next()?, parts.next()?, parts.next()?);
    let answer = match outcome {
        "found" => DemoAnswer::Data(text.split(' ').map(str::to_owned).collect()),
        _ => DemoAnswer::Unexpected(text.to_owned()),
    };
    let times = times
        .split(' ')
        .map(|nanoseconds| Some(Duration::from_nanos(nanoseconds.parse().ok()?)))
        .collect::<Option<_>>()?;
    Some((answer, times))
}

/// Gives this process an /etc with only the files that getaddrinfo() reads in a pod. The mount is
/// private to the process and ends with it.
fn mount_own_etc() -> Result<()> {
    let [kube_dns, _] = SERVED;
    let resolv_conf = format!(
        "search shop.svc.cluster.local svc.cluster.local cluster.local\n\
         nameserver {kube_dns}\n\
         options ndots:5\n"
    );
    unshare(CloneFlags::CLONE_NEWNS).context("cannot make a mount namespace")?;
    let flags = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, flags, None::<&str>)
        .context("cannot make the mounts private")?;
    // /run is replaced too, because nscd's socket is there and nscd would answer lookups.
    for directory in ["/etc", "/run"] {
        let flags = MsFlags::empty();
        mount(Some("tmpfs"), directory, Some("tmpfs"), flags, None::<&str>)
            .with_context(|| format!("cannot mount a tmpfs on {directory}"))?;
    }
    fs::write("/etc/resolv.conf", resolv_conf)
        .and_then(|()| fs::write("/etc/nsswitch.conf", "hosts: dns\n"))
        .context("cannot write into the pod's /etc")
}

/// The addresses of a name, and the time of each lookup.
fn look_up_repeatedly(name: &str) -> (Result<Vec<String>, String>, Vec<Duration>) {
    let mut seen = BTreeSet::new();
    let mut times = Vec::new();
    for _ in 0..REPETITIONS {
        let start = Instant::now();
        // This calls getaddrinfo().
        let found = (name, 0).to_socket_addrs();
        times.push(start.elapsed());
        match found {
            Ok(addresses) => seen.insert(sorted(addresses)),
            Err(error) => return (Err(error.to_string()), times),
        };
    }
    let addresses = match seen.pop_first() {
        Some(addresses) if seen.is_empty() => Ok(addresses),
        _ => Err("the addresses differ between lookups".to_owned()),
    };
    (addresses, times)
}

fn sorted(addresses: impl Iterator<Item = SocketAddr>) -> Vec<String> {
    let addresses: BTreeSet<_> = addresses.map(|address| address.ip().to_string()).collect();
    addresses.into_iter().collect()
}
