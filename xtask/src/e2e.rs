//! `cargo xtask e2e`: a whole life of Zerohop in a cluster, as pods see it.
//!
//! The same questions are asked by the pods' own libc and tools before the installation, with it, after
//! a rolling update, and after the uninstallation: the answers must be the same each time. Between,
//! the agents must say that the kernel gave them, or none to those whom a policy lets ask nobody, and in the
//! end nothing may be left.

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
pub(crate) struct Options {
    /// A test cluster's kubeconfig. Its nodes have both images already.
    #[arg(long, value_name = "FILE")]
    kubeconfig: PathBuf,
    /// The agent's image.
    #[arg(long, value_name = "NAME", default_value = image::AGENT)]
    image: String,
    /// The image of the pods that ask, as `cargo xtask image client` makes it.
    #[arg(long, value_name = "NAME", default_value = image::CLIENT)]
    client_image: String,
    /// A name outside the cluster that its DNS resolves.
    #[arg(long, value_name = "NAME", default_value = "example.com")]
    outside: String,
}

/// The job itself.
pub(crate) fn run(options: &Options) -> Result<()> {
    let kubectl = Kubectl::new(&options.kubeconfig)?;
    let installed = ["get", "daemonsets", "--all-namespaces", "--selector", LABEL];
    if !items(&kubectl.json(&installed)?).is_empty() {
        bail!("Zerohop is installed in this cluster, and the test would take it away");
    }
    let test = Test {
        manifests: kubectl.manifests(&options.image)?,
        objects: include_str!("e2e/objects.yaml").replace("CLIENT_IMAGE", &options.client_image),
        outside: &options.outside,
        image: &options.image,
        kubectl,
    };
    let outcome = test.run();
    // Also what a failure has left; its reason counts for more than this one's.
    let cleaned = test.clean_up();
    outcome.and(cleaned)
}

const SPACE: &str = "zerohop-e2e";
/// How long answers may take to become what they are to be.
const PATIENCE: Duration = Duration::from_secs(60);

struct Test<'a> {
    kubectl: Kubectl,
    manifests: String,
    objects: String,
    outside: &'a str,
    image: &'a str,
}

/// A pod that asks.
struct Client {
    pod: String,
    node: String,
}

/// What came of all questions to one client, sorted: answers come in any order.
type Answers = Vec<(String, BTreeSet<String>)>;

impl Test<'_> {
    fn run(&self) -> Result<()> {
        self.kubectl.feed(&["apply"], &self.objects)?;
        for workload in ["daemonset/client", "deployment/web"] {
            self.in_space(&["rollout", "status", workload, "--timeout=180s"])?;
        }
        let clients = self.clients()?;
        let before = self.settled(&clients)?;
        println!("without Zerohop: {}", told(&clients, &before));

        self.kubectl.install(&self.manifests)?;
        self.compare("with Zerohop", &clients, &before)?;
        self.served_by_kernel(&clients, &before)?;
        self.may_ask_for_daemon_set()?;

        let load = self.load(&clients[0])?;
        self.in_system(&["rollout", "restart", "daemonset/zerohop"])?;
        self.kubectl.rolled_out()?;
        println!("during a rolling update: {}", self.ended(load)?);
        self.compare("after a rolling update", &clients, &before)?;

        self.kubectl.feed(&["apply"], POLICY)?;
        let forbidden = self.left_out(&clients)?;
        self.kubectl.uninstall(&self.manifests)?;
        self.compare("that policy without Zerohop", &clients, &forbidden)?;
        self.kubectl.feed(&["delete"], POLICY)?;
        self.restored(&clients, &before)?;
        for client in &clients {
            self.nothing_left(&client.node)?;
        }
        self.no_objects_left()
    }

    fn clients(&self) -> Result<Vec<Client>> {
        let pods = self.kubectl.json(&[
            "--namespace",
            SPACE,
            "get",
            "pods",
            "--selector",
            "app=client",
        ])?;
        let clients: Option<Vec<_>> = items(&pods)
            .iter()
            .map(|pod| {
                Some(Client {
                    pod: pod["metadata"]["name"].as_str()?.to_owned(),
                    node: pod["spec"]["nodeName"].as_str()?.to_owned(),
                })
            })
            .collect();
        let clients = clients.context("a client has no name or no node")?;
        ensure!(!clients.is_empty(), "there is no node to run a client on");
        Ok(clients)
    }

    /// The answers without Zerohop, as soon as there is one to every question that has one.
    fn settled(&self, clients: &[Client]) -> Result<Vec<Answers>> {
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
                    bail!("without Zerohop there is no answer to `{question}`")
                }
                Some(_) => thread::sleep(Duration::from_secs(1)),
            }
        }
    }

    fn compare(&self, when: &str, clients: &[Client], before: &[Answers]) -> Result<()> {
        let now = self.ask_all(clients)?;
        for ((client, before), now) in clients.iter().zip(before).zip(&now) {
            for ((question, before), (_, now)) in before.iter().zip(now) {
                ensure!(
                    before == now,
                    "{when}, on {}, `{question}` gives {now:?}, and gave {before:?}",
                    client.node
                );
            }
        }
        println!("{when}: {}, the same answers", told(clients, &now));
        Ok(())
    }

    fn ask_all(&self, clients: &[Client]) -> Result<Vec<Answers>> {
        clients.iter().map(|client| self.ask(client)).collect()
    }

    fn ask(&self, client: &Client) -> Result<Answers> {
        let questions = questions(self.outside);
        let ask = |question: String| {
            // A name that is not there makes them fail.
            let script = format!("{question} || true");
            let text = self.in_space(&["exec", &client.pod, "--", "sh", "-c", &script])?;
            Ok((question, text.lines().map(str::to_owned).collect()))
        };
        questions.into_iter().map(ask).collect()
    }

    /// Every client's veth has a hook, and the kernel answers what can be answered there.
    fn served_by_kernel(&self, clients: &[Client], before: &[Answers]) -> Result<()> {
        for (client, answers) in clients.iter().zip(before) {
            let link = self.in_space(&[
                "exec",
                &client.pod,
                "--",
                "cat",
                "/sys/class/net/eth0/iflink",
            ])?;
            let link: u64 = link.trim().parse().context("a link without a number")?;
            let status = self.status(&client.node)?;
            let attached = items_at(&status["datapath"]["attached"]);
            let hook = attached.iter().find(|hook| hook["index"] == link);
            let hook = hook
                .with_context(|| format!("on {} no hook is at the client's veth", client.node))?;
            ensure!(
                hook["outlives"] == true,
                "on {} the hook does not stay over an update: {}",
                client.node,
                status["degraded"]
            );
            let first = answered(&status);
            self.ask(client)?;
            // Counters begin anew when tables grow.
            let more = answered(&self.status(&client.node)?).saturating_sub(first);
            // All but the name outside have at least one answer of the kernel.
            let expected = answers.len() as u64 - 1;
            ensure!(
                more >= expected,
                "on {} the kernel answered {more} of {expected} questions or more",
                client.node
            );
            println!(
                "{}: {} at {} ({}); {more} answers of the kernel for {} questions",
                client.node,
                hook["program"].as_str().unwrap_or_default(),
                hook["interface"].as_str().unwrap_or_default(),
                hook["mode"].as_str().unwrap_or_default(),
                answers.len()
            );
        }
        Ok(())
    }

    /// While a policy lets the clients ask nobody, the kernel leaves them to whoever enforces that. What they hear.
    fn left_out(&self, clients: &[Client]) -> Result<Vec<Answers>> {
        let hear = |client: &Client| {
            let deadline = Instant::now() + PATIENCE;
            let name = format!("{SPACE}/{}", client.pod);
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
                    "on {} the status does not name {} among the pods that are left out: {}",
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
                "on {} the kernel answered {more} questions that a policy may forbid",
                client.node
            );
            println!(
                "{}: a policy lets the client ask nobody: no answers of the kernel for {} questions",
                client.node,
                answers.len()
            );
            Ok(answers)
        };
        clients.iter().map(hear).collect()
    }

    /// The answers are those of the beginning, as soon as whoever enforces policies has noticed.
    fn restored(&self, clients: &[Client], before: &[Answers]) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let compared = self.compare("without Zerohop again", clients, before);
            if compared.is_ok() || Instant::now() > deadline {
                return compared;
            }
            thread::sleep(Duration::from_secs(1));
        }
    }

    /// Whether the agents may see that they are replaced: if not, they would take everything off each time.
    fn may_ask_for_daemon_set(&self) -> Result<()> {
        let account = format!("--as=system:serviceaccount:{NAMESPACE}:zerohop");
        self.in_system(&["auth", "can-i", "get", "daemonset.apps/zerohop", &account])
            .map(drop)
            .context("the agents may not ask for their own DaemonSet")
    }

    /// What the agent of a node says.
    fn status(&self, node: &str) -> Result<Value> {
        let field = format!("spec.nodeName={node}");
        let pod = self.in_system(&[
            "get",
            "pods",
            "--selector",
            LABEL,
            "--field-selector",
            &field,
            "--output=name",
        ])?;
        let text = self.in_system(&["exec", pod.trim(), "--", "/dns-agent", "status", "--json"])?;
        serde_json::from_str(&text).context("the status is no JSON")
    }

    /// Lets a client ask 100 times a second, for longer than a rolling update takes.
    fn load(&self, client: &Client) -> Result<std::process::Child> {
        let name = format!("web.{SPACE}.svc.cluster.local A");
        let script = format!(
            "server=$(awk '/^nameserver/ {{ print $2; exit }}' /etc/resolv.conf)
             echo '{name}' > /questions
             dnsperf -s $server -d /questions -c 1 -T 1 -Q 100 -t 2 -l {LOAD_SECONDS} -n 1000000 2>&1"
        );
        let words = ["--namespace", SPACE, "exec", &client.pod, "--", "sh", "-c"];
        let mut command = self.kubectl.command(&words);
        command
            .arg(script)
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start kubectl")
    }

    /// What the load says, when it has ended. No query may be lost.
    fn ended(&self, load: std::process::Child) -> Result<String> {
        let output = load.wait_with_output().context("cannot wait for kubectl")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let line = |label: &str| {
            let found = text.lines().find(|line| line.contains(label));
            let words = found.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
            words.with_context(|| format!("dnsperf says nothing of {label}: {text}"))
        };
        let lost = line("Queries lost")?;
        ensure!(lost.contains("lost: 0 "), "{lost}");
        Ok(format!("{}, {lost}", line("Queries completed")?))
    }

    /// The agent itself looks for what an agent has left on a node, and would take it off.
    fn nothing_left(&self, node: &str) -> Result<()> {
        let name = format!("detach-{node}");
        let pod = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": { "name": name, "namespace": SPACE },
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
        self.kubectl.feed(&["apply"], &pod.to_string())?;
        let pod = format!("pod/{name}");
        let ended = "--for=jsonpath={.status.phase}=Succeeded";
        self.in_space(&["wait", &pod, ended, "--timeout=60s"])?;
        let found = self.in_space(&["logs", &pod])?;
        ensure!(
            found.contains("nothing of ours"),
            "on {node} something was left: {found}"
        );
        println!("{node}: {}", found.trim());
        Ok(())
    }

    fn no_objects_left(&self) -> Result<()> {
        let kinds = "daemonsets,pods,configmaps,serviceaccounts,roles,rolebindings,clusterroles,clusterrolebindings";
        let left = self.kubectl.output(&[
            "get",
            kinds,
            "--all-namespaces",
            "--selector",
            LABEL,
            "--output=name",
        ])?;
        ensure!(left.trim().is_empty(), "objects are left: {left}");
        println!("no object is left in the cluster");
        Ok(())
    }

    fn clean_up(&self) -> Result<()> {
        self.kubectl.uninstall(&self.manifests)?;
        self.kubectl
            .feed(&["delete", "--ignore-not-found"], &self.objects)
    }

    fn in_space(&self, words: &[&str]) -> Result<String> {
        self.kubectl
            .output(&[&["--namespace", SPACE], words].concat())
    }

    fn in_system(&self, words: &[&str]) -> Result<String> {
        self.kubectl
            .output(&[&["--namespace", NAMESPACE], words].concat())
    }
}

/// Lets the clients ask nobody, where policies are enforced.
const POLICY: &str = r#"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: nobody, namespace: zerohop-e2e}
spec: {podSelector: {matchLabels: {app: client}}, policyTypes: [Egress]}
"#;
/// More than two pods take to end and to start.
const LOAD_SECONDS: u32 = 45;
/// A name that is not there.
const ABSENT: &str = "no-such-name";

/// One shell command each, which prints a line for each answer.
fn questions(outside: &str) -> Vec<String> {
    let zone = format!("{SPACE}.svc.cluster.local");
    let by_libc = |name: &str| format!("getent ahostsv4 {name} | awk '{{ print $1 }}'");
    vec![
        by_libc("web"),
        by_libc(&format!("web.{SPACE}")),
        by_libc("headless"),
        by_libc("alias"),
        by_libc("kubernetes.default"),
        by_libc(ABSENT),
        by_libc(outside),
        format!("nslookup web.{zone} | awk '/^Address/ {{ print $NF }}'"),
        format!("dig +short SRV _http._tcp.web.{zone}"),
        format!("dig +short SRV _http._tcp.headless.{zone}"),
        format!("dig +short AAAA web.{zone}; dig AAAA web.{zone} | grep -o 'status: [A-Z]*'"),
        format!("dig +short -x $(getent ahostsv4 web | awk '{{ print $1; exit }}')"),
    ]
}

fn told(clients: &[Client], answers: &[Answers]) -> String {
    let questions: usize = answers.iter().map(Vec::len).sum();
    format!("{questions} questions from {} nodes", clients.len())
}

/// How many packets the kernel has answered.
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
