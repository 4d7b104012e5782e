//! Steering: what the programs need that move packets of pods into the network namespace in which
//! the agent's resolver listens.
//!
//! The map TARGET has one [`SteeringTarget`], and SERVED the addresses to which packets are
//! steered. PODS has a [`SteeredPod`] for each address of a steered pod. The agent writes these
//! maps, the steering programs read them.

use bytemuck::{Pod, Zeroable};

/// The maximum number of addresses of steered pods, both address families together.
pub const MAX_STEERED: u32 = 8192;

/// The maximum number of addresses to which packets are steered, both address families together.
pub const MAX_STEERED_SERVERS: u32 = 32;

/// Where steered packets go, and until when new flows do.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct SteeringTarget {
    /// The time until which new flows are steered, in nanoseconds of CLOCK_MONOTONIC. 0 before the
    /// first lease, and after the agent has ended the lease.
    pub lease: u64,
    /// The agent's network namespace, by the ID that the node's namespace has for it
    /// (`RTM_NEWNSID`). The kernel gives the lowest free ID to a namespace that has none, and
    /// reuses the IDs of namespaces that are gone. So the agent chooses a high one.
    pub namespace: u32,
    /// The index of the node's end of the veth pair that leads into the agent's namespace.
    pub interface: u32,
    /// The served port, in network order. 0 before there is a namespace.
    pub port: u32,
    /// Padding, so that nothing else shares the cache line.
    pub reserved: [u32; 11],
}

/// A pod whose packets are steered.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct SteeredPod {
    /// The index of the one device of the node that leads to the pod.
    pub interface: u32,
    /// The pod's new flows that are steered: a sum of [`SteeredPod::UDP`] and [`SteeredPod::TCP`],
    /// and of [`SteeredPod::UNLEASED`]. Segments of its connections in the agent's namespace are
    /// steered in any case.
    pub new_flows: u32,
}

impl SteeredPod {
    /// UDP datagrams.
    pub const UDP: u32 = 1;
    /// TCP connections.
    pub const TCP: u32 = 2;
    /// New flows don't depend on the lease. Set for the agent's canary, which proves that the lease
    /// may begin.
    pub const UNLEASED: u32 = 4;
}

/// The end of a packet at the steering program.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SteeringOutcome {
    /// Passed: not a whole UDP datagram or TCP segment to an address to which packets are steered.
    NotServed,
    /// Passed: the source address is not that of the steered pod behind this interface.
    NotThePod,
    /// Passed: a datagram or a new connection of a pod whose new flows of this protocol are not
    /// steered.
    NotPermitted,
    /// Passed: a datagram or a new connection after the end of the lease.
    LeaseStale,
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
    pub const COUNT: u32 = Self::ALL.len() as u32;

    /// All outcomes, in the order of their counters.
    pub const ALL: [Self; 9] = [
        Self::NotServed,
        Self::NotThePod,
        Self::NotPermitted,
        Self::LeaseStale,
        Self::NoSocket,
        Self::Datagram,
        Self::Opening,
        Self::Cookie,
        Self::Connection,
    ];

    /// Whether the packet goes to the agent's namespace. Otherwise it passes, unchanged.
    #[inline(always)]
    #[must_use]
    pub const fn is_steered(self) -> bool {
        matches!(
            self,
            Self::Datagram | Self::Opening | Self::Cookie | Self::Connection
        )
    }

    /// The name in `status` and the label value in metrics. Dashboards depend on these texts, so
    /// they stay as they are when a variant is renamed.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NotServed => "not_served",
            Self::NotThePod => "not_the_pod",
            Self::NotPermitted => "not_permitted",
            Self::LeaseStale => "lease_stale",
            Self::NoSocket => "no_socket",
            Self::Datagram => "datagram",
            Self::Opening => "opening",
            Self::Cookie => "cookie",
            Self::Connection => "connection",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_are_listed_in_the_order_of_their_counters() {
        for (at, outcome) in SteeringOutcome::ALL.iter().enumerate() {
            assert_eq!(*outcome as usize, at, "{}", outcome.name());
        }
    }
}
