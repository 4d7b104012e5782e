//! Runs common client programs in a pod and checks their results.
//!
//! Library resolvers (glibc, musl, glibc through systemd-resolved, Go, Python) look names up
//! through the search list. Tools (dig, kdig, drill) ask for one name and type. Packets that the
//! kernel passes go to the agent's sockets.

mod programs;

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use nix::sys::signal::Signal;
use programs::{ClientBuilds, InstalledBy, PodShell};
use zerohop_contract::{
    addresses::{POD, SERVED},
    packet::QueryPacket,
};
use zerohop_tests::{
    not_run::report_not_run,
    topology::Topology,
    udp::UdpClient,
    upstream::{self, UpstreamName},
};

use super::agent::{ManifestFolder, start_agent};

/// Every client must end within this time, so that a lost query fails the test. A client repeats a
/// lost query only later: the tools, musl and systemd-resolved after 5 s, the other libraries after
/// the `timeout` of [`RESOLV_CONF`].
const MAX_CLIENT_TIME: Duration = Duration::from_millis(4900);

/// The resolv.conf of an ordinary pod, on a node with its own search domains, except for the
/// `timeout`.
const RESOLV_CONF: &str = "\
search shop.svc.cluster.local svc.cluster.local cluster.local eu.example.net example.net
nameserver 10.96.0.10
options ndots:5 timeout:10
";

/// The one name outside the cluster, and its address.
const OUTSIDE: UpstreamName = UpstreamName {
    name: "www.example.com",
    address: Ipv4Addr::new(192, 0, 2, 80),
};

/// Number of addresses of `crowd`, more than fit in 512 bytes.
const CROWD: usize = 60;

/// Names for the libraries to look up, and their addresses. No addresses: the name does not exist.
const LOOKUPS: [(&str, &[&str]); 14] = [
    ("web", &["10.96.1.1"]),
    ("web.shop", &["10.96.1.1"]),
    ("web.shop.svc", &["10.96.1.1"]),
    ("web.shop.svc.cluster.local", &["10.96.1.1"]),
    ("web.shop.svc.cluster.local.", &["10.96.1.1"]),
    ("WeB.sHoP", &["10.96.1.1"]),
    ("six", &["fd00:10:96::6"]),
    ("cart", &["10.96.1.2", "fd00:10:96::2"]),
    ("db", &["10.244.0.1", "10.244.0.2", "10.244.0.3"]),
    ("db-0.db", &["10.244.0.1"]),
    ("near", &["10.96.1.1"]),
    ("www.example.com", &["192.0.2.80"]),
    ("absent", &[]),
    ("absent.example.com", &[]),
];

/// Questions for the tools: name, type, and the expected RCODE and rdata of that type.
const QUESTIONS: [(&str, &str, &str, &[&str]); 12] = [
    ("web.shop.svc.cluster.local", "A", "NOERROR", &["10.96.1.1"]),
    ("WeB.sHoP.svc.cluster.LOCAL", "A", "NOERROR", &["10.96.1.1"]),
    ("web.shop.svc.cluster.local", "AAAA", "NOERROR", &[]),
    (
        "cart.shop.svc.cluster.local",
        "AAAA",
        "NOERROR",
        &["fd00:10:96::2"],
    ),
    (
        "db.shop.svc.cluster.local",
        "A",
        "NOERROR",
        &["10.244.0.1", "10.244.0.2", "10.244.0.3"],
    ),
    (
        "_http._tcp.web.shop.svc.cluster.local",
        "SRV",
        "NOERROR",
        &["0 100 80 web.shop.svc.cluster.local."],
    ),
    (
        "1.1.96.10.in-addr.arpa",
        "PTR",
        "NOERROR",
        &["web.shop.svc.cluster.local."],
    ),
    (
        "near.shop.svc.cluster.local",
        "A",
        "NOERROR",
        &["10.96.1.1"],
    ),
    (
        "dns-version.cluster.local",
        "TXT",
        "NOERROR",
        &["\"1.1.0\""],
    ),
    ("www.example.com", "A", "NOERROR", &["192.0.2.80"]),
    ("absent.shop.svc.cluster.local", "A", "NXDOMAIN", &[]),
    (
        "www.example.com.shop.svc.cluster.local",
        "A",
        "NXDOMAIN",
        &[],
    ),
];

#[test]
fn every_client_finds_the_right_addresses() {
    let topology = Topology::routed().unwrap();
    topology.assign_served_addresses().unwrap();
    let outside = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let upstream = upstream::start(&topology.node, outside, OUTSIDE).unwrap();
    let manifests = ManifestFolder::new(&manifests());
    let dns = SocketAddr::new(SERVED[0], 53);
    let options = [
        format!("--listen={dns}"),
        format!("--upstream={}", upstream.address()),
        "--reverse=10.96.0.0/16".to_owned(),
    ];
    let options = options.each_ref().map(String::as_str);
    let agent = start_agent(&topology.node, &manifests, &options);
    let shell = PodShell { pod: &topology.pod };
    let programs = ClientBuilds::new();

    let libraries = programs
        .libraries()
        .map(|program| (program, look_up as CheckClient));
    let tools = programs
        .tools()
        .map(|program| (program, ask as CheckClient));
    for (program, check) in libraries.into_iter().chain(tools) {
        match &program.found {
            Ok(found) => {
                println!("{}: {}", program.name, found.version);
                check(&shell, program.name, &found.words);
            }
            Err(reason) if program.origin == InstalledBy::Setup => {
                panic!("{}: {reason}: run `cargo xtask setup`", program.name);
            }
            Err(reason) => report_not_run(program.name, reason),
        }
    }

    // The clients can't tell which plane answers. While the agent is stopped, only the kernel can
    // answer.
    agent.send_signal(Signal::SIGSTOP).unwrap();
    let query = QueryPacket::new(POD[0], SERVED[0], "web.shop.svc.cluster.local", 1);
    let client = UdpClient::new(&topology.pod, dns).unwrap();
    let reply = client.ask(&query.message(), MAX_CLIENT_TIME).unwrap();
    assert!(reply.is_some(), "the kernel did not answer");
}

/// Checks a client program, given by its name and command line, with all names or questions.
type CheckClient = fn(&PodShell<'_>, &str, &[String]);

/// Looks up all names with a program that prints the addresses of one name.
fn look_up(shell: &PodShell<'_>, program: &str, words: &[String]) {
    let find = |name: &str| {
        let output = shell.run(words, &[name]);
        match output.trim() {
            "not found" => BTreeSet::new(),
            addresses => addresses.split_whitespace().map(str::to_owned).collect(),
        }
    };
    for (name, addresses) in LOOKUPS {
        assert_eq!(find(name), set_of(addresses), "{program} looks {name} up");
    }
    let (found, crowd) = (find("crowd"), crowd());
    if program == "musl" {
        // musl has room for 48 addresses. Before 1.2.4 it doesn't retry a truncated reply over TCP;
        // at least 28 addresses fit in 512 bytes.
        assert!(
            found.len() >= 28 && found.is_subset(&crowd),
            "{program} looks crowd up: {found:?}"
        );
    } else {
        assert_eq!(found, crowd, "{program} looks crowd up");
    }
}

/// Asks all questions with a tool that prints messages in dig's form.
fn ask(shell: &PodShell<'_>, program: &str, words: &[String]) {
    for (name, rtype, rcode, data) in QUESTIONS {
        let reply = PrintedReply::parse(&shell.run(words, &[name, rtype]), rtype);
        let expected = PrintedReply {
            rcode: rcode.to_owned(),
            data: set_of(data),
        };
        assert_eq!(reply, expected, "{program} asks for {name} {rtype}");
    }
    let name = "crowd.shop.svc.cluster.local";
    let reply = PrintedReply::parse(&shell.run(words, &[name, "A"]), "A");
    assert_eq!(reply.data, crowd(), "{program} asks for {name}");
}

/// A reply as the tools print it.
#[derive(Debug, PartialEq, Eq)]
struct PrintedReply {
    rcode: String,
    /// The rdata of the records of one type.
    data: BTreeSet<String>,
}

impl PrintedReply {
    /// Parses `status: NOERROR,` or `rcode: NOERROR,`, and lines of owner, TTL, class, type and
    /// rdata.
    fn parse(output: &str, rtype: &str) -> Self {
        let mut words = output.split_whitespace();
        words.find(|word| ["status:", "rcode:"].contains(word));
        let rcode = words.next().unwrap_or_default();
        let records = output.lines().filter(|line| !line.starts_with(';'));
        let data = records.filter_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            (words.get(3) == Some(&rtype)).then(|| words[4..].join(" "))
        });
        Self {
            rcode: rcode.trim_end_matches([',', ';']).to_owned(),
            data: data.collect(),
        }
    }
}

fn set_of(words: &[&str]) -> BTreeSet<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn crowd() -> BTreeSet<String> {
    (1..=CROWD).map(|last| format!("10.244.1.{last}")).collect()
}

/// The manifests of the namespace `shop`.
fn manifests() -> String {
    let service = |name: &str, spec: &str| {
        format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{{spec}}}\n"
        )
    };
    let addressed = |name: &str, addresses: &[&str]| {
        let all = addresses.join("\", \"");
        let first = addresses[0];
        service(
            name,
            &format!(
                "clusterIP: \"{first}\", clusterIPs: [\"{all}\"], ports: [{{name: http, port: 80, protocol: TCP}}]"
            ),
        )
    };
    let headless = |name: &str, endpoints: &[String]| {
        let none = "clusterIP: None, clusterIPs: [None]";
        let slice = format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{name: {name}, namespace: shop, labels: {{kubernetes.io/service-name: {name}}}}}\n\
             addressType: IPv4\nports: []\nendpoints: [{}]\n",
            endpoints.join(", ")
        );
        service(name, none) + &slice
    };
    let named = (1..=3).map(|last| {
        let number = last - 1;
        format!("{{addresses: [10.244.0.{last}], hostname: db-{number}}}")
    });
    let nameless = crowd()
        .into_iter()
        .map(|address| format!("{{addresses: [{address}]}}"));
    [
        // Without any Namespace object every namespace exists, including absent.svc.cluster.local.
        "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n".to_owned(),
        addressed("web", &["10.96.1.1"]),
        addressed("cart", &["10.96.1.2", "fd00:10:96::2"]),
        addressed("six", &["fd00:10:96::6"]),
        headless("db", &named.collect::<Vec<_>>()),
        headless("crowd", &nameless.collect::<Vec<_>>()),
        service(
            "near",
            "type: ExternalName, externalName: web.shop.svc.cluster.local",
        ),
    ]
    .concat()
}
