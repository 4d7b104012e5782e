//! A build of the agent whose tables are laid out otherwise, as another release's may be.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    build_ebpf,
    process::{build, cargo, root},
};

/// Builds it from a copy of the sources, in which [`DIFFERENCES`] are made.
pub(super) fn agent() -> Result<PathBuf> {
    let copy = root().join("target/other-layout");
    for source in SOURCES {
        copy_changed(source.as_ref(), &copy)?;
    }
    build_ebpf::programs_of(&copy)?;
    build(
        cargo()
            .args(["build", "--quiet", "--package", "dns-agent"])
            .arg("--target-dir")
            .arg(copy.join("target"))
            .current_dir(&copy),
        "dns-agent",
    )
}

/// The workspace, as far as Cargo looks at it.
const SOURCES: [&str; 8] = [
    ".cargo",
    "Cargo.toml",
    "Cargo.lock",
    "dns-common",
    "dns-ebpf",
    "dns-agent",
    "tests",
    "xtask",
];

struct Difference {
    file: &'static str,
    /// Stands there once.
    here: &'static str,
    there: &'static str,
}

/// Where the lease is, and which of how many settings count; what a directory's word says, where
/// its number leads, and where the name's length is there.
const DIFFERENCES: [Difference; 10] = [
    Difference {
        file: "dns-common/src/settings.rs",
        here: "pub struct Control {\n",
        there: "pub struct Control {\n    /// Moves the others.\n    pub first: u64,\n",
    },
    Difference {
        file: "dns-common/src/settings.rs",
        here: "pub reserved: [u64; 6],",
        there: "pub reserved: [u64; 5],",
    },
    Difference {
        file: "dns-common/src/settings.rs",
        here: "SLOTS: u32 = 4;",
        there: "SLOTS: u32 = 5;",
    },
    Difference {
        file: "dns-common/src/directory.rs",
        here: "Self((tag as u64) << 32 | record as u64)",
        there: "Self((record as u64) << 32 | tag as u64)",
    },
    Difference {
        file: "dns-common/src/directory.rs",
        here: "Self(0xffff_ffff_0000_0000)",
        there: "Self(0x0000_0000_ffff_ffff)",
    },
    Difference {
        file: "dns-common/src/directory.rs",
        here: "tag(self) -> u32 {\n        (self.0 >> 32) as u32",
        there: "tag(self) -> u32 {\n        self.0 as u32",
    },
    Difference {
        file: "dns-common/src/directory.rs",
        here: "record(self) -> u32 {\n        self.0 as u32",
        there: "record(self) -> u32 {\n        (self.0 >> 32) as u32",
    },
    Difference {
        file: "dns-common/src/records.rs",
        here: "CHUNK: usize = 1 << 18;",
        there: "CHUNK: usize = 1 << 17;",
    },
    Difference {
        file: "dns-common/src/records.rs",
        here: "pub name_len: u16,",
        there: "pub reserved: u16,",
    },
    Difference {
        file: "dns-common/src/records.rs",
        here: "pub reserved: u16,\n    /// The name's hash",
        there: "pub name_len: u16,\n    /// The name's hash",
    },
];

/// Copies a file or directory, but leaves alone what is as it should be, so that Cargo does too.
fn copy_changed(source: &Path, copy: &Path) -> Result<()> {
    let from = root().join(source);
    if from.is_dir() {
        let entries = fs::read_dir(&from)
            .and_then(|entries| {
                entries
                    .map(|entry| Ok(entry?.file_name()))
                    .collect::<Result<Vec<_>, _>>()
            })
            .with_context(|| format!("cannot list {}", from.display()))?;
        return entries
            .iter()
            .try_for_each(|name| copy_changed(&source.join(name), copy));
    }
    let text = fs::read(&from).with_context(|| format!("cannot read {}", from.display()))?;
    let text = changed(source, text)?;
    let to = copy.join(source);
    if fs::read(&to).is_ok_and(|there| there == text) {
        return Ok(());
    }
    to.parent()
        .map_or(Ok(()), fs::create_dir_all)
        .and_then(|()| fs::write(&to, text))
        .with_context(|| format!("cannot write {}", to.display()))
}

fn changed(source: &Path, text: Vec<u8>) -> Result<Vec<u8>> {
    let mut differences = DIFFERENCES
        .iter()
        .filter(|difference| source == Path::new(difference.file))
        .peekable();
    if differences.peek().is_none() {
        return Ok(text);
    }
    let mut text =
        String::from_utf8(text).with_context(|| format!("{} is not UTF-8", source.display()))?;
    for Difference { file, here, there } in differences {
        ensure!(
            text.matches(here).count() == 1,
            "{file} does not have {here:?} once: the differences in {} are out of date",
            file!()
        );
        text = text.replace(here, there);
    }
    Ok(text.into_bytes())
}
