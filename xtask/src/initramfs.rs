//! Writes the initramfs of a guest: the archive that the kernel unpacks at boot.
//!
//! The format is "newc" (Documentation/driver-api/early-userspace/buffer-format.rst in the kernel's
//! tree). Writing it directly allows a device node without root.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::process::shared_libraries;

/// An archive that is being written, in memory.
#[derive(Default)]
pub(crate) struct Initramfs {
    bytes: Vec<u8>,
    /// The paths in the archive. A path that is added again is ignored.
    paths: BTreeSet<PathBuf>,
}

impl Initramfs {
    /// Adds a file of this machine, under the path `to`.
    pub(crate) fn add_file(&mut self, from: &Path, to: &Path) -> Result<()> {
        let context = || format!("cannot read {}", from.display());
        let permissions = from.metadata().with_context(context)?.permissions().mode() & 0o777;
        self.add_contents(to, permissions, &fs::read(from).with_context(context)?)
    }

    /// Adds a program, and the shared libraries that it is linked with.
    pub(crate) fn add_program(&mut self, from: &Path, to: &Path) -> Result<()> {
        for library in shared_libraries(from)? {
            self.add_file(&library, &library)?;
        }
        self.add_file(from, to)
    }

    /// Adds a file with these contents.
    pub(crate) fn add_contents(
        &mut self,
        path: &Path,
        permissions: u32,
        contents: &[u8],
    ) -> Result<()> {
        self.add_entry(path, REGULAR | permissions, (0, 0), contents)
    }

    /// Adds a directory.
    pub(crate) fn add_directory(&mut self, path: &Path) -> Result<()> {
        self.add_entry(path, DIRECTORY | 0o755, (0, 0), &[])
    }

    /// Adds a symbolic link.
    pub(crate) fn add_link(&mut self, path: &Path, target: &str) -> Result<()> {
        self.add_entry(path, LINK | 0o777, (0, 0), target.as_bytes())
    }

    /// Adds a character device with this major and minor number.
    pub(crate) fn add_device(&mut self, path: &Path, number: (u32, u32)) -> Result<()> {
        self.add_entry(path, CHARACTER_DEVICE | 0o600, number, &[])
    }

    /// Ends the archive and writes it to a file.
    pub(crate) fn write(mut self, to: &Path) -> Result<()> {
        self.append_entry("TRAILER!!!", 0, (0, 0), &[])?;
        fs::write(to, self.bytes).with_context(|| format!("cannot write {}", to.display()))
    }

    fn add_entry(
        &mut self,
        path: &Path,
        mode: u32,
        device: (u32, u32),
        contents: &[u8],
    ) -> Result<()> {
        if !self.paths.insert(path.to_owned()) {
            return Ok(());
        }
        if let Some(parent) = path.parent().filter(|parent| *parent != Path::new("/")) {
            self.add_directory(parent)?;
        }
        let path = path
            .to_str()
            .with_context(|| format!("{} is not UTF-8", path.display()))?;
        self.append_entry(path.trim_start_matches('/'), mode, device, contents)
    }

    fn append_entry(
        &mut self,
        name: &str,
        mode: u32,
        device: (u32, u32),
        contents: &[u8],
    ) -> Result<()> {
        let length =
            u32::try_from(contents.len()).with_context(|| format!("{name} has 4 GiB or more"))?;
        let name_length = u32::try_from(name.len() + 1)?;
        // Need not be unique: the kernel compares inodes only of files with several links.
        let inode = u32::try_from(self.paths.len())?;
        self.bytes.extend_from_slice(b"070701");
        // Inode, mode, uid, gid, links, mtime, size, device of the file system (2), device (2),
        // length of the name with its final 0, checksum.
        for field in [
            inode,
            mode,
            0,
            0,
            1,
            0,
            length,
            0,
            0,
            device.0,
            device.1,
            name_length,
            0,
        ] {
            self.bytes
                .extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend_from_slice(contents);
        self.align();
        Ok(())
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

/// The file types of `st_mode`.
const REGULAR: u32 = 0o100_000;
const DIRECTORY: u32 = 0o040_000;
const LINK: u32 = 0o120_000;
const CHARACTER_DEVICE: u32 = 0o020_000;
