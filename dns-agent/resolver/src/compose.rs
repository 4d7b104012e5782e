//! Builds messages from the header, the client's question, the sections and the OPT record, and
//! truncates them to the client's limit.

use domain::{
    base::{Header, ParsedName, ParsedRecord, Question, iana::OptRcode},
    dep::octseq::Parser,
};
use zerohop_zone::Sections;

use super::{
    header::{
        CHECKING_DISABLED, HEADER_LEN, OPCODE, RECURSION_DESIRED, RESPONSE, TRUNCATED, header_word,
        set_flags, set_header_word,
    },
    query::{Edns, Query, Transport},
};

/// The longest datagram without EDNS, in bytes (RFC 1035 section 4.2.1).
const PLAIN_UDP_LIMIT: usize = 512;
/// The longest datagram sent, and the size in the resolver's OPT record, in bytes. Datagrams of
/// this size cross any IPv6 path without fragmentation.
const UDP_LIMIT: u16 = 1232;
/// The length of an OPT record without options, in bytes.
const OPT_LEN: usize = 11;

/// An error reply that consists of a header only, for a message whose question can't be parsed.
pub(super) fn header_only(header: Header, rcode: OptRcode) -> Vec<u8> {
    let flags = header.as_slice();
    let flags = u16::from_be_bytes([flags[2], flags[3]]);
    let mut message = Vec::with_capacity(HEADER_LEN);
    message.extend_from_slice(&header.id().to_be_bytes());
    message.extend_from_slice(&response_flags(flags, 0, rcode).to_be_bytes());
    message.resize(HEADER_LEN, 0);
    message
}

impl Query {
    /// The reply with these sections. `bits` are flags that only replies have: [`AUTHORITATIVE`],
    /// [`TRUNCATED`], [`RECURSION_AVAILABLE`].
    pub(super) fn reply(&self, rcode: OptRcode, bits: u16, sections: &Sections) -> Vec<u8> {
        let flags = response_flags(self.flags, bits, rcode);
        self.assemble(flags, rcode.ext(), sections)
    }

    /// The reply with these sections, and with `flags` as the second 16-bit word of the header.
    pub(super) fn assemble(&self, flags: u16, extended_rcode: u8, sections: &Sections) -> Vec<u8> {
        let length = HEADER_LEN + self.question.len() + sections.bytes.len() + OPT_LEN;
        let mut message = Vec::with_capacity(length);
        for word in [
            self.id,
            flags,
            1,
            sections.answers,
            sections.authorities,
            sections.additionals,
        ] {
            message.extend_from_slice(&word.to_be_bytes());
        }
        message.extend_from_slice(&self.question);
        message.extend_from_slice(&sections.bytes);
        self.finish_message(message, extended_rcode)
    }

    /// An error reply with empty sections.
    pub(super) fn error(&self, rcode: OptRcode) -> Vec<u8> {
        let empty_sections = Sections {
            answers: 0,
            authorities: 0,
            additionals: 0,
            bytes: Vec::new(),
        };
        self.reply(rcode, 0, &empty_sections)
    }

    /// Truncates a message without OPT record to the client's limit, and adds the resolver's OPT
    /// record if the client sent one.
    pub(super) fn finish_message(&self, mut message: Vec<u8>, extended_rcode: u8) -> Vec<u8> {
        let Some(edns) = self.edns else {
            truncate_message(&mut message, self.limit());
            return message;
        };
        truncate_message(&mut message, self.limit() - OPT_LEN);
        push_opt(&mut message, edns, extended_rcode);
        message
    }

    /// The longest reply that the client accepts, in bytes.
    fn limit(&self) -> usize {
        match (self.transport, self.edns) {
            (Transport::Tcp, _) => usize::from(u16::MAX),
            (Transport::Udp, None) => PLAIN_UDP_LIMIT,
            (Transport::Udp, Some(edns)) => {
                usize::from(edns.size.min(UDP_LIMIT)).max(PLAIN_UDP_LIMIT)
            }
        }
    }
}

/// Adds the resolver's OPT record: [`UDP_LIMIT`], the client's DO bit, and no options.
pub(super) fn push_opt(message: &mut Vec<u8>, edns: Edns, extended_rcode: u8) {
    let [size_high, size_low] = UDP_LIMIT.to_be_bytes();
    let dnssec_ok = if edns.dnssec_ok { 0x80 } else { 0 };
    message.extend_from_slice(&[
        0,
        0,
        41,
        size_high,
        size_low,
        extended_rcode,
        0,
        dnssec_ok,
        0,
        0,
        0,
    ]);
    let additionals = header_word(message, 10) + 1;
    set_header_word(message, 10, additionals);
}

fn response_flags(query: u16, bits: u16, rcode: OptRcode) -> u16 {
    let copied = query & (OPCODE | RECURSION_DESIRED | CHECKING_DISABLED);
    RESPONSE | copied | bits | u16::from(rcode.rcode().to_int())
}

/// Truncates a message to at most `limit` bytes by removing whole records from its end.
///
/// Removed answer or authority records set TC. Removed additional records don't, because the client
/// didn't request them (RFC 2181 section 9).
fn truncate_message(message: &mut Vec<u8>, limit: usize) {
    if message.len() <= limit {
        return;
    }
    let fitting = FittingRecords::count(message, limit);
    if fitting.answers < header_word(message, 6) || fitting.authorities < header_word(message, 8) {
        set_flags(message, TRUNCATED);
    }
    set_header_word(message, 6, fitting.answers);
    set_header_word(message, 8, fitting.authorities);
    set_header_word(message, 10, 0);
    message.truncate(fitting.length);
}

/// The answer and authority records that fit a limit.
struct FittingRecords {
    answers: u16,
    authorities: u16,
    /// Length of the message up to the end of the last fitting record, in bytes.
    length: usize,
}

impl FittingRecords {
    fn count(message: &[u8], limit: usize) -> FittingRecords {
        let mut fitting = FittingRecords {
            answers: 0,
            authorities: 0,
            length: HEADER_LEN,
        };
        let mut parser = Parser::from_ref(message);
        let questions = header_word(message, 4);
        if parser.advance(HEADER_LEN).is_err() {
            return fitting;
        }
        for _ in 0..questions {
            if Question::<ParsedName<&[u8]>>::parse(&mut parser).is_err() {
                return fitting;
            }
        }
        fitting.length = parser.pos();
        let records = usize::from(header_word(message, 6)) + usize::from(header_word(message, 8));
        for index in 0..records {
            if ParsedRecord::skip(&mut parser).is_err() || parser.pos() > limit {
                return fitting;
            }
            fitting.length = parser.pos();
            if index < usize::from(header_word(message, 6)) {
                fitting.answers += 1;
            } else {
                fitting.authorities += 1;
            }
        }
        fitting
    }
}
