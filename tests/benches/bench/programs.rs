//! The programs and the devices that the benchmark makes, and the two ways it measures with them.

use std::{fs, path::Path, thread, time::Duration, time::Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use aya::{
    Ebpf, Pod,
    maps::{Array, ProgramArray},
    programs::{
        ProgramFd, TestRun as _, TestRunAttrs, TestRunOptions, TestRunResult, Xdp, XdpMode,
    },
};
use zerohop_tests::netns::Namespace;

use crate::cases::Frames;

/// As in `dns-ebpf/src/bin/bench.rs`, and so are the three structures.
pub(crate) const WORDS: usize = 24;
/// As there.
pub(crate) const VARIANTS: usize = 4;

/// Octets from a frame's start that change with the ID.
const CLIENT_MAC_END: usize = 4;

/// What is asked.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Query {
    octets: [u64; WORDS],
    length: u64,
    udp: u64,
    sum: u64,
}

/// What must come back.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Expected {
    octets: [[u64; WORDS]; VARIANTS],
    last: [u64; VARIANTS],
    length: u64,
    udp: u64,
    sum: u64,
    variant_at: u64,
    variant_mask: u64,
}

/// What became of the frames.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) sent: u64,
    pub(crate) right: u64,
    pub(crate) wrong: u64,
}

// SAFETY: numbers without padding between them; every value is good.
unsafe impl Pod for Query {}
// SAFETY: as above.
unsafe impl Pod for Expected {}
// SAFETY: as above.
unsafe impl Pod for Counts {}

impl Query {
    /// From a frame whose ID is 0.
    pub(crate) fn new(frame: &[u8], udp: usize) -> Self {
        Self {
            octets: words(frame),
            length: frame.len().next_multiple_of(8) as u64,
            udp: udp as u64,
            sum: u16::from_le_bytes([frame[udp + 6], frame[udp + 7]]).into(),
        }
    }
}

impl Expected {
    /// From frames whose ID is 0. `which`: the octet that tells them apart, and its bits.
    pub(crate) fn new(frames: &[Vec<u8>], udp: usize, which: (usize, usize)) -> Self {
        let first = &frames[0];
        let mut expected = Self {
            octets: [[0; WORDS]; VARIANTS],
            last: [0; VARIANTS],
            length: first.len() as u64,
            udp: udp as u64,
            sum: u16::from_le_bytes([first[udp + 6], first[udp + 7]]).into(),
            variant_at: which.0 as u64,
            variant_mask: which.1 as u64,
        };
        for frame in frames {
            let mut frame = frame.clone();
            let variant = usize::from(frame[which.0]) & which.1;
            frame[CLIENT_MAC_END..6].fill(0);
            frame[udp + 6..udp + 10].fill(0);
            expected.octets[variant] = words(&frame);
            expected.last[variant] = words::<1>(&frame[frame.len() - 8..])[0];
        }
        expected
    }
}

fn words<const N: usize>(octets: &[u8]) -> [u64; N] {
    let mut words = [0; N];
    for (word, chunk) in words.iter_mut().zip(octets.chunks(8)) {
        let mut octets = [0; 8];
        octets[..chunk.len()].copy_from_slice(chunk);
        *word = u64::from_le_bytes(octets);
    }
    words
}

/// Generator, checker and what else is in their object.
pub(crate) struct Programs {
    ebpf: Ebpf,
}

/// A veth pair: frames are made at one end and answered at the other.
pub(crate) struct Lane {
    /// The index of the device that frames leave by and answers arrive at.
    near: u32,
    /// The index of the device that has the program that is measured.
    pub(crate) far: u32,
}

/// One call with live frames.
pub(crate) struct Live {
    /// For each frame, in nanoseconds, everything on its way included.
    pub(crate) ns: f64,
    pub(crate) counts: Counts,
}

/// A veth that is to have an XDP program in its driver.
const NATIVE: XdpMode = XdpMode::Driver;
/// What XDP programs return that send an answer.
const XDP_TX: u32 = 3;
/// Frames that are on their way at the same time, at most.
const BATCH: u32 = 64;
/// How long the last frames may be on their way.
const PATIENCE: Duration = Duration::from_millis(200);

impl Programs {
    /// Loads the object that `cargo xtask build-ebpf --bench` makes.
    pub(crate) fn load(object: &Path) -> Result<Self> {
        let bytes = fs::read(object).with_context(|| {
            format!(
                "reading {}; `cargo xtask build-ebpf --bench` makes it",
                object.display()
            )
        })?;
        let mut ebpf = Ebpf::load(&bytes).context("making the benchmark's maps")?;
        for name in ["generate", "check", "reflect", "nothing", "replay"] {
            xdp(&mut ebpf, name)?
                .load()
                .with_context(|| format!("loading {name}"))?;
        }
        Ok(Self { ebpf })
    }

    /// Makes a veth pair in a namespace and puts the checker on its near end. The calling thread is in
    /// that namespace.
    pub(crate) fn lane(&mut self, namespace: &Namespace, name: &str) -> Result<Lane> {
        let (near, far) = (format!("{name}-near"), format!("{name}-far"));
        namespace.ip(&[
            &format!("link add {near} type veth peer name {far}"),
            // Nothing but our own frames shall pass.
            &format!("link set {near} arp off multicast off addrgenmode none up"),
            &format!("link set {far} arp off multicast off addrgenmode none up"),
        ])?;
        let near = namespace.index(&near)?;
        xdp(&mut self.ebpf, "check")?
            .attach_to_if_index(near, NATIVE)
            .context("attaching the checker")?;
        Ok(Lane {
            near,
            far: namespace.index(&far)?,
        })
    }

    /// Puts the reflector on the far end of a lane.
    pub(crate) fn reflect(&mut self, lane: &Lane) -> Result<()> {
        attach(xdp(&mut self.ebpf, "reflect")?, lane)
    }

    /// Sends frames through a lane, and waits for the last one.
    pub(crate) fn live(
        &mut self,
        lane: &Lane,
        frames: &Frames,
        expected: &Expected,
        count: u32,
    ) -> Result<Live> {
        self.array("QUERY")?.set(0, frames.query, 0)?;
        self.array("EXPECTED")?.set(0, *expected, 0)?;
        self.array("COUNTS")?.set(0, Counts::default(), 0)?;
        let frame = vec![0; frames.length];
        // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
        let context = [0, frames.length as u32, 0, lane.near, 0, 0];
        let context: Vec<u8> = context.into_iter().flat_map(u32::to_ne_bytes).collect();
        let run = xdp(&mut self.ebpf, "generate")?
            .test_run(TestRunOptions {
                data_in: Some(&frame),
                ctx_in: Some(&context),
                repeat: count,
                attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
                ..TestRunOptions::default()
            })
            .context("sending live frames (this needs Linux 5.18 or newer)")?;
        let counts = self.drained()?;
        ensure!(counts.sent > 0, "the generator made no frame");
        Ok(Live {
            ns: run.duration.as_nanos() as f64,
            counts,
        })
    }

    /// Runs a program over one frame, which is made a query again each time; gives the nanoseconds of
    /// a round. `None`: a program that does nothing.
    pub(crate) fn repeat(
        &mut self,
        program: Option<&ProgramFd>,
        frames: &Frames,
        rounds: u32,
    ) -> Result<f64> {
        self.array("QUERY")?.set(0, frames.query, 0)?;
        let nothing = xdp(&mut self.ebpf, "nothing")?.fd()?.try_clone()?;
        let map = self
            .ebpf
            .map_mut("TARGET")
            .context("the object has no map TARGET")?;
        ProgramArray::try_from(map)?.set(0, program.unwrap_or(&nothing), 0)?;
        let frame = vec![0; frames.length];
        let TestRunResult {
            return_value,
            duration,
            ..
        } = xdp(&mut self.ebpf, "replay")?.test_run(TestRunOptions {
            data_in: Some(&frame),
            repeat: rounds,
            ..TestRunOptions::default()
        })?;
        ensure!(
            return_value == XDP_TX,
            "the program did not answer but returned {return_value}"
        );
        Ok(duration.as_nanos() as f64)
    }

    /// The reflector, for [`Programs::repeat`].
    pub(crate) fn reflector(&mut self) -> Result<ProgramFd> {
        Ok(xdp(&mut self.ebpf, "reflect")?.fd()?.try_clone()?)
    }

    /// The counters, when every frame has come back or no more will.
    fn drained(&mut self) -> Result<Counts> {
        let mut counts: Counts = self.array("COUNTS")?.get(&0, 0)?;
        let mut changed = Instant::now();
        while counts.right + counts.wrong < counts.sent && changed.elapsed() < PATIENCE {
            thread::yield_now();
            let now = self.array("COUNTS")?.get(&0, 0)?;
            if now != counts {
                (counts, changed) = (now, Instant::now());
            }
        }
        Ok(counts)
    }

    fn array<V: Pod>(&mut self, name: &str) -> Result<Array<&mut aya::maps::MapData, V>> {
        let map = self
            .ebpf
            .map_mut(name)
            .with_context(|| format!("the object has no map {name}"))?;
        Ok(Array::try_from(map)?)
    }
}

/// Puts a loaded program on the far end of a lane.
pub(crate) fn attach(program: &mut Xdp, lane: &Lane) -> Result<()> {
    program
        .attach_to_if_index(lane.far, NATIVE)
        .context("attaching the program that is measured")?;
    Ok(())
}

fn xdp<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    let program = ebpf
        .program_mut(name)
        .ok_or_else(|| anyhow!("the object has no program {name}"))?;
    Ok(program.try_into()?)
}
