//! Queries as they are on the wire, and what comes back.

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
use zerohop_tests::{netns::Namespace, packet::Query, topology::POD};

use super::{
    answer::{Answer, Source},
    questions::Packet,
};

/// How many times each is sent; enough for a steady median.
pub(crate) const TIMES: u16 = 301;
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Sends a query again and again from inside a pod. Gives the answer and the round trips, and
/// stops early when an answer is not the first one again.
pub(crate) fn ask(
    pod: &Namespace,
    packet: &Packet,
    source: Source,
) -> Result<(Answer, Vec<Duration>)> {
    let socket = pod
        .enter(|| connect(packet.server))?
        .with_context(|| format!("in the pod, no way to {}", packet.server))?;
    let mut buffer = [0; 4096];
    let mut first = None;
    let mut times = Vec::new();
    for id in 0..TIMES {
        // Odd steps, since clients choose their IDs at random.
        let query = message(packet, id.wrapping_mul(40_503));
        let start = Instant::now();
        socket.send(&query).context("cannot send a query")?;
        let received = socket.recv(&mut buffer);
        times.push(start.elapsed());
        let answer = match received {
            Ok(length) => read(&query, &buffer[..length], packet, source)
                .unwrap_or_else(|error| Answer::Odd(format!("no readable message ({error})"))),
            Err(error) => Answer::Odd(format!("no answer ({error})")),
        };
        let first = first.get_or_insert_with(|| answer.clone());
        if answer != *first {
            let change = format!("{first} at first and then {answer}");
            return Ok((Answer::Odd(change), times));
        }
        if matches!(answer, Answer::Odd(_)) {
            break;
        }
    }
    let answer = first.context("nothing was asked")?;
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

fn message(packet: &Packet, id: u16) -> Vec<u8> {
    let [client, _] = POD;
    let name = packet.subject.name();
    let mut query = Query::new(client, packet.server, &name, packet.rtype);
    query.id = id;
    match packet.edns {
        Some(size) => query.with_edns(size, 0, &[]).message(),
        None => query.message(),
    }
}

/// Reads a reply, and looks whether it is one.
fn read(query: &[u8], reply: &[u8], packet: &Packet, source: Source) -> Result<Answer, ParseError> {
    let question = 12..12 + packet.subject.name().len() + 2 + 4;
    let odd = |reason: &str| Ok(Answer::Odd(reason.to_owned()));
    if reply.get(..2) != query.get(..2) {
        return odd("the answer to another query");
    }
    if reply.get(question.clone()) != query.get(question) {
        return odd("an answer that does not repeat the question octet for octet");
    }
    let message = Message::from_octets(reply).map_err(|_| ParseError::ShortInput)?;
    let header = message.header();
    if !header.qr() || header.tc() {
        return odd("no whole reply");
    }
    if header.aa() != (source == Source::Cluster) {
        return odd("an answer of the wrong authority");
    }
    if message.opt().is_some() != packet.edns.is_some() {
        return odd("EDNS where there was none, or none where it was");
    }

    let records = message
        .answer()?
        .limit_to_in::<AllRecordData<_, ParsedName<_>>>();
    let data = records
        .map(|record| Ok(record?.data().to_string()))
        .collect::<Result<BTreeSet<_>, ParseError>>()?;
    let answer = match header.rcode() {
        Rcode::NOERROR if !data.is_empty() => return Ok(Answer::Data(data)),
        Rcode::NOERROR => Answer::NoData,
        Rcode::NXDOMAIN => Answer::NxDomain,
        rcode => return Ok(Answer::Odd(rcode.to_string())),
    };
    let mut authority = message.authority()?;
    let has_soa = authority.any(|record| record.is_ok_and(|record| record.rtype() == Rtype::SOA));
    if source == Source::Cluster && !has_soa {
        return Ok(Answer::Odd(format!("{answer} without a SOA")));
    }
    Ok(answer)
}
