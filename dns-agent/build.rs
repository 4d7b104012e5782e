//! Copies the kernel program's object file into `OUT_DIR`. If that fails, the build fails and
//! names the command that builds the file. The environment variable ZEROHOP_EBPF_OBJECT
//! overrides the file's path.

#![forbid(unsafe_code)]

use std::{env, fs, path::Path, path::PathBuf};

fn main() {
    println!("cargo::rerun-if-env-changed=ZEROHOP_EBPF_OBJECT");
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let object = match env::var_os("ZEROHOP_EBPF_OBJECT") {
        Some(path) => PathBuf::from(path),
        None => workspace.join("target/ebpf/zerohop.o"),
    };
    println!("cargo::rerun-if-changed={}", object.display());
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default()).join("zerohop.o");
    if let Err(error) = fs::copy(&object, out) {
        println!(
            "cargo::error=cannot copy the kernel program ({}: {error}). \
             Run `cargo xtask build-ebpf`, which builds it.",
            object.display()
        );
    }
}
