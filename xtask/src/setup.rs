//! `cargo xtask setup`: finds or installs what the jobs need from the machine.

use anyhow::{Result, bail};

use crate::{
    deployment,
    packages::{PackagedProgram, Verbosity, ensure_programs},
    process::is_root,
    toolchain,
    unpacked_program::{DNSTAP_TOOLS, DOCKER_REGISTRY, PROMETHEUS},
};

/// A requirement of a job.
#[derive(Clone, Copy)]
pub(crate) enum Need {
    /// A compiler with the sources of `core`, and bpf-linker.
    Ebpf,
    /// The program that configures network namespaces, links and routes.
    Namespaces,
    /// Programs that check the agent's zone files.
    ZoneFiles,
    /// DNS clients of other projects, and musl's resolver.
    Clients,
    /// The programs in the image of DNS clients.
    ClientImage,
    /// QEMU and busybox, to boot other kernels.
    Guests,
}

/// Finds or installs what all jobs need, except kubectl, kind and Docker. The tools that check the
/// manifests, the registry, Prometheus and the dnstap tools may be missing, because only tests need
/// them.
pub(crate) fn run() -> Result<()> {
    ensure(
        &[
            Need::Ebpf,
            Need::Namespaces,
            Need::Clients,
            Need::ZoneFiles,
            Need::ClientImage,
            Need::Guests,
        ],
        Verbosity::Everything,
    )?;
    if let Err(reason) = deployment::ensure(Verbosity::Everything) {
        println!("the tests of the manifests can't run on this machine: {reason:#}");
    }
    if let Err(reason) = DOCKER_REGISTRY.ensure(Verbosity::Everything) {
        println!("the tests with a real registry can't run on this machine: {reason:#}");
    }
    if let Err(reason) = PROMETHEUS.ensure(Verbosity::Everything) {
        println!("the test of dashboards can't run on this machine: {reason:#}");
    }
    if let Err(reason) = DNSTAP_TOOLS.ensure(Verbosity::Everything) {
        println!("the test with dnstap tools can't run on this machine: {reason:#}");
    }
    Ok(())
}

/// Finds or installs what a job needs.
pub(crate) fn ensure(needs: &[Need], verbosity: Verbosity) -> Result<()> {
    for need in needs {
        match need {
            Need::Ebpf => {
                toolchain::ensure(verbosity)?;
            }
            Need::Namespaces => ensure_programs(&[IP], verbosity)?,
            Need::ZoneFiles => ensure_programs(&[NAMED_CHECKZONE, KZONECHECK], verbosity)?,
            Need::Clients => ensure_programs(&[MUSL, DIG, KDIG, DRILL], verbosity)?,
            Need::ClientImage => ensure_programs(&[BUSYBOX, GETENT, DIG, DNSPERF], verbosity)?,
            Need::Guests => ensure_programs(&[QEMU, BUSYBOX], verbosity)?,
        }
    }
    Ok(())
}

/// Fails if this process does not run as root.
pub(crate) fn need_root(job: &str) -> Result<()> {
    if !is_root()? {
        bail!(
            "`cargo xtask {job}` loads kernel programs or makes network namespaces: run it as root"
        );
    }
    Ok(())
}

/// Configures links, addresses and routes.
const IP: PackagedProgram = PackagedProgram {
    name: "ip",
    package: "iproute2",
};
/// Checks zone files with BIND's parser.
const NAMED_CHECKZONE: PackagedProgram = PackagedProgram {
    name: "named-checkzone",
    package: "bind9-utils",
};
/// Checks zone files with Knot DNS's parser.
const KZONECHECK: PackagedProgram = PackagedProgram {
    name: "kzonecheck",
    package: "knot-dnssecutils",
};
/// Builds programs with musl's resolver.
const MUSL: PackagedProgram = PackagedProgram {
    name: "musl-gcc",
    package: "musl-tools",
};
/// BIND's DNS client.
const DIG: PackagedProgram = PackagedProgram {
    name: "dig",
    package: "bind9-dnsutils",
};
/// Looks names up with glibc's resolver.
const GETENT: PackagedProgram = PackagedProgram {
    name: "getent",
    package: "libc-bin",
};
/// Sends queries as fast as answers arrive.
const DNSPERF: PackagedProgram = PackagedProgram {
    name: "dnsperf",
    package: "dnsperf",
};
/// Knot's DNS client.
const KDIG: PackagedProgram = PackagedProgram {
    name: "kdig",
    package: "knot-dnsutils",
};
/// NLnet Labs' DNS client.
const DRILL: PackagedProgram = PackagedProgram {
    name: "drill",
    package: "ldnsutils",
};
/// Runs the kernels of the matrix.
const QEMU: PackagedProgram = PackagedProgram {
    name: "qemu-system-x86_64",
    package: "qemu-system-x86",
};
/// The shell of the guests and of the client image, and `unxz` for the guests' modules.
const BUSYBOX: PackagedProgram = PackagedProgram {
    name: "busybox",
    package: "busybox-static",
};
