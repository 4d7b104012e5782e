//! The `Cargo.toml` files, as far as the rules need them.

use crate::repository::{RepositoryFile, repository};

/// The `Cargo.toml` of a crate, or of the workspace.
pub(crate) struct CargoManifest {
    pub(crate) file: &'static RepositoryFile,
}

/// A line `NAME = …` or `NAME.workspace = …` of a section of dependencies.
pub(crate) struct DependencyLine {
    pub(crate) number: usize,
    /// The name of the crate.
    pub(crate) name: String,
    pub(crate) section: DependencySection,
}

/// The kind of a section of dependencies. Build dependencies count as normal ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DependencySection {
    Normal,
    Development,
}

/// The manifests of all crates, including those of the fuzz workspace.
pub(crate) fn crate_manifests() -> Vec<CargoManifest> {
    let files = repository().with_extension(&["toml"]);
    let manifests = files.filter(|file| file.path.ends_with("/Cargo.toml"));
    manifests.map(|file| CargoManifest { file }).collect()
}

/// The manifest of the workspace.
pub(crate) fn workspace_manifest() -> CargoManifest {
    CargoManifest {
        file: repository().file("Cargo.toml"),
    }
}

impl CargoManifest {
    /// The name of the crate.
    pub(crate) fn name(&self) -> &'static str {
        let lines = self.sectioned_lines();
        let mut names = lines
            .filter(|(_, section, _)| *section == "[package]")
            .filter_map(|(_, _, line)| line.strip_prefix("name = "));
        names
            .next()
            .unwrap_or_else(|| panic!("{} has no name in [package]", self.file.path))
            .trim_matches('"')
    }

    /// The lines of `[dependencies]`, `[dev-dependencies]` and `[build-dependencies]`.
    pub(crate) fn dependencies(&self) -> Vec<DependencyLine> {
        let lines = self.sectioned_lines();
        let read = lines.filter_map(|(number, section, line)| {
            let section = match section {
                "[dependencies]" | "[build-dependencies]" => DependencySection::Normal,
                "[dev-dependencies]" => DependencySection::Development,
                _ => return None,
            };
            let (name, _) = line.split_once(" = ")?;
            (!line.starts_with('#')).then(|| DependencyLine {
                number,
                name: name.trim_end_matches(".workspace").to_owned(),
                section,
            })
        });
        read.collect()
    }

    /// Every line with its number and the header of its section, which is empty before the first.
    pub(crate) fn sectioned_lines(
        &self,
    ) -> impl Iterator<Item = (usize, &'static str, &'static str)> {
        let file: &'static RepositoryFile = self.file;
        let mut section = "";
        file.lines().map(move |(number, line)| {
            if line.starts_with('[') {
                section = line;
            }
            (number, section, line)
        })
    }
}
