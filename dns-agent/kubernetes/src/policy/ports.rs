//! The UDP ports of policies' rules.

use std::mem::size_of;
use std::ops::RangeInclusive;

use super::certainty::Certainty;

/// The UDP ports that a rule allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ports {
    /// Every port.
    All,
    /// Any of these ports. Empty if the rule lists only ports of other protocols.
    Listed(Box<[PortRange]>),
}

/// A set of UDP ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortRange {
    /// Ports by number.
    Numbers(RangeInclusive<u16>),
    /// The ports to which the destination pod gives this name.
    Name(Box<str>),
}

impl Ports {
    /// The memory of the ranges in bytes, about.
    pub(super) fn memory(&self) -> usize {
        let ranges = match self {
            Ports::All => &[][..],
            Ports::Listed(ranges) => ranges,
        };
        ranges.iter().map(PortRange::memory).sum()
    }

    /// Whether these ports include the UDP port `number`, or one of its `names`.
    pub(super) fn contain(&self, number: u16, names: &[&str]) -> bool {
        let Ports::Listed(ranges) = self else {
            return true;
        };
        ranges.iter().any(|range| match range {
            PortRange::Numbers(numbers) => numbers.contains(&number),
            PortRange::Name(name) => names.contains(&&**name),
        })
    }

    /// Whether these ports include the UDP port `number`, for rules of cluster-wide policies. Some
    /// plugins ignore names of ports in such rules (Kube-OVN, `fetchDstPorts`), so a name may mean
    /// any port.
    pub(super) fn match_unnamed(&self, number: u16) -> Certainty {
        let Ports::Listed(ranges) = self else {
            return Certainty::Yes;
        };
        Certainty::any(ranges.iter().map(|range| match range {
            PortRange::Numbers(numbers) => numbers.contains(&number).into(),
            PortRange::Name(_) => Certainty::Maybe,
        }))
    }

    /// Whether these ports include a UDP port that isn't known.
    pub(super) fn match_unknown(&self) -> Certainty {
        match self {
            Ports::Listed(ranges) if ranges.is_empty() => Certainty::No,
            ports if ports.contain_all() => Certainty::Yes,
            Ports::All | Ports::Listed(_) => Certainty::Maybe,
        }
    }

    /// Whether these ports include every UDP port, because the rule lists no ports, or because an
    /// entry gives neither number nor name. The range 0 to 65535 stands for such an entry.
    pub(super) fn contain_all(&self) -> bool {
        let Ports::Listed(ranges) = self else {
            return true;
        };
        let all = PortRange::Numbers(0..=u16::MAX);
        ranges.contains(&all)
    }
}

impl PortRange {
    fn memory(&self) -> usize {
        let name = match self {
            PortRange::Numbers(_) => 0,
            PortRange::Name(name) => name.len(),
        };
        size_of::<PortRange>() + name
    }
}
