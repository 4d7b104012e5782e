//! `cargo xtask kind bench`: what a pod gets, with Zerohop off and on.

use std::{path::PathBuf, thread, time::Duration};

use anyhow::{Context, Result};
use clap::Args;
use serde_json::json;

use super::kubeconfig;
use crate::{image, kubectl::Kubectl};

#[derive(Args)]
pub(crate) struct Options {
    /// Another test cluster than kind's; its nodes have both images already, and Zerohop runs there afterwards.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Runs with Zerohop off and on each, which take turns.
    #[arg(long, value_name = "NUMBER", default_value_t = 3)]
    rounds: usize,
    /// How long a run takes.
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    seconds: u32,
    /// A name outside the cluster that its DNS resolves.
    #[arg(long, value_name = "NAME", default_value = "example.com")]
    outside: String,
}

/// What answers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Plane {
    CoreDns,
    Zerohop,
}

/// What dnsperf says of a run.
struct Run {
    plane: Plane,
    completed: f64,
    lost: f64,
    per_second: f64,
    average: f64,
    maximum: f64,
}

/// The job itself.
pub(crate) fn run(options: &Options) -> Result<()> {
    let default = kubeconfig();
    let kubectl = Kubectl::new(options.kubeconfig.as_ref().unwrap_or(&default))?;
    let manifests = kubectl.manifests(image::AGENT)?;
    let objects = objects(options);
    let outcome = measure(options, &kubectl, &manifests, &objects);
    kubectl.feed(&["delete", "--ignore-not-found"], &objects)?;
    print(&outcome?);
    Ok(())
}

const SPACE: &str = "zerohop-bench";
const SERVICES: usize = 50;

fn measure(
    options: &Options,
    kubectl: &Kubectl,
    manifests: &str,
    objects: &str,
) -> Result<Vec<Run>> {
    kubectl.feed(&["apply"], objects)?;
    // Services come to CoreDNS and to the agents a moment later.
    thread::sleep(Duration::from_secs(5));
    let mut runs = Vec::new();
    for round in 0..options.rounds {
        kubectl.uninstall(manifests)?;
        runs.push(ask(options, kubectl, Plane::CoreDns, round)?);
        kubectl.install(manifests)?;
        runs.push(ask(options, kubectl, Plane::Zerohop, round)?);
    }
    Ok(runs)
}

/// A run: a Job's pod asks as fast as answers come, 20 questions at a time.
fn ask(options: &Options, kubectl: &Kubectl, plane: Plane, round: usize) -> Result<Run> {
    let name = format!("ask-{}-{round}", plane.name());
    let script = format!(
        "server=$(awk '/^nameserver/ {{ print $2; exit }}' /etc/resolv.conf)
         exec dnsperf -s $server -d /mix/questions -c 4 -T 1 -q 20 -t 2 -l {} -n 1000000",
        options.seconds
    );
    let job = json!({
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": { "name": name, "namespace": SPACE },
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
    kubectl.feed(&["apply"], &job.to_string())?;
    let job = format!("job/{name}");
    let timeout = format!("--timeout={}s", options.seconds + 60);
    let space = ["--namespace", SPACE];
    kubectl.output(
        &[
            &space[..],
            &["wait", &job, "--for=condition=Complete", &timeout],
        ]
        .concat(),
    )?;
    let text = kubectl.output(&[&space[..], &["logs", &job]].concat())?;
    Run::read(plane, &text).with_context(|| format!("dnsperf said something else: {text}"))
}

impl Plane {
    fn name(self) -> &'static str {
        match self {
            Plane::CoreDns => "off",
            Plane::Zerohop => "on",
        }
    }
}

impl Run {
    fn read(plane: Plane, text: &str) -> Option<Run> {
        let number = |label: &str| -> Option<f64> {
            let line = text.lines().find(|line| line.contains(label))?;
            let words = line.split_once(label)?.1;
            words.split_whitespace().next()?.parse().ok()
        };
        let maximum = text.lines().find(|line| line.contains("Average Latency"))?;
        let maximum = maximum.split_once("max ")?.1.trim_end_matches(')');
        Some(Run {
            plane,
            completed: number("Queries completed:")?,
            lost: number("Queries lost:")?,
            per_second: number("Queries per second:")?,
            average: number("Average Latency (s):")?,
            maximum: maximum.parse().ok()?,
        })
    }
}

/// The objects that are asked for, and the questions.
fn objects(options: &Options) -> String {
    let metadata = |name: &str| json!({ "name": name, "namespace": SPACE });
    let mut items = vec![
        json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": SPACE } }),
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

/// What a pod's libc makes of the names that programs use, with the kubelet's search list: A and AAAA of each,
/// most of them services of the own namespace, and a name outside now and then, after it was sought inside.
fn questions(outside: &str) -> String {
    let zones = [
        format!("{SPACE}.svc.cluster.local"),
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
        let own = &zones[0];
        ask(&format!("service-{number}.{own}"));
        match number % 5 {
            // By a name with the namespace, which is sought in the own one first.
            0 => {
                ask(&format!("service-{number}.{SPACE}.{own}"));
                ask(&format!("service-{number}.{own}"));
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

fn print(runs: &[Run]) {
    println!("Zerohop   queries/s   average ms   maximum ms   completed   lost");
    for run in runs {
        println!(
            "{:<7} {:>11.0} {:>12.3} {:>12.1} {:>11} {:>6}",
            run.plane.name(),
            run.per_second,
            run.average * 1e3,
            run.maximum * 1e3,
            run.completed,
            run.lost
        );
    }
    for plane in [Plane::CoreDns, Plane::Zerohop] {
        let rates = runs.iter().filter(|run| run.plane == plane);
        let mut rates: Vec<f64> = rates.map(|run| run.per_second).collect();
        rates.sort_by(f64::total_cmp);
        if let Some(median) = rates.get(rates.len() / 2) {
            println!("{}: {median:.0} queries/s in the median", plane.name());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_dnsperf_says() {
        let text = "Statistics:

  Queries sent:         17500
  Queries completed:    17499 (99.99%)
  Queries lost:         1 (0.01%)

  Queries per second:   499.98
  Average Latency (s):  0.000039 (min 0.000004, max 0.008537)
  Latency StdDev (s):   0.000184
";
        let run = Run::read(Plane::Zerohop, text).unwrap();
        let numbers = [
            run.completed,
            run.lost,
            run.per_second,
            run.average,
            run.maximum,
        ];
        assert_eq!(numbers, [17499.0, 1.0, 499.98, 0.000_039, 0.008_537]);
        assert!(Run::read(Plane::Zerohop, "Error: no server").is_none());
    }
}
