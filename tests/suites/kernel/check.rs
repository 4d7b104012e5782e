//! What `dns-agent check` says of a kernel, beside what that kernel then does.

use std::{path::Path, time::Duration};

use aya::util::KernelVersion;
use dns_agent::{
    check::{Asked, Report, Verdict, check},
    config::{Hook, Interface, Settings},
    datapath::{
        Clients, Config, Datapath, Ending, Lease, Persistence,
        hooks::AttachedStatus,
        interfaces::Devices,
        pins::{Claim, Pins},
    },
};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::resource::{Resource, getrlimit, setrlimit},
};
use rustix::thread::CapabilitySet;
use zerohop_tests::{
    bpffs::Bpffs,
    capabilities,
    topology::{HOST_VETH, Topology},
};

use super::fixture::model;

const NONE: Option<&str> = None;

#[test]
fn hooks_are_as_check_says() {
    for (hook, said) in [(Hook::Auto, "tc by "), (Hook::Xdp, "generic XDP, since")] {
        let node = Node::new();
        let (report, attached) = node.inside(|| (node.check(hook), node.attach(hook).unwrap()));
        println!("{report}");
        assert_eq!(report.verdict, Verdict::Works, "{report}");
        let text = node.text(&report);
        assert!(text.contains(said), "{hook:?}: {text}");
        // It was pinned, unless it is a filter, which stays anyway.
        assert!(attached.outlives, "{attached:?}");
        match attached.mode {
            "generic" => assert_eq!(attached.hook, "xdp", "{attached:?}"),
            mode => {
                assert!(text.contains(&format!("tc by {mode}")), "{mode}: {text}");
                assert_eq!(mode == "tcx", has_tcx(), "{attached:?}");
            }
        }
    }
}

#[test]
fn rights_suffice_where_check_says_so() {
    let locks_memory = KernelVersion::current().unwrap() < KernelVersion::new(5, 11, 0);
    for (dropped, works) in [
        (CapabilitySet::SYS_ADMIN, true),
        (
            CapabilitySet::SYS_ADMIN | CapabilitySet::SYS_RESOURCE,
            !locks_memory,
        ),
        (CapabilitySet::SYS_ADMIN | CapabilitySet::BPF, false),
        (CapabilitySet::SYS_ADMIN | CapabilitySet::PERFMON, false),
        (CapabilitySet::SYS_ADMIN | CapabilitySet::NET_ADMIN, false),
        // Links are made by whoever has SYS_ADMIN, filters are not.
        (CapabilitySet::NET_ADMIN, has_tcx()),
    ] {
        let node = Node::new();
        // An agent raises it, if it may: which is what SYS_RESOURCE is for.
        let is_limited = locks_memory && dropped.contains(CapabilitySet::SYS_RESOURCE);
        let _limit = is_limited.then(LockedMemory::limited);
        let (report, attached) = node.inside(|| {
            capabilities::drop(dropped).unwrap();
            (node.check(Hook::Auto), node.attach(Hook::Auto))
        });
        println!("without {dropped:?}, attached: {attached:?}\n{report}");
        assert_eq!(attached.is_ok(), works, "without {dropped:?}: {attached:?}");
        let is_said = report.verdict != Verdict::Fails;
        assert_eq!(is_said, works, "without {dropped:?}:\n{report}");
    }
}

#[test]
fn nothing_needs_the_kernels_btf() {
    let node = Node::new();
    let (report, attached) = node.inside(|| {
        hide(Path::new("/sys/kernel/btf"));
        (node.check(Hook::Auto), node.attach(Hook::Auto))
    });
    let btf = report
        .findings
        .iter()
        .find(|finding| finding.subject == "BTF");
    assert!(btf.unwrap().text.contains("is not there"), "{report}");
    assert_eq!(report.verdict, Verdict::Works, "{report}");
    attached.unwrap();
}

/// A node with a pod.
struct Node {
    topology: Topology,
    bpffs: Bpffs,
}

impl Node {
    fn new() -> Node {
        Node {
            topology: Topology::routed().unwrap(),
            bpffs: Bpffs::new().unwrap(),
        }
    }

    /// Does something on a thread of its own in the node's network namespace.
    fn inside<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        self.topology.node.enter(act).unwrap()
    }

    fn check(&self, hook: Hook) -> Report {
        let asked = Asked {
            interfaces: vec![interface(hook)],
            persistence: Persistence::Pinned,
            bpffs: self.bpffs.path().into(),
            ..Asked::from(Settings::default())
        };
        runtime().block_on(check(&asked))
    }

    /// What a real agent does, which takes it off again.
    fn attach(&self, hook: Hook) -> Result<AttachedStatus, String> {
        self.try_attach(hook).map_err(|error| format!("{error:#}"))
    }

    fn try_attach(&self, hook: Hook) -> anyhow::Result<AttachedStatus> {
        let config = Config {
            interfaces: vec![interface(hook)],
            allow: Vec::new(),
            rate_limit: 0,
            serve: Vec::new(),
            clients: Clients::Any,
            capacity: None,
            stale_after: Duration::from_secs(10),
            persistence: Persistence::Pinned,
            bpffs: self.bpffs.path().into(),
        };
        let Claim::Ours(pins) = Pins::claim(self.bpffs.path())? else {
            anyhow::bail!("somebody has the hooks");
        };
        let mut devices = Devices::default();
        let devices = runtime().block_on(devices.list())?.to_vec();
        let mut datapath = Datapath::start(config, Some(pins), &devices, &model(), Lease::Begins)?;
        let status = datapath.status()?;
        datapath.stop(Ending::Detached);
        match &status.attached[..] {
            [attached] => Ok(attached.clone()),
            _ => anyhow::bail!("{:?}", status.failed),
        }
    }

    /// What is said of the pod's veth.
    fn text<'a>(&self, report: &'a Report) -> &'a str {
        let text = report.findings.iter().find_map(|finding| {
            let is_here = finding.subject == "interface";
            is_here.then_some(finding.text.as_str())
        });
        text.unwrap()
    }
}

/// A limit of locked memory below what is in use, for the whole process: before Linux 5.11 no table can be made
/// then without SYS_RESOURCE. The guests that have such kernels run one test at a time.
struct LockedMemory(u64, u64);

impl LockedMemory {
    fn limited() -> LockedMemory {
        let (soft, hard) = getrlimit(Resource::RLIMIT_MEMLOCK).unwrap();
        setrlimit(Resource::RLIMIT_MEMLOCK, 1 << 16, 1 << 16).unwrap();
        LockedMemory(soft, hard)
    }
}

impl Drop for LockedMemory {
    fn drop(&mut self) {
        setrlimit(Resource::RLIMIT_MEMLOCK, self.0, self.1).unwrap();
    }
}

/// Puts an empty folder over one, for the calling thread only.
fn hide(folder: &Path) {
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(NONE, "/", NONE, private, NONE).unwrap();
    mount(Some("none"), folder, Some("tmpfs"), MsFlags::empty(), NONE).unwrap();
}

fn has_tcx() -> bool {
    KernelVersion::current().unwrap() >= KernelVersion::new(6, 6, 0)
}

fn interface(hook: Hook) -> Interface {
    Interface {
        name: HOST_VETH.to_owned(),
        hook,
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}
