//! System calls that aya doesn't offer. The structs of bpf(2) come from aya-obj, which generates
//! them from `linux/bpf.h`.

use std::{
    ffi::{CStr, CString},
    fs, io, mem,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use aya_obj::generated::{
    bpf_attach_type, bpf_attr, bpf_cmd, bpf_link_info, bpf_map_type, bpf_prog_info,
};

/// The type of a BPF file system, from `linux/magic.h`.
const BPF_FS_MAGIC: libc::c_long = 0xcafe_4a11;

/// The kernel's limit of tcx programs for one device and direction (`BPF_MPROG_MAX`).
const MAX_TCX_PROGRAMS: usize = 64;

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
        0 => Ok(stat.f_type as libc::c_long == BPF_FS_MAGIC),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The index of the device that a pinned XDP or tcx link is attached to; 0 when the device is gone.
pub(super) fn pinned_link_device(path: &Path) -> io::Result<u32> {
    let info = link_info(&open_pinned(path)?)?;
    // SAFETY: the kernel has filled the struct, and every value of the field is valid. The index
    // has the same place for XDP and for tcx.
    Ok(unsafe { info.__bindgen_anon_1.tcx.ifindex })
}

/// The ID of a pinned link.
pub(super) fn pinned_link_id(path: &Path) -> io::Result<u32> {
    link_id(&open_pinned(path)?)
}

/// The ID of a link.
pub(super) fn link_id(link: &OwnedFd) -> io::Result<u32> {
    Ok(link_info(link)?.id)
}

/// Pins an object. Fails if the path exists already.
pub(super) fn pin_object(object: &OwnedFd, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attributes = zeroed_attributes();
    attributes.__bindgen_anon_4.pathname = path.as_ptr() as u64;
    attributes.__bindgen_anon_4.bpf_fd = descriptor(object);
    bpf(bpf_cmd::BPF_OBJ_PIN, &mut attributes).map(drop)
}

/// The IDs of the tcx programs on a device, in the order in which they run. Needs CAP_NET_ADMIN or
/// CAP_SYS_ADMIN. Fails with EINVAL before Linux 6.6, which introduced tcx. The first kernels with
/// tcx fail with ENOENT when no program is attached.
pub(super) fn tcx_programs(device: u32, direction: Direction) -> io::Result<Vec<u32>> {
    let mut ids = [0u32; MAX_TCX_PROGRAMS];
    let attach_type = match direction {
        Direction::Ingress => bpf_attach_type::BPF_TCX_INGRESS,
        Direction::Egress => bpf_attach_type::BPF_TCX_EGRESS,
    };
    let mut attributes = zeroed_attributes();
    attributes.query.__bindgen_anon_1.target_ifindex = device;
    attributes.query.attach_type = attach_type as u32;
    attributes.query.prog_ids = ids.as_mut_ptr() as u64;
    attributes.query.__bindgen_anon_2.prog_cnt = MAX_TCX_PROGRAMS as u32;
    bpf(bpf_cmd::BPF_PROG_QUERY, &mut attributes)?;
    // SAFETY: every value of the field is valid. The kernel has set it to the number of programs.
    let count = unsafe { attributes.query.__bindgen_anon_2.prog_cnt };
    Ok(ids[..(count as usize).min(MAX_TCX_PROGRAMS)].to_vec())
}

/// The name of a program. The kernel stores at most 15 bytes. Needs CAP_SYS_ADMIN.
pub(super) fn program_name(id: u32) -> io::Result<String> {
    let mut attributes = zeroed_attributes();
    attributes.__bindgen_anon_6.__bindgen_anon_1.prog_id = id;
    let program = open_descriptor(bpf_cmd::BPF_PROG_GET_FD_BY_ID, &mut attributes)?;
    Ok(name_of(&program_info(&program)?))
}

/// The ID and name of a pinned program, or the ID of a pinned link's program. `None` for a pin of
/// another kind.
pub(super) fn pinned_program(path: &Path) -> io::Result<Option<(u32, Option<String>)>> {
    let fd = open_pinned(path)?;
    let kind = fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))?;
    match kind.to_str() {
        Some("anon_inode:bpf-prog") => {
            let info = program_info(&fd)?;
            Ok(Some((info.id, Some(name_of(&info)))))
        }
        // The kernel uses both names for links.
        Some("anon_inode:bpf_link" | "anon_inode:bpf-link") => {
            Ok(Some((link_info(&fd)?.prog_id, None)))
        }
        _ => Ok(None),
    }
}

/// Detaches a pinned link from its device immediately. Removing the last pin detaches it only a
/// moment later.
pub(super) fn detach_pinned_link(path: &Path) -> io::Result<()> {
    let link = open_pinned(path)?;
    let mut attributes = zeroed_attributes();
    attributes.link_detach.link_fd = descriptor(&link);
    bpf(bpf_cmd::BPF_LINK_DETACH, &mut attributes).map(drop)
}

/// Opens the object that is pinned at a path.
pub(super) fn open_pinned(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attributes = zeroed_attributes();
    attributes.__bindgen_anon_4.pathname = path.as_ptr() as u64;
    open_descriptor(bpf_cmd::BPF_OBJ_GET, &mut attributes)
}

/// Creates an array with one element of four bytes.
pub(super) fn create_array() -> io::Result<OwnedFd> {
    create_map(bpf_map_type::BPF_MAP_TYPE_ARRAY, 0)
}

/// Creates an array of maps with one empty element, for a map of the same kind and size as `inner`.
pub(super) fn create_array_of_maps(inner: &OwnedFd) -> io::Result<OwnedFd> {
    create_map(bpf_map_type::BPF_MAP_TYPE_ARRAY_OF_MAPS, descriptor(inner))
}

/// Stores the map `inner` in element 0 of an array of maps.
pub(super) fn set_inner_map(array: &OwnedFd, inner: &OwnedFd) -> io::Result<()> {
    let key = 0u32;
    let value = descriptor(inner);
    let mut attributes = zeroed_attributes();
    attributes.__bindgen_anon_2.map_fd = descriptor(array);
    attributes.__bindgen_anon_2.key = &raw const key as u64;
    attributes.__bindgen_anon_2.__bindgen_anon_1.value = &raw const value as u64;
    bpf(bpf_cmd::BPF_MAP_UPDATE_ELEM, &mut attributes).map(drop)
}

fn create_map(map_type: bpf_map_type, inner: u32) -> io::Result<OwnedFd> {
    let mut attributes = zeroed_attributes();
    attributes.__bindgen_anon_1.map_type = map_type as u32;
    attributes.__bindgen_anon_1.key_size = 4;
    attributes.__bindgen_anon_1.value_size = 4;
    attributes.__bindgen_anon_1.max_entries = 1;
    attributes.__bindgen_anon_1.inner_map_fd = inner;
    open_descriptor(bpf_cmd::BPF_MAP_CREATE, &mut attributes)
}

fn link_info(link: &OwnedFd) -> io::Result<bpf_link_info> {
    // SAFETY: all zeros is a valid value of this struct of integers.
    let mut info: bpf_link_info = unsafe { mem::zeroed() };
    read_info(link, &raw mut info as u64, size_of::<bpf_link_info>())?;
    Ok(info)
}

fn program_info(program: &OwnedFd) -> io::Result<bpf_prog_info> {
    // SAFETY: all zeros is a valid value of this struct of integers. The kernel reads zeros as
    // "no buffers" for instructions and lists.
    let mut info: bpf_prog_info = unsafe { mem::zeroed() };
    read_info(program, &raw mut info as u64, size_of::<bpf_prog_info>())?;
    Ok(info)
}

/// Fills the zeroed info struct at the address `info`. A kernel with a shorter struct leaves the
/// rest zero.
fn read_info(object: &OwnedFd, info: u64, length: usize) -> io::Result<()> {
    let mut attributes = zeroed_attributes();
    attributes.info.bpf_fd = descriptor(object);
    attributes.info.info_len = length as u32;
    attributes.info.info = info;
    bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attributes).map(drop)
}

fn name_of(info: &bpf_prog_info) -> String {
    let bytes = info.name.map(|byte| byte as u8);
    let name = CStr::from_bytes_until_nul(&bytes).unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// The descriptor's number, in the type of the attributes' fields.
fn descriptor(fd: &OwnedFd) -> u32 {
    fd.as_raw_fd() as u32
}

/// Calls bpf(2) with a command that opens a descriptor.
fn open_descriptor(command: bpf_cmd, attributes: &mut bpf_attr) -> io::Result<OwnedFd> {
    let fd = bpf(command, attributes)?;
    // SAFETY: the descriptor is new, so it has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Attributes whose fields are all zero, the default of every command.
fn zeroed_attributes() -> bpf_attr {
    // SAFETY: all zeros is a valid value of this union of structs of integers.
    unsafe { mem::zeroed() }
}

fn bpf(command: bpf_cmd, attributes: &mut bpf_attr) -> io::Result<libc::c_long> {
    // SAFETY: the size is that of the attributes. The buffers they point at outlive the call and
    // have the lengths that the attributes state. Older kernels accept zeros in the fields that
    // they don't know.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command as libc::c_long,
            &raw mut *attributes,
            size_of::<bpf_attr>(),
        )
    };
    match result {
        0.. => Ok(result),
        _ => Err(io::Error::last_os_error()),
    }
}
