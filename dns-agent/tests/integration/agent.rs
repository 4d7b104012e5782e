//! A running agent with manifests: their changes, the admin endpoints, limits and settings.

use std::{fs, net::SocketAddr, path::Path};

use dns_agent::{
    admin::client,
    admin::status::{ManifestsStatus, SourceStatus, Status},
    agent::Agent,
    config::Config,
};
use domain::base::iana::Rtype;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    task::{JoinHandle, yield_now},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::support::{FakeUpstream, PATIENCE, ask, config, last_address, query, rcode};

/// An agent that runs in this process.
pub(crate) struct RunningAgent {
    pub(crate) server: SocketAddr,
    pub(crate) admin: SocketAddr,
    shutdown: CancellationToken,
    ended: JoinHandle<anyhow::Result<()>>,
}

impl RunningAgent {
    pub(crate) async fn start(manifests: &Path, flags: &[&str]) -> RunningAgent {
        RunningAgent::start_with(config(manifests, flags)).await
    }

    pub(crate) async fn start_with(config: Config) -> RunningAgent {
        let agent = Agent::start(config).await.unwrap();
        let shutdown = CancellationToken::new();
        RunningAgent {
            server: agent.listen()[0],
            admin: agent.admin(),
            ended: tokio::spawn(agent.run(shutdown.clone())),
            shutdown,
        }
    }

    pub(crate) async fn status(&self) -> Status {
        client::status(self.admin).await.unwrap()
    }

    /// Polls the status until `wanted` holds, and returns it.
    pub(crate) async fn status_when(&self, wanted: impl Fn(&Status) -> bool) -> Status {
        let mut last = None;
        let waiting = async {
            loop {
                let status = self.status().await;
                if wanted(&status) {
                    return status;
                }
                last = Some(status);
                yield_now().await;
            }
        };
        let came = timeout(PATIENCE, waiting).await;
        came.unwrap_or_else(|_| {
            panic!(
                "the wanted status did not come; the last is {}",
                last.unwrap_or_default()
            )
        })
    }

    /// The address in the answer for a name.
    async fn address(&self, name: &str) -> [u8; 4] {
        last_address(&ask(self.server, &query(1, name, Rtype::A)).await)
    }

    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        timeout(PATIENCE, self.ended)
            .await
            .expect("the agent does not end")
            .unwrap()
            .unwrap();
    }
}

fn manifests(status: &Status) -> &ManifestsStatus {
    match &status.source {
        SourceStatus::Manifests(manifests) => manifests,
        SourceStatus::Kubernetes(_) => panic!("the source is not manifests"),
    }
}

const NXDOMAIN: u8 = 3;

const WEB: &str = "web.shop.svc.cluster.local";

fn service(address: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: web, namespace: shop}}\nspec: {{clusterIP: {address}}}\n"
    )
}

#[tokio::test]
async fn admin_connections_and_request_sizes_are_limited() {
    // `MAX_LOCAL` in `admin/connections.rs`.
    const MAX_CONNECTIONS: usize = 256;
    let folder = tempfile::tempdir().unwrap();
    let running = RunningAgent::start(folder.path(), &[]).await;
    let mut open = Vec::new();
    for _ in 0..MAX_CONNECTIONS {
        open.push(TcpStream::connect(running.admin).await.unwrap());
    }
    // One more connection closes the oldest.
    let _newest = TcpStream::connect(running.admin).await.unwrap();
    let closed = timeout(PATIENCE, open[0].read(&mut [0])).await;
    assert_eq!(closed.expect("the connection stays open").unwrap(), 0);

    // `MAX_HEAD` in `admin/connections.rs` is 16 KiB.
    let mut long = open.pop().unwrap();
    let head = format!(
        "GET /livez HTTP/1.1\r\nhost: {}\r\n\r\n",
        "x".repeat(64 << 10)
    );
    // The connection may be closed before everything is written.
    let _ = long.write_all(head.as_bytes()).await;
    let mut reply = Vec::new();
    let _ = long.read_to_end(&mut reply).await;
    let reply = String::from_utf8_lossy(&reply);
    assert!(
        !reply.contains("200"),
        "a head of 64 KiB was accepted: {reply}"
    );
    drop(long);

    open.clear();
    running.stop().await;
}

/// A connection from a loopback address.
async fn connect_from(local: &str, server: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket
        .bind(SocketAddr::new(local.parse().unwrap(), 0))
        .unwrap();
    socket.connect(server).await.unwrap()
}

#[tokio::test]
async fn connections_of_one_address_do_not_block_other_addresses() {
    let folder = tempfile::tempdir().unwrap();
    let running = RunningAgent::start(folder.path(), &[]).await;
    let mut incomplete = Vec::new();
    // More than `MAX_LOCAL` in `admin/connections.rs`.
    for _ in 0..300 {
        let mut stream = connect_from("127.0.0.2", running.admin).await;
        // The write fails if the agent has closed the connection to make room for another.
        let _ = stream.write_all(b"GET /metrics HT").await;
        incomplete.push(stream);
    }
    let mut other = connect_from("127.0.0.3", running.admin).await;
    let request = b"GET /metrics HTTP/1.1\r\nhost: node:9153\r\nconnection: close\r\n\r\n";
    other.write_all(request).await.unwrap();
    let mut response = String::new();
    let read = other.read_to_string(&mut response);
    timeout(PATIENCE, read)
        .await
        .expect("the other client gets no answer")
        .unwrap();
    assert!(response.starts_with("HTTP/1.1 200 "), "{response}");
    // This client has a third address, 127.0.0.1.
    running.status().await;
    drop(incomplete);
    running.stop().await;
}

#[tokio::test]
async fn changed_manifests_are_answered_and_broken_ones_change_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("web.yaml");
    fs::write(&file, service("10.0.0.1")).unwrap();
    let running = RunningAgent::start(directory.path(), &[]).await;
    let first = running.status().await;
    assert_eq!(running.address(WEB).await, [10, 0, 0, 1]);
    assert_eq!(manifests(&first).path, directory.path());
    assert_eq!(first.zones[0].name, "cluster.local.");

    fs::write(&file, service("10.0.0.2")).unwrap();
    let serial = first.zones[0].serial;
    let second = running
        .status_when(|status| status.zones[0].serial > serial)
        .await;
    assert_eq!(running.address(WEB).await, [10, 0, 0, 2]);

    fs::write(&file, format!("{}---\na: [\n", service("10.0.0.3"))).unwrap();
    let broken = running
        .status_when(|status| !manifests(status).errors.is_empty())
        .await;
    // The Service has four lines.
    let expected = format!("{}:6: ", file.display());
    assert!(
        manifests(&broken).errors[0].starts_with(&expected),
        "{:?}",
        manifests(&broken).errors
    );
    assert_eq!(broken.zones, second.zones);
    assert_eq!(running.address(WEB).await, [10, 0, 0, 2]);

    // The file is repaired and has its former objects, so nothing is published.
    fs::write(&file, service("10.0.0.2")).unwrap();
    let mended = running
        .status_when(|status| manifests(status).errors.is_empty())
        .await;
    assert_eq!(mended.zones, second.zones);

    fs::write(&file, service("10.0.0.4")).unwrap();
    let serial = mended.zones[0].serial;
    running
        .status_when(|status| status.zones[0].serial > serial)
        .await;
    assert_eq!(running.address(WEB).await, [10, 0, 0, 4]);
    running.stop().await;
}

#[tokio::test]
async fn a_fifo_does_not_block_other_files() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("web.yaml");
    fs::write(&file, service("10.0.0.1")).unwrap();
    let running = RunningAgent::start(directory.path(), &[]).await;
    let fifo = directory.path().join("z.yaml");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRUSR).unwrap();
    let refused = running
        .status_when(|status| !manifests(status).errors.is_empty())
        .await;
    let errors = &manifests(&refused).errors;
    assert!(
        errors[0].contains("z.yaml: can't be read: it is a FIFO"),
        "{errors:?}"
    );
    assert!(
        manifests(&refused).age_seconds.is_some(),
        "the status doesn't say when the files were last checked"
    );
    assert_eq!(running.address(WEB).await, [10, 0, 0, 1]);

    fs::remove_file(&fifo).unwrap();
    fs::write(&file, service("10.0.0.2")).unwrap();
    let serial = refused.zones[0].serial;
    running
        .status_when(|status| {
            status.zones[0].serial > serial && manifests(status).errors.is_empty()
        })
        .await;
    assert_eq!(running.address(WEB).await, [10, 0, 0, 2]);
    running.stop().await;

    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRUSR).unwrap();
    let error = Agent::start(config(directory.path(), &[]))
        .await
        .expect_err("the agent started");
    assert!(format!("{error:#}").contains("it is a FIFO"), "{error:#}");
}

#[tokio::test]
async fn broken_manifests_at_the_start_are_an_error_with_their_lines() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("web.yaml");
    fs::write(
        &file,
        // The Service has four lines, so the broken objects are in lines 6 and 8.
        format!("{}---\nkind: 5\n---\nspec:\n", service("10.0.0.1")),
    )
    .unwrap();
    let error = Agent::start(config(directory.path(), &[]))
        .await
        .expect_err("the agent started");
    let error = format!("{error:#}");
    for expected in [":6: ", ":8: "] {
        assert!(
            error.contains(&format!("{}{expected}", file.display())),
            "{error}"
        );
    }
}

#[tokio::test]
async fn an_address_in_use_is_an_error_with_advice() {
    let directory = tempfile::tempdir().unwrap();
    let running = RunningAgent::start(directory.path(), &[]).await;
    let with_listen = Config {
        listen: vec![running.server],
        ..config(directory.path(), &[])
    };
    let with_admin = Config {
        admin: running.admin,
        ..config(directory.path(), &[])
    };
    for (config, address) in [(with_listen, running.server), (with_admin, running.admin)] {
        let error = format!(
            "{:#}",
            Agent::start(config).await.expect_err("the agent started")
        );
        assert!(
            error.contains(&format!("can't listen on {address}")),
            "{error}"
        );
    }
    running.stop().await;
}

#[tokio::test]
async fn the_admin_endpoints_answer() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("web.yaml"), service("10.0.0.1")).unwrap();
    let running = RunningAgent::start(directory.path(), &["--reverse", "10.0.0.0/8"]).await;
    running.address(WEB).await;
    for (path, expected) in [("/livez", "ok\n"), ("/readyz", "ready\n")] {
        let mut stream = TcpStream::connect(running.admin).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).await.unwrap();
        assert!(
            response.starts_with("HTTP/1.1 200 ") && response.ends_with(expected),
            "{response}"
        );
    }
    let status = running.status().await;
    assert_eq!(status.resolver.listen, [running.server]);
    assert_eq!(
        (
            status.resolver.counts.udp_queries,
            status.resolver.counts.replies["NOERROR"]
        ),
        (1, 1),
        "UDP queries, and replies with NOERROR"
    );
    // cluster.local and 10.in-addr.arpa.
    assert_eq!(status.zones.len(), 2);
    assert!(
        status.objects.services > 0 && status.datapath.is_none() && status.missing.is_empty(),
        "{status}"
    );
    running.stop().await;
}

#[tokio::test]
async fn passed_names_are_forwarded_to_the_upstream() {
    let directory = tempfile::tempdir().unwrap();
    let alias = "---\napiVersion: v1\nkind: Service\nmetadata: {name: old, namespace: shop}\n\
                 spec: {type: ExternalName, externalName: db.legacy.svc.cluster.local}\n";
    let text = service("10.0.0.1") + alias;
    fs::write(directory.path().join("shop.yaml"), text).unwrap();
    let upstream = FakeUpstream::answering([192, 0, 2, 1]).await;
    let flags = [
        "--pass=legacy.svc.cluster.local",
        &format!("--upstream={}", upstream.address),
    ];
    let running = RunningAgent::start(directory.path(), &flags).await;
    for passed in [
        "legacy.svc.cluster.local",
        "DB.Legacy.svc.cluster.local",
        "old.shop.svc.cluster.local",
    ] {
        assert_eq!(running.address(passed).await, [192, 0, 2, 1], "{passed}");
    }
    assert_eq!(running.address(WEB).await, [10, 0, 0, 1]);
    let ghost = query(1, "ghost.shop.svc.cluster.local", Rtype::A);
    assert_eq!(rcode(&ask(running.server, &ghost).await), NXDOMAIN);
    running.stop().await;
}

#[tokio::test]
async fn only_selected_objects_are_answered() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("web.yaml");
    fs::write(&file, service("10.0.0.1")).unwrap();
    let running = RunningAgent::start(directory.path(), &["--labels=app=web"]).await;
    let query_bytes = query(1, WEB, Rtype::A);
    assert_eq!(rcode(&ask(running.server, &query_bytes).await), NXDOMAIN);

    let serial = running.status().await.zones[0].serial;
    let labelled = service("10.0.0.1").replace("shop}", "shop, labels: {app: web}}");
    fs::write(&file, labelled).unwrap();
    running
        .status_when(|status| status.zones[0].serial > serial)
        .await;
    assert_eq!(running.address(WEB).await, [10, 0, 0, 1]);
    running.stop().await;
}
