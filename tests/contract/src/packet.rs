//! Makes queries as messages and as Ethernet frames, makes replies of other servers, and checks the
//! frames of replies.
//!
//! This module follows only the RFCs, and shares no code with the code under test.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Result, ensure};

/// The destination MAC of queries.
const NODE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// The source MAC of queries.
const POD_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// A query and its headers, with the fields that a test may want to change.
#[derive(Clone, Debug)]
pub struct QueryPacket {
    /// The source address.
    pub client: IpAddr,
    /// The source port.
    pub port: u16,
    /// The destination address and port.
    pub server: (IpAddr, u16),
    /// The ID.
    pub id: u16,
    /// Bytes 2 and 3 of the DNS header: QR, opcode, flags and RCODE.
    pub bits: u16,
    /// The question's name in wire form.
    pub name: Vec<u8>,
    /// The question's type.
    pub rtype: u16,
    /// The question's class.
    pub class: u16,
    /// The OPT record, if any.
    pub edns: Option<QueryEdns>,
}

/// The OPT record of a query (RFC 6891 section 6.1.2).
#[derive(Clone, Debug)]
pub struct QueryEdns {
    /// The client's UDP payload size, in bytes.
    pub size: u16,
    /// The TTL field: extended RCODE, version, DO and Z.
    pub ttl: u32,
    /// The options in wire form.
    pub options: Vec<u8>,
}

impl QueryPacket {
    /// A standard query, as a stub resolver sends it.
    #[must_use]
    pub fn new(client: IpAddr, server: IpAddr, name: &str, rtype: u16) -> Self {
        Self {
            client,
            port: 40_000,
            server: (server, 53),
            id: 0x1234,
            bits: 0x0100,
            name: wire_name(name),
            rtype,
            class: 1,
            edns: None,
        }
    }

    /// This query with an OPT record. `dnssec_ok` is 0 or 1.
    #[must_use]
    pub fn with_edns(mut self, size: u16, dnssec_ok: u32, options: &[u8]) -> Self {
        self.edns = Some(QueryEdns {
            size,
            ttl: dnssec_ok << 15,
            options: options.to_vec(),
        });
        self
    }

    /// The DNS message.
    #[must_use]
    pub fn message(&self) -> Vec<u8> {
        let mut message = Vec::new();
        let additionals = u16::from(self.edns.is_some());
        for number in [self.id, self.bits, 1, 0, 0, additionals] {
            message.extend(number.to_be_bytes());
        }
        message.extend(&self.name);
        message.extend(self.rtype.to_be_bytes());
        message.extend(self.class.to_be_bytes());
        if let Some(edns) = &self.edns {
            message.extend([0, 0, 41]);
            message.extend(edns.size.to_be_bytes());
            message.extend(edns.ttl.to_be_bytes());
            message.extend((edns.options.len() as u16).to_be_bytes());
            message.extend(&edns.options);
        }
        message
    }

    /// The Ethernet frame of this query, with correct checksums.
    ///
    /// # Panics
    ///
    /// If client and server have different address families.
    #[must_use]
    pub fn frame(&self) -> Vec<u8> {
        self.frame_with(&self.message())
    }

    /// As [`frame`](QueryPacket::frame), with another DNS message.
    ///
    /// # Panics
    ///
    /// If client and server have different address families.
    #[must_use]
    pub fn frame_with(&self, message: &[u8]) -> Vec<u8> {
        let mut udp = Vec::new();
        let length = message.len() as u16 + 8;
        for number in [self.port, self.server.1, length, 0] {
            udp.extend(number.to_be_bytes());
        }
        udp.extend(message);
        let sum = udp_checksum(self.client, self.server.0, &udp);
        udp[6..8].copy_from_slice(&sum.to_be_bytes());

        let mut frame = [NODE_MAC, POD_MAC].concat();
        match (self.client, self.server.0) {
            (IpAddr::V4(client), IpAddr::V4(server)) => {
                // EtherType, and the IPv4 header (RFC 791): ID, DF, TTL 64, UDP.
                frame.extend([0x08, 0x00]);
                let mut header = vec![0x45, 0];
                header.extend((20 + length).to_be_bytes());
                header.extend([0xab, 0xcd, 0x40, 0, 64, 17, 0, 0]);
                header.extend(client.octets());
                header.extend(server.octets());
                let sum = !ones_complement_sum(&header);
                header[10..12].copy_from_slice(&sum.to_be_bytes());
                frame.extend(header);
            }
            (IpAddr::V6(client), IpAddr::V6(server)) => {
                // EtherType, and the IPv6 header (RFC 8200): UDP, hop limit 64.
                frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
                frame.extend(length.to_be_bytes());
                frame.extend([17, 64]);
                frame.extend(client.octets());
                frame.extend(server.octets());
            }
            _ => panic!("client and server have different address families"),
        }
        frame.extend(udp);
        frame
    }
}

/// A reply without EDNS to the message `query`. It has the ID and the question of the query, and no
/// records. `bits` are bytes 2 and 3 of the header.
///
/// `None` if the query has no complete question.
#[must_use]
pub fn empty_reply(query: &[u8], bits: u16) -> Option<Vec<u8>> {
    let mut reply = query.get(..question_end(query)?)?.to_vec();
    reply[2..4].copy_from_slice(&bits.to_be_bytes());
    // One question, and no record in any section.
    reply[4..12].copy_from_slice(&[0, 1, 0, 0, 0, 0, 0, 0]);
    Some(reply)
}

/// As [`empty_reply`], with an A record of the question's name. `ttl` is in seconds.
#[must_use]
pub fn address_reply(query: &[u8], bits: u16, ttl: u32, address: Ipv4Addr) -> Option<Vec<u8>> {
    let mut reply = empty_reply(query, bits)?;
    // One record in the answer section.
    reply[7] = 1;
    // A pointer to the question's name, type A, class IN.
    reply.extend([0xc0, 12, 0, 1, 0, 1]);
    reply.extend(ttl.to_be_bytes());
    reply.extend([0, 4]);
    reply.extend(address.octets());
    Some(reply)
}

/// The type of a message's question. `None` if the message ends before it.
#[must_use]
pub fn question_type(message: &[u8]) -> Option<u16> {
    let end = question_end(message)?;
    let rtype = message.get(end - 4..end - 2)?;
    Some(u16::from_be_bytes([rtype[0], rtype[1]]))
}

/// The position after the question, which may be past the end of the message. `None` if the name
/// has no end. The name must not be compressed.
fn question_end(message: &[u8]) -> Option<usize> {
    let mut at = 12;
    loop {
        let length = usize::from(*message.get(at)?);
        at += 1 + length;
        if length == 0 {
            // Type and class.
            return Some(at + 4);
        }
    }
}

/// Checks the headers of a reply to the frame `query`, and returns its DNS message.
///
/// # Errors
///
/// If the frame is too short, if its headers are not those of the query with source and destination
/// swapped, or if a TTL, a length or a checksum is wrong.
pub fn parse_reply(query: &[u8], reply: &[u8]) -> Result<Vec<u8>> {
    // The headers of Ethernet, IPv4, UDP and DNS have 54 bytes; so have those of Ethernet and IPv6.
    ensure!(reply.len() > 54, "the frame has only {} bytes", reply.len());
    ensure!(
        reply[..6] == query[6..12],
        "the destination MAC is not the client's"
    );
    ensure!(
        reply[6..12] == query[..6],
        "the source MAC is not the query's destination"
    );
    ensure!(
        reply[12..14] == query[12..14],
        "the EtherType is not the query's"
    );
    let (udp, client, server) = if reply[12] == 8 {
        let header = &reply[14..34];
        ensure!(
            ones_complement_sum(header) == 0xffff,
            "the IP header's checksum is wrong"
        );
        ensure!(
            header[0] == 0x45 && header[9] == 17,
            "the IP header has options, or is not of UDP"
        );
        ensure!(header[8] == 64, "the TTL is {} instead of 64", header[8]);
        ensure!(
            header[4..8] == query[18..22],
            "the IP ID, flags or fragment offset is not the query's"
        );
        let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
        ensure!(
            length + 14 == reply.len(),
            "the IP length is {length}, but the frame has {} bytes",
            reply.len()
        );
        ensure!(
            header[12..16] == query[30..34],
            "the source is not the server"
        );
        ensure!(
            header[16..20] == query[26..30],
            "the destination is not the client"
        );
        let to_address = |bytes: &[u8]| IpAddr::from(<[u8; 4]>::try_from(bytes).unwrap());
        (
            &reply[34..],
            to_address(&header[16..20]),
            to_address(&header[12..16]),
        )
    } else {
        let header = &reply[14..54];
        ensure!(
            header[6] == 17 && header[7] == 64,
            "the IPv6 header is not of UDP, or its hop limit is not 64"
        );
        let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
        ensure!(
            length + 54 == reply.len(),
            "the IPv6 length is {length}, but the frame has {} bytes",
            reply.len()
        );
        ensure!(
            header[8..24] == query[38..54],
            "the source is not the server"
        );
        ensure!(
            header[24..40] == query[22..38],
            "the destination is not the client"
        );
        let to_address = |bytes: &[u8]| IpAddr::from(<[u8; 16]>::try_from(bytes).unwrap());
        (
            &reply[54..],
            to_address(&header[24..40]),
            to_address(&header[8..24]),
        )
    };
    ensure!(udp.len() >= 8, "the frame ends inside the UDP header");
    let query_udp = &query[if reply[12] == 8 { 34 } else { 54 }..];
    ensure!(
        udp[..2] == query_udp[2..4] && udp[2..4] == query_udp[..2],
        "the ports are not swapped"
    );
    ensure!(
        usize::from(u16::from_be_bytes([udp[4], udp[5]])) == udp.len(),
        "the UDP length is wrong"
    );
    let sum = u16::from_be_bytes([udp[6], udp[7]]);
    let mut blank = udp.to_vec();
    blank[6..8].fill(0);
    let expected = udp_checksum(server, client, &blank);
    ensure!(
        sum == expected,
        "the UDP checksum is {sum:04x} instead of {expected:04x}"
    );
    Ok(udp[8..].to_vec())
}

/// Converts a name without escapes to wire form, and keeps its letter case.
#[must_use]
pub fn wire_name(name: &str) -> Vec<u8> {
    let mut wire = Vec::new();
    for label in name.split('.').filter(|label| !label.is_empty()) {
        wire.push(label.len() as u8);
        wire.extend(label.bytes());
    }
    wire.push(0);
    wire
}

/// The UDP checksum over pseudo header and datagram. The checksum field of `udp` must be zero (RFC
/// 768, RFC 8200 section 8.1). The pseudo header of IPv6 serves for IPv4 too, because it only adds
/// zeros.
fn udp_checksum(source: IpAddr, destination: IpAddr, udp: &[u8]) -> u16 {
    let mut bytes = Vec::new();
    for address in [source, destination] {
        match address {
            IpAddr::V4(address) => bytes.extend(address.octets()),
            IpAddr::V6(address) => bytes.extend(address.octets()),
        }
    }
    bytes.extend((udp.len() as u32).to_be_bytes());
    bytes.extend([0, 0, 0, 17]);
    bytes.extend(udp);
    match !ones_complement_sum(&bytes) {
        // 0 would mean that there is no checksum.
        0 => 0xffff,
        sum => sum,
    }
}

/// The one's complement sum of 16-bit words (RFC 1071).
fn ones_complement_sum(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        addresses::{POD, SERVED},
        message::Message,
    };

    #[test]
    fn replies_have_the_question_and_no_opt_record() {
        let query =
            QueryPacket::new(POD[0], SERVED[0], "www.example.com", 1).with_edns(1232, 0, &[]);
        let query = query.message();
        // QR, RD, RA and NXDOMAIN; below the same flags with NOERROR.
        let empty = Message::read(&empty_reply(&query, 0x8183).unwrap()).unwrap();
        assert_eq!((empty.id, empty.bits), (0x1234, 0x8183));
        assert_eq!(empty.question, ["www.example.com. IN A"]);
        assert_eq!((&empty.sections, &empty.edns), (&Default::default(), &None));

        let address = Ipv4Addr::new(192, 0, 2, 1);
        let reply = Message::read(&address_reply(&query, 0x8180, 77, address).unwrap()).unwrap();
        assert_eq!(reply.question, empty.question);
        assert_eq!(reply.sections[0], ["www.example.com. 77 IN A 192.0.2.1"]);
        assert_eq!(question_type(&query), Some(1));
    }

    #[test]
    fn incomplete_questions_have_no_reply() {
        let query = QueryPacket::new(POD[0], SERVED[0], "www.example.com", 1).message();
        for length in 0..query.len() {
            assert_eq!(
                empty_reply(&query[..length], 0x8180),
                None,
                "a query cut to {length} bytes"
            );
        }
    }
}
