//! The table of platforms in the documentation. `UPDATE_DOCS=1 cargo test -p zerohop-contract`
//! writes it.

#![forbid(unsafe_code)]

use std::{env, fs, path::Path};

use zerohop_contract::platforms::Platform;

const START: &str = "<!-- platforms -->\n";
const END: &str = "<!-- /platforms -->\n";

#[test]
fn the_documented_table_is_that_of_the_files() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    for file in ["README.md", "docs/operations.md"] {
        let path = root.join(file);
        let text = fs::read_to_string(&path).unwrap();
        let (before, rest) = text.split_once(START).unwrap();
        let (_, after) = rest.split_once(END).unwrap();
        let wanted = format!("{before}{START}{}{END}{after}", Platform::table());
        if env::var_os("UPDATE_DOCS").is_some() {
            fs::write(&path, wanted).unwrap();
        } else {
            assert!(
                text == wanted,
                "the table in {file} is outdated: run `UPDATE_DOCS=1 cargo test -p zerohop-contract`"
            );
        }
    }
}
