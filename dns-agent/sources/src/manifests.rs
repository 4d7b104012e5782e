//! Kubernetes objects from files.
//!
//! A file holds YAML documents, and a document holds one object or a list of objects. JSON is read
//! as YAML. Each document is read twice: first for its outline (which kind is on which line), then
//! for the objects of supported kinds.

mod item;
mod outline;

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use serde::{Deserialize, de::DeserializeSeed};
use serde_saphyr::{Deserializer, Spanned};
use zerohop_kubernetes::{Labels, Objects, Selectors};

use self::{item::ManifestItem, outline::Outline};
use crate::files;

/// The extensions of the files that are read from a directory.
const EXTENSIONS: [&str; 3] = ["yaml", "yml", "json"];

/// Upper limits on the input, so that a wrong path doesn't exhaust the memory.
#[derive(Clone, Copy, Debug)]
struct ManifestLimits {
    /// The number of manifest files in a directory.
    files: usize,
    /// The size of one file in bytes.
    file: u64,
    /// The size of all files together in bytes.
    all: u64,
}

const LIMITS: ManifestLimits = ManifestLimits {
    files: 10_000,
    file: 64 << 20,
    all: 256 << 20,
};

/// Why manifests can't be loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestError {
    /// The file. The directory, if the error concerns it.
    pub file: PathBuf,
    /// The line in the file, counted from 1. `None` if the error concerns the whole file or the
    /// directory, or if the parser reports no line.
    pub line: Option<usize>,
    /// The error, as a clause for the operator.
    pub reason: String,
}

/// Reads all objects of a file, or of a directory's `*.yaml`, `*.yml` and `*.json` files in the
/// order of their names, without hidden files and subdirectories.
///
/// Objects of kinds that Zerohop doesn't read are ignored. If an object occurs twice, the later one
/// counts. Objects that the selectors don't match are left out, as an API server would do. A
/// headless Service without a selected EndpointSlice becomes
/// [`HeadlessWithoutSlices`](zerohop_kubernetes::ServiceKind::HeadlessWithoutSlices), because its
/// endpoints are unknown.
///
/// Only regular files are read: at most 10,000 in a directory, at most 64 MiB each, and at most 256
/// MiB together.
///
/// # Errors
/// When a file can't be read or exceeds a limit, or when a document or an object is invalid. The
/// errors of all files are returned, and no objects. After too many files, or too many bytes in all
/// files together, nothing more is read.
pub fn load(path: &Path, selectors: &Selectors) -> Result<Objects, Vec<ManifestError>> {
    load_within(LIMITS, path, selectors)
}

fn load_within(
    limits: ManifestLimits,
    path: &Path,
    selectors: &Selectors,
) -> Result<Objects, Vec<ManifestError>> {
    let mut objects = Objects {
        // The first Namespace that is read, selected or not, sets this to true. Before that, every
        // namespace counts as having no labels. If the selector matches a Namespace without labels,
        // any namespace may exist.
        namespaces_known: !selectors.namespaces.matches(&Labels::new()),
        ..Objects::default()
    };
    let mut errors = Vec::new();
    let files = manifest_files(path).map_err(|error| vec![read_error(path, &error)])?;
    if files.len() > limits.files {
        let reason = format!(
            "holds {} manifest files, but the limit is {}",
            files.len(),
            limits.files
        );
        return Err(vec![file_error(path, reason)]);
    }
    let mut bytes = 0;
    for file in files {
        let text = match files::read_text(&file, limits.file) {
            Ok(text) => text,
            Err(error) => {
                errors.push(read_error(&file, &error));
                continue;
            }
        };
        bytes += text.len() as u64;
        if bytes > limits.all {
            let reason = format!(
                "with this file, all files together are larger than the limit of {} bytes",
                limits.all
            );
            errors.push(file_error(&file, reason));
            break;
        }
        read_objects(&text, selectors, &mut objects).unwrap_or_else(|found| {
            errors.extend(found.into_iter().map(|error| error.in_file(&file)));
        });
    }
    objects.mark_services_without_slices();
    // The client policy needs its facts only if a policy may restrict clients.
    if !objects.facts.may_restrict() {
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

/// Metadata of the manifest files, to detect changes without reading the files. For each path:
/// device, inode, size, seconds and nanoseconds of the modification time, and seconds of the change
/// time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileStamps(BTreeMap<PathBuf, [i64; 6]>);

impl FileStamps {
    /// The metadata of the files that [`load`] would read.
    ///
    /// # Errors
    /// When the metadata of the path, or the directory, can't be read.
    pub fn read(path: &Path) -> io::Result<FileStamps> {
        let mut stamps = BTreeMap::new();
        for file in manifest_files(path)? {
            // A file without readable metadata, such as a dangling link, has a stamp of zeros.
            let stamp = fs::metadata(&file).map_or([0; 6], |it| {
                let (device, inode) = (it.dev().cast_signed(), it.ino().cast_signed());
                let (seconds, nanoseconds) = (it.mtime(), it.mtime_nsec());
                let size = it.size().cast_signed();
                [device, inode, size, seconds, nanoseconds, it.ctime()]
            });
            stamps.insert(file, stamp);
        }
        Ok(FileStamps(stamps))
    }
}

/// The file at a path, or the manifest files of the directory at the path, sorted by name.
fn manifest_files(path: &Path) -> io::Result<Vec<PathBuf>> {
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

fn read_error(file: &Path, error: &io::Error) -> ManifestError {
    file_error(file, format!("can't be read: {error}"))
}

/// An error that concerns a whole file.
fn file_error(file: &Path, reason: String) -> ManifestError {
    ManifestError {
        file: file.to_owned(),
        line: None,
        reason,
    }
}

/// Whether a directory entry is a manifest. Subdirectories are not. Hidden entries are not, because
/// hidden entries belong to an editor or to a ConfigMap volume. A dangling link counts as a
/// manifest, so that [`load`] reports it.
fn is_manifest(file: &Path) -> bool {
    let is_hidden = file
        .file_name()
        .is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
    let has_extension = file
        .extension()
        .is_some_and(|extension| EXTENSIONS.iter().any(|known| extension == *known));
    has_extension && !is_hidden && !file.is_dir()
}

/// An error at a line of a document, or of a file. The caller knows which document or file it is.
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

    fn in_file(self, file: &Path) -> ManifestError {
        ManifestError {
            file: file.to_owned(),
            line: self.line,
            reason: self.reason,
        }
    }
}

/// Adds the objects of a file's documents to `objects`. A broken document doesn't hide the errors
/// of the other documents.
fn read_objects(
    text: &str,
    selectors: &Selectors,
    objects: &mut Objects,
) -> Result<(), Vec<LineError>> {
    let mut errors = Vec::new();
    for document in split_documents(text) {
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
    /// The number of lines in the file before this document.
    lines_before: usize,
}

/// Splits a text at its document markers. `---` at the start of a line, followed by white space or
/// the end of the line, is always a marker, even inside a block scalar (YAML 1.2 section 9.1.2).
fn split_documents(text: &str) -> Vec<Document<'_>> {
    let mut documents = Vec::new();
    let mut start = 0;
    let mut lines_before = 0;
    let mut position = 0;
    // Directives and comments before the first marker belong to the first document.
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
    /// Adds the document's objects to `objects`, and the errors of single objects to `errors`.
    ///
    /// # Errors
    /// When the document can't be parsed, or is neither empty nor a Kubernetes object nor a list of
    /// objects.
    fn read(
        &self,
        selectors: &Selectors,
        objects: &mut Objects,
        errors: &mut Vec<LineError>,
    ) -> Result<(), LineError> {
        let outline: Spanned<Outline> = self.parse(|yaml| Spanned::deserialize(yaml))?;
        let item =
            ManifestItem::from_outline(&outline).map_err(|error| self.with_file_line(error))?;
        let mut found = Vec::new();
        self.parse(|yaml| item.reader(&mut found).deserialize(yaml))?;
        for object in found {
            match object {
                Ok((object, labels)) if selectors.selects(&object, &labels) => {
                    objects.insert(object);
                }
                // An earlier version may have been selected, but the latest version counts.
                Ok((object, _)) => objects.remove(&object),
                Err(error) => errors.push(self.with_file_line(error)),
            }
        }
        Ok(())
    }

    fn parse<'de, T>(
        &'de self,
        read: impl for<'e> FnOnce(Deserializer<'de, 'e>) -> Result<T, serde_saphyr::Error>,
    ) -> Result<T, LineError> {
        serde_saphyr::with_deserializer_from_str_with_options(self.text, options(), read)
            .map_err(|error| self.parser_error(&error))
    }

    /// Converts the error's line in the document to a line in the file.
    fn with_file_line(&self, error: LineError) -> LineError {
        LineError {
            line: error.line.map(|line| self.lines_before + line),
            ..error
        }
    }

    /// The parser's error, with its line in the file.
    fn parser_error(&self, error: &serde_saphyr::Error) -> LineError {
        let text = error.without_snippet().to_string();
        let line = error
            .location()
            .and_then(|location| usize::try_from(location.line()).ok());
        LineError {
            line: line.map(|line| self.lines_before + line),
            // The line at the end of the parser's message is cut off, because it counts from the
            // start of the document.
            reason: text
                .rsplit_once(" at line ")
                .map_or(text.as_str(), |(reason, _)| reason)
                .to_owned(),
        }
    }
}

/// Lifts the parser's limits on size, because manifests come from the operator and may be large.
/// Other limits stay, such as those on the expansion of aliases.
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
