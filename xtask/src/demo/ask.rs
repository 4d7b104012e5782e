//! Asks a question many times, and checks each reply.

use std::{
    collections::BTreeSet,
    net::{IpAddr, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use zerohop_contract::{message::Message, packet::QueryPacket};
use zerohop_tests::netns::NetworkNamespace;

use super::questions::{AnswerSource, NODATA};

/// How many times each query is sent; enough for a stable median.
pub(crate) const QUERIES: u16 = 301;
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// The answer to a repeated question, or what is wrong with it; and the time of each repetition.
pub(crate) type RepeatedAnswer = (String, Vec<Duration>);

/// Repeats a question. Stops early at an error, and when an answer differs from the first one.
pub(crate) fn repeat(
    times: u16,
    mut ask: impl FnMut(u16) -> Result<(String, Duration)>,
) -> RepeatedAnswer {
    let mut first = None;
    let mut durations = Vec::new();
    for number in 0..times {
        let (answer, duration) = match ask(number) {
            Ok(measured) => measured,
            Err(error) => return (format!("{error:#}"), durations),
        };
        durations.push(duration);
        let first = first.get_or_insert_with(|| answer.clone());
        if answer != *first {
            return (format!("{first} at first, then {answer}"), durations);
        }
    }
    (first.unwrap_or_default(), durations)
}

/// Sends a query [`QUERIES`] times from inside the pod.
pub(crate) fn send_query(
    pod: &NetworkNamespace,
    query: &QueryPacket,
    source: AnswerSource,
) -> Result<RepeatedAnswer> {
    // Not a `UdpClient`, which would add a system call and allocations to each round trip.
    let socket = pod.enter(|| connect(query.server))??;
    let mut query = query.clone();
    let mut buffer = [0; 4096];
    Ok(repeat(QUERIES, |number| {
        // Varied IDs, because clients choose theirs at random. The factor is 2^16 divided by the
        // golden ratio, which spreads them.
        query.id = number.wrapping_mul(40_503);
        let message = query.message();
        let start = Instant::now();
        socket.send(&message).context("cannot send the query")?;
        let length = socket.recv(&mut buffer).context("no answer")?;
        let time = start.elapsed();
        Ok((read_reply(&query, &buffer[..length], source)?, time))
    }))
}

/// Joins the rdata of records with commas: sorted, because answers rotate, and without duplicates.
pub(crate) fn list(rdata: impl Iterator<Item = String>) -> String {
    Vec::from_iter(BTreeSet::from_iter(rdata)).join(", ")
}

fn connect(server: (IpAddr, u16)) -> Result<UdpSocket> {
    let any = if server.0.is_ipv4() { "0.0.0.0" } else { "::" };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket
        .connect(server)
        .with_context(|| format!("the pod has no route to {}", server.0))?;
    Ok(socket)
}

/// Checks that a reply answers the query. Returns its answer in the form of `DemoQuestion::answer`,
/// or the name of another RCODE.
fn read_reply(query: &QueryPacket, reply: &[u8], source: AnswerSource) -> Result<String> {
    let sent = query.message();
    let question = 12..12 + query.name.len() + 4;
    ensure!(
        reply.get(..2) == sent.get(..2) && reply.get(question.clone()) == sent.get(question),
        "an answer that does not repeat ID and question byte by byte"
    );
    let reply = Message::read(reply).context("an unreadable message")?;
    ensure!(
        reply.bits & (QR | TC) == QR,
        "not a reply, or a truncated one"
    );
    let is_authoritative = reply.flags().contains(&"aa");
    ensure!(
        is_authoritative == (source == AnswerSource::Cluster),
        "an answer with a wrong AA bit"
    );
    ensure!(
        reply.edns.is_some() == query.edns.is_some(),
        "EDNS in the answer, but not in the query, or the reverse"
    );
    let rcode = reply.rcode();
    let [answers, authority, _] = reply.sections;
    if rcode == "NOERROR" && !answers.is_empty() {
        // A record is a line of owner, TTL, class, type and rdata.
        let rdata = answers.iter().filter_map(|line| line.splitn(5, ' ').nth(4));
        return Ok(list(rdata.map(str::to_owned)));
    }
    let has_soa = authority.iter().any(|line| line.contains(" IN SOA "));
    // The demo's upstream sends no SOA.
    ensure!(
        has_soa || source == AnswerSource::Outside,
        "{rcode} without an answer and without a SOA"
    );
    // NOERROR without answers is NODATA.
    Ok(rcode.replace("NOERROR", NODATA))
}

// RFC 1035 section 4.1.1.
const QR: u16 = 0x8000;
const TC: u16 = 0x0200;
