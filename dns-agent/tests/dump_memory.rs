//! The memory that the agent needs to dump the records of a large cluster.
//!
//! This is a separate test program because it replaces the global allocator to count allocations.

#![deny(unsafe_code)]

#[expect(unsafe_code, reason = "global allocator")]
mod counting_allocator;

use std::{fmt::Write as _, fs, time::Duration};

use clap::Parser as _;
use dns_agent::{
    admin::client,
    agent::Agent,
    config::{AgentCommand, Cli, Config},
};
use tokio::{io::AsyncWriteExt as _, net::TcpStream, time::timeout};
use tokio_util::sync::CancellationToken;

const SERVICES: usize = 20_000;
/// The largest allowed peak, in bytes: enough for the connections and a few pieces of the dump, but
/// less than half of the whole dump.
const MAX_PEAK: usize = 3 << 20;
/// After this time the test fails instead of waiting longer.
const PATIENCE: Duration = Duration::from_secs(300);

#[tokio::test]
async fn a_dump_of_any_length_takes_little_memory() {
    let folder = tempfile::tempdir().unwrap();
    let mut objects = String::new();
    for number in 0..SERVICES {
        let (high, low) = (number / 250, number % 250);
        writeln!(
            objects,
            "---\n{{apiVersion: v1, kind: Service, metadata: {{name: web-{number}, namespace: shop}}, spec: \
             {{clusterIP: 10.96.{high}.{low}, ports: [{{name: http, port: 80}}]}}}}"
        )
        .unwrap();
    }
    fs::write(folder.path().join("objects.yaml"), objects).unwrap();
    let running = Agent::start(config(folder.path())).await.unwrap();
    let admin = running.admin();
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(running.run(shutdown.clone()));

    let before = counting_allocator::bytes_in_use();
    counting_allocator::take_peak();
    // This client never reads its dump. The agent must not buffer the whole dump for it.
    let mut idle_client = TcpStream::connect(admin).await.unwrap();
    let request = b"GET /dump HTTP/1.1\r\nhost: localhost\r\n\r\n";
    idle_client.write_all(request).await.unwrap();
    let length = timeout(PATIENCE, read_dump(admin))
        .await
        .expect("the dump stalls");
    let peak = counting_allocator::take_peak() - before;
    println!("{length} bytes of records, {peak} bytes of memory");
    assert!(
        length > 2 * MAX_PEAK,
        "the dump has only {length} bytes, too few to show anything"
    );
    assert!(peak < MAX_PEAK, "the dump needs {peak} bytes of memory");

    drop(idle_client);
    shutdown.cancel();
    running.await.unwrap().unwrap();
}

/// Reads a whole dump, and returns its length in bytes.
async fn read_dump(admin: std::net::SocketAddr) -> usize {
    let mut text = client::dump(admin, None).await.unwrap();
    let mut length = 0;
    while let Some(piece) = text.next().await.unwrap() {
        length += piece.len();
    }
    length
}

fn config(manifests: &std::path::Path) -> Config {
    let manifests = manifests.to_str().unwrap();
    // The dump also has this zone, with a PTR record of each Service.
    let reverse = ["--reverse", "10.96.0.0/16"];
    let fixed = ["dns-agent", "run", "--admin", "127.0.0.1:0", "--manifests"];
    let flags = fixed.iter().chain([&manifests]).chain(&reverse);
    let AgentCommand::Run(args) = Cli::try_parse_from(flags).unwrap().command else {
        panic!("not a run command");
    };
    Config::from_args(*args).unwrap()
}
