//! The process in the pod, which looks names up as any program does: by getaddrinfo().
//!
//! The process is this program again, in the pod's network namespace and with an /etc of its own,
//! because getaddrinfo() reads the /etc of its process.

use std::{
    env, fs, io,
    net::ToSocketAddrs,
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};
use zerohop_contract::addresses::SERVED;
use zerohop_tests::netns::NetworkNamespace;

use super::ask::{RepeatedAnswer, list, repeat};
use crate::process::output;

/// How many times each name is looked up; enough for a stable median.
pub(crate) const CALLS: u16 = 51;

/// Looks a name up [`CALLS`] times in the pod.
pub(crate) fn call(pod: &NetworkNamespace, name: &str) -> Result<RepeatedAnswer> {
    let answer = output(pod_process(pod)?.arg(name))?;
    serde_json::from_str(&answer).with_context(|| format!("the pod's process wrote {answer:?}"))
}

/// Starts a process that does nothing, so that the user can enter the pod's namespaces (`nsenter
/// --target`). It ends with the demo, which holds the other end of its standard input.
pub(crate) fn start_idle_process(pod: &NetworkNamespace) -> Result<Child> {
    let process = pod_process(pod)?.stdin(Stdio::piped()).spawn();
    process.context("cannot start a process in the pod")
}

/// The process in the pod: looks a name up and prints the result, or without a name waits for the
/// end of its standard input.
pub(crate) fn run(name: Option<&str>) -> Result<()> {
    mount_own_etc()?;
    let Some(name) = name else {
        io::copy(&mut io::stdin(), &mut io::sink())?;
        return Ok(());
    };
    let answer = repeat(CALLS, |_| {
        let start = Instant::now();
        // This calls getaddrinfo().
        let addresses = (name, 0).to_socket_addrs();
        let time = start.elapsed();
        let addresses = addresses?.map(|address| address.ip().to_string());
        Ok((list(addresses), time))
    });
    println!("{}", serde_json::to_string(&answer)?);
    Ok(())
}

fn pod_process(pod: &NetworkNamespace) -> Result<Command> {
    let this = env::current_exe().context("cannot find this program's file")?;
    let mut command = pod.command(&this.to_string_lossy())?;
    // Ctrl-C must reach only the demo, which then ends in an orderly way.
    command.arg("demo-pod").process_group(0);
    Ok(command)
}

/// Gives this process an /etc with only the files that getaddrinfo() needs: resolv.conf as in a
/// pod, and nsswitch.conf. The mounts are private to the process and end with it.
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
