//! Turns checksum offload off without ethtool(8), which the guests don't have.

use std::{
    io,
    net::UdpSocket,
    os::fd::{AsRawFd, RawFd},
};

use anyhow::{Context, Result, ensure};

use crate::netns::NetworkNamespace;

/// Makes an interface send complete UDP and TCP checksums (`ethtool -K … tx off`).
///
/// By default a veth sends packets with partial checksums, for hardware to complete.
pub fn disable_checksum_offload(namespace: &NetworkNamespace, interface: &str) -> Result<()> {
    let context = || {
        format!(
            "in namespace {}, cannot turn off checksum offload on {interface}",
            namespace.name()
        )
    };
    let after = namespace
        .enter(|| {
            let socket = UdpSocket::bind("127.0.0.1:0")?;
            run_command(socket.as_raw_fd(), interface, SET_TX_CHECKSUM)?;
            run_command(socket.as_raw_fd(), interface, GET_TX_CHECKSUM)
        })?
        .with_context(context)?;
    ensure!(after == 0, "{}: it is still on", context());
    Ok(())
}

/// ETHTOOL_GTXCSUM and ETHTOOL_STXCSUM, whose argument is a `struct ethtool_value`
/// (include/uapi/linux/ethtool.h).
const GET_TX_CHECKSUM: u32 = 0x16;
const SET_TX_CHECKSUM: u32 = 0x17;

/// `struct ethtool_value`.
#[repr(C)]
struct EthtoolValue {
    command: u32,
    data: u32,
}

/// Runs an ethtool command with the value 0, and returns the value after it: for a GET command the
/// setting.
fn run_command(socket: RawFd, interface: &str, command: u32) -> io::Result<u32> {
    if interface.len() >= libc::IFNAMSIZ {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    let mut value = EthtoolValue { command, data: 0 };
    // SAFETY: a structure of integers and a union of plain data, for which zeros are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    // SAFETY: the request is initialized. Its data points to an `EthtoolValue`, which outlives the
    // call and is the type that these commands read and write.
    let result = unsafe { libc::ioctl(socket, libc::SIOCETHTOOL, &raw mut request) };
    if result == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(value.data)
}
