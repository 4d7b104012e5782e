//! Markdown, as far as the rules need it: fences, code spans, links, headings and table rows.

use crate::repository::{RepositoryFile, is_word_character};

/// A line of a document.
pub(crate) struct MarkdownLine<'a> {
    pub(crate) number: usize,
    pub(crate) text: &'a str,
    pub(crate) kind: MarkdownKind<'a>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MarkdownKind<'a> {
    Prose,
    TableRow,
    /// A line inside of a fence with this language, or a fence itself.
    Fenced(&'a str),
}

/// The lines of a document.
pub(crate) fn markdown_lines(file: &RepositoryFile) -> Vec<MarkdownLine<'_>> {
    let mut language = None;
    let lines = file.lines().map(|(number, text)| {
        let fence = text.trim_start().strip_prefix("```");
        let kind = match (fence, language) {
            (Some(_), Some(open)) => {
                language = None;
                MarkdownKind::Fenced(open)
            }
            (Some(open), None) => {
                language = Some(open);
                MarkdownKind::Fenced(open)
            }
            (None, Some(open)) => MarkdownKind::Fenced(open),
            (None, None) if text.trim_start().starts_with('|') => MarkdownKind::TableRow,
            (None, None) => MarkdownKind::Prose,
        };
        MarkdownLine { number, text, kind }
    });
    lines.collect()
}

/// The texts between single backticks.
pub(crate) fn code_spans(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The targets of links: `[text](target)`.
pub(crate) fn link_targets(text: &str) -> impl Iterator<Item = &str> {
    let starts = text.match_indices("](");
    starts.filter_map(|(at, _)| Some(text[at + 2..].split_once(')')?.0))
}

/// The anchors of a document's headings, by GitHub's rules.
pub(crate) fn anchors(file: &RepositoryFile) -> Vec<String> {
    let mut anchors: Vec<String> = Vec::new();
    for line in markdown_lines(file) {
        if line.kind != MarkdownKind::Prose || !line.text.starts_with('#') {
            continue;
        }
        let anchor = heading_anchor(line.text.trim_start_matches('#'));
        let numbered = |number| match number {
            0 => anchor.clone(),
            _ => format!("{anchor}-{number}"),
        };
        let mut candidates = (0..).map(numbered);
        let free = candidates.find(|candidate| !anchors.contains(candidate));
        anchors.extend(free);
    }
    anchors
}

/// The cells of a table row, without the spaces around them.
pub(crate) fn table_cells(row: &str) -> Vec<&str> {
    let row = row.trim().trim_matches('|');
    row.split('|').map(str::trim).collect()
}

/// The lines between a heading of the second level (`## …`) and the next one. Panics if the
/// document has no such heading.
pub(crate) fn section<'a>(file: &'a RepositoryFile, heading: &str) -> Vec<MarkdownLine<'a>> {
    let lines = markdown_lines(file).into_iter();
    let mut lines = lines.skip_while(|line| line.text != heading);
    let first = lines.next();
    assert!(first.is_some(), "{} has no section `{heading}`", file.path);
    let is_next =
        |line: &MarkdownLine<'_>| line.kind == MarkdownKind::Prose && line.text.starts_with("## ");
    lines.take_while(|line| !is_next(line)).collect()
}

fn heading_anchor(heading: &str) -> String {
    let lower = heading.trim().to_lowercase();
    let kept = lower.chars().filter_map(|character| match character {
        ' ' | '-' => Some('-'),
        _ if is_word_character(character) => Some(character),
        _ => None,
    });
    kept.collect()
}
