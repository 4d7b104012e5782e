//! Runs kubectl, and installs Zerohop with it.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{
    image,
    process::{find_program, output, root},
};

/// The DaemonSet's namespace.
pub(crate) const NAMESPACE: &str = "kube-system";
/// The label of all objects of an installation.
pub(crate) const LABEL: &str = "app.kubernetes.io/name=zerohop";

/// kubectl, for one cluster.
pub(crate) struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
}

impl Kubectl {
    pub(crate) fn new(kubeconfig: &Path) -> Result<Kubectl> {
        let program = find_program("kubectl").context("kubectl is not in PATH: install it")?;
        if !kubeconfig.exists() {
            bail!("the kubeconfig {} does not exist", kubeconfig.display());
        }
        Ok(Kubectl {
            program,
            kubeconfig: kubeconfig.to_owned(),
        })
    }

    /// A kubectl command for this cluster, with the arguments `words`.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--kubeconfig").arg(&self.kubeconfig);
        command.args(words);
        command
    }

    /// Runs a command, and returns its output.
    pub(crate) fn output(&self, words: &[&str]) -> Result<String> {
        output(&mut self.command(words))
    }

    /// Runs a command with `--output=json`, and returns its output.
    pub(crate) fn json(&self, words: &[&str]) -> Result<Value> {
        let text = output(self.command(words).arg("--output=json"))?;
        serde_json::from_str(&text)
            .with_context(|| format!("kubectl {words:?} printed invalid JSON"))
    }

    /// Runs a command that reads objects from its standard input, such as `apply`.
    pub(crate) fn send_objects(&self, words: &[&str], objects: &str) -> Result<()> {
        let mut command = self.command(words);
        command
            .arg("--filename=-")
            .stdin(Stdio::piped())
            .stdout(Stdio::null());
        let mut child = command.spawn().context("cannot start kubectl")?;
        let mut stdin = child.stdin.take().context("kubectl has no input")?;
        stdin
            .write_all(objects.as_bytes())
            .context("cannot write to kubectl")?;
        drop(stdin);
        let status = child.wait().context("cannot wait for kubectl")?;
        if !status.success() {
            bail!("kubectl {} ended with {status}", words.join(" "));
        }
        Ok(())
    }

    /// The objects of `deploy/kustomize`, with this image of the agent.
    pub(crate) fn manifests(&self, image: &str) -> Result<String> {
        let folder = root().join("deploy/kustomize");
        let objects = output(Command::new(&self.program).arg("kustomize").arg(folder))?;
        Ok(objects.replace(
            &format!("image: {}", image::AGENT),
            &format!("image: {image}"),
        ))
    }

    /// Applies the manifests, and waits until every node has a ready agent.
    pub(crate) fn install(&self, manifests: &str) -> Result<()> {
        self.send_objects(&["apply"], manifests)?;
        self.wait_for_rollout()
    }

    /// Waits until the DaemonSet is rolled out.
    pub(crate) fn wait_for_rollout(&self) -> Result<()> {
        let words = ["rollout", "status", "daemonset/zerohop", "--timeout=180s"];
        self.output(&[&["--namespace", NAMESPACE], &words[..]].concat())
            .map(drop)
            .with_context(|| {
                let logs = self.output(&["--namespace", NAMESPACE, "logs", "--selector", LABEL]);
                let logs = logs.unwrap_or_default();
                format!("the agents are not ready; the end of their logs:\n{logs}")
            })
    }

    /// Deletes the manifests' objects, and waits until the agents' pods have ended.
    pub(crate) fn uninstall(&self, manifests: &str) -> Result<()> {
        self.send_objects(&["delete", "--ignore-not-found"], manifests)?;
        let pods = ["wait", "pods", "--for=delete", "--timeout=90s"];
        let of_zerohop = ["--namespace", NAMESPACE, "--selector", LABEL];
        self.output(&[&pods[..], &of_zerohop].concat()).map(drop)
    }
}
