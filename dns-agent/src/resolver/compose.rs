//! Messages put together: the header, the client's own question, the sections,
//! and the OPT record, cut to what the client takes.

use domain::{
    base::{
        Header, ParsedName, ParsedRecord, Question,
        iana::{Opcode, OptRcode},
    },
    dep::octseq::Parser,
};

use super::message::{Edns, Query, Transport};
use crate::zone::Sections;

/// The length of a message's header, RFC 1035 section 4.1.1.
pub(super) const HEADER_LEN: usize = 12;
/// AA: the answer comes from the zone's own data.
pub(super) const AUTHORITATIVE: u16 = 0x0400;
/// TC: the answer did not fit.
pub(super) const TRUNCATED: u16 = 0x0200;
/// RA: the server asks others for what it doesn't know.
pub(super) const RECURSION_AVAILABLE: u16 = 0x0080;
/// RD: the client wants recursion.
pub(super) const RECURSION_DESIRED: u16 = 0x0100;
/// Z: reserved, and zero in all messages (RFC 1035 section 4.1.1).
pub(super) const RESERVED: u16 = 0x0040;
/// AD: in a query, the client understands the bit (RFC 6840 section 5.7).
pub(super) const AUTHENTIC_DATA: u16 = 0x0020;
/// CD: the client checks signatures itself (RFC 4035 section 3.2.2).
pub(super) const CHECKING_DISABLED: u16 = 0x0010;

const RESPONSE: u16 = 0x8000;
const OPCODE: u16 = 0x7800;

/// The longest datagram without EDNS, RFC 1035 section 4.2.1.
const PLAIN_UDP_LIMIT: usize = 512;
/// The longest datagram sent, and the size our OPT record offers: it crosses
/// any IPv6 path in one piece.
const UDP_LIMIT: u16 = 1232;
/// An OPT record without options.
const OPT_LEN: usize = 11;

/// The opcode in a header's second word.
pub(super) fn opcode(flags: u16) -> Opcode {
    Opcode::from_int(((flags & OPCODE) >> 11) as u8)
}

/// An error for a message of which nothing but the header is understood.
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
    /// The reply with these sections, and with bits of the header's second word that only replies
    /// have: [`AUTHORITATIVE`], [`TRUNCATED`], [`RECURSION_AVAILABLE`].
    pub(super) fn reply(&self, rcode: OptRcode, bits: u16, sections: &Sections) -> Vec<u8> {
        let flags = response_flags(self.flags, bits, rcode);
        self.assemble(flags, rcode.ext(), sections)
    }

    /// The reply with these sections, whose header's second word is `flags`.
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
        self.finish(message, extended_rcode)
    }

    /// The reply that says only what went wrong.
    pub(super) fn error(&self, rcode: OptRcode) -> Vec<u8> {
        let nothing = Sections {
            answers: 0,
            authorities: 0,
            additionals: 0,
            bytes: Vec::new(),
        };
        self.reply(rcode, 0, &nothing)
    }

    /// Cuts a message without OPT record to the client's limit and adds ours if
    /// the client sent one.
    pub(super) fn finish(&self, mut message: Vec<u8>, extended_rcode: u8) -> Vec<u8> {
        let Some(edns) = self.edns else {
            cut(&mut message, self.limit());
            return message;
        };
        cut(&mut message, self.limit() - OPT_LEN);
        push_opt(&mut message, edns, extended_rcode);
        message
    }

    /// The longest reply the client takes, in octets.
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

/// Adds our OPT record: our own size, the client's DO bit, no options.
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
    let additionals = count(message, 10) + 1;
    set_count(message, 10, additionals);
}

/// Sets bits of a message's second word.
pub(super) fn set_flags(message: &mut [u8], bits: u16) {
    let flags = count(message, 2) | bits;
    set_count(message, 2, flags);
}

/// Clears bits of a message's second word.
pub(super) fn clear_flags(message: &mut [u8], bits: u16) {
    let flags = count(message, 2) & !bits;
    set_count(message, 2, flags);
}

/// The 16-bit word at an offset inside the header.
pub(super) fn count(message: &[u8], offset: usize) -> u16 {
    u16::from_be_bytes([message[offset], message[offset + 1]])
}

/// Sets the 16-bit word at an offset inside the header.
pub(super) fn set_count(message: &mut [u8], offset: usize, value: u16) {
    message[offset..offset + 2].copy_from_slice(&value.to_be_bytes());
}

fn response_flags(query: u16, bits: u16, rcode: OptRcode) -> u16 {
    let copied = query & (OPCODE | RECURSION_DESIRED | CHECKING_DISABLED);
    RESPONSE | copied | bits | u16::from(rcode.rcode().to_int())
}

/// Cuts a message to at most `limit` octets, by whole records from its end.
///
/// Losing additional records loses nothing the client asked for, so TC stays
/// clear then (RFC 2181 section 9). Losing others sets it.
fn cut(message: &mut Vec<u8>, limit: usize) {
    if message.len() <= limit {
        return;
    }
    let fitting = Fitting::count(message, limit);
    if fitting.answers < count(message, 6) || fitting.authorities < count(message, 8) {
        set_flags(message, TRUNCATED);
    }
    set_count(message, 6, fitting.answers);
    set_count(message, 8, fitting.authorities);
    set_count(message, 10, 0);
    message.truncate(fitting.length);
}

/// How much of a message's answer and authority sections fits a limit.
struct Fitting {
    answers: u16,
    authorities: u16,
    /// Up to the end of the last record that fits.
    length: usize,
}

impl Fitting {
    fn count(message: &[u8], limit: usize) -> Fitting {
        let mut fitting = Fitting {
            answers: 0,
            authorities: 0,
            length: HEADER_LEN,
        };
        let mut parser = Parser::from_ref(message);
        let questions = count(message, 4);
        if parser.advance(HEADER_LEN).is_err() {
            return fitting;
        }
        for _ in 0..questions {
            if Question::<ParsedName<&[u8]>>::parse(&mut parser).is_err() {
                return fitting;
            }
        }
        fitting.length = parser.pos();
        let records = usize::from(count(message, 6)) + usize::from(count(message, 8));
        for index in 0..records {
            if ParsedRecord::skip(&mut parser).is_err() || parser.pos() > limit {
                return fitting;
            }
            fitting.length = parser.pos();
            if index < usize::from(count(message, 6)) {
                fitting.answers += 1;
            } else {
                fitting.authorities += 1;
            }
        }
        fitting
    }
}
