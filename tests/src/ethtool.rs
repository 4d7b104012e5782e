//! The one thing we need of ethtool(8), which the guests do not have.

use std::{
    io,
    net::UdpSocket,
    os::fd::{AsRawFd, RawFd},
};

use anyhow::{Context, Result, ensure};

use crate::netns::Namespace;

/// Makes an interface send finished UDP and TCP checksums (`ethtool -K … tx off`).
///
/// Without this a veth sends packets whose checksum is left to hardware.
pub fn tx_off(namespace: &Namespace, interface: &str) -> Result<()> {
    let context = || {
        format!(
            "in namespace {}, cannot turn tx off on {interface}",
            namespace.name()
        )
    };
    let after = namespace
        .enter(|| {
            let socket = UdpSocket::bind("127.0.0.1:0")?;
            call(socket.as_raw_fd(), interface, SET_TX_CHECKSUM)?;
            call(socket.as_raw_fd(), interface, GET_TX_CHECKSUM)
        })?
        .with_context(context)?;
    ensure!(after == 0, "{}: it stays on", context());
    Ok(())
}

/// The commands of `struct ethtool_value` (include/uapi/linux/ethtool.h).
const GET_TX_CHECKSUM: u32 = 0x16;
const SET_TX_CHECKSUM: u32 = 0x17;

/// `struct ethtool_value`.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// Runs a command with the value 0 and returns the value after it.
fn call(socket: RawFd, interface: &str, command: u32) -> io::Result<u32> {
    if interface.len() >= libc::IFNAMSIZ {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    let mut value = Value { command, data: 0 };
    // SAFETY: a structure of integers and a union of plain data, for which zeros are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    // SAFETY: the request is initialised, and its data point to a value that
    // outlives the call and is what these commands read and write.
    let result = unsafe { libc::ioctl(socket, libc::SIOCETHTOOL, &raw mut request) };
    if result == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(value.data)
}
