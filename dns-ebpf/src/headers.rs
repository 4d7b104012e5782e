//! Offsets and lengths of headers, in bytes, and the first step of parsing: the headers up to UDP.

use dns_common::Outcome;

use crate::{Frame, verifier::load};

/// Ethernet II (IEEE 802.3).
pub mod ethernet {
    /// The header's length.
    pub const LENGTH: usize = 14;
    /// The destination address.
    pub const DESTINATION: usize = 0;
    /// The source address.
    pub const SOURCE: usize = 6;
    /// The EtherType.
    pub const TYPE: usize = 12;
}

/// IPv4 (RFC 791 section 3.1), without options.
pub mod ipv4 {
    /// The header's length.
    pub const LENGTH: usize = 20;
    /// Version and header length.
    pub const VERSION: usize = 0;
    /// The length of header and payload.
    pub const TOTAL_LENGTH: usize = 2;
    /// Flags and fragment offset.
    pub const FRAGMENT: usize = 6;
    /// The time to live, followed by the protocol.
    pub const TTL: usize = 8;
    /// The protocol of the payload.
    pub const PROTOCOL: usize = 9;
    /// The header checksum.
    pub const CHECKSUM: usize = 10;
    /// The source address, followed by the destination address.
    pub const SOURCE: usize = 12;
    /// The destination address.
    pub const DESTINATION: usize = 16;
}

/// IPv6 (RFC 8200 section 3), without extension headers.
pub mod ipv6 {
    /// The header's length.
    pub const LENGTH: usize = 40;
    /// Version and the first bits of the traffic class.
    pub const VERSION: usize = 0;
    /// The length of the payload.
    pub const PAYLOAD_LENGTH: usize = 4;
    /// The protocol of the payload.
    pub const NEXT_HEADER: usize = 6;
    /// The hop limit.
    pub const HOP_LIMIT: usize = 7;
    /// The source address.
    pub const SOURCE: usize = 8;
    /// The destination address.
    pub const DESTINATION: usize = 24;
}

/// UDP (RFC 768).
pub mod udp {
    /// The header's length.
    pub const LENGTH: usize = 8;
    /// The source port, followed by the destination port.
    pub const PORTS: usize = 0;
    /// The destination port.
    pub const DESTINATION_PORT: usize = 2;
    /// The length of header and payload.
    pub const DATAGRAM_LENGTH: usize = 4;
    /// The checksum.
    pub const CHECKSUM: usize = 6;
}

/// TCP (RFC 9293 section 3.1), without options.
pub mod tcp {
    /// The header's length.
    pub const LENGTH: usize = 20;
    /// The destination port.
    pub const DESTINATION_PORT: usize = 2;
    /// The control bits.
    pub const FLAGS: usize = 13;
    /// The control bit of the last segment with data.
    pub const FIN: u8 = 1;
    /// The control bit of a segment that opens a connection.
    pub const SYN: u8 = 2;
    /// The control bit of a segment that acknowledges.
    pub const ACK: u8 = 16;
}

/// The header of a DNS message (RFC 1035 section 4.1.1).
pub mod dns {
    /// The header's length.
    pub const LENGTH: usize = 12;
    /// The ID.
    pub const ID: usize = 0;
    /// The second 16 bits: QR, opcode, flags and RCODE.
    pub const FLAGS: usize = 2;
    /// QDCOUNT, ANCOUNT, NSCOUNT and ARCOUNT: eight bytes.
    pub const COUNTS: usize = 4;
}

/// The end of a question, after its name (RFC 1035 section 4.1.2).
pub mod question {
    /// The length of type and class.
    pub const LENGTH: usize = 4;
    /// The type.
    pub const TYPE: usize = 0;
    /// The class.
    pub const CLASS: usize = 2;
}

/// The OPT record (RFC 6891 section 6.1.2).
pub mod opt {
    /// The record's length without options.
    pub const LENGTH: usize = 11;
    /// The owner name, which is the root.
    pub const NAME: usize = 0;
    /// The record type.
    pub const TYPE: usize = 1;
    /// The UDP payload size of the sender.
    pub const PAYLOAD_SIZE: usize = 3;
    /// The extended RCODE, the version and the flags.
    pub const TTL: usize = 5;
    /// The length of the options.
    pub const OPTIONS_LENGTH: usize = 9;
    /// The length of an option's code and length fields.
    pub const OPTION_HEADER: usize = 4;
    /// The code of an option.
    pub const OPTION_CODE: usize = 0;
    /// The length field of an option.
    pub const OPTION_LENGTH: usize = 2;
}

pub(crate) const ETHERTYPE_IPV4: u16 = 0x0800_u16.to_be();
pub(crate) const ETHERTYPE_IPV6: u16 = 0x86dd_u16.to_be();
pub(crate) const PROTOCOL_UDP: u8 = 17;

/// Version 4, and a header of five words: no options.
pub(crate) const IPV4_WITHOUT_OPTIONS: u8 = 0x45;
/// All bits of flags and fragment offset except DF. At least one of them is set in every fragment.
pub(crate) const IPV4_IS_FRAGMENT: u16 = !0x4000_u16.to_be();

/// Where the headers of a frame are, and its addresses. The UDP length has not been checked.
#[derive(Clone, Copy)]
pub(crate) struct Headers {
    /// The address of the frame's first byte.
    pub(crate) start: usize,
    /// The address after the frame's last byte that can be accessed directly.
    pub(crate) end: usize,
    /// Bytes from the frame's start to the UDP header. It differs for IPv4 and IPv6.
    pub(crate) layer4: usize,
    /// The length of the IP payload in bytes, according to the IP header.
    pub(crate) ip_payload: usize,
    /// The addresses of client and server, and the server's port.
    pub(crate) addresses: Addresses,
}

/// Source address, destination address and destination port of a UDP packet, in network order.
#[derive(Clone, Copy)]
pub(crate) enum Addresses {
    Ipv4 {
        client: u32,
        server: u32,
        port: u16,
    },
    Ipv6 {
        client: [u64; 2],
        server: [u64; 2],
        port: u16,
    },
}

/// Reads the Ethernet and IP headers and the UDP port. Packets that are not UDP over IP, have IP
/// options, are fragments or are too short pass.
///
/// If it succeeds, the frame has at least [`ethernet::LENGTH`] + [`ipv4::LENGTH`] +
/// [`udp::LENGTH`] + [`dns::LENGTH`] bytes.
#[inline(always)]
pub(crate) fn read<F: Frame>(frame: &F) -> Result<Headers, Outcome> {
    let (start, end) = (frame.start(), frame.end());
    let ip = start + ethernet::LENGTH;
    if ip + ipv4::LENGTH + udp::LENGTH + dns::LENGTH > end {
        return Err(Outcome::Short);
    }
    // SAFETY: the frame extends past the DNS header of a packet over IPv4, as checked above.
    let ethertype: u16 = unsafe { load(start + ethernet::TYPE) };
    let (layer4, ip_payload, addresses) = match ethertype {
        ETHERTYPE_IPV4 => {
            // SAFETY: as above.
            let (version, protocol, fragment): (u8, u8, u16) = unsafe {
                (
                    load(ip + ipv4::VERSION),
                    load(ip + ipv4::PROTOCOL),
                    load(ip + ipv4::FRAGMENT),
                )
            };
            if protocol != PROTOCOL_UDP {
                return Err(Outcome::NotUdp);
            }
            if version != IPV4_WITHOUT_OPTIONS {
                return Err(Outcome::IpOptions);
            }
            if fragment & IPV4_IS_FRAGMENT != 0 {
                return Err(Outcome::Fragment);
            }
            let udp = ip + ipv4::LENGTH;
            // SAFETY: as above.
            let (length, client, server, port): (u16, u32, u32, u16) = unsafe {
                (
                    load(ip + ipv4::TOTAL_LENGTH),
                    load(ip + ipv4::SOURCE),
                    load(ip + ipv4::DESTINATION),
                    load(udp + udp::DESTINATION_PORT),
                )
            };
            (
                ethernet::LENGTH + ipv4::LENGTH,
                // If the total length is too small, this wraps and differs from every UDP length.
                (u16::from_be(length) as usize).wrapping_sub(ipv4::LENGTH),
                Addresses::Ipv4 {
                    client,
                    server,
                    port,
                },
            )
        }
        ETHERTYPE_IPV6 => {
            let udp = ip + ipv6::LENGTH;
            if udp + udp::LENGTH + dns::LENGTH > end {
                return Err(Outcome::Short);
            }
            // SAFETY: the frame extends past the DNS header, as just checked.
            let (version, next_header): (u8, u8) =
                unsafe { (load(ip + ipv6::VERSION), load(ip + ipv6::NEXT_HEADER)) };
            if next_header != PROTOCOL_UDP || version >> 4 != 6 {
                return Err(Outcome::NotUdp);
            }
            // SAFETY: as above.
            let (length, client, server, port): (u16, [u64; 2], [u64; 2], u16) = unsafe {
                (
                    load(ip + ipv6::PAYLOAD_LENGTH),
                    [load(ip + ipv6::SOURCE), load(ip + ipv6::SOURCE + 8)],
                    [
                        load(ip + ipv6::DESTINATION),
                        load(ip + ipv6::DESTINATION + 8),
                    ],
                    load(udp + udp::DESTINATION_PORT),
                )
            };
            (
                ethernet::LENGTH + ipv6::LENGTH,
                u16::from_be(length) as usize,
                Addresses::Ipv6 {
                    client,
                    server,
                    port,
                },
            )
        }
        _ => return Err(Outcome::NotIp),
    };
    Ok(Headers {
        start,
        end,
        layer4,
        ip_payload,
        addresses,
    })
}
