//! The packet, from its Ethernet header on.

/// A packet that a hook handed us.
pub trait Frame {
    /// Who is answered at this hook.
    const CLIENTS: Clients;

    /// The address of its first octet.
    fn start(&self) -> usize;

    /// The address behind its last octet that can be read in place.
    fn end(&self) -> usize;

    /// Makes the frame `length` octets long. Addresses taken before are void after it.
    ///
    /// `false`: there is no room, and nothing has changed.
    fn resize(&mut self, length: usize) -> bool;

    /// Completes the UDP checksum, after everything else has been written.
    ///
    /// `header` is the offset of the UDP header in the frame.
    fn set_udp_checksum(&mut self, header: usize, checksum: UdpChecksum);
}

/// Who is answered at a hook.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Clients {
    /// Every pod, unless policies restrict who may ask.
    All,
    /// Clients of the allowed networks, if there are any in the settings.
    AllowedOrAll,
    /// Clients of the allowed networks.
    Allowed,
}

/// What a hook needs to complete a UDP checksum in its own way.
///
/// The sums are one's complement sums as in [`dns_common::checksum`].
#[derive(Clone, Copy)]
pub struct UdpChecksum {
    /// Over pseudo header, UDP header without its checksum, and message.
    pub full: u64,
    /// The checksum that the query carried; the frame still has it.
    pub old: u16,
    /// The new UDP length less the old one. It stands in the pseudo header too.
    pub length_change: u64,
}
