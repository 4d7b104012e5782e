//! Sends single queries, and reads the replies.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use domain::{
    base::{Message, ParsedName, Rtype, iana::Rcode, wire::ParseError},
    rdata::AllRecordData,
};
use zerohop_contract::{addresses::POD, packet::QueryPacket};
use zerohop_tests::netns::NetworkNamespace;

use super::{
    answer::{AnswerSource, DemoAnswer},
    questions::DemoQuery,
};

/// How many times each query is sent; enough for a stable median.
pub(crate) const REPETITIONS: u16 = 301;
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Sends a query repeatedly from inside a pod. Returns the answer and the round-trip times. Stops
/// early if an answer differs from the first one.
pub(crate) fn send_query(
    pod: &NetworkNamespace,
    packet: &DemoQuery,
    source: AnswerSource,
) -> Result<(DemoAnswer, Vec<Duration>)> {
    let socket = pod
        .enter(|| connect(packet.server))?
        .with_context(|| format!("no route to {} in the pod", packet.server))?;
    let mut buffer = [0; 4096];
    let mut first = None;
    let mut times = Vec::new();
    for id in 0..REPETITIONS {
        // Varied IDs, because clients choose theirs at random.
        let query = message(packet, id.wrapping_mul(40_503));
        let start = Instant::now();
        socket.send(&query).context("cannot send a query")?;
        let received = socket.recv(&mut buffer);
        times.push(start.elapsed());
        let answer = match received {
            Ok(length) => {
                read_reply(&query, &buffer[..length], packet, source).unwrap_or_else(|error| {
                    DemoAnswer::Unexpected(format!("an unreadable message ({error})"))
                })
            }
            Err(error) => DemoAnswer::Unexpected(format!("no answer ({error})")),
        };
        let first = first.get_or_insert_with(|| answer.clone());
        if answer != *first {
            let change = format!("{first} at first, then {answer}");
            return Ok((DemoAnswer::Unexpected(change), times));
        }
        if matches!(answer, DemoAnswer::Unexpected(_)) {
            break;
        }
    }
    let answer = first.context("no query was sent")?;
    Ok((answer, times))
}

fn connect(server: IpAddr) -> io::Result<UdpSocket> {
    let any: SocketAddr = match server {
        IpAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        IpAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect((server, 53))?;
    Ok(socket)
}

fn message(packet: &DemoQuery, id: u16) -> Vec<u8> {
    let [client, _] = POD;
    let name = packet.subject.name();
    let mut query = QueryPacket::new(client, packet.server, &name, packet.rtype);
    query.id = id;
    match packet.edns {
        Some(size) => query.with_edns(size, 0, &[]).message(),
        None => query.message(),
    }
}

/// Reads a reply, and checks that it answers the query.
fn read_reply(
    query: &[u8],
    reply: &[u8],
    packet: &DemoQuery,
    source: AnswerSource,
) -> Result<DemoAnswer, ParseError> {
    let question = 12..12 + packet.subject.name().len() + 2 + 4;
    let unexpected = |reason: &str| Ok(DemoAnswer::Unexpected(reason.to_owned()));
    if reply.get(..2) != query.get(..2) {
        return unexpected("the answer to another query");
    }
    if reply.get(question.clone()) != query.get(question) {
        return unexpected("an answer that does not repeat the question byte by byte");
    }
    let message = Message::from_octets(reply).map_err(|_| ParseError::ShortInput)?;
    let header = message.header();
    if !header.qr() || header.tc() {
        return unexpected("not a reply, or a truncated one");
    }
    if header.aa() != (source == AnswerSource::Cluster) {
        return unexpected("an answer with a wrong AA bit");
    }
    if message.opt().is_some() != packet.edns.is_some() {
        return unexpected("EDNS in the answer, but not in the query, or the reverse");
    }

    let records = message
        .answer()?
        .limit_to_in::<AllRecordData<_, ParsedName<_>>>();
    let data = records
        .map(|record| Ok(record?.data().to_string()))
        .collect::<Result<BTreeSet<_>, ParseError>>()?;
    let answer = match header.rcode() {
        Rcode::NOERROR if !data.is_empty() => return Ok(DemoAnswer::Data(data)),
        Rcode::NOERROR => DemoAnswer::NoData,
        Rcode::NXDOMAIN => DemoAnswer::NxDomain,
        rcode => return Ok(DemoAnswer::Unexpected(rcode.to_string())),
    };
    let mut authority = message.authority()?;
    let has_soa = authority.any(|record| record.is_ok_and(|record| record.rtype() == Rtype::SOA));
    if source == AnswerSource::Cluster && !has_soa {
        return Ok(DemoAnswer::Unexpected(format!("{answer} without a SOA")));
    }
    Ok(answer)
}
