//! Builds replies from the header, the client's question, the sections and the OPT record, and
//! truncates them to the limit of the query's transport and EDNS size.

use domain::{
    base::{
        Header, HeaderCounts, ParsedName, ParsedRecord, Question,
        header::Flags,
        iana::{OptRcode, Rcode},
    },
    dep::octseq::Parser,
};
use zerohop_zone::{Sections, Window, render_sections};

use super::{
    query::{Edns, HEADER_LEN, Query, Transport},
    records::Records,
};

/// The longest datagram without EDNS, in bytes (RFC 1035 section 4.2.1).
const PLAIN_UDP_LIMIT: usize = 512;
/// The longest datagram sent, and the size in the resolver's OPT record, in bytes. Datagrams of
/// this size cross any IPv6 path without fragmentation: with 48 bytes of headers they have IPv6's
/// minimum MTU of 1280.
const UDP_LIMIT: u16 = 1232;
/// The length of an OPT record without options, in bytes.
const OPT_LEN: usize = 11;
/// The option code of an extended DNS error (RFC 8914 section 2).
const EXTENDED_ERROR: u16 = 15;

/// Why a reply is an error, or is not as fresh as it should be (RFC 8914, and the IANA registry).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ExtendedError {
    /// Too many queries wait.
    Overloaded,
    /// The records have expired, and upstreams don't answer.
    StaleAnswer,
    /// Upstreams failed a moment ago, and were not asked again.
    CachedError,
    /// As [`ExtendedError::StaleAnswer`], for a name that doesn't exist.
    StaleNxdomain,
    /// No upstream answered.
    NoReachableAuthority,
    /// No record can have the type.
    InvalidQueryType,
}

/// An error reply that consists of a header only, for a message that [`Query::parse`] rejects.
pub(super) fn header_only(header: Header, rcode: OptRcode) -> Vec<u8> {
    let header = reply_header(header, rcode, Flags::default());
    let mut message = header.as_slice().to_vec();
    message.resize(HEADER_LEN, 0);
    message
}

impl Query {
    /// The reply with these sections. AA, TC, RA and AD come from `flags`; truncation also sets TC.
    pub(super) fn reply(
        &self,
        rcode: OptRcode,
        flags: Flags,
        sections: &Sections,
        error: Option<ExtendedError>,
    ) -> Vec<u8> {
        let message = self.assemble_whole(reply_header(self.header, rcode, flags), sections);
        self.finish_message(message, rcode.ext(), error)
    }

    /// The message with this header and these sections, of any length and without an OPT record.
    pub(super) fn assemble_whole(&self, header: Header, sections: &Sections) -> Vec<u8> {
        assemble(header, &self.question, sections)
    }

    /// An error reply with the question and, if the client sent one, an OPT record.
    pub(super) fn error_reply(&self, rcode: OptRcode) -> Vec<u8> {
        self.error_reply_about(rcode, None)
    }

    /// An error reply that says more, if the client sent an OPT record.
    pub(super) fn error_reply_about(
        &self,
        rcode: OptRcode,
        error: Option<ExtendedError>,
    ) -> Vec<u8> {
        let empty_sections = Sections {
            answers: 0,
            authorities: 0,
            additionals: 0,
            bytes: Vec::new(),
        };
        self.reply(rcode, Flags::default(), &empty_sections, error)
    }

    /// Adds the resolver's OPT record to a message without one, if the client sent one. First
    /// restores the client's question if a route has rewritten it, and truncates the message, so
    /// that the result keeps to [`Query::limit`].
    pub(super) fn finish_message(
        &self,
        mut message: Vec<u8>,
        extended_rcode: u8,
        error: Option<ExtendedError>,
    ) -> Vec<u8> {
        if let Some(client) = &self.client_question
            && let Some((header, sections)) = client.restore(&message)
        {
            message = assemble(header, &client.question, &sections);
        }
        let Some(edns) = self.edns else {
            if extended_rcode != 0 {
                // Without an OPT record, the lower bits alone would be another code, such as
                // NOERROR.
                Header::for_message_slice_mut(&mut message).set_rcode(Rcode::SERVFAIL);
            }
            self.fit_message(&mut message, self.limit());
            return message;
        };
        let options = error.map_or_else(Vec::new, ExtendedError::option);
        self.fit_message(&mut message, self.limit() - OPT_LEN - options.len());
        push_opt(&mut message, edns, extended_rcode, &options);
        message
    }

    /// Shortens a message to at most `limit` bytes: compresses its names, which an upstream may not
    /// have done, and truncates it if that is not enough.
    fn fit_message(&self, message: &mut Vec<u8>, limit: usize) {
        if message.len() > limit
            && let Some(shorter) = self.compress(message)
            && shorter.len() < message.len()
        {
            *message = shorter;
        }
        truncate_message(message, limit);
    }

    /// The message with compressed names. `None` if it can't be parsed, or has records of other
    /// classes than IN.
    fn compress(&self, message: &[u8]) -> Option<Vec<u8>> {
        let Records { sections, count } = Records::read(message)?;
        let [answer, authority, additional] = &sections;
        if count != answer.len() + authority.len() + additional.len() {
            return None;
        }
        let client = self.client_question.as_deref();
        let (question, name) = client.map_or((&self.question, &self.name), |client| {
            (&client.question, &client.name)
        });
        let header = *Header::for_message_slice(message.get(..HEADER_LEN)?);
        let sections = render_sections(name, [answer, authority, additional], 0);
        Some(assemble(header, question, &sections))
    }

    /// The part of the zone data that fits a reply. `rotation` is as in
    /// [`respond`](super::message::respond).
    pub(super) fn window(&self, rotation: usize) -> Window {
        // The names that are restored may be shorter, so that more records fit.
        let bytes = match self.client_question {
            Some(_) => Window::WHOLE.bytes,
            None => self.limit(),
        };
        Window {
            bytes,
            rotation,
            ..Window::WHOLE
        }
    }

    /// The longest reply to send, in bytes. A client's EDNS size counts as at least 512 (RFC 6891
    /// section 6.2.3) and at most [`UDP_LIMIT`].
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

impl ExtendedError {
    /// The option in wire form: code, length, INFO-CODE and, where that says too little, a text.
    fn option(self) -> Vec<u8> {
        let (info_code, text): (u16, &str) = match self {
            ExtendedError::Overloaded => (0, "too many queries wait"),
            ExtendedError::StaleAnswer => (3, ""),
            ExtendedError::CachedError => (13, ""),
            ExtendedError::StaleNxdomain => (19, ""),
            ExtendedError::NoReachableAuthority => (22, ""),
            ExtendedError::InvalidQueryType => (30, ""),
        };
        let length = size_of::<u16>() + text.len();
        let numbers = [EXTENDED_ERROR, length as u16, info_code].map(u16::to_be_bytes);
        [numbers.as_flattened(), text.as_bytes()].concat()
    }
}

/// The message with this header, question and sections, of any length and without an OPT record.
pub(super) fn assemble(header: Header, question: &[u8], sections: &Sections) -> Vec<u8> {
    let length = HEADER_LEN + question.len() + sections.bytes.len() + OPT_LEN;
    let mut message = Vec::with_capacity(length);
    message.extend_from_slice(header.as_slice());
    for count in [
        1,
        sections.answers,
        sections.authorities,
        sections.additionals,
    ] {
        message.extend_from_slice(&count.to_be_bytes());
    }
    message.extend_from_slice(question);
    message.extend_from_slice(&sections.bytes);
    message
}

/// Adds the resolver's OPT record to a reply or an upstream query: [`UDP_LIMIT`] as the size,
/// `extended_rcode`, the DO bit of the client's `edns`, and these options in wire form.
pub(super) fn push_opt(message: &mut Vec<u8>, edns: Edns, extended_rcode: u8, options: &[u8]) {
    let [size_high, size_low] = UDP_LIMIT.to_be_bytes();
    let dnssec_ok = if edns.dnssec_ok { 0x80 } else { 0 };
    let root = [0];
    let opt_type = [0, 41];
    let version = 0;
    let rdata_length = (options.len() as u16).to_be_bytes();
    message.extend_from_slice(&root);
    message.extend_from_slice(&opt_type);
    message.extend_from_slice(&[size_high, size_low]);
    message.extend_from_slice(&[extended_rcode, version, dnssec_ok, 0]);
    message.extend_from_slice(&rdata_length);
    message.extend_from_slice(options);
    let counts = HeaderCounts::for_message_slice_mut(message);
    counts.set_arcount(counts.arcount() + 1);
}

/// The first four bytes of a reply's header: the ID, opcode, RD and CD of the query, the lower four
/// bits of `rcode`, and AA, TC, RA and AD from `flags`.
fn reply_header(query: Header, rcode: OptRcode, flags: Flags) -> Header {
    let mut header = Header::new();
    header.set_id(query.id());
    header.set_opcode(query.opcode());
    header.set_flags(Flags {
        qr: true,
        rd: query.rd(),
        cd: query.cd(),
        ..flags
    });
    header.set_rcode(rcode.rcode());
    header
}

/// Truncates a message to at most `limit` bytes. Removes all additional records, then as many
/// answer and authority records from the end as necessary.
///
/// TC is set only if an answer or authority record is removed, because the client didn't request
/// additional records (RFC 2181 section 9).
fn truncate_message(message: &mut Vec<u8>, limit: usize) {
    if message.len() <= limit {
        return;
    }
    let fitting = FittingRecords::count(message, limit);
    let counts = HeaderCounts::for_message_slice_mut(message);
    let is_incomplete =
        fitting.answers < counts.ancount() || fitting.authorities < counts.nscount();
    counts.set_ancount(fitting.answers);
    counts.set_nscount(fitting.authorities);
    counts.set_arcount(0);
    if is_incomplete {
        Header::for_message_slice_mut(message).set_tc(true);
    }
    message.truncate(fitting.length);
}

/// The leading answer and authority records that fit a limit.
struct FittingRecords {
    answers: u16,
    authorities: u16,
    /// Length of the message up to the end of the last record that fits, in bytes. If none fits, up
    /// to the end of the question.
    length: usize,
}

impl FittingRecords {
    /// Counts the records that fit `limit` bytes, up to the first one that can't be parsed.
    fn count(message: &[u8], limit: usize) -> FittingRecords {
        let mut fitting = FittingRecords {
            answers: 0,
            authorities: 0,
            length: HEADER_LEN,
        };
        let mut parser = Parser::from_ref(message);
        let counts = HeaderCounts::for_message_slice(message);
        if parser.advance(HEADER_LEN).is_err() {
            return fitting;
        }
        for _ in 0..counts.qdcount() {
            if Question::<ParsedName<&[u8]>>::parse(&mut parser).is_err() {
                return fitting;
            }
        }
        fitting.length = parser.pos();
        let answers = u32::from(counts.ancount());
        for index in 0..answers + u32::from(counts.nscount()) {
            if ParsedRecord::skip(&mut parser).is_err() || parser.pos() > limit {
                return fitting;
            }
            fitting.length = parser.pos();
            if index < answers {
                fitting.answers += 1;
            } else {
                fitting.authorities += 1;
            }
        }
        fitting
    }
}

#[cfg(test)]
mod tests {
    use domain::base::{Message, iana::Rtype};
    use zerohop_routes::{AfterMatch, NameRewrite, RewriteStep, RouteBlock, Routes, Way};
    use zerohop_zone::{Name, build_query};

    use super::*;

    #[test]
    fn all_records_of_a_rewritten_name_are_read_because_restored_names_may_be_shorter() {
        let name = Name::parse("a.example").unwrap();
        let rule = NameRewrite::Exact(name.clone(), "a-longer-name.example.".into());
        let routes = Routes::new(vec![RouteBlock {
            zones: vec![Name::root()],
            rewrites: vec![RewriteStep::Name(rule, AfterMatch::Stop)],
            ..RouteBlock::default()
        }]);
        let Way::Rewritten(rewriting) = routes.way(&name, Rtype::SRV) else {
            panic!("not rewritten");
        };
        let bytes = build_query(7, &name, Rtype::SRV);
        let message = Message::from_slice(&bytes).unwrap();
        let query = Query::parse(message, Transport::Udp).unwrap();
        assert_eq!(query.window(0).bytes, PLAIN_UDP_LIMIT);
        let rewritten = query.rewritten(rewriting);
        assert_eq!(rewritten.window(0).bytes, Window::WHOLE.bytes);
    }
}
