//! Copies the object files of the kernel programs into `OUT_DIR`. If that fails, the build fails
//! and names the command that builds the files. The environment variable ZEROHOP_EBPF_OBJECT
//! overrides the path of `zerohop.o`; `steering.o` is beside it.

#![forbid(unsafe_code)]

use std::{env, fs, path::Path, path::PathBuf};

fn main() {
    println!("cargo::rerun-if-env-changed=ZEROHOP_EBPF_OBJECT");
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let kernel_plane = match env::var_os("ZEROHOP_EBPF_OBJECT") {
        Some(path) => PathBuf::from(path),
        None => workspace.join("target/ebpf/zerohop.o"),
    };
    let steering = kernel_plane.with_file_name("steering.o");
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    for (object, copy) in [(kernel_plane, "zerohop.o"), (steering, "steering.o")] {
        println!("cargo::rerun-if-changed={}", object.display());
        if let Err(error) = fs::copy(&object, out.join(copy)) {
            println!(
                "cargo::error=cannot copy the kernel programs ({}: {error}). \
                 Run `cargo xtask build-ebpf`, which builds them.",
                object.display()
            );
        }
    }
}
