//! The platforms of `tests/platforms`, and what the kernel answers there by default.

use std::{fs, path::Path};

/// A file of `tests/platforms`. It begins with comments that hold these fields.
#[derive(Clone, Debug)]
pub struct Platform {
    /// The file's name without `.yaml`.
    pub file: String,
    /// The names of the platform.
    pub title: String,
    /// What the kernel answers.
    pub answers: Answers,
    /// Where the objects are described. It says so if they aren't verified.
    pub source: String,
    /// A remark for operators. Empty if there is none.
    pub note: String,
}

/// What the kernel answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answers {
    /// Names that exist, and denials of absent ones.
    Most,
    /// Names that exist.
    Existing,
    /// No name.
    Nothing,
}

impl Platform {
    /// All platforms, in the order of their file names.
    ///
    /// # Panics
    /// If a file can't be read, or lacks a field.
    #[must_use]
    pub fn all() -> Vec<Platform> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../platforms");
        let files = fs::read_dir(folder).unwrap();
        let mut paths: Vec<_> = files.map(|file| file.unwrap().path()).collect();
        paths.sort();
        paths.iter().map(|path| Platform::read(path)).collect()
    }

    /// The table for the documentation.
    #[must_use]
    pub fn table() -> String {
        let mut table = "| platform | answered by default | remark |\n|---|---|---|\n".to_owned();
        for Platform {
            title,
            answers,
            source,
            note,
            ..
        } in Platform::all()
        {
            let unverified = source.contains("unverified").then_some("unverified");
            let note = Some(note.as_str()).filter(|note| !note.is_empty());
            let remarks: Vec<&str> = note.into_iter().chain(unverified).collect();
            let remarks = remarks.join("; ");
            table += &format!("| {title} | {} | {remarks} |\n", answers.text());
        }
        table
    }

    fn read(path: &Path) -> Platform {
        let text = fs::read_to_string(path).unwrap();
        let first = text.lines().next().unwrap();
        let field = |name: &str| {
            let start = format!("# {name}: ");
            text.lines().find_map(|line| line.strip_prefix(&start))
        };
        let missing = |name: &str| panic!("{} has no {name}", path.display());
        let answers = field("answers").unwrap_or_else(|| missing("answers"));
        Platform {
            file: path.file_stem().unwrap().to_str().unwrap().to_owned(),
            title: first.trim_start_matches("# ").to_owned(),
            answers: Answers::parse(answers)
                .unwrap_or_else(|| panic!("{}: answers: {answers}", path.display())),
            source: field("source")
                .unwrap_or_else(|| missing("source"))
                .to_owned(),
            note: field("note").unwrap_or_default().to_owned(),
        }
    }
}

impl Answers {
    /// Reads the text of a field. `None` if it is none of these.
    pub(crate) fn parse(text: &str) -> Option<Answers> {
        let known = [Answers::Most, Answers::Existing, Answers::Nothing];
        known.into_iter().find(|known| known.text() == text)
    }

    fn text(self) -> &'static str {
        match self {
            Answers::Most => "most",
            Answers::Existing => "names that exist",
            Answers::Nothing => "nothing",
        }
    }
}
