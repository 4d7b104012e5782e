//! Clients, and upstreams that do as a script says.

use std::{
    fs, io,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use clap::Parser;
use dns_agent::{
    config::{Cli, Command, Config},
    resolver::{Resolver, Sockets, Upstreams},
    zone::{ModelBuilder, Name, Rdata, Record},
};
use domain::base::iana::Rtype;
use serde_json::json;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    task::JoinSet,
    time::{sleep, timeout},
};

/// Long enough for anything that happens at all.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// What an upstream says to a query: messages, each after some time.
pub(crate) type Said = Vec<(Duration, Vec<u8>)>;

/// A server for names that are not the agent's.
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    _tasks: JoinSet<()>,
}

impl Upstream {
    /// An upstream that says `udp` to datagrams and `tcp` to what comes over a
    /// connection.
    pub(crate) async fn new(
        udp: impl Fn(&[u8]) -> Said + Send + 'static,
        tcp: impl Fn(&[u8]) -> Said + Send + 'static,
    ) -> Upstream {
        let (socket, listener) = loop {
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            match TcpListener::bind(socket.local_addr().unwrap()).await {
                Ok(listener) => break (socket, listener),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                Err(error) => panic!("{error}"),
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
        Upstream {
            address,
            _tasks: tasks,
        }
    }

    /// An upstream that answers every query of type A with this address.
    pub(crate) async fn answering(address: [u8; 4]) -> Upstream {
        Upstream::new(move |query| at_once(a(query, address)), |_| Vec::new()).await
    }

    /// An upstream that is there and says nothing.
    pub(crate) async fn silent() -> Upstream {
        Upstream::new(|_| Vec::new(), |_| Vec::new()).await
    }
}

/// A message without delay.
pub(crate) fn at_once(message: Vec<u8>) -> Said {
    vec![(Duration::ZERO, message)]
}

/// A query of one question with RD set.
pub(crate) fn query(id: u16, name: &str, rtype: Rtype) -> Vec<u8> {
    let mut octets = id.to_be_bytes().to_vec();
    octets.extend_from_slice(&[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    octets.extend_from_slice(Name::parse(name).unwrap().wire());
    octets.extend_from_slice(&rtype.to_int().to_be_bytes());
    octets.extend_from_slice(&[0, 1]);
    octets
}

/// A reply to a query with these flags, without records.
pub(crate) fn reply(query: &[u8], flags: u16) -> Vec<u8> {
    let name = query[12..].iter().position(|octet| *octet == 0).unwrap();
    let mut octets = query[..12 + name + 5].to_vec();
    octets[2..4].copy_from_slice(&flags.to_be_bytes());
    octets[6..12].fill(0);
    octets
}

/// A reply with one address, or without records if the type is another.
pub(crate) fn a(query: &[u8], address: [u8; 4]) -> Vec<u8> {
    let mut octets = reply(query, 0x8180);
    let rtype = &octets[octets.len() - 4..octets.len() - 2];
    if rtype == [0, 1] {
        octets[7] = 1;
        octets.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 1, 44, 0, 4]);
        octets.extend_from_slice(&address);
    }
    octets
}

/// The last address in a message, which ends with a record of type A.
#[track_caller]
pub(crate) fn last_address(message: &[u8]) -> [u8; 4] {
    assert_ne!(word(message, 6), 0, "no answer in {message:02x?}");
    message[message.len() - 4..].try_into().unwrap()
}

/// The response code in a message's header.
pub(crate) fn rcode(message: &[u8]) -> u8 {
    message[3] & 0x0f
}

/// The word at an offset of a message's header.
pub(crate) fn word(message: &[u8], offset: usize) -> u16 {
    u16::from_be_bytes([message[offset], message[offset + 1]])
}

/// A client's datagram and the reply to it.
pub(crate) async fn ask(server: SocketAddr, query: &[u8]) -> Vec<u8> {
    let local = if server.is_ipv4() {
        "0.0.0.0:0"
    } else {
        "[::]:0"
    };
    let socket = UdpSocket::bind(local).await.unwrap();
    // Connected, it takes replies from the address asked only.
    socket.connect(server).await.unwrap();
    socket.send(query).await.unwrap();
    let mut buffer = vec![0; 65535];
    let length = timeout(PATIENCE, socket.recv(&mut buffer))
        .await
        .expect("no reply")
        .unwrap();
    buffer.truncate(length);
    assert_eq!(buffer[..2], query[..2], "not the query's ID");
    buffer
}

/// A client's query over a connection of its own, and the reply.
pub(crate) async fn ask_over_tcp(server: SocketAddr, query: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(server).await.unwrap();
    write_message(&mut stream, query).await;
    timeout(PATIENCE, read_message(&mut stream))
        .await
        .expect("no reply")
        .unwrap()
}

pub(crate) async fn read_message(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut message = vec![0; usize::from(length)];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

pub(crate) async fn write_message(stream: &mut TcpStream, message: &[u8]) {
    stream.write_all(&framed(message)).await.unwrap();
}

pub(crate) fn framed(message: &[u8]) -> Vec<u8> {
    [&(message.len() as u16).to_be_bytes(), message].concat()
}

/// A resolver for a zone `z.`, with `one.z`, 60 addresses at `many.z`, and
/// `out.z`, an alias of `example.org`.
pub(crate) struct Served {
    pub(crate) address: SocketAddr,
    pub(crate) resolver: Arc<Resolver>,
    _tasks: JoinSet<&'static str>,
}

impl Served {
    pub(crate) fn new(listen: &str, upstreams: &[SocketAddr]) -> Served {
        Served::try_new(listen, upstreams).unwrap()
    }

    /// Fails when the address can't be bound.
    pub(crate) fn try_new(listen: &str, upstreams: &[SocketAddr]) -> anyhow::Result<Served> {
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
        let resolver = Arc::new(Resolver::new(model, to(upstreams)));
        let sockets = Sockets::bind(listen.parse()?)?;
        let address = sockets.address();
        let mut tasks = JoinSet::new();
        resolver.serve(sockets, &mut tasks);
        Ok(Served {
            address,
            resolver,
            _tasks: tasks,
        })
    }

    pub(crate) fn local(upstreams: &[&Upstream]) -> Served {
        let upstreams: Vec<_> = upstreams.iter().map(|upstream| upstream.address).collect();
        Served::new("127.0.0.1:0", &upstreams)
    }
}

fn to(others: &[SocketAddr]) -> Upstreams {
    Upstreams {
        others: others.to_vec(),
        cluster: None,
    }
}

/// The configuration of a `run` command on free ports.
pub(crate) fn config(manifests: &Path, flags: &[&str]) -> Config {
    let manifests = ["--manifests", manifests.to_str().unwrap()];
    config_of(&[&manifests, flags].concat())
}

/// The same with a source among the flags.
pub(crate) fn config_of(flags: &[&str]) -> Config {
    let fixed = [
        "dns-agent",
        "run",
        "--listen",
        "127.0.0.1:0",
        "--admin",
        "127.0.0.1:0",
    ];
    let Command::Run(args) = Cli::try_parse_from(fixed.iter().chain(flags))
        .unwrap()
        .command
    else {
        panic!("not a run command");
    };
    Config::from_args(*args).unwrap()
}

/// A folder with a file `config` that leads to an API server.
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
