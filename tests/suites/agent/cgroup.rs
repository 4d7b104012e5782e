//! A control group (version 1 or 2) that limits memory.

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    process,
};

use anyhow::{Context as _, Result};

/// More memory than an agent of these tests uses, in bytes.
const MAX_LIMIT: u64 = 1 << 32;

/// A control group, empty at first; removed when dropped.
pub(super) struct MemoryCgroup {
    folder: PathBuf,
    /// The file with the memory limit.
    limit: &'static str,
    /// The file with the largest memory use so far.
    peak: &'static str,
    /// The file with the number of OOM kills.
    events: &'static str,
}

impl MemoryCgroup {
    /// Creates an empty group.
    ///
    /// # Errors
    ///
    /// If this process cannot use a memory controller, or cannot create the group's directory.
    pub(super) fn new() -> Result<MemoryCgroup> {
        let version_1 = Path::new("/sys/fs/cgroup/memory");
        let (root, limit, peak, events) = if version_1.join("memory.limit_in_bytes").exists() {
            (
                version_1,
                "memory.limit_in_bytes",
                "memory.max_usage_in_bytes",
                "memory.oom_control",
            )
        } else {
            let root = Path::new("/sys/fs/cgroup");
            fs::write(root.join("cgroup.subtree_control"), "+memory")
                .context("no cgroup can limit memory here")?;
            (root, "memory.max", "memory.peak", "memory.events")
        };
        let folder = format!("zh-{}-{:08x}", process::id(), rand::random::<u32>());
        let folder = root.join(folder);
        fs::create_dir(&folder)
            .with_context(|| format!("cannot create the cgroup {}", folder.display()))?;
        Ok(MemoryCgroup {
            folder,
            limit,
            peak,
            events,
        })
    }

    /// Moves a process into the group.
    pub(super) fn add_process(&self, process: u32) -> Result<()> {
        fs::write(self.folder.join("cgroup.procs"), process.to_string())?;
        Ok(())
    }

    /// Sets the limit, in bytes.
    pub(super) fn set_limit(&self, bytes: u64) -> Result<()> {
        Ok(fs::write(self.folder.join(self.limit), bytes.to_string())?)
    }

    /// The largest memory use so far, in bytes. `None` before Linux 5.19, which doesn't say.
    pub(super) fn peak(&self) -> Option<u64> {
        let text = fs::read_to_string(self.folder.join(self.peak)).ok()?;
        text.trim().parse().ok()
    }

    /// Sets the lowest limit that the kernel accepts: 64 KiB, or that doubled several times.
    /// Version 2 accepts every limit, and kills a process if it can't reclaim enough memory.
    pub(super) fn shrink_limit(&self) -> Result<()> {
        let file = self.folder.join(self.limit);
        let mut limit: u64 = 65_536;
        loop {
            match fs::write(&file, format!("{limit}")) {
                // Version 1 refuses a limit below the memory that it can't reclaim.
                Err(error) if error.kind() == ErrorKind::ResourceBusy && limit < MAX_LIMIT => {
                    limit *= 2;
                }
                written => return Ok(written?),
            }
        }
    }

    /// The number of processes in the group that the kernel killed for lack of memory.
    pub(super) fn count_kills(&self) -> Result<u32> {
        let text = fs::read_to_string(self.folder.join(self.events))?;
        let kills = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        Ok(kills
            .context("the cgroup's events have no line `oom_kill`")?
            .parse()?)
    }
}

impl Drop for MemoryCgroup {
    fn drop(&mut self) {
        // This fails if a process in the group still runs. Then the group stays.
        fs::remove_dir(&self.folder).ok();
    }
}
