//! Every outcome of a packet has its documentation and its test.

use crate::{
    repository::{RepositoryFile, has_word, repository},
    rust_text::{RustText, TextKind},
    violations::Violations,
};

const OUTCOMES: &str = "dns-common/src/outcomes.rs";
const DOCUMENT: &str = "docs/answers.md";
const SUITES: &str = "tests/suites/";
/// The table of packets that pass. Its groups start with the line `Variant:`.
const PASSES: &str = "tests/suites/kernel/passes.rs";
/// Replays the fuzzing corpus. It names the outcomes that it does not reach, so a name there is no
/// test.
const CORPUS: &str = "tests/suites/corpus.rs";

/// A variant of `Outcome`, and its name in metrics.
struct NamedOutcome {
    line: usize,
    variant: &'static str,
    name: &'static str,
}

#[test]
fn every_outcome_is_documented() {
    let document = &repository().file(DOCUMENT).text;
    let mut violations = Violations::default();
    for NamedOutcome { line, name, .. } in read_outcomes() {
        if !document.contains(&format!("\n| `{name}` |")) {
            let what = format!("the outcome `{name}` is not documented");
            let remedy = format!("add a row to the outcomes of {DOCUMENT}");
            violations.add(OUTCOMES, line, &what, &remedy);
        }
    }
    violations.assert_none();
}

#[test]
fn every_documented_outcome_exists() {
    let outcomes = read_outcomes();
    let mut violations = Violations::default();
    for line in crate::markdown::section(repository().file(DOCUMENT), "## Outcomes") {
        let Some(row) = line.text.strip_prefix("| `") else {
            continue;
        };
        let name = row.split('`').next().unwrap_or_default();
        if !outcomes.iter().any(|outcome| outcome.name == name) {
            let what = format!("there is no outcome `{name}`");
            let remedy = format!("remove the row, or name it as {OUTCOMES} does");
            violations.add(DOCUMENT, line.number, &what, &remedy);
        }
    }
    violations.assert_none();
}

#[test]
fn every_outcome_has_a_test() {
    let files = repository().with_extension(&["rs"]);
    let suites = files.filter(|file| file.path.starts_with(SUITES) && file.path != CORPUS);
    let suites: Vec<String> = suites
        .map(|file| RustText::read(&file.text).only(TextKind::Code))
        .collect();
    let table = &repository().file(PASSES).text;
    let mut violations = Violations::default();
    for NamedOutcome { line, variant, .. } in read_outcomes() {
        let path = format!("Outcome::{variant}");
        let group = format!("\n    {variant}:\n");
        if !table.contains(&group) && !suites.iter().any(|code| has_word(code, &path)) {
            let what = format!("no test of {SUITES} expects `{path}`");
            violations.add(OUTCOMES, line, &what, "add a packet that ends in it");
        }
    }
    violations.assert_none();
}

/// The outcomes, from the lines `Self::Variant => "name",` of the first `impl` block.
fn read_outcomes() -> Vec<NamedOutcome> {
    let file: &'static RepositoryFile = repository().file(OUTCOMES);
    let lines = file.lines();
    let block = lines.skip_while(|(_, text)| *text != "impl Outcome {");
    let block = block.take_while(|(_, text)| *text != "}");
    let outcomes = block.filter_map(|(line, text)| {
        let (variant, name) = text.trim().strip_prefix("Self::")?.split_once(" => \"")?;
        Some(NamedOutcome {
            line,
            variant,
            name: name.trim_end_matches("\","),
        })
    });
    let outcomes: Vec<NamedOutcome> = outcomes.collect();
    assert!(!outcomes.is_empty(), "{OUTCOMES} names no outcome");
    outcomes
}
