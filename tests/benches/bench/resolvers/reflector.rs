//! A server that only adds a record to each question: what remains is the cost of the sockets.

use std::{
    io::{IoSlice, IoSliceMut},
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    os::fd::AsRawFd as _,
};

use anyhow::Result;
use nix::sys::socket::{
    MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, sendmmsg, setsockopt, sockopt,
};
use zerohop_contract::packet;

/// Upper bound on the datagrams of one system call, as in the resolver.
const BATCH: usize = 32;
/// The length of the buffer for a question, in bytes.
const QUESTION_BUFFER: usize = 512;
/// The bytes that may wait in the socket, as in the resolver.
const SOCKET_BUFFER: usize = 4 << 20;
const TTL: u32 = 3600;

/// Sends each question back with an address until the process is killed.
pub(crate) fn serve(listen: SocketAddr) -> Result<()> {
    let socket = UdpSocket::bind(listen)?;
    setsockopt(&socket, sockopt::RcvBuf, &SOCKET_BUFFER)?;
    setsockopt(&socket, sockopt::SndBuf, &SOCKET_BUFFER)?;
    let mut buffers = vec![[0; QUESTION_BUFFER]; BATCH];
    loop {
        let clients = receive(&socket, &mut buffers)?;
        let received = buffers.iter().zip(clients);
        let (replies, clients): (Vec<_>, Vec<_>) = received
            .filter_map(|(buffer, (length, client))| {
                let address = Ipv4Addr::new(192, 0, 2, 1);
                let reply = packet::address_reply(&buffer[..length], 0x8180, TTL, address)?;
                Some((reply, Some(client)))
            })
            .unzip();
        let slices: Vec<_> = replies.iter().map(|reply| [IoSlice::new(reply)]).collect();
        let mut headers = MultiHeaders::preallocate(slices.len(), None);
        let flags = MsgFlags::MSG_DONTWAIT;
        // A reply that can't be sent is asked for again.
        let _ = sendmmsg(
            socket.as_raw_fd(),
            &mut headers,
            &slices,
            &clients,
            [],
            flags,
        );
    }
}

/// Waits for datagrams. Returns the length and the sender of each.
fn receive(
    socket: &UdpSocket,
    buffers: &mut [[u8; QUESTION_BUFFER]],
) -> Result<Vec<(usize, SockaddrIn)>> {
    let mut headers = MultiHeaders::<SockaddrIn>::preallocate(BATCH, None);
    let buffers = buffers.iter_mut();
    let mut slices: Vec<_> = buffers.map(|buffer| [IoSliceMut::new(buffer)]).collect();
    let (fd, flags) = (socket.as_raw_fd(), MsgFlags::MSG_WAITFORONE);
    let received = recvmmsg(fd, &mut headers, slices.iter_mut(), flags, None)?;
    let senders = received.filter_map(|message| Some((message.bytes, message.address?)));
    Ok(senders.collect())
}
