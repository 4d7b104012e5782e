//! Queries to upstreams, and their responses.

use std::net::SocketAddr;

use domain::{
    base::{
        Header, HeaderCounts, Message, ParsedRecord,
        header::Flags,
        iana::{Class, Opcode, OptRcode, Rtype},
    },
    dep::octseq::Parser,
};
use zerohop_zone::Name;

use super::{
    compose,
    message::Chase,
    query::{HEADER_LEN, Query},
    records::Records,
};

/// Longest accepted datagram, in bytes. It exceeds the limit in the OPT record, because some
/// servers ignore that limit.
pub const MAX_DATAGRAM: usize = 4096;

/// The longest name in wire format, in bytes (RFC 1035 section 2.3.4).
const MAX_NAME_LEN: usize = 255;

/// A query to an upstream.
#[derive(Clone, Debug)]
pub struct UpstreamQuery {
    /// The message, with the ID 0.
    bytes: Vec<u8>,
}

/// A message that arrived from the address of an upstream while a query waited for its response.
/// Each variant decides what is asked next.
#[derive(Debug)]
pub enum Reply {
    /// A response, with any response code. If it consisted of a header with an error code only, the
    /// question is added.
    Complete(Response),
    /// A response with TC whose records can be read.
    Truncated(Response),
    /// It answers the query, and can't be read.
    Unreadable,
    /// It answers the query, and is longer than [`MAX_DATAGRAM`].
    TooLarge,
    /// It doesn't answer the query: another ID or question, or not a response. It may be forged.
    NearMiss,
}

/// Whether the name in a response must have the casing of the query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CaseCheck {
    /// Some servers don't preserve the casing.
    Ignored,
    /// The casing of the query was random, so it proves that the server has seen the query.
    Exact,
}

/// The reason why there is no response from upstreams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoResponse {
    /// No upstream is configured.
    NoUpstream,
    /// The cluster's DNS is responsible, and has no known address, or only addresses of this
    /// resolver.
    ClusterDnsUnknown,
    /// The client has its share of the places, or this host has no socket left.
    Overloaded,
    /// Every upstream failed, or did not respond in time.
    NoAnswer,
}

/// An upstream's response to a query.
#[derive(Debug)]
pub struct Response {
    /// The message up to its OPT record, or without one, up to the end of its records.
    message: Vec<u8>,
    /// The upper bits of the response code, from the OPT record. 0 without an OPT record.
    extended_rcode: u8,
    /// The upstream that sent the message, if that is known.
    server: Option<SocketAddr>,
}

impl UpstreamQuery {
    /// The upstream query for a client's question. It copies only the question, the DO bit and the
    /// header bits that affect the answer.
    pub fn forwarding(query: &Query) -> UpstreamQuery {
        let flags = Flags {
            rd: query.header.rd(),
            // So that the response is the same for clients with and without AD.
            ad: true,
            cd: query.header.cd(),
            ..Flags::default()
        };
        let mut upstream = UpstreamQuery::new(flags, &query.question);
        if let Some(edns) = query.edns {
            compose::push_opt(&mut upstream.bytes, edns, 0, &[]);
        }
        upstream
    }

    /// The upstream query for the target of an alias, with RD set and without an OPT record.
    pub fn chasing(chase: &Chase) -> UpstreamQuery {
        UpstreamQuery::asking(&chase.target, chase.query.qtype)
    }

    /// A query with RD set, for a question in wire format.
    fn recursive(question: &[u8]) -> UpstreamQuery {
        let flags = Flags {
            rd: true,
            ..Flags::default()
        };
        UpstreamQuery::new(flags, question)
    }

    fn new(flags: Flags, question: &[u8]) -> UpstreamQuery {
        let mut bytes = Vec::with_capacity(HEADER_LEN + question.len());
        bytes.resize(HEADER_LEN, 0);
        Header::for_message_slice_mut(&mut bytes).set_flags(flags);
        HeaderCounts::for_message_slice_mut(&mut bytes).set_qdcount(1);
        bytes.extend_from_slice(question);
        UpstreamQuery { bytes }
    }

    /// A loop probe: an upstream query for the address of `name`. The name must be random, so that
    /// only the probe asks for it.
    pub(super) fn probing(name: &Name) -> UpstreamQuery {
        UpstreamQuery::asking(name, Rtype::A)
    }

    /// A query with RD set and without an OPT record.
    pub(super) fn asking(name: &Name, rtype: Rtype) -> UpstreamQuery {
        let types = [rtype.to_int(), Class::IN.to_int()].map(u16::to_be_bytes);
        UpstreamQuery::recursive(&[name.wire(), types.as_flattened()].concat())
    }

    /// The identity of the query: the message with ID 0 and the name in lower case.
    pub(super) fn identity(&self) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        let mut rest = bytes.get_mut(HEADER_LEN..).unwrap_or_default();
        // Only the labels are lower-cased, because the type and class after them are numbers.
        while let Some((length, labels)) = rest.split_first_mut() {
            let length = usize::from(*length).min(labels.len());
            if length == 0 {
                break;
            }
            let (label, others) = labels.split_at_mut(length);
            label.make_ascii_lowercase();
            rest = others;
        }
        bytes
    }

    /// The message to send, with this ID.
    pub fn with_id(&self, id: u16) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        bytes[..2].copy_from_slice(&id.to_be_bytes());
        bytes
    }

    /// The query with each letter of its name in upper or lower case, by the bits of `case`
    /// (draft-vixie-dnsext-dns0x20). A forger must guess the cases too.
    pub(super) fn with_case(mut self, case: [u8; MAX_NAME_LEN.div_ceil(8)]) -> UpstreamQuery {
        let end = question_end(&self.bytes).unwrap_or(HEADER_LEN);
        // The name is followed by two bytes of type and two of class.
        let name = self.bytes.get_mut(HEADER_LEN..end.saturating_sub(4));
        for (index, byte) in name.unwrap_or_default().iter_mut().enumerate() {
            let bits = case.get(index / 8).copied().unwrap_or_default();
            // The length of a label is at most 63, so no length is a letter.
            if byte.is_ascii_alphabetic() && bits >> (index % 8) & 1 == 1 {
                *byte ^= 0x20;
            }
        }
        self
    }

    /// Whether the query has an OPT record.
    pub(super) fn has_opt(&self) -> bool {
        HeaderCounts::for_message_slice(&self.bytes).arcount() > 0
    }

    /// The query without its OPT record.
    pub(super) fn without_opt(&self) -> UpstreamQuery {
        let mut bytes = self.bytes.clone();
        // The OPT record is the only record.
        bytes.truncate(question_end(&bytes).unwrap_or(HEADER_LEN));
        HeaderCounts::for_message_slice_mut(&mut bytes).set_arcount(0);
        UpstreamQuery { bytes }
    }
}

impl Reply {
    /// Classifies a datagram as the response to `sent`, a message of an [`UpstreamQuery`]. At most
    /// the first [`MAX_DATAGRAM`] bytes and one more are needed.
    pub fn read_datagram(bytes: &[u8], sent: &[u8], case: CaseCheck) -> Reply {
        match Reply::read(bytes, sent, case) {
            Reply::NearMiss => Reply::NearMiss,
            _ if bytes.len() > MAX_DATAGRAM => Reply::TooLarge,
            reply => reply,
        }
    }

    /// Classifies a message as the response to `sent`, a message of an [`UpstreamQuery`].
    pub fn read(bytes: &[u8], sent: &[u8], case: CaseCheck) -> Reply {
        let (Ok(message), Some(question_end)) = (Message::from_slice(bytes), question_end(sent))
        else {
            return Reply::NearMiss;
        };
        let header = message.header();
        let is_response = header.qr()
            && header.opcode() == Opcode::QUERY
            && header.id() == Header::for_message_slice(sent).id();
        if !is_response {
            return Reply::NearMiss;
        }
        let question = &sent[HEADER_LEN..question_end];
        let question_count = message.header_counts().qdcount();
        if question_count == 0 || bytes.len() == HEADER_LEN {
            return Reply::without_question(header, question);
        }
        let is_asked = |received| is_same_question(received, question, case);
        if question_count != 1 || !bytes.get(HEADER_LEN..question_end).is_some_and(is_asked) {
            return Reply::NearMiss;
        }
        match Response::without_opt(bytes, question.len()) {
            None => Reply::Unreadable,
            Some(response) if response.is_truncated() => Reply::Truncated(response),
            Some(response) => Reply::Complete(response),
        }
    }

    /// Classifies a response without a question. NXDOMAIN without a question doesn't say which name
    /// is absent.
    fn without_question(header: Header, question: &[u8]) -> Reply {
        let rcode = OptRcode::from_parts(header.rcode(), 0);
        if header.tc() || matches!(rcode, OptRcode::NOERROR | OptRcode::NXDOMAIN) {
            return Reply::Unreadable;
        }
        let mut message = header.as_slice().to_vec();
        message.resize(HEADER_LEN, 0);
        HeaderCounts::for_message_slice_mut(&mut message).set_qdcount(1);
        message.extend_from_slice(question);
        Reply::Complete(Response {
            message,
            extended_rcode: 0,
            server: None,
        })
    }
}

impl Response {
    /// Parses a received message as the response to `upstream_query`. `None` if the message is
    /// malformed up to its OPT record, is not a response, or has another ID, opcode or question.
    pub fn parse(bytes: &[u8], upstream_query: &[u8]) -> Option<Response> {
        match Reply::read(bytes, upstream_query, CaseCheck::Ignored) {
            Reply::Complete(response) | Reply::Truncated(response) => Some(response),
            Reply::Unreadable | Reply::TooLarge | Reply::NearMiss => None,
        }
    }

    /// Parses the records up to the OPT record, and removes the OPT record and everything after it.
    /// Without an OPT record, parses all records, and removes the bytes after the last one. `None`
    /// if the parsed part is malformed.
    fn without_opt(bytes: &[u8], question_len: usize) -> Option<Response> {
        // A compression pointer into the header or into a TTL is an error, because they change
        // later.
        // Parsing such a name fails: the byte 0xff starts a pointer to offset 16128 or higher, so
        // it leads forward.
        let mut blanked = bytes.to_vec();
        blanked[..HEADER_LEN].fill(0xff);
        let mut response = Response {
            message: bytes.to_vec(),
            extended_rcode: 0,
            server: None,
        };
        let counts = HeaderCounts::for_message_slice(bytes);
        let mut position = HEADER_LEN + question_len;
        let mut next = |blanked: &mut [u8]| {
            let mut parser = Parser::from_ref(&*blanked);
            parser.advance(position).ok()?;
            let record = next_record(blanked, &mut parser)?;
            let (start, end) = (position, parser.pos());
            position = end;
            // The TTL has 4 bytes, and is followed by the length of the data in 2 bytes.
            let ttl = end.checked_sub(usize::from(record.rdlen()) + 6)?;
            let (rtype, seconds) = (record.rtype(), record.ttl().as_secs());
            blanked.get_mut(ttl..ttl + 4)?.fill(0xff);
            Some((start, rtype, seconds))
        };
        for _ in 0..u32::from(counts.ancount()) + u32::from(counts.nscount()) {
            next(&mut blanked)?;
        }
        for index in 0..counts.arcount() {
            let (start, rtype, ttl) = next(&mut blanked)?;
            if rtype == Rtype::OPT {
                response.message.truncate(start);
                HeaderCounts::for_message_slice_mut(&mut response.message).set_arcount(index);
                [response.extended_rcode, ..] = ttl.to_be_bytes();
                return Some(response);
            }
        }
        response.message.truncate(position);
        Some(response)
    }

    /// The response that a reply of this resolver stands for. `None` if it is malformed.
    pub(super) fn of_reply(message: &[u8]) -> Option<Response> {
        let question = question_end(message)?.checked_sub(HEADER_LEN)?;
        Response::without_opt(message, question)
    }

    /// The response that a stored message without an OPT record stands for.
    pub(super) fn stored(message: Vec<u8>) -> Response {
        Response {
            message,
            extended_rcode: 0,
            server: None,
        }
    }

    /// The response with another message, which differs in TTLs only.
    pub(super) fn with_message(&self, message: Vec<u8>) -> Response {
        Response {
            message,
            extended_rcode: self.extended_rcode,
            server: self.server,
        }
    }

    /// The response, sent by this upstream.
    pub(super) fn sent_by(self, server: SocketAddr) -> Response {
        Response {
            server: Some(server),
            ..self
        }
    }

    /// The upstream that sent the response, if that is known.
    pub(super) fn server(&self) -> Option<SocketAddr> {
        self.server
    }

    /// Whether the upstream truncated the response.
    pub fn is_truncated(&self) -> bool {
        self.header().tc()
    }

    /// The response code, including the upper bits from the OPT record (RFC 6891 section 6.1.3).
    pub(super) fn rcode(&self) -> OptRcode {
        OptRcode::from_parts(self.header().rcode(), self.extended_rcode)
    }

    /// The ID, opcode, flags and lower response code.
    pub(super) fn header(&self) -> Header {
        *Header::for_message_slice(&self.message)
    }

    /// Whether the response code is that of a positive or negative answer. Any other code is a
    /// failure of the upstream.
    pub(super) fn is_answer(&self) -> bool {
        matches!(self.rcode(), OptRcode::NOERROR | OptRcode::NXDOMAIN)
    }

    /// The message without its OPT record and everything after it.
    pub(super) fn message(&self) -> &[u8] {
        &self.message
    }

    /// The records of the message. `None`: a record's data can't be parsed.
    pub(super) fn records(&self) -> Option<Records> {
        Records::read(&self.message)
    }
}

/// The next record of a message. `None` if the record is malformed.
///
/// A compression pointer from the owner name to bytes after the record is malformed too (RFC 1035
/// section 4.1.4). The name would break if the message were truncated after the record.
fn next_record<'a>(
    message: &'a [u8],
    parser: &mut Parser<'a, [u8]>,
) -> Option<ParsedRecord<'a, [u8]>> {
    let start = parser.pos();
    ParsedRecord::skip(parser).ok()?;
    let mut bounded = Parser::from_ref(&message[..parser.pos()]);
    bounded.advance(start).ok()?;
    ParsedRecord::parse(&mut bounded).ok()
}

/// The end of the question in a query with one question. `None` if it is malformed.
fn question_end(query: &[u8]) -> Option<usize> {
    let message = Message::from_slice(query).ok()?;
    let mut questions = message.question();
    questions.next()?.ok()?;
    Some(questions.pos())
}

/// Whether a question in wire format equals `expected`.
fn is_same_question(bytes: &[u8], expected: &[u8], case: CaseCheck) -> bool {
    // The name is followed by two bytes of type and two of class.
    let Some(name_len) = expected.len().checked_sub(4) else {
        return false;
    };
    let is_same_name = |bytes: &[u8], expected: &[u8]| match case {
        CaseCheck::Ignored => bytes.eq_ignore_ascii_case(expected),
        CaseCheck::Exact => bytes == expected,
    };
    bytes.len() == expected.len()
        && is_same_name(&bytes[..name_len], &expected[..name_len])
        && bytes[name_len..] == expected[name_len..]
}
