//! System calls that aya has no form for.

use std::{
    ffi::CString,
    fs, io, mem,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

/// Commands of bpf(2), from `enum bpf_cmd` in `linux/bpf.h`.
const OBJ_PIN: libc::c_long = 6;
const OBJ_GET: libc::c_long = 7;
const PROG_GET_FD_BY_ID: libc::c_long = 13;
const OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const PROG_QUERY: libc::c_long = 16;
const LINK_DETACH: libc::c_long = 34;

/// `BPF_FS_MAGIC` of `linux/magic.h`.
const BPFFS: libc::c_long = 0xcafe_4a11;

/// `BPF_TCX_INGRESS` and `BPF_TCX_EGRESS` of `enum bpf_attach_type`.
const TCX_INGRESS: u32 = 46;
const TCX_EGRESS: u32 = 47;

/// How many programs of one hook are asked for: the kernel allows 64.
const TCX_PROGRAMS: usize = 64;

/// As much of `union bpf_attr` as its newest kernels look at here; those before take zeros.
#[repr(C, align(8))]
struct Attributes([u32; 16]);

/// As much of `struct bpf_link_info` as counts: type, id and program, and behind the gap of an
/// alignment of eight what differs by type: for XDP and tcx the device's number first.
#[repr(C, align(8))]
struct LinkInfo([u32; 16]);

/// As much of `struct bpf_prog_info` as counts: its number is the second word, its name begins at
/// the 17th.
#[repr(C, align(8))]
struct ProgramInfo([u32; 20]);

/// Where packets are when tcx programs see them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    /// Received by the device.
    Ingress,
    /// About to be sent by it.
    Egress,
}

/// Whether a folder is in a BPF file system.
pub(super) fn is_bpffs(folder: &Path) -> io::Result<bool> {
    let path = CString::new(folder.as_os_str().as_bytes())?;
    // SAFETY: all zeros is a value of this struct of numbers.
    let mut stat: libc::statfs = unsafe { mem::zeroed() };
    // SAFETY: a text that ends with zero, and a struct of the right kind.
    let result = unsafe { libc::statfs(path.as_ptr(), &raw mut stat) };
    match result {
        0 => Ok(stat.f_type as libc::c_long == BPFFS),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The number of the device that a pinned XDP or tcx link is on; 0 when that is gone.
pub(super) fn pinned_link_device(path: &Path) -> io::Result<u32> {
    Ok(link_info(&pinned(path)?)?.0[4])
}

/// The number of a pinned link.
pub(super) fn pinned_link_id(path: &Path) -> io::Result<u32> {
    link_id(&pinned(path)?)
}

/// The number of a link.
pub(super) fn link_id(link: &OwnedFd) -> io::Result<u32> {
    Ok(link_info(link)?.0[1])
}

/// Pins an object at a path where nothing is.
pub(super) fn pin(object: &OwnedFd, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut pin = Attributes([0; 16]);
    pin.set_pointer(0, path.as_ptr() as u64);
    pin.0[2] = object.as_raw_fd() as u32;
    bpf(OBJ_PIN, &mut pin).map(drop)
}

/// The numbers of the tcx programs on a device, in the order in which they run. Before Linux 6.6 the
/// kernel knows none, and says EINVAL.
pub(super) fn tcx_programs(device: u32, direction: Direction) -> io::Result<Vec<u32>> {
    let mut ids = [0u32; TCX_PROGRAMS];
    let mut query = Attributes([0; 16]);
    query.0[0] = device;
    query.0[1] = match direction {
        Direction::Ingress => TCX_INGRESS,
        Direction::Egress => TCX_EGRESS,
    };
    query.set_pointer(4, &raw mut ids as u64);
    query.0[6] = TCX_PROGRAMS as u32;
    bpf(PROG_QUERY, &mut query)?;
    let count = (query.0[6] as usize).min(TCX_PROGRAMS);
    Ok(ids[..count].to_vec())
}

/// The name of a program, of which the kernel keeps 15 octets. Needs CAP_SYS_ADMIN.
pub(super) fn program_name(id: u32) -> io::Result<String> {
    let mut get = Attributes([0; 16]);
    get.0[0] = id;
    let fd = owned(bpf(PROG_GET_FD_BY_ID, &mut get)?);
    Ok(program_info(&fd)?.name())
}

/// The number and the name of a pinned program, or the number of the program of a pinned link.
/// None: it is something else.
pub(super) fn pinned_program(path: &Path) -> io::Result<Option<(u32, Option<String>)>> {
    let fd = pinned(path)?;
    let kind = fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))?;
    match kind.to_str() {
        Some("anon_inode:bpf-prog") => {
            let info = program_info(&fd)?;
            Ok(Some((info.0[1], Some(info.name()))))
        }
        Some("anon_inode:bpf_link" | "anon_inode:bpf-link") => {
            Ok(Some((link_info(&fd)?.0[2], None)))
        }
        _ => Ok(None),
    }
}

fn link_info(fd: &OwnedFd) -> io::Result<LinkInfo> {
    let mut info = LinkInfo([0; 16]);
    let mut ask = Attributes([0; 16]);
    ask.0[0] = fd.as_raw_fd() as u32;
    ask.0[1] = size_of::<LinkInfo>() as u32;
    ask.set_pointer(2, &raw mut info as u64);
    bpf(OBJ_GET_INFO_BY_FD, &mut ask)?;
    Ok(info)
}

fn program_info(fd: &OwnedFd) -> io::Result<ProgramInfo> {
    let mut info = ProgramInfo([0; 20]);
    let mut ask = Attributes([0; 16]);
    ask.0[0] = fd.as_raw_fd() as u32;
    ask.0[1] = size_of::<ProgramInfo>() as u32;
    ask.set_pointer(2, &raw mut info as u64);
    bpf(OBJ_GET_INFO_BY_FD, &mut ask)?;
    Ok(info)
}

/// Takes the program of a pinned link off its device, at once: a link whose last name is gone ends
/// a moment later.
pub(super) fn detach_pinned_link(path: &Path) -> io::Result<()> {
    let fd = pinned(path)?;
    let mut detach = Attributes([0; 16]);
    detach.0[0] = fd.as_raw_fd() as u32;
    bpf(LINK_DETACH, &mut detach).map(drop)
}

/// What is pinned at a path.
pub(super) fn pinned(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut get = Attributes([0; 16]);
    get.set_pointer(0, path.as_ptr() as u64);
    Ok(owned(bpf(OBJ_GET, &mut get)?))
}

/// A file that the kernel has just opened for us.
fn owned(fd: libc::c_long) -> OwnedFd {
    // SAFETY: nobody else has it.
    unsafe { OwnedFd::from_raw_fd(fd as i32) }
}

impl ProgramInfo {
    fn name(&self) -> String {
        let octets = self.0[16..].iter().flat_map(|word| word.to_ne_bytes());
        let name: Vec<u8> = octets.take_while(|octet| *octet != 0).collect();
        String::from_utf8_lossy(&name).into_owned()
    }
}

impl Attributes {
    /// Writes 64 bits at a position in words.
    fn set_pointer(&mut self, at: usize, pointer: u64) {
        self.0[at] = pointer as u32;
        self.0[at + 1] = (pointer >> 32) as u32;
    }
}

fn bpf(command: libc::c_long, attributes: &mut Attributes) -> io::Result<libc::c_long> {
    // SAFETY: the attributes are as long as is said, and what they point at lives as long as the call
    // and is as long as they say.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            &raw mut *attributes,
            size_of::<Attributes>(),
        )
    };
    match result {
        0.. => Ok(result),
        _ => Err(io::Error::last_os_error()),
    }
}
