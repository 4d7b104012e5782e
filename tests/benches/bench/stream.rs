//! A TCP stream between a pod and its node, whose packets the program at the host veth lets pass.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use aya::programs::{LinkOrder, TcAttachType, tc::TcAttachOptions};
use dns_agent::datapath::object::{Object, Program};
use zerohop_tests::topology::{GATEWAY, HOST_VETH, Topology};

/// Which way the octets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// Past the program.
    ToNode,
    /// Their acknowledgements go past the program.
    ToPod,
}

/// Rates in octets a second, of streams by turns.
pub(crate) struct Streams {
    pub(crate) without: Vec<f64>,
    pub(crate) with: Vec<f64>,
}

impl Way {
    pub(crate) const ALL: [Way; 2] = [Way::ToNode, Way::ToPod];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Way::ToNode => "pod to node",
            Way::ToPod => "node to pod",
        }
    }
}

/// Streams without the program and with it, by turns; each second pair the other way round.
pub(crate) fn measure(
    object: &mut Object,
    topology: &Topology,
    way: Way,
    pairs: usize,
    lasting: Duration,
) -> Result<Streams> {
    let mut streams = Streams {
        without: Vec::new(),
        with: Vec::new(),
    };
    for pair in 0..pairs {
        for turn in 0..2 {
            if (pair + turn) % 2 == 0 {
                streams.without.push(stream(topology, way, lasting)?);
                continue;
            }
            let attached = topology.node.enter(|| attach(object))??;
            streams.with.push(stream(topology, way, lasting)?);
            drop(attached);
        }
    }
    Ok(streams)
}

/// The program of pods' veths, as the agent attaches it from Linux 6.6 on; off when dropped.
fn attach(object: &mut Object) -> Result<impl Sized + use<>> {
    let program = object.tc(Program::TcPeer.name())?;
    let first = TcAttachOptions::TcxOrder(LinkOrder::first());
    let id = program
        .attach_with_options(HOST_VETH, TcAttachType::Ingress, first)
        .context("attaching by tcx, which needs Linux 6.6")?;
    Ok(program.take_link(id)?)
}

/// Octets a second of one stream.
fn stream(topology: &Topology, way: Way, lasting: Duration) -> Result<f64> {
    let any = SocketAddr::new(GATEWAY[0], 0);
    let listener = topology.node.enter(|| TcpListener::bind(any))??;
    let address = listener.local_addr()?;
    let pod = topology.pod.enter(|| TcpStream::connect(address))??;
    let (node, _) = listener.accept()?;
    let (mut from, mut to) = match way {
        Way::ToNode => (pod, node),
        Way::ToPod => (node, pod),
    };
    let sending = thread::spawn(move || -> Result<()> {
        let octets = vec![0; 256 << 10];
        let start = Instant::now();
        while start.elapsed() < lasting {
            from.write_all(&octets)?;
        }
        Ok(())
    });
    let mut buffer = vec![0; 256 << 10];
    let mut received = 0_u64;
    let start = Instant::now();
    loop {
        match to.read(&mut buffer)? {
            0 => break,
            octets => received += octets as u64,
        }
    }
    let elapsed = start.elapsed();
    sending
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    Ok(received as f64 / elapsed.as_secs_f64())
}
