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
    Record, Rtype, WalkPosition, ZoneData, reverse_name, reverse_range,
};

pub use self::parser::{HostsFile, MAX_BYTES};
use self::parser::{HostsLine, LineProblem};

/// The most addresses of one name, and the most names of one address. Others are left out, so that
/// no answer is longer than a message.
const MAX_RECORDS: usize = 256;

/// The most problems of one kind and file that are reported one by one.
const MAX_PROBLEMS: usize = 20;

/// How many names a walk returns at a time.
const WALK_STEP: usize = 32;

/// The names of hosts files, in the order in which the operator named the files. A name that occurs
/// several times has all its addresses.
#[derive(Clone, Debug)]
pub struct HostsFiles {
    /// The TTL of records, in seconds.
    ttl: u32,
    files: Vec<FollowedFile>,
    names: Arc<ExactNames>,
    /// What the limits of addresses and names leave out.
    problems: Arc<BTreeSet<String>>,
    changes: NameChanges,
}

/// One of the files.
#[derive(Clone, Debug)]
struct FollowedFile {
    path: PathBuf,
    /// Whether the first attempt to read the file has ended.
    is_tried: bool,
    /// The contents of the last successful reading.
    contents: Arc<HostsFile>,
    /// The number of names with addresses.
    count_names: usize,
}

/// The names of all files, and what is left out of them.
struct CollectedNames {
    names: ExactNames,
    problems: BTreeSet<String>,
}

impl HostsFiles {
    /// These files, which have not been read yet. `ttl` is that of all records, in seconds.
    #[must_use]
    pub fn new(paths: &[PathBuf], ttl: u32) -> HostsFiles {
        let file = |path: &PathBuf| FollowedFile {
            path: path.clone(),
            is_tried: false,
            contents: Arc::default(),
            count_names: 0,
        };
        HostsFiles {
            ttl,
            files: paths.iter().map(file).collect(),
            names: Arc::default(),
            problems: Arc::default(),
            changes: NameChanges::default(),
        }
    }

    /// These files, with other contents of the file with this number. `None`: the file can't be
    /// read, so the contents of the last reading stay in force.
    ///
    /// The names of all files are computed. A caller whose files are shared does that before it
    /// locks them, and replaces them by the result.
    #[must_use]
    pub fn with_contents(&self, number: usize, contents: Option<HostsFile>) -> HostsFiles {
        let mut next = self.clone();
        let Some(file) = next.files.get_mut(number) else {
            return next;
        };
        file.is_tried = true;
        let Some(contents) = contents else {
            return next;
        };
        file.count_names = contents.count_names();
        file.contents = Arc::new(contents);
        let owner = NameOwner::new(format!("hosts file {}", file.path.display()));
        let CollectedNames { names, problems } = next.collect_names();
        let changed = self.names.difference(&names);
        next.names = Arc::new(names);
        next.problems = Arc::new(problems);
        if !changed.is_empty() {
            let names = next.changes.names.entry(owner).or_default();
            names.extend(changed);
        }
        next
    }

    /// Replaces these files by newer ones, and adds their changes. Returns the replaced files.
    #[must_use]
    pub fn replace_by(&mut self, newer: HostsFiles) -> HostsFiles {
        let mut older = std::mem::replace(self, newer);
        self.add_changes_of(&mut older);
        older
    }

    /// Adds changes of files that were replaced before they were applied.
    pub fn add_changes_of(&mut self, older: &mut HostsFiles) {
        for (owner, names) in std::mem::take(&mut older.changes).names {
            self.changes.names.entry(owner).or_default().extend(names);
        }
    }

    /// The number of names with addresses in the file with this number.
    #[must_use]
    pub fn count_names(&self, number: usize) -> usize {
        self.files.get(number).map_or(0, |file| file.count_names)
    }

    /// Whether any name is known.
    #[must_use]
    pub fn has_names(&self) -> bool {
        !self.names.is_empty()
    }

    /// The names of fewer than this many bytes in wire form.
    pub fn short_names(&self, bytes: usize) -> impl Iterator<Item = &Name> {
        let names = self.names.names_after(None);
        names.filter(move |name| name.wire().len() < bytes)
    }

    /// The names of all files, and the reverse names of their addresses.
    fn collect_names(&self) -> CollectedNames {
        let mut addresses: BTreeMap<&Name, Vec<IpAddr>> = BTreeMap::new();
        // The names that have more addresses, each with the line of the first one.
        let mut full: BTreeMap<&Name, ObjectRef> = BTreeMap::new();
        for (file, line) in all_lines(&self.files) {
            for name in &line.names {
                let known = addresses.entry(name).or_default();
                for address in &line.addresses {
                    if known.contains(address) {
                        continue;
                    }
                    if known.len() == MAX_RECORDS {
                        full.entry(name).or_insert_with(|| line_ref(file, line));
                        break;
                    }
                    known.push(*address);
                }
            }
        }
        let mut pointers: BTreeMap<IpAddr, Vec<&Name>> = BTreeMap::new();
        for (name, addresses) in &addresses {
            // Block lists give the unspecified address to very many names.
            for address in addresses.iter().filter(|it| !it.is_unspecified()) {
                let names = pointers.entry(*address).or_default();
                if names.len() < MAX_RECORDS {
                    names.push(*name);
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
        let shown = full.iter().take(MAX_PROBLEMS).map(|(name, line)| {
            format!(
                "{line}: {name} has more than {MAX_RECORDS} addresses, and the others are left out"
            )
        });
        let more = full.len().saturating_sub(MAX_PROBLEMS);
        let more =
            (more > 0).then(|| format!("{more} more names have more than {MAX_RECORDS} addresses"));
        CollectedNames {
            problems: shown.chain(more).collect(),
            names: ExactNames::new(entries),
        }
    }

    /// The lines that make a record.
    fn lines_of(&self, record: &Record) -> Vec<ObjectRef> {
        let address = address_of(&record.owner);
        let makes = |line: &HostsLine| match &record.data {
            Rdata::A(address) => line.has(&record.owner, (*address).into()),
            Rdata::Aaaa(address) => line.has(&record.owner, (*address).into()),
            Rdata::Ptr(target) => address.is_some_and(|address| line.has(target, address)),
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
        Box::new(&*self.names)
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
        let mut problems = (*self.problems).clone();
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
        let address = address_of(name);
        let (what, line) = all_lines(&self.files).find_map(|(file, line)| {
            let is_name = line.names.contains(name);
            let is_reverse = address.is_some_and(|address| line.addresses.contains(&address));
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

/// The address that a reverse name stands for.
fn address_of(name: &Name) -> Option<IpAddr> {
    let range = reverse_range(name)?;
    (range.start() == range.end()).then_some(*range.start())
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
