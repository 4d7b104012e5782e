//! What an upstream is asked, and what counts as its answer.

use domain::{
    base::{
        Message, Name as WireName, ParsedName, ParsedRecord, ToName,
        iana::{Class, Opcode, OptRcode, Rcode, Rtype},
        message::Section,
        rdata::ComposeRecordData,
    },
    dep::octseq::Parser,
    rdata::{A, Aaaa, AllRecordData, Cname},
};

use super::{
    compose::{self, AUTHENTIC_DATA, CHECKING_DISABLED, HEADER_LEN, RECURSION_DESIRED, TRUNCATED},
    message::{Chase, Query},
};
use crate::zone::{Name, Rdata, Record};

/// A query as an upstream gets it: ours, with nothing of the client's but its
/// question and the bits that concern the answer.
#[derive(Clone, Debug)]
pub struct UpstreamQuery {
    octets: Vec<u8>,
}

/// An upstream's answer to a query of ours.
#[derive(Debug)]
pub struct Response {
    /// The message without its OPT record.
    message: Vec<u8>,
    /// The upper bits of the response code, from the OPT record.
    extended_rcode: u8,
}

impl UpstreamQuery {
    /// Asks what the client asked.
    pub fn forwarding(query: &Query) -> UpstreamQuery {
        let bits = RECURSION_DESIRED | AUTHENTIC_DATA | CHECKING_DISABLED;
        let mut upstream = UpstreamQuery::new(query.flags & bits, &query.question);
        if let Some(edns) = query.edns {
            compose::push_opt(&mut upstream.octets, edns, 0);
        }
        upstream
    }

    /// Asks for the target of an alias.
    pub fn chasing(chase: &Chase) -> UpstreamQuery {
        let mut question = chase.target.wire().to_vec();
        question.extend_from_slice(&chase.query.qtype.to_int().to_be_bytes());
        question.extend_from_slice(&Class::IN.to_int().to_be_bytes());
        UpstreamQuery::new(RECURSION_DESIRED, &question)
    }

    fn new(flags: u16, question: &[u8]) -> UpstreamQuery {
        let mut octets = Vec::with_capacity(HEADER_LEN + question.len());
        for word in [0, flags, 1, 0, 0, 0] {
            octets.extend_from_slice(&word.to_be_bytes());
        }
        octets.extend_from_slice(question);
        UpstreamQuery { octets }
    }

    /// Asks for the address of a name that nobody else asks for.
    pub(super) fn probing(name: &Name) -> UpstreamQuery {
        let types = [Rtype::A.to_int(), Class::IN.to_int()].map(u16::to_be_bytes);
        UpstreamQuery::new(
            RECURSION_DESIRED,
            &[name.wire(), types.as_flattened()].concat(),
        )
    }

    /// What makes two queries the same: all but the ID and the name's casing.
    pub(super) fn identity(&self) -> Vec<u8> {
        let mut octets = self.octets.clone();
        let mut rest = octets.get_mut(HEADER_LEN..).unwrap_or_default();
        // Not a letter of it is in what follows the name: types and classes are numbers.
        while let Some((length, labels)) = rest.split_first_mut() {
            let length = usize::from(*length).min(labels.len());
            if length == 0 {
                break;
            }
            let (label, others) = labels.split_at_mut(length);
            label.make_ascii_lowercase();
            rest = others;
        }
        octets
    }

    /// The message to send under this ID.
    pub fn with_id(&self, id: u16) -> Vec<u8> {
        let mut octets = self.octets.clone();
        octets[..2].copy_from_slice(&id.to_be_bytes());
        octets
    }
}

impl Response {
    /// Takes what came back for an answer, if it is a well-formed one with the
    /// ID and the question of `asked`, a message that was sent.
    pub fn parse(octets: &[u8], asked: &[u8]) -> Option<Response> {
        let message = Message::from_slice(octets).ok()?;
        let header = message.header();
        let expected = Message::from_slice(asked).ok()?;
        let is_ours = header.qr()
            && header.id() == expected.header().id()
            && header.opcode() == Opcode::QUERY
            && message.header_counts().qdcount() == 1;
        if !is_ours {
            return None;
        }
        let mut questions = expected.question();
        questions.next()?.ok()?;
        let question = &asked[HEADER_LEN..questions.pos()];
        if !is_question(octets.get(HEADER_LEN..questions.pos())?, question) {
            return None;
        }
        Response::without_opt(octets, question.len())
    }

    /// Walks over all records and leaves the OPT record out, with whatever
    /// stands after it.
    fn without_opt(octets: &[u8], question_len: usize) -> Option<Response> {
        // A name that points into the header would change with the header, so none may: this
        // octet is part of no name.
        let mut blanked = octets.to_vec();
        blanked[..HEADER_LEN].fill(0xff);
        let mut parser = Parser::from_ref(blanked.as_slice());
        parser.advance(HEADER_LEN + question_len).ok()?;
        let mut response = Response {
            message: octets.to_vec(),
            extended_rcode: 0,
        };
        let records = |offset| u32::from(compose::count(octets, offset));
        for _ in 0..records(6) + records(8) {
            next_record(&blanked, &mut parser)?;
        }
        for index in 0..compose::count(octets, 10) {
            let start = parser.pos();
            let record = next_record(&blanked, &mut parser)?;
            if record.rtype() == Rtype::OPT {
                response.message.truncate(start);
                compose::set_count(&mut response.message, 10, index);
                [response.extended_rcode, ..] = record.ttl().as_secs().to_be_bytes();
                return Some(response);
            }
        }
        response.message.truncate(parser.pos());
        Some(response)
    }

    /// Whether the upstream had more to say than fitted.
    pub fn is_truncated(&self) -> bool {
        compose::count(&self.message, 2) & TRUNCATED != 0
    }

    /// The response code, with the upper bits of the OPT record (RFC 6891 section 6.1.3).
    pub(super) fn rcode(&self) -> OptRcode {
        let low = Rcode::masked_from_int(self.message[3]);
        OptRcode::from_parts(low, self.extended_rcode)
    }

    /// The bits of the header's second word among these.
    pub(super) fn flags(&self, bits: u16) -> u16 {
        compose::count(&self.message, 2) & bits
    }

    /// Whether the upstream knows the answer, even if it is that there is none; any other response
    /// code says that it failed.
    pub(super) fn is_answer(&self) -> bool {
        matches!(self.rcode(), OptRcode::NOERROR | OptRcode::NXDOMAIN)
    }

    /// The message without its OPT record.
    pub(super) fn message(&self) -> &[u8] {
        &self.message
    }

    /// The records of the message.
    pub(super) fn records(&self) -> Option<Records> {
        Records::read(&self.message)
    }
}

/// The records of a message.
#[derive(Debug, Default)]
pub(crate) struct Records {
    /// Those of class IN in the answer, authority and additional section.
    pub(crate) sections: [Vec<Record>; 3],
    /// How many there are of all classes.
    pub(crate) count: usize,
}

impl Records {
    /// Reads a message. `None`: the data of a record can't be read.
    pub(crate) fn read(message: &[u8]) -> Option<Records> {
        let message = Message::from_slice(message).ok()?;
        let mut records = Records::default();
        for entry in message.iter() {
            let (parsed, section) = entry.ok()?;
            let section = match section {
                Section::Answer => 0,
                Section::Authority => 1,
                Section::Additional => 2,
            };
            records.count += 1;
            if parsed.class() == Class::IN {
                records.sections[section].push(record(&parsed)?);
            }
        }
        Some(records)
    }
}

/// The next record of a message, if its owner is spelt before its end (RFC 1035 section 4.1.4): an owner
/// that points further would lose its octets when the message is cut behind the record.
fn next_record<'a>(
    message: &'a [u8],
    parser: &mut Parser<'a, [u8]>,
) -> Option<ParsedRecord<'a, [u8]>> {
    let start = parser.pos();
    ParsedRecord::skip(parser).ok()?;
    let mut alone = Parser::from_ref(&message[..parser.pos()]);
    alone.advance(start).ok()?;
    ParsedRecord::parse(&mut alone).ok()
}

/// Whether a question's octets ask what `asked` asks: the name may differ in
/// casing, as some servers don't keep it.
fn is_question(octets: &[u8], asked: &[u8]) -> bool {
    let Some(name_len) = asked.len().checked_sub(4) else {
        return false;
    };
    octets.len() == asked.len()
        && octets[..name_len].eq_ignore_ascii_case(&asked[..name_len])
        && octets[name_len..] == asked[name_len..]
}

/// A record as ours.
fn record(parsed: &ParsedRecord<'_, [u8]>) -> Option<Record> {
    let data = match parsed.rtype() {
        Rtype::A => Rdata::A(parsed.to_record::<A>().ok()??.data().addr()),
        Rtype::AAAA => Rdata::Aaaa(parsed.to_record::<Aaaa>().ok()??.data().addr()),
        Rtype::CNAME => {
            let parsed = parsed.to_record::<Cname<ParsedName<&[u8]>>>().ok()??;
            Rdata::Cname(name(parsed.data().cname())?)
        }
        rtype => Rdata::Opaque(rtype, uncompressed(parsed)?.into()),
    };
    Some(Record {
        owner: name(&parsed.owner())?,
        ttl: parsed.ttl().as_secs(),
        data,
    })
}

/// A record's data, with its names spelt out.
fn uncompressed(parsed: &ParsedRecord<'_, [u8]>) -> Option<Vec<u8>> {
    let mut octets = Vec::new();
    let any = parsed.to_any_record::<AllRecordData<&[u8], ParsedName<&[u8]>>>();
    any.ok()?.data().compose_rdata(&mut octets).ok()?;
    Some(octets)
}

fn name(parsed: &impl ToName) -> Option<Name> {
    let wire: WireName<Vec<u8>> = parsed.try_to_name().ok()?;
    Name::from_wire(wire.as_slice()).ok()
}
