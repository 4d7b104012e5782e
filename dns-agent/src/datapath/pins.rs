//! Hooks that outlive the agent: links pinned in the BPF file system.
//!
//! They lie in a folder of their own for each network namespace, whose lock says which agent the
//! hooks belong to: the kernel gives it back when that agent dies, however it dies.

use std::{
    fs::{self, DirBuilder, File, Metadata, OpenOptions, Permissions, TryLockError},
    io,
    os::{
        fd::OwnedFd,
        unix::fs::{
            DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
        },
    },
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

/// The mode of that folder, and of those in it: only their owner may open them, and so lock them.
const MODE: u32 = 0o700;

/// The bits of a mode that say who may do what.
const MODE_BITS: u32 = 0o7777;

/// The pins of this network namespace, which are nobody else's while this lives.
#[derive(Debug)]
pub struct Pins {
    folder: PathBuf,
    bpffs: PathBuf,
    lock: File,
}

/// Who has the hooks.
#[derive(Debug)]
pub enum Claim {
    /// This agent.
    Ours(Pins),
    /// Another one, which is running.
    Others,
    /// It can't be known, for this reason: another user can write to the folder of the pins.
    Untrusted(String),
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

/// A link that was found pinned, held so that it stays when its pin goes.
#[derive(Debug)]
pub struct HeldLink(OwnedFd);

impl HeldLink {
    /// The link that is pinned there.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub fn of(path: &Path) -> io::Result<HeldLink> {
        syscall::pinned(path).map(HeldLink)
    }
}

impl Pins {
    /// Claims the hooks of the network namespace that this thread is in.
    ///
    /// # Errors
    ///
    /// When there is no BPF file system, or it can't be written.
    pub fn claim(bpffs: &Path) -> anyhow::Result<Claim> {
        let folder = folder(bpffs)?;
        for folder in [&bpffs.join(FOLDER), &folder] {
            if let Err(reason) = make(folder)? {
                return Ok(Claim::Untrusted(reason));
            }
        }
        let lock = open(&folder).with_context(|| format!("opening {}", folder.display()))?;
        match lock.try_lock() {
            Ok(()) => Ok(Claim::Ours(Pins {
                folder,
                bpffs: bpffs.to_owned(),
                lock,
            })),
            Err(TryLockError::WouldBlock) => Ok(Claim::Others),
            Err(TryLockError::Error(error)) => {
                Err(error).with_context(|| format!("locking {}", folder.display()))
            }
        }
    }

    /// Makes the folder again if it was removed, and claims it again.
    ///
    /// # Errors
    ///
    /// When another agent has it by now, or it can't be made.
    pub fn restore(&mut self) -> anyhow::Result<()> {
        let ours = self.lock.metadata().context("looking at the lock")?;
        let there = fs::symlink_metadata(&self.folder);
        if there.is_ok_and(|there| is_same(&there, &ours)) {
            return Ok(());
        }
        match Pins::claim(&self.bpffs)? {
            Claim::Ours(pins) => *self = pins,
            Claim::Others => bail!("another agent has made {} anew", self.folder.display()),
            Claim::Untrusted(reason) => bail!(reason),
        }
        Ok(())
    }

    /// Pins a link again that is not pinned there any more; says whether it was not.
    ///
    /// # Errors
    ///
    /// When it can't be pinned; it is held all the same.
    pub fn repin(&self, path: &Path, link: &HeldLink) -> anyhow::Result<bool> {
        let id = syscall::link_id(&link.0).context("looking at the link")?;
        if syscall::pinned_link_id(path).is_ok_and(|pinned| pinned == id) {
            return Ok(false);
        }
        // Another link may stand there, which is none of an agent's: agents have the lock.
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        syscall::pin(&link.0, path).with_context(|| format!("pinning {}", path.display()))?;
        Ok(true)
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

/// Makes a folder that only we can open, or sees to it that the one that is there is such a one. Else
/// says why it can't be trusted.
fn make(folder: &Path) -> anyhow::Result<Result<(), String>> {
    let making = || format!("making the folder {}", folder.display());
    match DirBuilder::new().mode(MODE).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(error).with_context(making);
        }
        _ => {}
    }
    let found = fs::symlink_metadata(folder).with_context(making)?;
    if let Err(reason) = check(folder, &found) {
        return Ok(Err(reason));
    }
    if found.mode() & MODE_BITS != MODE {
        // Agents before made it so that everybody could lock it.
        let folder = open(folder).with_context(making)?;
        folder
            .set_permissions(Permissions::from_mode(MODE))
            .with_context(making)?;
    }
    Ok(Ok(()))
}

/// Whether a folder's owner is us, or root, whom nothing keeps out.
fn check(folder: &Path, found: &Metadata) -> Result<(), String> {
    let us = rustix::process::geteuid().as_raw();
    let what = match (found.is_dir(), found.uid()) {
        (true, owner) if owner == us || owner == 0 => return Ok(()),
        (true, owner) => format!("belongs to the user {owner}"),
        (false, _) => "is no folder".to_owned(),
    };
    Err(format!(
        "{} {what}, so its pins and its lock can't be trusted, and are not used: find out who made it, then remove it with \
         everything in it (rm -r {0}) and restart the agent",
        folder.display()
    ))
}

/// Opens a folder, and nothing that a link leads to.
fn open(folder: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW)
        .open(folder)
}

fn is_same(one: &Metadata, other: &Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
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
    for folder in [&bpffs.join(FOLDER), &folder] {
        let found = fs::symlink_metadata(folder);
        if let Ok(found) = found
            && let Err(reason) = check(folder, &found)
        {
            return Place::Unusable(reason);
        }
    }
    let lock = open(&folder).map(|folder| folder.try_lock());
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
