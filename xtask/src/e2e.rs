//! `cargo xtask e2e`: installs, updates and uninstalls Zerohop in a cluster, and checks the answers
//! that pods get.
//!
//! The pods' own libc and tools ask the same questions before the installation, with it, after a
//! rolling update, and after the uninstallation. The answers must be the same each time. The
//! agents' status must show that the kernel answered, but never a pod whose egress a policy
//! forbids. At the end nothing of Zerohop may remain in the cluster.

use std::{
    collections::BTreeSet,
    path::PathBuf,
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde_json::{Value, json};

use crate::{
    image,
    kubectl::{Kubectl, LABEL, NAMESPACE},
};

#[derive(Args)]
pub(crate) struct E2eOptions {
    /// The kubeconfig of a test cluster. Its nodes must have the agent's and the client's image.
    #[arg(long, value_name = "FILE")]
    kubeconfig: PathBuf,
    /// The agent's image.
    #[arg(long, value_name = "NAME", default_value = image::AGENT)]
    image: String,
    /// The image of the client pods, as built by `cargo xtask image client`.
    #[arg(long, value_name = "NAME", default_value = image::CLIENT)]
    client_image: String,
    /// A name outside the cluster that its DNS resolves.
    #[arg(long, value_name = "NAME", default_value = "example.com")]
    outside: String,
}

/// Runs the job.
pub(crate) fn run(options: &E2eOptions) -> Result<()> {
    let kubectl = Kubectl::new(&options.kubeconfig)?;
    let installed = ["get", "daemonsets", "--all-namespaces", "--selector", LABEL];
    if !items(&kubectl.json(&installed)?).is_empty() {
        bail!(
            "Zerohop is installed in this cluster, and the test would uninstall it: use another \
             cluster"
        );
    }
    let test = E2eTest {
        manifests: kubectl.manifests(&options.image)?,
        objects: include_str!("e2e/objects.yaml").replace("CLIENT_IMAGE", &options.client_image),
        outside: &options.outside,
        image: &options.image,
        kubectl,
    };
    let outcome = test.run();
    // The clean-up also follows a failed test. The test's error takes precedence.
    let cleaned = test.clean_up();
    outcome.and(cleaned)
}

/// The namespace of the test's own objects.
const TEST_NAMESPACE: &str = "zerohop-e2e";
/// How long answers, or an agent's status, may take to become right.
const PATIENCE: Duration = Duration::from_secs(60);

/// The test of one cluster.
struct E2eTest<'a> {
    kubectl: Kubectl,
    /// Zerohop's objects.
    manifests: String,
    /// The test's own objects.
    objects: String,
    /// A name outside the cluster.
    outside: &'a str,
    image: &'a str,
}

/// A client pod, and its node.
struct E2eClient {
    pod: String,
    node: String,
}

/// The questions of one client, each with its answers. The answers are sorted, because they come in
/// any order.
type ClientAnswers = Vec<(String, BTreeSet<String>)>;

impl E2eTest<'_> {
    fn run(&self) -> Result<()> {
        self.kubectl.send_objects(&["apply"], &self.objects)?;
        for workload in ["daemonset/client", "deployment/web"] {
            self.in_test_namespace(&["rollout", "status", workload, "--timeout=180s"])?;
        }
        let clients = self.clients()?;
        let before = self.wait_for_answers(&clients)?;
        println!("without Zerohop: {}", count_text(&clients, &before));

        self.kubectl.install(&self.manifests)?;
        self.compare("with Zerohop", &clients, &before)?;
        self.check_kernel_answers(&clients, &before)?;
        self.check_daemon_set_permission()?;

        let load = self.start_load(&clients[0])?;
        self.in_zerohop_namespace(&["rollout", "restart", "daemonset/zerohop"])?;
        self.kubectl.wait_for_rollout()?;
        println!("during a rolling update: {}", self.finish_load(load)?);
        self.compare("after a rolling update", &clients, &before)?;

        self.kubectl.send_objects(&["apply"], POLICY)?;
        let forbidden = self.check_left_out(&clients)?;
        self.kubectl.uninstall(&self.manifests)?;
        self.compare("with the policy, without Zerohop", &clients, &forbidden)?;
        self.kubectl.send_objects(&["delete"], POLICY)?;
        self.wait_until_restored(&clients, &before)?;
        for client in &clients {
            self.check_nothing_left(&client.node)?;
        }
        self.check_no_objects_left()
    }

    fn clients(&self) -> Result<Vec<E2eClient>> {
        let pods = self.kubectl.json(&[
            "--namespace",
            TEST_NAMESPACE,
            "get",
            "pods",
            "--selector",
            "app=client",
        ])?;
        let clients: Option<Vec<_>> = items(&pods)
            .iter()
            .map(|pod| {
                Some(E2eClient {
                    pod: pod["metadata"]["name"].as_str()?.to_owned(),
                    node: pod["spec"]["nodeName"].as_str()?.to_owned(),
                })
            })
            .collect();
        let clients = clients.context("a client has no name or no node")?;
        ensure!(!clients.is_empty(), "there is no node to run a client on");
        Ok(clients)
    }

    /// Waits until every question has an answer, except the question for the absent name. Returns
    /// the answers.
    fn wait_for_answers(&self, clients: &[E2eClient]) -> Result<Vec<ClientAnswers>> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let all = self.ask_all(clients)?;
            let missing = all
                .iter()
                .flatten()
                .find(|(question, answers)| answers.is_empty() && !question.contains(ABSENT));
            match missing {
                None => return Ok(all),
                Some((question, _)) if Instant::now() > deadline => {
                    bail!("without Zerohop there is no answer to `{question}` within {PATIENCE:?}")
                }
                Some(_) => thread::sleep(Duration::from_secs(1)),
            }
        }
    }

    /// Checks that the answers are the same as before. `when` describes the state in messages.
    fn compare(&self, when: &str, clients: &[E2eClient], before: &[ClientAnswers]) -> Result<()> {
        let now = self.ask_all(clients)?;
        for ((client, before), now) in clients.iter().zip(before).zip(&now) {
            for ((question, before), (_, now)) in before.iter().zip(now) {
                ensure!(
                    before == now,
                    "{when}, on {}, `{question}` gives {now:?} instead of {before:?}",
                    client.node
                );
            }
        }
        println!("{when}: {}, the same answers", count_text(clients, &now));
        Ok(())
    }

    fn ask_all(&self, clients: &[E2eClient]) -> Result<Vec<ClientAnswers>> {
        clients.iter().map(|client| self.ask(client)).collect()
    }

    fn ask(&self, client: &E2eClient) -> Result<ClientAnswers> {
        let questions = questions(self.outside);
        let ask = |question: String| {
            // A command may fail without an answer, for example dig if no server replies, as under
            // `POLICY`. Such a question has no answers, which is no error here.
            let script = format!("{question} || true");
            let text = self.in_test_namespace(&["exec", &client.pod, "--", "sh", "-c", &script])?;
            Ok((question, text.lines().map(str::to_owned).collect()))
        };
        questions.into_iter().map(ask).collect()
    }

    /// Checks that every client's veth has a hook that survives updates, and that the kernel
    /// answers.
    fn check_kernel_answers(&self, clients: &[E2eClient], before: &[ClientAnswers]) -> Result<()> {
        for (client, answers) in clients.iter().zip(before) {
            let link = self.in_test_namespace(&[
                "exec",
                &client.pod,
                "--",
                "cat",
                "/sys/class/net/eth0/iflink",
            ])?;
            let link: u64 = link
                .trim()
                .parse()
                .context("the client's iflink is not a number")?;
            let status = self.status(&client.node)?;
            let attached = items_at(&status["datapath"]["attached"]);
            let hook = attached.iter().find(|hook| hook["index"] == link);
            let hook =
                hook.with_context(|| format!("on {} the client's veth has no hook", client.node))?;
            ensure!(
                hook["outlives"] == true,
                "on {} the hook does not survive an update: {}",
                client.node,
                status["degraded"]
            );
            let first = answered(&status);
            self.ask(client)?;
            // The counters restart when the tables grow.
            let more = answered(&self.status(&client.node)?).saturating_sub(first);
            // Every question needs at least one answer from the kernel, except the question for the
            // outside name.
            let expected = answers.len() as u64 - 1;
            ensure!(
                more >= expected,
                "on {} the kernel gave {more} answers, but at least {expected} are required",
                client.node
            );
            println!(
                "{}: {} at {} ({}); {more} answers from the kernel for {} questions",
                client.node,
                hook["program"].as_str().unwrap_or_default(),
                hook["interface"].as_str().unwrap_or_default(),
                hook["mode"].as_str().unwrap_or_default(),
                answers.len()
            );
        }
        Ok(())
    }

    /// Checks that the kernel passes the clients' queries while a policy forbids their egress.
    /// Returns the clients' answers, which depend on whether the cluster enforces policies.
    fn check_left_out(&self, clients: &[E2eClient]) -> Result<Vec<ClientAnswers>> {
        let ask_when_left_out = |client: &E2eClient| {
            let deadline = Instant::now() + PATIENCE;
            let name = format!("{TEST_NAMESPACE}/{}", client.pod);
            let is_left_out = |status: &Value| {
                items_at(&status["network_policy"]["left_out"])
                    .iter()
                    .any(|pod| pod["pod"] == name.as_str())
            };
            loop {
                let status = self.status(&client.node)?;
                if is_left_out(&status) {
                    break;
                }
                ensure!(
                    Instant::now() < deadline,
                    "on {} the status does not list {} in network_policy.left_out: {}",
                    client.node,
                    client.pod,
                    status["network_policy"]
                );
                thread::sleep(Duration::from_secs(1));
            }
            let first = answered(&self.status(&client.node)?);
            let answers = self.ask(client)?;
            let more = answered(&self.status(&client.node)?).saturating_sub(first);
            ensure!(
                more == 0,
                "on {} the kernel answered {more} queries that a policy may forbid",
                client.node
            );
            println!(
                "{}: a policy forbids the client's egress: no answers from the kernel for {} \
                 questions",
                client.node,
                answers.len()
            );
            Ok(answers)
        };
        clients.iter().map(ask_when_left_out).collect()
    }

    /// Waits until the answers are the same as before the installation. The enforcement of the
    /// policy may end with a delay.
    fn wait_until_restored(&self, clients: &[E2eClient], before: &[ClientAnswers]) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let compared = self.compare("without Zerohop again", clients, before);
            if compared.is_ok() || Instant::now() > deadline {
                return compared;
            }
            thread::sleep(Duration::from_secs(1));
        }
    }

    /// Checks that the agents may get their own DaemonSet. Otherwise they could not recognise an
    /// update, and would detach their hooks at each one.
    fn check_daemon_set_permission(&self) -> Result<()> {
        let account = format!("--as=system:serviceaccount:{NAMESPACE}:zerohop");
        self.in_zerohop_namespace(&["auth", "can-i", "get", "daemonset.apps/zerohop", &account])
            .map(drop)
            .context("the agents may not get their own DaemonSet")
    }

    /// The status of a node's agent.
    fn status(&self, node: &str) -> Result<Value> {
        let field = format!("spec.nodeName={node}");
        let pod = self.in_zerohop_namespace(&[
            "get",
            "pods",
            "--selector",
            LABEL,
            "--field-selector",
            &field,
            "--output=name",
        ])?;
        let text = self.in_zerohop_namespace(&[
            "exec",
            pod.trim(),
            "--",
            "/dns-agent",
            "status",
            "--json",
        ])?;
        serde_json::from_str(&text)
            .with_context(|| format!("the status of the agent on {node} is invalid JSON"))
    }

    /// Starts to send 100 queries a second from a client, for [`LOAD_SECONDS`].
    fn start_load(&self, client: &E2eClient) -> Result<std::process::Child> {
        let name = format!("web.{TEST_NAMESPACE}.svc.cluster.local A");
        // A million passes over the file (`-n`) take longer than the load, so only `-l` ends it.
        let script = format!(
            "server=$(awk '/^nameserver/ {{ print $2; exit }}' /etc/resolv.conf)
             echo '{name}' > /questions
             dnsperf -s $server -d /questions -c 1 -T 1 -Q 100 -t 2 -l {LOAD_SECONDS} \
             -n 1000000 2>&1"
        );
        let words = [
            "--namespace",
            TEST_NAMESPACE,
            "exec",
            &client.pod,
            "--",
            "sh",
            "-c",
        ];
        let mut command = self.kubectl.command(&words);
        command
            .arg(script)
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start kubectl")
    }

    /// Waits for the end of the load, and returns its statistics. Fails if a query was lost.
    fn finish_load(&self, load: std::process::Child) -> Result<String> {
        let output = load.wait_with_output().context("cannot wait for kubectl")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let line = |label: &str| {
            let found = text.lines().find(|line| line.contains(label));
            let words = found.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
            words.with_context(|| format!("dnsperf's output has no line `{label}`: {text}"))
        };
        let lost = line("Queries lost")?;
        ensure!(
            lost.contains("lost: 0 "),
            "queries were lost during the rolling update: {lost}"
        );
        Ok(format!("{}, {lost}", line("Queries completed")?))
    }

    /// Runs `dns-agent detach` on a node, and checks that it finds nothing to remove.
    fn check_nothing_left(&self, node: &str) -> Result<()> {
        let name = format!("detach-{node}");
        let pod = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": { "name": name, "namespace": TEST_NAMESPACE },
            "spec": {
                "nodeName": node,
                "hostNetwork": true,
                "restartPolicy": "Never",
                "tolerations": [{ "operator": "Exists" }],
                "containers": [{
                    "name": "detach",
                    "image": self.image,
                    "imagePullPolicy": "IfNotPresent",
                    "args": ["detach", "--bpffs=/bpf"],
                    "securityContext": {
                        "capabilities": { "drop": ["ALL"], "add": ["BPF", "NET_ADMIN", "PERFMON"] },
                    },
                    "volumeMounts": [{ "name": "bpffs", "mountPath": "/bpf" }],
                }],
                "volumes": [{ "name": "bpffs", "hostPath": { "path": "/sys/fs/bpf" } }],
            },
        });
        self.kubectl.send_objects(&["apply"], &pod.to_string())?;
        let pod = format!("pod/{name}");
        let ended = "--for=jsonpath={.status.phase}=Succeeded";
        self.in_test_namespace(&["wait", &pod, ended, "--timeout=60s"])?;
        let found = self.in_test_namespace(&["logs", &pod])?;
        ensure!(
            found.contains("no hook or pin of Zerohop"),
            "on {node} hooks or pins of Zerohop remain: {found}"
        );
        println!("{node}: {}", found.trim());
        Ok(())
    }

    fn check_no_objects_left(&self) -> Result<()> {
        let kinds = "daemonsets,pods,configmaps,serviceaccounts,roles,rolebindings,clusterroles,\
                     clusterrolebindings";
        let left = self.kubectl.output(&[
            "get",
            kinds,
            "--all-namespaces",
            "--selector",
            LABEL,
            "--output=name",
        ])?;
        ensure!(
            left.trim().is_empty(),
            "objects of Zerohop remain in the cluster: {left}"
        );
        println!("no object of Zerohop remains in the cluster");
        Ok(())
    }

    fn clean_up(&self) -> Result<()> {
        self.kubectl.uninstall(&self.manifests)?;
        self.kubectl
            .send_objects(&["delete", "--ignore-not-found"], &self.objects)
    }

    fn in_test_namespace(&self, words: &[&str]) -> Result<String> {
        self.kubectl
            .output(&[&["--namespace", TEST_NAMESPACE], words].concat())
    }

    fn in_zerohop_namespace(&self, words: &[&str]) -> Result<String> {
        self.kubectl
            .output(&[&["--namespace", NAMESPACE], words].concat())
    }
}

/// Forbids all egress of the clients, where policies are enforced.
const POLICY: &str = r#"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: no-egress, namespace: zerohop-e2e}
spec: {podSelector: {matchLabels: {app: client}}, policyTypes: [Egress]}
"#;
/// The duration of the load, in seconds: longer than a rolling update takes in the cluster of
/// `cargo xtask kind`, which has two nodes. In a larger cluster the load may end before the update.
const LOAD_SECONDS: u32 = 45;
/// The name of an absent Service.
const ABSENT: &str = "no-such-name";

/// The questions: shell commands that print a line for each answer.
fn questions(outside: &str) -> Vec<String> {
    let zone = format!("{TEST_NAMESPACE}.svc.cluster.local");
    let by_libc = |name: &str| format!("getent ahostsv4 {name} | awk '{{ print $1 }}'");
    vec![
        by_libc("web"),
        by_libc(&format!("web.{TEST_NAMESPACE}")),
        by_libc("headless"),
        by_libc("alias"),
        by_libc("kubernetes.default"),
        by_libc(ABSENT),
        by_libc(outside),
        // The lines of nslookup include the server's address.
        format!("nslookup web.{zone} | awk '/^Address/ {{ print $NF }}'"),
        format!("dig +short SRV _http._tcp.web.{zone}"),
        format!("dig +short SRV _http._tcp.headless.{zone}"),
        format!("dig +short AAAA web.{zone}; dig AAAA web.{zone} | grep -o 'status: [A-Z]*'"),
        format!("dig +short -x $(getent ahostsv4 web | awk '{{ print $1; exit }}')"),
    ]
}

/// The number of questions and of nodes, as text.
fn count_text(clients: &[E2eClient], answers: &[ClientAnswers]) -> String {
    let questions: usize = answers.iter().map(Vec::len).sum();
    format!("{questions} questions from {} nodes", clients.len())
}

/// Number of packets that the kernel has answered, by an agent's status.
fn answered(status: &Value) -> u64 {
    items_at(&status["datapath"]["outcomes"])
        .iter()
        .filter(|outcome| outcome["answered"] == true)
        .filter_map(|outcome| outcome["packets"].as_u64())
        .sum()
}

fn items(list: &Value) -> &[Value] {
    items_at(&list["items"])
}

fn items_at(list: &Value) -> &[Value] {
    list.as_array().map(Vec::as_slice).unwrap_or_default()
}
