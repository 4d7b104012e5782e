//! `cargo xtask image`: builds container images as archives, and pushes them to registries.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use serde_json::json;

use crate::{
    build_ebpf,
    oci::{Image, Layer, PackedImage},
    packages::Verbosity,
    process::{build, busybox_applets, cargo, find_program, root, shared_libraries},
    registry::{CredentialFiles, ImageReference, RemoteRepository, UrlScheme},
    setup::{self, Need},
};

#[derive(Args)]
pub(crate) struct ImageOptions {
    /// The image's contents.
    #[arg(value_enum, default_value_t = Contents::Agent)]
    contents: Contents,
    /// The image's name and tag [default: zerohop/dns-agent:dev or zerohop/client:dev].
    #[arg(long, value_name = "NAME")]
    tag: Option<String>,
    /// Also pushes the image to a registry, under this name. Without TAG, the tag of --tag is used.
    /// May be given several times. Credentials come from the files of `podman login` and `docker
    /// login`.
    #[arg(long, value_name = "REGISTRY/NAME[:TAG]")]
    push: Vec<ImageReference>,
    /// Push without TLS. Without this switch, only registries at localhost and at loopback
    /// addresses are used without TLS.
    #[arg(long, requires = "push")]
    plain_http: bool,
}

/// The contents of an image.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Contents {
    /// Only the agent, statically linked.
    Agent,
    /// This machine's own DNS clients, for tests and benchmarks in a cluster.
    Client,
}

/// Where Linux distributions have Mozilla's list of certificate authorities, which upstreams over
/// TLS are checked with. The first is the place in the image.
const CERTIFICATE_BUNDLES: [&str; 3] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
];

/// The default name of the agent's image.
pub(crate) const AGENT: &str = "zerohop/dns-agent:dev";
/// The default name of the clients' image.
pub(crate) const CLIENT: &str = "zerohop/client:dev";

/// An image, and the archive that contains it.
pub(crate) struct BuiltImage {
    pub(crate) archive: PathBuf,
    image: PackedImage,
}

/// Runs the job. The last line of output is the archive's path.
pub(crate) fn run(options: &ImageOptions) -> Result<()> {
    let (build, name): (fn(&str) -> Result<BuiltImage>, _) = match options.contents {
        Contents::Agent => (build_agent, AGENT),
        Contents::Client => (build_client, CLIENT),
    };
    let name = options.tag.as_deref().unwrap_or(name);
    // A build takes minutes, so a registry that refuses the image must say so before.
    let repositories: Result<Vec<_>> = options
        .push
        .iter()
        .map(|reference| options.open_repository(reference, tag_of(name)))
        .collect();
    let mut repositories = repositories?;
    let built = build(name)?;
    for repository in &mut repositories {
        println!("pushed {}", repository.push(&built.image)?);
    }
    println!("{}", built.archive.display());
    Ok(())
}

impl ImageOptions {
    fn open_repository(
        &self,
        reference: &ImageReference,
        default_tag: &str,
    ) -> Result<RemoteRepository> {
        let scheme = if self.plain_http {
            UrlScheme::Http
        } else {
            UrlScheme::usual_for(reference)
        };
        let reference = reference.with_default_tag(default_tag);
        RemoteRepository::open(reference, scheme, &CredentialFiles::of_this_user())
    }
}

/// The tag of an image's name, or that which Docker and the kubelet use for a name without a tag.
fn tag_of(name: &str) -> &str {
    match name.rsplit_once(':') {
        Some((_, tag)) if !tag.contains('/') => tag,
        _ => "latest",
    }
}

/// Builds the image that the DaemonSet runs.
pub(crate) fn build_agent(name: &str) -> Result<BuiltImage> {
    build_ebpf::build_programs()?;
    let program = build_static_agent()?;
    let mut layer = Layer::default();
    layer.add_file(&program, Path::new("/dns-agent"))?;
    match CERTIFICATE_BUNDLES
        .iter()
        .map(Path::new)
        .find(|path| path.exists())
    {
        Some(bundle) => layer.add_file(bundle, Path::new(CERTIFICATE_BUNDLES[0]))?,
        None => println!(
            "this machine has no list of certificate authorities (package ca-certificates), so the \
             image needs SSL_CERT_FILE for `--upstream tls://…`"
        ),
    }
    println!("/dns-agent: {}", size_text(&program)?);
    write_archive(
        "dns-agent.tar",
        &Image {
            name,
            entrypoint: "/dns-agent",
            // Only one malloc arena. With an arena for each thread, threads do not reuse each
            // other's memory.
            environment: &["MALLOC_ARENA_MAX=1"],
            labels: json!({
                "org.opencontainers.image.title": "Zerohop",
                "org.opencontainers.image.description":
                    "Cluster DNS, answered inside the Linux kernel",
                "org.opencontainers.image.version": env!("CARGO_PKG_VERSION"),
                // The second part is the license of dns-ebpf and dns-common, which the agent
                // embeds. `GPL-2.0-only` is SPDX's present name for their `GPL-2.0`. The third is
                // that of the list of certificate authorities.
                "org.opencontainers.image.licenses":
                    "(Apache-2.0 OR MIT) AND (MIT OR GPL-2.0-only) AND MPL-2.0",
            }),
            layer,
        },
    )
}

/// Builds the image of DNS client pods.
pub(crate) fn build_client(name: &str) -> Result<BuiltImage> {
    setup::ensure(&[Need::ClientImage], Verbosity::Changes)?;
    let mut layer = Layer::default();
    let busybox = find_program("busybox").context("busybox is not installed")?;
    for applet in busybox_applets(&busybox)? {
        layer.add_link(&Path::new("/bin").join(applet), Path::new("busybox"));
    }
    layer.add_program(&busybox, Path::new("/bin/busybox"))?;
    for name in ["getent", "dig", "dnsperf"] {
        let program = find_program(name).with_context(|| format!("{name} is not installed"))?;
        layer.add_program(&program, &Path::new("/usr/bin").join(name))?;
    }
    layer.add_contents(Path::new("/etc/nsswitch.conf"), "hosts: files dns\n");
    write_archive(
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

/// Builds the agent without shared libraries. Only glibc's resolver would load some, and the agent
/// does not need it, because a pod knows the API server by its address.
fn build_static_agent() -> Result<PathBuf> {
    if cfg!(not(target_arch = "x86_64")) {
        bail!("images are for x86-64 only, and must be built there");
    }
    let cargo_home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let cargo_home = cargo_home
        .or_else(|| Some(Path::new(&env::var_os("HOME")?).join(".cargo")))
        .context("cannot find Cargo's directory: set CARGO_HOME")?;
    // The program must not contain this machine's paths: they are private, and the program's bytes
    // would depend on them.
    let hidden = [(cargo_home.as_path(), "/cargo"), (root(), "/zerohop")]
        .map(|(path, shown)| format!("--remap-path-prefix={}={shown}", path.display()));
    let [hide_cargo_home, hide_root] = hidden;
    let flags = ["-Ctarget-feature=+crt-static", &hide_cargo_home, &hide_root];
    let mut command = cargo();
    command
        .args(["build", "--quiet", "--locked", "--release"])
        .args(["--package", "dns-agent", "--target", TARGET])
        // A separate directory, so that other builds stay valid.
        .arg("--target-dir")
        .arg(root().join("target/image-build"))
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        // This makes the program an eighth smaller. Link-time optimization would save little more
        // and takes minutes.
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1")
        .env("CARGO_PROFILE_RELEASE_STRIP", "symbols")
        .env("CARGO_PROFILE_RELEASE_DEBUG", "0");
    let program = build(&mut command, "dns-agent")?;
    let libraries = shared_libraries(&program)?;
    if !libraries.is_empty() {
        bail!(
            "{} is not static: it needs {libraries:?}",
            program.display()
        );
    }
    Ok(program)
}

fn write_archive(file: &str, image: &Image) -> Result<BuiltImage> {
    let directory = root().join("target/image");
    fs::create_dir_all(&directory)
        .with_context(|| format!("cannot create {}", directory.display()))?;
    let archive = directory.join(file);
    let packed = image.pack()?;
    packed.write(&archive)?;
    println!("{}: {} compressed", image.name, size_text(&archive)?);
    Ok(BuiltImage {
        archive,
        image: packed,
    })
}

fn size_text(path: &Path) -> Result<String> {
    let bytes = path
        .metadata()
        .with_context(|| format!("cannot read {}", path.display()))?
        .len();
    Ok(format!("{:.1} MB", bytes as f64 / 1e6))
}
