//! Connections to scripted servers on the loopback. In tests with paused time, time advances only
//! while all tasks wait.

use std::{collections::BTreeSet, net::Ipv4Addr, sync::Arc};

use domain::base::iana::OptRcode;
use futures_util::future::join_all;
use tokio::{net::TcpListener, time::sleep};
use zerohop_zone::Name;

use super::*;
use crate::response::Response;

/// A listening socket, and its address.
async fn listen() -> (TcpListener, UpstreamServer) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let server = UpstreamServer::plain(listener.local_addr().unwrap());
    (listener, server)
}

async fn accept(listener: &TcpListener) -> TcpStream {
    listener.accept().await.unwrap().0
}

fn query(name: &str) -> UpstreamQuery {
    UpstreamQuery::probing(&Name::parse(name).unwrap())
}

/// The response to a query: REFUSED, so that it differs from the query.
fn refusal(query: &[u8]) -> Vec<u8> {
    let mut message = query.to_vec();
    // QR, and REFUSED.
    message[2] |= 0x80;
    message[3] |= 5;
    message
}

#[track_caller]
fn assert_refused(reply: io::Result<Reply>) {
    match reply {
        Ok(Reply::Complete(response)) => assert_eq!(rcode(&response), OptRcode::REFUSED),
        other => panic!("not a response: {other:?}"),
    }
}

fn rcode(response: &Response) -> OptRcode {
    response.rcode()
}

/// Answers the queries of one connection until the client closes it.
async fn answer_all(mut stream: TcpStream) {
    while let Ok(query) = tcp::read_message(&mut stream).await {
        tcp::write_message(&mut stream, &refusal(&query))
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn queries_share_a_connection_with_ids_of_its_own() {
    let (listener, server) = listen().await;
    let connections = Arc::new(TcpConnections::default());
    let serve = async {
        let mut stream = accept(&listener).await;
        let mut queries = Vec::new();
        for _ in 0..20 {
            queries.push(tcp::read_message(&mut stream).await.unwrap());
        }
        let ids: BTreeSet<_> = queries.iter().map(|query| query[..2].to_vec()).collect();
        // The responses come in another order than the queries.
        for query in queries.iter().rev() {
            tcp::write_message(&mut stream, &refusal(query))
                .await
                .unwrap();
        }
        ids.len()
    };
    let names: Vec<_> = (0..20)
        .map(|number| query(&format!("{number}.example")))
        .collect();
    let ask = join_all(
        names
            .iter()
            .map(|query| connections.exchange(&server, query)),
    );
    let (ids, replies) = tokio::join!(serve, ask);
    assert_eq!(ids, 20, "different IDs");
    // `Reply::read` compares the questions.
    replies.into_iter().for_each(assert_refused);
}

#[tokio::test]
async fn a_reused_connection_that_ends_is_replaced() {
    let (listener, server) = listen().await;
    let connections = TcpConnections::default();
    let serve = async {
        let mut stream = accept(&listener).await;
        let first = tcp::read_message(&mut stream).await.unwrap();
        tcp::write_message(&mut stream, &refusal(&first))
            .await
            .unwrap();
        // The second query is read and not answered.
        tcp::read_message(&mut stream).await.unwrap();
        drop(stream);
        let mut stream = accept(&listener).await;
        let again = tcp::read_message(&mut stream).await.unwrap();
        tcp::write_message(&mut stream, &refusal(&again))
            .await
            .unwrap();
    };
    let ask = async {
        assert_refused(connections.exchange(&server, &query("a.example")).await);
        assert_refused(connections.exchange(&server, &query("b.example")).await);
    };
    tokio::join!(serve, ask);
}

#[tokio::test]
async fn a_new_connection_that_ends_is_a_failure() {
    let (listener, server) = listen().await;
    let connections = TcpConnections::default();
    let serve = async {
        let mut stream = accept(&listener).await;
        tcp::read_message(&mut stream).await.unwrap();
    };
    let query = query("a.example");
    let ((), reply) = tokio::join!(serve, connections.exchange(&server, &query));
    assert!(reply.is_err(), "{reply:?}");
    drop(listener);
    let reply = connections.exchange(&server, &query).await;
    assert!(reply.is_err(), "{reply:?}");
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_closed() {
    let (listener, server) = listen().await;
    let connections = TcpConnections::default();
    let start = Instant::now();
    let serve = async {
        answer_all(accept(&listener).await).await;
        start.elapsed()
    };
    let ask = async {
        assert_refused(connections.exchange(&server, &query("a.example")).await);
        sleep(IDLE_LIMIT / 2).await;
        assert_refused(connections.exchange(&server, &query("b.example")).await);
    };
    let (elapsed, ()) = tokio::join!(serve, ask);
    assert_eq!(elapsed.as_secs(), (IDLE_LIMIT * 3 / 2).as_secs());
}

#[tokio::test(start_paused = true)]
async fn a_silent_connection_gets_no_more_queries() {
    let (listener, server) = listen().await;
    let connections = TcpConnections::default();
    let serve = async {
        let mut silent = accept(&listener).await;
        tcp::read_message(&mut silent).await.unwrap();
        answer_all(accept(&listener).await).await;
    };
    let ask = async {
        let query = query("a.example");
        let unanswered = timeout(SILENCE_LIMIT, connections.exchange(&server, &query)).await;
        assert!(unanswered.is_err(), "{unanswered:?}");
        let answered = timeout(SILENCE_LIMIT, connections.exchange(&server, &query)).await;
        assert_refused(answered.expect("the silent connection is used"));
    };
    tokio::join!(serve, ask);
}

#[tokio::test]
async fn a_full_connection_is_joined_by_another() {
    let (listener, server) = listen().await;
    let connections = TcpConnections::default();
    let serve = async {
        let mut full = accept(&listener).await;
        for _ in 0..MAX_PIPELINED {
            tcp::read_message(&mut full).await.unwrap();
        }
        let mut other = accept(&listener).await;
        let query = tcp::read_message(&mut other).await.unwrap();
        tcp::write_message(&mut other, &refusal(&query))
            .await
            .unwrap();
    };
    let queries: Vec<_> = (0..=MAX_PIPELINED)
        .map(|number| query(&format!("{number}.example")))
        .collect();
    let (last, others) = queries.split_last().unwrap();
    let others = join_all(
        others
            .iter()
            .map(|query| connections.exchange(&server, query)),
    );
    let ask = async {
        tokio::select! {
            biased;
            _ = others => panic!("the first connection is not answered"),
            reply = connections.exchange(&server, last) => assert_refused(reply),
        }
    };
    tokio::join!(serve, ask);
}

#[tokio::test]
async fn a_response_must_have_the_id_and_the_question_of_the_query() {
    let (listener, server) = listen().await;
    let connections = TcpConnections::default();
    let serve = async {
        let mut stream = accept(&listener).await;
        let query = tcp::read_message(&mut stream).await.unwrap();
        let mut other_id = refusal(&query);
        other_id[1] ^= 1;
        other_id[3] ^= 1;
        for message in [other_id, refusal(&query)] {
            tcp::write_message(&mut stream, &message).await.unwrap();
        }
        let query = tcp::read_message(&mut stream).await.unwrap();
        let mut other_name = refusal(&query);
        other_name[13] ^= 1;
        tcp::write_message(&mut stream, &other_name).await.unwrap();
    };
    let ask = async {
        let query = query("a.example");
        assert_refused(connections.exchange(&server, &query).await);
        let reply = connections.exchange(&server, &query).await;
        assert!(matches!(reply, Ok(Reply::NearMiss)), "{reply:?}");
    };
    tokio::join!(serve, ask);
}
