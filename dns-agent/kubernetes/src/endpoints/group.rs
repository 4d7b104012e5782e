//! The endpoints that a name of a Service stands for.

use crate::objects::Port;

/// The endpoints that a name of a Service stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EndpointGroup<'a> {
    /// All endpoints: the name of the Service itself.
    All,
    /// The endpoints with a port of this protocol and name. Letter case is ignored.
    Port { protocol: &'a str, name: &'a str },
    /// The endpoints with this label, which is in lower case.
    Label(&'a str),
    /// The endpoints in this topology zone.
    Zone(&'a str),
}

impl EndpointGroup<'_> {
    /// Whether a port is one of those for which the group's name has SRV records.
    pub(crate) fn has_port(self, port: &Port) -> bool {
        let EndpointGroup::Port { protocol, name } = self else {
            return true;
        };
        let own_name = port.name.as_deref().unwrap_or_default();
        port.protocol.eq_ignore_ascii_case(protocol)
            && !name.is_empty()
            && own_name.eq_ignore_ascii_case(name)
    }
}
