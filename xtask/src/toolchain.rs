//! Finds or installs the compiler and the linker for eBPF.
//!
//! A compiler is usable if
//!
//! * its sysroot has the sources of `core`, because there is no prebuilt `core` for eBPF,
//! * it is new enough for this workspace, and
//! * its LLVM is not newer than the linker's, because bpf-linker reads the compiler's bitcode.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{
    packages::{Verbosity, install_packages},
    process::{cargo, find_program, output, root, run_command},
};

/// The programs that build an eBPF object.
pub(crate) struct Toolchain {
    /// The compiler itself, not rustup's proxy.
    pub(crate) rustc: PathBuf,
    /// bpf-linker.
    pub(crate) linker: PathBuf,
}

/// The linker's version. Many older ones lack `--cpu-features`.
const LINKER_VERSION: &str = "0.13.0";
/// The LLVM release with which the linker is built. rustc 1.95 and 1.96 have the same release.
const LLVM: u32 = 22;
/// The oldest supported compiler, as in Cargo.toml.
const OLDEST_RUSTC: (u32, u32) = (1, 95);
/// Debian's newest Rust: compiler, sources of `core`, LLVM, lints.
const DEBIAN_RUST: [&str; 4] = [
    "rustc-web",
    "rust-web-src",
    "rust-web-llvm",
    "rust-web-clippy",
];

/// Finds the tools, or installs them.
pub(crate) fn ensure(verbosity: Verbosity) -> Result<Toolchain> {
    let compiler = match find_compiler() {
        Some(compiler) => compiler,
        None => install_compiler()?,
    };
    if verbosity == Verbosity::Everything {
        println!(
            "rustc for eBPF: found {} ({})",
            compiler.release,
            compiler.rustc.display()
        );
    }
    let linker = match find_linker() {
        Some(linker) => linker,
        None => install_linker()?,
    };
    if verbosity == Verbosity::Everything {
        println!("bpf-linker: found {LINKER_VERSION} ({})", linker.display());
    }
    Ok(Toolchain {
        rustc: compiler.rustc,
        linker,
    })
}

struct Compiler {
    rustc: PathBuf,
    release: String,
}

/// The first usable compiler: that of the `rustc` in PATH (with rustup, its active toolchain), of
/// rustup's other toolchains, or Debian's.
fn find_compiler() -> Option<Compiler> {
    sysroots()
        .iter()
        .find_map(|sysroot| usable_compiler(sysroot))
}

/// The directories of installed toolchains, in order of preference.
fn sysroots() -> Vec<PathBuf> {
    let mut sysroots = Vec::new();
    if let Ok(active) = output(Command::new("rustc").args(["--print", "sysroot"])) {
        sysroots.push(PathBuf::from(active.trim()));
    }
    if let Some(toolchains) = sysroots
        .first()
        .and_then(|active| rustup_toolchains(active))
    {
        let mut others: Vec<_> = fs::read_dir(toolchains)
            .into_iter()
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.path()))
            .collect();
        others.sort();
        sysroots.extend(others);
    }
    sysroots.push(PathBuf::from("/usr"));
    sysroots
}

/// The directory of rustup's toolchains, if `sysroot` is one of them.
fn rustup_toolchains(sysroot: &Path) -> Option<&Path> {
    let parent = sysroot.parent()?;
    (parent.file_name()? == "toolchains").then_some(parent)
}

/// The compiler of a sysroot, if it is usable.
fn usable_compiler(sysroot: &Path) -> Option<Compiler> {
    if !sysroot
        .join("lib/rustlib/src/rust/library/core/Cargo.toml")
        .exists()
    {
        return None;
    }
    let rustc = sysroot.join("bin/rustc");
    let verbose = output(Command::new(&rustc).arg("-vV")).ok()?;
    let field = |name: &str| verbose.lines().find_map(|line| line.strip_prefix(name));
    let release = field("release: ")?.to_owned();
    let mut numbers = release.split('.').map_while(|part| part.parse().ok());
    let version = (numbers.next()?, numbers.next()?);
    let llvm: u32 = field("LLVM version: ")?.split('.').next()?.parse().ok()?;
    (version >= OLDEST_RUSTC && llvm <= LLVM).then_some(Compiler { rustc, release })
}

/// Tries rustup, the smallest download first, then Debian's packages.
fn install_compiler() -> Result<Compiler> {
    if find_program("rustup").is_some() {
        let pinned = format!("{}.{}.0", OLDEST_RUSTC.0, OLDEST_RUSTC.1);
        let attempts: [&[&str]; 2] = [
            &["component", "add", "rust-src"],
            &[
                "toolchain",
                "install",
                &pinned,
                "--profile",
                "minimal",
                "--component",
                "rust-src,clippy",
            ],
        ];
        for arguments in attempts {
            println!("rust-src: installing with `rustup {}`", arguments.join(" "));
            // Without a network rustup may retry for a long time.
            let attempt = output(
                Command::new("timeout")
                    .args(["300", "rustup"])
                    .args(arguments),
            );
            match (attempt, find_compiler()) {
                (_, Some(compiler)) => return Ok(compiler),
                (Ok(_), None) => {
                    println!(
                        "rust-src: no compiler is new enough and has LLVM {LLVM} or older; trying \
                         another way"
                    );
                }
                (Err(error), None) => println!("rust-src: {error:#}"),
            }
        }
    }
    install_packages(&DEBIAN_RUST).context(
        "no compiler for eBPF: run `rustup component add rust-src` for a stable toolchain",
    )?;
    find_compiler().with_context(|| {
        let (major, minor) = OLDEST_RUSTC;
        format!(
            "no compiler for eBPF: no installed compiler has version {major}.{minor} or newer, \
             LLVM {LLVM} or older, and lib/rustlib/src/rust/library; try `rustup toolchain \
             install {major}.{minor}.0 --component rust-src,clippy`"
        )
    })
}

fn find_linker() -> Option<PathBuf> {
    let installed = tools().join("bin/bpf-linker");
    let candidates = [
        installed.exists().then_some(installed),
        find_program("bpf-linker"),
    ];
    candidates.into_iter().flatten().find(|candidate| {
        output(Command::new(candidate).arg("--version"))
            .is_ok_and(|version| version.trim() == format!("bpf-linker {LINKER_VERSION}"))
    })
}

fn install_linker() -> Result<PathBuf> {
    let llvm = llvm_prefix()?;
    println!(
        "bpf-linker: installing {LINKER_VERSION} in {} (a minute or two)",
        tools().display()
    );
    run_command(
        cargo()
            .args([
                "install",
                "bpf-linker",
                "--quiet",
                "--locked",
                "--version",
                LINKER_VERSION,
            ])
            .args([
                "--no-default-features",
                "--features",
                &format!("llvm-{LLVM}"),
            ])
            .arg("--root")
            .arg(tools())
            .env("LLVM_PREFIX", llvm),
    )?;
    find_linker().with_context(|| {
        format!(
            "bpf-linker was installed in {} but does not report version {LINKER_VERSION}",
            tools().display()
        )
    })
}

/// The directory of LLVM's library and headers: LLVM_PREFIX, or Debian's.
fn llvm_prefix() -> Result<PathBuf> {
    if let Some(prefix) = env::var_os("LLVM_PREFIX") {
        return Ok(prefix.into());
    }
    let prefix = PathBuf::from(format!("/usr/lib/llvm-{LLVM}"));
    let has_headers = || prefix.join("include/llvm-c").exists();
    if !has_headers() {
        install_packages(&[&format!("llvm-{LLVM}-dev")]).with_context(|| {
            format!(
                "building bpf-linker needs the library and headers of LLVM {LLVM}: install them, \
                 or set LLVM_PREFIX to their directory"
            )
        })?;
    }
    if !has_headers() {
        bail!(
            "LLVM {LLVM} has no headers in {}: set LLVM_PREFIX to its directory",
            prefix.display()
        );
    }
    Ok(prefix)
}

/// The directory of tools. It is inside this repository, so that the user's own tools stay
/// unchanged.
fn tools() -> PathBuf {
    root().join("target/tools")
}
