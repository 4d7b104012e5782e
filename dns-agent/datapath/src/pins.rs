//! Hooks that outlive the agent: links pinned in the BPF file system.
//!
//! Each network namespace has its own folder. The agent that holds the folder's lock owns the
//! hooks. The kernel releases the lock when that agent exits, for whatever reason.

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

/// The usual mount point of the BPF file system.
pub const BPFFS: &str = "/sys/fs/bpf";

/// The folder in the BPF file system that holds all pins.
const FOLDER: &str = "zerohop";

/// The mode of that folder and its subfolders. Only the owner and root may open a folder, and so
/// lock it.
const FOLDER_MODE: u32 = 0o700;

/// The permission bits of a mode.
const MODE_BITS: u32 = 0o7777;

/// The pins of this network namespace. No other agent can claim the same folder while this value
/// exists.
#[derive(Debug)]
pub struct Pins {
    /// The folder of this network namespace's pins.
    folder: PathBuf,
    /// The mount point of the BPF file system.
    bpffs: PathBuf,
    /// The folder, opened and locked.
    lock: File,
}

/// The result of [`Pins::claim`].
#[derive(Debug)]
pub enum Claim {
    /// This agent owns the hooks.
    Claimed(Pins),
    /// Another running agent owns the hooks.
    HeldByAnotherAgent,
    /// The owner is unknown, because the folder belongs to another user or is not a folder. The
    /// text describes it and gives a remedy.
    Untrusted(String),
}

/// The state of the folder of pins, as found by [`inspect_folder`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PinFolderState {
    /// Hooks can be pinned, and no agent was found that owns them.
    Free,
    /// A running agent owns the hooks.
    Held,
    /// Hooks can't be pinned. The text says why.
    Unusable(String),
}

/// A pinned link, identified by its file name `<mode>-<device>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pin {
    /// How the link is attached.
    pub mode: AttachMode,
    /// The device's index.
    pub device: u32,
}

/// How a link is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachMode {
    /// tc by a tcx link (Linux 6.6, commit e420bed02507).
    Tcx,
    /// XDP in the driver.
    Native,
    /// XDP in the network stack, after the driver.
    Generic,
}

/// A descriptor of a pinned link. It keeps the link attached when the pin is removed.
#[derive(Debug)]
pub struct HeldLink(OwnedFd);

impl HeldLink {
    /// Opens the link that is pinned at `path`.
    ///
    /// # Errors
    ///
    /// When there is no pin, or this process may not open it.
    pub fn open_pinned(path: &Path) -> io::Result<HeldLink> {
        syscall::open_pinned(path).map(HeldLink)
    }
}

impl Pins {
    /// Claims the hooks of this thread's network namespace.
    ///
    /// # Errors
    ///
    /// When `bpffs` is not a BPF file system, or the folder can't be created, opened or locked.
    pub fn claim(bpffs: &Path) -> anyhow::Result<Claim> {
        let folder = namespace_folder(bpffs)?;
        for folder in [&bpffs.join(FOLDER), &folder] {
            if let Err(reason) = make_folder(folder)? {
                return Ok(Claim::Untrusted(reason));
            }
        }
        let lock = open_folder(&folder).with_context(|| format!("opening {}", folder.display()))?;
        match lock.try_lock() {
            Ok(()) => Ok(Claim::Claimed(Pins {
                folder,
                bpffs: bpffs.to_owned(),
                lock,
            })),
            Err(TryLockError::WouldBlock) => Ok(Claim::HeldByAnotherAgent),
            Err(TryLockError::Error(error)) => {
                Err(error).with_context(|| format!("locking {}", folder.display()))
            }
        }
    }

    /// Creates and claims the folder again if it was removed or replaced.
    ///
    /// # Errors
    ///
    /// When another agent has claimed a new folder, when the folder can't be trusted
    /// ([`Claim::Untrusted`]), or when it can't be created, opened or locked.
    pub fn restore(&mut self) -> anyhow::Result<()> {
        let locked = self.lock.metadata().context("inspecting the lock")?;
        let current = fs::symlink_metadata(&self.folder);
        if current.is_ok_and(|current| is_same_file(&current, &locked)) {
            return Ok(());
        }
        match Pins::claim(&self.bpffs)? {
            Claim::Claimed(pins) => *self = pins,
            Claim::HeldByAnotherAgent => bail!(
                "another agent has claimed a new folder {}",
                self.folder.display()
            ),
            Claim::Untrusted(reason) => bail!(reason),
        }
        Ok(())
    }

    /// Pins a link at `path` unless it is pinned there already. Returns whether the pin was missing
    /// or was that of another link.
    ///
    /// # Errors
    ///
    /// When the link can't be pinned. It stays attached through `link`.
    pub fn repin(&self, path: &Path, link: &HeldLink) -> anyhow::Result<bool> {
        let id = syscall::link_id(&link.0).context("inspecting the link")?;
        if syscall::pinned_link_id(path).is_ok_and(|pinned| pinned == id) {
            return Ok(false);
        }
        // Another link may be pinned at the path. No other agent pinned it, because this agent has
        // the lock.
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        syscall::pin_object(&link.0, path)
            .with_context(|| format!("pinning {}", path.display()))?;
        Ok(true)
    }

    /// The path of a pin.
    #[must_use]
    pub fn path(&self, pin: Pin) -> PathBuf {
        self.folder
            .join(format!("{}-{}", pin.mode.name(), pin.device))
    }

    /// The link that an earlier agent pinned for a device. `None` when there is none, when it can't
    /// be opened, or when its device is gone. A link whose device is gone reports the index 0, even
    /// if a new device has got the same index.
    pub fn find(&self, pin: Pin) -> Option<PinnedLink> {
        let path = self.path(pin);
        match syscall::pinned_link_device(&path) {
            Ok(index) if index == pin.device => PinnedLink::from_pin(&path).ok(),
            _ => None,
        }
    }

    /// The program IDs of all pinned links that this process can open.
    pub fn program_ids(&self) -> Vec<u32> {
        program_ids_in(&self.folder)
    }

    /// Detaches and unpins all links except those that `keep` accepts, and removes files that are
    /// not named like a [`Pin`]. Returns the removed paths.
    ///
    /// # Errors
    ///
    /// When the folder can't be read, or a pin can't be removed.
    pub fn remove_all_except(&self, keep: impl Fn(Pin) -> bool) -> io::Result<Vec<PathBuf>> {
        let mut removed = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            let pin = name.and_then(|name| name.parse().ok());
            if !pin.is_some_and(&keep) {
                remove_pin(&path)?;
                removed.push(path);
            }
        }
        Ok(removed)
    }

    /// Detaches and unpins all links, and removes the folder. Returns the removed paths.
    ///
    /// # Errors
    ///
    /// When the folder can't be read, or a pin or the folder can't be removed.
    pub fn remove_all(self) -> io::Result<Vec<PathBuf>> {
        let removed = self.remove_all_except(|_| false)?;
        fs::remove_dir(&self.folder)?;
        // This fails while other network namespaces have folders there.
        if let Some(parent) = self.folder.parent() {
            let _ = fs::remove_dir(parent);
        }
        Ok(removed)
    }
}

/// Detaches and unpins a link.
pub(super) fn remove_pin(path: &Path) -> io::Result<()> {
    // This fails if the link's device is gone, or if the pinned object is not a link. In both cases
    // there is nothing to detach. After any other failure the kernel detaches the link when
    // nothing refers to it any more: no pin and no descriptor.
    let _ = syscall::detach_pinned_link(path);
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// Creates a folder that only this user can open, or restricts an existing one. The inner error is
/// the reason why an existing folder can't be trusted.
fn make_folder(folder: &Path) -> anyhow::Result<Result<(), String>> {
    let making = || format!("preparing the folder {}", folder.display());
    match DirBuilder::new().mode(FOLDER_MODE).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(error).with_context(making);
        }
        _ => {}
    }
    let found = fs::symlink_metadata(folder).with_context(making)?;
    if let Err(reason) = check_owner(folder, &found) {
        return Ok(Err(reason));
    }
    if found.mode() & MODE_BITS != FOLDER_MODE {
        // Earlier versions created a folder that every user could lock.
        let folder = open_folder(folder).with_context(making)?;
        folder
            .set_permissions(Permissions::from_mode(FOLDER_MODE))
            .with_context(making)?;
    }
    Ok(Ok(()))
}

/// Checks that this is a folder, and that it belongs to this user or to root. Root is trusted,
/// because it can change any folder anyway. The error says what is wrong and gives a remedy.
fn check_owner(folder: &Path, found: &Metadata) -> Result<(), String> {
    let this_user = rustix::process::geteuid().as_raw();
    let fault = match (found.is_dir(), found.uid()) {
        (true, owner) if owner == this_user || owner == 0 => return Ok(()),
        (true, owner) => format!("belongs to the user {owner}"),
        (false, _) => "is not a folder".to_owned(),
    };
    Err(format!(
        "{} {fault}, so its pins and its lock can't be trusted and are not used: find out who \
         created it, then remove it with its contents (rm -r {0}) and restart the agent",
        folder.display()
    ))
}

/// Opens a folder without following a symbolic link.
fn open_folder(folder: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW)
        .open(folder)
}

fn is_same_file(one: &Metadata, other: &Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

/// Inspects the folder of pins without claiming it. Creates and removes a trial folder, and takes
/// and releases the lock.
#[must_use]
pub fn inspect_folder(bpffs: &Path) -> PinFolderState {
    let folder = match namespace_folder(bpffs) {
        Ok(folder) => folder,
        Err(error) => return PinFolderState::Unusable(format!("{error:#}")),
    };
    let trial = bpffs.join(format!("{FOLDER}-check-{}", std::process::id()));
    if let Err(error) = fs::create_dir(&trial).and_then(|()| fs::remove_dir(&trial)) {
        return PinFolderState::Unusable(format!("{} can't be written: {error}", bpffs.display()));
    }
    for folder in [&bpffs.join(FOLDER), &folder] {
        let found = fs::symlink_metadata(folder);
        if let Ok(found) = found
            && let Err(reason) = check_owner(folder, &found)
        {
            return PinFolderState::Unusable(reason);
        }
    }
    let lock = open_folder(&folder).map(|folder| folder.try_lock());
    match lock {
        Ok(Err(TryLockError::WouldBlock)) => PinFolderState::Held,
        // The folder does not exist, was not locked, or can't be opened.
        _ => PinFolderState::Free,
    }
}

/// The program IDs of all links that agents have pinned in this network namespace, as far as this
/// process can open them.
#[must_use]
pub fn pinned_program_ids(bpffs: &Path) -> Vec<u32> {
    namespace_folder(bpffs).map_or_else(|_| Vec::new(), |folder| program_ids_in(&folder))
}

fn program_ids_in(folder: &Path) -> Vec<u32> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let programs = entries.map(|entry| syscall::pinned_program(&entry.path()));
    programs.flatten().flatten().map(|(id, _)| id).collect()
}

/// Whether this network namespace has a folder. An agent creates it when it claims the hooks, and
/// removes it when it detaches them. So while it exists, there may be hooks: pinned links, or
/// filters without a pin.
#[must_use]
pub fn folder_exists(bpffs: &Path) -> bool {
    namespace_folder(bpffs).is_ok_and(|folder| folder.exists())
}

impl AttachMode {
    /// All modes.
    pub const ALL: [AttachMode; 3] = [AttachMode::Tcx, AttachMode::Native, AttachMode::Generic];

    /// The name in `status` and in the names of pins.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            AttachMode::Tcx => "tcx",
            AttachMode::Native => "native",
            AttachMode::Generic => "generic",
        }
    }

    /// The hook that the mode attaches to.
    #[must_use]
    pub const fn hook(self) -> Hook {
        match self {
            AttachMode::Tcx => Hook::Tc,
            AttachMode::Native | AttachMode::Generic => Hook::Xdp,
        }
    }
}

impl FromStr for Pin {
    type Err = ();

    fn from_str(text: &str) -> Result<Pin, ()> {
        let (mode, index) = text.split_once('-').ok_or(())?;
        let mode = AttachMode::ALL
            .into_iter()
            .find(|known| known.name() == mode);
        Ok(Pin {
            mode: mode.ok_or(())?,
            device: index.parse().map_err(|_| ())?,
        })
    }
}

/// The folder for this thread's network namespace.
fn namespace_folder(bpffs: &Path) -> anyhow::Result<PathBuf> {
    if !syscall::is_bpffs(bpffs).with_context(|| format!("inspecting {}", bpffs.display()))? {
        bail!(
            "{} is not a BPF file system: mount one (mount -t bpf bpf {0}), or mount the node's \
             into the container",
            bpffs.display()
        );
    }
    let namespace =
        fs::metadata("/proc/thread-self/ns/net").context("inspecting the network namespace")?;
    Ok(bpffs.join(FOLDER).join(format!("net-{}", namespace.ino())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pin_names_are_parsed() {
        let pin = |text: &str| text.parse::<Pin>().ok();
        let expected = Pin {
            mode: AttachMode::Tcx,
            device: 17,
        };
        assert_eq!(pin("tcx-17"), Some(expected));
        for other in ["tcx", "tcx-", "tcx-x", "tc-17", "link"] {
            assert_eq!(pin(other), None, "{other}");
        }
    }

    #[test]
    fn a_folder_that_is_not_a_bpf_file_system_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let error = Pins::claim(folder.path()).unwrap_err().to_string();
        assert!(error.contains("is not a BPF file system"), "{error}");
        assert!(!folder_exists(folder.path()));
        assert!(matches!(
            inspect_folder(folder.path()),
            PinFolderState::Unusable(_)
        ));
    }
}
