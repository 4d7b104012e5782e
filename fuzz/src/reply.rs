//! What every reply must be, whoever made it. Read with the parser of the `domain` crate.

use dns_agent::resolver::message::Transport;
use domain::{
    base::{
        Message, ParsedName, ParsedRecord,
        iana::{Opcode, Rtype},
    },
    rdata::AllRecordData,
};

/// Octets of a message's header.
pub const HEADER: usize = 12;
/// The size that our OPT record offers, and the largest datagram.
const SIZE: u16 = 1232;

/// A reply that has been walked over.
pub struct Reply<'a> {
    /// The whole of it.
    pub message: &'a Message<[u8]>,
    /// The answer section's records.
    pub answers: Vec<ParsedRecord<'a, [u8]>>,
    /// The authority section's.
    pub authorities: Vec<ParsedRecord<'a, [u8]>>,
}

/// Checks a reply to `query` and takes it apart.
///
/// # Panics
///
/// When it is none that a client could make sense of.
pub fn check<'a>(query: &[u8], transport: Transport, reply: &'a [u8]) -> Reply<'a> {
    let asked = Message::from_slice(query).expect("a reply to no message");
    let message = Message::from_slice(reply).expect("a reply without a header");
    let (header, asked_header) = (message.header(), asked.header());
    assert!(header.qr(), "no QR");
    assert_eq!(header.id(), asked_header.id(), "another ID");
    assert_eq!(header.opcode(), asked_header.opcode(), "another opcode");
    assert!(!header.z(), "the reserved bit is set");

    let end = question_end(message);
    assert_eq!(reply[HEADER..end], query[HEADER..end], "another question");
    let limit = limit(asked, transport);
    assert!(reply.len() <= limit, "{} octets of {limit}", reply.len());

    let records = |section: &str, records: domain::base::RecordSection<'a, [u8]>| {
        records
            .map(|record| record.unwrap_or_else(|error| panic!("in the {section}: {error}")))
            .collect::<Vec<_>>()
    };
    let (_, answer, authority, additional) = message.sections().expect("sections");
    let mut rest = additional;
    for record in &mut rest {
        record.expect("in the additional section");
    }
    assert_eq!(rest.pos(), reply.len(), "octets behind the message");

    let ours = opt(message);
    assert_eq!(
        ours.map(|opt| opt.dnssec_ok),
        opt(asked).map(|opt| opt.dnssec_ok),
        "OPT, or its DO"
    );
    if let Some(ours) = ours {
        assert_eq!(ours.size, SIZE);
        assert!(!ours.has_options, "options");
    }
    Reply {
        message,
        answers: records("answer section", answer),
        authorities: records("authority section", authority),
    }
}

/// Checks what only our own replies must be: their flags, and the data of their records.
///
/// # Panics
///
/// As [`check`].
pub fn check_own(query: &[u8], reply: &Reply<'_>) {
    let asked = Message::from_slice(query).expect("a reply to no message");
    let header = reply.message.header();
    assert_eq!(header.rd(), asked.header().rd(), "RD");
    assert_eq!(header.cd(), asked.header().cd(), "CD");
    assert!(!header.ad() && !header.ra(), "AD or RA");
    if header.opcode() != Opcode::QUERY {
        assert!(!header.aa(), "AA");
    }
    for record in reply.message.iter() {
        let (record, _) = record.expect("walked over before");
        let data = record.to_any_record::<AllRecordData<&[u8], ParsedName<&[u8]>>>();
        data.unwrap_or_else(|error| panic!("{}: {error}", record.rtype()));
    }
}

/// Whether the reply says no as RFC 2308 wants it: with the zone's SOA.
pub fn has_soa(reply: &Reply<'_>) -> bool {
    let [record] = &reply.authorities[..] else {
        return false;
    };
    record.rtype() == Rtype::SOA
}

/// What an OPT record says, whether or not its options can be read: nobody looks at them.
#[derive(Clone, Copy)]
struct Opt {
    size: u16,
    dnssec_ok: bool,
    has_options: bool,
}

/// The OPT record of a message that is well-formed.
fn opt(message: &Message<[u8]>) -> Option<Opt> {
    let mut records = message.additional().ok()?.flatten();
    let record = records.find(|record| record.rtype() == Rtype::OPT)?;
    Some(Opt {
        size: record.class().to_int(),
        dnssec_ok: record.ttl().as_secs() & 0x8000 != 0,
        has_options: record.rdlen() > 0,
    })
}

/// Where the question ends.
fn question_end(message: &Message<[u8]>) -> usize {
    assert_eq!(message.header_counts().qdcount(), 1, "no question");
    let mut question = message.question();
    question.next().expect("no question").expect("the question");
    question.pos()
}

/// The longest reply that the client of a query takes.
fn limit(query: &Message<[u8]>, transport: Transport) -> usize {
    match (transport, opt(query)) {
        (Transport::Tcp, _) => 65_535,
        (Transport::Udp, None) => 512,
        (Transport::Udp, Some(opt)) => opt.size.clamp(512, SIZE).into(),
    }
}
