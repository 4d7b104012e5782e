//! The protobuf messages of dnstap (`dnstap.proto`), written field by field.
//!
//! A field is a tag and a value. The tag is the field's number, shifted left by three bits, and a
//! wire type (protobuf.dev, *Encoding*).

use std::{
    net::{IpAddr, SocketAddr},
    time::{SystemTime, UNIX_EPOCH},
};

use super::QueryPath;
use crate::traffic::ConnectionProtocol;

/// A wire type of protobuf.
#[derive(Clone, Copy)]
enum WireType {
    Varint = 0,
    LengthDelimited = 2,
    Fixed32 = 5,
}

/// Field numbers of `Dnstap`.
const IDENTITY: u8 = 1;
const VERSION: u8 = 2;
const MESSAGE: u8 = 14;
const DNSTAP_TYPE: u8 = 15;
/// The only value of the field [`DNSTAP_TYPE`].
const TYPE_MESSAGE: u64 = 1;

/// Field numbers of `Message`.
const MESSAGE_TYPE: u8 = 1;
const SOCKET_FAMILY: u8 = 2;
const SOCKET_PROTOCOL: u8 = 3;
const QUERY_ADDRESS: u8 = 4;
const RESPONSE_ADDRESS: u8 = 5;
const QUERY_PORT: u8 = 6;
const RESPONSE_PORT: u8 = 7;
const QUERY_TIME_SEC: u8 = 8;
const QUERY_TIME_NSEC: u8 = 9;
const QUERY_MESSAGE: u8 = 10;
const RESPONSE_TIME_SEC: u8 = 12;
const RESPONSE_TIME_NSEC: u8 = 13;
const RESPONSE_MESSAGE: u8 = 14;

/// The length of a frame's length in bytes.
const FRAME_LENGTH_LEN: usize = 4;
/// Upper bound on the encoded fields of a `Message` before the DNS message.
const MAX_FIELDS: usize = 96;

/// `Message.Type`: who sent a message to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MessageKind {
    ClientQuery = 5,
    ClientResponse = 6,
    ForwarderQuery = 7,
    ForwarderResponse = 8,
}

/// A DNS message on its way, for the collector.
#[derive(Debug)]
pub(super) struct DnstapMessage<'a> {
    pub(super) kind: MessageKind,
    pub(super) path: QueryPath,
    pub(super) query_time: SystemTime,
    /// `None` for a query.
    pub(super) response_time: Option<SystemTime>,
    /// The DNS message.
    pub(super) bytes: &'a [u8],
}

/// The fields that say where messages come from.
pub(super) fn encode_origin(identity: Option<&str>, version: &str) -> Vec<u8> {
    let mut out = Vec::new();
    if let Some(identity) = identity {
        put_bytes(&mut out, IDENTITY, identity.as_bytes());
    }
    put_bytes(&mut out, VERSION, version.as_bytes());
    out
}

impl DnstapMessage<'_> {
    /// A data frame with a `Dnstap` message. `origin` is from [`encode_origin`].
    pub(super) fn encode_frame(&self, origin: &[u8]) -> Vec<u8> {
        let fields = self.encode_fields();
        let dns_field = match self.response_time {
            None => QUERY_MESSAGE,
            Some(_) => RESPONSE_MESSAGE,
        };
        let dns_len = self.bytes.len();
        let message_len = fields.len() + 1 + varint_len(dns_len) + dns_len;
        let room = FRAME_LENGTH_LEN + origin.len() + message_len + 16;
        let mut out = Vec::with_capacity(room);
        out.extend_from_slice(&[0; FRAME_LENGTH_LEN]);
        out.extend_from_slice(origin);
        put_tag(&mut out, MESSAGE, WireType::LengthDelimited);
        put_varint(&mut out, message_len as u64);
        out.extend_from_slice(&fields);
        put_bytes(&mut out, dns_field, self.bytes);
        put_number(&mut out, DNSTAP_TYPE, TYPE_MESSAGE);
        // A DNS message has less than 64 KiB.
        let length = (out.len() - FRAME_LENGTH_LEN) as u32;
        out[..FRAME_LENGTH_LEN].copy_from_slice(&length.to_be_bytes());
        out
    }

    /// The fields of `Message` before the DNS message, in the order of their numbers.
    fn encode_fields(&self) -> Vec<u8> {
        let QueryPath {
            protocol,
            initiator,
            responder,
        } = self.path;
        let mut out = Vec::with_capacity(MAX_FIELDS);
        put_number(&mut out, MESSAGE_TYPE, self.kind as u64);
        put_number(&mut out, SOCKET_FAMILY, family_number(initiator));
        put_number(&mut out, SOCKET_PROTOCOL, protocol_number(protocol));
        put_address(&mut out, QUERY_ADDRESS, initiator.ip());
        put_address(&mut out, RESPONSE_ADDRESS, responder.ip());
        put_number(&mut out, QUERY_PORT, initiator.port().into());
        put_number(&mut out, RESPONSE_PORT, responder.port().into());
        put_time(&mut out, [QUERY_TIME_SEC, QUERY_TIME_NSEC], self.query_time);
        if let Some(time) = self.response_time {
            put_time(&mut out, [RESPONSE_TIME_SEC, RESPONSE_TIME_NSEC], time);
        }
        out
    }
}

/// `SocketFamily`.
fn family_number(address: SocketAddr) -> u64 {
    match address {
        SocketAddr::V4(_) => 1,
        SocketAddr::V6(_) => 2,
    }
}

/// `SocketProtocol`.
fn protocol_number(protocol: ConnectionProtocol) -> u64 {
    match protocol {
        ConnectionProtocol::Udp => 1,
        ConnectionProtocol::Tcp => 2,
        ConnectionProtocol::Tls => 3,
    }
}

fn put_address(out: &mut Vec<u8>, field: u8, address: IpAddr) {
    match address {
        IpAddr::V4(address) => put_bytes(out, field, &address.octets()),
        IpAddr::V6(address) => put_bytes(out, field, &address.octets()),
    }
}

/// Writes the two fields of a time: seconds since 1970, and nanoseconds.
fn put_time(out: &mut Vec<u8>, [seconds, nanoseconds]: [u8; 2], time: SystemTime) {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    put_number(out, seconds, since.as_secs());
    put_tag(out, nanoseconds, WireType::Fixed32);
    out.extend_from_slice(&since.subsec_nanos().to_le_bytes());
}

fn put_number(out: &mut Vec<u8>, field: u8, number: u64) {
    put_tag(out, field, WireType::Varint);
    put_varint(out, number);
}

fn put_bytes(out: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    put_tag(out, field, WireType::LengthDelimited);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Writes a tag, which is one byte because field numbers are at most 15.
fn put_tag(out: &mut Vec<u8>, field: u8, wire_type: WireType) {
    out.push(field << 3 | wire_type as u8);
}

/// Writes seven bits a byte, the lowest ones first. The highest bit of a byte marks that another
/// one follows.
fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    while number > 0x7f {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn varint_len(number: usize) -> usize {
    let bits = usize::BITS - number.leading_zeros();
    bits.div_ceil(7).max(1) as usize
}
