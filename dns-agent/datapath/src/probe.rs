//! Tries out what this kernel supports, for `dns-agent check`. Nothing is attached to any device,
//! and the kernel frees all maps and programs of the trial afterwards.

use std::{io, net::SocketAddr, path::Path, time::Duration};

use ipnet::Ipv4Net;
use zerohop_zone::{ModelBuilder, Name};

use super::{
    Datapath, DatapathConfig, InitialLease, PermittedClients, Persistence,
    foreign_programs::{ForeignProgram, ForeignPrograms},
    hooks::{self, Prospect},
    interfaces::Device,
    pins,
    program::HookProgram,
    syscall::{self, Direction},
};
use crate::{Interface, ObjectFile};

/// The result of [`try_kernel`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trial {
    /// The size in bytes of the directory and the records, which have their smallest size.
    pub memory_bytes: usize,
    /// The measured rate of the kernel's clock, in jiffies per second.
    pub rate: u32,
    /// For each program, its name and how the kernel runs it, or why it failed.
    pub programs: Vec<(&'static str, Result<ExecutionMode, KernelRefusal>)>,
}

/// How the kernel runs a loaded program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExecutionMode {
    /// As machine code.
    Compiled,
    /// By the BPF interpreter, which is slower.
    Interpreted,
}

/// A step of the trial that failed. In most cases the kernel refused an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelRefusal {
    /// What failed, and the kernel's error if there is one.
    pub reason: String,
    /// The error number of the failed system call; `None` if no system call failed.
    pub error: Option<i32>,
}

/// The index of the loopback device in every network namespace.
const LOOPBACK: u32 = 1;

/// An arbitrary hardware address. The programs for network cards answer only packets to an address
/// in the settings.
const CARD: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// Does what an agent does at its start, except attaching: creates and maps tables, fills them with
/// one zone, measures the kernel's clock and starts a lease. Then loads every program and runs it
/// over one query. Takes a fifth of a second for the clock, and the verifier's time.
///
/// # Errors
///
/// When a step before the loading of programs fails. Programs that fail are in the result.
pub fn try_kernel(object_file: ObjectFile) -> Result<Trial, KernelRefusal> {
    let zone = Name::parse("check.zerohop.invalid").map_err(|error| refusal(&error.into()))?;
    // The serial 1 and the TTL 5 are arbitrary.
    let mut builder = ModelBuilder::new(1);
    builder
        .add_zone(zone.clone(), 5)
        .map_err(|error| refusal(&error.into()))?;
    let config = DatapathConfig {
        object_file,
        interfaces: Vec::new(),
        // The XDP program for network cards answers only clients of an allowed network. This one
        // is reserved for documentation: RFC 5737 section 3.
        allow: vec![Ipv4Net::new_assert([192, 0, 2, 0].into(), 24).into()],
        rate_limit: None,
        served_addresses: vec![SocketAddr::from(([192, 0, 2, 53], 53))],
        clients: PermittedClients::Any,
        capacity: None,
        // Longer than the trial takes.
        stale_after: Duration::from_secs(60),
        persistence: Persistence::UntilAgentStops,
        // Not searched, because there are no devices.
        bpffs: Path::new("").into(),
        steering: None,
    };
    // Without pins and without devices, so nothing is attached.
    let started = Datapath::start(config, None, &[], &builder.build(), InitialLease::Running);
    let mut datapath = started.map_err(|error| refusal(&error))?;
    datapath.tables.publish_card_addresses(vec![CARD]);
    let programs =
        HookProgram::ALL.map(|program| (program.name(), datapath.try_program(program, &zone)));
    Ok(Trial {
        memory_bytes: datapath.tables.table.usage().memory_bytes,
        rate: datapath.clock.rate,
        programs: programs.into(),
    })
}

impl Datapath {
    /// Loads a program and runs it over one query, which must be answered.
    fn try_program(
        &mut self,
        program: HookProgram,
        zone: &Name,
    ) -> Result<ExecutionMode, KernelRefusal> {
        let outcome = self
            .test_program(program, zone)
            .map_err(|error| refusal(&error))?;
        if !outcome.is_answer() {
            return Err(KernelRefusal {
                reason: format!(
                    "its test run ended as {}, not with an answer",
                    outcome.name()
                ),
                error: None,
            });
        }
        if self.object.is_compiled(program) {
            Ok(ExecutionMode::Compiled)
        } else {
            Ok(ExecutionMode::Interpreted)
        }
    }
}

/// What an agent would do with the matching devices, and the foreign programs on them.
#[derive(Clone, Debug)]
pub struct Survey<'a> {
    /// What an agent would do with each matching device.
    pub prospects: Vec<(&'a Device, Prospect)>,
    /// The foreign programs on these devices.
    pub foreign_programs: Vec<ForeignProgram>,
}

/// Predicts what an agent would do with each matching device. Programs of a running agent are not
/// foreign. They are recognised by their pins, or by their names if this process may read them.
/// `allowed_networks` is the number of values of `--allow`. See [`hooks::prospects`].
#[must_use]
pub fn survey_devices<'a>(
    wanted: &[Interface],
    allowed_networks: usize,
    devices: &'a [Device],
    bpffs: &Path,
) -> Survey<'a> {
    let zerohop_ids = pins::pinned_program_ids(bpffs).into_iter().collect();
    let mut foreign = ForeignPrograms::new(bpffs.into())
        .find_on(hooks::matching_devices(wanted, devices), &zerohop_ids);
    foreign.retain(|(_, program)| !program.is_zerohop());
    Survey {
        prospects: hooks::prospects(wanted, allowed_networks, devices, &foreign),
        foreign_programs: foreign.into_iter().map(|(_, program)| program).collect(),
    }
}

/// Whether the kernel has tcx (Linux 6.6, commit e420bed02507).
///
/// # Errors
///
/// When the kernel refuses the query, as it does with neither CAP_NET_ADMIN nor CAP_SYS_ADMIN.
pub fn has_tcx() -> io::Result<bool> {
    match syscall::tcx_programs(LOOPBACK, Direction::Ingress) {
        Ok(_) => Ok(true),
        Err(error) => match error.raw_os_error() {
            // The kernel doesn't know the attach type.
            Some(libc::EINVAL) => Ok(false),
            // The first kernels with tcx return this error when no program is attached.
            Some(libc::ENOENT) => Ok(true),
            _ => Err(error),
        },
    }
}

fn refusal(error: &anyhow::Error) -> KernelRefusal {
    let mut causes = error.chain();
    KernelRefusal {
        reason: format!("{error:#}"),
        error: causes.find_map(|cause| cause.downcast_ref::<io::Error>()?.raw_os_error()),
    }
}
