//! Network namespaces.
//!
//! `ip -n` and `ip netns exec` are avoided, because both mount another /sys, which hides the BPF
//! file system.

use std::{
    fs::File,
    io::Write,
    os::unix::process::CommandExt,
    panic,
    path::Path,
    process::{self, Command, Stdio},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    thread,
};

use anyhow::{Context, Result, bail};
use nix::{
    net::if_::if_nametoindex,
    sched::{CloneFlags, setns},
    sys::signal::SigSet,
};

/// A network namespace; deleted when dropped.
pub struct NetworkNamespace {
    name: String,
    /// The open namespace, for setns(2).
    file: File,
    origin: NamespaceOrigin,
}

/// Who made a namespace.
#[derive(PartialEq, Eq)]
enum NamespaceOrigin {
    /// The test. `ip netns` lists it.
    Test,
    /// The product. It goes when nothing uses it, [`NetworkNamespace::file`] included.
    Product,
}

impl NetworkNamespace {
    /// Creates a namespace whose only device is the loopback, which is up.
    ///
    /// `role` becomes part of the name that `ip netns` lists.
    pub fn new(role: &str) -> Result<NetworkNamespace> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        // The first `ip netns add` on a machine sets up the directory of names; two concurrent ones
        // would race.
        static ADDING: Mutex<()> = Mutex::new(());

        let name = format!(
            "zh-{}-{}-{role}",
            process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        {
            let _adding = ADDING.lock().unwrap_or_else(PoisonError::into_inner);
            run(Command::new("ip").args(["netns", "add", &name]))?;
        }
        let path = format!("/run/netns/{name}");
        let file = File::open(&path).with_context(|| format!("cannot open {path}"))?;
        let origin = NamespaceOrigin::Test;
        let namespace = NetworkNamespace { name, file, origin };
        namespace.ip(&["link set lo up"])?;
        Ok(namespace)
    }

    /// A namespace that the product has made. The name is only for messages.
    pub fn of_product(name: &str, file: File) -> NetworkNamespace {
        NetworkNamespace {
            name: name.to_owned(),
            file,
            origin: NamespaceOrigin::Product,
        }
    }

    /// The name that `ip netns` lists.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs a closure inside the namespace, on a new thread.
    ///
    /// Sockets and BPF links that the closure opens stay in this namespace, whichever thread uses
    /// them afterwards.
    pub fn enter<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> Result<T> {
        let joined = thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(&self.file, CloneFlags::CLONE_NEWNET)
                    .with_context(|| format!("cannot enter namespace {}", self.name))?;
                Ok(inside())
            });
            thread.join()
        });
        joined.unwrap_or_else(|panic| panic::resume_unwind(panic))
    }

    /// Returns a command that will run inside the namespace. It has the mounts of this process, and
    /// starts with no signal blocked, even if this process blocks some.
    pub fn command(&self, program: &str) -> Result<Command> {
        command_in(&self.file, program.as_ref())
    }

    /// Runs `ip` inside the namespace. Each line is one of its commands, without the word `ip`.
    pub fn ip(&self, lines: &[&str]) -> Result<()> {
        let mut ip = self
            .command("ip")?
            .args(["-batch", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start ip")?;
        // The pipe is dropped at the end of this statement, which ends the input of ip.
        ip.stdin
            .take()
            .context("ip has no input")?
            .write_all(lines.join("\n").as_bytes())?;
        let output = ip.wait_with_output()?;
        if !output.status.success() {
            let error = String::from_utf8_lossy(&output.stderr);
            bail!(
                "in namespace {}, ip failed at\n{}\n{}",
                self.name,
                lines.join("\n"),
                error.trim()
            );
        }
        Ok(())
    }

    /// Sets a kernel parameter below /proc/sys/net.
    pub fn sysctl(&self, path: &str, value: &str) -> Result<()> {
        let path = format!("/proc/sys/net/{path}");
        // A file below /proc/sys/net belongs to the namespace of the thread that opens it.
        self.enter(|| std::fs::write(&path, value))?
            .with_context(|| format!("in namespace {}, cannot set {path} to {value}", self.name))
    }

    /// The index of one of the namespace's interfaces.
    pub fn index(&self, interface: &str) -> Result<u32> {
        self.enter(|| if_nametoindex(interface))?
            .with_context(|| format!("namespace {} has no interface {interface}", self.name))
    }
}

impl Drop for NetworkNamespace {
    fn drop(&mut self) {
        if self.origin == NamespaceOrigin::Product {
            return;
        }
        // If this fails, the namespace stays. Its name contains the ID of this process.
        let _ = run(Command::new("ip").args(["netns", "delete", &self.name]));
    }
}

/// Like [`NetworkNamespace::command`], in the namespace that an open file refers to.
pub(crate) fn command_in(namespace: &File, program: &Path) -> Result<Command> {
    let namespace = namespace
        .try_clone()
        .context("cannot duplicate the file of a network namespace")?;
    let mut command = Command::new(program);
    let enter = move || {
        setns(&namespace, CloneFlags::CLONE_NEWNET)?;
        Ok(SigSet::empty().thread_set_mask()?)
    };
    // SAFETY: between fork and exec the closure makes two system calls; it neither allocates nor
    // takes a lock.
    unsafe { command.pre_exec(enter) };
    Ok(command)
}

fn run(command: &mut Command) -> Result<()> {
    let output = command
        .output()
        .with_context(|| format!("cannot start {command:?}"))?;
    if !output.status.success() {
        bail!(
            "{command:?} ended with {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}
