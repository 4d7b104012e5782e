//! Servers that say where they are: in the agent's namespace, or on the node, where they stand for
//! the cluster's DNS.

use std::{
    fs,
    io::{self, Read, Write},
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::AsFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use zerohop_contract::addresses::SERVED;
use zerohop_tests::{
    netns::NetworkNamespace,
    udp::{UdpClient, UdpServer, eventually},
};

use super::node::DNS_PORT;

/// The longest time for an answer. It is long because an emulated machine may be busy.
pub(super) const LIMIT: Duration = Duration::from_secs(10);

/// Where a server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AnsweringPlace {
    Agent,
    Node,
}

impl AnsweringPlace {
    /// The first byte of everything that the server sends to a client.
    fn mark(self) -> u8 {
        match self {
            AnsweringPlace::Agent => b'a',
            AnsweringPlace::Node => b'n',
        }
    }

    /// The place with this mark.
    fn of(mark: u8) -> AnsweringPlace {
        let mut places = [AnsweringPlace::Agent, AnsweringPlace::Node].into_iter();
        places.find(|place| place.mark() == mark).unwrap()
    }
}

/// UDP servers on the served addresses; stopped when dropped.
pub(super) struct DatagramServers {
    _servers: Vec<UdpServer>,
}

impl DatagramServers {
    /// Starts servers that return each payload with their mark before it.
    pub(super) fn start(namespace: &NetworkNamespace, place: AnsweringPlace) -> DatagramServers {
        let start = |served| {
            let reply = move |payload: &[u8]| Some([&[place.mark()], payload].concat());
            UdpServer::start(namespace, SocketAddr::new(served, DNS_PORT), reply).unwrap()
        };
        DatagramServers {
            _servers: SERVED.map(start).into(),
        }
    }
}

/// TCP servers on the served addresses. Dropping them closes the listeners. A connection lasts
/// until the client closes it.
pub(super) struct StreamServers {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

/// What a TCP server does with a connection after its mark.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum StreamBehavior {
    /// Returns every byte, until the client sends no more.
    Echo,
    /// Closes the connection at once.
    Close,
}

impl StreamServers {
    pub(super) fn start(
        namespace: &NetworkNamespace,
        place: AnsweringPlace,
        behavior: StreamBehavior,
    ) -> StreamServers {
        let stop = Arc::new(AtomicBool::new(false));
        let listen = |served: IpAddr| {
            let bind = || TcpListener::bind((served, DNS_PORT));
            let listener = namespace.enter(bind).unwrap().unwrap();
            let stop = Arc::clone(&stop);
            thread::spawn(move || accept(&listener, &stop, place, behavior))
        };
        let threads = SERVED.map(listen).into();
        StreamServers { stop, threads }
    }
}

impl Drop for StreamServers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                eprintln!("a TCP server panicked");
            }
        }
    }
}

/// Waits until a namespace has no socket for queries, after its servers have stopped. A program
/// that another test starts holds all sockets of this process until it is executed.
pub(super) fn wait_until_closed(namespace: &NetworkNamespace) {
    let is_closed = || Ok(!namespace.enter(has_server_socket)?);
    assert!(eventually(LIMIT, is_closed).unwrap());
}

/// Whether this thread's network namespace has a UDP socket, or a TCP listener, on the served port.
fn has_server_socket() -> bool {
    let port = format!(":{DNS_PORT:04X}");
    // The columns are number, local address, remote address and state.
    let has_line = |table: &str, is_server: fn(&str) -> bool| {
        let text = fs::read_to_string(format!("/proc/thread-self/net/{table}")).unwrap();
        text.lines().any(|line| {
            let columns: Vec<_> = line.split_whitespace().collect();
            matches!(columns.as_slice(), [_, local, _, state, ..]
                if local.ends_with(&port) && is_server(state))
        })
    };
    // A server's UDP socket has no peer. Its state, like that of a closed connection, is 7.
    ["udp", "udp6"]
        .map(|table| has_line(table, |state| state == "07"))
        .contains(&true)
        || ["tcp", "tcp6"]
            .map(|table| has_line(table, |state| state == LISTEN))
            .contains(&true)
}

/// The state of a listener in /proc/net/tcp (Linux's tcp_states.h).
const LISTEN: &str = "0A";

/// Sends a payload over UDP. Returns where it was answered; `None` if no reply came within
/// [`LIMIT`].
pub(super) fn ask(client: &UdpClient, payload: &[u8]) -> Option<AnsweringPlace> {
    ask_within(client, payload, LIMIT)
}

/// Like [`ask`], with another limit.
pub(super) fn ask_within(
    client: &UdpClient,
    payload: &[u8],
    limit: Duration,
) -> Option<AnsweringPlace> {
    let reply = client.ask(payload, limit).unwrap()?;
    let (mark, rest) = reply.split_first().unwrap();
    assert_eq!(rest, payload);
    Some(AnsweringPlace::of(*mark))
}

/// A UDP client in `namespace` of a served address.
pub(super) fn client(namespace: &NetworkNamespace, served: IpAddr) -> UdpClient {
    UdpClient::new(namespace, SocketAddr::new(served, DNS_PORT)).unwrap()
}

/// A TCP connection to a server.
pub(super) struct Stream {
    /// The server that accepted it.
    pub(super) place: AnsweringPlace,
    stream: TcpStream,
}

impl Stream {
    /// Connects from `namespace` to a served address.
    pub(super) fn connect(namespace: &NetworkNamespace, served: IpAddr) -> Stream {
        let address = SocketAddr::new(served, DNS_PORT);
        let connect = || TcpStream::connect_timeout(&address, LIMIT);
        Stream::of(namespace.enter(connect).unwrap().unwrap())
    }

    /// Reads the server's mark from a new connection.
    pub(super) fn of(mut stream: TcpStream) -> Stream {
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.set_write_timeout(Some(LIMIT)).unwrap();
        let mut mark = [0];
        stream.read_exact(&mut mark).unwrap();
        Stream {
            place: AnsweringPlace::of(mark[0]),
            stream,
        }
    }

    /// Sends bytes to a server that echoes, and checks what comes back meanwhile.
    pub(super) fn exchange(&mut self, bytes: &[u8]) {
        let mut received = vec![0; bytes.len()];
        let mut sender = self.stream.try_clone().unwrap();
        thread::scope(|scope| {
            scope.spawn(move || sender.write_all(bytes).unwrap());
            self.stream.read_exact(&mut received).unwrap();
        });
        // Not `assert_eq`, which would print all bytes.
        assert!(received == bytes, "other bytes came back");
    }

    /// Waits for the server's end of the connection.
    pub(super) fn wait_for_end(&mut self) {
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest).unwrap();
        assert!(rest.is_empty(), "{rest:?}");
    }

    /// The client's address and port.
    pub(super) fn local_address(&self) -> SocketAddr {
        self.stream.local_addr().unwrap()
    }
}

/// Accepts connections until `stop`.
fn accept(
    listener: &TcpListener,
    stop: &AtomicBool,
    place: AnsweringPlace,
    behavior: StreamBehavior,
) {
    listener.set_nonblocking(true).unwrap();
    while !stop.load(Ordering::Relaxed) {
        // Every 20 ms, so that `stop` is seen.
        let mut events = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
        poll(&mut events, PollTimeout::from(20_u8)).unwrap();
        if let Ok((stream, _)) = listener.accept() {
            thread::spawn(move || serve(stream, place, behavior));
        }
    }
}

/// An error means that the client is gone.
fn serve(mut stream: TcpStream, place: AnsweringPlace, behavior: StreamBehavior) -> io::Result<()> {
    stream.write_all(&[place.mark()])?;
    if behavior == StreamBehavior::Close {
        return stream.shutdown(Shutdown::Both);
    }
    let mut buffer = vec![0; 1 << 16];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            length => stream.write_all(&buffer[..length])?,
        }
    }
}
