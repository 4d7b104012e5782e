//! Hooks that outlive the agent: links pinned in the BPF file system.
//!
//! They lie in a folder of their own for each network namespace, whose lock says which agent the
//! hooks belong to: the kernel gives it back when that agent dies, however it dies.

use std::{
    fs::{self, File, TryLockError},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    str::FromStr,
};

use anyhow::{Context as _, bail};
use aya::programs::links::PinnedLink;
use dns_common::outcomes::Hook;

use super::syscall;

/// Where the BPF file system is on every node.
pub const BPFFS: &str = "/sys/fs/bpf";

/// The folder of all pins in it.
const FOLDER: &str = "zerohop";

/// The pins of this network namespace, which are nobody else's while this lives.
#[derive(Debug)]
pub struct Pins {
    folder: PathBuf,
    _lock: File,
}

/// Who has the hooks.
#[derive(Debug)]
pub enum Claim {
    /// This agent.
    Ours(Pins),
    /// Another one, which is running.
    Others,
}

/// What the place of the pins is like, as somebody sees it who claims nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Hooks can be pinned there, and no agent has them.
    Free,
    /// An agent is running, which has the hooks.
    Held,
    /// Nothing can be pinned there, for this reason.
    Unusable(String),
}

/// What a pinned link is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pin {
    /// How it is attached.
    pub mode: Mode,
    /// The device's number.
    pub index: u32,
}

/// How a link is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// tc, by a link (Linux 6.6, commit e420bed02507).
    Tcx,
    /// XDP in the driver.
    Native,
    /// XDP behind the driver.
    Generic,
}

impl Pins {
    /// Claims the hooks of the network namespace that this thread is in.
    ///
    /// # Errors
    ///
    /// When there is no BPF file system, or it can't be written.
    pub fn claim(bpffs: &Path) -> anyhow::Result<Claim> {
        let folder = folder(bpffs)?;
        fs::create_dir_all(&folder)
            .with_context(|| format!("making the folder {}", folder.display()))?;
        let lock = File::open(&folder).with_context(|| format!("opening {}", folder.display()))?;
        match lock.try_lock() {
            Ok(()) => Ok(Claim::Ours(Pins {
                folder,
                _lock: lock,
            })),
            Err(TryLockError::WouldBlock) => Ok(Claim::Others),
            Err(TryLockError::Error(error)) => {
                Err(error).with_context(|| format!("locking {}", folder.display()))
            }
        }
    }

    /// Where a link is pinned.
    #[must_use]
    pub fn path(&self, pin: Pin) -> PathBuf {
        self.folder
            .join(format!("{}-{}", pin.mode.name(), pin.index))
    }

    /// A link that an agent before left on a device. Numbers of devices are used again, but a link
    /// whose device is gone is on none.
    pub fn find(&self, pin: Pin) -> Option<PinnedLink> {
        let path = self.path(pin);
        match syscall::pinned_link_device(&path) {
            Ok(index) if index == pin.index => PinnedLink::from_pin(&path).ok(),
            _ => None,
        }
    }

    /// The numbers of the programs of all pinned links.
    pub fn programs(&self) -> Vec<u32> {
        programs_in(&self.folder)
    }

    /// Takes off every pinned link but these. Says what was taken off, or could not be.
    pub fn keep(&self, keep: impl Fn(Pin) -> bool) -> io::Result<Vec<PathBuf>> {
        let mut removed = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            let pin = name.and_then(|name| name.parse().ok());
            if !pin.is_some_and(&keep) {
                remove(&path)?;
                removed.push(path);
            }
        }
        Ok(removed)
    }

    /// Takes off everything, and the folder too.
    ///
    /// # Errors
    ///
    /// When a pin can't be removed.
    pub fn remove_all(self) -> io::Result<Vec<PathBuf>> {
        let removed = self.keep(|_| false)?;
        fs::remove_dir(&self.folder)?;
        // Other network namespaces may have theirs.
        if let Some(parent) = self.folder.parent() {
            let _ = fs::remove_dir(parent);
        }
        Ok(removed)
    }
}

/// Ends a pinned link.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    // A link whose device is gone is off, and what is no link never was on.
    let _ = syscall::detach_pinned_link(path);
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// Looks at the place of the pins. A folder is made there and removed again; the hooks' lock is tried, and
/// given back.
#[must_use]
pub fn look(bpffs: &Path) -> Place {
    let folder = match folder(bpffs) {
        Ok(folder) => folder,
        Err(error) => return Place::Unusable(format!("{error:#}")),
    };
    let trial = bpffs.join(format!("{FOLDER}-check-{}", std::process::id()));
    if let Err(error) = fs::create_dir(&trial).and_then(|()| fs::remove_dir(&trial)) {
        return Place::Unusable(format!("{} can't be written: {error}", bpffs.display()));
    }
    let lock = File::open(folder).map(|folder| folder.try_lock());
    match lock {
        Ok(Err(TryLockError::WouldBlock)) => Place::Held,
        _ => Place::Free,
    }
}

/// The numbers of the programs of all links that agents have pinned in this network namespace.
#[must_use]
pub fn programs(bpffs: &Path) -> Vec<u32> {
    folder(bpffs).map_or_else(|_| Vec::new(), |folder| programs_in(&folder))
}

fn programs_in(folder: &Path) -> Vec<u32> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let programs = entries.map(|entry| syscall::pinned_program(&entry.path()));
    programs.flatten().flatten().map(|(id, _)| id).collect()
}

/// Whether an agent has hooks here, or has left some: pinned links, or filters, which need no pin.
#[must_use]
pub fn are_there(bpffs: &Path) -> bool {
    folder(bpffs).is_ok_and(|folder| folder.exists())
}

impl Mode {
    /// All of them.
    pub const ALL: [Mode; 3] = [Mode::Tcx, Mode::Native, Mode::Generic];

    /// As `status` calls it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Mode::Tcx => "tcx",
            Mode::Native => "native",
            Mode::Generic => "generic",
        }
    }

    /// Where it runs.
    #[must_use]
    pub const fn hook(self) -> Hook {
        match self {
            Mode::Tcx => Hook::Tc,
            Mode::Native | Mode::Generic => Hook::Xdp,
        }
    }
}

impl FromStr for Pin {
    type Err = ();

    fn from_str(text: &str) -> Result<Pin, ()> {
        let (mode, index) = text.split_once('-').ok_or(())?;
        let mode = Mode::ALL.into_iter().find(|known| known.name() == mode);
        Ok(Pin {
            mode: mode.ok_or(())?,
            index: index.parse().map_err(|_| ())?,
        })
    }
}

/// The folder of the network namespace that this thread is in.
fn folder(bpffs: &Path) -> anyhow::Result<PathBuf> {
    if !syscall::is_bpffs(bpffs).with_context(|| format!("looking at {}", bpffs.display()))? {
        bail!(
            "{} is no BPF file system: mount it (mount -t bpf bpf {0}), or into the container from the node",
            bpffs.display()
        );
    }
    let namespace =
        fs::metadata("/proc/thread-self/ns/net").context("looking at the network namespace")?;
    Ok(bpffs.join(FOLDER).join(format!("net-{}", namespace.ino())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_pins() {
        let pin = |text: &str| text.parse::<Pin>().ok();
        let expected = Pin {
            mode: Mode::Tcx,
            index: 17,
        };
        assert_eq!(pin("tcx-17"), Some(expected));
        for other in ["tcx", "tcx-", "tcx-x", "tc-17", "link"] {
            assert_eq!(pin(other), None, "{other}");
        }
    }

    #[test]
    fn no_bpf_file_system() {
        let folder = tempfile::tempdir().unwrap();
        let error = Pins::claim(folder.path()).unwrap_err().to_string();
        assert!(error.contains("is no BPF file system"), "{error}");
        assert!(!are_there(folder.path()));
        assert!(matches!(look(folder.path()), Place::Unusable(_)));
    }
}
