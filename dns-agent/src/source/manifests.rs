//! Kubernetes objects from files.
//!
//! A file holds documents, a document holds an object or a list of them. Each
//! document is read twice: once for its outline, which kind stands on which line,
//! and once for the objects of the kinds that matter.

mod item;
mod outline;

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use serde::{Deserialize, de::DeserializeSeed};
use serde_saphyr::Spanned;

use self::{item::Item, outline::Outline};
use crate::{
    cluster::{Labels, Objects, Selectors},
    files,
};

/// The names of files in a directory that are read.
const EXTENSIONS: [&str; 3] = ["yaml", "yml", "json"];

/// How much is read at most.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    /// Files of a directory.
    files: usize,
    /// Bytes of one file.
    file: u64,
    /// Bytes of all files together.
    all: u64,
}

const BOUNDS: Bounds = Bounds {
    files: 10_000,
    file: 64 << 20,
    all: 256 << 20,
};

/// Why a file's objects can't be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestError {
    /// The file.
    pub file: PathBuf,
    /// The line in the file, from 1; none if the file as a whole is at fault.
    pub line: Option<usize>,
    /// What is wrong there.
    pub reason: String,
}

/// Reads all objects of a file, or of a directory's `*.yaml`, `*.yml` and
/// `*.json` files in the order of their names. Where an object stands twice, the
/// later one counts. What the selectors don't select is left out, as an API server
/// would do. The endpoints of a headless Service without any EndpointSlice are not known.
///
/// Only regular files are read: a directory's are 10,000 at most, one is 64 MiB at most, and all are
/// 256 MiB together.
///
/// # Errors
/// Everything that is wrong, when anything is.
pub fn load(path: &Path, selectors: &Selectors) -> Result<Objects, Vec<ManifestError>> {
    load_within(BOUNDS, path, selectors)
}

fn load_within(
    bounds: Bounds,
    path: &Path,
    selectors: &Selectors,
) -> Result<Objects, Vec<ManifestError>> {
    let mut objects = Objects {
        // A Namespace that stands nowhere has no labels.
        namespaces_known: !selectors.namespaces.matches(&Labels::new()),
        ..Objects::default()
    };
    let mut errors = Vec::new();
    let files = files(path).map_err(|error| vec![unreadable(path, &error)])?;
    if files.len() > bounds.files {
        let reason = format!("holds {} files, and {} are read", files.len(), bounds.files);
        return Err(vec![whole(path, reason)]);
    }
    let mut bytes = 0;
    for file in files {
        let text = match files::read_text(&file, bounds.file) {
            Ok(text) => text,
            Err(error) => {
                errors.push(unreadable(&file, &error));
                continue;
            }
        };
        bytes += text.len() as u64;
        if bytes > bounds.all {
            let reason = format!("with it the files are larger than {} bytes", bounds.all);
            errors.push(whole(&file, reason));
            break;
        }
        read(&text, selectors, &mut objects).unwrap_or_else(|found| {
            errors.extend(found.into_iter().map(|error| error.within(&file)));
        });
    }
    objects.note_missing_slices();
    // What says who may ask is of use only where a policy does.
    if !objects.facts.restrict() {
        objects.facts = Box::default();
    }
    if errors.is_empty() {
        Ok(objects)
    } else {
        Err(errors)
    }
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.file.display(), self.reason),
            None => write!(f, "{}: {}", self.file.display(), self.reason),
        }
    }
}

impl std::error::Error for ManifestError {}

/// What tells a state of the files from another one, without reading them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp(BTreeMap<PathBuf, [i64; 6]>);

impl Stamp {
    /// The state of the files that [`load`] would read.
    ///
    /// # Errors
    /// When the path can't be looked at.
    pub fn of(path: &Path) -> io::Result<Stamp> {
        let mut stamps = BTreeMap::new();
        for file in files(path)? {
            // A link that leads nowhere is a state too.
            let stamp = fs::metadata(&file).map_or([0; 6], |it| {
                let (device, number) = (it.dev().cast_signed(), it.ino().cast_signed());
                let (seconds, nanoseconds) = (it.mtime(), it.mtime_nsec());
                let size = it.size().cast_signed();
                [device, number, size, seconds, nanoseconds, it.ctime()]
            });
            stamps.insert(file, stamp);
        }
        Ok(Stamp(stamps))
    }
}

/// The files to read.
fn files(path: &Path) -> io::Result<Vec<PathBuf>> {
    if !fs::metadata(path)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path)? {
        let file = entry?.path();
        if is_manifest(&file) {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

fn unreadable(file: &Path, error: &io::Error) -> ManifestError {
    whole(file, format!("can't be read: {error}"))
}

/// What is wrong with a file as a whole.
fn whole(file: &Path, reason: String) -> ManifestError {
    ManifestError {
        file: file.to_owned(),
        line: None,
        reason,
    }
}

/// Whether a directory's entry is to be read. What starts with a dot is an
/// editor's or a ConfigMap volume's own; a link that leads nowhere is kept, to
/// be reported.
fn is_manifest(file: &Path) -> bool {
    let hidden = file
        .file_name()
        .is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
    let named = file
        .extension()
        .is_some_and(|extension| EXTENSIONS.iter().any(|known| extension == *known));
    named && !hidden && !file.is_dir()
}

/// An error at a line of a text whose file is known elsewhere.
#[derive(Debug)]
struct LineError {
    line: Option<usize>,
    reason: String,
}

impl LineError {
    fn at(outline: &Spanned<Outline>, reason: impl Into<String>) -> LineError {
        let line = usize::try_from(outline.defined.line()).ok();
        LineError {
            line,
            reason: reason.into(),
        }
    }

    fn within(self, file: &Path) -> ManifestError {
        ManifestError {
            file: file.to_owned(),
            line: self.line,
            reason: self.reason,
        }
    }
}

/// Reads a file's documents. A broken one doesn't keep the errors of the others
/// from being found.
fn read(text: &str, selectors: &Selectors, objects: &mut Objects) -> Result<(), Vec<LineError>> {
    let mut errors = Vec::new();
    for document in documents(text) {
        if let Err(error) = document.read(selectors, objects, &mut errors) {
            errors.push(error);
        }
    }
    if errors.is_empty() {
        Ok(())
    } else {
        Err(errors)
    }
}

/// One YAML document of a file.
#[derive(Debug, PartialEq)]
struct Document<'a> {
    text: &'a str,
    /// The number of lines of the file before it.
    lines_before: usize,
}

/// Cuts a text at its document markers. A line that starts with `---` can be
/// nothing else, not even inside a block of text (YAML 1.2 section 9.1.2).
fn documents(text: &str) -> Vec<Document<'_>> {
    let mut documents = Vec::new();
    let mut start = 0;
    let mut lines_before = 0;
    let mut position = 0;
    // Directives and comments belong to the document after them.
    let mut in_preamble = true;
    for (index, line) in text.split_inclusive('\n').enumerate() {
        let is_marker = line
            .strip_prefix("---")
            .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']));
        if is_marker && !in_preamble {
            documents.push(Document {
                text: &text[start..position],
                lines_before,
            });
            start = position;
            lines_before = index;
        }
        in_preamble &= !is_marker && is_preamble(line);
        position += line.len();
    }
    documents.push(Document {
        text: &text[start..],
        lines_before,
    });
    documents
}

fn is_preamble(line: &str) -> bool {
    let line = line.trim_start_matches('\u{feff}');
    line.trim().is_empty() || line.starts_with(['#', '%'])
}

impl Document<'_> {
    /// Adds the document's objects. What is wrong with single objects goes to
    /// `errors`; what keeps the document from being read is returned.
    fn read(
        &self,
        selectors: &Selectors,
        objects: &mut Objects,
        errors: &mut Vec<LineError>,
    ) -> Result<(), LineError> {
        let outline: Spanned<Outline> = self.parse(|yaml| Spanned::deserialize(yaml))?;
        let item = Item::of(&outline).map_err(|error| self.moved(error))?;
        let mut found = Vec::new();
        self.parse(|yaml| item.reader(&mut found).deserialize(yaml))?;
        for object in found {
            match object {
                Ok((object, labels)) if selectors.select(&object, &labels) => {
                    objects.insert(object);
                }
                Ok((object, _)) => objects.remove(&object),
                Err(error) => errors.push(self.moved(error)),
            }
        }
        Ok(())
    }

    fn parse<'de, T>(
        &'de self,
        read: impl for<'e> FnOnce(serde_saphyr::Deserializer<'de, 'e>) -> Result<T, serde_saphyr::Error>,
    ) -> Result<T, LineError> {
        serde_saphyr::with_deserializer_from_str_with_options(self.text, options(), read)
            .map_err(|error| self.located(&error))
    }

    /// An error of the document, with its line in the file.
    fn moved(&self, error: LineError) -> LineError {
        LineError {
            line: error.line.map(|line| self.lines_before + line),
            ..error
        }
    }

    /// The parser's error, with its line in the file.
    fn located(&self, error: &serde_saphyr::Error) -> LineError {
        let text = error.without_snippet().to_string();
        let line = error
            .location()
            .and_then(|location| usize::try_from(location.line()).ok());
        LineError {
            line: line.map(|line| self.lines_before + line),
            // The parser's own mention of the place counts from the document.
            reason: text
                .rsplit_once(" at line ")
                .map_or(text.as_str(), |(reason, _)| reason)
                .to_owned(),
        }
    }
}

/// The parser's limits protect from strangers' documents; these files are the
/// operator's, and may be large. What aliases multiply stays limited.
fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_events: usize::MAX,
            max_nodes: usize::MAX,
            max_total_scalar_bytes: usize::MAX,
        },
        with_snippet: false,
    }
}

#[cfg(test)]
mod tests;
