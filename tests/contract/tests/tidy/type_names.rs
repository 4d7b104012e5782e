//! Type names are unique in the whole repository.

use std::collections::BTreeMap;

use crate::{
    repository::{is_word_character, numbered_lines, repository},
    rust_text::{RustText, TextKind},
    violations::Violations,
};

#[test]
fn type_names_are_unique() {
    let mut places: BTreeMap<String, Vec<(&str, usize)>> = BTreeMap::new();
    for file in repository().with_extension(&["rs"]) {
        let code = RustText::read(&file.text).only(TextKind::Code);
        for (number, line) in numbered_lines(&code) {
            if let Some(name) = defined_type(line) {
                let places = places.entry(name.to_owned()).or_default();
                places.push((&file.path, number));
            }
        }
    }
    let mut violations = Violations::default();
    for (name, places) in places.iter().filter(|(_, places)| places.len() > 1) {
        let (first, line) = places[0];
        for (path, number) in &places[1..] {
            let what = format!("`{name}` is also a type of {first}:{line}");
            violations.add(path, *number, &what, "rename one of them");
        }
    }
    violations.assert_none();
}

/// The name of the type that a line defines. Indented aliases do not count, because most are
/// associated types of traits.
fn defined_type(line: &str) -> Option<&str> {
    let is_indented = line.starts_with(' ');
    let mut words = line.split_whitespace();
    for word in words.by_ref() {
        match word {
            "unsafe" | "pub" => {}
            _ if word.starts_with("pub(") || word.ends_with(')') => {}
            "type" if is_indented => return None,
            "struct" | "enum" | "trait" | "union" | "type" => break,
            _ => return None,
        }
    }
    let name = words.next()?;
    let end = name.find(|character| !is_word_character(character));
    let name = &name[..end.unwrap_or(name.len())];
    name.starts_with(char::is_uppercase).then_some(name)
}
