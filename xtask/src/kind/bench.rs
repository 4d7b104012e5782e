//! `cargo xtask kind bench`: measures the query rate and latency of a pod, without and with
//! Zerohop.

use std::{path::PathBuf, thread, time::Duration};

use anyhow::{Context, Result};
use clap::Args;
use serde_json::json;

use super::kubeconfig;
use crate::{image, kubectl::Kubectl};

#[derive(Args)]
pub(crate) struct KindBenchOptions {
    /// The kubeconfig of a test cluster to use instead of kind's. Its nodes must have the agent's
    /// and the client's image. Zerohop stays installed afterwards.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Number of rounds. Each round has a run without Zerohop and a run with it.
    #[arg(long, value_name = "NUMBER", default_value_t = 3)]
    rounds: usize,
    /// Duration of each run, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    seconds: u32,
    /// A name outside the cluster that its DNS resolves.
    #[arg(long, value_name = "NAME", default_value = "example.com")]
    outside: String,
}

/// The DNS that answers in a run.
#[derive(Clone, Copy, PartialEq, Eq)]
enum DnsUnderTest {
    CoreDns,
    Zerohop,
}

/// dnsperf's statistics of a run: numbers of queries, and latencies in seconds.
struct DnsperfRun {
    dns: DnsUnderTest,
    completed: f64,
    lost: f64,
    per_second: f64,
    average: f64,
    maximum: f64,
}

/// Runs the job.
pub(crate) fn run(options: &KindBenchOptions) -> Result<()> {
    let default = kubeconfig();
    let kubectl = Kubectl::new(options.kubeconfig.as_ref().unwrap_or(&default))?;
    let manifests = kubectl.manifests(image::AGENT)?;
    let objects = objects(options);
    let delete_objects = || kubectl.send_objects(&["delete", "--ignore-not-found"], &objects);
    // The completed Jobs of an interrupted benchmark would count as runs of this one.
    delete_objects()?;
    let outcome = measure_in_turns(options, &kubectl, &manifests, &objects);
    // The clean-up also follows a failed measurement, whose error takes precedence.
    let cleaned = delete_objects();
    print_runs(&outcome?);
    cleaned
}

/// The namespace of the benchmark's objects.
const BENCH_NAMESPACE: &str = "zerohop-bench";
/// Number of Services that are looked up.
const SERVICES: usize = 50;

fn measure_in_turns(
    options: &KindBenchOptions,
    kubectl: &Kubectl,
    manifests: &str,
    objects: &str,
) -> Result<Vec<DnsperfRun>> {
    kubectl.send_objects(&["apply"], objects)?;
    // CoreDNS receives the Services a moment later.
    thread::sleep(Duration::from_secs(5));
    let mut runs = Vec::new();
    for round in 0..options.rounds {
        kubectl.uninstall(manifests)?;
        runs.push(run_dnsperf(options, kubectl, DnsUnderTest::CoreDns, round)?);
        kubectl.install(manifests)?;
        runs.push(run_dnsperf(options, kubectl, DnsUnderTest::Zerohop, round)?);
    }
    Ok(runs)
}

/// Runs dnsperf in a Job's pod. It sends queries as fast as answers arrive, with at most 20 queries
/// in flight, from four sockets. A query without an answer is lost after 2 s.
fn run_dnsperf(
    options: &KindBenchOptions,
    kubectl: &Kubectl,
    dns: DnsUnderTest,
    round: usize,
) -> Result<DnsperfRun> {
    let name = format!("ask-{}-{round}", dns.job_word());
    // A million passes over the file (`-n`) take far longer than the default of 10 s, so only `-l`
    // ends the run.
    let script = format!(
        "server=$(awk '/^nameserver/ {{ print $2; exit }}' /etc/resolv.conf)
         exec dnsperf -s $server -d /mix/questions -c 4 -T 1 -q 20 -t 2 -l {} -n 1000000",
        options.seconds
    );
    let job = json!({
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": { "name": name, "namespace": BENCH_NAMESPACE },
        "spec": {
            "backoffLimit": 0,
            "template": {
                "spec": {
                    "restartPolicy": "Never",
                    "containers": [{
                        "name": "dnsperf",
                        "image": image::CLIENT,
                        "imagePullPolicy": "IfNotPresent",
                        "command": ["sh", "-c", script],
                        "volumeMounts": [{ "name": "mix", "mountPath": "/mix" }],
                    }],
                    "volumes": [{ "name": "mix", "configMap": { "name": "mix" } }],
                },
            },
        },
    });
    kubectl.send_objects(&["apply"], &job.to_string())?;
    let job = format!("job/{name}");
    // The pod needs some of the 60 s to start.
    let timeout = format!("--timeout={}s", options.seconds + 60);
    let space = ["--namespace", BENCH_NAMESPACE];
    kubectl.output(
        &[
            &space[..],
            &["wait", &job, "--for=condition=Complete", &timeout],
        ]
        .concat(),
    )?;
    let text = kubectl.output(&[&space[..], &["logs", &job]].concat())?;
    DnsperfRun::read(dns, &text).with_context(|| format!("cannot read dnsperf's output: {text}"))
}

impl DnsUnderTest {
    /// The description in the printed results.
    fn description(self) -> &'static str {
        match self {
            DnsUnderTest::CoreDns => "CoreDNS alone",
            DnsUnderTest::Zerohop => "with Zerohop",
        }
    }

    /// The word in the names of the Jobs.
    fn job_word(self) -> &'static str {
        match self {
            DnsUnderTest::CoreDns => "coredns",
            DnsUnderTest::Zerohop => "zerohop",
        }
    }
}

impl DnsperfRun {
    fn read(dns: DnsUnderTest, text: &str) -> Option<DnsperfRun> {
        let number = |label: &str| -> Option<f64> {
            let line = text.lines().find(|line| line.contains(label))?;
            let words = line.split_once(label)?.1;
            words.split_whitespace().next()?.parse().ok()
        };
        let maximum = text.lines().find(|line| line.contains("Average Latency"))?;
        let maximum = maximum.split_once("max ")?.1.trim_end_matches(')');
        Some(DnsperfRun {
            dns,
            completed: number("Queries completed:")?,
            lost: number("Queries lost:")?,
            per_second: number("Queries per second:")?,
            average: number("Average Latency (s):")?,
            maximum: maximum.parse().ok()?,
        })
    }
}

/// The Services that are looked up, and a ConfigMap with the questions.
fn objects(options: &KindBenchOptions) -> String {
    let metadata = |name: &str| json!({ "name": name, "namespace": BENCH_NAMESPACE });
    let mut items = vec![
        json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": BENCH_NAMESPACE } }),
        json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": metadata("mix"),
            "data": { "questions": questions(&options.outside) },
        }),
    ];
    items.extend((0..SERVICES).map(|number| {
        json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": metadata(&format!("service-{number}")),
            "spec": { "ports": [{ "name": "http", "port": 80 }] },
        })
    }));
    json!({ "apiVersion": "v1", "kind": "List", "items": items }).to_string()
}

/// The questions that a pod's libc asks about typical names: A and AAAA for each name that it
/// tries. Because of `ndots:5`, it tries every name with the kubelet's search list first. For every
/// five Services of the pod's namespace, which are looked up by their names alone, there is one
/// `SERVICE.NAMESPACE` and one name outside the cluster.
fn questions(outside: &str) -> String {
    let zones = [
        format!("{BENCH_NAMESPACE}.svc.cluster.local"),
        "svc.cluster.local".to_owned(),
        "cluster.local".to_owned(),
    ];
    let mut questions = String::new();
    let mut ask = |name: &str| {
        for rtype in ["A", "AAAA"] {
            questions += &format!("{name} {rtype}\n");
        }
    };
    for number in 0..SERVICES {
        let namespace = &zones[0];
        ask(&format!("service-{number}.{namespace}"));
        match number % 5 {
            // The name `SERVICE.NAMESPACE`. With the first search domain, which contains the pod's
            // own namespace, it does not exist.
            0 => {
                ask(&format!("service-{number}.{BENCH_NAMESPACE}.{namespace}"));
                ask(&format!("service-{number}.{namespace}"));
            }
            1 => {
                for zone in &zones {
                    ask(&format!("{outside}.{zone}"));
                }
                ask(outside);
            }
            _ => {}
        }
    }
    questions
}

fn print_runs(runs: &[DnsperfRun]) {
    println!("DNS             queries/s   average ms   maximum ms   completed   lost");
    for run in runs {
        println!(
            "{:<13} {:>11.0} {:>12.3} {:>12.1} {:>11} {:>6}",
            run.dns.description(),
            run.per_second,
            run.average * 1e3,
            run.maximum * 1e3,
            run.completed,
            run.lost
        );
    }
    for dns in [DnsUnderTest::CoreDns, DnsUnderTest::Zerohop] {
        let rates = runs.iter().filter(|run| run.dns == dns);
        let mut rates: Vec<f64> = rates.map(|run| run.per_second).collect();
        rates.sort_by(f64::total_cmp);
        if let Some(median) = rates.get(rates.len() / 2) {
            println!("{}: {median:.0} queries/s in the median", dns.description());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_are_read_from_dnsperf_output() {
        let text = "Statistics:

  Queries sent:         17500
  Queries completed:    17499 (99.99%)
  Queries lost:         1 (0.01%)

  Queries per second:   499.98
  Average Latency (s):  0.000039 (min 0.000004, max 0.008537)
  Latency StdDev (s):   0.000184
";
        let run = DnsperfRun::read(DnsUnderTest::Zerohop, text).unwrap();
        let numbers = [
            run.completed,
            run.lost,
            run.per_second,
            run.average,
            run.maximum,
        ];
        assert_eq!(numbers, [17499.0, 1.0, 499.98, 0.000_039, 0.008_537]);
        assert!(DnsperfRun::read(DnsUnderTest::Zerohop, "Error: no server").is_none());
    }
}
