//! Checks of replies, parsed by the `domain` crate. Replies that consist of a header only are not
//! checked here.

use domain::{
    base::{
        Message, ParsedName, ParsedRecord,
        iana::{Opcode, Rtype},
        rdata::UnknownRecordData,
    },
    rdata::AllRecordData,
};
use zerohop_resolver::query::Transport;

/// Length of a DNS header in bytes.
pub const HEADER: usize = 12;
/// The UDP payload size in the resolver's OPT record, which is also its longest UDP reply, in
/// bytes.
const SIZE: u16 = 1232;

/// A reply whose records have all been parsed.
pub struct ParsedReply<'a> {
    /// The whole message.
    pub message: &'a Message<[u8]>,
    /// The answer section's records.
    pub answers: Vec<ParsedRecord<'a, [u8]>>,
    /// The authority section's records.
    pub authorities: Vec<ParsedRecord<'a, [u8]>>,
}

/// Parses and checks a reply to `query`. The reply must repeat the question.
///
/// # Panics
///
/// When the reply is malformed, is longer than permitted, or doesn't match the query.
pub fn check<'a>(query: &[u8], transport: Transport, reply: &'a [u8]) -> ParsedReply<'a> {
    let query_message = Message::from_slice(query).expect("the query has no header");
    let message = Message::from_slice(reply).expect("the reply has no header");
    let (header, query_header) = (message.header(), query_message.header());
    assert!(header.qr(), "the reply has no QR");
    assert_eq!(header.id(), query_header.id(), "the ID differs");
    assert_eq!(header.opcode(), query_header.opcode(), "the opcode differs");
    assert!(!header.z(), "the reserved bit is set");

    let end = question_end(message);
    assert_eq!(
        reply[HEADER..end],
        query[HEADER..end],
        "the question differs"
    );
    let limit = limit(query_message, transport);
    assert!(
        reply.len() <= limit,
        "the reply has {} bytes, and at most {limit} are permitted",
        reply.len()
    );

    let records = |section: &str, records: domain::base::RecordSection<'a, [u8]>| {
        records
            .map(|record| {
                record.unwrap_or_else(|error| {
                    panic!("can't parse a record in the {section}: {error}")
                })
            })
            .collect::<Vec<_>>()
    };
    let (_, answer, authority, additional) = message
        .sections()
        .expect("can't parse the sections of the reply");
    let mut rest = additional;
    for record in &mut rest {
        record.expect("can't parse a record in the additional section");
    }
    assert_eq!(rest.pos(), reply.len(), "bytes after the last record");

    let reply_opt = opt(message);
    assert_eq!(
        reply_opt.map(|opt| opt.dnssec_ok),
        opt(query_message).map(|opt| opt.dnssec_ok),
        "the OPT record or its DO bit differs from the query's"
    );
    if let Some(reply_opt) = reply_opt {
        assert_eq!(
            reply_opt.size, SIZE,
            "the OPT record has another payload size"
        );
        assert!(
            reply_opt.has_known_options,
            "the OPT record has another option than one extended error"
        );
    }
    ParsedReply {
        message,
        answers: records("answer section", answer),
        authorities: records("authority section", authority),
    }
}

/// Checks the flags and the records' data of a reply that the resolver made itself. A relayed reply
/// has the flags and data of the upstream's response.
///
/// # Panics
///
/// When a flag is wrong, or a record's data can't be parsed.
pub fn check_local_reply(query: &[u8], reply: &ParsedReply<'_>) {
    let query_message = Message::from_slice(query).expect("the query has no header");
    let header = reply.message.header();
    assert_eq!(header.rd(), query_message.header().rd(), "RD differs");
    assert_eq!(header.cd(), query_message.header().cd(), "CD differs");
    assert!(!header.ad() && !header.ra(), "AD or RA is set");
    if header.opcode() != Opcode::QUERY {
        assert!(!header.aa(), "AA in a reply to another opcode than QUERY");
    }
    for record in reply.message.iter() {
        let (record, _) = record.expect("`check` has parsed every record");
        let data = record.to_any_record::<AllRecordData<&[u8], ParsedName<&[u8]>>>();
        data.unwrap_or_else(|error| {
            panic!(
                "can't parse the data of a {} record: {error}",
                record.rtype()
            )
        });
    }
}

/// Whether the authority section is one SOA record, as RFC 2308 requires of a negative answer.
pub fn has_soa(reply: &ParsedReply<'_>) -> bool {
    let [record] = &reply.authorities[..] else {
        return false;
    };
    record.rtype() == Rtype::SOA
}

/// The fields of an OPT record.
#[derive(Clone, Copy)]
struct OptFields {
    size: u16,
    dnssec_ok: bool,
    /// Whether the only option, if there is one, is an extended error (RFC 8914 section 2).
    has_known_options: bool,
}

/// The first OPT record of a message. `None` if there is none that can be parsed.
fn opt(message: &Message<[u8]>) -> Option<OptFields> {
    let mut records = message.additional().ok()?.flatten();
    let record = records.find(|record| record.rtype() == Rtype::OPT)?;
    let data = record.to_record::<UnknownRecordData<&[u8]>>().ok()??;
    let options: &[u8] = data.data().data();
    Some(OptFields {
        size: record.class().to_int(),
        dnssec_ok: record.ttl().as_secs() & 0x8000 != 0,
        has_known_options: match options {
            [] => true,
            [0, 15, high, low, data @ ..] => {
                let length = usize::from(u16::from_be_bytes([*high, *low]));
                length >= 2 && data.len() == length
            }
            _ => false,
        },
    })
}

/// The offset at which the question ends.
fn question_end(message: &Message<[u8]>) -> usize {
    assert_eq!(
        message.header_counts().qdcount(),
        1,
        "the reply must have one question"
    );
    let mut question = message.question();
    let question_read = question.next().expect("the reply has no question");
    question_read.expect("can't parse the reply's question");
    question.pos()
}

/// The longest permitted reply to `query`, in bytes: the client's limit, and over UDP at most
/// [`SIZE`].
fn limit(query: &Message<[u8]>, transport: Transport) -> usize {
    match (transport, opt(query)) {
        (Transport::Tcp, _) => 65_535,
        (Transport::Udp, None) => 512,
        (Transport::Udp, Some(opt)) => opt.size.clamp(512, SIZE).into(),
    }
}
