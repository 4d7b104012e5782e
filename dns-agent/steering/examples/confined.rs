//! Makes the agent's network namespace in a container, and says what worked. `docs/steering.md`
//! shows how it is run in a pod.
//!
//! Afterwards the process gives CAP_SYS_ADMIN up, and tries to get it back.

use std::{
    env, fs,
    net::{IpAddr, SocketAddr, TcpListener, UdpSocket},
    process::{Command, ExitCode},
    thread,
};

use anyhow::{Context as _, Result, ensure};
use nix::sched::{CloneFlags, unshare};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, set_capabilities, set_no_new_privs,
};
use zerohop_steering::{AgentNamespace, InterfaceReader};

/// The argument with which this program only prints its rights.
const PRINT_RIGHTS: &str = "--print-rights";
/// Served addresses.
const SERVED: [&str; 2] = ["10.96.0.10", "fd00:10:96::a"];

fn main() -> ExitCode {
    if env::args().nth(1).as_deref() == Some(PRINT_RIGHTS) {
        print!("{}", rights().unwrap_or_default());
        return ExitCode::SUCCESS;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let checked = runtime
        .context("no runtime")
        .and_then(|runtime| runtime.block_on(check()));
    match checked {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn check() -> Result<()> {
    println!("this process:\n{}", rights()?);
    let sysctl = "/proc/sys/net/ipv4/ip_forward";
    let text = fs::read_to_string(sysctl)?;
    println!("write {sysctl}: {:?}", fs::write(sysctl, text));

    let namespace = AgentNamespace::create().await?;
    println!(
        "namespace {} behind device {}",
        namespace.id(),
        namespace.node_device()
    );
    let mut sockets = Vec::new();
    for text in SERVED {
        let address: IpAddr = text.parse()?;
        namespace.add_address(address).await?;
        let address = SocketAddr::new(address, 53);
        let open = move || Ok((UdpSocket::bind(address)?, TcpListener::bind(address)?));
        let opened: std::io::Result<_> = namespace.run(open).await?;
        sockets.push(opened.with_context(|| format!("no sockets at {address}"))?);
        println!("sockets at {address}");
    }
    let thread = namespace.run(rights).await??;
    println!("the thread in the namespace:\n{thread}");

    let interfaces = InterfaceReader::default().read().await?;
    println!("addresses of pods: {interfaces:?}");

    set_no_new_privs(true)?;
    drop_sys_admin()?;
    println!("this process, without SYS_ADMIN:\n{}", rights()?);
    println!(
        "bounding set: {:?}",
        rustix::thread::remove_capability_from_bounding_set(CapabilitySet::SYS_ADMIN)
    );
    let regained = thread::spawn(|| unshare(CloneFlags::CLONE_NEWNET));
    let regained = regained.join().ok().context("a thread panicked")?;
    println!("unshare on another thread: {regained:?}");
    ensure!(regained.is_err(), "SYS_ADMIN is still there");
    let child = Command::new("/proc/self/exe").arg(PRINT_RIGHTS).output()?;
    println!(
        "a child process:\n{}",
        String::from_utf8_lossy(&child.stdout)
    );
    // An address that becomes known later.
    namespace.add_address("10.96.0.11".parse()?).await?;
    println!("added another address");
    Ok(())
}

/// What /proc says of the rights of the calling thread.
fn rights() -> Result<String> {
    let status = fs::read_to_string("/proc/thread-self/status")?;
    let is_right = |line: &&str| {
        ["Name", "Cap", "NoNewPrivs", "Seccomp:"]
            .iter()
            .any(|field| line.starts_with(field))
    };
    let profile = fs::read_to_string("/proc/thread-self/attr/current").unwrap_or_default();
    let lines: Vec<_> = status.lines().filter(is_right).collect();
    Ok(format!("{}\nprofile: {profile}\n", lines.join("\n")))
}

fn drop_sys_admin() -> Result<()> {
    let held = capabilities(None)?;
    let left = held.permitted.difference(CapabilitySet::SYS_ADMIN);
    let sets = CapabilitySets {
        effective: left,
        permitted: left,
        inheritable: CapabilitySet::empty(),
    };
    Ok(set_capabilities(None, sets)?)
}
