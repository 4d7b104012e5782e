//! Only a few files may use `unsafe`.

use crate::{
    repository::{RepositoryFile, has_word, numbered_lines, repository},
    rust_text::{RustText, TextKind},
    violations::Violations,
};

/// The folder of the kernel program. Every file in it may use `unsafe`.
const KERNEL_PROGRAM: &str = "dns-ebpf/src/";

/// The other files that may use `unsafe`, each with its reason.
const UNSAFE_FILES: [(&str, &str); 9] = [
    ("dns-agent/datapath/src/memory.rs", "maps shared memory"),
    ("dns-agent/datapath/src/syscall.rs", "calls bpf(2)"),
    (
        "dns-agent/tests/counting_allocator/mod.rs",
        "is an allocator",
    ),
    (
        "tests/benches/bench/programs.rs",
        "shares structures with a BPF program",
    ),
    ("tests/src/bin/verify.rs", "calls bpf(2)"),
    ("tests/src/ethtool.rs", "calls ioctl(2)"),
    ("tests/src/netns.rs", "runs code between fork and exec"),
    ("tests/src/noop_program.rs", "calls bpf(2)"),
    (
        "tests/suites/tables.rs",
        "refers to settings in mapped memory",
    ),
];

/// Crate roots in which a macro of another crate expands to `unsafe`.
const UNSAFE_MACROS: &str = "fuzz/fuzz_targets/";

#[test]
fn only_allowed_files_use_unsafe() {
    let mut violations = Violations::default();
    for file in repository().with_extension(&["rs"]) {
        if is_allowed(file) {
            continue;
        }
        let code = RustText::read(&file.text).only(TextKind::Code);
        for (number, line) in numbered_lines(&code) {
            if has_word(line, "unsafe") {
                violations.add(
                    &file.path,
                    number,
                    "`unsafe` in a file that may not use it",
                    "use a safe API, or move the call to one of the allowed files",
                );
            }
        }
    }
    violations.assert_none();
}

#[test]
fn every_exception_for_unsafe_is_needed() {
    let mut violations = Violations::default();
    for (path, reason) in UNSAFE_FILES {
        let file = repository().find(path);
        let code = file.map(|file| RustText::read(&file.text).only(TextKind::Code));
        if !code.is_some_and(|code| has_word(&code, "unsafe")) {
            let what = format!("no file at this path uses `unsafe` (its reason was: it {reason})");
            violations.add(
                path,
                1,
                &what,
                "remove or correct the entry in UNSAFE_FILES",
            );
        }
    }
    violations.assert_none();
}

#[test]
fn crate_roots_deny_unsafe_code() {
    let mut violations = Violations::default();
    for file in repository().with_extension(&["rs"]) {
        if !is_crate_root(&file.path)
            || is_allowed(file)
            || file.path.starts_with(UNSAFE_MACROS)
            || file.text.contains("#![forbid(unsafe_code)]")
            || file.text.contains("#![deny(unsafe_code)]")
        {
            continue;
        }
        violations.add(
            &file.path,
            1,
            "the crate doesn't deny `unsafe`",
            "add #![forbid(unsafe_code)]",
        );
    }
    violations.assert_none();
}

fn is_allowed(file: &RepositoryFile) -> bool {
    file.path.starts_with(KERNEL_PROGRAM) || UNSAFE_FILES.iter().any(|(path, _)| *path == file.path)
}

/// Whether a file is the root of a library, a program, a build script or a test.
fn is_crate_root(path: &str) -> bool {
    let Some((folder, name)) = path.rsplit_once('/') else {
        return false;
    };
    let is_single_test = folder.ends_with("/tests") && !folder.contains("/src/");
    matches!(name, "lib.rs" | "main.rs" | "build.rs")
        || folder.ends_with("/bin")
        || folder.ends_with("/fuzz_targets")
        || is_single_test
}
