//! A CoreDNS that the comparison runs itself, like a container: in a network namespace of its own,
//! so that it can bind the ports of any Corefile, and with a root directory of its own, so that it
//! finds the files that the Corefile names. The text of the Corefile is not changed.

use std::{
    fs::{self, File},
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;
use zerohop_contract::corefile_shapes::CorefileShape;
use zerohop_tests::{netns::NetworkNamespace, udp::eventually};

use crate::{
    client::RetryingClient,
    pod::ClientPod,
    questions::{A, ComparedQuestion, EdnsChoice},
};

/// The network and the root directory of a container with CoreDNS.
pub(crate) struct CoreDnsContainer {
    root: TempDir,
    pod: ClientPod,
    /// The API server's address and port in the environment of the container.
    api: SocketAddr,
    _internet: Internet,
}

/// The rest of the world: a DNS server that answers at every address.
struct Internet {
    _process: CoreDnsProcess,
    _namespace: NetworkNamespace,
    _root: TempDir,
}

/// The credentials of a service account, as the kubelet writes them into containers.
pub(crate) struct ServiceAccountFiles {
    pub(crate) token: String,
    /// The certificate of the API server's authority, in PEM.
    pub(crate) authority: String,
}

/// A running CoreDNS. Dropping it kills the process.
pub(crate) struct CoreDnsProcess {
    child: Child,
    log: PathBuf,
}

/// Whether a CoreDNS started.
pub(crate) enum StartedCoreDns {
    /// It answers queries.
    Serving(CoreDnsProcess),
    /// It ended, with this log.
    Ended(String),
}

/// The name of the devices that connect the container and the internet.
const LINK: &str = "internet";
/// The addresses of the container and of the internet on this link. They are reserved for
/// documentation (RFC 5737).
const LINK_ADDRESSES: [&str; 2] = ["198.51.100.1", "198.51.100.2"];

/// The Corefile of the internet. It has addresses for names that begin with `www`.
const INTERNET: &str = ".:53 {
    template IN A {
        match ^www[.]
        answer \"{{ .Name }} 60 IN A 203.0.113.7\"
        fallthrough
    }
    template ANY ANY {
        rcode NXDOMAIN
        authority \". 60 IN SOA a.root. h.root. 1 2 3 4 60\"
    }
}
";

/// The longest time until a CoreDNS answers.
const LIMIT: Duration = Duration::from_secs(60);
/// The time between two queries while a CoreDNS starts.
const PAUSE: Duration = Duration::from_millis(20);

impl CoreDnsContainer {
    /// Makes a pod's container: its directories, and its way to the API server and the internet.
    /// `program` is a CoreDNS that needs no libraries.
    pub(crate) fn new(
        program: &Path,
        api: SocketAddr,
        account: &ServiceAccountFiles,
        pod: ClientPod,
    ) -> Result<CoreDnsContainer> {
        let root = make_root(program)?;
        let secrets = root
            .path()
            .join("var/run/secrets/kubernetes.io/serviceaccount");
        fs::create_dir_all(&secrets)?;
        fs::write(secrets.join("token"), &account.token)?;
        fs::write(secrets.join("ca.crt"), &account.authority)?;
        let [_, other] = LINK_ADDRESSES;
        let etc = root.path().join("etc");
        fs::write(etc.join("resolv.conf"), format!("nameserver {other}\n"))?;
        let hosts = format!(
            "127.0.0.1 localhost\n::1 localhost\n{} coredns\n",
            pod.address
        );
        fs::write(etc.join("hosts"), hosts)?;
        let internet = Internet::start(program, &pod)?;
        pod.namespace.ip(&[
            &format!("route add {} via {}", api.ip(), pod.gateway),
            &format!("route replace default via {other}"),
        ])?;
        Ok(CoreDnsContainer {
            root,
            pod,
            api,
            _internet: internet,
        })
    }

    /// The address of CoreDNS.
    pub(crate) fn dns(&self) -> SocketAddr {
        (self.pod.address, 53).into()
    }

    /// The address of the pod.
    pub(crate) fn address(&self) -> Ipv4Addr {
        self.pod.address
    }

    /// Starts CoreDNS with the ConfigMaps of a shape, and waits until it answers or ends.
    pub(crate) fn start(&self, shape: &CorefileShape) -> Result<StartedCoreDns> {
        let folder = self.root.path().join("etc/coredns");
        fs::remove_dir_all(&folder)?;
        fs::create_dir_all(folder.join("custom"))?;
        for (key, text) in &shape.coredns {
            fs::write(folder.join(key), text)?;
        }
        for (key, text) in &shape.custom {
            fs::write(folder.join("custom").join(key), text)?;
        }
        let environment = [
            ("KUBERNETES_SERVICE_HOST", self.api.ip().to_string()),
            ("KUBERNETES_SERVICE_PORT", self.api.port().to_string()),
        ];
        let mut process =
            CoreDnsProcess::start(&self.pod.namespace, self.root.path(), &environment)?;
        let client = RetryingClient::new(self.dns())?;
        let question = ComparedQuestion {
            name: "kubernetes.default.svc.cluster.local".to_owned(),
            rtype: A,
            edns: EdnsChoice::Without,
        };
        let mut has_ended = false;
        let is_decided = eventually(LIMIT, || {
            has_ended = process.child.try_wait()?.is_some();
            // Until it listens, the query fails at once.
            let is_decided = has_ended || client.ask(&question.message()).is_ok();
            if !is_decided {
                thread::sleep(PAUSE);
            }
            Ok(is_decided)
        })?;
        ensure!(
            is_decided,
            "CoreDNS with {} neither answered nor ended within {LIMIT:?}:\n{}",
            shape.file,
            process.log()?
        );
        if has_ended {
            return Ok(StartedCoreDns::Ended(process.log()?));
        }
        Ok(StartedCoreDns::Serving(process))
    }
}

impl Internet {
    /// Starts the server, and connects it to a pod.
    fn start(program: &Path, pod: &ClientPod) -> Result<Internet> {
        let namespace = NetworkNamespace::new("internet")?;
        let [own, other] = LINK_ADDRESSES;
        pod.namespace.ip(&[
            &format!(
                "link add {LINK} type veth peer name {LINK} netns {}",
                namespace.name()
            ),
            &format!("link set {LINK} up"),
            &format!("address add {own}/30 dev {LINK}"),
        ])?;
        namespace.ip(&[
            &format!("link set {LINK} up"),
            &format!("address add {other}/30 dev {LINK}"),
            // Every other address is this namespace's.
            "route add local 0.0.0.0/0 dev lo",
        ])?;
        let root = make_root(program)?;
        fs::write(root.path().join("etc/coredns/Corefile"), INTERNET)?;
        Ok(Internet {
            _process: CoreDnsProcess::start(&namespace, root.path(), &[])?,
            _namespace: namespace,
            _root: root,
        })
    }
}

impl CoreDnsProcess {
    fn start(
        namespace: &NetworkNamespace,
        root: &Path,
        environment: &[(&str, String)],
    ) -> Result<CoreDnsProcess> {
        let log = root.join("log");
        let output = File::create(&log)?;
        let mut command: Command = namespace.command("chroot")?;
        let child = command
            .arg(root)
            .args(["/coredns", "-conf", "/etc/coredns/Corefile"])
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .context("cannot start chroot")?;
        Ok(CoreDnsProcess { child, log })
    }

    fn log(&self) -> Result<String> {
        Ok(fs::read_to_string(&self.log)?)
    }
}

impl Drop for CoreDnsProcess {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Makes a root directory with the program.
fn make_root(program: &Path) -> Result<TempDir> {
    let root = tempfile::tempdir()?;
    fs::create_dir_all(root.path().join("etc/coredns"))?;
    fs::copy(program, root.path().join("coredns"))
        .with_context(|| format!("cannot copy {}", program.display()))?;
    Ok(root)
}
