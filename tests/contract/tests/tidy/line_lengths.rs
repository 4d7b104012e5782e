//! Lines have at most 100 columns.

use crate::{
    markdown::{MarkdownKind, markdown_lines},
    repository::{RepositoryFile, repository},
    rust_text::RustText,
    violations::Violations,
};

/// The largest number of characters in a line.
const COLUMNS: usize = 100;

/// Extensions of sources in other languages, whose lines are all checked.
const OTHER_SOURCES: [&str; 5] = ["c", "go", "py", "sh", "dict"];

/// Extensions of data in which only comments are checked, because a value can't be broken.
const DATA: [&str; 5] = ["toml", "yaml", "scn", "tpl", "gitignore"];

/// Languages of fences with output of programs, which is not checked. Empty: no language is given.
const OUTPUT: [&str; 3] = ["", "console", "text"];

#[test]
fn sources_have_short_lines() {
    let mut violations = Violations::default();
    for file in repository().with_extension(&["rs"]) {
        let literals = RustText::read(&file.text).longest_literals();
        for ((number, line), literal) in file.lines().zip(literals) {
            if is_long(line) && !is_unbreakable(line, literal) {
                add_long_line(&mut violations, file, number, line);
            }
        }
    }
    for file in repository().with_extension(&OTHER_SOURCES) {
        for (number, line) in file.lines().filter(|(_, line)| is_long(line)) {
            add_long_line(&mut violations, file, number, line);
        }
    }
    violations.assert_none();
}

#[test]
fn comments_of_data_have_short_lines() {
    let mut violations = Violations::default();
    for file in repository().with_extension(&DATA) {
        let comments = file.lines();
        let comments = comments.filter(|(_, line)| line.trim_start().starts_with('#'));
        for (number, line) in comments.filter(|(_, line)| is_long(line)) {
            add_long_line(&mut violations, file, number, line);
        }
    }
    violations.assert_none();
}

#[test]
fn documents_have_short_lines() {
    let mut violations = Violations::default();
    for file in repository().with_extension(&["md"]) {
        for line in markdown_lines(file) {
            let is_exempt = match line.kind {
                MarkdownKind::Prose => false,
                MarkdownKind::TableRow => true,
                MarkdownKind::Fenced(language) => OUTPUT.contains(&language),
            };
            if !is_exempt && is_long(line.text) {
                add_long_line(&mut violations, file, line.number, line.text);
            }
        }
    }
    violations.assert_none();
}

/// Whether a line is too long. Lines with URLs of at least half the limit are exempt.
fn is_long(line: &str) -> bool {
    let columns = line.chars().count();
    let urls = line.split_whitespace().filter(|word| word.contains("://"));
    columns > COLUMNS && urls.map(|url| url.chars().count()).sum::<usize>() < COLUMNS / 2
}

/// Whether a line is too long because of a literal of `literal` characters. Such a literal would be
/// too long even on a line of its own, indented once more and with a comma, so rustfmt does not
/// break the line. The characters of a literal that begins on an earlier line include the
/// indentation, which then counts twice; rustfmt does not break such a line at all.
fn is_unbreakable(line: &str, literal: usize) -> bool {
    let text = line.trim_start();
    let indentation = line.len() - text.len();
    let deeper = if text.starts_with('"') { 0 } else { 4 };
    indentation + deeper + literal + 1 > COLUMNS
}

fn add_long_line(violations: &mut Violations, file: &RepositoryFile, number: usize, line: &str) {
    let columns = line.chars().count();
    let what = format!("the line has {columns} columns");
    let remedy = format!("break it into lines of at most {COLUMNS}");
    violations.add(&file.path, number, &what, &remedy);
}
