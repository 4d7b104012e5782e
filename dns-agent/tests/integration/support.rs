//! Clients, scripted upstreams, resolvers and configurations for the tests.

use std::{
    convert::Infallible,
    fs,
    future::poll_fn,
    io,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    task::Poll,
    time::Duration,
};

use clap::Parser;
use dns_agent::config::{AgentCommand, Cli, Config};
use domain::base::iana::Rtype;
use serde_json::json;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    task::JoinSet,
    time::{sleep, timeout},
};
use zerohop_contract::{
    addresses::{POD, SERVED},
    packet::{self, QueryPacket},
};
use zerohop_resolver::{CacheSettings, Canary, Resolver, ServerSet, Sockets, Upstreams};
use zerohop_zone::{ModelBuilder, Name, Rdata, Record};

/// After this time a test fails instead of waiting longer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// An upstream's messages in response to a query, each with the delay before it.
pub(crate) type DelayedMessages = Vec<(Duration, Vec<u8>)>;

/// An upstream server that follows a script.
pub(crate) struct FakeUpstream {
    pub(crate) address: SocketAddr,
    _tasks: JoinSet<()>,
}

impl FakeUpstream {
    /// Starts an upstream that answers queries over UDP with `udp`, and the first query of each TCP
    /// connection with `tcp`. It serves one TCP connection at a time, and then closes it.
    pub(crate) async fn new(
        udp: impl Fn(&[u8]) -> DelayedMessages + Send + 'static,
        tcp: impl Fn(&[u8]) -> DelayedMessages + Send + 'static,
    ) -> FakeUpstream {
        let (socket, listener) = loop {
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            match TcpListener::bind(socket.local_addr().unwrap()).await {
                Ok(listener) => break (socket, listener),
                // Another program listens at this port over TCP. Another port is tried.
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                Err(error) => panic!("the upstream can't listen over TCP: {error}"),
            }
        };
        let address = socket.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut buffer = [0; 4096];
            loop {
                let (length, client) = socket.recv_from(&mut buffer).await.unwrap();
                for (pause, message) in udp(&buffer[..length]) {
                    sleep(pause).await;
                    socket.send_to(&message, client).await.unwrap();
                }
            }
        });
        tasks.spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let query = read_message(&mut stream).await.unwrap();
                for (pause, message) in tcp(&query) {
                    sleep(pause).await;
                    write_message(&mut stream, &message).await;
                }
            }
        });
        FakeUpstream {
            address,
            _tasks: tasks,
        }
    }

    /// An upstream that answers queries over UDP: those of type A with this address, others without
    /// records. Over TCP it closes the connection without an answer.
    pub(crate) async fn answering(address: [u8; 4]) -> FakeUpstream {
        FakeUpstream::new(
            move |query| without_delay(address_reply(query, address)),
            |_| Vec::new(),
        )
        .await
    }

    /// An upstream that receives queries and never answers.
    pub(crate) async fn silent() -> FakeUpstream {
        FakeUpstream::new(|_| Vec::new(), |_| Vec::new()).await
    }
}

/// A script of one message that is sent at once.
pub(crate) fn without_delay(message: Vec<u8>) -> DelayedMessages {
    vec![(Duration::ZERO, message)]
}

/// A query with RD set.
pub(crate) fn query(id: u16, name: &str, rtype: Rtype) -> Vec<u8> {
    QueryPacket {
        id,
        ..QueryPacket::new(POD[0], SERVED[0], name, rtype.to_int())
    }
    .message()
}

/// A reply without records. `flags` is the second 16-bit word of its header, including the RCODE.
pub(crate) fn reply(query: &[u8], flags: u16) -> Vec<u8> {
    packet::empty_reply(query, flags).unwrap()
}

/// A reply with QR, RD and RA: it has one address if the query is for type A, otherwise no records.
pub(crate) fn address_reply(query: &[u8], address: [u8; 4]) -> Vec<u8> {
    if packet::question_type(query) != Some(Rtype::A.to_int()) {
        return reply(query, 0x8180);
    }
    packet::address_reply(query, 0x8180, 300, address.into()).unwrap()
}

/// The address in the last record of a message, which must be of type A.
#[track_caller]
pub(crate) fn last_address(message: &[u8]) -> [u8; 4] {
    assert_ne!(header_word(message, 6), 0, "no answer in {message:02x?}");
    message[message.len() - 4..].try_into().unwrap()
}

/// The RCODE in a message's header.
pub(crate) fn rcode(message: &[u8]) -> u8 {
    message[3] & 0x0f
}

/// The 16-bit word at this offset in a message's header: 0 is the ID, 2 the flags, 6, 8 and 10 the
/// counts of answer, authority and additional records.
pub(crate) fn header_word(message: &[u8], offset: usize) -> u16 {
    u16::from_be_bytes([message[offset], message[offset + 1]])
}

/// Sends a query as a datagram, and returns the reply.
pub(crate) async fn ask(server: SocketAddr, query: &[u8]) -> Vec<u8> {
    let local = if server.is_ipv4() {
        "0.0.0.0:0"
    } else {
        "[::]:0"
    };
    let socket = UdpSocket::bind(local).await.unwrap();
    // A connected socket receives replies only from the queried address.
    socket.connect(server).await.unwrap();
    socket.send(query).await.unwrap();
    let mut buffer = vec![0; 65535];
    let length = timeout(PATIENCE, socket.recv(&mut buffer))
        .await
        .expect("no reply within PATIENCE")
        .unwrap();
    buffer.truncate(length);
    assert_eq!(buffer[..2], query[..2], "not the query's ID");
    buffer
}

/// Sends a query over a new connection, and returns the reply.
pub(crate) async fn ask_over_tcp(server: SocketAddr, query: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(server).await.unwrap();
    write_message(&mut stream, query).await;
    timeout(PATIENCE, read_message(&mut stream))
        .await
        .expect("no reply within PATIENCE")
        .unwrap()
}

/// Reads a message after its length, as DNS over TCP frames it (RFC 1035 section 4.2.2).
pub(crate) async fn read_message(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut message = vec![0; usize::from(length)];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

pub(crate) async fn write_message(stream: &mut TcpStream, message: &[u8]) {
    stream.write_all(&framed(message)).await.unwrap();
}

/// The message with its length in front, as DNS over TCP frames it (RFC 1035 section 4.2.2).
pub(crate) fn framed(message: &[u8]) -> Vec<u8> {
    [&(message.len() as u16).to_be_bytes(), message].concat()
}

/// The response to a GET request, with its head.
pub(crate) async fn http_get(server: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(server).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: agent\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    response
}

/// A resolver for the zone `z.`: one address at `one.z`, 60 addresses at `many.z` (too many for the
/// 512 bytes of a reply without EDNS), and an alias of `example.org` at `out.z`.
pub(crate) struct ResolverUnderTest {
    pub(crate) address: SocketAddr,
    pub(crate) resolver: Arc<Resolver>,
    pub(crate) canary: Arc<Canary>,
    /// A switch for each UDP socket. If it is on, the socket stays open, and its receiver does
    /// nothing.
    pub(crate) hanging: Vec<Arc<AtomicBool>>,
    _tasks: JoinSet<io::Result<Infallible>>,
}

impl ResolverUnderTest {
    pub(crate) fn new(listen: &str, upstreams: &[SocketAddr]) -> ResolverUnderTest {
        ResolverUnderTest::try_new(listen, upstreams).unwrap()
    }

    /// Starts a resolver without a cache.
    ///
    /// # Errors
    ///
    /// If the address `listen` is invalid or can't be bound.
    pub(crate) fn try_new(
        listen: &str,
        upstreams: &[SocketAddr],
    ) -> anyhow::Result<ResolverUnderTest> {
        let no_cache = CacheSettings {
            capacity: 0,
            ..CacheSettings::default()
        };
        ResolverUnderTest::start(listen, outside_upstreams(upstreams), no_cache)
    }

    /// Starts a resolver with a cache on a free port of the loopback.
    pub(crate) fn caching(upstreams: Upstreams, cache: CacheSettings) -> ResolverUnderTest {
        ResolverUnderTest::start("127.0.0.1:0", upstreams, cache).unwrap()
    }

    fn start(
        listen: &str,
        upstreams: Upstreams,
        cache: CacheSettings,
    ) -> anyhow::Result<ResolverUnderTest> {
        let mut builder = ModelBuilder::new(1);
        let name = |text| Name::parse(text).unwrap();
        builder.add_zone(name("z"), 5).unwrap();
        let mut add = |owner, data| {
            builder.add(Record {
                owner: name(owner),
                ttl: 5,
                data,
            });
        };
        add("one.z", Rdata::A(Ipv4Addr::new(10, 0, 0, 1)));
        for last in 0..60 {
            add("many.z", Rdata::A(Ipv4Addr::new(10, 0, 1, last)));
        }
        add("out.z", Rdata::Cname(name("example.org")));
        let model = Arc::new(builder.build());
        let resolver = Arc::new(Resolver::new(model, upstreams, cache));
        let sockets = Sockets::bind(listen.parse()?)?;
        let canary = sockets.canary().clone();
        let address = sockets.address();
        let mut tasks = JoinSet::new();
        let servers = resolver.servers(sockets);
        let mut hanging = Vec::new();
        for receiver in servers.udp {
            let hangs = Arc::new(AtomicBool::new(false));
            hanging.push(hangs.clone());
            let mut serve = Box::pin(receiver.serve());
            tasks.spawn(poll_fn(move |context| match hangs.load(SeqCst) {
                true => Poll::Pending,
                false => serve.as_mut().poll(context),
            }));
        }
        tasks.spawn(async { Ok(servers.tcp.serve().await) });
        Ok(ResolverUnderTest {
            address,
            resolver,
            canary,
            hanging,
            _tasks: tasks,
        })
    }

    /// Starts a resolver on a free port of the loopback.
    pub(crate) fn local(upstreams: &[&FakeUpstream]) -> ResolverUnderTest {
        let upstreams: Vec<_> = upstreams.iter().map(|upstream| upstream.address).collect();
        ResolverUnderTest::new("127.0.0.1:0", &upstreams)
    }
}

fn outside_upstreams(upstreams: &[SocketAddr]) -> Upstreams {
    Upstreams {
        outside: ServerSet::plain(upstreams.iter().copied()),
        ..Upstreams::default()
    }
}

/// The configuration of a `run` command on free ports that reads the files in `manifests`.
pub(crate) fn config(manifests: &Path, flags: &[&str]) -> Config {
    let manifests = ["--manifests", manifests.to_str().unwrap()];
    config_with_source(&[&manifests, flags].concat())
}

/// The configuration of a `run` command on free ports. The flags must select the source of objects.
pub(crate) fn config_with_source(flags: &[&str]) -> Config {
    let fixed = [
        "dns-agent",
        "run",
        "--listen",
        "127.0.0.1:0",
        "--admin",
        "127.0.0.1:0",
    ];
    let AgentCommand::Run(args) = Cli::try_parse_from(fixed.iter().chain(flags))
        .unwrap()
        .command
    else {
        panic!("not a run command");
    };
    Config::from_args(*args).unwrap()
}

/// A directory with the file `config`, a kubeconfig for an API server.
pub(crate) fn kubeconfig(server: SocketAddr) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let text = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": format!("http://{server}")}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
    });
    fs::write(folder.path().join("config"), text.to_string()).unwrap();
    folder
}
