//! The paths that documents and comments mention exist.

use crate::{
    markdown::{MarkdownKind, code_spans, markdown_lines, section, table_cells},
    repository::{numbered_lines, repository},
    rust_text::{RustText, TextKind},
    violations::Violations,
};

/// The endings of paths that are checked. Paths of folders end in a slash.
const ENDINGS: [&str; 7] = [".rs", ".md", ".scn", ".yaml", ".toml", ".json", "/"];

/// Extensions of other files in which comments start with `#`.
const DATA: [&str; 4] = ["toml", "yaml", "scn", "sh"];

/// Paths in the repositories of other programs.
const FOREIGN_PATHS: [&str; 1] = [
    // The repository of Kubernetes.
    "cluster/addons/dns/nodelocaldns/nodelocaldns.yaml",
];

#[test]
fn paths_in_documents_exist() {
    let mut violations = Violations::default();
    for file in repository().with_extension(&["md"]) {
        let lines = markdown_lines(file).into_iter();
        for line in lines.filter(|line| !matches!(line.kind, MarkdownKind::Fenced(_))) {
            check_paths(&mut violations, &file.path, line.number, line.text);
        }
    }
    violations.assert_none();
}

#[test]
fn paths_in_comments_exist() {
    let mut violations = Violations::default();
    for file in repository().with_extension(&["rs"]) {
        let comments = RustText::read(&file.text).only(TextKind::Comment);
        for (number, line) in numbered_lines(&comments) {
            check_paths(&mut violations, &file.path, number, line);
        }
    }
    for file in repository().with_extension(&DATA) {
        let lines = file.lines();
        for (number, line) in lines.filter(|(_, line)| line.trim_start().starts_with('#')) {
            check_paths(&mut violations, &file.path, number, line);
        }
    }
    violations.assert_none();
}

#[test]
fn files_that_keep_invariants_exist() {
    let mut violations = Violations::default();
    let document = repository().file("docs/architecture.md");
    let mut rows = 0;
    for line in section(document, "## Invariants") {
        let cells = table_cells(line.text);
        let [number, _, kept_by] = cells.as_slice() else {
            continue;
        };
        if number.parse::<u32>().is_err() {
            continue;
        }
        rows += 1;
        let paths = code_spans(kept_by).filter(|span| span.contains('/') && !span.contains(' '));
        for path in paths.filter(|path| !repository().has_below_any_folder(path)) {
            let what = format!("invariant {number} is kept by {path}, which does not exist");
            let remedy = "name the file that keeps it";
            violations.add(&document.path, line.number, &what, remedy);
        }
    }
    assert!(rows > 0, "the table of invariants has no rows");
    violations.assert_none();
}

/// Checks the paths in backticks of a line. They may start at the root or at any folder.
fn check_paths(violations: &mut Violations, file: &str, number: usize, line: &str) {
    let spans = code_spans(line).filter(|span| is_path(span) && !FOREIGN_PATHS.contains(span));
    for path in spans.flat_map(expand_braces) {
        if !repository().has_below_any_folder(&path) {
            let what = format!("`{path}` does not exist");
            violations.add(file, number, &what, "correct the path");
        }
    }
}

/// Whether a text looks like a path of this repository.
fn is_path(text: &str) -> bool {
    let is_allowed = |it: char| it.is_ascii_alphanumeric() || "_./{},-".contains(it);
    text.contains('/')
        && !text.starts_with(['/', '.'])
        && text.chars().all(is_allowed)
        && ENDINGS.iter().any(|ending| text.ends_with(ending))
}

/// Expands a list of names in braces into one path for each name.
fn expand_braces(path: &str) -> Vec<String> {
    let Some((start, rest)) = path.split_once('{') else {
        return vec![path.to_owned()];
    };
    let Some((names, end)) = rest.split_once('}') else {
        return vec![path.to_owned()];
    };
    let names = names.split(',');
    names
        .map(|name| format!("{start}{}{end}", name.trim()))
        .collect()
}
