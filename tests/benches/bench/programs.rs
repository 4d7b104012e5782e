//! The benchmark's BPF programs and veth pairs, and the two ways to measure with them:
//! BPF_PROG_TEST_RUN with live frames, and without.

use std::{fs, path::Path, thread, time::Duration, time::Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use aya::{
    Ebpf, Pod,
    maps::{Array, ProgramArray},
    programs::{
        ProgramFd, TestRun as _, TestRunAttrs, TestRunOptions, TestRunResult, Xdp, XdpMode,
    },
};
use zerohop_tests::netns::NetworkNamespace;

/// Number of 64-bit words in the longest frame. This constant and [`VARIANTS`] must equal those of
/// `dns-ebpf/src/bin/bench.rs`. The three `repr(C)` structures must have the layout of the
/// structures there, which describe the fields.
pub(crate) const WORDS: usize = 24;
/// Number of different right answers to a query whose addresses rotate.
pub(crate) const VARIANTS: usize = 4;

/// Offset in a reply's frame of the last two bytes of the destination MAC address, which is the
/// client's. They are equal to the ID.
const CLIENT_MAC_END: usize = 4;

/// The query that the generator sends.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct GeneratedQuery {
    bytes: [u64; WORDS],
    length: u64,
    udp: u64,
    sum: u64,
}

/// The frames that the checker accepts.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct ExpectedFrame {
    bytes: [[u64; WORDS]; VARIANTS],
    last: [u64; VARIANTS],
    length: u64,
    udp: u64,
    sum: u64,
    variant_at: u64,
    variant_mask: u64,
}

/// Numbers of frames that the generator sent, and that the checker found right or wrong.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct FrameCounts {
    pub(crate) sent: u64,
    pub(crate) right: u64,
    pub(crate) wrong: u64,
}

/// The frames of a case, in the form that the BPF programs need.
pub(crate) struct CaseFrames {
    /// The frame that the generator sends.
    pub(crate) query: GeneratedQuery,
    /// The frame that the reflector returns.
    pub(crate) reflected: ExpectedFrame,
    /// The frames that the kernel program returns.
    pub(crate) answered: ExpectedFrame,
    /// Length in bytes of the frames that the generator sends: that of the answer, rounded up to a
    /// multiple of eight, so that both programs get frames of the same length.
    pub(crate) length: usize,
}

// SAFETY: only integers, without padding between them; every bit pattern is a valid value.
unsafe impl Pod for GeneratedQuery {}
// SAFETY: as above.
unsafe impl Pod for ExpectedFrame {}
// SAFETY: as above.
unsafe impl Pod for FrameCounts {}

impl GeneratedQuery {
    /// `frame` has the ID 0. `udp` is the offset of its UDP header.
    pub(crate) fn new(frame: &[u8], udp: usize) -> Self {
        Self {
            bytes: words(frame),
            length: frame.len().next_multiple_of(8) as u64,
            udp: udp as u64,
            sum: u16::from_le_bytes([frame[udp + 6], frame[udp + 7]]).into(),
        }
    }
}

impl ExpectedFrame {
    /// `frames` have the ID 0. `udp` is the offset of their UDP headers. The variant of a frame is
    /// the byte at the offset `variant_bits.0` with the mask `variant_bits.1`. A mask of 0 means
    /// that all frames are equal.
    pub(crate) fn new(frames: &[Vec<u8>], udp: usize, variant_bits: (usize, usize)) -> Self {
        // All variants have the checksum of the first, because only the order of their addresses
        // differs.
        let first = &frames[0];
        let mut expected = Self {
            bytes: [[0; WORDS]; VARIANTS],
            last: [0; VARIANTS],
            length: first.len() as u64,
            udp: udp as u64,
            sum: u16::from_le_bytes([first[udp + 6], first[udp + 7]]).into(),
            variant_at: variant_bits.0 as u64,
            variant_mask: variant_bits.1 as u64,
        };
        for frame in frames {
            let mut frame = frame.clone();
            let variant = usize::from(frame[variant_bits.0]) & variant_bits.1;
            // The end of the client's MAC address, the UDP checksum and the ID differ in each
            // frame.
            frame[CLIENT_MAC_END..6].fill(0);
            frame[udp + 6..udp + 10].fill(0);
            expected.bytes[variant] = words(&frame);
            expected.last[variant] = words::<1>(&frame[frame.len() - 8..])[0];
        }
        expected
    }
}

/// The little-endian words of a frame, padded with zeros.
fn words<const N: usize>(bytes: &[u8]) -> [u64; N] {
    let mut words = [0; N];
    for (word, chunk) in words.iter_mut().zip(bytes.chunks(8)) {
        let mut bytes = [0; 8];
        bytes[..chunk.len()].copy_from_slice(chunk);
        *word = u64::from_le_bytes(bytes);
    }
    words
}

/// The loaded object with the benchmark's programs: the generator, the checker, the reflector, and
/// two programs for [`BenchPrograms::run_repeatedly`].
pub(crate) struct BenchPrograms {
    ebpf: Ebpf,
}

/// A veth pair. Frames are generated at the near end and answered at the far end.
pub(crate) struct VethPair {
    /// The interface index of the end that sends queries and receives answers.
    near: u32,
    /// The interface index of the end with the measured program.
    pub(crate) far: u32,
}

/// The result of one call with live frames.
pub(crate) struct LiveCall {
    /// Nanoseconds for each frame, from generator to checker.
    pub(crate) ns: f64,
    pub(crate) counts: FrameCounts,
}

/// Native XDP, in the veth driver.
const NATIVE: XdpMode = XdpMode::Driver;
/// The return value of an XDP program that sends the frame back.
const XDP_TX: u32 = 3;
/// Number of frames that the kernel generates at a time. It handles pending packets after each
/// batch.
const BATCH: u32 = 64;
/// After this time without a new frame, the missing frames count as lost.
const PATIENCE: Duration = Duration::from_millis(200);

impl BenchPrograms {
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

    /// Makes a veth pair and attaches the checker to its near end. The calling thread must be in
    /// `namespace`.
    pub(crate) fn make_veth_pair(
        &mut self,
        namespace: &NetworkNamespace,
        name: &str,
    ) -> Result<VethPair> {
        let (near, far) = (format!("{name}-near"), format!("{name}-far"));
        namespace.ip(&[
            &format!("link add {near} type veth peer name {far}"),
            // The pair must carry only the benchmark's frames.
            &format!("link set {near} arp off multicast off addrgenmode none up"),
            &format!("link set {far} arp off multicast off addrgenmode none up"),
        ])?;
        let near = namespace.index(&near)?;
        xdp(&mut self.ebpf, "check")?
            .attach_to_if_index(near, NATIVE)
            .context("attaching the checker")?;
        Ok(VethPair {
            near,
            far: namespace.index(&far)?,
        })
    }

    /// Attaches the reflector to the far end of a veth pair.
    pub(crate) fn attach_reflector(&mut self, pair: &VethPair) -> Result<()> {
        attach(xdp(&mut self.ebpf, "reflect")?, pair)
    }

    /// Sends frames through a veth pair, and waits until all have come back or count as lost.
    pub(crate) fn send_live_frames(
        &mut self,
        pair: &VethPair,
        frames: &CaseFrames,
        expected: &ExpectedFrame,
        count: u32,
    ) -> Result<LiveCall> {
        self.array("QUERY")?.set(0, frames.query, 0)?;
        self.array("EXPECTED")?.set(0, *expected, 0)?;
        self.array("COUNTS")?.set(0, FrameCounts::default(), 0)?;
        let frame = vec![0; frames.length];
        // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index,
        // egress_ifindex.
        let context = [0, frames.length as u32, 0, pair.near, 0, 0];
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
        let counts = self.wait_for_counts()?;
        ensure!(counts.sent > 0, "the generator made no frame");
        Ok(LiveCall {
            ns: run.duration.as_nanos() as f64,
            counts,
        })
    }

    /// Runs a program repeatedly over one frame, which becomes the query again before each round.
    /// `None` stands for a program that does nothing. Returns the nanoseconds of a round.
    pub(crate) fn run_repeatedly(
        &mut self,
        program: Option<&ProgramFd>,
        frames: &CaseFrames,
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

    /// The reflector, for [`BenchPrograms::run_repeatedly`].
    pub(crate) fn reflector(&mut self) -> Result<ProgramFd> {
        Ok(xdp(&mut self.ebpf, "reflect")?.fd()?.try_clone()?)
    }

    /// Waits until every frame has arrived, or no frame arrives for [`PATIENCE`]. Returns the
    /// counts.
    fn wait_for_counts(&mut self) -> Result<FrameCounts> {
        let mut counts: FrameCounts = self.array("COUNTS")?.get(&0, 0)?;
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

/// Attaches a loaded program to the far end of a veth pair.
pub(crate) fn attach(program: &mut Xdp, pair: &VethPair) -> Result<()> {
    program
        .attach_to_if_index(pair.far, NATIVE)
        .context("attaching the program that is measured")?;
    Ok(())
}

fn xdp<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    let program = ebpf
        .program_mut(name)
        .ok_or_else(|| anyhow!("the object has no program {name}"))?;
    Ok(program.try_into()?)
}
