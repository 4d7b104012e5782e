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

/// The header flags of every reply: QR, RD and RA (RFC 1035 section 4.1.1).
const REPLY_FLAGS: u16 = 0x8180;
const NXDOMAIN: u16 = 3;
const A: u16 = 1;

/// Starts a server for the name `known`. It answers other types of the name with NODATA, and other
/// names with NXDOMAIN.
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
        // The question begins after the header of 12 bytes.
        let asked = query.get(12..12 + name.len()).unwrap_or_default();
        if !asked.eq_ignore_ascii_case(&name) {
            return packet::empty_reply(query, REPLY_FLAGS | NXDOMAIN);
        }
        if packet::question_type(query)? != A {
            return packet::empty_reply(query, REPLY_FLAGS);
        }
        packet::address_reply(query, REPLY_FLAGS, UPSTREAM_TTL.into(), self.address)
    }
}
