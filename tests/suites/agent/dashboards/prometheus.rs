//! A Prometheus that scrapes an agent.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;
use zerohop_tests::{topology::Topology, udp::eventually};

use crate::agent::LIMIT;

/// The label `cluster` of all series.
pub(super) const CLUSTER: &str = "here";
/// Prometheus listens here, on the node.
const ADDRESS: &str = "127.0.0.1:9090";

/// A running Prometheus on the node; killed when dropped.
pub(super) struct PrometheusProcess<'a> {
    topology: &'a Topology,
    process: Child,
    _folder: TempDir,
}

/// The program that `cargo xtask setup` has unpacked. `None`: it is not there.
pub(super) fn program() -> Option<PathBuf> {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    let program = tests
        .parent()?
        .join("target/tools/prometheus/usr/bin/prometheus");
    program.exists().then_some(program)
}

impl<'a> PrometheusProcess<'a> {
    /// Starts a Prometheus that scrapes the agent each second, with the labels that dashboards and
    /// alert rules choose, and waits until it answers.
    pub(super) fn start(
        program: &Path,
        topology: &'a Topology,
        agent: &str,
    ) -> PrometheusProcess<'a> {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("prometheus.yml");
        let text = format!(
            "global: {{scrape_interval: 1s}}\n\
             scrape_configs:\n\
             - job_name: kube-dns\n  \
               static_configs:\n  \
               - {{targets: ['{agent}'], labels: {{pod: zerohop-1, cluster: {CLUSTER}}}}}\n"
        );
        fs::write(&config, text).unwrap();
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let mut command = topology.node.command(program.to_str().unwrap()).unwrap();
        command
            .arg(format!("--config.file={}", config.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                folder.path().join("data").display()
            ))
            .arg(format!("--web.listen-address={ADDRESS}"))
            .stdout(Stdio::null())
            .stderr(log);
        let mut prometheus = PrometheusProcess {
            topology,
            process: command.spawn().unwrap(),
            _folder: folder,
        };
        let is_ready = || {
            assert_eq!(prometheus.process.try_wait()?, None, "Prometheus has ended");
            Ok(prometheus
                .get("/-/ready")
                .is_some_and(|body| body.contains("Ready")))
        };
        assert!(
            eventually(LIMIT, is_ready).unwrap(),
            "Prometheus is not ready"
        );
        prometheus
    }

    /// The values of the series that an expression gives now, without those that are not numbers.
    pub(super) fn numbers(&self, expression: &str) -> Vec<f64> {
        let body = self.get(&format!("/api/v1/query?query={}", encode(expression)));
        let body: Value = serde_json::from_str(&body.unwrap()).unwrap();
        assert_eq!(body["status"], "success", "{expression}: {body}");
        let series = body["data"]["result"].as_array().unwrap().iter();
        let values = series.map(|series| series["value"][1].as_str().unwrap().parse().unwrap());
        values.filter(|value: &f64| !value.is_nan()).collect()
    }

    /// The body of the response to a request. `None`: Prometheus doesn't listen yet.
    fn get(&self, path: &str) -> Option<String> {
        let ask = || {
            let mut stream = TcpStream::connect(ADDRESS).ok()?;
            let request = format!("GET {path} HTTP/1.0\r\nhost: {ADDRESS}\r\n\r\n");
            stream.write_all(request.as_bytes()).ok()?;
            let mut response = String::new();
            stream.read_to_string(&mut response).ok()?;
            let (_, body) = response.split_once("\r\n\r\n")?;
            Some(body.to_owned())
        };
        self.topology.node.enter(ask).unwrap()
    }
}

impl Drop for PrometheusProcess<'_> {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// Percent-encodes a value of a URL's query (RFC 3986 section 2.1).
fn encode(text: &str) -> String {
    let encode = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(encode).collect()
}
