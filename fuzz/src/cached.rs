//! Keeps responses of upstreams as the cache does, and checks what a later client gets of them.
//! Replies are compared as text, which the independent reader of `zerohop-contract` makes.

use std::{sync::LazyLock, time::Duration};

use zerohop_contract::{message::Message, packet::QueryPacket};
use zerohop_resolver::{
    CacheSettings,
    bailiwick::LocalNames,
    cache::{Instant, StoredReply, TtlSource},
    chase::Relay,
    query::Query,
    response::{Response, UpstreamQuery},
};
use zerohop_zone::{Model, ModelBuilder};

use super::{
    input::FuzzInput,
    reply,
    response::{build_response, forwarded, question, transport},
};

/// What became of an upstream's message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CachedOutcome {
    /// It was rejected, because it is malformed or doesn't answer the upstream query.
    Rejected,
    /// The cache doesn't keep it.
    NotKept,
    /// A later client gets it, with what is left of its TTLs.
    Fresh,
    /// A later client gets it after it has expired.
    Stale,
}

/// Questions whose responses are kept, and one that upstreams answer with an alias.
const QUESTIONS: [(&str, u16); 4] = [
    ("WWW.example.com", 1),
    ("example.com", 16),
    ("_sip._tcp.example.com", 33),
    ("www.EXAMPLE.com", 28),
];

/// No local name: the response alone decides.
pub(super) static NO_NAMES: LazyLock<Model> = LazyLock::new(|| ModelBuilder::new(1).build());

/// Keeps an upstream's message, and checks the reply that a client gets after some time.
///
/// The bits of the input's first byte:
///
/// * Bits 0 and 1 are the number of the question in `QUESTIONS`.
/// * If bit 2 is set, both clients have EDNS, and bit 7 is their DO bit.
/// * If bit 3 is set, the first client uses TCP, and if bit 5 is set, the second one does.
/// * If bit 4 is set, all bytes of the upstream's message come from the input. Otherwise
///   `build_response` makes the message.
/// * If bit 6 is set, the cache raises and lowers TTLs.
///
/// # Panics
///
/// When the reply breaks a rule of [`reply::check`] or of this target.
pub fn check(input: &[u8]) -> CachedOutcome {
    let mut input = FuzzInput(input);
    let flags = input.byte();
    let [first, second] = [(); 2].map(|()| client(flags, &mut input));
    let limits = settings(flags, &mut input).limits(None);
    // Up to a minute in milliseconds, or up to two years.
    let unit = input.one_of(&[1, 1_000_000]);
    let age = Duration::from_millis(u64::from(input.word()) * unit);

    let asking = forwarded(&first.message(), transport(flags, 8), &*NO_NAMES);
    let sent = UpstreamQuery::forwarding(&asking).with_id(input.word());
    let bytes = match flags & 16 {
        0 => build_response(&sent, &mut input),
        _ => input.0.to_vec(),
    };
    let Some(mut kept) = relayed(&asking, &bytes, &sent) else {
        return CachedOutcome::Rejected;
    };
    let start = Instant::now();
    let rtype = first.rtype.into();
    let Some(stored) = StoredReply::read(&mut kept, rtype, &limits, start) else {
        return CachedOutcome::NotKept;
    };

    let now = start + age;
    let is_fresh = stored.is_fresh(now);
    let source = match is_fresh {
        true => TtlSource::Remaining,
        false => TtlSource::Stale,
    };
    let message = second.message();
    let later = forwarded(&message, transport(flags, 32), &*NO_NAMES);
    let given = stored.answer(&later, now, source);
    let reply = reply::check(&message, transport(flags, 32), &given);
    assert!(!reply.message.header().aa(), "a kept reply with AA");
    let age = is_fresh.then_some(age);
    check_records(&kept, &given, age);
    match is_fresh {
        true => CachedOutcome::Fresh,
        false => CachedOutcome::Stale,
    }
}

/// The message that the cache gets: with the records that belong to the question. `None` if the
/// response can't be used.
fn relayed(query: &Query, bytes: &[u8], sent: &[u8]) -> Option<Vec<u8>> {
    let response = Response::parse(bytes, sent)?;
    let local_names = LocalNames {
        data: &*NO_NAMES,
        domains: &[],
    };
    match query.relay_whole(&response, &local_names, 0) {
        Relay::Whole {
            message,
            extended_rcode: 0,
        } => Some(message),
        _ => None,
    }
}

/// A client's query. Both clients have the same DO bit, because it is in the cache's key.
fn client(flags: u8, input: &mut FuzzInput<'_>) -> QueryPacket {
    let mut query = question(QUESTIONS[usize::from(flags % 4)]);
    query.id = input.word();
    match flags & 4 {
        0 => query,
        _ => query.with_edns(input.word(), u32::from(flags >> 7), &[]),
    }
}

fn settings(flags: u8, input: &mut FuzzInput<'_>) -> CacheSettings {
    let usual = CacheSettings::default();
    if flags & 64 == 0 {
        return usual;
    }
    let min_ttl = input.byte().into();
    CacheSettings {
        min_ttl,
        max_ttl: min_ttl + u32::from(input.byte()),
        max_negative_ttl: Some(input.byte().into()),
        ..usual
    }
}

/// Checks that the records of `given` are the first ones of each section of `kept`, in their order,
/// and that their TTLs have counted down by `age`. `None`: they have the TTL of stale replies.
///
/// Only truncation may remove some records of a section. Otherwise all are removed or none, and in
/// the answer section none.
fn check_records(kept: &[u8], given: &[u8], age: Option<Duration>) {
    // The reader rejects some data that the resolver relays as it is.
    let Ok(kept) = Message::read(kept) else {
        return;
    };
    let given = Message::read(given).expect("the reply can't be read, but the kept message can");
    let is_truncated = given.flags().contains(&"tc");
    for (number, (kept, given)) in kept.sections.iter().zip(&given.sections).enumerate() {
        let is_whole = given.len() == kept.len();
        let may_be_left_out = is_truncated || (number > 0 && given.is_empty());
        assert!(
            is_whole || may_be_left_out,
            "section {number} has {} of {} records",
            given.len(),
            kept.len()
        );
        for (given, kept) in given.iter().zip(kept) {
            let ((given, ttl), (kept, kept_ttl)) = (split_ttl(given), split_ttl(kept));
            assert_eq!(given, kept, "the reply has another record");
            let expected = match age {
                Some(age) => kept_ttl.saturating_sub(age.as_secs()),
                None => 30,
            };
            assert_eq!(ttl, expected, "the TTL of {kept}");
        }
    }
}

/// A line of a record in lower case without its TTL, and the TTL.
fn split_ttl(line: &str) -> (String, u64) {
    // Spaces in names are escaped.
    let mut words = line.splitn(3, ' ');
    let mut word = || words.next().unwrap_or_default();
    let (owner, ttl, rest) = (word(), word(), word());
    let ttl = ttl.parse().expect("a line has no TTL");
    (format!("{owner} {rest}").to_ascii_lowercase(), ttl)
}
