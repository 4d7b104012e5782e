//! Hosts files (`hosts(5)`): addresses of names, line by line.
//!
//! A line has an address, or several, and then one or more names; `#` starts a comment. A file owns
//! exactly these names, and the reverse names of its addresses. It says nothing about any other
//! name, so no name is denied because a file lacks it. Of a name, the addresses are known: if it
//! has none of a family, the answer is NODATA, and queries for other types pass.

mod parser;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use zerohop_zone::{
    ExactNames, Name, NameChanges, NameEntry, NameOwner, ObjectRef, Origin, Provider, Rdata,
    Record, Rtype, WalkPosition, ZoneData, reverse_name,
};

pub use self::parser::{HostsFile, MAX_BYTES};
use self::parser::{HostsLine, LineProblem};

/// The most addresses of one name, and the most names of one address. Further lines of the name,
/// and PTR records of the address, are left out, so that no answer is longer than a message.
const MAX_RECORDS: usize = 256;

/// The most problems of one file that are reported one by one.
const MAX_PROBLEMS: usize = 20;

/// How many names a walk returns at a time.
const WALK_STEP: usize = 256;

/// The names of hosts files, in the order in which the operator named the files. A name that occurs
/// several times has all its addresses.
#[derive(Debug)]
pub struct HostsFiles {
    /// The TTL of records, in seconds.
    ttl: u32,
    files: Vec<FollowedFile>,
    names: ExactNames,
    /// What the number of addresses and names leaves out.
    problems: BTreeSet<String>,
    changes: NameChanges,
}

/// One of the files.
#[derive(Debug)]
struct FollowedFile {
    path: PathBuf,
    /// Whether the first attempt to read the file has ended.
    is_tried: bool,
    /// The contents of the last successful reading.
    contents: HostsFile,
}

impl HostsFiles {
    /// These files, which have not been read yet. `ttl` is that of all records, in seconds.
    #[must_use]
    pub fn new(paths: &[PathBuf], ttl: u32) -> HostsFiles {
        let file = |path: &PathBuf| FollowedFile {
            path: path.clone(),
            is_tried: false,
            contents: HostsFile::default(),
        };
        HostsFiles {
            ttl,
            files: paths.iter().map(file).collect(),
            names: ExactNames::default(),
            problems: BTreeSet::new(),
            changes: NameChanges::default(),
        }
    }

    /// Replaces the contents of the file with this number. `None`: the file can't be read, so the
    /// contents of the last reading stay in force.
    pub fn replace_contents(&mut self, number: usize, contents: Option<HostsFile>) {
        let Some(file) = self.files.get_mut(number) else {
            return;
        };
        file.is_tried = true;
        let Some(contents) = contents else {
            return;
        };
        file.contents = contents;
        let owner = NameOwner::new(format!("hosts file {}", file.path.display()));
        let names = self.collect_names();
        let changed = self.names.difference(&names);
        self.names = names;
        if !changed.is_empty() {
            let names = self.changes.names.entry(owner).or_default();
            names.extend(changed);
        }
    }

    /// The number of names with addresses in the file with this number.
    #[must_use]
    pub fn count_names(&self, number: usize) -> usize {
        let lines = self.files.get(number).into_iter();
        let names = lines.flat_map(|file| file.contents.lines.iter().flat_map(|line| &line.names));
        names.collect::<BTreeSet<_>>().len()
    }

    /// Whether any name is known.
    #[must_use]
    pub fn has_names(&self) -> bool {
        !self.names.is_empty()
    }

    /// The names of all files, and the reverse names of their addresses.
    fn collect_names(&mut self) -> ExactNames {
        let mut addresses: BTreeMap<&Name, Vec<IpAddr>> = BTreeMap::new();
        let mut pointers: BTreeMap<IpAddr, BTreeSet<&Name>> = BTreeMap::new();
        self.problems.clear();
        for (file, line) in all_lines(&self.files) {
            for name in &line.names {
                let known = addresses.entry(name).or_default();
                for address in &line.addresses {
                    if known.contains(address) {
                        continue;
                    }
                    if known.len() == MAX_RECORDS {
                        self.problems.insert(format!(
                            "hosts file {}, line {}: {name} has more than {MAX_RECORDS} addresses, \
                             and the others are left out",
                            file.path.display(),
                            line.number
                        ));
                        break;
                    }
                    known.push(*address);
                }
            }
            // Block lists give the unspecified address to very many names.
            let specified = line.addresses.iter().filter(|it| !it.is_unspecified());
            for address in specified {
                let names = pointers.entry(*address).or_default();
                for name in &line.names {
                    if names.len() < MAX_RECORDS {
                        names.insert(name);
                    }
                }
            }
        }
        let mut entries = BTreeMap::new();
        for (address, names) in pointers {
            let mut entry = NameEntry::default();
            let targets = names.into_iter().cloned().map(Rdata::Ptr);
            entry.add_rrset(self.ttl, targets.collect());
            entries.insert(
                reverse_name(address),
                Arc::new(entry.delegating_other_types()),
            );
        }
        for (name, addresses) in addresses {
            let entry = NameEntry::of_host(self.ttl, &addresses);
            entries.insert(name.clone(), Arc::new(entry));
        }
        ExactNames::new(entries)
    }

    /// The lines that make a record.
    fn lines_of(&self, record: &Record) -> Vec<ObjectRef> {
        let makes = |line: &HostsLine| match &record.data {
            Rdata::A(address) => line.has(&record.owner, (*address).into()),
            Rdata::Aaaa(address) => line.has(&record.owner, (*address).into()),
            Rdata::Ptr(target) => (line.addresses.iter())
                .any(|it| reverse_name(*it) == record.owner && line.names.contains(target)),
            // The SOA record of a negative answer.
            Rdata::Soa(soa) => soa.mname == record.owner && line.names.contains(&record.owner),
            _ => false,
        };
        let lines = all_lines(&self.files).filter(|(_, line)| makes(line));
        lines.map(|(file, line)| line_ref(file, line)).collect()
    }
}

impl Provider for HostsFiles {
    fn zone_data(&self) -> Box<dyn ZoneData + '_> {
        Box::new(&self.names)
    }

    fn is_complete(&self) -> bool {
        self.files.iter().all(|file| file.is_tried)
    }

    fn take_changes(&mut self) -> NameChanges {
        std::mem::take(&mut self.changes)
    }

    /// Nothing to do, because no answer has a serial that changes.
    fn set_serial(&mut self, _serial: u32) {}

    fn problems(&self) -> BTreeSet<String> {
        let mut problems = self.problems.clone();
        for file in &self.files {
            let path = file.path.display();
            let all = &file.contents.problems;
            for LineProblem { line, reason } in all.iter().take(MAX_PROBLEMS) {
                problems.insert(format!(
                    "hosts file {path}, line {line}: {reason}; the line is skipped"
                ));
            }
            let more = file.contents.count_problems.saturating_sub(MAX_PROBLEMS);
            if more > 0 {
                problems.insert(format!("hosts file {path}: {more} more lines are skipped"));
            }
        }
        problems
    }

    fn outranked_problem(&self, name: &Name) -> Option<String> {
        let (what, line) = all_lines(&self.files).find_map(|(file, line)| {
            let is_name = line.names.contains(name);
            let mut addresses = line.addresses.iter();
            let is_reverse = addresses.any(|address| reverse_name(*address) == *name);
            let what = if is_name { "" } else { "the PTR record of " };
            (is_name || is_reverse).then(|| (what, line_ref(file, line)))
        })?;
        Some(format!(
            "{line}: {what}{name} is not answered from the file, because the name is in a zone \
             of the cluster that has it, denies it or delegates it: remove it, or give \
             --hosts-override"
        ))
    }

    fn origin_of(&self, record: &Record) -> Origin {
        let lines = self.lines_of(record);
        if lines.is_empty() {
            Origin::Unknown
        } else {
            Origin::Objects(lines)
        }
    }

    fn reasons_for_absence(&self, _name: &Name, _rtype: Rtype) -> Vec<String> {
        Vec::new()
    }

    fn walk(&self, _zone: Option<&Name>, from: &WalkPosition) -> Option<(Vec<Name>, WalkPosition)> {
        let names = self.names.names_after(from.get::<Name>());
        let names: Vec<Name> = names.take(WALK_STEP).cloned().collect();
        let last = names.last()?.clone();
        Some((names, WalkPosition::new(last)))
    }
}

fn all_lines(files: &[FollowedFile]) -> impl Iterator<Item = (&FollowedFile, &HostsLine)> {
    let files = files.iter();
    files.flat_map(|file| file.contents.lines.iter().map(move |line| (file, line)))
}

/// A line as the origin of a record: `File /etc/hosts:12`.
fn line_ref(file: &FollowedFile, line: &HostsLine) -> ObjectRef {
    ObjectRef {
        kind: "File".to_owned(),
        namespace: String::new(),
        name: format!("{}:{}", file.path.display(), line.number),
    }
}

/// Reads a hosts file.
///
/// # Errors
/// When the file can't be read, is not a regular file, or is larger than [`MAX_BYTES`].
pub fn read(path: &Path) -> std::io::Result<HostsFile> {
    let bytes = crate::files::read_bytes(path, MAX_BYTES)?;
    Ok(HostsFile::parse(&bytes))
}

#[cfg(test)]
mod tests;
