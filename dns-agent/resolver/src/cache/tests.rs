//! The life of replies and failures in the cache, with a simulated clock.
//!
//! Each file of `scenarios` is a sequence of cases; `#` starts a comment.
//!
//! ```text
//! case the TTL is counted down
//! max-ttl 60
//!   0    a.example A < NOERROR; a.example 300 A 192.0.2.1
//!   20   a.example A = NOERROR ra; a.example 40 A 192.0.2.1
//!   60   a.example A = nothing
//! ```
//!
//! Times are seconds since the start of the case. A line with `<` is what upstreams answer, a line
//! with `=` is what the cache has. `;` precedes a record of the answer section, `;;` one of the
//! authority section, and `;;;` one of the additional section. A reply from the cache is decoded by
//! another library than the resolver's.
//! A line `route` has what the route of all names says about caching.
//! With `UPDATE_SCENARIOS=1`, the lines with `=` are written instead of compared.

use std::{env, fmt::Write as _, fs, path::Path, time::Duration};

use domain::base::{Message, iana::OptRcode};
use hickory_proto::{
    op::{self, MessageType, OpCode, ResponseCode},
    rr::{self, RData, RecordType, rdata::opt::EdnsOption},
};
use proptest::prelude::*;
use tokio::time::Instant;
use zerohop_routes::{CacheRules, KeptAnswers, StaleMode, StaleRules};
use zerohop_zone::{Apex, Name, ZoneData as _};

use super::{CacheKey, CacheSettings, Found, ReplyCache, ReplyOrigin, StoredReply, TtlSource};
use crate::{
    query::{Query, Transport},
    records::Records,
};

/// A case that is played.
struct CacheScene {
    settings: CacheSettings,
    cache: ReplyCache,
    start: Instant,
    zones: Vec<Apex>,
    /// What the route of all names says. `None`: there is no route.
    rules: Option<CacheRules>,
}

/// A question: `NAME TYPE`, and perhaps `do`, `cd` and `ad`.
struct CachedQuestion {
    query: Query,
    key: CacheKey,
}

impl CacheScene {
    fn new(settings: CacheSettings) -> CacheScene {
        CacheScene {
            settings,
            cache: ReplyCache::new(settings, std::sync::Arc::default()),
            start: Instant::now(),
            zones: Vec::new(),
            rules: None,
        }
    }

    /// Plays a line, and returns it with what the cache has.
    fn play(&mut self, line: &str) -> String {
        let trimmed = line.trim();
        if trimmed.is_empty() || trimmed.starts_with('#') {
            return line.to_owned();
        }
        let (word, rest) = trimmed.split_once(' ').unwrap_or((trimmed, ""));
        if word == "case" {
            *self = CacheScene::new(CacheSettings::default());
            return line.to_owned();
        }
        if word == "route" {
            self.rules = Some(parse_rules(rest));
            return line.to_owned();
        }
        if let Some(settings) = self.changed_settings(word, rest.trim()) {
            *self = CacheScene::new(settings);
            return line.to_owned();
        }
        let seconds: f64 = word.parse().unwrap_or_else(|_| panic!("what is {line:?}?"));
        let now = self.start + Duration::from_secs_f64(seconds);
        if let Some((question, answer)) = rest.split_once('<') {
            self.receive(&CachedQuestion::parse(question), answer.trim(), now);
            return line.to_owned();
        }
        let (question, _) = rest
            .split_once('=')
            .unwrap_or_else(|| panic!("what is {line:?}?"));
        let found = self.ask(&CachedQuestion::parse(question), now);
        let (before, _) = line.split_once('=').unwrap_or((line, ""));
        format!("{before}= {found}")
    }

    fn changed_settings(&self, word: &str, value: &str) -> Option<CacheSettings> {
        let number = || {
            value
                .parse::<u32>()
                .unwrap_or_else(|_| panic!("{word} {value:?}"))
        };
        let mut settings = self.settings;
        match word {
            "capacity" => settings.capacity = number().into(),
            "min-ttl" => settings.min_ttl = number(),
            "max-ttl" => settings.max_ttl = number(),
            "max-negative-ttl" => settings.max_negative_ttl = Some(number()),
            "stale" => settings.stale = Duration::from_secs(number().into()),
            _ => return None,
        }
        Some(settings)
    }

    fn receive(&self, question: &CachedQuestion, answer: &str, now: Instant) {
        if let Some(rcode) = answer.strip_prefix("failure ") {
            let rcode = match rcode {
                "SERVFAIL" => OptRcode::SERVFAIL,
                "REFUSED" => OptRcode::REFUSED,
                _ => panic!("unknown failure {rcode:?}"),
            };
            self.cache.store_failure(&question.key, rcode, now);
            return;
        }
        let mut message = upstream_message(question, answer);
        self.cache.store(
            &question.key,
            &mut message,
            question.query.qtype,
            now,
            self.origin(),
        );
    }

    fn origin(&self) -> ReplyOrigin<'_> {
        ReplyOrigin {
            zones: &self.zones,
            routes: 0,
            rules: self.rules,
        }
    }

    fn ask(&self, question: &CachedQuestion, now: Instant) -> String {
        let show = |reply: &StoredReply, ttl| describe(&reply.answer(&question.query, now, ttl));
        match self.cache.find(&question.key, now) {
            Found::Fresh(reply) => {
                let refresh = if reply.count_hit(now) {
                    " (refresh)"
                } else {
                    ""
                };
                format!("{}{refresh}", show(&reply, TtlSource::Remaining))
            }
            Found::Stale(reply) => format!("stale: {}", show(&reply, TtlSource::Stale)),
            Found::StaleAtOnce(reply) => {
                format!("stale at once: {}", show(&reply, TtlSource::Stale))
            }
            Found::StaleOnly(reply) => format!("stale only: {}", show(&reply, TtlSource::Stale)),
            Found::Failed(rcode) => format!("failed {rcode}"),
            Found::Nothing => "nothing".to_owned(),
        }
    }
}

/// Reads what a route says: `positive SECONDS`, `negative SECONDS`, `stale SECONDS`, and `at-once`.
fn parse_rules(text: &str) -> CacheRules {
    let mut rules = CacheRules::OFF;
    let mut words = text.split_whitespace();
    let mut mode = StaleMode::IfUpstreamsFail;
    let mut limit = None;
    let (mut is_positive_kept, mut is_negative_kept) = (false, false);
    while let Some(word) = words.next() {
        if word == "at-once" {
            mode = StaleMode::AtOnce;
            continue;
        }
        let seconds = words.next().unwrap().parse().unwrap();
        match word {
            "positive" => (rules.max_ttl, is_positive_kept) = (seconds, true),
            "negative" => (rules.max_negative_ttl, is_negative_kept) = (seconds, true),
            "stale" => limit = Some(Duration::from_secs(seconds.into())),
            _ => panic!("what is {word:?}?"),
        }
    }
    rules.stale = limit.map(|limit| StaleRules { limit, mode });
    rules.kept = match (is_positive_kept, is_negative_kept) {
        (true, true) => KeptAnswers::All,
        (true, false) => KeptAnswers::Positive,
        (false, true) => KeptAnswers::Negative,
        (false, false) => KeptAnswers::None,
    };
    rules
}

impl CachedQuestion {
    fn parse(text: &str) -> CachedQuestion {
        let mut words = text.split_whitespace();
        let (Some(name), Some(rtype)) = (words.next(), words.next()) else {
            panic!("{text:?} is not a question");
        };
        let mut message = op::Message::new(7, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        let rtype: RecordType = rtype.parse().unwrap();
        message.add_query(op::Query::query(name.parse().unwrap(), rtype));
        let mut edns = op::Edns::new();
        edns.set_max_payload(1232);
        for word in words {
            match word {
                "do" => _ = edns.set_dnssec_ok(true),
                "cd" => message.metadata.checking_disabled = true,
                "ad" => message.metadata.authentic_data = true,
                "no-rd" => message.metadata.recursion_desired = false,
                _ => panic!("{word:?} is no flag of a question"),
            }
        }
        message.set_edns(edns);
        let bytes = message.to_vec().unwrap();
        let query = Query::parse(Message::from_slice(&bytes).unwrap(), Transport::Udp).unwrap();
        let key = CacheKey::of(&query).unwrap_or_else(|| panic!("{text:?} is never cached"));
        CachedQuestion { query, key }
    }
}

/// The message that upstreams send: `RCODE FLAGS; RECORD; RECORD;; RECORD`.
fn upstream_message(question: &CachedQuestion, text: &str) -> Vec<u8> {
    let (head, records) = text.split_at(text.find(';').unwrap_or(text.len()));
    let mut message = op::Message::new(9, MessageType::Response, OpCode::Query);
    message.metadata.recursion_available = true;
    for word in head.split_whitespace() {
        match word {
            "NOERROR" => message.metadata.response_code = ResponseCode::NoError,
            "NXDOMAIN" => message.metadata.response_code = ResponseCode::NXDomain,
            "aa" => message.metadata.authoritative = true,
            "ad" => message.metadata.authentic_data = true,
            "tc" => message.metadata.truncation = true,
            _ => panic!("{word:?} is no flag of a response"),
        }
    }
    let name = rr::Name::from_ascii(question.query.name.to_string()).unwrap();
    let rtype = question.query.qtype.to_int().into();
    message.add_query(op::Query::query(name, rtype));
    let (records, additionals) = records.split_once(";;;").unwrap_or((records, ""));
    let (answers, authorities) = records.split_once(";;").unwrap_or((records, ""));
    for text in additionals
        .split(';')
        .filter(|text| !text.trim().is_empty())
    {
        message.add_additional(record(text));
    }
    for text in answers.split(';').filter(|text| !text.trim().is_empty()) {
        message.add_answer(record(text));
    }
    for text in authorities
        .split(';')
        .filter(|text| !text.trim().is_empty())
    {
        message.add_authority(record(text));
    }
    message.to_vec().unwrap()
}

/// A record: `OWNER TTL TYPE DATA`. The data of a SOA record is its minimum.
fn record(text: &str) -> rr::Record {
    let words: Vec<&str> = text.split_whitespace().collect();
    let [owner, ttl, rtype, data @ ..] = words.as_slice() else {
        panic!("{text:?} is not a record");
    };
    let name = |text: &str| rr::Name::from_ascii(format!("{text}.")).unwrap();
    let data = match (*rtype, data) {
        ("A", [address]) => RData::A(rr::rdata::A(address.parse().unwrap())),
        ("AAAA", [address]) => RData::AAAA(rr::rdata::AAAA(address.parse().unwrap())),
        ("CNAME", [target]) => RData::CNAME(rr::rdata::CNAME(name(target))),
        ("NS", [target]) => RData::NS(rr::rdata::NS(name(target))),
        ("SOA", [minimum]) => {
            let (host, mailbox) = (name("ns.example"), name("hostmaster.example"));
            let minimum = minimum.parse().unwrap();
            RData::SOA(rr::rdata::SOA::new(host, mailbox, 1, 2, 3, 4, minimum))
        }
        _ => panic!("{text:?} has data that scenarios don't know"),
    };
    rr::Record::from_rdata(name(owner), ttl.parse().unwrap(), data)
}

/// A reply in the words of a scenario.
fn describe(reply: &[u8]) -> String {
    let message = op::Message::from_vec(reply).unwrap();
    assert_eq!(message.metadata.id, 7);
    assert_eq!(message.metadata.message_type, MessageType::Response);
    let mut text = match message.metadata.response_code {
        ResponseCode::NoError => "NOERROR".to_owned(),
        ResponseCode::NXDomain => "NXDOMAIN".to_owned(),
        other => format!("{other}"),
    };
    let flags = [
        ("aa", message.metadata.authoritative),
        ("ra", message.metadata.recursion_available),
        ("ad", message.metadata.authentic_data),
        ("cd", message.metadata.checking_disabled),
        ("tc", message.metadata.truncation),
    ];
    for (flag, _) in flags.iter().filter(|(_, is_set)| *is_set) {
        write!(text, " {flag}").unwrap();
    }
    let options = message.edns.iter().flat_map(|edns| edns.options().as_ref());
    for (code, option) in options {
        if let (15, EdnsOption::Unknown(_, data)) = (u16::from(*code), option) {
            write!(text, " error {}", u16::from_be_bytes([data[0], data[1]])).unwrap();
        }
    }
    for record in &message.answers {
        write!(text, "; {}", describe_record(record)).unwrap();
    }
    for record in &message.authorities {
        write!(text, ";; {}", describe_record(record)).unwrap();
    }
    for record in &message.additionals {
        write!(text, ";;; {}", describe_record(record)).unwrap();
    }
    text
}

fn describe_record(record: &rr::Record) -> String {
    let owner = record.name.to_string();
    let data = match &record.data {
        RData::SOA(soa) => soa.minimum.to_string(),
        data => data.to_string().trim_end_matches('.').to_owned(),
    };
    let (owner, rtype) = (owner.trim_end_matches('.'), record.record_type());
    format!("{owner} {} {rtype} {data}", record.ttl)
}

#[test]
fn scenarios_are_played() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cache/scenarios");
    let mut files: Vec<_> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(files.len() > 4, "{files:?}");
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let mut scene = CacheScene::new(CacheSettings::default());
        let lines: Vec<String> = text.lines().map(|line| scene.play(line)).collect();
        let played = lines.join("\n") + "\n";
        if env::var_os("UPDATE_SCENARIOS").is_some() {
            fs::write(&file, played).unwrap();
            continue;
        }
        for (number, (line, played)) in text.lines().zip(played.lines()).enumerate() {
            let place = format!("{}:{}", file.display(), number + 1);
            assert_eq!(played, line, "{place}");
        }
    }
}

#[test]
fn replies_are_forgotten_when_zones_change() {
    let mut scene = CacheScene::new(CacheSettings::default());
    let question = CachedQuestion::parse("a.example A");
    let zones = |names: &[&str]| {
        let mut builder = zerohop_zone::ModelBuilder::new(1);
        for name in names {
            builder.add_zone(Name::parse(name).unwrap(), 5).unwrap();
        }
        builder.build().zones().to_vec()
    };
    let answer = "NOERROR; a.example 300 A 192.0.2.1";
    scene.zones = zones(&["cluster.local"]);
    // A reply that was checked with other zones is not kept.
    scene.receive(&question, answer, scene.start);
    assert_eq!(scene.ask(&question, scene.start), "nothing");
    scene.cache.follow_names(&scene.zones, 0);
    scene.receive(&question, answer, scene.start);
    scene.cache.follow_names(&zones(&["cluster.local"]), 0);
    assert_ne!(scene.ask(&question, scene.start), "nothing");
    scene
        .cache
        .follow_names(&zones(&["cluster.local", "example"]), 0);
    assert_eq!(scene.ask(&question, scene.start), "nothing");
    // The servers may be others.
    scene.cache.follow_names(&scene.zones, 0);
    scene.receive(&question, answer, scene.start);
    assert_ne!(scene.ask(&question, scene.start), "nothing");
    scene.cache.follow_names(&scene.zones, 1);
    assert_eq!(scene.ask(&question, scene.start), "nothing");
}

/// A stream of names that are asked once doesn't replace names that are asked repeatedly.
#[test]
fn a_flood_of_random_names_does_not_replace_hot_names() {
    let capacity = 1 << 20;
    let scene = CacheScene::new(CacheSettings {
        capacity,
        ..CacheSettings::default()
    });
    let now = scene.start;
    let answer = |name: &str| format!("NOERROR; {name} 300 A 192.0.2.1");
    let hot: Vec<String> = (0..500)
        .map(|number| format!("hot{number}.example"))
        .collect();
    for name in &hot {
        scene.receive(
            &CachedQuestion::parse(&format!("{name} A")),
            &answer(name),
            now,
        );
    }
    let count_hits = || {
        let questions = hot
            .iter()
            .map(|name| CachedQuestion::parse(&format!("{name} A")));
        questions
            .filter(|question| scene.ask(question, now) != "nothing")
            .count()
    };
    assert_eq!(count_hits(), hot.len());
    for number in 0..20_000 {
        let name = format!("random{number}.example");
        scene.receive(
            &CachedQuestion::parse(&format!("{name} A")),
            &answer(&name),
            now,
        );
        if number % 1000 == 0 {
            count_hits();
        }
    }
    let (replies, bytes) = scene.cache.size();
    assert!(
        replies > hot.len() as u64 && bytes <= capacity,
        "{replies} replies, {bytes} bytes"
    );
    let hits = count_hits();
    assert!(
        hits * 100 >= hot.len() * 99,
        "{hits} of {} names stayed",
        hot.len()
    );
}

proptest! {
    /// Messages of upstreams don't make the cache panic, and what it stores is decoded again.
    #[test]
    fn any_message_may_be_stored(
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..12),
        length in any::<prop::sample::Index>(),
    ) {
        let question = CachedQuestion::parse("a.example A");
        let text = "NOERROR; a.example 300 CNAME b.example; b.example 200 A 192.0.2.1;; \
                    example 9 SOA 5";
        let mut message = upstream_message(&question, text);
        for (at, value) in flips {
            let at = at.index(message.len());
            message[at] = value;
        }
        message.truncate(length.index(message.len() + 1));
        let scene = CacheScene::new(CacheSettings::default());
        let (cache, key, now) = (&scene.cache, &question.key, scene.start);
        cache.store(key, &mut message, question.query.qtype, now, scene.origin());
        let later = now + Duration::from_secs(1);
        if let Found::Fresh(reply) = cache.find(key, later) {
            let reply = reply.answer(&question.query, later, TtlSource::Remaining);
            let counts = |message: &[u8]| Records::read(message).map(|records| {
                records.sections.map(|section| section.len())
            });
            // Additional records that end after the reply are the only ones that may be missing.
            let stored = counts(&message);
            prop_assert!(stored.is_none() || counts(&reply).is_some(), "{reply:02x?}");
            prop_assert!(reply.len() <= message.len() + 11);
        }
    }
}
