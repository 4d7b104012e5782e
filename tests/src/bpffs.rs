//! A private BPF file system, because not every machine has one at the path that agents expect.

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// A mounted BPF file system in a temporary directory; unmounted and removed when dropped.
pub struct Bpffs(PathBuf);

impl Bpffs {
    /// Creates the directory and mounts a BPF file system there.
    pub fn new() -> Result<Bpffs> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("zh-bpffs-{}-{count}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir(&folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
        let none: Option<&str> = None;
        mount(Some("bpf"), &folder, Some("bpf"), MsFlags::empty(), none)
            .with_context(|| format!("cannot mount a BPF file system at {}", folder.display()))?;
        Ok(Bpffs(folder))
    }

    /// Unmounts the file system while an agent uses it, as an administrator might. The directory
    /// stays.
    pub fn unmount(&self) -> Result<()> {
        umount2(&self.0, MntFlags::MNT_DETACH)
            .with_context(|| format!("cannot unmount {}", self.0.display()))
    }

    /// The mount point.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        umount2(&self.0, MntFlags::MNT_DETACH).ok();
        std::fs::remove_dir(&self.0).ok();
    }
}
