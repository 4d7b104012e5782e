//! An upstream's word: what it is asked, what counts as its answer, and how the
//! answer becomes the client's.

use domain::{
    base::{
        Message, Name as WireName, ParsedName, ParsedRecord, ToName,
        iana::{Class, Opcode, OptRcode, Rtype},
    },
    dep::octseq::Parser,
    rdata::{A, Aaaa, Cname},
};

use super::{
    compose::{
        self, AUTHENTIC_DATA, AUTHORITATIVE, CHECKING_DISABLED, HEADER_LEN, RECURSION_DESIRED,
        RESERVED, TRUNCATED,
    },
    message::{Chase, Query},
};
use crate::zone::{Answer, Name, Rdata, Record, ZoneData, render};

/// A query as an upstream gets it: ours, with nothing of the client's but its
/// question and the bits that concern the answer.
#[derive(Debug)]
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

    /// The addresses and links of the answer section.
    fn addresses(&self) -> Vec<Record> {
        let Ok(message) = Message::from_slice(&self.message) else {
            return Vec::new();
        };
        let Ok(answers) = message.answer() else {
            return Vec::new();
        };
        answers
            .filter_map(|record| address_record(&record.ok()?))
            .collect()
    }
}

impl Query {
    /// The upstream's message as the client's: with its ID, its question in its
    /// own casing, our OPT record, the reserved bit clear, and no longer than it
    /// takes.
    pub fn relay(&self, response: Response) -> Vec<u8> {
        let mut message = response.message;
        message[..2].copy_from_slice(&self.id.to_be_bytes());
        compose::clear_flags(&mut message, RESERVED);
        message[HEADER_LEN..HEADER_LEN + self.question.len()].copy_from_slice(&self.question);
        self.finish(message, response.extended_rcode)
    }
}

impl Chase {
    /// The alias with what the upstream said about its target. Without an answer
    /// from any upstream there is no data of the type asked for; an answer
    /// without addresses leaves the alias alone.
    pub fn complete(
        &self,
        response: Option<&Response>,
        model: &dyn ZoneData,
        rotation: usize,
    ) -> Vec<u8> {
        let query = &self.query;
        let answer = match (response, model.zone_of(&query.name)) {
            (Some(response), _) => Answer::Data {
                answer: self.followed(&response.addresses()),
                additional: Vec::new(),
            },
            (None, Some(zone)) => Answer::NoData { zone },
            (None, None) => return query.error(OptRcode::SERVFAIL),
        };
        let sections = render(&query.name, &answer, model.zones(), rotation);
        let mut message = query.reply(OptRcode::NOERROR, AUTHORITATIVE, &sections);
        if response.is_some_and(Response::is_truncated) {
            compose::set_flags(&mut message, TRUNCATED);
        }
        message
    }

    /// Our links, the upstream's links from where ours lead, and the records at
    /// the end of them.
    fn followed(&self, found: &[Record]) -> Vec<Record> {
        let mut records = self.chain.clone();
        let mut end = &self.target;
        // A circle ends here too.
        for _ in found {
            let Some((link, next)) = found.iter().find_map(|record| match &record.data {
                Rdata::Cname(next) if record.owner == *end => Some((record, next)),
                _ => None,
            }) else {
                break;
            };
            records.push(link.clone());
            end = next;
        }
        let at_end =
            |record: &&Record| record.owner == *end && record.data.rtype() == self.query.qtype;
        records.extend(found.iter().filter(at_end).cloned());
        records
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

/// The record as ours, if it is an address or a link.
fn address_record(record: &ParsedRecord<'_, [u8]>) -> Option<Record> {
    if record.class() != Class::IN {
        return None;
    }
    let data = match record.rtype() {
        Rtype::A => Rdata::A(record.to_record::<A>().ok()??.data().addr()),
        Rtype::AAAA => Rdata::Aaaa(record.to_record::<Aaaa>().ok()??.data().addr()),
        Rtype::CNAME => {
            let record = record.to_record::<Cname<ParsedName<&[u8]>>>().ok()??;
            Rdata::Cname(name(record.data().cname())?)
        }
        _ => return None,
    };
    Some(Record {
        owner: name(&record.owner())?,
        ttl: record.ttl().as_secs(),
        data,
    })
}

fn name(parsed: &impl ToName) -> Option<Name> {
    let wire: WireName<Vec<u8>> = parsed.try_to_name().ok()?;
    Name::from_wire(wire.as_slice()).ok()
}
