//! `cargo xtask kind`: runs Zerohop in a kind cluster of two nodes in Docker.

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
    process::{find_program, output, root, run_command},
};

#[derive(Args)]
pub(crate) struct KindOptions {
    #[command(subcommand)]
    job: KindJob,
}

#[derive(Subcommand)]
enum KindJob {
    /// Creates the cluster, and installs Zerohop in it.
    Up,
    /// Builds the images, loads them into the nodes, and rolls out the DaemonSet.
    Load,
    /// Measures a realistic mix of queries from a pod, without and with Zerohop.
    Bench(bench::KindBenchOptions),
    /// Removes the cluster.
    Down,
}

/// The cluster's name.
const CLUSTER: &str = "zerohop";

/// A control plane and a worker, so that some of CoreDNS's answers come from the other node.
const NODES: &str = "
kind: Cluster
apiVersion: kind.x-k8s.io/v1alpha4
nodes:
  - role: control-plane
  - role: worker
";

/// Runs the job.
pub(crate) fn run(options: &KindOptions) -> Result<()> {
    match &options.job {
        KindJob::Up => create_cluster(),
        KindJob::Load => deploy_images(),
        KindJob::Bench(options) => bench::run(options),
        KindJob::Down => run_command(kind()?.args(["delete", "cluster", "--name", CLUSTER])),
    }
}

fn create_cluster() -> Result<()> {
    let folder = root().join("target/kind");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let nodes = folder.join("nodes.yaml");
    fs::write(&nodes, NODES).with_context(|| format!("cannot write {}", nodes.display()))?;
    let mut create = kind()?;
    create.args(["create", "cluster", "--name", CLUSTER, "--wait=120s"]);
    create.arg("--config").arg(nodes);
    run_command(create.arg("--kubeconfig").arg(kubeconfig()))?;
    deploy_images()?;
    println!("KUBECONFIG={}", kubeconfig().display());
    Ok(())
}

fn deploy_images() -> Result<()> {
    let kubectl = Kubectl::new(&kubeconfig())
        .context("cannot use the cluster that `cargo xtask kind up` creates")?;
    load_image(&image::build_agent(image::AGENT)?.archive)?;
    load_image(&image::build_client(image::CLIENT)?.archive)?;
    kubectl.install(&kubectl.manifests(image::AGENT)?)?;
    // The image has the same tag as before, so applying the manifests does not replace the pods.
    kubectl.output(&[
        "--namespace",
        NAMESPACE,
        "rollout",
        "restart",
        "daemonset/zerohop",
    ])?;
    kubectl.wait_for_rollout()
}

fn load_image(archive: &Path) -> Result<()> {
    let mut load = kind()?;
    load.args(["load", "image-archive", "--name", CLUSTER]);
    run_command(load.arg(archive))
}

/// A command for kind. Fails if kind is not installed, or Docker does not work.
fn kind() -> Result<Command> {
    let Some(kind) = find_program("kind") else {
        bail!("kind is not in PATH: see kind.sigs.k8s.io for how to install it");
    };
    if find_program("docker").is_none() {
        bail!("docker is not in PATH, and kind's nodes are Docker containers: install it");
    }
    output(Command::new("docker").arg("version"))
        .context("the Docker daemon does not answer, and kind's nodes are Docker containers")?;
    Ok(Command::new(kind))
}

fn kubeconfig() -> PathBuf {
    root().join("target/kind/kubeconfig")
}
