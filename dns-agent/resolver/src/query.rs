//! Parses queries: the question and the OPT record of a message.

use domain::{
    base::{
        Header, HeaderSection, Message, ParsedRecord,
        iana::{Class, Opcode, OptRcode, Rtype},
    },
    dep::octseq::Parser,
};
use zerohop_routes::Rewriting;
use zerohop_zone::Name;

/// The length of a message's header in bytes.
pub(super) const HEADER_LEN: usize = size_of::<HeaderSection>();

/// Longest query, in bytes. A name and an OPT record with a few options need less than 600.
pub(super) const MAX_QUERY: usize = 4096;

/// The transport of a query, which limits the length of the reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// UDP: 512 bytes, or with EDNS the client's size, between 512 and 1,232 bytes.
    Udp,
    /// TCP: 65,535 bytes.
    Tcp,
}

/// A parsed query with one question. Its OPT record may be malformed ([`OptForm`]).
#[derive(Clone, Debug)]
pub struct Query {
    /// The ID, opcode and flags of the query.
    pub(super) header: Header,
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
    /// What the client has asked, if a route has rewritten the name.
    pub(super) client_question: Option<Box<ClientQuestion>>,
}

/// The question of a client whose name was rewritten.
#[derive(Clone, Debug)]
pub(super) struct ClientQuestion {
    /// The question in wire format, in the client's casing.
    pub(super) question: Box<[u8]>,
    /// The name in lower case.
    pub(super) name: Name,
    pub(super) rewriting: Rewriting,
}

/// The fields of an OPT record (RFC 6891 section 6.1.3). The data of options is not parsed, because
/// the resolver supports no options.
#[derive(Clone, Copy, Debug)]
pub struct Edns {
    /// The longest datagram that the client accepts, in bytes. A size below 512 counts as 512 (RFC
    /// 6891 section 6.2.3).
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
    /// NOTIMP for an opcode other than QUERY and NOTIFY, FORMERR for a malformed message. The reply
    /// must consist of a header only, because the question may be malformed.
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
        // The name is followed by two bytes of type and two of class.
        let name_bytes = &question_bytes[..question_bytes.len() - 4];
        // A compressed name is an error, because no name precedes the question.
        let name = Name::from_wire(name_bytes).map_err(|_| OptRcode::FORMERR)?;

        Ok(Query {
            header: message.header(),
            question: question_bytes.into(),
            name,
            qtype: question.qtype(),
            qclass: question.qclass(),
            edns: Edns::find(message)?,
            transport,
            client_question: None,
        })
    }

    /// Whether the reply may have AD set (RFC 6840 sections 5.7 and 5.8).
    pub(super) fn asks_for_ad(&self) -> bool {
        self.header.ad() || self.edns.is_some_and(|edns| edns.dnssec_ok)
    }

    /// A query of this agent itself, with RD set and without an OPT record.
    pub(super) fn of_question(name: &Name, qtype: Rtype) -> Query {
        let mut header = Header::new();
        header.set_rd(true);
        let numbers = [qtype.to_int(), Class::IN.to_int()];
        let numbers = numbers.map(u16::to_be_bytes);
        Query {
            header,
            question: [name.wire(), numbers.as_flattened()].concat().into(),
            name: name.clone(),
            qtype,
            qclass: Class::IN,
            edns: None,
            transport: Transport::Tcp,
            client_question: None,
        }
    }

    /// The query for the target of an alias of this query, with RD set, and with this query's DO
    /// and CD bits. Without DO it has no OPT record.
    pub(super) fn for_target(&self, target: &Name) -> Query {
        let mut query = Query::of_question(target, self.qtype);
        query.header.set_cd(self.header.cd());
        query.edns = self.edns.filter(|edns| edns.dnssec_ok);
        query
    }

    /// The query for the name that a route has given instead of this query's name.
    pub fn rewritten(self, rewriting: Rewriting) -> Query {
        let numbers = self.question.len().saturating_sub(size_of::<u32>());
        let numbers = self.question.get(numbers..).unwrap_or_default();
        Query {
            question: [rewriting.name.wire(), numbers].concat().into(),
            client_question: Some(Box::new(ClientQuestion {
                question: self.question,
                name: self.name,
                rewriting: rewriting.clone(),
            })),
            name: rewriting.name,
            ..self
        }
    }

    /// The query as the client has sent it. `None` if no route has rewritten its name.
    pub(super) fn unrewritten(&self) -> Option<Query> {
        let client = self.client_question.as_ref()?;
        Some(Query {
            question: client.question.clone(),
            name: client.name.clone(),
            client_question: None,
            ..self.clone()
        })
    }

    /// The response code for a parsed query that the resolver doesn't answer: BADVERS, FORMERR or
    /// REFUSED. `None` if it accepts the query.
    pub(super) fn refusal_code(&self) -> Option<OptRcode> {
        if let Some(edns) = self.edns {
            // The version comes first, because another version's options may have another format.
            if edns.version != 0 {
                return Some(OptRcode::BADVERS);
            }
            // RFC 6891 section 7: the reply to a malformed OPT record has an OPT record too.
            if edns.form == OptForm::Malformed {
                return Some(OptRcode::FORMERR);
            }
        }
        // NOTIFY is for secondary servers (RFC 1996), and the resolver is not a secondary server.
        if self.header.opcode() == Opcode::NOTIFY {
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

/// Whether the type is NXNAME, which marks absent names in signed answers and is never asked for.
/// The resolver rejects it (RFC 9824 section 3.5).
pub fn is_nxname(qtype: Rtype) -> bool {
    qtype == Rtype::from_int(128)
}

/// Checks the counts in the header. A query has one question and at most two additional records,
/// because it may have an OPT record and a signature. Only a NOTIFY may have an answer record
/// (RFC 1996 section 3.7). Only a NOTIFY or an IXFR may have an authority record (RFC 1995
/// section 3).
///
/// # Errors
/// FORMERR when a count is wrong.
fn check_counts(message: &Message<[u8]>) -> Result<(), OptRcode> {
    let counts = message.header_counts();
    let is_notify = message.header().opcode() == Opcode::NOTIFY;
    let is_ixfr = message
        .first_question()
        .is_some_and(|question| question.qtype() == Rtype::IXFR);
    let counts_are_valid = counts.qdcount() == 1
        && counts.ancount() <= u16::from(is_notify)
        && counts.nscount() <= u16::from(is_notify || is_ixfr)
        && counts.arcount() <= 2;
    if counts_are_valid {
        Ok(())
    } else {
        Err(OptRcode::FORMERR)
    }
}

impl Edns {
    /// Parses all records of the message, and returns the first OPT record, if any.
    ///
    /// # Errors
    /// FORMERR when a question or record is malformed, the records don't end at the message's end,
    /// the owner of an OPT record is not the root, or an OPT record is outside the additional
    /// section.
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
        let first_additional = u32::from(counts.ancount()) + u32::from(counts.nscount());
        let mut found: Option<Edns> = None;
        for index in 0..first_additional + u32::from(counts.arcount()) {
            let record = ParsedRecord::parse(&mut parser).map_err(|_| OptRcode::FORMERR)?;
            if record.rtype() != Rtype::OPT {
                continue;
            }
            if index < first_additional || !record.owner().is_root() {
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
        // The TTL holds these fields, and the upper bit of the flags is DO (RFC 6891
        // section 6.1.3).
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
    /// Checks that the options fill the record's data. An option consists of a code, a length and
    /// data (RFC 6891 section 6.1.2).
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
