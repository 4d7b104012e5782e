//! The packet as a hook sees it, from its Ethernet header on.

/// A packet at a hook.
pub trait Frame {
    /// The clients that this hook answers.
    const CLIENTS: AnsweredClients;

    /// The address of the packet's first byte.
    fn start(&self) -> usize;

    /// The address after the last byte that can be accessed directly.
    fn end(&self) -> usize;

    /// Changes the packet's length to `length` bytes. Addresses from before are invalid afterwards.
    ///
    /// Returns `false`, and changes nothing, if the kernel has no room.
    fn resize(&mut self, length: usize) -> bool;

    /// Completes the UDP checksum after everything else has been written. `header` is the offset of
    /// the UDP header in the packet.
    fn set_udp_checksum(&mut self, header: usize, checksum: UdpChecksum);
}

/// The clients that a hook answers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum AnsweredClients {
    /// Every client that policies permit.
    All,
    /// Clients of the allowed networks. If the settings have none, every client that policies
    /// permit.
    AllowedOrAll,
    /// Clients of the allowed networks.
    Allowed,
}

/// What a hook needs to complete a UDP checksum.
///
/// The sums are one's complement sums, see [`dns_common::checksum`].
#[derive(Clone, Copy)]
pub struct UdpChecksum {
    /// The sum over pseudo header, UDP header without its checksum, and message.
    pub full: u64,
    /// The checksum of the query, which is still in the packet.
    pub old: u16,
    /// The new UDP length minus the old one. The pseudo header contains the length too.
    pub length_change: u64,
}
