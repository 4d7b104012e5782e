//! The protocols of queries, and the ports of policies' rules.

use std::fmt;
use std::mem::size_of;
use std::ops::RangeInclusive;

use super::certainty::Certainty;
use crate::objects::Port;

/// The transport protocol of a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueryProtocol {
    /// UDP.
    Udp,
    /// TCP.
    Tcp,
}

/// The ports that a rule allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ports {
    /// Every port of every protocol.
    All,
    /// Any of these ports. Ports of protocols other than [`QueryProtocol`] are left out.
    Listed(Box<[ProtocolPorts]>),
}

/// A set of ports of one protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProtocolPorts {
    /// The ports' protocol.
    pub protocol: QueryProtocol,
    /// The ports.
    pub range: PortRange,
}

/// A set of ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortRange {
    /// Ports by number.
    Numbers(RangeInclusive<u16>),
    /// The ports to which the destination pod gives this name.
    Name(Box<str>),
    /// Any ports, or none: TCP ports that can't be read. Their rule is still known for UDP. UDP
    /// ports that can't be read are an error.
    Unknown,
}

impl QueryProtocol {
    /// The protocol of a port in the API of NetworkPolicies and Pods, where the default is TCP.
    /// `None`: another protocol.
    pub(super) fn from_api(name: Option<&str>) -> Option<QueryProtocol> {
        match name {
            Some("UDP") => Some(QueryProtocol::Udp),
            Some("TCP") | None => Some(QueryProtocol::Tcp),
            Some(_) => None,
        }
    }

    /// Whether a port of a Service or of an EndpointSlice has this protocol.
    pub(super) fn is_of(self, port: &Port) -> bool {
        let name = match self {
            QueryProtocol::Udp => "udp",
            QueryProtocol::Tcp => "tcp",
        };
        port.protocol == name
    }
}

impl fmt::Display for QueryProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            QueryProtocol::Udp => "UDP",
            QueryProtocol::Tcp => "TCP",
        })
    }
}

impl Ports {
    /// The memory of the ranges in bytes, about.
    pub(super) fn memory(&self) -> usize {
        let listed = match self {
            Ports::All => &[][..],
            Ports::Listed(listed) => listed,
        };
        listed.iter().map(ProtocolPorts::memory).sum()
    }

    /// Whether these ports provably include the port `number` of a protocol, or one of its `names`.
    pub(super) fn contain(&self, protocol: QueryProtocol, number: u16, names: &[&str]) -> bool {
        let Some(mut ranges) = self.ranges_of(protocol) else {
            return true;
        };
        ranges.any(|range| match range {
            PortRange::Numbers(numbers) => numbers.contains(&number),
            PortRange::Name(name) => names.contains(&&**name),
            PortRange::Unknown => false,
        })
    }

    /// Whether these ports include the port `number` of a protocol, for rules of cluster-wide
    /// policies. Some plugins ignore names of ports in such rules (Kube-OVN, `fetchDstPorts`), so a
    /// name may mean any port.
    pub(super) fn match_unnamed(&self, protocol: QueryProtocol, number: u16) -> Certainty {
        let Some(ranges) = self.ranges_of(protocol) else {
            return Certainty::Yes;
        };
        Certainty::any(ranges.map(|range| match range {
            PortRange::Numbers(numbers) => numbers.contains(&number).into(),
            PortRange::Name(_) | PortRange::Unknown => Certainty::Maybe,
        }))
    }

    /// Whether these ports include a port of a protocol whose number isn't known.
    pub(super) fn match_unknown(&self, protocol: QueryProtocol) -> Certainty {
        let has_ranges = self
            .ranges_of(protocol)
            .is_none_or(|mut ranges| ranges.next().is_some());
        if self.contain_all(protocol) {
            Certainty::Yes
        } else if has_ranges {
            Certainty::Maybe
        } else {
            Certainty::No
        }
    }

    /// Whether these ports include every port of a protocol, because the rule lists no ports, or
    /// because an entry gives neither number nor name. The range 0 to 65535 stands for such an
    /// entry.
    pub(super) fn contain_all(&self, protocol: QueryProtocol) -> bool {
        let Some(mut ranges) = self.ranges_of(protocol) else {
            return true;
        };
        ranges.any(|range| *range == PortRange::ALL)
    }

    /// Whether some ports of a protocol can't be read.
    pub(super) fn are_unknown(&self, protocol: QueryProtocol) -> bool {
        self.ranges_of(protocol)
            .is_some_and(|mut ranges| ranges.any(|range| *range == PortRange::Unknown))
    }

    /// The ranges of a protocol. `None`: all ports.
    fn ranges_of(&self, protocol: QueryProtocol) -> Option<impl Iterator<Item = &PortRange>> {
        let Ports::Listed(listed) = self else {
            return None;
        };
        let listed = listed.iter();
        let listed = listed.filter(move |ports| ports.protocol == protocol);
        Some(listed.map(|ports| &ports.range))
    }
}

impl ProtocolPorts {
    fn memory(&self) -> usize {
        let name = match &self.range {
            PortRange::Numbers(_) | PortRange::Unknown => 0,
            PortRange::Name(name) => name.len(),
        };
        size_of::<ProtocolPorts>() + name
    }
}

impl PortRange {
    /// Every port.
    pub(super) const ALL: PortRange = PortRange::Numbers(0..=u16::MAX);
}
