use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use proptest::prelude::*;
use zerohop_contract::packet::QueryPacket;

use super::*;
use crate::query::Transport;

const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);
const LISTEN: SocketAddr = SocketAddr::new(V4, 53);

/// A query for `web.example.`, with a root OPT record that has these flags. `None`: no OPT record.
fn query(qtype: u16, opt_flags: Option<u8>) -> Vec<u8> {
    let mut message = QueryPacket::new(V4, V4, "web.example", qtype).message();
    if let Some(flags) = opt_flags {
        message[11] = 1;
        message.extend([0, 0, 41, 4, 208, 0, 0, flags, 0, 0, 0]);
    }
    message
}

/// A reply to the query, with a response code and with the query's records.
fn reply(query: &[u8], rcode: u8) -> Vec<u8> {
    let mut reply = query.to_vec();
    reply[2] |= 0x80;
    reply[3] = rcode;
    reply
}

#[test]
fn replies_of_all_tasks_are_summed_by_their_labels() {
    let traffic = Traffic::default();
    let (mut udps, task) = traffic.add_server(LISTEN, 2);
    let (a, https) = (query(1, Some(0x80)), query(65, None));
    let labels = QueryLabels::read(&a, Transport::Udp, V4);
    let took = Duration::from_millis(1);
    for udp in [0, 1, 1] {
        udps[udp].count(&labels, ReplySource::Cache, &reply(&a, 0), took);
    }
    task.count(&labels, ReplySource::Upstreams, &reply(&a, 2), 9000 * took);
    let labels = QueryLabels::read(&https, Transport::Tcp, V6);
    task.count(&labels, ReplySource::LocalData, &reply(&https, 3), took);

    let counts = &traffic.snapshot().servers[0];
    let zone = TrafficZone::Served;
    assert_eq!(
        counts.requests,
        [
            (zone, Transport::Udp, AddressFamily::Ipv4, "A", 4),
            (zone, Transport::Tcp, AddressFamily::Ipv6, "HTTPS", 1),
        ]
    );
    let mut responses = counts.responses.clone();
    responses.retain(|(.., count)| *count > 0);
    assert_eq!(
        responses,
        [
            (zone, ReplySource::LocalData, "NXDOMAIN", 1),
            (zone, ReplySource::Cache, "NOERROR", 3),
            (zone, ReplySource::Upstreams, "SERVFAIL", 1),
        ]
    );
    assert_eq!(counts.dnssec_ok, [(zone, 4)]);
    let (_, durations) = &counts.durations[0];
    assert_eq!((durations.count(), durations.sum), (5, 9.004));
    let filled = durations.buckets.iter().filter(|(_, count)| *count > 0);
    let filled: Vec<_> = filled.copied().collect();
    assert_eq!(filled, [(0.001, 4), (f64::INFINITY, 1)]);
    let (_, _, sizes) = &counts.request_sizes[0];
    assert_eq!((sizes.count(), sizes.sum), (4, 4.0 * a.len() as f64));
}

#[test]
fn codes_that_alert_rules_divide_by_are_there_before_the_first_query() {
    let traffic = Traffic::default();
    let _tallies = traffic.add_server(LISTEN, 1);
    let counts = &traffic.snapshot().servers[0];
    let upstream_codes = counts.responses.iter();
    let upstream_codes = upstream_codes.filter(|row| row.1 == ReplySource::Upstreams);
    let names: Vec<_> = upstream_codes.map(|row| (row.2, row.3)).collect();
    assert_eq!(names, [("NOERROR", 0), ("SERVFAIL", 0), ("NXDOMAIN", 0)]);
    assert!(counts.requests.is_empty());
    assert_eq!(counts.durations.len(), 1);
}

#[test]
fn refused_and_malformed_queries_have_a_zone_of_their_own() {
    let traffic = Traffic::default();
    let (mut udps, _task) = traffic.add_server(LISTEN, 1);
    let udp = &mut udps[0];
    // The name's first label is longer than the message.
    let mut malformed = query(1, None);
    malformed[12] = 63;
    for (message, code) in [(malformed.as_slice(), 1), (&[0; 12], 1)] {
        let labels = QueryLabels::read(message, Transport::Udp, V4);
        let header = reply(&message[..12], code);
        udp.count(&labels, ReplySource::Refusal, &header, Duration::ZERO);
    }
    // An OPT record of version 1 gets BADVERS, whose lower four bits are 0.
    let future = query(16, Some(0));
    let mut reply = reply(&future, 0);
    let opt = future.len() - 11;
    reply[opt + 5] = 1;
    let labels = QueryLabels::read(&future, Transport::Udp, V4);
    udp.count(&labels, ReplySource::Refusal, &reply, Duration::ZERO);

    let counts = &traffic.snapshot().servers[0];
    let zone = TrafficZone::Dropped;
    let (udp, family) = (Transport::Udp, AddressFamily::Ipv4);
    let expected = [
        (zone, udp, family, "TXT", 1),
        (zone, udp, family, "other", 2),
    ];
    assert_eq!(counts.requests, expected);
    let mut responses = counts.responses.clone();
    responses.retain(|(.., count)| *count > 0);
    let source = ReplySource::Refusal;
    let expected = [(zone, source, "FORMERR", 2), (zone, source, "BADSIG", 1)];
    assert_eq!(responses, expected);
}

#[test]
fn unused_upstreams_are_forgotten_unless_they_are_configured() {
    let server = |port| SocketAddr::new(V4, port);
    let upstreams = UpstreamTraffic::default();
    upstreams.add_configured(&[server(1)]);
    // More than are remembered, and the first one is used again and again.
    for port in 2..300 {
        upstreams.note_candidates([server(2), server(port)].into_iter());
        upstreams.count_sent(server(port));
    }
    // A server that no list has.
    upstreams.count_sent(server(5));
    let known = upstreams.snapshot();
    let ports: Vec<_> = known.iter().map(|counts| counts.server.port()).collect();
    let expected: Vec<_> = (1..3).chain(238..300).collect();
    assert_eq!(ports, expected);
    assert_eq!((known[0].sent, known[1].sent, known[63].sent), (0, 1, 1));
    let codes: Vec<_> = known[0].responses.iter().map(|(code, _)| *code).collect();
    assert_eq!(codes, ["NOERROR", "SERVFAIL"]);
}

#[test]
fn each_message_counts_once_whatever_it_contains() {
    let traffic = Traffic::default();
    let (_udps, task) = traffic.add_server(LISTEN, 1);
    proptest!(|(message in prop::collection::vec(any::<u8>(), 0..300))| {
        let labels = QueryLabels::read(&message, Transport::Tcp, V6);
        task.count(&labels, ReplySource::Upstreams, &message, Duration::ZERO);
    });
    let counts = &traffic.snapshot().servers[0];
    let requests: u64 = counts.requests.iter().map(|row| row.4).sum();
    let responses: u64 = counts.responses.iter().map(|row| row.3).sum();
    let durations = counts.durations[0].1.count();
    assert!(requests > 0 && requests == responses && requests == durations);
}
