//! Reasons for dependencies, and the profiles of the workspace's crates.

use std::collections::BTreeSet;

use crate::{
    manifests::{CargoManifest, crate_manifests, workspace_manifest},
    violations::Violations,
};

/// Members that are fast enough without optimization in tests.
const WITHOUT_PROFILE: [&str; 2] = ["xtask", "dns-ebpf"];

#[test]
fn every_dependency_has_its_reason() {
    let mut violations = Violations::default();
    for manifest in crate_manifests() {
        let lines: Vec<&str> = manifest.file.text.lines().collect();
        let dependencies = manifest.dependencies();
        let numbers: BTreeSet<usize> = dependencies.iter().map(|it| it.number).collect();
        for dependency in &dependencies {
            let mut above = dependency.number - 1;
            while numbers.contains(&above) {
                above -= 1;
            }
            let reason = lines[above - 1];
            if !reason.starts_with("# ") || !reason.ends_with('.') {
                violations.add(
                    &manifest.file.path,
                    dependency.number,
                    &format!("{} has no reason", dependency.name),
                    "write a comment sentence directly above the line or its group",
                );
            }
        }
    }
    violations.assert_none();
}

#[test]
fn every_member_has_a_development_profile() {
    let mut violations = Violations::default();
    let workspace = workspace_manifest();
    let path = &workspace.file.path;
    let members: BTreeSet<&str> = crate_manifests()
        .iter()
        // The fuzz targets are a workspace of their own.
        .filter(|manifest| !manifest.file.path.starts_with("fuzz/"))
        .map(CargoManifest::name)
        .collect();
    let profiles: Vec<(usize, &str)> = workspace
        .sectioned_lines()
        .filter_map(|(number, _, line)| {
            let name = line.strip_prefix("[profile.dev.package.")?;
            Some((number, name.trim_end_matches(']')))
        })
        // `[profile.dev.package."*"]` is for crates outside the workspace.
        .filter(|(_, name)| *name != "\"*\"")
        .collect();
    for (number, name) in &profiles {
        if !members.contains(name) {
            let what = format!("{name} has a profile but is not a member of the workspace");
            violations.add(path, *number, &what, "remove or rename the entry");
        }
    }
    for name in members {
        let has_profile = profiles.iter().any(|(_, profile)| *profile == name);
        if !has_profile && !WITHOUT_PROFILE.contains(&name) {
            let what = format!("{name} has no [profile.dev.package.{name}]");
            violations.add(path, 1, &what, "add the entry with an opt-level");
        }
    }
    violations.assert_none();
}
