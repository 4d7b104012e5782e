//! Messages, the queue and the stream, read by an independent reader.

use std::{
    fs,
    net::IpAddr,
    path::Path,
    sync::mpsc::Receiver,
    time::{Duration, Instant, UNIX_EPOCH},
};

use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, duplex},
    task::JoinHandle,
    time::sleep,
};
use zerohop_contract::dnstap::{
    CollectedMessage, CollectorEvent, CollectorManner, StreamFrame, collect, control, read_frame,
};

use super::{
    frames::{start_stream, stop_stream},
    queue::{FrameBatch, MAX_BYTES, MAX_MESSAGES},
    *,
};

/// A test fails when it waits for longer.
const PATIENCE: Duration = Duration::from_secs(30);

fn path(protocol: ConnectionProtocol, initiator: &str, responder: &str) -> QueryPath {
    QueryPath {
        protocol,
        initiator: initiator.parse().unwrap(),
        responder: responder.parse().unwrap(),
    }
}

fn settings(socket: &Path) -> DnstapSettings {
    DnstapSettings {
        socket: socket.to_owned(),
        identity: Some("node-1".to_owned()),
        version: "Zerohop 1".to_owned(),
    }
}

/// A stream to the collector at this socket, and the task that writes it.
fn start(socket: &Path) -> (Arc<Dnstap>, Arc<ResolverCounters>, JoinHandle<()>) {
    let counters = Arc::new(ResolverCounters::default());
    let dnstap = Arc::new(Dnstap::new(&settings(socket), counters.clone()));
    let stream = DnstapStream::new(dnstap.clone());
    let task = tokio::spawn(async move { stream.run().await });
    (dnstap, counters, task)
}

/// Queues a query whose message is this number.
fn push(dnstap: &Arc<Dnstap>, number: u32) {
    let path = path(ConnectionProtocol::Udp, "10.0.0.1:1", "10.0.0.2:53");
    let (side, bytes) = (ResolverSide::Client, number.to_be_bytes());
    TappedQuery::record(dnstap, side, path, SystemTime::now(), &bytes);
}

async fn next(events: &Receiver<CollectorEvent>) -> CollectorEvent {
    let started = Instant::now();
    while started.elapsed() < PATIENCE {
        if let Ok(event) = events.try_recv() {
            return event;
        }
        sleep(Duration::from_millis(5)).await;
    }
    panic!("no event within {PATIENCE:?}");
}

async fn next_number(events: &Receiver<CollectorEvent>) -> u32 {
    match next(events).await {
        CollectorEvent::Message(message) => {
            u32::from_be_bytes(message.query.unwrap().try_into().unwrap())
        }
        other => panic!("no message: {other:?}"),
    }
}

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn all_fields_are_read_by_another_reader() {
    let long = vec![7; 65_535];
    for (kind, number, protocol, ends, families, bytes) in [
        (
            MessageKind::ClientQuery,
            5,
            (ConnectionProtocol::Udp, 1),
            ("192.0.2.1:65535", "192.0.2.2:53"),
            1,
            &b"query"[..],
        ),
        (
            MessageKind::ClientResponse,
            6,
            (ConnectionProtocol::Tcp, 2),
            ("[2001:db8::1]:1", "[2001:db8::2]:53"),
            2,
            &long,
        ),
        (
            MessageKind::ForwarderQuery,
            7,
            (ConnectionProtocol::Tls, 3),
            ("192.0.2.1:300", "192.0.2.2:853"),
            1,
            &[0; 128],
        ),
        (
            MessageKind::ForwarderResponse,
            8,
            (ConnectionProtocol::Udp, 1),
            ("[fe80::1]:127", "[fe80::2]:128"),
            2,
            &[],
        ),
    ] {
        let is_query = number % 2 == 1;
        let sent = Duration::new(1_800_000_000, 999_999_999);
        let received = sent + Duration::from_nanos(2);
        let message = DnstapMessage {
            kind,
            path: path(protocol.0, ends.0, ends.1),
            query_time: UNIX_EPOCH + sent,
            response_time: (!is_query).then_some(UNIX_EPOCH + received),
            bytes,
        };
        let frame = message.encode_frame(&encode_origin(Some("node-1"), "Zerohop 1"));
        let StreamFrame::Data(data) = read_frame(&mut frame.as_slice()).unwrap() else {
            panic!("not a data frame");
        };
        assert_eq!(data.len() + 4, frame.len());
        let end = |text: &str| {
            let address: SocketAddr = text.parse().unwrap();
            (address.ip(), u64::from(address.port()))
        };
        let expected = CollectedMessage {
            identity: Some("node-1".to_owned()),
            version: Some("Zerohop 1".to_owned()),
            kind: number,
            family: families,
            protocol: protocol.1,
            query_end: end(ends.0),
            response_end: end(ends.1),
            query_time: sent,
            response_time: (!is_query).then_some(received),
            query: is_query.then(|| bytes.to_vec()),
            response: (!is_query).then(|| bytes.to_vec()),
        };
        assert_eq!(CollectedMessage::read(&data).unwrap(), expected);
    }
}

#[test]
fn a_message_may_have_no_identity() {
    let message = DnstapMessage {
        kind: MessageKind::ClientQuery,
        path: path(ConnectionProtocol::Udp, "10.0.0.1:1", "10.0.0.2:53"),
        query_time: UNIX_EPOCH,
        response_time: None,
        bytes: &[1],
    };
    let frame = message.encode_frame(&encode_origin(None, "Zerohop 1"));
    let read = CollectedMessage::read(&frame[4..]).unwrap();
    assert_eq!(read.identity, None);
    assert_eq!(read.query_end.0, IpAddr::from([10, 0, 0, 1]));
}

#[tokio::test]
async fn only_a_collector_that_accepts_dnstap_gets_messages() {
    const ACCEPT: u32 = 1;
    let dnstap = "protobuf:dnstap.Dnstap";
    for (answer, is_accepted) in [
        (control(ACCEPT, &[dnstap]), true),
        (control(ACCEPT, &["other", dnstap]), true),
        (control(ACCEPT, &[]), true),
        (control(ACCEPT, &["other"]), false),
        (control(5, &[dnstap]), false),
        ([&[0; 4], &600_u32.to_be_bytes()[..]].concat(), false),
        ([0, 0, 0, 1, 9, 9, 9, 9].to_vec(), false),
        (Vec::new(), false),
    ] {
        let (mut ours, mut theirs) = duplex(4096);
        theirs.write_all(&answer).await.unwrap();
        if answer.is_empty() {
            drop(theirs);
            assert!(start_stream(&mut ours).await.is_err());
            continue;
        }
        let started = start_stream(&mut ours).await;
        assert_eq!(started.is_ok(), is_accepted, "{answer:?}: {started:?}");
        drop(ours);
        let mut sent = Vec::new();
        theirs.read_to_end(&mut sent).await.unwrap();
        let mut sent = sent.as_slice();
        let types = vec![dnstap.to_owned()];
        let ready = StreamFrame::Control(4, types.clone());
        assert_eq!(read_frame(&mut sent).unwrap(), ready);
        if is_accepted {
            let start = StreamFrame::Control(2, types);
            assert_eq!(read_frame(&mut sent).unwrap(), start);
        }
        assert!(sent.is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_collector_does_not_stop_the_handshakes_for_ever() {
    let (mut ours, _theirs) = duplex(4096);
    assert!(start_stream(&mut ours).await.is_err());
    assert!(stop_stream(&mut ours).await.is_err());
}

#[test]
fn messages_beyond_the_bounds_are_dropped_and_counted() {
    for (length, room) in [(1, MAX_MESSAGES), (65_535, MAX_BYTES / 65_535)] {
        let counters = Arc::new(ResolverCounters::default());
        let queue = FrameQueue::new(counters.clone());
        let frame = vec![0; length];
        for _ in 0..room + 3 {
            queue.push(&frame);
        }
        assert_eq!(counters.snapshot().dnstap_dropped, 3);
        let mut batch = FrameBatch::default();
        queue.take(&mut batch);
        assert_eq!(batch.messages, room);
        assert_eq!(batch.bytes.len(), room * length);
        // There is room again.
        queue.push(&frame);
        queue.take(&mut batch);
        assert_eq!((batch.messages, batch.bytes.len()), (1, length));
        assert_eq!(counters.snapshot().dnstap_dropped, 3);
    }
}

#[tokio::test]
async fn a_stream_has_all_messages_within_a_second_and_an_end() {
    let folder = folder();
    let socket = folder.path().join("dnstap.sock");
    let events = collect(&socket, CollectorManner::Reading).unwrap();
    let (dnstap, counters, task) = start(&socket);
    assert_eq!(next(&events).await, CollectorEvent::Started);
    let pushed = Instant::now();
    push(&dnstap, 0);
    assert_eq!(next_number(&events).await, 0);
    assert!(pushed.elapsed() < Duration::from_secs(1));
    for number in 1..=2000 {
        push(&dnstap, number);
    }
    // What waits is sent before STOP.
    DnstapStream::new(dnstap).close().await;
    for number in 1..=2000 {
        assert_eq!(next_number(&events).await, number);
    }
    assert_eq!(next(&events).await, CollectorEvent::Stopped);
    task.await.unwrap();
    assert_eq!(counters.snapshot().dnstap_dropped, 0);
}

#[tokio::test]
async fn a_new_collector_gets_what_waits() {
    let folder = folder();
    let socket = folder.path().join("dnstap.sock");
    // The collector comes late.
    let (dnstap, counters, _task) = start(&socket);
    push(&dnstap, 1);
    sleep(Duration::from_millis(100)).await;
    let events = collect(&socket, CollectorManner::LeavingAfter(2)).unwrap();
    assert_eq!(next(&events).await, CollectorEvent::Started);
    assert_eq!(next_number(&events).await, 1);
    push(&dnstap, 2);
    assert_eq!(next_number(&events).await, 2);
    // The first collector has gone.
    while events.recv().is_ok() {}
    fs::remove_file(&socket).unwrap();
    push(&dnstap, 3);
    let events = collect(&socket, CollectorManner::Reading).unwrap();
    assert_eq!(next(&events).await, CollectorEvent::Started);
    let lost = counters.snapshot().dnstap_dropped;
    if lost == 0 {
        assert_eq!(next_number(&events).await, 3);
    }
    push(&dnstap, 4);
    assert_eq!(next_number(&events).await, 4);
    assert!(lost <= 1, "{lost} messages were dropped");
    DnstapStream::new(dnstap).close().await;
    assert_eq!(next(&events).await, CollectorEvent::Stopped);
}

#[tokio::test]
async fn a_collector_that_does_not_read_costs_messages_and_nothing_else() {
    let folder = folder();
    let socket = folder.path().join("dnstap.sock");
    let events = collect(&socket, CollectorManner::Stalled).unwrap();
    let (dnstap, counters, _task) = start(&socket);
    assert_eq!(next(&events).await, CollectorEvent::Started);
    // More than the queue, the batch that is being written, and the socket hold.
    let total = 4 * MAX_MESSAGES as u32;
    let started = Instant::now();
    for number in 0..total {
        push(&dnstap, number);
        if number % 1000 == 0 {
            sleep(Duration::from_millis(1)).await;
        }
    }
    assert!(started.elapsed() < PATIENCE / 3);
    assert!(counters.snapshot().dnstap_dropped >= u64::from(total) / 4);
    let closing = Instant::now();
    DnstapStream::new(dnstap).close().await;
    assert!(closing.elapsed() < CLOSE_LIMIT + Duration::from_secs(1));
}

#[tokio::test]
async fn without_a_collector_messages_wait_up_to_the_bound() {
    let folder = folder();
    let (dnstap, counters, task) = start(&folder.path().join("none.sock"));
    for number in 0..MAX_MESSAGES as u32 + 7 {
        push(&dnstap, number);
    }
    assert_eq!(counters.snapshot().dnstap_dropped, 7);
    DnstapStream::new(dnstap).close().await;
    task.await.unwrap();
}
