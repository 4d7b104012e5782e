//! Steering: what the programs of an experiment need to move packets of pods into the network
//! namespace in which the agent's resolver listens.

use bytemuck::{Pod, Zeroable};

use crate::settings::ClientKey;

/// The maximum number of addresses of steered pods, both address families together.
pub const MAX_STEERED: u32 = 8192;

/// Where steered packets go. The tests write it, the steering programs read it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct SteeringTarget {
    /// The agent's network namespace, by the ID that the node's namespace has for it
    /// (`RTM_NEWNSID`). The kernel gives the lowest free ID to a namespace that has none, and
    /// reuses the IDs of namespaces that are gone. So the tests choose a high one.
    pub namespace: u32,
    /// The index of the node's end of the veth pair that leads into the agent's namespace.
    pub interface: u32,
    /// [`SteeringTarget::NEW_FLOWS`] or [`SteeringTarget::OLD_FLOWS`].
    pub admitted: u32,
    /// The served port, in network order.
    pub port: u32,
    /// The served addresses, one of each family.
    pub served: [ClientKey; 2],
}

impl SteeringTarget {
    /// Only TCP connections that exist in the agent's namespace are steered.
    pub const OLD_FLOWS: u32 = 0;
    /// Datagrams and new TCP connections are steered too.
    pub const NEW_FLOWS: u32 = 1;
}

/// The end of a packet at the steering program of a pod's veth.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SteeringOutcome {
    /// Passed: not a whole UDP datagram or TCP segment to a served address.
    NotServed,
    /// Passed: the source address is not that of the steered pod behind this interface.
    NotThePod,
    /// Passed: a datagram or a new connection while only old flows are admitted.
    NotAdmitted,
    /// Passed: no socket in the agent's namespace takes the packet.
    NoSocket,
    /// Steered: a UDP datagram.
    Datagram,
    /// Steered: a segment that opens a TCP connection.
    Opening,
    /// Steered: a segment of a TCP connection whose SYN cookie the agent's namespace has sent.
    Cookie,
    /// Steered: a segment of another TCP connection.
    Connection,
}

impl SteeringOutcome {
    /// The number of outcomes.
    pub const COUNT: u32 = Self::Connection as u32 + 1;

    /// Whether the packet goes to the agent's namespace. Otherwise it passes, unchanged.
    #[inline(always)]
    #[must_use]
    pub const fn is_steered(self) -> bool {
        matches!(
            self,
            Self::Datagram | Self::Opening | Self::Cookie | Self::Connection
        )
    }
}
