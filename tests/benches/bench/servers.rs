//! The agent's resolver inside a benchmark, with threads as in the agent.

use std::{io, thread};

use tokio::{
    runtime::{Builder, Runtime},
    task::JoinSet,
};
use zerohop_resolver::AddressServers;

/// The runtime of everything but the servers that receive over UDP.
pub(crate) fn build_runtime() -> io::Result<Runtime> {
    Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
}

/// Runs the servers of an address until the process ends.
pub(crate) fn spawn_servers(servers: AddressServers, tasks: &mut JoinSet<()>) -> io::Result<()> {
    for server in servers.udp {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        thread::spawn(move || runtime.block_on(server.serve()));
    }
    tasks.spawn(async { match servers.tcp.serve().await {} });
    Ok(())
}
