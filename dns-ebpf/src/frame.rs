//! A packet at a hook, from its Ethernet header on.

/// A packet at a hook.
pub trait Frame {
    /// The clients that this hook answers.
    const CLIENTS: AnsweredClients;

    /// The address of the packet's first byte.
    fn start(&self) -> usize;

    /// The address after the last byte that can be accessed directly.
    fn end(&self) -> usize;

    /// Changes the packet's length to `length` bytes. Earlier addresses become invalid.
    ///
    /// Returns `false`, and changes nothing, if the kernel refuses, for example because the
    /// packet's buffer has no room.
    fn resize(&mut self, length: usize) -> bool;

    /// Completes the UDP checksum after everything else has been written. `header` is the offset of
    /// the UDP header in the packet.
    fn set_udp_checksum(&mut self, header: usize, checksum: UdpChecksum);
}

/// The clients that a hook answers. Policies do not restrict clients in the allowed networks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum AnsweredClients {
    /// Veths at XDP, and at tc veths with a peer in another namespace: every client that policies
    /// permit.
    All,
    /// tc on other devices: clients in the allowed networks. If the settings have no allowed
    /// networks, every client that policies permit.
    AllowedOrAll,
    /// XDP on devices that are not veths: clients in the allowed networks.
    Allowed,
}

/// What a hook needs to complete the UDP checksum of a reply.
///
/// The sums are one's complement sums, see [`dns_common::checksum`].
#[derive(Clone, Copy)]
pub struct UdpChecksum {
    /// The sum of pseudo header, UDP header without its checksum, and DNS message.
    pub full: u64,
    /// The checksum of the query, in network order. It is still in the packet.
    pub old: u16,
    /// The new UDP length minus the old one. The tc program needs it for a field that holds only
    /// the sum of the pseudo header, which contains the length.
    pub length_change: u64,
}
