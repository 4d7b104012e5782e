//! Compares the list of scenarios with the files. Runs only on the machine that compiled the tests,
//! because the guests of the kernel matrix don't have the files.

use std::{collections::BTreeSet, fs};

use crate::kernel::scenarios::FILES;

#[test]
fn every_scenario_is_run() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/scenarios");
    let on_disk: BTreeSet<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".scn"))
        .collect();
    let listed: BTreeSet<String> = FILES.iter().map(|name| (*name).to_owned()).collect();
    assert_eq!(
        listed, on_disk,
        "update the list in suites/kernel/scenarios.rs"
    );
}
