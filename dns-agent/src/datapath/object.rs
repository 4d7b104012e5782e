//! The kernel program's object file: embedded, its maps sized, its programs loaded when needed.

use std::os::fd::AsFd as _;

use anyhow::{Context as _, anyhow};
use aya::{
    Ebpf, EbpfLoader,
    maps::{HashMap, Map, MapData, PerCpuArray},
    programs::{SchedClassifier, TestRun as _, TestRunOptions, Xdp},
};
use aya_log::EbpfLogger;
use dns_common::{
    Control, Settings,
    directory::WORDS,
    outcomes::{Counters, Hook, NOTHING_COUNTED, Source},
    records::CHUNK,
    settings::{ClientKey, SLOTS},
};

use super::memory::Memory;

/// The object that `cargo xtask build-ebpf` made, and `build.rs` found.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/zerohop.o"));

/// The maps in the kernel, and the programs over them.
pub struct Object {
    ebpf: Ebpf,
    /// What the programs log, if they were built to.
    log: Option<EbpfLogger<&'static dyn log::Log>>,
}

/// How large the tables are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Buckets in the directory, a power of two.
    pub buckets: u32,
    /// Chunks of records.
    pub chunks: u32,
}

impl Size {
    /// Whether it has more room than another, for names or for records.
    #[must_use]
    pub fn exceeds(self, other: Size) -> bool {
        self.buckets > other.buckets || self.chunks > other.chunks
    }
}

/// The programs that answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// XDP on a network card.
    Xdp,
    /// XDP on a veth.
    XdpVeth,
    /// tc on a veth whose peer is in another namespace.
    TcPeer,
    /// tc on any other device.
    Tc,
}

impl Program {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Xdp, Self::XdpVeth, Self::TcPeer, Self::Tc];

    /// Its name in the object.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Xdp => "zerohop_xdp",
            Self::XdpVeth => "zerohop_xdp_veth",
            Self::TcPeer => "zerohop_tc_peer",
            Self::Tc => "zerohop_tc",
        }
    }

    /// The hook it is made for.
    #[must_use]
    pub const fn hook(self) -> Hook {
        match self {
            Self::Xdp | Self::XdpVeth => Hook::Xdp,
            Self::TcPeer | Self::Tc => Hook::Tc,
        }
    }

    /// Where it counts the packets of a device.
    #[must_use]
    pub const fn source(self, device: u32) -> Source {
        match self.is_for_cards() {
            true => Source::Device(device),
            false => Source::Veths,
        }
    }

    /// Whether it is made for devices that strangers can reach, rather than for pods' veths.
    #[must_use]
    pub const fn is_for_cards(self) -> bool {
        matches!(self, Self::Xdp | Self::Tc)
    }
}

/// The tables' memory, mapped.
pub struct Memories {
    /// One [`Control`].
    pub control: Memory,
    /// [`SLOTS`] copies of [`Settings`].
    pub settings: Memory,
    /// Buckets.
    pub directory: Memory,
    /// Chunks.
    pub records: Memory,
}

const LEASE: &str = "zerohop_lease";
/// There only when the object was built with `--log`.
const LOG: &str = "AYA_LOGS";

impl Object {
    /// Makes the maps in the kernel.
    ///
    /// # Errors
    ///
    /// When the kernel refuses them: no privilege, no memory, or a kernel before 5.10.
    pub fn load(size: Size) -> anyhow::Result<Self> {
        let mut ebpf = EbpfLoader::new()
            .map_max_entries("DIRECTORY", size.buckets)
            .map_max_entries("RECORDS", size.chunks)
            .load(OBJECT)
            .context(
                "making the kernel tables (this needs Linux 5.10 or newer and root, or the capabilities \
                 BPF, NET_ADMIN and PERFMON)",
            )?;
        let log = match ebpf.map(LOG) {
            None => None,
            Some(_) => Some(EbpfLogger::init(&mut ebpf).context("reading the programs' log")?),
        };
        let mut object = Self { ebpf, log };
        object.xdp(LEASE)?;
        Ok(object)
    }

    /// Maps the tables into this process.
    ///
    /// # Errors
    ///
    /// Those of mmap(2).
    pub fn memories(&self, size: Size) -> anyhow::Result<Memories> {
        Ok(Memories {
            control: self.memory("CONTROL", size_of::<Control>())?,
            settings: self.memory("SETTINGS", size_of::<Settings>() * SLOTS as usize)?,
            directory: self.memory("DIRECTORY", size.buckets as usize * WORDS * 8)?,
            records: self.memory("RECORDS", size.chunks as usize * CHUNK)?,
        })
    }

    /// The table of clients.
    ///
    /// # Errors
    ///
    /// When this process can't have another descriptor.
    pub fn clients(&self) -> anyhow::Result<HashMap<MapData, ClientKey, u8>> {
        let Some(Map::HashMap(data)) = self.ebpf.map("CLIENTS") else {
            return Err(anyhow!("the object has no hash map CLIENTS"));
        };
        let descriptor = data.fd().as_fd().try_clone_to_owned();
        let data = MapData::from_fd(descriptor.context("opening the table of clients")?)?;
        Ok(HashMap::try_from(Map::HashMap(data))?)
    }

    /// An XDP program, loaded.
    ///
    /// # Errors
    ///
    /// When the kernel's verifier refuses it; the error has its last words.
    pub fn xdp(&mut self, name: &str) -> anyhow::Result<&mut Xdp> {
        let program: &mut Xdp = self
            .ebpf
            .program_mut(name)
            .ok_or_else(|| anyhow!("the object has no program {name}"))?
            .try_into()?;
        if program.fd().is_err() {
            program
                .load()
                .with_context(|| format!("loading the program {name} into the kernel"))?;
        }
        Ok(program)
    }

    /// A tc program, loaded.
    ///
    /// # Errors
    ///
    /// As for [`Object::xdp`].
    pub fn tc(&mut self, name: &str) -> anyhow::Result<&mut SchedClassifier> {
        let program: &mut SchedClassifier = self
            .ebpf
            .program_mut(name)
            .ok_or_else(|| anyhow!("the object has no program {name}"))?
            .try_into()?;
        if program.fd().is_err() {
            program
                .load()
                .with_context(|| format!("loading the program {name} into the kernel"))?;
        }
        Ok(program)
    }

    /// Loads an answering program.
    ///
    /// # Errors
    ///
    /// As for [`Object::xdp`].
    pub fn ensure(&mut self, program: Program) -> anyhow::Result<()> {
        match program.hook() {
            Hook::Xdp => self.xdp(program.name()).map(|_| ()),
            Hook::Tc => self.tc(program.name()).map(|_| ()),
        }
    }

    /// Whether the kernel runs a program that is loaded as machine code.
    pub fn is_compiled(&self, program: Program) -> bool {
        let info = self
            .ebpf
            .program(program.name())
            .and_then(|program| program.info().ok());
        info.is_some_and(|info| info.size_jitted() > 0)
    }

    /// The numbers of the programs that are loaded.
    pub fn programs(&self) -> Vec<u32> {
        let programs = self.ebpf.programs();
        programs
            .filter_map(|(_, program)| Some(program.info().ok()?.id()))
            .collect()
    }

    /// Lets the hooks answer for so many jiffies from now; gives the lower half of the time in
    /// jiffies.
    ///
    /// # Errors
    ///
    /// When the kernel can't run the program.
    pub fn set_lease(&self, jiffies: u64) -> anyhow::Result<u32> {
        let program: &Xdp = self
            .ebpf
            .program(LEASE)
            .ok_or_else(|| anyhow!("the object has no program {LEASE}"))?
            .try_into()?;
        // A packet of at least an Ethernet header, which the kernel insists on.
        let mut packet = [0; 64];
        packet[..8].copy_from_slice(&jiffies.to_le_bytes());
        let result = program
            .test_run(TestRunOptions {
                data_in: Some(&packet),
                ..TestRunOptions::default()
            })
            .context("renewing the lease")?;
        Ok(result.return_value)
    }

    /// Hands on what the programs have logged, if they were built to.
    pub fn flush_log(&mut self) {
        if let Some(log) = &mut self.log {
            log.flush();
        }
    }

    /// Runs an answering program once over a frame; gives what it returned and the frame that it
    /// left behind.
    ///
    /// # Errors
    ///
    /// When the program can't be loaded or the kernel can't run it.
    pub fn test_run(&mut self, program: Program, frame: &[u8]) -> anyhow::Result<(u32, Vec<u8>)> {
        let mut out = vec![0; 4096];
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ..TestRunOptions::default()
        };
        let result = match program.hook() {
            Hook::Xdp => self.xdp(program.name())?.test_run(options),
            Hook::Tc => self.tc(program.name())?.test_run(options),
        }
        .with_context(|| format!("running {}", program.name()))?;
        out.truncate(result.data_size_out as usize);
        Ok((result.return_value, out))
    }

    /// How many packets of one hook and source ended in each way, over all CPUs, in the order of
    /// [`dns_common::Outcome::ALL`].
    ///
    /// # Errors
    ///
    /// When the kernel refuses to read the counters.
    pub fn counters(&self, hook: Hook, source: Source) -> anyhow::Result<Counters> {
        let map = self
            .ebpf
            .map("OUTCOMES")
            .ok_or_else(|| anyhow!("the object has no map OUTCOMES"))?;
        let lines: PerCpuArray<_, Counters> = PerCpuArray::try_from(map)?;
        let mut totals = NOTHING_COUNTED;
        for counters in lines.get(&hook.line(source), 0)?.iter() {
            for (total, counter) in totals.iter_mut().zip(counters) {
                *total += counter;
            }
        }
        Ok(totals)
    }

    fn memory(&self, name: &str, octets: usize) -> anyhow::Result<Memory> {
        let Some(Map::Array(data)) = self.ebpf.map(name) else {
            return Err(anyhow!("the object has no array {name}"));
        };
        Memory::of_map(data.fd().as_fd(), octets)
            .with_context(|| format!("mapping {name} ({octets} octets)"))
    }
}
