//! Builds an agent with another layout of the tables, as another release may have.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    build_ebpf,
    process::{build, cargo, root},
};

/// Builds the agent from a copy of the sources to which [`SOURCE_EDITS`] are applied.
pub(super) fn build_agent() -> Result<PathBuf> {
    let copy = root().join("target/other-layout");
    for source in SOURCES {
        copy_edited(source.as_ref(), &copy)?;
    }
    build_ebpf::build_programs_in(&copy)?;
    build(
        cargo()
            .args(["build", "--quiet", "--package", "dns-agent"])
            .arg("--target-dir")
            .arg(copy.join("target"))
            .current_dir(&copy),
        "dns-agent",
    )
}

/// The parts of the workspace that Cargo needs. The agent includes a manifest.
const SOURCES: [&str; 9] = [
    ".cargo",
    "Cargo.toml",
    "Cargo.lock",
    "deploy",
    "dns-common",
    "dns-ebpf",
    "dns-agent",
    "tests",
    "xtask",
];

/// A replacement of text in a source file.
struct SourceEdit {
    file: &'static str,
    /// Text that occurs exactly once in the file, after the earlier edits.
    original: &'static str,
    replacement: &'static str,
}

/// These edits move the lease and the number of the current settings, add a copy of the settings,
/// swap the halves of a directory word, halve the chunks, and swap two fields of a record.
const SOURCE_EDITS: [SourceEdit; 10] = [
    SourceEdit {
        file: "dns-common/src/settings.rs",
        original: "pub struct Control {\n",
        replacement: "pub struct Control {\n    /// Moves the other fields.\n    pub first: u64,\n",
    },
    SourceEdit {
        file: "dns-common/src/settings.rs",
        original: "pub reserved: [u64; 6],",
        replacement: "pub reserved: [u64; 5],",
    },
    SourceEdit {
        file: "dns-common/src/settings.rs",
        original: "SETTINGS_COPIES: u32 = 4;",
        replacement: "SETTINGS_COPIES: u32 = 5;",
    },
    SourceEdit {
        file: "dns-common/src/directory.rs",
        original: "Self((tag as u64) << 32 | record as u64)",
        replacement: "Self((record as u64) << 32 | tag as u64)",
    },
    SourceEdit {
        file: "dns-common/src/directory.rs",
        original: "Self(0xffff_ffff_0000_0000)",
        replacement: "Self(0x0000_0000_ffff_ffff)",
    },
    SourceEdit {
        file: "dns-common/src/directory.rs",
        original: "tag(self) -> u32 {\n        (self.0 >> 32) as u32",
        replacement: "tag(self) -> u32 {\n        self.0 as u32",
    },
    SourceEdit {
        file: "dns-common/src/directory.rs",
        original: "record(self) -> u32 {\n        self.0 as u32",
        replacement: "record(self) -> u32 {\n        (self.0 >> 32) as u32",
    },
    SourceEdit {
        file: "dns-common/src/records.rs",
        original: "CHUNK: usize = 1 << 18;",
        replacement: "CHUNK: usize = 1 << 17;",
    },
    SourceEdit {
        file: "dns-common/src/records.rs",
        original: "pub name_length: u16,",
        replacement: "pub too_large: u16,",
    },
    SourceEdit {
        file: "dns-common/src/records.rs",
        original: "pub too_large: u16,\n    /// The hash of the name",
        replacement: "pub name_length: u16,\n    /// The hash of the name",
    },
];

/// Copies a file or directory, and applies its edits. Leaves identical files untouched, so that
/// Cargo does not build them again.
fn copy_edited(source: &Path, copy: &Path) -> Result<()> {
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
            .try_for_each(|name| copy_edited(&source.join(name), copy));
    }
    let text = fs::read(&from).with_context(|| format!("cannot read {}", from.display()))?;
    let text = apply_edits(source, text)?;
    let to = copy.join(source);
    if fs::read(&to).is_ok_and(|old| old == text) {
        return Ok(());
    }
    to.parent()
        .map_or(Ok(()), fs::create_dir_all)
        .and_then(|()| fs::write(&to, text))
        .with_context(|| format!("cannot write {}", to.display()))
}

fn apply_edits(source: &Path, text: Vec<u8>) -> Result<Vec<u8>> {
    let mut edits = SOURCE_EDITS
        .iter()
        .filter(|edit| source == Path::new(edit.file))
        .peekable();
    if edits.peek().is_none() {
        return Ok(text);
    }
    let mut text =
        String::from_utf8(text).with_context(|| format!("{} is not UTF-8", source.display()))?;
    for SourceEdit {
        file,
        original,
        replacement,
    } in edits
    {
        ensure!(
            text.matches(original).count() == 1,
            "{file} does not contain {original:?} exactly once: update the edits in {}",
            file!()
        );
        text = text.replace(original, replacement);
    }
    Ok(text.into_bytes())
}
