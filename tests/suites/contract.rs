//! The scenarios' files, where they are: on the machine that compiled them.

use std::{collections::BTreeSet, fs};

use crate::kernel::scenarios::FILES;

#[test]
fn every_scenario_is_run() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/scenarios");
    let there: BTreeSet<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".scn"))
        .collect();
    let run: BTreeSet<String> = FILES.iter().map(|name| (*name).to_owned()).collect();
    assert_eq!(run, there, "the list is in suites/kernel/scenarios.rs");
}
