//! Parses queries: the question and the OPT record of a message.

use domain::{
    base::{
        Message, ParsedRecord,
        iana::{Class, Opcode, OptRcode, Rtype},
    },
    dep::octseq::Parser,
};
use zerohop_zone::Name;

use super::header::{HEADER_LEN, opcode_of_flags};

/// The transport of a query, which limits the length of the reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// UDP: 512 bytes, or the size in the client's OPT record.
    Udp,
    /// TCP: 65,535 bytes.
    Tcp,
}

/// A well-formed query with one question.
#[derive(Clone, Debug)]
pub struct Query {
    /// The message ID, which the reply repeats.
    pub(super) id: u16,
    /// The second 16-bit word of the query's header.
    pub(super) flags: u16,
    /// The question in wire format, in the client's casing.
    pub(super) question: Box<[u8]>,
    /// The queried name in lower case.
    pub(super) name: Name,
    /// The queried type.
    pub(super) qtype: Rtype,
    qclass: Class,
    /// The client's OPT record, if any.
    pub(super) edns: Option<Edns>,
    /// The transport that the query arrived on.
    pub(super) transport: Transport,
}

/// The fields of an OPT record (RFC 6891 section 6.1.3). The data of options is not parsed, because
/// the resolver supports no options.
#[derive(Clone, Copy, Debug)]
pub struct Edns {
    /// The longest datagram that the client accepts, in bytes.
    pub size: u16,
    /// The client's EDNS version.
    pub version: u8,
    /// The DO bit, which the reply repeats.
    pub dnssec_ok: bool,
    /// Whether the record is well-formed.
    pub form: OptForm,
}

/// Whether a query's OPT record is well-formed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OptForm {
    /// The options exactly fill the record's data, and the message has no second OPT record.
    Sound,
    /// The options end before or after the end of the record's data, or the message has two OPT
    /// records.
    Malformed,
}

impl Query {
    /// Parses a message.
    ///
    /// # Errors
    /// The response code for a message that is not a well-formed QUERY or NOTIFY with one question.
    /// Its reply has only a header.
    pub(super) fn parse(message: &Message<[u8]>, transport: Transport) -> Result<Query, OptRcode> {
        if !matches!(message.header().opcode(), Opcode::QUERY | Opcode::NOTIFY) {
            return Err(OptRcode::NOTIMP);
        }
        check_counts(message)?;

        let bytes = message.as_slice();
        let mut questions = message.question();
        let Some(Ok(question)) = questions.next() else {
            return Err(OptRcode::FORMERR);
        };
        let question_bytes = &bytes[HEADER_LEN..questions.pos()];
        let name_bytes = &question_bytes[..question_bytes.len() - 4];
        // A compressed name is an error here, because no name precedes the question.
        let name = Name::from_wire(name_bytes).map_err(|_| OptRcode::FORMERR)?;

        Ok(Query {
            id: message.header().id(),
            flags: u16::from_be_bytes([bytes[2], bytes[3]]),
            question: question_bytes.into(),
            name,
            qtype: question.qtype(),
            qclass: question.qclass(),
            edns: Edns::find(message)?,
            transport,
        })
    }

    /// The response code for a well-formed query that the resolver refuses. `None` if it accepts
    /// the query.
    pub(super) fn refusal_code(&self) -> Option<OptRcode> {
        if let Some(edns) = self.edns {
            // Options of other EDNS versions may have another format.
            if edns.version != 0 {
                return Some(OptRcode::BADVERS);
            }
            // RFC 6891 section 7: the reply to a malformed OPT record has an OPT record too.
            if edns.form == OptForm::Malformed {
                return Some(OptRcode::FORMERR);
            }
        }
        // NOTIFY is for secondary servers (RFC 1996), and the resolver is not a secondary server.
        if opcode_of_flags(self.flags) == Opcode::NOTIFY {
            return Some(OptRcode::REFUSED);
        }
        if self.qclass != Class::IN {
            return Some(OptRcode::REFUSED);
        }
        if is_transfer(self.qtype) {
            return Some(OptRcode::REFUSED);
        }
        None
    }
}

/// Whether the type requests a zone transfer (RFC 5936, RFC 1995). The resolver refuses transfers.
pub fn is_transfer(qtype: Rtype) -> bool {
    matches!(qtype, Rtype::AXFR | Rtype::IXFR)
}

/// Checks the record counts in the header. A query has one question, no answers except in a NOTIFY
/// (RFC 1996 section 3.7), no authority records except in an IXFR (RFC 1995 section 3) or a NOTIFY,
/// and at most two additional records: an OPT record and a signature.
///
/// # Errors
/// FORMERR when a count is wrong.
fn check_counts(message: &Message<[u8]>) -> Result<(), OptRcode> {
    let counts = message.header_counts();
    let is_notify = message.header().opcode() == Opcode::NOTIFY;
    let is_ixfr = matches!(message.first_question(), Some(it) if it.qtype() == Rtype::IXFR);
    let fits = counts.qdcount() == 1
        && counts.ancount() <= u16::from(is_notify)
        && counts.nscount() <= u16::from(is_notify || is_ixfr)
        && counts.arcount() <= 2;
    if fits { Ok(()) } else { Err(OptRcode::FORMERR) }
}

impl Edns {
    /// Parses all records of the message, and returns the OPT record.
    ///
    /// # Errors
    /// FORMERR when the records don't end at the message's end, or the owner of an OPT record is
    /// not the root, or an OPT record is outside the additional section.
    fn find(message: &Message<[u8]>) -> Result<Option<Edns>, OptRcode> {
        let bytes = message.as_slice();
        let counts = message.header_counts();
        let mut questions = message.question();
        for question in questions.by_ref() {
            question.map_err(|_| OptRcode::FORMERR)?;
        }
        let mut parser = Parser::from_ref(bytes);
        parser
            .advance(questions.pos())
            .map_err(|_| OptRcode::FORMERR)?;
        let before = u32::from(counts.ancount()) + u32::from(counts.nscount());
        let mut found: Option<Edns> = None;
        for number in 0..before + u32::from(counts.arcount()) {
            let record = ParsedRecord::parse(&mut parser).map_err(|_| OptRcode::FORMERR)?;
            if record.rtype() != Rtype::OPT {
                continue;
            }
            if number < before || !record.owner().is_root() {
                return Err(OptRcode::FORMERR);
            }
            match &mut found {
                Some(first) => first.form = OptForm::Malformed,
                None => found = Some(Edns::read(&record, &bytes[..parser.pos()])),
            }
        }
        if parser.remaining() > 0 {
            return Err(OptRcode::FORMERR);
        }
        Ok(found)
    }

    /// The fields of an OPT record. `bytes` must end where the record's data ends.
    fn read(record: &ParsedRecord<'_, [u8]>, bytes: &[u8]) -> Edns {
        let [_extended_rcode, version, flags, _] = record.ttl().as_secs().to_be_bytes();
        let data = &bytes[bytes.len() - usize::from(record.rdlen())..];
        Edns {
            size: record.class().to_int(),
            version,
            dnssec_ok: flags & 0x80 != 0,
            form: OptForm::check(data),
        }
    }
}

impl OptForm {
    /// Checks the options, each a code, a length and data (RFC 6891 section 6.1.2).
    fn check(mut options: &[u8]) -> OptForm {
        while let [_, _, high, low, rest @ ..] = options {
            let length = usize::from(u16::from_be_bytes([*high, *low]));
            match rest.get(length..) {
                Some(next) => options = next,
                None => return OptForm::Malformed,
            }
        }
        match options {
            [] => OptForm::Sound,
            _ => OptForm::Malformed,
        }
    }
}
