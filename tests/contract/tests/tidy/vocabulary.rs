//! Words to avoid, because the glossary has another term or because readers stumble over them.

use crate::{
    repository::{RepositoryFile, is_word_character, repository},
    violations::Violations,
};

/// A word or phrase in lower case, and what to write instead.
struct AvoidedPhrase {
    words: &'static [&'static str],
    instead: &'static str,
}

/// A text in which an avoided word may occur.
struct AllowedPhrase {
    /// The only file, or an empty text for all files.
    file: &'static str,
    text: &'static str,
    reason: &'static str,
}

const AVOIDED: [AvoidedPhrase; 12] = [
    avoid(&["somebody"], "name the program or person"),
    avoid(&["nobody"], "name who does not"),
    avoid(&["whoever"], "name the program or person"),
    avoid(&["of", "ours"], "name Zerohop or its part"),
    avoid(&["at", "one", "stroke"], "write `atomically` or `at once`"),
    avoid(&["so", "many"], "write the number, or `therefore many`"),
    avoid(&["hand", "over"], "write `pass` or `send`"),
    avoid(&["hands", "over"], "write `passes` or `sends`"),
    avoid(&["octet"], "write `byte`"),
    avoid(&["octets"], "write `bytes`"),
    avoid(&["departure"], "write `CoreDNS deviation`"),
    avoid(&["departures"], "write `CoreDNS deviations`"),
];

const ALLOWED: [AllowedPhrase; 3] = [
    AllowedPhrase {
        file: "",
        text: ".octets()",
        reason: "the method of the standard library",
    },
    AllowedPhrase {
        file: "xtask/src/registry.rs",
        text: "application/octet-stream",
        reason: "a media type (RFC 2046)",
    },
    AllowedPhrase {
        file: "",
        text: "pass-departures",
        reason: "the old name of the flag, which configurations may still contain",
    },
];

/// Files that are not checked: texts of other projects, and this file.
const SKIPPED: [&str; 5] = [
    "Cargo.lock",
    "LICENSE-APACHE",
    "LICENSE-GPL-2.0",
    "LICENSE-MIT",
    THIS_FILE,
];

const THIS_FILE: &str = "tests/contract/tests/tidy/vocabulary.rs";

/// A word of a file.
struct FoundWord {
    /// Offset in bytes.
    at: usize,
    lower: String,
    /// Whether only spaces, newlines and the marks of comments, headings, lists and quotations
    /// separate it from the word before.
    follows: bool,
}

const fn avoid(words: &'static [&'static str], instead: &'static str) -> AvoidedPhrase {
    AvoidedPhrase { words, instead }
}

#[test]
fn texts_have_no_avoided_words() {
    let mut violations = Violations::default();
    for file in checked_files() {
        let words = read_words(&file.text);
        for start in 0..words.len() {
            let mut avoided = AVOIDED.iter();
            let phrase = avoided.find(|phrase| starts_with(&words[start..], phrase.words));
            let at = words[start].at;
            if let Some(phrase) = phrase.filter(|_| find_exception(file, at).is_none()) {
                let line = file.text[..at].matches('\n').count() + 1;
                let what = format!("\"{}\"", phrase.words.join(" "));
                violations.add(&file.path, line, &what, phrase.instead);
            }
        }
    }
    violations.assert_none();
}

#[test]
fn every_exception_for_a_word_is_needed() {
    let mut violations = Violations::default();
    for allowed in &ALLOWED {
        let mut files = checked_files();
        let is_needed = files.any(|file| {
            (allowed.file.is_empty() || file.path == allowed.file)
                && file.text.contains(allowed.text)
        });
        if !is_needed {
            let what = format!("no file contains \"{}\" ({})", allowed.text, allowed.reason);
            violations.add(THIS_FILE, 1, &what, "remove the exception");
        }
    }
    violations.assert_none();
}

fn checked_files() -> impl Iterator<Item = &'static RepositoryFile> {
    let files = repository().files();
    // Seeds of proptest contain old values, which may have avoided words.
    files.filter(|file| {
        !SKIPPED.contains(&&*file.path) && !file.path.contains("/proptest-regressions/")
    })
}

/// The exception that covers the word at an offset.
fn find_exception(file: &RepositoryFile, at: usize) -> Option<&'static AllowedPhrase> {
    ALLOWED.iter().find(|allowed| {
        let is_file = allowed.file.is_empty() || file.path == allowed.file;
        let earliest = at.saturating_sub(allowed.text.len());
        let mut starts = (earliest..=at).filter(|start| file.text.is_char_boundary(*start));
        is_file
            && starts.any(|start| {
                file.text[start..].starts_with(allowed.text) && start + allowed.text.len() > at
            })
    })
}

fn starts_with(words: &[FoundWord], phrase: &[&str]) -> bool {
    let is_same = |at: usize| {
        let word = &words[at];
        word.lower == phrase[at] && (at == 0 || word.follows)
    };
    words.len() >= phrase.len() && (0..phrase.len()).all(is_same)
}

/// The words of a text. Identifiers with an underscore are one word.
fn read_words(text: &str) -> Vec<FoundWord> {
    let mut words: Vec<FoundWord> = Vec::new();
    let mut follows = false;
    let mut last_was_word = false;
    for (at, character) in text.char_indices() {
        match (is_word_character(character), last_was_word) {
            (true, true) => {
                let word = words.last_mut().expect("a word has begun");
                word.lower.extend(character.to_lowercase());
            }
            (true, false) => words.push(FoundWord {
                at,
                lower: character.to_lowercase().collect(),
                follows,
            }),
            (false, true) => follows = is_separator(character),
            (false, false) => follows &= is_separator(character),
        }
        last_was_word = is_word_character(character);
    }
    words
}

/// Whether a character may stand between two words of a phrase that a line break divides.
fn is_separator(character: char) -> bool {
    character.is_whitespace() || "/!#*>".contains(character)
}
