//! `cargo xtask kind`: a cluster of two nodes in Docker, with Zerohop in it, for those who have kind.

mod bench;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};

use crate::{
    image,
    kubectl::{Kubectl, NAMESPACE},
    process::{find, output, root, run as run_command},
};

#[derive(Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    job: Job,
}

#[derive(Subcommand)]
enum Job {
    /// Makes the cluster, and loads Zerohop into it.
    Up,
    /// Builds the images, loads them into the nodes, and rolls the DaemonSet out.
    Load,
    /// Asks a realistic mix of questions from a pod, with Zerohop off and on.
    Bench(bench::Options),
    /// Removes the cluster.
    Down,
}

/// The cluster's name.
const CLUSTER: &str = "zerohop";

/// A control plane, and a node beside it: answers from the other node are part of the truth.
const NODES: &str = "
kind: Cluster
apiVersion: kind.x-k8s.io/v1alpha4
nodes:
  - role: control-plane
  - role: worker
";

/// The job itself.
pub(crate) fn run(options: &Options) -> Result<()> {
    match &options.job {
        Job::Up => up(),
        Job::Load => load(),
        Job::Bench(options) => bench::run(options),
        Job::Down => run_command(kind()?.args(["delete", "cluster", "--name", CLUSTER])),
    }
}

fn up() -> Result<()> {
    let folder = root().join("target/kind");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let nodes = folder.join("nodes.yaml");
    fs::write(&nodes, NODES).with_context(|| format!("cannot write {}", nodes.display()))?;
    let mut create = kind()?;
    create.args(["create", "cluster", "--name", CLUSTER, "--wait=120s"]);
    create.arg("--config").arg(nodes);
    run_command(create.arg("--kubeconfig").arg(kubeconfig()))?;
    load()?;
    println!("KUBECONFIG={}", kubeconfig().display());
    Ok(())
}

fn load() -> Result<()> {
    let kubectl = Kubectl::new(&kubeconfig()).context("`cargo xtask kind up` makes the cluster")?;
    load_image(&image::agent(image::AGENT)?)?;
    load_image(&image::client(image::CLIENT)?)?;
    kubectl.install(&kubectl.manifests(image::AGENT)?)?;
    // The tag is the same as before, so the manifests alone replace nothing.
    kubectl.output(&[
        "--namespace",
        NAMESPACE,
        "rollout",
        "restart",
        "daemonset/zerohop",
    ])?;
    kubectl.rolled_out()
}

fn load_image(archive: &Path) -> Result<()> {
    let mut load = kind()?;
    load.args(["load", "image-archive", "--name", CLUSTER]);
    run_command(load.arg(archive))
}

/// kind, if it can work.
fn kind() -> Result<Command> {
    let Some(kind) = find("kind") else {
        bail!("kind is not in PATH: see kind.sigs.k8s.io for how to install it");
    };
    if find("docker").is_none() {
        bail!("docker is not in PATH, and kind's nodes are containers of Docker's: install it");
    }
    output(Command::new("docker").arg("version"))
        .context("Docker does not answer, and kind's nodes are containers of its")?;
    Ok(Command::new(kind))
}

fn kubeconfig() -> PathBuf {
    root().join("target/kind/kubeconfig")
}
