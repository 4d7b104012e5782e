//! The dependencies that each crate may have: on crates of the workspace by the code map of
//! `docs/architecture.md`, on some other crates by [`CONFINED`].

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    manifests::{CargoManifest, DependencySection, crate_manifests},
    markdown::{MarkdownKind, section, table_cells},
    repository::{has_word, numbered_lines, repository},
    rust_text::{RustText, TextKind},
    violations::Violations,
};

const ARCHITECTURE: &str = "docs/architecture.md";

/// Crates that the tests of every crate may use, except those of `zerohop-contract`, which depends
/// on no other crate of the workspace.
const TEST_CRATES: [&str; 2] = ["zerohop-contract", "zerohop-tests"];

/// Dependencies, each with the only crates that may have it.
const CONFINED: [(&str, &[&str]); 7] = [
    ("aya", &["zerohop-datapath", "zerohop-tests"]),
    ("aya-log", &["zerohop-datapath"]),
    ("aya-obj", &["zerohop-datapath", "zerohop-tests"]),
    ("aya-ebpf", &["dns-ebpf"]),
    ("aya-log-ebpf", &["dns-ebpf"]),
    ("kube", &["zerohop-kubernetes-api", "zerohop-tests"]),
    (
        "tokio",
        &[
            "dns-agent",
            "zerohop-datapath",
            "zerohop-kubernetes-api",
            "zerohop-resolver",
            "zerohop-sources",
            "zerohop-steering",
            "zerohop-tests",
        ],
    ),
];

/// The parts of the agent that know providers, and no kind of object.
const SEAM: [&str; 3] = [
    "dns-agent/src/agent/intake.rs",
    "dns-agent/src/agent/kernel_plane",
    "dns-agent/src/agent/publisher",
];

/// The crates of objects, as they are named in sources.
const OBJECT_CRATES: [&str; 3] = [
    "zerohop_kubernetes",
    "zerohop_kubernetes_api",
    "zerohop_sources",
];

/// The crates that each crate may depend on.
type AllowedLayers = BTreeMap<String, BTreeSet<String>>;

#[test]
fn dependencies_between_crates_are_in_the_code_map() {
    let allowed = read_code_map();
    let manifests = crate_manifests();
    let workspace_crates: BTreeSet<&str> = manifests.iter().map(CargoManifest::name).collect();
    let mut violations = Violations::default();
    for manifest in &manifests {
        let name = manifest.name();
        let path = &manifest.file.path;
        let Some(allowed) = allowed.get(name) else {
            let remedy = format!("add a row to the code map of {ARCHITECTURE}");
            violations.add(path, 1, &format!("{name} is not in the code map"), &remedy);
            continue;
        };
        for dependency in manifest.dependencies() {
            let used = &*dependency.name;
            let is_for_tests = dependency.section == DependencySection::Development
                && TEST_CRATES.contains(&used)
                && name != "zerohop-contract";
            if !workspace_crates.contains(used) || allowed.contains(used) || is_for_tests {
                continue;
            }
            violations.add(
                path,
                dependency.number,
                &format!("{name} may not depend on {used}"),
                &format!("remove the dependency; the code map of {ARCHITECTURE} decides"),
            );
        }
    }
    violations.assert_none();
}

#[test]
fn confined_dependencies_are_used_only_by_their_crates() {
    let mut violations = Violations::default();
    for manifest in crate_manifests() {
        for dependency in manifest.dependencies() {
            let mut confined = CONFINED.iter();
            let Some((used, users)) = confined.find(|(used, _)| *used == dependency.name) else {
                continue;
            };
            if !users.contains(&manifest.name()) {
                violations.add(
                    &manifest.file.path,
                    dependency.number,
                    &format!("{} uses {used}", manifest.name()),
                    &format!(
                        "remove it; only these crates may use it: {}",
                        users.join(", ")
                    ),
                );
            }
        }
    }
    violations.assert_none();
}

#[test]
fn the_publisher_knows_no_kind_of_object() {
    let mut violations = Violations::default();
    let sources = repository().with_extension(&["rs"]);
    let seam: Vec<_> = sources
        .filter(|file| SEAM.iter().any(|path| file.path.starts_with(path)))
        .collect();
    assert!(seam.len() >= SEAM.len(), "the files of the seam have moved");
    for file in seam {
        let code = RustText::read(&file.text).only(TextKind::Code);
        for (number, line) in numbered_lines(&code) {
            if let Some(used) = OBJECT_CRATES.iter().find(|used| has_word(line, used)) {
                violations.add(
                    &file.path,
                    number,
                    &format!("a part that knows only providers uses {used}"),
                    "move the code to the intake of the provider",
                );
            }
        }
    }
    violations.assert_none();
}

/// Reads the table of crates. `all above` stands for the crates of the rows above.
fn read_code_map() -> AllowedLayers {
    let mut layers = AllowedLayers::new();
    for line in section(repository().file(ARCHITECTURE), "## Code map") {
        let cells = table_cells(line.text);
        let [_, name, _, depends_on] = cells.as_slice() else {
            continue;
        };
        if line.kind != MarkdownKind::TableRow || !name.starts_with('`') {
            continue;
        }
        let allowed = match *depends_on {
            "nothing" => BTreeSet::new(),
            "all above" => layers.keys().cloned().collect(),
            names => names.split(", ").map(full_name).collect(),
        };
        layers.insert(full_name(name), allowed);
    }
    layers
}

/// The full name of a crate in the table. A name without backticks lacks the prefix `zerohop-`.
fn full_name(name: &str) -> String {
    match name.strip_prefix('`') {
        Some(name) => name.trim_end_matches('`').to_owned(),
        None => format!("zerohop-{name}"),
    }
}
