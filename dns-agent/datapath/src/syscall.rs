//! System calls that aya doesn't offer.

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

/// The kernel's limit of tcx programs for one device and direction.
const TCX_PROGRAMS: usize = 64;

/// The part of `union bpf_attr` that the newest kernels read for these commands. Older kernels
/// accept zeros in the fields that they don't know.
#[repr(C, align(8))]
struct Attributes([u32; 16]);

/// The start of `struct bpf_link_info`: type, ID, program ID, padding to an alignment of eight,
/// then fields by type. For XDP and tcx the first of them is the device's index.
#[repr(C, align(8))]
struct LinkInfo([u32; 16]);

/// The start of `struct bpf_prog_info`. The program's ID is its second word; the name begins at its
/// 17th.
#[repr(C, align(8))]
struct ProgramInfo([u32; 20]);

/// The direction of packets at a tcx hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    /// Packets that the device receives.
    Ingress,
    /// Packets that the device sends.
    Egress,
}

/// Whether a folder is in a BPF file system.
pub(super) fn is_bpffs(folder: &Path) -> io::Result<bool> {
    let path = CString::new(folder.as_os_str().as_bytes())?;
    // SAFETY: all zeros is a valid value of this struct of integers.
    let mut stat: libc::statfs = unsafe { mem::zeroed() };
    // SAFETY: `path` ends with a zero byte, and `stat` is a writable `struct statfs`.
    let result = unsafe { libc::statfs(path.as_ptr(), &raw mut stat) };
    match result {
        0 => Ok(stat.f_type as libc::c_long == BPFFS),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The index of the device that a pinned XDP or tcx link is attached to; 0 when the device is gone.
pub(super) fn pinned_link_device(path: &Path) -> io::Result<u32> {
    Ok(link_info(&open_pinned(path)?)?.0[4])
}

/// The ID of a pinned link.
pub(super) fn pinned_link_id(path: &Path) -> io::Result<u32> {
    link_id(&open_pinned(path)?)
}

/// The ID of a link.
pub(super) fn link_id(link: &OwnedFd) -> io::Result<u32> {
    Ok(link_info(link)?.0[1])
}

/// Pins an object at a path that doesn't exist.
pub(super) fn pin_object(object: &OwnedFd, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut pin = Attributes([0; 16]);
    pin.set_pointer(0, path.as_ptr() as u64);
    pin.0[2] = object.as_raw_fd() as u32;
    bpf(OBJ_PIN, &mut pin).map(drop)
}

/// The IDs of the tcx programs on a device, in the order in which they run. EINVAL before Linux
/// 6.6, which has no tcx.
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

/// The name of a program, truncated by the kernel to 15 bytes. Needs CAP_SYS_ADMIN.
pub(super) fn program_name(id: u32) -> io::Result<String> {
    let mut get = Attributes([0; 16]);
    get.0[0] = id;
    let fd = take_descriptor(bpf(PROG_GET_FD_BY_ID, &mut get)?);
    Ok(program_info(&fd)?.name())
}

/// The ID and name of a pinned program, or the ID of a pinned link's program. `None` for a pin of
/// another kind.
pub(super) fn pinned_program(path: &Path) -> io::Result<Option<(u32, Option<String>)>> {
    let fd = open_pinned(path)?;
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

/// Detaches a pinned link from its device immediately. Removing the last pin detaches it only a
/// moment later.
pub(super) fn detach_pinned_link(path: &Path) -> io::Result<()> {
    let fd = open_pinned(path)?;
    let mut detach = Attributes([0; 16]);
    detach.0[0] = fd.as_raw_fd() as u32;
    bpf(LINK_DETACH, &mut detach).map(drop)
}

/// Opens the object that is pinned at a path.
pub(super) fn open_pinned(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut get = Attributes([0; 16]);
    get.set_pointer(0, path.as_ptr() as u64);
    Ok(take_descriptor(bpf(OBJ_GET, &mut get)?))
}

/// Takes ownership of a descriptor that the kernel has just opened.
fn take_descriptor(fd: libc::c_long) -> OwnedFd {
    // SAFETY: the descriptor is new, so it has no other owner.
    unsafe { OwnedFd::from_raw_fd(fd as i32) }
}

impl ProgramInfo {
    fn name(&self) -> String {
        let bytes = self.0[16..].iter().flat_map(|word| word.to_ne_bytes());
        let name: Vec<u8> = bytes.take_while(|byte| *byte != 0).collect();
        String::from_utf8_lossy(&name).into_owned()
    }
}

impl Attributes {
    /// Writes a 64-bit pointer to the words at `at`.
    fn set_pointer(&mut self, at: usize, pointer: u64) {
        self.0[at] = pointer as u32;
        self.0[at + 1] = (pointer >> 32) as u32;
    }
}

fn bpf(command: libc::c_long, attributes: &mut Attributes) -> io::Result<libc::c_long> {
    // SAFETY: the size is that of the attributes. The buffers they point at outlive the call and
    // have the lengths that the attributes state.
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
