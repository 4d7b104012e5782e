//! A TCP stream between a pod and its node, without and with the program at the host veth. The
//! program passes the stream's packets.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use aya::programs::{LinkOrder, TcAttachType, tc::TcAttachOptions};
use zerohop_datapath::program::{EbpfObject, HookProgram};
use zerohop_tests::topology::{GATEWAY, HOST_VETH, Topology};

/// The direction in which the data flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StreamDirection {
    /// The data goes through the program.
    ToNode,
    /// Only the acknowledgements go through the program.
    ToPod,
}

/// Rates of streams in bytes per second.
pub(crate) struct Streams {
    pub(crate) without: Vec<f64>,
    pub(crate) with: Vec<f64>,
}

impl StreamDirection {
    pub(crate) const ALL: [StreamDirection; 2] = [StreamDirection::ToNode, StreamDirection::ToPod];

    pub(crate) fn name(self) -> &'static str {
        match self {
            StreamDirection::ToNode => "pod to node",
            StreamDirection::ToPod => "node to pod",
        }
    }
}

/// Measures streams without and with the program in turns. Every second pair is in reverse order.
pub(crate) fn measure(
    object: &mut EbpfObject,
    topology: &Topology,
    direction: StreamDirection,
    pairs: usize,
    duration: Duration,
) -> Result<Streams> {
    let mut streams = Streams {
        without: Vec::new(),
        with: Vec::new(),
    };
    for pair in 0..pairs {
        for turn in 0..2 {
            if (pair + turn) % 2 == 0 {
                streams
                    .without
                    .push(measure_stream(topology, direction, duration)?);
                continue;
            }
            let attached = topology.node.enter(|| attach(object))??;
            streams
                .with
                .push(measure_stream(topology, direction, duration)?);
            drop(attached);
        }
    }
    Ok(streams)
}

/// Attaches the program for pods' veths by tcx, as the agent does from Linux 6.6 on. Dropping the
/// result detaches it.
fn attach(object: &mut EbpfObject) -> Result<impl Sized + use<>> {
    let program = object.loaded_tc(HookProgram::TcPeer.name())?;
    let first = TcAttachOptions::TcxOrder(LinkOrder::first());
    let id = program
        .attach_with_options(HOST_VETH, TcAttachType::Ingress, first)
        .context("attaching by tcx, which needs Linux 6.6")?;
    Ok(program.take_link(id)?)
}

/// The rate of one stream in bytes per second.
fn measure_stream(
    topology: &Topology,
    direction: StreamDirection,
    duration: Duration,
) -> Result<f64> {
    let gateway = SocketAddr::new(GATEWAY[0], 0);
    let listener = topology.node.enter(|| TcpListener::bind(gateway))??;
    let address = listener.local_addr()?;
    let pod = topology.pod.enter(|| TcpStream::connect(address))??;
    let (node, _) = listener.accept()?;
    let (mut from, mut to) = match direction {
        StreamDirection::ToNode => (pod, node),
        StreamDirection::ToPod => (node, pod),
    };
    let sending = thread::spawn(move || -> Result<()> {
        let bytes = vec![0; 256 << 10];
        let start = Instant::now();
        while start.elapsed() < duration {
            from.write_all(&bytes)?;
        }
        Ok(())
    });
    let mut buffer = vec![0; 256 << 10];
    let mut received = 0_u64;
    let start = Instant::now();
    loop {
        match to.read(&mut buffer)? {
            0 => break,
            bytes => received += bytes as u64,
        }
    }
    let elapsed = start.elapsed();
    sending
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    Ok(received as f64 / elapsed.as_secs_f64())
}
