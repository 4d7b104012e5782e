//! UDP and TCP between clients and the resolver.

use std::net::SocketAddr;

use domain::base::iana::Rtype;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::{Duration, Instant, timeout},
};
use zerohop_resolver::raise_file_limit;

use crate::support::{
    FakeUpstream, PATIENCE, ResolverUnderTest, ask, ask_over_tcp, framed, header_word,
    last_address, query, rcode, read_message, write_message,
};

const FORMERR: u8 = 1;

#[tokio::test]
async fn replies_come_from_the_queried_address() {
    let served = ResolverUnderTest::new("0.0.0.0:0", &[]);
    for host in ["127.0.0.1", "127.0.0.53", "127.8.9.10"] {
        let server = SocketAddr::new(host.parse().unwrap(), served.address.port());
        let query_bytes = query(1, "one.z", Rtype::A);
        assert_eq!(
            last_address(&ask(server, &query_bytes).await),
            [10, 0, 0, 1]
        );
        assert_eq!(
            last_address(&ask_over_tcp(server, &query_bytes).await),
            [10, 0, 0, 1]
        );
    }
}

/// A client that sends more than the resolver can answer loses only its own queries.
#[tokio::test]
async fn queries_over_udp_have_turns() {
    let served = ResolverUnderTest::local(&[]);
    let open = |address| {
        let socket = std::net::UdpSocket::bind((address, 0)).unwrap();
        socket.connect(served.address).unwrap();
        socket.set_nonblocking(true).unwrap();
        socket
    };
    let (greedy, other) = (open("127.0.0.3"), open("127.0.0.2"));
    // The resolver doesn't run meanwhile, because the runtime has one thread.
    for id in 0..1000 {
        greedy.send(&query(id, "one.z", Rtype::A)).unwrap();
    }
    other.send(&query(1000, "one.z", Rtype::A)).unwrap();
    let other = tokio::net::UdpSocket::from_std(other).unwrap();
    let mut buffer = [0; 512];
    let received = timeout(PATIENCE, other.recv(&mut buffer)).await;
    assert_eq!(header_word(&buffer[..received.unwrap().unwrap()], 0), 1000);
    // Half of `MAX_RECEIVED` in `resolver/src/udp.rs`.
    let counts = served.resolver.counters().snapshot();
    assert_eq!(counts.queries_dropped, 488);
}

#[tokio::test]
async fn both_families_can_share_a_port() {
    // Another test may hold the chosen IPv6 port in IPv4.
    let bind_both = |_| {
        let v6 = ResolverUnderTest::new("[::]:0", &[]);
        let v4 = ResolverUnderTest::try_new(&format!("0.0.0.0:{}", v6.address.port()), &[]);
        Some((v6, v4.ok()?))
    };
    let (v6, v4) = (0..20)
        .find_map(bind_both)
        .expect("in 20 attempts no port was free in both families");
    for (host, served) in [("::1", &v6), ("127.0.0.1", &v4)] {
        let server = SocketAddr::new(host.parse().unwrap(), served.address.port());
        assert_eq!(
            last_address(&ask(server, &query(1, "one.z", Rtype::A)).await),
            [10, 0, 0, 1]
        );
        assert_eq!(served.resolver.counters().snapshot().udp_queries, 1);
    }
}

#[tokio::test]
async fn a_long_answer_is_whole_over_tcp() {
    let served = ResolverUnderTest::local(&[]);
    let query_bytes = query(1, "many.z", Rtype::A);
    let cut = ask(served.address, &query_bytes).await;
    // QR, AA, TC and RD.
    assert!(
        cut.len() <= 512 && header_word(&cut, 2) == 0x8700,
        "the reply has {} bytes and the flags {:04x}",
        cut.len(),
        header_word(&cut, 2)
    );
    let whole = ask_over_tcp(served.address, &query_bytes).await;
    // QR, AA and RD, and all addresses.
    assert_eq!(
        (header_word(&whole, 2), header_word(&whole, 6)),
        (0x8500, 60)
    );
}

#[tokio::test]
async fn several_addresses_are_rotated() {
    let served = ResolverUnderTest::local(&[]);
    let mut first = std::collections::BTreeSet::new();
    for _ in 0..64 {
        let whole = ask_over_tcp(served.address, &query(1, "many.z", Rtype::A)).await;
        // The last byte of the first address, after the header, the question and the fixed fields.
        first.insert(whole[39]);
    }
    // Of 60 addresses, 64 random choices give about 40 different ones.
    assert!(first.len() > 10, "only {first:?} came first");
}

#[tokio::test]
async fn queries_are_pipelined() {
    let served = ResolverUnderTest::local(&[]);
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    let queries: Vec<u8> = (0..20)
        .flat_map(|id| framed(&query(id, "one.z", Rtype::A)))
        .collect();
    // TCP segments may split messages anywhere.
    for piece in queries.chunks(7) {
        stream.write_all(piece).await.unwrap();
    }
    let mut ids = Vec::new();
    for _ in 0..20 {
        let reply = timeout(PATIENCE, read_message(&mut stream))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(last_address(&reply), [10, 0, 0, 1]);
        ids.push(header_word(&reply, 0));
    }
    ids.sort_unstable();
    assert_eq!(ids, Vec::from_iter(0..20));
}

#[tokio::test]
async fn a_waiting_query_does_not_delay_other_queries() {
    let silent = FakeUpstream::silent().await;
    let served = ResolverUnderTest::local(&[&silent]);
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    let both = [
        framed(&query(1, "example.org", Rtype::A)),
        framed(&query(2, "one.z", Rtype::A)),
    ]
    .concat();
    stream.write_all(&both).await.unwrap();
    let ids = [
        read_message(&mut stream).await.unwrap(),
        read_message(&mut stream).await.unwrap(),
    ]
    .map(|reply| header_word(&reply, 0));
    assert_eq!(ids, [2, 1]);
}

#[tokio::test]
async fn queries_sent_before_the_end_of_a_stream_are_answered() {
    let served = ResolverUnderTest::local(&[]);
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    stream
        .write_all(&framed(&query(1, "one.z", Rtype::A)))
        .await
        .unwrap();
    stream.shutdown().await.unwrap();
    let mut received = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut received))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(last_address(&received[2..]), [10, 0, 0, 1]);
}

#[tokio::test(start_paused = true)]
async fn a_silent_connection_is_closed() {
    let served = ResolverUnderTest::local(&[]);
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    let start = Instant::now();
    // A connection with half a message counts as silent. `IDLE_TIMEOUT` of the resolver is 10 s.
    stream
        .write_all(&framed(&query(1, "one.z", Rtype::A))[..9])
        .await
        .unwrap();
    assert_eq!(stream.read(&mut [0; 64]).await.unwrap(), 0);
    assert!(
        start.elapsed() >= Duration::from_secs(10),
        "closed after {:?}",
        start.elapsed()
    );
}

#[tokio::test]
async fn a_query_that_is_too_long_is_an_error() {
    let served = ResolverUnderTest::local(&[]);
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    let mut message = query(5, "one.z", Rtype::A);
    // `MAX_QUERY` in `resolver/src/tcp.rs`.
    message.resize(4096, 0);
    write_message(&mut stream, &message).await;
    let reply = read_message(&mut stream).await.unwrap();
    assert_eq!((header_word(&reply, 0), rcode(&reply)), (5, FORMERR));
    message.resize(4097, 0);
    let start = &framed(&message)[..2 + 4096];
    stream.write_all(start).await.unwrap();
    let reply = read_message(&mut stream).await.unwrap();
    assert_eq!((header_word(&reply, 0), rcode(&reply)), (5, FORMERR));
    assert_eq!(stream.read(&mut [0; 64]).await.unwrap(), 0);
}

/// Clients that never read replies leave the others their share.
#[tokio::test]
async fn unread_replies_cost_other_clients_nothing() {
    raise_file_limit().unwrap();
    let served = ResolverUnderTest::local(&[]);
    let queries = framed(&query(1, "many.z", Rtype::A)).repeat(1000);
    let mut streams = Vec::new();
    for _ in 0..64 {
        let mut stream = connect_from([127, 0, 0, 3], served.address).await;
        // The resolver stops reading.
        let _ = timeout(Duration::from_millis(50), stream.write_all(&queries)).await;
        streams.push(stream);
    }
    let reply = ask_over_tcp(served.address, &query(2, "many.z", Rtype::A)).await;
    assert_eq!(header_word(&reply, 6), 60);
}

#[tokio::test]
async fn malformed_messages_get_no_reply_and_keep_the_connection_open() {
    let served = ResolverUnderTest::local(&[]);
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    let bytes = [
        framed(&[]),
        framed(&[1, 2, 3]),
        framed(&query(9, "one.z", Rtype::A)),
    ]
    .concat();
    stream.write_all(&bytes).await.unwrap();
    assert_eq!(header_word(&read_message(&mut stream).await.unwrap(), 0), 9);
    assert_eq!(served.resolver.counters().snapshot().ignored, 2);
}

/// A connection from this loopback address.
async fn connect_from(address: [u8; 4], server: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((address, 0).into()).unwrap();
    socket.connect(server).await.unwrap()
}

#[tokio::test]
async fn a_client_has_a_share_of_the_connections() {
    // Half of `MAX_CONNECTIONS` in `resolver/src/tcp.rs`.
    const SHARE: usize = 256;
    raise_file_limit().unwrap();
    let served = ResolverUnderTest::local(&[]);
    let mut open = Vec::new();
    for _ in 0..SHARE {
        let mut stream = TcpStream::connect(served.address).await.unwrap();
        write_message(&mut stream, &query(1, "one.z", Rtype::A)).await;
        read_message(&mut stream).await.unwrap();
        open.push(stream);
    }
    let mut refused = TcpStream::connect(served.address).await.unwrap();
    // The connection is closed or reset.
    assert_eq!(
        timeout(PATIENCE, refused.read(&mut [0; 64]))
            .await
            .unwrap()
            .unwrap_or(0),
        0
    );
    assert_eq!(served.resolver.counters().snapshot().connections_refused, 1);
    // Another client has its own share.
    let mut other = connect_from([127, 0, 0, 2], served.address).await;
    write_message(&mut other, &query(3, "one.z", Rtype::A)).await;
    assert_eq!(header_word(&read_message(&mut other).await.unwrap(), 0), 3);
    // Open connections are still answered.
    write_message(&mut open[0], &query(2, "one.z", Rtype::A)).await;
    assert_eq!(
        header_word(&read_message(&mut open[0]).await.unwrap(), 0),
        2
    );
    // Closed connections make room for new ones when the resolver has noticed that they are closed.
    drop(open.split_off(1));
    loop {
        let mut stream = TcpStream::connect(served.address).await.unwrap();
        stream
            .write_all(&framed(&query(3, "one.z", Rtype::A)))
            .await
            .unwrap();
        if let Ok(reply) = read_message(&mut stream).await {
            assert_eq!(header_word(&reply, 0), 3);
            break;
        }
    }
}
