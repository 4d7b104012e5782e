//! The text files of the repository.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::LazyLock,
};

/// Folders without sources of this checkout. Their files are not read.
const SKIPPED_FOLDERS: [&str; 7] = [
    "target",
    ".git",
    ".worktrees",
    "fuzz/corpus",
    "fuzz/target",
    "fuzz/artifacts",
    "fuzz/coverage",
];

static REPOSITORY: LazyLock<Repository> = LazyLock::new(Repository::read);

/// The text files of the repository outside of skipped folders, in the order of paths, and the
/// folders.
pub(crate) struct Repository {
    files: Vec<RepositoryFile>,
    /// The folders, including skipped ones but not what is below these, in the form `/path/`.
    folders: Vec<String>,
}

/// A text file.
pub(crate) struct RepositoryFile {
    /// The path from the root of the repository.
    pub(crate) path: String,
    pub(crate) text: String,
}

/// The files of this repository.
pub(crate) fn repository() -> &'static Repository {
    &REPOSITORY
}

impl Repository {
    fn read() -> Repository {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let (mut files, mut folders) = (Vec::new(), Vec::new());
        let mut unread = vec![PathBuf::new()];
        while let Some(folder) = unread.pop() {
            let entries = fs::read_dir(root.join(&folder)).unwrap_or_else(|error| {
                panic!("cannot read the folder `{}`: {error}", folder.display())
            });
            for entry in entries {
                let entry = entry.expect("an entry of the folder can't be read");
                let path = folder.join(entry.file_name());
                let name = path.to_str().expect("a path is not UTF-8").to_owned();
                let kind = entry.file_type().expect("a file's type can't be read");
                if kind.is_dir() {
                    folders.push(format!("/{name}/"));
                    let is_skipped = SKIPPED_FOLDERS.contains(&&*name);
                    unread.extend((!is_skipped).then_some(path));
                } else if let Ok(text) = fs::read_to_string(entry.path()) {
                    files.push(RepositoryFile { path: name, text });
                }
            }
        }
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Repository { files, folders }
    }

    /// Every text file.
    pub(crate) fn files(&self) -> impl Iterator<Item = &RepositoryFile> {
        self.files.iter()
    }

    /// The files whose names have one of these extensions.
    pub(crate) fn with_extension(
        &self,
        extensions: &[&str],
    ) -> impl Iterator<Item = &RepositoryFile> {
        let files = self.files.iter();
        files.filter(|file| extensions.contains(&file.extension()))
    }

    /// The file at a path. Panics if there is no such file.
    pub(crate) fn file(&self, path: &str) -> &RepositoryFile {
        self.find(path)
            .unwrap_or_else(|| panic!("{path} does not exist"))
    }

    /// The file at a path, if there is one.
    pub(crate) fn find(&self, path: &str) -> Option<&RepositoryFile> {
        self.files.iter().find(|file| file.path == path)
    }

    /// Whether a text file or a folder has this path from the root.
    pub(crate) fn has(&self, path: &str) -> bool {
        let folder = format!("/{}/", path.trim_end_matches('/'));
        self.find(path).is_some() || self.folders.contains(&folder)
    }

    /// Whether a text file or a folder has this path from the root or from any other folder.
    pub(crate) fn has_below_any_folder(&self, path: &str) -> bool {
        let ending = format!("/{path}");
        let folder = format!("/{}/", path.trim_end_matches('/'));
        let (mut files, mut folders) = (self.files.iter(), self.folders.iter());
        self.find(path).is_some()
            || files.any(|file| file.path.ends_with(&ending))
            || folders.any(|known| known.ends_with(&folder))
    }
}

impl RepositoryFile {
    /// The part of the name after the last dot. Empty if the name has no dot.
    pub(crate) fn extension(&self) -> &str {
        let (_, name) = self.path.rsplit_once('/').unwrap_or(("", &self.path));
        name.rsplit_once('.').map_or("", |(_, extension)| extension)
    }

    /// The lines with their numbers, counted from 1.
    pub(crate) fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        numbered_lines(&self.text)
    }
}

/// The lines of a text with their numbers, counted from 1.
pub(crate) fn numbered_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(at, line)| (at + 1, line))
}

/// Whether a character can be part of a word or of an identifier.
pub(crate) fn is_word_character(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

/// Whether a text has this word, with no word character before or after it.
pub(crate) fn has_word(text: &str, word: &str) -> bool {
    text.match_indices(word).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + word.len()..].chars().next();
        !before.is_some_and(is_word_character) && !after.is_some_and(is_word_character)
    })
}
