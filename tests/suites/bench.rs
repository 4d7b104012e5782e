//! The benchmark, as far as it can be tested: it runs, and every answer is right.

use std::process::Command;

#[test]
fn its_quick_form_ends_well() {
    let output = Command::new(env!("CARGO_BIN_EXE_bench"))
        .arg("--quick")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{errors}");
    // It measured something: frames of every case, and the tables.
    assert!(text.contains("A, NXDOMAIN"), "{text}");
    assert!(text.contains("replaced in"), "{text}");
}
