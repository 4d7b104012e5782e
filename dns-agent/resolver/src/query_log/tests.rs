//! Classes, and the limits of the log. What a line looks like is tested with the agent.

use super::*;

/// A query for `a.` of type A, and the start of its reply.
const QUESTION: [u8; 7] = [1, b'a', 0, 0, 1, 0, 1];

/// A reply with these flags and this number of answers. Records are not read.
fn reply(flags: [u8; 2], answers: u8) -> Vec<u8> {
    let header = [0, 0, flags[0], flags[1], 0, 1, 0, answers, 0, 0, 0, 0];
    [&header[..], &QUESTION].concat()
}

fn log_of(classes: &[QueryClass], sample: u32) -> (QueryLog, Arc<ResolverCounters>) {
    let counters = Arc::new(ResolverCounters::default());
    let settings = QueryLogSettings {
        classes: classes.to_vec(),
        sample: NonZeroU32::new(sample).unwrap(),
    };
    (QueryLog::new(settings, counters.clone()), counters)
}

/// The lines that a log has written or left out.
fn lines(log: &QueryLog, counters: &ResolverCounters) -> (u32, u64) {
    let left = log.budget.lock().unwrap().lines_left;
    (MAX_LINES - left, counters.snapshot().query_lines_omitted)
}

fn log(log: &QueryLog, reply: &[u8], took: Duration) {
    let client: SocketAddr = "10.0.0.1:1".parse().unwrap();
    log.log(&LoggedQuery {
        client,
        transport: Transport::Udp,
        labels: &QueryLabels::read(reply, Transport::Udp, client.ip()),
        is_checking_disabled: false,
        reply,
        source: ReplySource::Cache,
        upstream: None,
        took,
    });
}

#[test]
fn a_query_is_logged_if_its_class_is() {
    let fast = Duration::from_millis(499);
    for (reply, took, expected) in [
        (reply([0x80, 0], 1), fast, &[QueryClass::Success][..]),
        // Truncated.
        (reply([0x82, 0], 0), fast, &[QueryClass::Success]),
        (reply([0x80, 0], 0), fast, &[QueryClass::Denial]),
        (reply([0x80, 3], 0), fast, &[QueryClass::Denial]),
        // NXDOMAIN of the target of an alias.
        (reply([0x80, 3], 1), fast, &[QueryClass::Denial]),
        (reply([0x80, 2], 0), fast, &[QueryClass::Error]),
        (
            reply([0x80, 5], 0),
            SLOW,
            &[QueryClass::Error, QueryClass::Slow],
        ),
        (
            reply([0x80, 0], 1),
            SLOW,
            &[QueryClass::Success, QueryClass::Slow],
        ),
        // FORMERR without a question.
        (
            vec![0, 0, 0x80, 1, 0, 0, 0, 0, 0, 0, 0, 0],
            fast,
            &[QueryClass::Error],
        ),
    ] {
        for class in QueryClass::ALL {
            let (query_log, counters) = log_of(&[class], 1);
            log(&query_log, &reply, took);
            let is_expected = u32::from(expected.contains(&class));
            assert_eq!(lines(&query_log, &counters), (is_expected, 0), "{class:?}");
        }
        let (query_log, counters) = log_of(&QueryClass::ALL, 1);
        log(&query_log, &reply, took);
        assert_eq!(lines(&query_log, &counters), (1, 0), "one line");
    }
}

#[test]
fn a_sample_counts_only_queries_of_the_classes() {
    let (query_log, counters) = log_of(&[QueryClass::Error], 10);
    for _ in 0..100 {
        log(&query_log, &reply([0x80, 0], 1), SLOW);
        log(&query_log, &reply([0x80, 2], 0), Duration::ZERO);
    }
    assert_eq!(lines(&query_log, &counters), (10, 0));
}

#[test]
fn lines_beyond_the_limit_are_left_out_and_reported_once() {
    let start = Instant::now();
    let mut budget = LineBudget::new(start);
    let mut spend = |millis, count| {
        let now = start + Duration::from_millis(millis);
        let verdicts: Vec<_> = (0..count).map(|_| budget.spend(now)).collect();
        let of = |verdict| verdicts.iter().filter(|it| **it == verdict).count();
        [
            of(LineVerdict::Write),
            of(LineVerdict::OmitWithNotice),
            of(LineVerdict::Omit),
        ]
    };
    assert_eq!(spend(0, 60), [60, 0, 0]);
    assert_eq!(spend(999, 60), [40, 1, 19]);
    assert_eq!(spend(1000, 150), [100, 0, 50]);
    assert_eq!(spend(5000, 1), [1, 0, 0]);

    let (query_log, counters) = log_of(&[QueryClass::Success], 1);
    for _ in 0..2 * MAX_LINES {
        log(&query_log, &reply([0x80, 0], 1), Duration::ZERO);
    }
    assert_eq!(lines(&query_log, &counters), (MAX_LINES, MAX_LINES.into()));
}

#[test]
fn names_are_written_on_one_line() {
    let client: SocketAddr = "10.0.0.1:1".parse().unwrap();
    let header = [0, 0, 0x80, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    let question = [4, b'\n', b' ', 0x1b, b'A', 0, 0, 28, 0, 1];
    let reply = [&header[..], &question].concat();
    let query = LoggedQuery {
        client,
        transport: Transport::Tcp,
        labels: &QueryLabels::read(&reply, Transport::Tcp, client.ip()),
        is_checking_disabled: false,
        reply: &reply,
        source: ReplySource::Cache,
        upstream: None,
        took: Duration::ZERO,
    };
    let (name, rtype) = query.question().unwrap();
    assert_eq!(name.to_string(), r"\010\032\027a.");
    assert_eq!(rtype, Rtype::AAAA);
}
