//! `cargo xtask kernels`: downloads the kernels of the matrix, as Debian builds them.

use std::{
    collections::BTreeMap,
    fmt, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

use crate::{
    apt::Apt,
    packages::Verbosity,
    process::{output, root},
    setup::{self, Need},
};

#[derive(Args)]
pub(crate) struct KernelsOptions {
    /// The kernels to download [default: all].
    names: Vec<KernelName>,
}

/// Runs the job.
pub(crate) fn run(options: &KernelsOptions) -> Result<()> {
    let names = if options.names.is_empty() {
        &KernelName::ALL
    } else {
        options.names.as_slice()
    };
    for name in names {
        let kernel = obtain(*name)?;
        println!("{name}: {} ({})", kernel.version, kernel.image.display());
    }
    Ok(())
}

/// A kernel of the matrix.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum KernelName {
    /// The oldest supported kernel.
    #[value(name = "5.10")]
    V5_10,
    #[value(name = "6.1")]
    V6_1,
    #[value(name = "6.12")]
    V6_12,
    /// The newest kernel that the machine's mirrors had when it was downloaded.
    Newest,
}

impl KernelName {
    pub(crate) const ALL: [KernelName; 4] = [
        KernelName::V5_10,
        KernelName::V6_1,
        KernelName::V6_12,
        KernelName::Newest,
    ];
    /// The oldest and the newest.
    pub(crate) const ENDS: [KernelName; 2] = [KernelName::V5_10, KernelName::Newest];
    /// The kernels between them.
    pub(crate) const BETWEEN: [KernelName; 2] = [KernelName::V6_1, KernelName::V6_12];

    /// The Debian suites that may have it. The highest version is used.
    fn suites(self) -> &'static [&'static str] {
        match self {
            KernelName::V5_10 => &["bullseye", "bullseye-security"],
            KernelName::V6_1 => &["bookworm", "bookworm-security"],
            KernelName::V6_12 => &["trixie", "trixie-security"],
            KernelName::Newest => &[
                "bookworm-backports",
                "trixie-backports",
                "forky-backports",
                "testing",
                "unstable",
            ],
        }
    }
}

impl fmt::Display for KernelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            KernelName::V5_10 => "5.10",
            KernelName::V6_1 => "6.1",
            KernelName::V6_12 => "6.12",
            KernelName::Newest => "newest",
        })
    }
}

/// A kernel that is ready to boot.
pub(crate) struct BootableKernel {
    /// The output of `uname -r`.
    pub(crate) version: String,
    /// The compressed image, as a boot loader reads it.
    pub(crate) image: PathBuf,
    /// The modules that the tests need, each after the ones that it depends on.
    pub(crate) modules: Vec<PathBuf>,
}

/// The modules that the tests need. They are not built into Debian's cloud kernels.
const MODULES: [&str; 5] = ["veth", "bridge", "dummy", "sch_ingress", "cls_bpf"];

/// Returns a kernel from the cache, or downloads it.
pub(crate) fn obtain(name: KernelName) -> Result<BootableKernel> {
    let directory = root().join("target/kernels").join(name.to_string());
    if !directory.exists() {
        // busybox unpacks the modules.
        setup::ensure(&[Need::Guests], Verbosity::Changes)?;
        download(name, &directory).with_context(|| format!("cannot download kernel {name}"))?;
    }
    read_cached(&directory).with_context(|| {
        format!(
            "cannot read the downloaded kernel: remove {} and try again",
            directory.display()
        )
    })
}

fn read_cached(directory: &Path) -> Result<BootableKernel> {
    let version = fs::read_to_string(directory.join("version"))?;
    let mut modules = Vec::new();
    for entry in fs::read_dir(directory.join("modules"))? {
        modules.push(entry?.path());
    }
    // The file names begin with the load order.
    modules.sort();
    Ok(BootableKernel {
        version,
        image: directory.join("vmlinuz"),
        modules,
    })
}

fn download(name: KernelName, directory: &Path) -> Result<()> {
    if cfg!(not(target_arch = "x86_64")) {
        bail!("the matrix consists of x86-64 kernels, but this machine has another architecture");
    }
    println!("kernel {name}: downloading");
    let scratch = directory.with_extension("partial");
    if scratch.exists() {
        fs::remove_dir_all(&scratch)
            .with_context(|| format!("cannot remove {}", scratch.display()))?;
    }
    let apt = Apt::open(&scratch.join("apt"), name.suites())?;
    let packages = apt.dependencies_of(META_PACKAGE, is_part_of_kernel)?;
    if packages.is_empty() {
        bail!(
            "none of the suites {} on this machine's mirrors has {META_PACKAGE}",
            name.suites().join(", ")
        );
    }
    let tree = scratch.join("tree");
    apt.unpack(&packages, &tree)?;
    let ready = scratch.join("ready");
    extract(&tree, &ready)?;
    fs::rename(&ready, directory)
        .with_context(|| format!("cannot create {}", directory.display()))?;
    fs::remove_dir_all(&scratch).with_context(|| format!("cannot remove {}", scratch.display()))
}

/// The package that depends on the newest build of the small kernel without hardware drivers.
const META_PACKAGE: &str = "linux-image-cloud-amd64";

/// Whether a package is part of a kernel. Newer releases split a kernel into several packages, and
/// the name of each contains the kernel's version.
fn is_part_of_kernel(package: &str) -> bool {
    let parts = [
        "linux-image-",
        "linux-binary-",
        "linux-modules-",
        "linux-base-",
    ];
    parts
        .iter()
        .filter_map(|part| package.strip_prefix(part))
        .any(|version| version.starts_with(|c: char| c.is_ascii_digit()))
}

/// Copies the image and the needed modules from the unpacked packages.
fn extract(tree: &Path, into: &Path) -> Result<()> {
    let files = files_below(tree)?;
    let image = files
        .iter()
        .find(|path| file_name(path).starts_with("vmlinuz"))
        .context("the packages have no vmlinuz")?;
    let available: BTreeMap<_, _> = files
        .iter()
        .filter_map(|path| Some((module_name(path)?, path)))
        .collect();
    let version = version(&files).context("the packages have no directory of modules")?;

    fs::create_dir_all(into.join("modules"))?;
    fs::copy(image, into.join("vmlinuz"))?;
    let mut done = Vec::new();
    for module in MODULES {
        extract_module(module, &available, &into.join("modules"), &mut done)?;
    }
    fs::write(into.join("version"), version)?;
    Ok(())
}

/// Writes a module, uncompressed, after the modules that it depends on. `done` holds the names of
/// the modules that are written, in load order.
fn extract_module(
    name: &str,
    available: &BTreeMap<String, &PathBuf>,
    into: &Path,
    done: &mut Vec<String>,
) -> Result<()> {
    if done.iter().any(|module| module == name) {
        return Ok(());
    }
    let file = available
        .get(name)
        .with_context(|| format!("the packages have no module {name}"))?;
    let bytes = read_module(file).with_context(|| format!("cannot read {}", file.display()))?;
    for dependency in dependencies(&bytes) {
        extract_module(&dependency, available, into, done)?;
    }
    fs::write(into.join(format!("{:02}-{name}.ko", done.len())), bytes)?;
    done.push(name.to_owned());
    Ok(())
}

fn read_module(file: &Path) -> Result<Vec<u8>> {
    if file.extension().is_none_or(|extension| extension != "xz") {
        return Ok(fs::read(file)?);
    }
    output(Command::new("busybox").arg("unxz").arg(file))?;
    Ok(fs::read(file.with_extension(""))?)
}

/// The modules that a module's `depends=` names (section .modinfo).
fn dependencies(module: &[u8]) -> Vec<String> {
    let list = module
        .split(|byte| *byte == 0)
        .find_map(|text| text.strip_prefix(b"depends="));
    let list = String::from_utf8_lossy(list.unwrap_or_default()).into_owned();
    list.split(',')
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

/// A module's name with underscores, because the kernel treats `-` and `_` alike.
fn module_name(path: &Path) -> Option<String> {
    let name = file_name(path);
    let stem = name
        .strip_suffix(".ko")
        .or_else(|| name.strip_suffix(".ko.xz"))?;
    Some(stem.replace('-', "_"))
}

/// The version of the kernel, which is the name of the directory below `lib/modules`.
fn version(files: &[PathBuf]) -> Option<String> {
    files.iter().find_map(|path| {
        let mut parts = path.iter().skip_while(|part| *part != "modules");
        parts.nth(1)?.to_str().map(str::to_owned)
    })
}

fn file_name(path: &Path) -> &str {
    path.file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default()
}

fn files_below(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in
        fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))?
    {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            files.extend(files_below(&entry.path())?);
        } else {
            files.push(entry.path());
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_packages_with_a_version_are_part_of_a_kernel() {
        for name in [
            "linux-image-6.1.0-50-cloud-amd64",
            "linux-modules-7.3.4+deb13-cloud-amd64",
        ] {
            assert!(is_part_of_kernel(name), "{name}");
        }
        for name in [
            "linux-image-cloud-amd64",
            "linux-base",
            "initramfs-tools",
            "linux-headers-6.1.0",
        ] {
            assert!(!is_part_of_kernel(name), "{name}");
        }
    }

    #[test]
    fn dependencies_are_read_from_modinfo() {
        let check = |module: &[u8], expected: &[&str]| assert_eq!(dependencies(module), expected);
        check(
            b"\x7fELF\0license=GPL\0depends=stp,llc\0retpoline=Y\0",
            &["stp", "llc"],
        );
        check(b"license=GPL\0depends=\0", &[]);
        check(b"license=GPL\0", &[]);
    }

    #[test]
    fn module_names_do_not_depend_on_file_name_form() {
        let check = |path: &str, expected: Option<&str>| {
            assert_eq!(module_name(Path::new(path)).as_deref(), expected);
        };
        check("net/sched/sch_ingress.ko", Some("sch_ingress"));
        check("net/sched/sch-ingress.ko.xz", Some("sch_ingress"));
        check("modules.order", None);
    }
}
