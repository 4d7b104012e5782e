//! The program `dns-agent`: arguments, signals, exit codes.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Output, Stdio},
};

pub(crate) fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dns-agent"));
    command
        .args(arguments)
        .env_remove("RUST_LOG")
        .env_remove("RUST_BACKTRACE");
    command
}

/// Checks that the program fails with this exit code, and that stderr contains all `reasons`.
#[track_caller]
fn assert_fails(arguments: &[&str], code: i32, reasons: &[&str]) {
    let Output { status, stderr, .. } = program(arguments).output().unwrap();
    let stderr = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(code), "another exit code: {stderr}");
    for reason in reasons {
        assert!(stderr.contains(reason), "no {reason:?} in: {stderr}");
    }
}

#[test]
fn errors_say_what_is_wrong_and_what_to_do() {
    assert_fails(&["run"], 1, &["--manifests PATH"]);
    assert_fails(
        &["run", "--manifests", "/nonexistent/objects"],
        1,
        &["/nonexistent/objects"],
    );
    assert_fails(&["run", "--ttl", "forever"], 2, &["--ttl", "0 to 3600"]);
    assert_fails(
        &["run", "--config", "/nonexistent/file"],
        1,
        &["/nonexistent/file"],
    );

    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("agent.yaml");
    fs::write(&file, "ttl: 5\nttll: 6\n").unwrap();
    let file = file.to_str().unwrap();
    assert_fails(&["run", "--config", file], 1, &[file, "ttll", "line 2"]);

    let objects = directory.path().join("broken.yaml");
    fs::write(&objects, "a: [\n").unwrap();
    let objects = objects.to_str().unwrap();
    assert_fails(
        &["run", "--manifests", objects],
        1,
        &[&format!("{objects}:1: ")],
    );
}

#[test]
fn an_upstream_at_the_agents_own_address_is_rejected() {
    // No other test listens at this address, so the port stays free.
    let free = std::net::UdpSocket::bind("127.83.17.5:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .to_string();
    let folder = tempfile::tempdir().unwrap();
    let objects = folder.path().to_str().unwrap();
    let flags = ["run", "--manifests", objects, "--admin", "127.0.0.1:0"];
    let own = ["--listen", &free, "--upstream", &free];
    assert_fails(
        &[&flags[..], &own].concat(),
        1,
        &[
            &format!("--upstream {free}"),
            "this agent itself",
            "another server",
        ],
    );
}

#[test]
fn status_without_a_running_agent_is_an_error() {
    let free = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .to_string();
    assert_fails(
        &["status", "--admin", &free],
        1,
        &[&free, "dns-agent run", "--admin"],
    );
}

#[test]
fn status_and_signals_work_while_files_are_loading() {
    let directory = tempfile::tempdir().unwrap();
    let mut objects = String::new();
    // Enough objects that loading them takes longer than the requests below.
    for number in 0..200_000 {
        objects += &format!(
            "---\n{{apiVersion: v1, kind: Service, metadata: {{name: web-{number}}}, spec: {{clusterIP: 10.0.0.1}}}}\n"
        );
    }
    fs::write(directory.path().join("objects.yaml"), objects).unwrap();
    let mut child = spawn_agent(directory.path());
    let mut lines = log_lines(&mut child);
    let loading = lines
        .find(|line| line.contains("are being loaded"))
        .expect("the agent ended before it loaded the files");
    let (_, admin) = loading.split_once("admin=").unwrap();
    let status = program(&["status", "--admin", admin]).output().unwrap();
    let status = String::from_utf8(status.stdout).unwrap();
    assert!(
        status.contains("not ready") && status.contains("not loaded yet"),
        "`status` does not say that the files are not loaded yet: {status}"
    );
    send_signal("TERM", &child);
    let rest: Vec<String> = lines.collect();
    assert_eq!(child.wait().unwrap().code(), Some(0), "{rest:?}");
    assert!(
        rest.iter().any(|line| line.contains("stopped")),
        "the agent did not log that it stopped: {rest:?}"
    );
    assert!(
        !rest.iter().any(|line| line.contains("started")),
        "the agent started before the files were loaded: {rest:?}"
    );
}

#[test]
fn settings_are_read_from_regular_files_only() {
    let directory = tempfile::tempdir().unwrap();
    let fifo = directory.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRUSR).unwrap();
    let fifo = fifo.to_str().unwrap();
    for flag in ["--config", "--kubeconfig", "--manifests"] {
        assert_fails(
            &["run", "--admin", "127.0.0.1:0", flag, fifo],
            1,
            &[fifo, "it is a FIFO"],
        );
    }
}

/// Starts an agent with objects from files.
fn spawn_agent(manifests: &Path) -> Child {
    program(&[
        "run",
        "--listen",
        "127.0.0.1:0",
        "--admin",
        "127.0.0.1:0",
        "--manifests",
    ])
    .arg(manifests)
    .stderr(Stdio::piped())
    .spawn()
    .unwrap()
}

/// The lines of the agent's stderr.
pub(crate) fn log_lines(child: &mut Child) -> impl Iterator<Item = String> + use<> {
    let stderr = BufReader::new(child.stderr.take().unwrap());
    stderr.lines().map(Result::unwrap)
}

pub(crate) fn send_signal(signal: &str, child: &Child) {
    let pid = child.id().to_string();
    let sent = Command::new("kill").args(["-s", signal, &pid]).status();
    assert!(sent.unwrap().success(), "kill failed to send SIG{signal}");
}

#[test]
fn the_agent_serves_its_status_until_a_signal_ends_it() {
    let directory = tempfile::tempdir().unwrap();
    for signal in ["TERM", "INT", "HUP"] {
        let mut child = spawn_agent(directory.path());
        let mut lines = log_lines(&mut child);
        let started = lines
            .find(|line| line.contains("started"))
            .expect("the agent ended before it had started");
        let admin = started.split("admin=").nth(1).unwrap().to_owned();

        let text = program(&["status", "--admin", &admin]).output().unwrap();
        assert!(text.status.success(), "`status` failed: {text:?}");
        let stdout = String::from_utf8_lossy(&text.stdout);
        assert!(
            stdout.contains("cluster.local."),
            "`status` does not name the zone: {stdout}"
        );
        let json = program(&["status", "--json", "--admin", &admin])
            .output()
            .unwrap();
        let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
        assert_eq!(json["zones"][0]["name"], "cluster.local.");

        send_signal(signal, &child);
        assert_eq!(child.wait().unwrap().code(), Some(0));
        let last = lines.last().unwrap_or_default();
        assert!(
            last.contains("stopped"),
            "after SIG{signal} the last line is {last:?}"
        );
    }
}
