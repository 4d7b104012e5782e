//! `verify OBJECT…` prints how many instructions this kernel's verifier processes for each program
//! of the objects, and fails if a program exceeds the budget.
//!
//! The numbers come from the verifier's own log, which every kernel since 5.2 writes
//! (`BPF_LOG_STATS`, commit 06ee7115b0d1); the count in `bpf_prog_info` exists only since 5.16.

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    os::fd::{AsFd as _, AsRawFd as _},
    process::ExitCode,
};

use anyhow::{Context as _, bail};
use aya::{EbpfLoader, maps::Map};
use aya_obj::{
    Object, ProgramSection,
    generated::{bpf_attr, bpf_cmd, bpf_prog_type},
};

/// The largest number of verified instructions that a program may have. The verifier rejects a
/// program at one million. Half of that leaves headroom for future kernels, which may count more.
const BUDGET: u64 = 500_000;

const BPF_LOG_LEVEL1: u32 = 1;
const BPF_LOG_STATS: u32 = 4;

/// The size of the verifier's log, in bytes: more than any program needs at [`BPF_LOG_LEVEL1`],
/// which logs the instructions that the verifier processes.
const LOG_SIZE: usize = 64 << 20;

fn main() -> anyhow::Result<ExitCode> {
    let paths: Vec<_> = std::env::args().skip(1).collect();
    if paths.is_empty() {
        bail!("usage: verify OBJECT…");
    }
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let release = release.trim();

    println!(
        "{:<10} {:<18} {:>12} {:>9}",
        "kernel", "program", "instructions", "verified"
    );
    let mut over = false;
    for path in paths {
        let bytes = fs::read(&path).with_context(|| format!("reading {path}"))?;
        for (name, size, verified) in verify(&bytes)? {
            let mark = if verified > BUDGET {
                "  OVER BUDGET"
            } else {
                ""
            };
            over |= verified > BUDGET;
            println!(
                "{:<10} {name:<18} {size:>12} {verified:>9}{mark}",
                major_minor(release)
            );
        }
    }
    if over {
        eprintln!("the programs marked OVER BUDGET exceed {BUDGET} verified instructions");
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

/// Loads each program. Returns name, size in instructions, and count of verified instructions.
fn verify(bytes: &[u8]) -> anyhow::Result<Vec<(String, usize, u64)>> {
    // aya creates the maps, so the programs are verified against real maps.
    let loaded = EbpfLoader::new().load(bytes).context("creating the maps")?;
    let maps: BTreeMap<&str, i32> = loaded
        .maps()
        .filter_map(|(name, map)| Some((name, map_fd(map)?)))
        .collect();

    let mut object = Object::parse(bytes)?;
    let text_sections: HashSet<usize> = object
        .functions
        .keys()
        .map(|(section, _)| *section)
        .collect();
    let definitions = object.maps.clone();
    object.relocate_maps(
        definitions
            .iter()
            .filter_map(|(name, map)| Some((name.as_str(), *maps.get(name.as_str())?, map))),
        &text_sections,
    )?;
    object.relocate_calls(&text_sections)?;

    let mut names: Vec<_> = object.programs.keys().cloned().collect();
    names.sort();
    let mut results = Vec::new();
    for name in names {
        let program = &object.programs[&name];
        let function = &object.functions[&program.function_key()];
        let kind = match program.section {
            ProgramSection::Xdp { .. } => bpf_prog_type::BPF_PROG_TYPE_XDP,
            ProgramSection::SchedClassifier => bpf_prog_type::BPF_PROG_TYPE_SCHED_CLS,
            ref other => bail!("{name}: no budget for programs of section {other:?}"),
        };
        let log = load(kind, &function.instructions, &program.license)
            .with_context(|| format!("{name} was refused"))?;
        let verified = log
            .lines()
            .find_map(|line| {
                line.strip_prefix("processed ")?
                    .split(' ')
                    .next()?
                    .parse()
                    .ok()
            })
            .with_context(|| format!("{name}: no count in the verifier's log: {log}"))?;
        results.push((name, function.instructions.len(), verified));
    }
    Ok(results)
}

/// The descriptor of a map. `None` for map types that no verified program uses.
fn map_fd(map: &Map) -> Option<i32> {
    let data = match map {
        Map::Array(data)
        | Map::HashMap(data)
        | Map::PerCpuArray(data)
        | Map::ProgramArray(data)
        | Map::RingBuf(data) => data,
        _ => return None,
    };
    Some(data.fd().as_fd().as_raw_fd())
}

/// Loads a program by BPF_PROG_LOAD. Returns the verifier's statistics, or an error with the end of
/// its log.
fn load(
    kind: bpf_prog_type,
    instructions: &[aya_obj::generated::bpf_insn],
    license: &std::ffi::CStr,
) -> anyhow::Result<String> {
    let (result, log) = load_with_log(kind, instructions, license, BPF_LOG_STATS);
    if result.is_ok() {
        return Ok(log);
    }
    // Loaded again for the reason, which a log of statistics does not have.
    let (result, log) = load_with_log(kind, instructions, license, BPF_LOG_LEVEL1 | BPF_LOG_STATS);
    let tail: Vec<&str> = log.lines().rev().take(60).collect();
    let tail: Vec<&str> = tail.into_iter().rev().collect();
    match result {
        Ok(()) => Ok(log),
        Err(error) => bail!(
            "{error}; the verifier's log ends with:\n{}",
            tail.join("\n")
        ),
    }
}

fn load_with_log(
    kind: bpf_prog_type,
    instructions: &[aya_obj::generated::bpf_insn],
    license: &std::ffi::CStr,
    level: u32,
) -> (std::io::Result<()>, String) {
    let mut log = vec![0u8; LOG_SIZE];
    // SAFETY: every field of the union is an integer, so zeros are valid.
    let mut attributes: bpf_attr = unsafe { std::mem::zeroed() };
    // SAFETY: zeros are valid for this variant, which BPF_PROG_LOAD reads.
    let load = unsafe { &mut attributes.__bindgen_anon_3 };
    load.prog_type = kind as u32;
    load.insns = instructions.as_ptr() as u64;
    load.insn_cnt = instructions.len() as u32;
    load.license = license.as_ptr() as u64;
    load.log_level = level;
    load.log_buf = log.as_mut_ptr() as u64;
    load.log_size = log.len() as u32;
    // SAFETY: the attributes point to memory that outlives the call.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            bpf_cmd::BPF_PROG_LOAD as u32,
            &raw mut attributes,
            size_of::<bpf_attr>(),
        )
    };
    let result = if fd < 0 {
        Err(std::io::Error::last_os_error())
    } else {
        // SAFETY: the kernel just returned this descriptor, and only this function has it.
        unsafe { libc::close(fd as i32) };
        Ok(())
    };
    let end = log.iter().position(|byte| *byte == 0).unwrap_or(log.len());
    log.truncate(end);
    (result, String::from_utf8_lossy(&log).into_owned())
}

/// Shortens a kernel release: "6.1.0-37-cloud-amd64" to "6.1".
fn major_minor(release: &str) -> &str {
    match release.match_indices('.').nth(1) {
        Some((at, _)) => &release[..at],
        None => release,
    }
}
