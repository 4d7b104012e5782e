//! Links between documents, and from sources to documents.

use crate::{
    markdown::{MarkdownKind, anchors, link_targets, markdown_lines},
    repository::{RepositoryFile, is_word_character, repository},
    violations::Violations,
};

/// Extensions of files that may mention documents.
const SOURCES: [&str; 8] = ["rs", "toml", "yaml", "json", "scn", "tpl", "sh", "md"];

#[test]
fn targets_of_links_exist() {
    let mut violations = Violations::default();
    for file in repository().with_extension(&["md"]) {
        let lines = markdown_lines(file).into_iter();
        for line in lines.filter(|line| !matches!(line.kind, MarkdownKind::Fenced(_))) {
            let targets = link_targets(line.text).filter(|target| !target.contains("://"));
            for target in targets {
                let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
                let path = match path {
                    "" => file.path.clone(),
                    _ => resolve_relative(&file.path, path),
                };
                check_target(&mut violations, file, line.number, &path, anchor);
            }
        }
    }
    violations.assert_none();
}

#[test]
fn mentioned_anchors_exist() {
    let mut violations = Violations::default();
    for file in repository().with_extension(&SOURCES) {
        for (number, line) in file.lines() {
            for (path, anchor) in mentioned_anchors(line) {
                check_target(&mut violations, file, number, &path, anchor);
            }
        }
    }
    violations.assert_none();
}

fn check_target(
    violations: &mut Violations,
    file: &RepositoryFile,
    line: usize,
    path: &str,
    anchor: &str,
) {
    if !repository().has(path) {
        let what = format!("the link leads to {path}, which does not exist");
        violations.add(&file.path, line, &what, "correct the path");
        return;
    }
    let Some(document) = repository().find(path).filter(|_| !anchor.is_empty()) else {
        return;
    };
    if !anchors(document).iter().any(|known| known == anchor) {
        let what = format!("{path} has no heading with the anchor #{anchor}");
        violations.add(&file.path, line, &what, "correct the anchor");
    }
}

/// The mentions `docs/….md#ANCHOR` in a line: the path from the root of the repository, and the
/// anchor.
fn mentioned_anchors(line: &str) -> impl Iterator<Item = (String, &str)> {
    let starts = line.match_indices("docs/");
    starts.filter_map(|(at, _)| {
        // Part of a longer path, such as that of a URL.
        if line[..at].ends_with('/') {
            return None;
        }
        let is_path = |it: char| is_word_character(it) || "-/.".contains(it);
        let mention = &line[at..];
        let (path, rest) = mention.split_once(".md#")?;
        let end = rest.find(|it| !is_word_character(it) && it != '-');
        let anchor = &rest[..end.unwrap_or(rest.len())];
        path.chars()
            .all(is_path)
            .then(|| (format!("{path}.md"), anchor))
    })
}

/// Converts a path in a document to a path from the root.
fn resolve_relative(document: &str, path: &str) -> String {
    let mut folders: Vec<&str> = document.split('/').collect();
    folders.pop();
    for name in path.split('/') {
        match name {
            ".." => drop(folders.pop()),
            "." | "" => {}
            _ => folders.push(name),
        }
    }
    folders.join("/")
}
