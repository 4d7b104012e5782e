//! The BPF object file: sizes its maps, and loads its programs when they are needed.

use std::{fmt, os::fd::AsFd as _};

use anyhow::{Context as _, anyhow};
use aya::{
    Ebpf, EbpfLoader,
    maps::{HashMap, Map, MapData, PerCpuArray, ProgramArray},
    programs::{SchedClassifier, TestRun as _, TestRunOptions, Xdp},
};
use aya_log::EbpfLogger;
use dns_common::{
    Control, Settings,
    directory::WORDS,
    outcomes::{Hook, NO_COUNTS, OutcomeCounters, PacketSource},
    records::CHUNK,
    settings::{ClientKey, SETTINGS_COPIES},
};

use super::{memory::Memory, steering_program::SteeringProgram};

/// The object file built by `cargo xtask build-ebpf`, aligned for its headers
/// (`aya::include_bytes_aligned`).
#[derive(Clone, Copy)]
pub struct ObjectFile(pub &'static [u8]);

impl fmt::Debug for ObjectFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ObjectFile({} bytes)", self.0.len())
    }
}

/// The maps in the kernel and the programs that use them.
pub struct EbpfObject {
    ebpf: Ebpf,
    /// Reads the programs' log; `None` unless the object was built with `--log`.
    log: Option<EbpfLogger<&'static dyn log::Log>>,
}

/// The size of the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableSize {
    /// Buckets in the directory, a power of two.
    pub buckets: u32,
    /// Chunks of records.
    pub chunks: u32,
}

impl TableSize {
    /// Whether this size has more room than `other`, for names or for records.
    #[must_use]
    pub fn exceeds(self, other: TableSize) -> bool {
        self.buckets > other.buckets || self.chunks > other.chunks
    }
}

/// The programs that answer queries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HookProgram {
    /// XDP on a network card.
    Xdp,
    /// XDP on a veth.
    XdpVeth,
    /// tc on a veth whose peer is in another namespace.
    TcPeer,
    /// tc on any other device.
    Tc,
}

impl HookProgram {
    /// All programs.
    pub const ALL: [Self; 4] = [Self::Xdp, Self::XdpVeth, Self::TcPeer, Self::Tc];

    /// The program's name in the object file.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Xdp => "zerohop_xdp",
            Self::XdpVeth => "zerohop_xdp_veth",
            Self::TcPeer => "zerohop_tc_peer",
            Self::Tc => "zerohop_tc",
        }
    }

    /// The hook that the program attaches to.
    #[must_use]
    pub const fn hook(self) -> Hook {
        match self {
            Self::Xdp | Self::XdpVeth => Hook::Xdp,
            Self::TcPeer | Self::Tc => Hook::Tc,
        }
    }

    /// The source under which the program counts the packets of a device.
    #[must_use]
    pub const fn source(self, device: u32) -> PacketSource {
        if self.is_for_cards() {
            PacketSource::Device(device)
        } else {
            PacketSource::Veths
        }
    }

    /// Whether the program is for devices that untrusted hosts may reach: network cards, and at tc
    /// all devices that are not veths with a peer in another namespace.
    #[must_use]
    pub const fn is_for_cards(self) -> bool {
        matches!(self, Self::Xdp | Self::Tc)
    }
}

/// Whether a tc filter of this name is one of Zerohop's. Filters keep their full names, so these
/// are compared in full. Only names of programs are truncated, by the loader.
pub(crate) fn is_zerohop_name(name: &str) -> bool {
    HookProgram::ALL
        .iter()
        .any(|program| program.name() == name)
}

/// The memory of the tables, mapped into this process.
pub struct TableMappings {
    /// One [`Control`].
    pub control: Memory,
    /// [`SETTINGS_COPIES`] copies of [`Settings`].
    pub settings: Memory,
    /// Buckets ([`dns_common::directory`]).
    pub directory: Memory,
    /// Chunks ([`dns_common::records`]).
    pub records: Memory,
}

/// The program that sets the lease.
const LEASE_PROGRAM: &str = "zerohop_lease";
/// The map of log messages, which exists only in an object built with `--log`.
const LOG_MAP: &str = "AYA_LOGS";

impl EbpfObject {
    /// Creates the maps in the kernel and loads the lease program.
    ///
    /// # Errors
    ///
    /// When the kernel refuses a map or the program: no privilege, no memory, or a kernel before
    /// 5.10. When the object file has no lease program, or its log can't be read.
    pub fn load(file: ObjectFile, size: TableSize) -> anyhow::Result<Self> {
        let mut ebpf = EbpfLoader::new()
            .map_max_entries("DIRECTORY", size.buckets)
            .map_max_entries("RECORDS", size.chunks)
            .load(file.0)
            .context(
                "creating the kernel tables (this needs Linux 5.10 or newer, and either root or \
                 the capabilities BPF, NET_ADMIN and PERFMON)",
            )?;
        let log = match ebpf.map(LOG_MAP) {
            None => None,
            Some(_) => Some(EbpfLogger::init(&mut ebpf).context("reading the programs' log")?),
        };
        let mut object = Self { ebpf, log };
        object.loaded_xdp(LEASE_PROGRAM)?;
        Ok(object)
    }

    /// Maps the tables into this process.
    ///
    /// # Errors
    ///
    /// Errors of mmap(2), and when the object file lacks one of the arrays.
    pub fn map_tables(&self, size: TableSize) -> anyhow::Result<TableMappings> {
        Ok(TableMappings {
            control: self.map_array("CONTROL", size_of::<Control>())?,
            settings: self
                .map_array("SETTINGS", size_of::<Settings>() * SETTINGS_COPIES as usize)?,
            directory: self.map_array("DIRECTORY", size.buckets as usize * WORDS * 8)?,
            records: self.map_array("RECORDS", size.chunks as usize * CHUNK)?,
        })
    }

    /// The map of permitted clients.
    ///
    /// # Errors
    ///
    /// When this process can't open another file descriptor, or the object file lacks the map.
    pub fn client_map(&self) -> anyhow::Result<HashMap<MapData, ClientKey, u8>> {
        let Some(Map::HashMap(data)) = self.ebpf.map("CLIENTS") else {
            return Err(anyhow!("the BPF object file has no hash map CLIENTS"));
        };
        let descriptor = data.fd().as_fd().try_clone_to_owned();
        let data = MapData::from_fd(descriptor.context("opening the map of clients")?)?;
        Ok(HashMap::try_from(Map::HashMap(data))?)
    }

    /// Sets the program that receives packets which may be steered.
    ///
    /// # Errors
    ///
    /// When the object file lacks the map of the program, or the kernel refuses.
    pub(super) fn set_steering_program(
        &mut self,
        steering: &SteeringProgram,
    ) -> anyhow::Result<()> {
        let map = self
            .ebpf
            .map_mut("STEERING")
            .ok_or_else(|| anyhow!("the BPF object file has no map STEERING"))?;
        let mut programs = ProgramArray::try_from(map)?;
        let set = programs.set(0, &steering.program, 0);
        set.context("giving the steering program to the kernel plane")
    }

    /// Returns an XDP program. Loads it into the kernel unless it is loaded.
    ///
    /// # Errors
    ///
    /// When the object file has no XDP program of this name, or the kernel refuses to load it. If
    /// the verifier has rejected it, the error has the verifier's log.
    pub fn loaded_xdp(&mut self, name: &str) -> anyhow::Result<&mut Xdp> {
        let program: &mut Xdp = self
            .ebpf
            .program_mut(name)
            .ok_or_else(|| anyhow!("the BPF object file has no program {name}"))?
            .try_into()?;
        if program.fd().is_err() {
            program
                .load()
                .with_context(|| format!("loading the program {name} into the kernel"))?;
        }
        Ok(program)
    }

    /// Returns a tc program. Loads it into the kernel unless it is loaded.
    ///
    /// # Errors
    ///
    /// As for [`EbpfObject::loaded_xdp`].
    pub fn loaded_tc(&mut self, name: &str) -> anyhow::Result<&mut SchedClassifier> {
        let program: &mut SchedClassifier = self
            .ebpf
            .program_mut(name)
            .ok_or_else(|| anyhow!("the BPF object file has no program {name}"))?
            .try_into()?;
        if program.fd().is_err() {
            program
                .load()
                .with_context(|| format!("loading the program {name} into the kernel"))?;
        }
        Ok(program)
    }

    /// Loads a program into the kernel unless it is loaded.
    ///
    /// # Errors
    ///
    /// As for [`EbpfObject::loaded_xdp`].
    pub fn load_program(&mut self, program: HookProgram) -> anyhow::Result<()> {
        match program.hook() {
            Hook::Xdp => self.loaded_xdp(program.name()).map(|_| ()),
            Hook::Tc => self.loaded_tc(program.name()).map(|_| ()),
        }
    }

    /// Whether the kernel has compiled a program to machine code (JIT). `false` if it isn't loaded.
    pub fn is_compiled(&self, program: HookProgram) -> bool {
        let info = self
            .ebpf
            .program(program.name())
            .and_then(|program| program.info().ok());
        info.is_some_and(|info| info.size_jitted() > 0)
    }

    /// The IDs of the loaded programs.
    pub fn program_ids(&self) -> Vec<u32> {
        let programs = self.ebpf.programs();
        programs
            .filter_map(|(_, program)| Some(program.info().ok()?.id()))
            .collect()
    }

    /// Sets the lease to end `jiffies` from now. Returns the lower 32 bits of the current jiffies.
    ///
    /// # Errors
    ///
    /// When the kernel can't run the lease program.
    pub fn set_lease(&self, jiffies: u64) -> anyhow::Result<u32> {
        let program: &Xdp = self
            .ebpf
            .program(LEASE_PROGRAM)
            .ok_or_else(|| anyhow!("the BPF object file has no program {LEASE_PROGRAM}"))?
            .try_into()?;
        // The program reads the duration from the start of the packet. The kernel requires a packet
        // of at least an Ethernet header.
        let mut packet = [0; 64];
        packet[..8].copy_from_slice(&jiffies.to_le_bytes());
        let result = program
            .test_run(TestRunOptions {
                data_in: Some(&packet),
                ..TestRunOptions::default()
            })
            .context("running the lease program")?;
        Ok(result.return_value)
    }

    /// Writes the programs' log messages to the agent's log, if the object was built with `--log`.
    pub fn flush_log(&mut self) {
        if let Some(log) = &mut self.log {
            log.flush();
        }
    }

    /// Runs a program once over a frame. Returns the program's return code and the resulting frame.
    ///
    /// # Errors
    ///
    /// When the program can't be loaded, or the kernel can't run it.
    pub fn test_run(
        &mut self,
        program: HookProgram,
        frame: &[u8],
    ) -> anyhow::Result<(u32, Vec<u8>)> {
        // Longer than any reply.
        let mut out = vec![0; 4096];
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ..TestRunOptions::default()
        };
        let result = match program.hook() {
            Hook::Xdp => self.loaded_xdp(program.name())?.test_run(options),
            Hook::Tc => self.loaded_tc(program.name())?.test_run(options),
        }
        .with_context(|| format!("running {}", program.name()))?;
        out.truncate(result.data_size_out as usize);
        Ok((result.return_value, out))
    }

    /// The outcome counters of one hook and source, summed over all CPUs, in the order of
    /// [`dns_common::Outcome::ALL`]. Several devices may share them: see [`PacketSource::Device`].
    ///
    /// # Errors
    ///
    /// When the object file lacks the counters, or the kernel refuses to read them.
    pub fn counters(&self, hook: Hook, source: PacketSource) -> anyhow::Result<OutcomeCounters> {
        let map = self
            .ebpf
            .map("OUTCOMES")
            .ok_or_else(|| anyhow!("the BPF object file has no map OUTCOMES"))?;
        let lines: PerCpuArray<_, OutcomeCounters> = PerCpuArray::try_from(map)?;
        let mut totals = NO_COUNTS;
        for counters in lines.get(&hook.line(source), 0)?.iter() {
            for (total, counter) in totals.iter_mut().zip(counters) {
                *total += counter;
            }
        }
        Ok(totals)
    }

    fn map_array(&self, name: &str, bytes: usize) -> anyhow::Result<Memory> {
        let Some(Map::Array(data)) = self.ebpf.map(name) else {
            return Err(anyhow!("the BPF object file has no array {name}"));
        };
        Memory::map(data.fd().as_fd(), bytes)
            .with_context(|| format!("mapping {name} ({bytes} bytes)"))
    }
}
