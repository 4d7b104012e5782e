//! A stored reply.

use std::{
    sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    time::Duration,
};

use domain::{
    base::{
        Header, HeaderCounts, ParsedRecord, Question,
        header::Flags,
        iana::{OptRcode, Rcode, Rtype},
        name::ParsedName,
    },
    dep::octseq::Parser,
};
use tokio::time::Instant;
use zerohop_routes::{StaleMode, StaleRules};

use super::{
    super::{
        compose::ExtendedError,
        query::{HEADER_LEN, Query},
        traffic::{CacheEntryKind, CountedEntry},
    },
    ReplyLimits,
};

/// The TTL of each record of a stale reply, in seconds (RFC 8767 section 4), unless it is used at
/// once: CoreDNS gives such a reply a TTL of 0.
const STALE_TTL: u32 = 30;
/// The share of its life in which a used reply is fetched again: the last tenth.
const REFRESH_SHARE: u32 = 10;
/// The hits that a reply must have to be fetched again before it expires.
const REFRESH_HITS: u32 = 2;

/// A reply without an OPT record.
#[derive(Debug)]
pub struct StoredReply {
    message: Box<[u8]>,
    /// The offsets of the records' TTLs in the message.
    ttls: Box<[u16]>,
    /// The sections after the answer that expire before the reply does.
    extras: Vec<ExtraSection>,
    stored: Instant,
    /// How long the reply may be used.
    life: Duration,
    /// How it may be used afterwards.
    stale: StaleRules,
    hits: AtomicU32,
    /// Whether the reply was fetched again.
    is_refreshed: AtomicBool,
    /// `None` before the reply is stored.
    counted: Option<CountedEntry>,
}

/// A section after the answer. It is left out when one of its records has expired.
#[derive(Clone, Copy, Debug)]
struct ExtraSection {
    name: ExtraName,
    /// Its offset in the message.
    start: u16,
    /// The least TTL of its records.
    life: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ExtraName {
    Authority,
    Additional,
}

/// The TTLs of a reply to a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TtlSource {
    /// What is left of the records' TTLs.
    Remaining,
    /// 30 s, or 0 s if stale replies are used at once.
    Stale,
}

/// What a message's records say about its life.
struct MessageTtls {
    /// The offsets of all TTLs.
    offsets: Vec<u16>,
    extras: Vec<ExtraSection>,
    /// The life in seconds. `None` if the message must not be stored.
    life: Option<u32>,
    kind: AnswerKind,
}

/// Whether an answer has records of the type that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AnswerKind {
    Positive,
    Negative,
}

impl StoredReply {
    /// Lowers and raises the TTLs of a message, and copies it. `None` if it must not be stored:
    /// because it is truncated, an error, or a negative answer without a SOA record (RFC 2308
    /// section 5), or has a TTL of 0.
    pub fn read(
        message: &mut [u8],
        qtype: Rtype,
        limits: &ReplyLimits,
        now: Instant,
    ) -> Option<StoredReply> {
        let header = *Header::for_message_slice(message.get(..HEADER_LEN)?);
        if !matches!(header.rcode(), Rcode::NOERROR | Rcode::NXDOMAIN) || header.tc() {
            return None;
        }
        let MessageTtls {
            offsets,
            mut extras,
            life,
            kind,
        } = MessageTtls::limit(message, qtype, limits)?;
        let is_kept = match kind {
            AnswerKind::Positive => limits.kept.has_positive(),
            AnswerKind::Negative => limits.kept.has_negative(),
        };
        if !is_kept {
            return None;
        }
        let life = Duration::from_secs(life.filter(|life| *life > 0)?.into());
        extras.retain(|extra| extra.life < life);
        Some(StoredReply {
            message: (&*message).into(),
            ttls: offsets.into(),
            extras,
            stored: now,
            life,
            stale: limits.stale,
            hits: AtomicU32::new(0),
            is_refreshed: AtomicBool::new(false),
            counted: None,
        })
    }

    /// How the reply may be used after it has expired.
    pub(in super::super) fn stale(&self) -> StaleRules {
        self.stale
    }

    /// Keeps `entry` as long as the reply exists.
    pub(super) fn count_until_dropped(&mut self, entry: CountedEntry) {
        self.counted = Some(entry);
    }

    /// The kind of entry, for CoreDNS's metrics.
    pub(in super::super) fn kind(&self) -> CacheEntryKind {
        CacheEntryKind::of(&self.message)
    }

    /// Whether no record that matters has expired.
    pub fn is_fresh(&self, now: Instant) -> bool {
        self.age(now) < self.life
    }

    /// How long ago the reply expired. Zero if it is fresh.
    pub(super) fn age_beyond_life(&self, now: Instant) -> Duration {
        self.age(now).saturating_sub(self.life)
    }

    /// Counts a hit. Whether upstreams should be asked again now, so that the name stays in the
    /// cache: once, near the end of the reply's life, if the name is asked for repeatedly.
    pub(in super::super) fn count_hit(&self, now: Instant) -> bool {
        let hits = self.hits.fetch_add(1, Relaxed).saturating_add(1);
        let left = self.life.saturating_sub(self.age(now));
        hits >= REFRESH_HITS
            && left < self.life / REFRESH_SHARE
            && !self.is_refreshed.swap(true, Relaxed)
    }

    /// The reply to a query that has the key of this reply.
    pub fn answer(&self, query: &Query, now: Instant, ttl: TtlSource) -> Vec<u8> {
        let error = match (ttl, self.header().rcode()) {
            (TtlSource::Remaining, _) => None,
            (TtlSource::Stale, Rcode::NXDOMAIN) => Some(ExtendedError::StaleNxdomain),
            (TtlSource::Stale, _) => Some(ExtendedError::StaleAnswer),
        };
        let mut message = self.copy(now, ttl);
        let stored = self.header();
        // A reply from a cache is not authoritative.
        let flags = Flags {
            qr: true,
            ra: stored.ra(),
            rd: query.header.rd(),
            cd: query.header.cd(),
            ad: stored.ad() && query.asks_for_ad(),
            ..Flags::default()
        };
        let header = Header::for_message_slice_mut(&mut message);
        header.set_id(query.header.id());
        header.set_flags(flags);
        message[HEADER_LEN..HEADER_LEN + query.question.len()].copy_from_slice(&query.question);
        query.finish_message(message, OptRcode::NOERROR.ext(), error)
    }

    /// A copy of the message with other TTLs, and without sections that have expired.
    pub(in super::super) fn copy(&self, now: Instant, ttl: TtlSource) -> Vec<u8> {
        let mut message = self.message.to_vec();
        // In the order of the sections: what follows the first one is left out too.
        let expired = |extra: &&ExtraSection| self.age(now) >= extra.life;
        if let Some(extra) = self.extras.iter().find(expired) {
            message.truncate(extra.start.into());
            let counts = HeaderCounts::for_message_slice_mut(&mut message);
            counts.set_arcount(0);
            if extra.name == ExtraName::Authority {
                counts.set_nscount(0);
            }
        }
        let age = u32::try_from(self.age(now).as_secs()).unwrap_or(u32::MAX);
        for offset in &self.ttls {
            if let Some(field) = ttl_field(&mut message, (*offset).into()) {
                let left = match ttl {
                    TtlSource::Remaining => u32::from_be_bytes(*field).saturating_sub(age),
                    TtlSource::Stale if self.stale.mode == StaleMode::AtOnce => 0,
                    TtlSource::Stale => STALE_TTL,
                };
                *field = left.to_be_bytes();
            }
        }
        message
    }

    pub(super) fn weight(&self) -> u64 {
        (self.message.len() + size_of_val(&*self.ttls)) as u64
    }

    fn header(&self) -> Header {
        *Header::for_message_slice(&self.message)
    }

    fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.stored)
    }
}

impl MessageTtls {
    /// Lowers and raises the TTLs of a message as the limits say. `None` if the message can't be
    /// parsed.
    fn limit(message: &mut [u8], qtype: Rtype, limits: &ReplyLimits) -> Option<MessageTtls> {
        let counts = *HeaderCounts::for_message_slice(message);
        let answers = u32::from(counts.ancount());
        let authorities = answers + u32::from(counts.nscount());
        let records = authorities + u32::from(counts.arcount());
        let mut at = HEADER_LEN;
        for _ in 0..counts.qdcount() {
            let mut parser = parser_at(message, at)?;
            Question::<ParsedName<&[u8]>>::parse(&mut parser).ok()?;
            at = parser.pos();
        }
        let rcode = Header::for_message_slice(message).rcode();
        let mut offsets = Vec::with_capacity(records as usize);
        let (mut answer_life, mut soa_life) = (None, None);
        let mut has_data = false;
        let mut extras: Vec<ExtraSection> = Vec::new();
        for index in 0..records {
            let start = u16::try_from(at).ok()?;
            let (rtype, data) = {
                let mut parser = parser_at(message, at)?;
                let record = ParsedRecord::parse(&mut parser).ok()?;
                at = parser.pos();
                (record.rtype(), usize::from(record.rdlen()))
            };
            // The TTL has 4 bytes, and is followed by the length of the data in 2 bytes.
            let offset = at.checked_sub(data + 6)?;
            let is_soa = index >= answers && index < authorities && rtype == Rtype::SOA;
            let minimum = at
                .checked_sub(4)
                .and_then(|start| message.get(start..at)?.try_into().ok());
            let minimum = minimum.map_or(0, u32::from_be_bytes);
            let field = ttl_field(message, offset)?;
            // A TTL with the highest bit counts as a large one (RFC 8767 section 4).
            let mut ttl = u32::from_be_bytes(*field).max(limits.min_ttl);
            ttl = ttl.min(limits.max_ttl);
            if is_soa {
                // RFC 2308 section 5.
                ttl = ttl.min(minimum).min(limits.max_negative_ttl);
                soa_life = Some(soa_life.unwrap_or(ttl).min(ttl));
            }
            *field = ttl.to_be_bytes();
            if index < answers {
                answer_life = Some(answer_life.unwrap_or(ttl).min(ttl));
                has_data |= rtype == qtype;
            }
            offsets.push(u16::try_from(offset).ok()?);
            let name = match index {
                _ if index < answers => continue,
                _ if index < authorities => ExtraName::Authority,
                _ => ExtraName::Additional,
            };
            let life = Duration::from_secs(ttl.into());
            match extras.last_mut().filter(|extra| extra.name == name) {
                Some(extra) => extra.life = extra.life.min(life),
                None => extras.push(ExtraSection { name, start, life }),
            }
        }
        let kind = match has_data && rcode == Rcode::NOERROR {
            true => AnswerKind::Positive,
            false => AnswerKind::Negative,
        };
        let life = if kind == AnswerKind::Positive {
            answer_life
        } else {
            // CNAMEs may lead to the absent name or type.
            soa_life.map(|soa| answer_life.unwrap_or(soa).min(soa))
        };
        if kind == AnswerKind::Negative {
            // The SOA record is part of the answer.
            extras.retain(|extra| extra.name == ExtraName::Additional);
        }
        Some(MessageTtls {
            offsets,
            extras,
            life,
            kind,
        })
    }
}

/// Lowers and raises the TTLs of a message as the limits say. A message that can't be parsed may be
/// changed in part.
pub(super) fn limit_ttls(message: &mut [u8], qtype: Rtype, limits: &ReplyLimits) {
    MessageTtls::limit(message, qtype, limits);
}

/// A parser of a message from this position on.
fn parser_at(message: &[u8], position: usize) -> Option<Parser<'_, [u8]>> {
    let mut parser = Parser::from_ref(message);
    parser.advance(position).ok()?;
    Some(parser)
}

fn ttl_field(message: &mut [u8], offset: usize) -> Option<&mut [u8; 4]> {
    message.get_mut(offset..offset + 4)?.try_into().ok()
}
