//! A query taken apart, and what to do about it.
//!
//! [`respond`] is the whole decision: a pure function of the query's octets and
//! the model. What needs an upstream comes back as something to ask for; sockets
//! and time live elsewhere.

use domain::{
    base::{
        Message, ParsedRecord,
        iana::{Class, Opcode, OptRcode, Rtype},
    },
    dep::octseq::Parser,
};

use super::compose::{self, AUTHORITATIVE};
use crate::zone::{Answer, Name, Record, ZoneData, render};

/// What to do about a query.
#[derive(Debug)]
pub enum Reply {
    /// Send this message.
    Message(Vec<u8>),
    /// The name is not ours: ask an upstream and relay what it says.
    Forward(Query),
    /// An alias leads out of our zones: ask an upstream for its target.
    Chase(Chase),
    /// This is no query: say nothing.
    Ignore,
}

/// An alias to be completed with an upstream's answer.
#[derive(Debug)]
pub struct Chase {
    /// The query that led here.
    pub query: Query,
    /// The CNAMEs that are known, in order.
    pub chain: Vec<Record>,
    /// Where the last of them leads.
    pub target: Name,
    /// Bits of the reply's header.
    pub(super) flags: u16,
    /// How many questions upstreams were asked for this query.
    pub(super) questions: usize,
}

/// How a query came, and so how long its reply may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Datagrams: 512 octets, or what EDNS offers.
    Udp,
    /// Streams: 65535 octets.
    Tcp,
}

/// A well-formed query of one question.
#[derive(Clone, Debug)]
pub struct Query {
    /// The message ID, to be repeated.
    pub(super) id: u16,
    /// The header's second word as it came.
    pub(super) flags: u16,
    /// The question's octets as they came, in the client's casing.
    pub(super) question: Box<[u8]>,
    /// The name asked for, in lower case.
    pub(super) name: Name,
    /// The type asked for.
    pub(super) qtype: Rtype,
    qclass: Class,
    /// What the client said in its OPT record, if it sent one.
    pub(super) edns: Option<Edns>,
    /// How the query came.
    pub(super) transport: Transport,
}

/// The fields of an OPT record (RFC 6891 section 6.1.3). The data of options is never looked into,
/// because the resolver supports none.
#[derive(Clone, Copy, Debug)]
pub struct Edns {
    /// The longest datagram the client takes, in octets.
    pub size: u16,
    /// The EDNS version the client speaks.
    pub version: u8,
    /// The DO bit, to be repeated.
    pub dnssec_ok: bool,
    /// Whether the record can be read to its end.
    pub form: Form,
}

/// Whether the lengths inside an OPT record add up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// The options fill the record's data, and the message has no second OPT record.
    Sound,
    /// An option ends before or behind the record's data, or the message has two OPT records.
    Malformed,
}

/// Decides what to do about a message that came from a client.
///
/// `rotation` is where the circle of several addresses starts: any number will
/// do, and a different one for each query spreads the load.
pub fn respond(
    octets: &[u8],
    model: &dyn ZoneData,
    transport: Transport,
    rotation: usize,
) -> Reply {
    let Ok(message) = Message::from_slice(octets) else {
        return Reply::Ignore;
    };
    if message.header().qr() {
        return Reply::Ignore;
    }
    let query = match Query::parse(message, transport) {
        Ok(query) => query,
        Err(rcode) => return Reply::Message(compose::header_only(message.header(), rcode)),
    };
    if let Some(rcode) = query.refusal() {
        return Reply::Message(query.error(rcode));
    }

    let answer = model.answer(&query.name, query.qtype);
    let rcode = match answer {
        Answer::Data { .. } | Answer::NoData { .. } => OptRcode::NOERROR,
        Answer::NxDomain { .. } => OptRcode::NXDOMAIN,
        Answer::Alias { chain, target } => {
            return Reply::Chase(Chase::new(query, chain, target));
        }
        Answer::NotYetKnown => return Reply::Message(query.error(OptRcode::SERVFAIL)),
        Answer::NotOurs => return Reply::Forward(query),
    };
    let sections = render(&query.name, &answer, model.zones(), rotation);
    Reply::Message(query.reply(rcode, AUTHORITATIVE, &sections))
}

impl Query {
    /// Takes a message apart.
    ///
    /// # Errors
    /// The response code for a message whose question can't even be repeated.
    fn parse(message: &Message<[u8]>, transport: Transport) -> Result<Query, OptRcode> {
        if !matches!(message.header().opcode(), Opcode::QUERY | Opcode::NOTIFY) {
            return Err(OptRcode::NOTIMP);
        }
        check_counts(message)?;

        let octets = message.as_slice();
        let mut questions = message.question();
        let Some(Ok(question)) = questions.next() else {
            return Err(OptRcode::FORMERR);
        };
        let question_octets = &octets[compose::HEADER_LEN..questions.pos()];
        let name_octets = &question_octets[..question_octets.len() - 4];
        // A compressed name is refused here: nothing stands before the question
        // that it could point to.
        let name = Name::from_wire(name_octets).map_err(|_| OptRcode::FORMERR)?;

        Ok(Query {
            id: message.header().id(),
            flags: u16::from_be_bytes([octets[2], octets[3]]),
            question: question_octets.into(),
            name,
            qtype: question.qtype(),
            qclass: question.qclass(),
            edns: Edns::find(message)?,
            transport,
        })
    }

    /// The response code for a query that is well-formed but not for us.
    fn refusal(&self) -> Option<OptRcode> {
        if let Some(edns) = self.edns {
            // Options of other versions may look different.
            if edns.version != 0 {
                return Some(OptRcode::BADVERS);
            }
            // RFC 6891 section 7: the reply to a malformed OPT record has an OPT record.
            if edns.form == Form::Malformed {
                return Some(OptRcode::FORMERR);
            }
        }
        // Nobody's secondary server has anything to be notified of (RFC 1996).
        if compose::opcode(self.flags) == Opcode::NOTIFY {
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

/// Whether a zone transfer is asked for (RFC 5936, RFC 1995), which is refused.
pub fn is_transfer(qtype: Rtype) -> bool {
    matches!(qtype, Rtype::AXFR | Rtype::IXFR)
}

/// Checks that the header counts no records that a query doesn't have: an answer (a NOTIFY has one,
/// RFC 1996 section 3.7), an authority (an IXFR has one, RFC 1995 section 3), or more additional
/// records than an OPT and a signature.
///
/// # Errors
/// FORMERR when it does.
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
    /// The message's OPT record, after a walk over all its records.
    ///
    /// # Errors
    /// FORMERR when the records don't end where the message does, or an OPT record is not the
    /// root's, or not in the additional section.
    fn find(message: &Message<[u8]>) -> Result<Option<Edns>, OptRcode> {
        let octets = message.as_slice();
        let counts = message.header_counts();
        let mut questions = message.question();
        for question in questions.by_ref() {
            question.map_err(|_| OptRcode::FORMERR)?;
        }
        let mut parser = Parser::from_ref(octets);
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
                Some(first) => first.form = Form::Malformed,
                None => found = Some(Edns::read(&record, &octets[..parser.pos()])),
            }
        }
        if parser.remaining() > 0 {
            return Err(OptRcode::FORMERR);
        }
        Ok(found)
    }

    /// The fields of an OPT record, whose data end the octets.
    fn read(record: &ParsedRecord<'_, [u8]>, octets: &[u8]) -> Edns {
        let [_extended_rcode, version, flags, _] = record.ttl().as_secs().to_be_bytes();
        let data = &octets[octets.len() - usize::from(record.rdlen())..];
        Edns {
            size: record.class().to_int(),
            version,
            dnssec_ok: flags & 0x80 != 0,
            form: Form::of(data),
        }
    }
}

impl Form {
    /// Walks over the options, each a code, a length and data (RFC 6891 section 6.1.2).
    fn of(mut options: &[u8]) -> Form {
        while let [_, _, high, low, rest @ ..] = options {
            let length = usize::from(u16::from_be_bytes([*high, *low]));
            match rest.get(length..) {
                Some(next) => options = next,
                None => return Form::Malformed,
            }
        }
        match options {
            [] => Form::Sound,
            _ => Form::Malformed,
        }
    }
}
