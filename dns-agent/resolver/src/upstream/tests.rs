//! The course of questions, with a simulated clock.
//!
//! `scenarios/*.scn` hold the table fault × what is asked next × when. Each file is a sequence of
//! cases; `#` starts a comment.
//!
//! ```text
//! case the first server is dead
//! servers A B
//! question
//!   0    ask A over UDP
//!   400  A is late
//!   400  ask B over UDP (hedge)
//!   420  < B sends NOERROR
//!   420  give NOERROR of B
//! pause 1000
//! question
//!   …
//! ```
//!
//! `policy` sets the order of the servers, `random` the random number, and `measured A 20` the
//! round-trip time of A. `tls A` asks A over TLS, and `without EDNS` sends no OPT records.
//!
//! Times are milliseconds since the question. A line with `<` is an event; `A#1` is the first query
//! to A, and `A` the last one that has not ended. All other lines of a question are expected. With
//! `UPDATE_SCENARIOS=1`, they are written instead of compared.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fmt, fs,
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use super::{
    health::{EdnsUse, Observation},
    race::{
        AttemptEnd, ErrorCode, MAX_ATTEMPTS, MAX_SENDS, QUESTION_LIMIT, QuerySending, Race,
        RaceStep, SendReason,
    },
    selection::{Candidate, Draw, KnownServers},
    server_set::Channel,
};
use crate::query::Transport;
use zerohop_routes::UpstreamPolicy;

/// What servers send, as scenarios name it.
const SENT: [(&str, AttemptEnd); 13] = [
    ("NOERROR", AttemptEnd::Answer),
    ("NXDOMAIN", AttemptEnd::Answer),
    ("SERVFAIL", AttemptEnd::Error(ErrorCode::ServFail)),
    ("REFUSED", AttemptEnd::Error(ErrorCode::Refused)),
    ("FORMERR", AttemptEnd::Error(ErrorCode::NotUnderstood)),
    ("NOTIMP", AttemptEnd::Error(ErrorCode::NotUnderstood)),
    ("NOTAUTH", AttemptEnd::Error(ErrorCode::Other)),
    ("a truncated response", AttemptEnd::Truncated),
    ("an unreadable response", AttemptEnd::Unusable),
    ("an oversize response", AttemptEnd::Unusable),
    ("another question", AttemptEnd::NearMiss),
    ("a reset", AttemptEnd::Failed),
    ("nothing for want of a socket", AttemptEnd::NotSent),
];

/// The settings of a case.
struct Scene {
    servers: Vec<char>,
    policy: UpstreamPolicy,
    edns: EdnsUse,
    /// The servers that are asked over TLS.
    over_tls: Vec<char>,
    random: u64,
    known: KnownServers,
    now: Instant,
    turn: u64,
}

/// A question in progress, and what has happened to it.
struct Play {
    race: Race,
    start: Instant,
    now: Instant,
    /// The attempts: what was sent, to which server, and what arrived.
    attempts: Vec<(QuerySending, char, Option<&'static str>)>,
    candidates: Vec<Candidate>,
    lines: Vec<String>,
}

/// A line with `<`.
struct SceneEvent {
    at: Duration,
    server: char,
    /// The number of the query to the server, from 1. `None`: the last one that has not ended.
    number: Option<usize>,
    what: &'static str,
}

fn address(server: char) -> SocketAddr {
    ([192, 0, 2, server as u8], 53).into()
}

fn name_of(server: SocketAddr) -> char {
    match server {
        SocketAddr::V4(address) => char::from(address.ip().octets()[3]),
        SocketAddr::V6(_) => panic!("scenarios have IPv4 servers only"),
    }
}

impl Scene {
    fn new() -> Scene {
        Scene {
            servers: Vec::new(),
            policy: UpstreamPolicy::Fastest,
            edns: EdnsUse::With,
            over_tls: Vec::new(),
            random: 1,
            known: KnownServers::default(),
            now: Instant::now(),
            turn: 0,
        }
    }

    /// Applies a line that is not part of a question.
    fn set(&mut self, line: &str) {
        let (key, value) = line.split_once(' ').unwrap_or((line, ""));
        match key {
            "case" => *self = Scene::new(),
            "servers" => self.servers = value.split(' ').map(|it| it.parse().unwrap()).collect(),
            "policy" => self.policy = value.parse().unwrap(),
            "random" => self.random = value.parse().unwrap(),
            "pause" => self.now += Duration::from_millis(value.parse().unwrap()),
            "without" => self.edns = EdnsUse::Without,
            "tls" => self.over_tls.push(value.parse().unwrap()),
            "measured" => {
                let (server, time) = value.split_once(' ').unwrap();
                let time = Duration::from_millis(time.parse().unwrap());
                for _ in 0..50 {
                    let server = address(server.parse().unwrap());
                    self.known
                        .observe(server, self.now, Observation::Responded(time));
                }
            }
            _ => panic!("not a line of a scenario: {line}"),
        }
    }

    /// Plays a question to its end.
    fn play(&mut self, events: &[SceneEvent]) -> Vec<String> {
        let servers: Vec<_> = self.servers.iter().map(|server| address(*server)).collect();
        let draw = Draw {
            random: self.random,
            turn: self.turn,
        };
        self.turn += 1;
        let mut candidates = (self.known).candidates(self.policy, &servers, self.now, draw);
        for candidate in &mut candidates {
            if self.edns == EdnsUse::Without {
                candidate.edns = EdnsUse::Without;
            }
            if self.over_tls.contains(&name_of(candidate.server)) {
                candidate.channel = Channel::Stream;
            }
        }
        let mut play = Play {
            race: Race::new(self.now, &candidates),
            start: self.now,
            now: self.now,
            attempts: Vec::new(),
            candidates,
            lines: Vec::new(),
        };
        play.take_steps(&mut self.known);
        let mut events = events.iter().peekable();
        for _ in 0..1000 {
            let wake = play.race.next_wake();
            let is_next = |event: &&SceneEvent| wake.is_none_or(|it| play.start + event.at <= it);
            if let Some(event) = events.next_if(is_next) {
                play.receive(event);
            } else if let Some(wake) = wake {
                play.now = wake;
                play.race.wake(wake);
            } else {
                self.now = play.now;
                return play.lines;
            }
            play.take_steps(&mut self.known);
        }
        panic!("the question does not end: {:#?}", play.lines);
    }
}

impl Play {
    fn receive(&mut self, event: &SceneEvent) {
        self.now = self.now.max(self.start + event.at);
        let mut attempts = (self.attempts.iter().enumerate())
            .filter(|(_, (_, server, _))| *server == event.server);
        let found = match event.number {
            Some(number) => attempts.nth(number - 1),
            None => attempts.rfind(|(_, (_, _, sent))| sent.is_none()),
        };
        let (number, _) = found.unwrap_or_else(|| {
            let (server, at) = (event.server, event.at);
            panic!("no query to {server} waits at {at:?}: {:#?}", self.lines)
        });
        self.attempts[number].2 = Some(event.what);
        let which = match event.number {
            Some(number) => format!("{}#{number}", event.server),
            None => event.server.to_string(),
        };
        self.write(format_args!("< {which} sends {}", event.what));
        let (_, end) = SENT.iter().find(|(what, _)| *what == event.what).unwrap();
        self.race.end_attempt(self.now, number, *end);
    }

    fn take_steps(&mut self, known: &mut KnownServers) {
        for step in self.race.take_steps() {
            match step {
                RaceStep::Send(sending) => {
                    let server = name_of(self.candidates[sending.candidate].server);
                    let transport = match sending.transport {
                        Transport::Udp => "UDP",
                        Transport::Tcp => "TCP",
                    };
                    let reason = match sending.reason {
                        SendReason::Start => "",
                        SendReason::Hedge => " (hedge)",
                        SendReason::Resend => " (again)",
                        SendReason::Failover => " (failover)",
                        SendReason::OverTcp => " (fallback)",
                        SendReason::WithoutEdns => " (without EDNS)",
                    };
                    self.write(format_args!("ask {server} over {transport}{reason}"));
                    self.attempts.push((sending, server, None));
                }
                RaceStep::Observe(candidate, observation) => {
                    let server = self.candidates[candidate].server;
                    known.observe(server, self.now, observation);
                    let server = name_of(server);
                    match observation {
                        Observation::Lost(_) => self.write(format_args!("{server} is late")),
                        Observation::Unreachable(_) => {
                            self.write(format_args!("{server} is unreachable"));
                        }
                        Observation::RefusedEdns => {
                            self.write(format_args!("{server} gets no OPT records for a while"));
                        }
                        Observation::Responded(_) | Observation::Refused => {}
                    }
                }
                RaceStep::Finish(None) => self.write(format_args!("give nothing")),
                RaceStep::Finish(Some(number)) => {
                    let (_, server, what) = self.attempts[number];
                    let what = what.unwrap();
                    self.write(format_args!("give {what} of {server}"));
                }
            }
        }
    }

    fn write(&mut self, text: fmt::Arguments<'_>) {
        let time = (self.now - self.start).as_millis();
        self.lines.push(format!("  {time:<5}{text}"));
    }
}

fn parse_event(line: &str) -> Option<SceneEvent> {
    let (time, event) = line.split_once('<')?;
    let (server, what) = event.trim().split_once(" sends ").unwrap();
    let (server, number) = match server.split_once('#') {
        Some((server, number)) => (server, Some(number.parse().unwrap())),
        None => (server, None),
    };
    let known = SENT.iter().find(|(known, _)| *known == what);
    Some(SceneEvent {
        at: Duration::from_millis(time.trim().parse().unwrap()),
        server: server.parse().unwrap(),
        number,
        what: known.unwrap_or_else(|| panic!("unknown event: {line}")).0,
    })
}

/// Plays a file, and returns it with what happened.
fn play_file(text: &str) -> String {
    let mut scene = Scene::new();
    let mut played = String::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        played.push_str(line);
        played.push('\n');
        if line == "question" {
            let mut events = Vec::new();
            while let Some(line) = lines.next_if(|line| line.starts_with("  ")) {
                events.extend(parse_event(line));
            }
            for line in scene.play(&events) {
                played.push_str(&line);
                played.push('\n');
            }
        } else if !line.is_empty() && !line.starts_with('#') {
            scene.set(line);
        }
    }
    played
}

#[test]
fn every_fault_takes_the_course_of_its_scenario() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/upstream/scenarios");
    let mut differences = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let played = play_file(&text);
        if env::var_os("UPDATE_SCENARIOS").is_some() {
            fs::write(&path, played).unwrap();
        } else if let Some((number, (expected, found))) = (text.lines().zip(played.lines()))
            .enumerate()
            .find(|(_, (expected, found))| expected != found)
        {
            let line = number + 1;
            let path = path.display();
            differences.push(format!(
                "{path}:{line}: expected {expected:?}, found {found:?}"
            ));
        } else if text != played {
            differences.push(format!("{}: the end differs", path.display()));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

/// Plays random courses. Whatever servers do, a question ends in time, asks no server too often,
/// and gives the best response.
#[test]
fn every_course_keeps_to_the_limits() {
    for seed in 0..20_000 {
        let mut random = StdRng::seed_from_u64(seed);
        let start = Instant::now();
        let names = ['A', 'B', 'C', 'D', 'E'];
        let servers = names.map(address);
        let servers = &servers[..random.random_range(0..=names.len())];
        let mut known = KnownServers::default();
        for server in servers {
            for _ in 0..random.random_range(0..3) {
                let observation = match random.random_range(0..3) {
                    0 => Observation::Unreachable(start),
                    1 => Observation::Lost(start),
                    _ => Observation::Responded(milliseconds(random.random_range(0..2000))),
                };
                known.observe(*server, start, observation);
            }
        }
        let policy = UpstreamPolicy::ALL[random.random_range(0..UpstreamPolicy::ALL.len())];
        let draw = Draw {
            random: random.random(),
            turn: seed,
        };
        let later = start + milliseconds(random.random_range(0..2000));
        let mut candidates = known.candidates(policy, servers, later, draw);
        for candidate in &mut candidates {
            if random.random() {
                candidate.channel = Channel::Stream;
            }
        }
        check_course(&candidates, start, &mut random);
    }
}

fn milliseconds(number: u64) -> Duration {
    Duration::from_millis(number)
}

/// Plays one random course, and checks each step.
fn check_course(candidates: &[Candidate], start: Instant, random: &mut StdRng) {
    let mut race = Race::new(start, candidates);
    let mut now = start;
    let mut open: Vec<QuerySending> = Vec::new();
    let mut ends: BTreeMap<usize, AttemptEnd> = BTreeMap::new();
    let mut sends: BTreeMap<(usize, bool), u8> = BTreeMap::new();
    let mut suspects = BTreeSet::new();
    let mut result = None;
    for step_count in 0.. {
        assert!(step_count < 1000, "the question does not end");
        for step in race.take_steps() {
            match step {
                RaceStep::Send(sending) => {
                    assert_eq!(result, None, "a query after the result");
                    let is_tcp = sending.transport == Transport::Tcp;
                    let channel = candidates[sending.candidate].channel;
                    assert!(
                        is_tcp || channel != Channel::Stream,
                        "a datagram instead of TLS"
                    );
                    *sends.entry((sending.candidate, is_tcp)).or_default() += 1;
                    open.push(sending);
                }
                RaceStep::Observe(..) => {}
                RaceStep::Finish(number) => {
                    assert_eq!(result, None, "two results");
                    assert!(now <= start + QUESTION_LIMIT, "a late result");
                    result = Some(number);
                    check_result(number.map(|number| ends[&number]), &ends);
                }
            }
        }
        let Some(wake) = race.next_wake() else { break };
        let is_event = !open.is_empty() && random.random_range(0..3) == 0;
        if is_event {
            now = (now + milliseconds(random.random_range(0..600))).min(wake);
            let sending = open.remove(random.random_range(0..open.len()));
            let (_, end) = SENT[random.random_range(0..SENT.len())];
            // What arrives over UDP after a near miss doesn't count.
            let is_udp = sending.transport == Transport::Udp;
            if !is_udp || !suspects.contains(&sending.candidate) {
                ends.insert(sending.attempt, end);
            }
            if is_udp && end == AttemptEnd::NearMiss && result.is_none() {
                suspects.insert(sending.candidate);
            }
            race.end_attempt(now, sending.attempt, end);
        } else {
            now = wake;
            race.wake(now);
        }
    }
    assert!(result.is_some(), "no result");
    assert!(sends.values().all(|sends| *sends <= MAX_SENDS), "{sends:?}");
    assert!(
        sends.values().sum::<u8>() as usize <= MAX_ATTEMPTS,
        "{sends:?}"
    );
}

/// Checks that no message was better than the given one. So only an answer gives an answer.
fn check_result(result: Option<AttemptEnd>, ends: &BTreeMap<usize, AttemptEnd>) {
    let rank = |end: &AttemptEnd| match end {
        AttemptEnd::Answer => 6,
        AttemptEnd::Truncated => 5,
        AttemptEnd::Error(ErrorCode::ServFail) => 4,
        AttemptEnd::Error(ErrorCode::Refused) => 3,
        AttemptEnd::Error(ErrorCode::NotUnderstood) => 2,
        AttemptEnd::Error(ErrorCode::Other) => 1,
        AttemptEnd::Unusable | AttemptEnd::NearMiss | AttemptEnd::Failed | AttemptEnd::NotSent => 0,
    };
    let given = result.as_ref().map_or(0, rank);
    assert_ne!(result.is_some(), given == 0, "{result:?} can't be given");
    // FORMERR to a query with an OPT record is not kept, because it is sent again without one.
    let is_kept = |end: &&AttemptEnd| **end != AttemptEnd::Error(ErrorCode::NotUnderstood);
    let best = ends.values().filter(is_kept).map(rank).max().unwrap_or(0);
    assert!(given >= best, "{result:?} of {ends:?}");
}
