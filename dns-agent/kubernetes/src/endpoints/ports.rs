//! A list of ports, with what look-ups need to know of it.

use std::cmp::Ordering;
use std::sync::Arc;

use super::group::EndpointGroup;
use super::label::compare_labels;
use crate::objects::{Port, PortNumber};

/// A list of ports that slices of a Service have.
#[derive(Clone, Debug)]
pub(super) struct PortTable {
    pub(super) ports: Arc<[Port]>,
    /// The positions of the ports with a name, by protocol and name in lower case.
    by_name: Box<[u32]>,
    /// The different protocols.
    protocols: Box<[String]>,
    pub(super) has_number: bool,
    pub(super) has_number_out_of_range: bool,
}

impl PortTable {
    pub(super) fn new(ports: Arc<[Port]>) -> PortTable {
        let mut by_name: Vec<u32> = (0..ports.len() as u32).collect();
        by_name.retain(|at| ports[*at as usize].name.is_some());
        by_name.sort_by(|a, b| {
            let [a, b] = [a, b].map(|at| port_key(&ports[*at as usize]));
            compare_keys(a, b)
        });
        let mut protocols: Vec<String> = Vec::new();
        for port in &*ports {
            if !protocols.iter().any(|it| *it == port.protocol) {
                protocols.push(port.protocol.to_string());
            }
        }
        PortTable {
            has_number: ports.iter().any(|port| port.number.valid().is_some()),
            has_number_out_of_range: ports
                .iter()
                .any(|port| port.number == PortNumber::OutOfRange),
            by_name: by_name.into(),
            protocols: protocols.into(),
            ports,
        }
    }

    /// The ports for which a group's name has SRV records.
    pub(super) fn ports_of(&self, group: EndpointGroup<'_>) -> Vec<&Port> {
        let EndpointGroup::Port { protocol, name } = group else {
            return self.ports.iter().collect();
        };
        let compare = |port: &Port| compare_keys(port_key(port), (protocol, name));
        let first = self
            .by_name
            .partition_point(|at| compare(self.port(*at)).is_lt());
        let following = self.by_name[first..].iter().map(|at| self.port(*at));
        following.take_while(|port| compare(port).is_eq()).collect()
    }

    pub(super) fn protocols(&self) -> impl Iterator<Item = &str> {
        self.protocols.iter().map(String::as_str)
    }

    fn port(&self, at: u32) -> &Port {
        &self.ports[at as usize]
    }
}

/// The protocol and the name of a port.
fn port_key(port: &Port) -> (&str, &str) {
    (&port.protocol, port.name.as_deref().unwrap_or_default())
}

/// Compares protocols and names without regard to letter case.
fn compare_keys(a: (&str, &str), b: (&str, &str)) -> Ordering {
    compare_labels(a.0, b.0).then_with(|| compare_labels(a.1, b.1))
}
