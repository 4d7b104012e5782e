//! `cargo xtask image`: what runs in a cluster, as archives that need no registry.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use serde_json::json;

use crate::{
    build_ebpf,
    oci::{Image, Layer},
    process::{applets, build, cargo, find, libraries, root},
    setup::{self, Need, Say},
};

#[derive(Args)]
pub(crate) struct Options {
    /// What is in it.
    #[arg(value_enum, default_value_t = Contents::Agent)]
    contents: Contents,
    /// The image's name and tag [default: zerohop/dns-agent:dev, zerohop/client:dev].
    #[arg(long, value_name = "NAME")]
    tag: Option<String>,
}

/// What an image is made of.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Contents {
    /// The agent, statically linked, and nothing else.
    Agent,
    /// This machine's own DNS clients, for tests and benchmarks in a cluster.
    Client,
}

/// The agent's name unless told otherwise.
pub(crate) const AGENT: &str = "zerohop/dns-agent:dev";
/// The clients' name unless told otherwise.
pub(crate) const CLIENT: &str = "zerohop/client:dev";

/// The job itself; the archive's path is the last line it prints.
pub(crate) fn run(options: &Options) -> Result<()> {
    let archive = match options.contents {
        Contents::Agent => agent(options.tag.as_deref().unwrap_or(AGENT))?,
        Contents::Client => client(options.tag.as_deref().unwrap_or(CLIENT))?,
    };
    println!("{}", archive.display());
    Ok(())
}

/// The image that the DaemonSet runs.
pub(crate) fn agent(name: &str) -> Result<PathBuf> {
    build_ebpf::programs()?;
    let program = static_agent()?;
    let mut layer = Layer::default();
    layer.file(&program, Path::new("/dns-agent"))?;
    println!("/dns-agent: {}", size(&program)?);
    write(
        "dns-agent.tar",
        &Image {
            name,
            entrypoint: "/dns-agent",
            // Arenas for each thread are memory that is never used again.
            environment: &["MALLOC_ARENA_MAX=1"],
            labels: json!({
                "org.opencontainers.image.title": "Zerohop",
                "org.opencontainers.image.description": "Cluster DNS, answered inside the Linux kernel",
                "org.opencontainers.image.version": env!("CARGO_PKG_VERSION"),
                // dns-ebpf and dns-common, which are in it, are under the others too.
                "org.opencontainers.image.licenses": "(Apache-2.0 OR MIT) AND (MIT OR GPL-2.0-only)",
            }),
            layer,
        },
    )
}

/// The image of the pods that ask.
pub(crate) fn client(name: &str) -> Result<PathBuf> {
    setup::ensure(&[Need::ClientImage], Say::Changes)?;
    let mut layer = Layer::default();
    let busybox = find("busybox").context("busybox is not there")?;
    for applet in applets(&busybox)? {
        layer.link(&Path::new("/bin").join(applet), Path::new("busybox"));
    }
    layer.program(&busybox, Path::new("/bin/busybox"))?;
    for name in ["getent", "dig", "dnsperf"] {
        let program = find(name).with_context(|| format!("{name} is not there"))?;
        layer.program(&program, &Path::new("/usr/bin").join(name))?;
    }
    layer.contents(Path::new("/etc/nsswitch.conf"), "hosts: files dns\n");
    write(
        "client.tar",
        &Image {
            name,
            entrypoint: "/bin/sh",
            environment: &["PATH=/usr/bin:/bin"],
            labels: json!({ "org.opencontainers.image.title": "DNS clients" }),
            layer,
        },
    )
}

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Builds the agent without shared libraries. glibc's resolver would still load some, but in a pod the API
/// server is known by its address.
fn static_agent() -> Result<PathBuf> {
    if cfg!(not(target_arch = "x86_64")) {
        bail!("images are for x86-64, which alone is tested, and must be built there");
    }
    let cargo_home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let cargo_home = cargo_home
        .or_else(|| Some(Path::new(&env::var_os("HOME")?).join(".cargo")))
        .context("cannot tell where Cargo keeps its sources: set CARGO_HOME")?;
    // Where it was built is nobody's business, and would make it another program.
    let hidden = [(cargo_home.as_path(), "/cargo"), (root(), "/zerohop")]
        .map(|(path, shown)| format!("--remap-path-prefix={}={shown}", path.display()));
    let [cargo_home, root_path] = hidden;
    let flags = ["-Ctarget-feature=+crt-static", &cargo_home, &root_path];
    let mut command = cargo();
    command
        .args(["build", "--quiet", "--locked", "--release"])
        .args(["--package", "dns-agent", "--target", TARGET])
        // A directory of its own, so that other builds keep what they have.
        .arg("--target-dir")
        .arg(root().join("target/image-build"))
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        // An eighth smaller; link-time optimization would hardly add to that, and takes minutes each time.
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1")
        .env("CARGO_PROFILE_RELEASE_STRIP", "symbols")
        .env("CARGO_PROFILE_RELEASE_DEBUG", "0");
    let program = build(&mut command, "dns-agent")?;
    let libraries = libraries(&program)?;
    if !libraries.is_empty() {
        bail!(
            "{} is not static, it needs {libraries:?}",
            program.display()
        );
    }
    Ok(program)
}

fn write(file: &str, image: &Image) -> Result<PathBuf> {
    let directory = root().join("target/image");
    fs::create_dir_all(&directory)
        .with_context(|| format!("cannot create {}", directory.display()))?;
    let archive = directory.join(file);
    image.write(&archive)?;
    println!("{}: {} compressed", image.name, size(&archive)?);
    Ok(archive)
}

fn size(path: &Path) -> Result<String> {
    let octets = path
        .metadata()
        .with_context(|| format!("cannot read {}", path.display()))?
        .len();
    Ok(format!("{:.1} MB", octets as f64 / 1e6))
}
