//! The process in the pod, which asks as any program does: by getaddrinfo().
//!
//! It is this program again, in the pod's network namespace and with an /etc of
//! its own, since getaddrinfo() reads that of the process it runs in. The demo
//! writes it a name a line, and reads a line back.

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
use zerohop_tests::{netns::Namespace, topology::SERVED};

use super::answer::Answer;

/// How many times each name is looked up; enough for a steady median.
pub(crate) const TIMES: usize = 51;

/// The running process. Should this one be killed, it ends too.
pub(crate) struct Pod {
    process: Child,
    line: UnixStream,
}

impl Pod {
    /// Starts it in a namespace.
    pub(crate) fn start(namespace: &Namespace) -> Result<Pod> {
        let (line, theirs) = UnixStream::pair().context("cannot make a pair of sockets")?;
        let input = OwnedFd::from(theirs);
        let output = input.try_clone().context("cannot duplicate a socket")?;
        let this = env::current_exe().context("cannot find this program's file")?;
        let process = namespace
            .command(&this.to_string_lossy())?
            .arg("demo-pod")
            .stdin(input)
            .stdout(output)
            // Ctrl-C is for the demo, which ends this one in order.
            .process_group(0)
            .spawn()
            .context("cannot start the process in the pod")?;
        Ok(Pod { process, line })
    }

    /// Its number.
    pub(crate) fn process(&self) -> u32 {
        self.process.id()
    }

    /// Looks a name up again and again. Gives the answer and how long each took.
    pub(crate) fn look_up(&self, name: &str) -> Result<(Answer, Vec<Duration>)> {
        let ask = || {
            writeln!(&self.line, "{name}")?;
            let mut reply = String::new();
            BufReader::new(&self.line).read_line(&mut reply)?;
            Ok::<_, io::Error>(reply)
        };
        let reply = ask().context("the process in the pod ended")?;
        parse(reply.trim_end()).with_context(|| format!("the process in the pod said {reply:?}"))
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        // It has nothing that outlives it. If it can't be killed it is gone already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What the process does.
pub(crate) fn run() -> Result<()> {
    take_etc()?;
    for name in io::stdin().lines() {
        let (answer, times) = look_up(&name?);
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

/// Reads one of those lines.
fn parse(line: &str) -> Option<(Answer, Vec<Duration>)> {
    let mut parts = line.split('\t');
    let (outcome, text, times) = (parts.next()?, parts.next()?, parts.next()?);
    let answer = match outcome {
        "found" => Answer::Data(text.split(' ').map(str::to_owned).collect()),
        _ => Answer::Odd(text.to_owned()),
    };
    let times = times
        .split(' ')
        .map(|nanoseconds| Some(Duration::from_nanos(nanoseconds.parse().ok()?)))
        .collect::<Option<_>>()?;
    Some((answer, times))
}

/// Gives this process an /etc with what getaddrinfo() reads in a pod, and nothing
/// else. Nobody else sees it, and it goes with the process.
fn take_etc() -> Result<()> {
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
    // In /run would be the socket of nscd, which would answer for us.
    for directory in ["/etc", "/run"] {
        let flags = MsFlags::empty();
        mount(Some("tmpfs"), directory, Some("tmpfs"), flags, None::<&str>)
            .with_context(|| format!("cannot mount a tmpfs on {directory}"))?;
    }
    fs::write("/etc/resolv.conf", resolv_conf)
        .and_then(|()| fs::write("/etc/nsswitch.conf", "hosts: dns\n"))
        .context("cannot write into the pod's /etc")
}

/// The addresses of a name, and how long each look-up took.
fn look_up(name: &str) -> (Result<Vec<String>, String>, Vec<Duration>) {
    let mut seen = BTreeSet::new();
    let mut times = Vec::new();
    for _ in 0..TIMES {
        let start = Instant::now();
        // This is getaddrinfo().
        let found = (name, 0).to_socket_addrs();
        times.push(start.elapsed());
        match found {
            Ok(addresses) => seen.insert(sorted(addresses)),
            Err(error) => return (Err(error.to_string()), times),
        };
    }
    let addresses = match seen.pop_first() {
        Some(addresses) if seen.is_empty() => Ok(addresses),
        _ => Err("other addresses at other times".to_owned()),
    };
    (addresses, times)
}

fn sorted(addresses: impl Iterator<Item = SocketAddr>) -> Vec<String> {
    let addresses: BTreeSet<_> = addresses.map(|address| address.ip().to_string()).collect();
    addresses.into_iter().collect()
}
