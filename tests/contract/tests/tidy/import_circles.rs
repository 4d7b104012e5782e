//! The modules of a crate import each other in one direction only.
//!
//! A module is a file. Imports between a module and the modules below it don't count.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    repository::{RepositoryFile, is_word_character, repository},
    rust_text::{RustText, TextKind},
    violations::Violations,
};

/// The path of a module within its crate. Empty for the root.
type ModulePath = Vec<String>;

/// The modules of a crate.
struct CrateModules {
    files: BTreeMap<ModulePath, &'static RepositoryFile>,
    imports: BTreeMap<ModulePath, Vec<ImportedPath>>,
}

/// A path in the code of a module.
struct ImportedPath {
    line: usize,
    names: Vec<String>,
    visibility: ImportVisibility,
}

/// Whether other modules can reach what a module imports.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ImportVisibility {
    Private,
    /// `pub use`, or with a restricted visibility.
    Reexported,
}

/// For each module the modules that it imports, each with the line of an import.
type ImportGraph = BTreeMap<ModulePath, BTreeMap<ModulePath, usize>>;

#[test]
fn modules_do_not_import_each_other_in_circles() {
    let mut violations = Violations::default();
    for folder in crate_folders() {
        let modules = CrateModules::in_folder(folder);
        let imports = modules.graph();
        for (module, imported) in &imports {
            for (other, line) in imported {
                let path = shortest_path(&imports, other, module);
                if path.is_empty() {
                    continue;
                }
                let what = format!(
                    "`{}` imports `{}`, which leads back: {}",
                    module.join("::"),
                    other.join("::"),
                    path.join(" imports "),
                );
                violations.add(
                    &modules.files[module].path,
                    *line,
                    &what,
                    "move the code that both need into a third module",
                );
            }
        }
    }
    violations.assert_none();
}

/// The folders with a crate root that is called `lib.rs` or `main.rs`.
fn crate_folders() -> BTreeSet<&'static str> {
    let files = repository().with_extension(&["rs"]);
    let folders = files.filter_map(|file| {
        let (folder, name) = file.path.rsplit_once('/')?;
        matches!(name, "lib.rs" | "main.rs").then_some(folder)
    });
    folders.collect()
}

impl CrateModules {
    /// The modules of the crate in a folder, without test modules, which may import any other
    /// module. A `main.rs` beside `lib.rs` is a crate of its own and not read.
    fn in_folder(folder: &str) -> CrateModules {
        let library = format!("{folder}/lib.rs");
        let has_library = repository()
            .with_extension(&["rs"])
            .any(|file| file.path == library);
        let files = repository().with_extension(&["rs"]);
        let modules = files.filter_map(|file| {
            let path = file.path.strip_prefix(folder)?.strip_prefix('/')?;
            let path = path.trim_end_matches(".rs").trim_end_matches("/mod");
            let module: ModulePath = match path {
                "main" if has_library => return None,
                "lib" | "main" => Vec::new(),
                _ => path.split('/').map(str::to_owned).collect(),
            };
            let is_test = module.iter().any(|name| name == "tests");
            (!is_test).then_some((module, file))
        });
        let files: BTreeMap<ModulePath, &RepositoryFile> = modules.collect();
        let imports = files.iter();
        let imports = imports.map(|(module, file)| (module.clone(), imported_paths(&file.text)));
        CrateModules {
            imports: imports.collect(),
            files,
        }
    }

    fn graph(&self) -> ImportGraph {
        let mut graph = ImportGraph::new();
        for (module, imports) in &self.imports {
            let imported = graph.entry(module.clone()).or_default();
            for import in imports {
                let Some(target) = self.resolve(module, &import.names) else {
                    continue;
                };
                if !module.starts_with(&target) && !target.starts_with(module) {
                    imported.entry(target).or_insert(import.line);
                }
            }
        }
        graph
    }

    /// The module that defines the item with a path, as seen from the module `from`. `None` if the
    /// path starts with another crate, or with an item of `from` itself.
    fn resolve(&self, from: &ModulePath, path: &[String]) -> Option<ModulePath> {
        let mut base = from.clone();
        let mut rest = path;
        match path.first()?.as_str() {
            "crate" => (base, rest) = (Vec::new(), &path[1..]),
            "self" => rest = &path[1..],
            "super" => {
                while rest.first().is_some_and(|name| name == "super") {
                    base.pop();
                    rest = &rest[1..];
                }
            }
            child => {
                let child = [&base[..], &[child.to_owned()]].concat();
                if !self.files.contains_key(&child) {
                    return None;
                }
            }
        }
        let full = [&base[..], rest].concat();
        let mut module = full.clone();
        while !self.files.contains_key(&module) {
            module.pop()?;
        }
        let reexported = full.get(module.len()).and_then(|name| {
            let mut imports = self.imports[&module].iter();
            imports.find(|import| {
                import.visibility == ImportVisibility::Reexported
                    && import.names.last() == Some(name)
                    // Not the import itself, which would lead here again.
                    && (&module, &import.names[..]) != (from, path)
            })
        });
        let origin = reexported.and_then(|import| self.resolve(&module, &import.names));
        origin.or(Some(module))
    }
}

/// The paths of `use` items, and the paths in code that start with `crate::`, `super::` or
/// `self::`. An inline `mod tests`, and what follows it, is not read.
fn imported_paths(text: &str) -> Vec<ImportedPath> {
    let code = RustText::read(text).only(TextKind::Code);
    let code = code.split("#[cfg(test)]\nmod tests {").next().unwrap_or("");
    let mut paths = Vec::new();
    for start in ["use ", "crate::", "super::", "self::"] {
        for (at, _) in code.match_indices(start) {
            let before = code[..at].chars().next_back();
            if before.is_some_and(|it| is_word_character(it) || it == ':') {
                continue;
            }
            let line = code[..at].matches('\n').count() + 1;
            // Before the `use` of a reexport stands `pub` or `pub(…)`. Before another `use` stands
            // `;`, a brace, `]` or nothing.
            let before = code[..at].trim_end();
            let is_reexport = start == "use " && before.ends_with(['b', ')']);
            let visibility = if is_reexport {
                ImportVisibility::Reexported
            } else {
                ImportVisibility::Private
            };
            let end = |character| match start {
                "use " => character == ';',
                _ => !is_word_character(character) && character != ':',
            };
            let tree = code[at..].strip_prefix("use ").unwrap_or(&code[at..]);
            let tree = tree.split(end).next().unwrap_or_default();
            flatten_use_tree(&[], tree, &mut |names| {
                paths.push(ImportedPath {
                    line,
                    names,
                    visibility,
                });
            });
        }
    }
    paths
}

/// Calls a function with each path of a tree `a::{b, c::{d, e}}`.
fn flatten_use_tree(prefix: &[String], tree: &str, add: &mut impl FnMut(Vec<String>)) {
    let (path, group) = match tree.split_once('{') {
        Some((path, group)) => (path, group.trim_end().strip_suffix('}')),
        None => (tree, None),
    };
    let path = path.split(" as ").next().unwrap_or_default();
    let names = path.split("::").map(str::trim).filter(|it| !it.is_empty());
    let prefix: Vec<String> = prefix
        .iter()
        .cloned()
        .chain(names.map(str::to_owned))
        .collect();
    let Some(group) = group else {
        add(prefix);
        return;
    };
    let mut depth = 0;
    let parts = group.split(|character| {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        character == ',' && depth == 0
    });
    for part in parts.filter(|part| !part.trim().is_empty()) {
        flatten_use_tree(&prefix, part, add);
    }
}

/// The names of the modules on the shortest chain of imports from one module to another. Empty if
/// there is no such chain.
fn shortest_path(imports: &ImportGraph, from: &ModulePath, to: &ModulePath) -> Vec<String> {
    let mut chains = vec![vec![from]];
    let mut seen = BTreeSet::from([from]);
    let mut next = 0;
    while let Some(chain) = chains.get(next).cloned() {
        next += 1;
        let last = chain[chain.len() - 1];
        if last == to {
            return chain.iter().map(|module| module.join("::")).collect();
        }
        for module in imports.get(last).into_iter().flat_map(BTreeMap::keys) {
            if seen.insert(module) {
                chains.push([&chain[..], &[module]].concat());
            }
        }
    }
    Vec::new()
}

#[test]
fn use_trees_are_flattened() {
    let text =
        "use super::{\n    a::{B, c::D as E},\n    f,\n};\npub use g::H;\nlet i = crate::j::k(l);";
    let paths: Vec<String> = imported_paths(text)
        .iter()
        .map(|import| format!("{} {}", import.line, import.names.join("::")))
        .collect();
    assert_eq!(
        paths,
        [
            "1 super::a::B",
            "1 super::a::c::D",
            "1 super::f",
            "5 g::H",
            "6 crate::j::k",
            // The `super::` of the first `use` is also found as a path in code.
            "1 super",
        ]
    );
}
