//! A control group that bounds memory, of version 1 or 2.

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    process,
};

use anyhow::{Context as _, Result};

/// No agent of a test uses so much memory, in octets.
const MOST: u64 = 1 << 32;

/// A group with nothing in it at first, gone when dropped.
pub(super) struct Cgroup {
    folder: PathBuf,
    /// The files that bound it, and that count whom the kernel ended.
    limit: &'static str,
    events: &'static str,
}

impl Cgroup {
    /// # Errors
    /// When this machine has no controller of memory that this process may use.
    pub(super) fn new() -> Result<Cgroup> {
        let first = Path::new("/sys/fs/cgroup/memory");
        let (root, limit, events) = if first.join("memory.limit_in_bytes").exists() {
            (first, "memory.limit_in_bytes", "memory.oom_control")
        } else {
            let root = Path::new("/sys/fs/cgroup");
            fs::write(root.join("cgroup.subtree_control"), "+memory")
                .context("no cgroup can bound memory here")?;
            (root, "memory.max", "memory.events")
        };
        let folder = root.join(format!("zh-faults-{}", process::id()));
        fs::create_dir(&folder).with_context(|| format!("making {}", folder.display()))?;
        Ok(Cgroup {
            folder,
            limit,
            events,
        })
    }

    /// Moves a process into it.
    pub(super) fn add(&self, process: u32) -> Result<()> {
        fs::write(self.folder.join("cgroup.procs"), process.to_string())?;
        Ok(())
    }

    /// From now on hardly more memory is to be had than is in use.
    pub(super) fn shrink(&self) -> Result<()> {
        let file = self.folder.join(self.limit);
        let mut limit: u64 = 65_536;
        loop {
            match fs::write(&file, format!("{limit}")) {
                // What is in use, and can't be given back, is more.
                Err(error) if error.kind() == ErrorKind::ResourceBusy && limit < MOST => limit *= 2,
                written => return Ok(written?),
            }
        }
    }

    /// How many processes the kernel has ended.
    pub(super) fn kills(&self) -> Result<u32> {
        let text = fs::read_to_string(self.folder.join(self.events))?;
        let kills = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        Ok(kills.context("no count of kills")?.parse()?)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Processes that ended are in it until they are waited for.
        fs::remove_dir(&self.folder).ok();
    }
}
