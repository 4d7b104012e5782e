//! One question to one DNS server, to check that the server answers.

use std::{fmt, io, net::SocketAddr, time::Duration};

use domain::base::{HeaderCounts, iana::OptRcode};
use tokio::time::{Instant, timeout};
use zerohop_zone::{Name, Rtype, build_query};

use crate::{
    response::{CaseCheck, MAX_DATAGRAM, Reply},
    upstream::open_socket,
};

/// Why a server has not answered a probe. The text is a clause about the server.
#[derive(Debug)]
pub enum ProbeFailure {
    /// The query can't be sent, or was rejected, for example because the port is closed.
    Unreachable(io::Error),
    /// No reply has arrived within this time.
    Silent(Duration),
    /// The reply can't be read.
    Unreadable,
    /// The reply has a response code other than NOERROR.
    Code(OptRcode),
    /// The reply has NOERROR, and its answer section is empty.
    Empty,
}

impl fmt::Display for ProbeFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProbeFailure::Unreachable(error) => write!(f, "can't be queried: {error}"),
            ProbeFailure::Silent(limit) => write!(f, "sends no reply within {limit:?}"),
            ProbeFailure::Unreadable => f.write_str("sends a reply that can't be read"),
            ProbeFailure::Code(code) => write!(f, "answers with {code}"),
            ProbeFailure::Empty => f.write_str("answers without a record"),
        }
    }
}

/// Asks `server` one question over UDP, and returns the time until its reply.
///
/// The query has RD set, a random ID and a port of its own. Messages with another ID or question
/// don't end the wait. The reply must have NOERROR and at least one record in its answer section.
/// The reply may be truncated after that record.
///
/// # Errors
/// When no such reply arrives within `limit`.
pub async fn probe_server(
    server: SocketAddr,
    name: &Name,
    rtype: Rtype,
    limit: Duration,
) -> Result<Duration, ProbeFailure> {
    let query = build_query(rand::random(), name, rtype);
    let start = Instant::now();
    let reply = timeout(limit, exchange(server, &query))
        .await
        .map_err(|_| ProbeFailure::Silent(limit))?
        .map_err(ProbeFailure::Unreachable)?;
    let response = match reply {
        Reply::Complete(response) | Reply::Truncated(response) => response,
        Reply::Unreadable | Reply::TooLarge | Reply::NearMiss => {
            return Err(ProbeFailure::Unreadable);
        }
    };
    if response.rcode() != OptRcode::NOERROR {
        return Err(ProbeFailure::Code(response.rcode()));
    }
    if HeaderCounts::for_message_slice(response.message()).ancount() == 0 {
        return Err(ProbeFailure::Empty);
    }
    Ok(start.elapsed())
}

/// Sends a query from a new socket, and waits for its reply.
async fn exchange(server: SocketAddr, query: &[u8]) -> io::Result<Reply> {
    let socket = open_socket(server).await?;
    socket.connect(server).await?;
    socket.send(query).await?;
    // A longer datagram fills the last byte too.
    let mut buffer = vec![0; MAX_DATAGRAM + 1];
    loop {
        let length = socket.recv(&mut buffer).await?;
        match Reply::read_datagram(&buffer[..length], query, CaseCheck::Ignored) {
            Reply::NearMiss => {}
            reply => return Ok(reply),
        }
    }
}
