//! Hosts files beside a cluster, in both planes.

use std::{fs, path::PathBuf};

use serde_json::Value;
use zerohop_contract::message::Message;
use zerohop_tests::{
    topology::Topology,
    udp::{UdpClient, eventually},
};

use super::{
    A, AgentProcess, LIMIT, PodClient, SHORT_LEASE,
    api::start_cluster,
    dns_path::{AFTER, corefile, dns_pod, start_api},
    rcode, start_agent,
};

/// RFC 3596 section 2.1, and RFC 1035 section 3.2.2.
const AAAA: u16 = 28;
const MX: u16 = 15;
const PTR: u16 = 12;
/// RFC 2782.
const SRV: u16 = 33;

const LISTEN: &str = "--listen=127.0.0.1:0";

const HOSTS: &str = "
192.0.2.5 db.corp.example db-primary
2001:db8::5 six.corp.example
192.0.2.6 web.shop.svc.cluster.local
192.0.2.7 new.shop.svc.cluster.local
not-an-address bad.corp.example
";

/// A hosts file in a folder of its own; removed when dropped.
struct HostsFolder(PathBuf);

impl HostsFolder {
    fn new(text: &str) -> HostsFolder {
        let (process, number) = (std::process::id(), rand::random::<u64>());
        let folder = std::env::temp_dir().join(format!("zerohop-hosts-{process}-{number:016x}"));
        fs::create_dir(&folder).unwrap();
        let file = HostsFolder(folder);
        file.write(text);
        file
    }

    fn path(&self) -> PathBuf {
        self.0.join("hosts")
    }

    fn flag(&self) -> String {
        format!("--hosts={}", self.path().display())
    }

    /// Replaces the file atomically, by a rename.
    fn write(&self, text: &str) {
        let aside = self.0.join("new");
        fs::write(&aside, text).unwrap();
        fs::rename(aside, self.path()).unwrap();
    }
}

impl Drop for HostsFolder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

/// The IPv4 address in the reply's only answer record. `None`: no reply, or no such record.
fn address(pod: &PodClient, name: &str) -> Option<[u8; 4]> {
    let reply = pod.ask(name, A)?;
    (reply[7] == 1).then(|| reply[reply.len() - 4..].try_into().unwrap())
}

/// The resolver's answer, as `dns-agent lookup` shows it.
fn lookup(agent: &AgentProcess, name: &str, rtype: &str) -> Value {
    let output = agent.output(&["lookup", name, rtype, "--json"]).unwrap();
    serde_json::from_str(&output).unwrap()
}

/// Checks that the kernel and the agent's resolver give the same reply to each question, apart from
/// the ID.
fn compare_planes(topology: &Topology, agent: &AgentProcess, questions: &[(&str, u16)]) {
    let pod = PodClient::new(topology);
    let resolver = PodClient(UdpClient::new(&topology.node, agent.listen[0]).unwrap());
    for (name, rtype) in questions {
        let [kernel, user] = [&pod, &resolver].map(|plane| {
            let reply = plane.ask(name, *rtype).unwrap();
            Message::read(&reply).unwrap().lines()
        });
        assert_eq!(kernel, user, "{name} {rtype}");
    }
}

#[test]
fn names_of_a_hosts_file_are_answered_beside_those_of_the_cluster() {
    let topology = Topology::routed().unwrap();
    let api = start_cluster(&topology);
    let hosts = HostsFolder::new(HOSTS);
    let agent = start_agent(&topology.node, &api, &[SHORT_LEASE, LISTEN, &hosts.flag()]);
    let pod = PodClient::new(&topology);
    let is_served = || Ok(address(&pod, "db.corp.example") == Some([192, 0, 2, 5]));
    assert!(eventually(LIMIT, is_served).unwrap());

    assert_eq!(address(&pod, "db-primary"), Some([192, 0, 2, 5]));
    let questions = [
        ("db.corp.example", A),
        ("db.corp.example", AAAA),
        ("DB-primary", A),
        ("six.corp.example", A),
        ("six.corp.example", AAAA),
        ("5.2.0.192.in-addr.arpa", PTR),
        ("web.shop.svc.cluster.local", A),
        ("new.shop.svc.cluster.local", A),
    ];
    compare_planes(&topology, &agent, &questions);
    // The family that a name lacks is NODATA, and its SOA record lets clients cache that.
    let reply = pod.ask("db.corp.example", AAAA).unwrap();
    assert_eq!((rcode(&reply), reply[7], reply[9]), (0, 0, 1));
    // Nothing else is known.
    assert_eq!(pod.ask("db.corp.example", MX), None);
    assert_eq!(pod.ask("corp.example", A), None);
    assert_eq!(pod.ask("other.corp.example", A), None);
    assert_eq!(pod.ask("bad.corp.example", A), None);

    // The cluster has one of the names, and denies the other.
    assert_eq!(pod.service_address("web"), Some([10, 96, 1, 1]));
    assert_eq!(pod.ask_for("new").map(|reply| rcode(&reply)), Some(3));
    let file = hosts.path();
    let file = file.display();
    let is_reported = || {
        let status = agent.status()?;
        let expected = [
            format!("{file}: 5 names"),
            format!("hosts file {file}, line 6: \"not-an-address\" is not an IP address"),
            format!("File {file}:4: web.shop.svc.cluster.local. is not answered from the file"),
            format!("File {file}:5: new.shop.svc.cluster.local. is not answered from the file"),
        ];
        Ok(expected.iter().all(|text| status.contains(text)))
    };
    assert!(
        eventually(LIMIT, is_reported).unwrap(),
        "{}",
        agent.status().unwrap()
    );
    let origin = lookup(&agent, "db.corp.example", "A");
    let line = &origin["answer"][0]["objects"][0]["name"];
    assert_eq!(*line, format!("{file}:2"), "{origin}");
    let dump = agent.output(&["dump"]).unwrap();
    assert!(dump.contains("db-primary. 5 IN A 192.0.2.5"), "{dump}");
    assert!(!dump.contains("192.0.2.6"), "{dump}");

    // Changes are followed, and an unreadable file changes nothing.
    hosts.write("192.0.2.9 db.corp.example\n");
    let has_changed = || Ok(address(&pod, "db.corp.example") == Some([192, 0, 2, 9]));
    assert!(eventually(LIMIT, has_changed).unwrap());
    assert!(eventually(LIMIT, || Ok(pod.ask("db-primary", A).is_none())).unwrap());
    fs::remove_file(hosts.path()).unwrap();
    let is_degraded = || Ok(agent.status()?.contains("can't be read, so its 1 names"));
    assert!(eventually(LIMIT, is_degraded).unwrap());
    assert_eq!(address(&pod, "db.corp.example"), Some([192, 0, 2, 9]));
}

#[test]
fn names_of_a_hosts_file_may_replace_those_of_the_cluster() {
    let topology = Topology::routed().unwrap();
    let api = start_cluster(&topology);
    let hosts = HostsFolder::new(&format!(
        "{HOSTS}\n192.0.2.8 a.deep.shop.svc.cluster.local\n"
    ));
    let flags = [SHORT_LEASE, LISTEN, &hosts.flag(), "--hosts-override"];
    let agent = start_agent(&topology.node, &api, &flags);
    let pod = PodClient::new(&topology);
    let is_served = || Ok(pod.service_address("web") == Some([192, 0, 2, 6]));
    assert!(eventually(LIMIT, is_served).unwrap());
    assert_eq!(pod.service_address("new"), Some([192, 0, 2, 7]));
    assert_eq!(pod.service_address("a.deep"), Some([192, 0, 2, 8]));
    // RFC 8020: a name above an existing one exists.
    assert_eq!(
        pod.ask_for("deep").map(|reply| (rcode(&reply), reply[7])),
        Some((0, 0))
    );
    assert_eq!(pod.ask_for("absent").map(|reply| rcode(&reply)), Some(3));
    let questions = [
        ("web.shop.svc.cluster.local", A),
        ("web.shop.svc.cluster.local", AAAA),
        ("_http._tcp.web.shop.svc.cluster.local", SRV),
        ("deep.shop.svc.cluster.local", A),
        ("absent.shop.svc.cluster.local", A),
    ];
    compare_planes(&topology, &agent, &questions);
    hosts.write("");
    let is_back = || Ok(pod.service_address("web") == Some([10, 96, 1, 1]));
    assert!(eventually(LIMIT, is_back).unwrap());
    let is_denied = |name: &str| Ok(pod.ask_for(name).map(|reply| rcode(&reply)) == Some(3));
    assert!(eventually(LIMIT, || is_denied("deep")).unwrap());
    assert!(eventually(LIMIT, || is_denied("new")).unwrap());
}

/// While CoreDNS may run with another Corefile, only the cluster's names pass.
#[test]
fn a_stale_cluster_leaves_the_names_of_hosts_files() {
    let topology = Topology::routed().unwrap();
    // Without the plugin `reload`, CoreDNS reads a new Corefile only when it starts.
    let api = start_api(&topology, "log");
    let hosts = HostsFolder::new(HOSTS);
    let flags = [SHORT_LEASE, "--node-name=this", &hosts.flag()];
    let agent = start_agent(&topology.node, &api, &flags);
    let pod = PodClient::new(&topology);
    let is_db_served = || Ok(address(&pod, "db.corp.example") == Some([192, 0, 2, 5]));
    assert!(eventually(LIMIT, is_db_served).unwrap());
    assert_eq!(pod.service_address("web"), Some([10, 96, 1, 1]));

    let hosts_plugin = "log\n hosts {\n  10.0.0.1 a.cluster.local\n  fallthrough\n }";
    api.apply("configmaps", corefile(hosts_plugin));
    assert!(eventually(LIMIT, || Ok(pod.web_ttl().is_none())).unwrap());
    assert!(
        eventually(LIMIT, is_db_served).unwrap(),
        "{}",
        agent.status().unwrap()
    );
    // Nothing is known of the cluster's zones, so no hosts file decides there.
    assert_eq!(pod.ask_for("web"), None);
    assert_eq!(pod.ask_for("absent"), None);
    // Names of the file change meanwhile.
    hosts.write("192.0.2.9 db.corp.example\n");
    let has_changed = || Ok(address(&pod, "db.corp.example") == Some([192, 0, 2, 9]));
    assert!(eventually(LIMIT, has_changed).unwrap());
    assert_eq!(pod.ask_for("web"), None);

    api.apply("pods", dns_pod(AFTER));
    let is_web_served = || Ok(pod.service_address("web") == Some([10, 96, 1, 1]));
    assert!(
        eventually(LIMIT, is_web_served).unwrap(),
        "{}",
        agent.status().unwrap()
    );
    assert!(has_changed().unwrap());
}
