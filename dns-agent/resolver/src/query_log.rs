//! The log of clients' queries: a line for each query of some classes, sampled and limited.

use std::{
    net::SocketAddr,
    num::NonZeroU32,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use tracing::{field::display, info, warn};
use zerohop_zone::{Name, Rtype};

use super::{
    counters::{ResolverCounters, increment},
    query::{HEADER_LEN, Transport},
    traffic::{QueryLabels, ReplySource},
};

/// Upper bound on the lines of a second.
const MAX_LINES: u32 = 100;
/// A query is slow if its reply takes at least this long. A dead upstream costs a little less.
const SLOW: Duration = Duration::from_millis(500);
/// TC in the third byte of a message's header.
const IS_TRUNCATED: u8 = 0x02;

/// Which queries are logged.
#[derive(Clone, Debug)]
pub struct QueryLogSettings {
    /// A query is logged if it belongs to one of these classes.
    pub classes: Vec<QueryClass>,
    /// One of this number of such queries is logged.
    pub sample: NonZeroU32,
}

/// A class of queries. A query belongs to one of the first three, and may be slow too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueryClass {
    /// NOERROR with records, or truncated.
    Success,
    /// NXDOMAIN, or NOERROR without records.
    Denial,
    /// Any other response code.
    Error,
    /// The reply took at least 500 ms.
    Slow,
}

/// Writes the log of queries.
#[derive(Debug)]
pub(super) struct QueryLog {
    settings: QueryLogSettings,
    /// The queries of the logged classes.
    matched: AtomicU64,
    budget: Mutex<LineBudget>,
    counters: Arc<ResolverCounters>,
}

/// A query and its reply.
#[derive(Debug)]
pub(super) struct LoggedQuery<'a> {
    pub(super) client: SocketAddr,
    pub(super) transport: Transport,
    pub(super) labels: &'a QueryLabels,
    pub(super) is_checking_disabled: bool,
    pub(super) reply: &'a [u8],
    pub(super) source: ReplySource,
    /// The upstream whose response the reply is made of, if that is known.
    pub(super) upstream: Option<SocketAddr>,
    pub(super) took: Duration,
}

/// The lines that may still be written in this second.
#[derive(Debug)]
struct LineBudget {
    since: Instant,
    lines_left: u32,
    notice: OmissionNotice,
}

/// Whether the log says that lines are left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OmissionNotice {
    NotWritten,
    Written,
}

/// What becomes of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LineVerdict {
    Write,
    /// The line is left out, and the log must say so, because it is the first one.
    OmitWithNotice,
    Omit,
}

impl QueryClass {
    /// All classes.
    pub const ALL: [QueryClass; 4] = [
        QueryClass::Success,
        QueryClass::Denial,
        QueryClass::Error,
        QueryClass::Slow,
    ];

    /// The class by the content of a reply.
    fn of_reply(rcode: &str, reply: &[u8]) -> QueryClass {
        let is_truncated = reply.get(2).is_some_and(|flags| flags & IS_TRUNCATED != 0);
        let has_answer = reply.get(6..8).is_some_and(|count| count != [0, 0]);
        match rcode {
            "NOERROR" if has_answer || is_truncated => QueryClass::Success,
            "NOERROR" | "NXDOMAIN" => QueryClass::Denial,
            _ => QueryClass::Error,
        }
    }
}

impl QueryLog {
    pub(super) fn new(settings: QueryLogSettings, counters: Arc<ResolverCounters>) -> QueryLog {
        QueryLog {
            settings,
            matched: AtomicU64::new(0),
            budget: Mutex::new(LineBudget::new(Instant::now())),
            counters,
        }
    }

    /// Writes a line if the query belongs to a logged class, is in the sample, and the limit of
    /// lines allows it.
    pub(super) fn log(&self, query: &LoggedQuery<'_>) {
        let rcode = query.labels.rcode_of(query.reply);
        if !self.has_class_of(query, rcode) {
            return;
        }
        let number = self.matched.fetch_add(1, Relaxed);
        if !number.is_multiple_of(self.settings.sample.get().into()) {
            return;
        }
        let budget = self.budget.lock();
        let verdict = (budget.unwrap_or_else(PoisonError::into_inner)).spend(Instant::now());
        if verdict == LineVerdict::Write {
            query.write(rcode);
            return;
        }
        increment(&self.counters.query_lines_omitted);
        if verdict == LineVerdict::OmitWithNotice {
            warn!(
                "more than {MAX_LINES} queries a second are to be logged: DNS is not affected, and \
                 further lines are left out and counted in zerohop_query_log_omitted_total; log \
                 fewer classes, or a sample, to see queries evenly"
            );
        }
    }

    fn has_class_of(&self, query: &LoggedQuery<'_>, rcode: &str) -> bool {
        let class = QueryClass::of_reply(rcode, query.reply);
        let is_slow = query.took >= SLOW;
        let mut classes = self.settings.classes.iter();
        classes.any(|it| *it == class || *it == QueryClass::Slow && is_slow)
    }
}

impl LineBudget {
    fn new(now: Instant) -> LineBudget {
        LineBudget {
            since: now,
            lines_left: MAX_LINES,
            notice: OmissionNotice::NotWritten,
        }
    }

    fn spend(&mut self, now: Instant) -> LineVerdict {
        if now.saturating_duration_since(self.since) >= Duration::from_secs(1) {
            self.since = now;
            self.lines_left = MAX_LINES;
        }
        match (self.lines_left.checked_sub(1), self.notice) {
            (Some(left), _) => {
                self.lines_left = left;
                LineVerdict::Write
            }
            (None, OmissionNotice::NotWritten) => {
                self.notice = OmissionNotice::Written;
                LineVerdict::OmitWithNotice
            }
            (None, OmissionNotice::Written) => LineVerdict::Omit,
        }
    }
}

impl LoggedQuery<'_> {
    /// Writes the line. A reply without a question, such as FORMERR, has no name and no type.
    fn write(&self, rcode: &str) {
        let question = self.question();
        let name = question.as_ref().map(|(name, _)| display(name));
        let rtype = question.as_ref().map(|(_, rtype)| display(rtype));
        let upstream = self.upstream.map(display);
        info!(
            client = %self.client,
            protocol = match self.transport {
                Transport::Udp => "udp",
                Transport::Tcp => "tcp",
            },
            name,
            "type" = rtype,
            "do" = self.labels.is_dnssec_ok(),
            cd = self.is_checking_disabled,
            rcode,
            size = self.reply.len(),
            duration = ?self.took,
            source = match self.source {
                ReplySource::Refusal => "refusal",
                ReplySource::LocalData => "local",
                ReplySource::Cache => "cache",
                ReplySource::Upstreams => "upstreams",
            },
            upstream,
            "query"
        );
    }

    /// Name and type of the reply's question. Unusual bytes of the name are written as `\DDD`.
    fn question(&self) -> Option<(Name, Rtype)> {
        let question = self.reply.get(HEADER_LEN..self.labels.question_end())?;
        let (name, numbers) = question.split_at_checked(question.len().checked_sub(4)?)?;
        let rtype = u16::from_be_bytes(*numbers.first_chunk()?);
        Some((Name::from_wire(name).ok()?, Rtype::from_int(rtype)))
    }
}

#[cfg(test)]
mod tests;
