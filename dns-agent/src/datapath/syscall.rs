//! System calls that aya has no form for.

use std::{
    ffi::CString,
    io, mem,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

/// Commands of bpf(2), from `enum bpf_cmd` in `linux/bpf.h`.
const OBJ_GET: libc::c_long = 7;
const OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const LINK_DETACH: libc::c_long = 34;

/// `BPF_FS_MAGIC` of `linux/magic.h`.
const BPFFS: libc::c_long = 0xcafe_4a11;

/// As much of `union bpf_attr` as its newest kernels look at here; those before take zeros.
#[repr(C, align(8))]
struct Attributes([u32; 16]);

/// As much of `struct bpf_link_info` as counts: type, id and program, and behind the gap of an
/// alignment of eight what differs by type: for XDP and tcx the device's number first.
#[repr(C, align(8))]
struct LinkInfo([u32; 16]);

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
    let fd = pinned(path)?;
    let mut info = LinkInfo([0; 16]);
    let mut ask = Attributes([0; 16]);
    ask.0[0] = fd.as_raw_fd() as u32;
    ask.0[1] = size_of::<LinkInfo>() as u32;
    ask.set_pointer(2, &raw mut info as u64);
    bpf(OBJ_GET_INFO_BY_FD, &mut ask)?;
    Ok(info.0[4])
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
fn pinned(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut get = Attributes([0; 16]);
    get.set_pointer(0, path.as_ptr() as u64);
    let fd = bpf(OBJ_GET, &mut get)?;
    // SAFETY: the kernel has just made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
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
