//! What this kernel does for the kernel plane, found out by trying it. Nothing is attached to any device,
//! and what is made for the trial is gone after it.

use std::{io, net::SocketAddr, path::Path, time::Duration};

use ipnet::Ipv4Net;

use super::{
    Clients, Config, Datapath, Lease, Persistence,
    hooks::{self, Prospect},
    interfaces::Device,
    object::Program,
    others::{Other, Others},
    pins,
    syscall::{self, Direction},
};
use crate::{
    config::Interface,
    zone::{ModelBuilder, Name},
};

/// What was tried, and came out well as far as it is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trial {
    /// Octets of the tables that were made and mapped: as large as those of a small cluster.
    pub memory_octets: usize,
    /// Jiffies in a second, by which leases are measured.
    pub rate: u32,
    /// What became of each answering program.
    pub programs: Vec<(&'static str, Result<Code, Refusal>)>,
}

/// How the kernel runs a program that it took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// As machine code.
    Compiled,
    /// Instruction by instruction.
    Interpreted,
}

/// What the kernel said no to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What was tried, and what the kernel said.
    pub reason: String,
    /// The system call's error number, if it was one.
    pub error: Option<i32>,
}

/// The number of the loopback device in every network namespace.
const LOOPBACK: u32 = 1;

/// Any address of a card.
const CARD: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// Makes and maps tables, fills them with one zone, measures the kernel's clock, starts a lease; then has the kernel
/// load every answering program and run it over one question: everything that an agent does, but attaching.
/// Takes a tenth of a second and the verifier's time.
///
/// # Errors
///
/// When it does not come so far as to the answering programs.
pub fn try_out() -> Result<Trial, Refusal> {
    let zone = Name::parse("check.zerohop.invalid").map_err(|error| refusal(&error.into()))?;
    let mut builder = ModelBuilder::new(1);
    builder
        .add_zone(zone.clone(), 5)
        .map_err(|error| refusal(&error.into()))?;
    let config = Config {
        interfaces: Vec::new(),
        // The networks of examples: RFC 5737 section 3.
        allow: vec![Ipv4Net::new_assert([192, 0, 2, 0].into(), 24).into()],
        rate_limit: 0,
        serve: vec![SocketAddr::from(([192, 0, 2, 53], 53))],
        clients: Clients::Any,
        capacity: None,
        stale_after: Duration::from_secs(60),
        persistence: Persistence::None,
        bpffs: Path::new("").into(),
    };
    let started = Datapath::start(config, None, &[], &builder.build(), Lease::Begins);
    let mut datapath = started.map_err(|error| refusal(&error))?;
    datapath.tables.receive(vec![CARD]);
    let programs =
        Program::ALL.map(|program| (program.name(), datapath.try_program(program, &zone)));
    Ok(Trial {
        memory_octets: datapath.tables.table.fill().memory_octets,
        rate: datapath.clock.rate,
        programs: programs.into(),
    })
}

impl Datapath {
    fn try_program(&mut self, program: Program, zone: &Name) -> Result<Code, Refusal> {
        let outcome = self.ask(program, zone).map_err(|error| refusal(&error))?;
        if !outcome.is_answer() {
            return Err(Refusal {
                reason: format!(
                    "its test run ended as {}, not with an answer",
                    outcome.name()
                ),
                error: None,
            });
        }
        match self.object.is_compiled(program) {
            true => Ok(Code::Compiled),
            false => Ok(Code::Interpreted),
        }
    }
}

/// What would become of the devices that match, and other people's programs on them.
#[derive(Clone, Debug)]
pub struct Survey<'a> {
    /// What an agent would do with each.
    pub prospects: Vec<(&'a Device, Prospect)>,
    /// Other people's programs.
    pub others: Vec<Other>,
}

/// Looks at devices as an agent would that is to attach to them. Programs of an agent that runs count as
/// ours where it has pinned them, or their names may be known. See [`hooks::prospects`].
#[must_use]
pub fn survey<'a>(
    wanted: &[Interface],
    allowed: usize,
    devices: &'a [Device],
    bpffs: &Path,
) -> Survey<'a> {
    let ours = pins::programs(bpffs).into_iter().collect();
    let mut others = Others::new(bpffs.into()).on(hooks::matching(wanted, devices), &ours);
    others.retain(|(_, other)| !other.is_ours());
    Survey {
        prospects: hooks::prospects(wanted, allowed, devices, &others),
        others: others.into_iter().map(|(_, other)| other).collect(),
    }
}

/// Whether the kernel has tcx (Linux 6.6, commit e420bed02507).
///
/// # Errors
///
/// When it does not say: without CAP_NET_ADMIN.
pub fn has_tcx() -> io::Result<bool> {
    match syscall::tcx_programs(LOOPBACK, Direction::Ingress) {
        Ok(_) => Ok(true),
        Err(error) => match error.raw_os_error() {
            // No such type of attachment.
            Some(libc::EINVAL) => Ok(false),
            // As Linux 6.6 says that there is none.
            Some(libc::ENOENT) => Ok(true),
            _ => Err(error),
        },
    }
}

fn refusal(error: &anyhow::Error) -> Refusal {
    let mut causes = error.chain();
    Refusal {
        reason: format!("{error:#}"),
        error: causes.find_map(|cause| cause.downcast_ref::<io::Error>()?.raw_os_error()),
    }
}
