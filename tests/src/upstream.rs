//! A DNS server outside the cluster that knows one name.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Result;
use zerohop_contract::packet;

use crate::{netns::NetworkNamespace, udp::UdpServer};

/// The only name that the server knows, with its only record.
#[derive(Clone, Copy)]
pub struct UpstreamName {
    /// The name.
    pub name: &'static str,
    /// The address of its A record.
    pub address: Ipv4Addr,
}

/// The TTL of the A record, in seconds.
pub const UPSTREAM_TTL: u8 = 77;

/// QR, RD and RA.
const BITS: u16 = 0x8180;

/// Starts a server that answers NODATA for other types of the name, and NXDOMAIN for other names.
pub fn start(
    namespace: &NetworkNamespace,
    address: SocketAddr,
    known: UpstreamName,
) -> Result<UdpServer> {
    UdpServer::start(namespace, address, move |query| known.reply(query))
}

impl UpstreamName {
    fn reply(self, query: &[u8]) -> Option<Vec<u8>> {
        let name = packet::wire_name(self.name);
        let asked = query.get(12..12 + name.len()).unwrap_or_default();
        if !asked.eq_ignore_ascii_case(&name) {
            return packet::empty_reply(query, BITS | 3);
        }
        if packet::question_type(query)? != 1 {
            return packet::empty_reply(query, BITS);
        }
        packet::address_reply(query, BITS, UPSTREAM_TTL.into(), self.address)
    }
}
