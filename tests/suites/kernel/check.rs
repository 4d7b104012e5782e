//! Compares the report of `dns-agent check` with what this kernel then does.

use std::{path::Path, time::Duration};

use aya::util::KernelVersion;
use dns_agent::{
    check::{CheckRequest, CheckVerdict, Report, check_node},
    config::{HookChoice, Interface, RunSettings},
};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::resource::{Resource, getrlimit, setrlimit},
};
use rustix::thread::CapabilitySet;
use zerohop_datapath::{
    Datapath, DatapathConfig, InitialLease, PermittedClients, Persistence, StopMode,
    hooks::AttachedStatus,
    interfaces::Devices,
    pins::{Claim, Pins},
};
use zerohop_tests::{
    bpffs::Bpffs,
    capabilities,
    topology::{HOST_VETH, Topology},
};

use super::fixture::model;

/// An unused argument of mount(2).
const NONE: Option<&str> = None;

#[test]
fn hooks_attach_as_check_reports() {
    for (hook, expected) in [
        (HookChoice::Auto, "tc by "),
        (HookChoice::Xdp, "generic XDP, because"),
    ] {
        let node = ProbedNode::new();
        let (report, attached) = node.inside(|| (node.check(hook), node.attach(hook).unwrap()));
        println!("{report}");
        assert_eq!(report.verdict, CheckVerdict::Works, "{report}");
        let text = node.interface_finding(&report);
        assert!(text.contains(expected), "{hook:?}: {text}");
        // The link was pinned; a filter outlives the agent without a pin.
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
fn capabilities_suffice_where_check_reports_so() {
    // Before Linux 5.11 maps count as locked memory (RLIMIT_MEMLOCK).
    let locks_memory = KernelVersion::current().unwrap() < KernelVersion::new(5, 11, 0);
    // The kernel accepts SYS_ADMIN instead of BPF and PERFMON, and for programs and links instead
    // of NET_ADMIN. So every case but the last drops it too.
    for (dropped, works) in [
        (CapabilitySet::SYS_ADMIN, true),
        (
            CapabilitySet::SYS_ADMIN | CapabilitySet::SYS_RESOURCE,
            !locks_memory,
        ),
        (CapabilitySet::SYS_ADMIN | CapabilitySet::BPF, false),
        (CapabilitySet::SYS_ADMIN | CapabilitySet::PERFMON, false),
        (CapabilitySet::SYS_ADMIN | CapabilitySet::NET_ADMIN, false),
        // SYS_ADMIN suffices for links, but not for filters.
        (CapabilitySet::NET_ADMIN, has_tcx()),
    ] {
        let node = ProbedNode::new();
        // With SYS_RESOURCE aya raises the limit again.
        let is_limited = locks_memory && dropped.contains(CapabilitySet::SYS_RESOURCE);
        let _limit = is_limited.then(LockedMemoryLimit::lower);
        let (report, attached) = node.inside(|| {
            capabilities::drop_capabilities(dropped).unwrap();
            (node.check(HookChoice::Auto), node.attach(HookChoice::Auto))
        });
        println!("without {dropped:?}, attached: {attached:?}\n{report}");
        assert_eq!(attached.is_ok(), works, "without {dropped:?}: {attached:?}");
        let check_passes = report.verdict != CheckVerdict::Fails;
        assert_eq!(check_passes, works, "without {dropped:?}:\n{report}");
    }
}

#[test]
fn the_kernel_plane_works_without_kernel_btf() {
    let node = ProbedNode::new();
    let (report, attached) = node.inside(|| {
        hide_directory(Path::new("/sys/kernel/btf"));
        (node.check(HookChoice::Auto), node.attach(HookChoice::Auto))
    });
    let btf = report
        .findings
        .iter()
        .find(|finding| finding.subject == "BTF");
    assert!(btf.unwrap().text.contains("does not exist"), "{report}");
    assert_eq!(report.verdict, CheckVerdict::Works, "{report}");
    attached.unwrap();
}

/// A node with a pod and a BPF file system.
struct ProbedNode {
    topology: Topology,
    bpffs: Bpffs,
}

impl ProbedNode {
    fn new() -> ProbedNode {
        ProbedNode {
            topology: Topology::routed().unwrap(),
            bpffs: Bpffs::new().unwrap(),
        }
    }

    /// Runs a closure on a new thread in the node's network namespace.
    fn inside<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        self.topology.node.enter(act).unwrap()
    }

    fn check(&self, hook: HookChoice) -> Report {
        let request = CheckRequest {
            interfaces: vec![interface(hook)],
            persistence: Persistence::Pinned,
            bpffs: self.bpffs.path().into(),
            ..CheckRequest::from(RunSettings::default())
        };
        runtime().block_on(check_node(&request))
    }

    /// Attaches like an agent, detaches, and returns the status of the hook.
    fn attach(&self, hook: HookChoice) -> Result<AttachedStatus, String> {
        self.try_attach(hook).map_err(|error| format!("{error:#}"))
    }

    fn try_attach(&self, hook: HookChoice) -> anyhow::Result<AttachedStatus> {
        let config = DatapathConfig {
            object_file: dns_agent::KERNEL_OBJECT,
            interfaces: vec![interface(hook)],
            allow: Vec::new(),
            rate_limit: None,
            served_addresses: Vec::new(),
            clients: PermittedClients::Any,
            capacity: None,
            stale_after: Duration::from_secs(10),
            persistence: Persistence::Pinned,
            bpffs: self.bpffs.path().into(),
            steering: None,
        };
        let Claim::Claimed(pins) = Pins::claim(self.bpffs.path())? else {
            anyhow::bail!("another agent holds the hooks");
        };
        let mut devices = Devices::default();
        let devices = runtime().block_on(devices.list())?.to_vec();
        let mut datapath = Datapath::start(
            config,
            Some(pins),
            &devices,
            &model(),
            InitialLease::Running,
        )?;
        let status = datapath.status()?;
        datapath.stop(StopMode::Detach);
        match &status.attached[..] {
            [attached] => Ok(attached.clone()),
            others => anyhow::bail!(
                "{} hooks are attached instead of one; failed: {:?}",
                others.len(),
                status.failed
            ),
        }
    }

    /// The report's finding about the pod's veth.
    fn interface_finding<'a>(&self, report: &'a Report) -> &'a str {
        let text = report.findings.iter().find_map(|finding| {
            let is_interface = finding.subject == "interface";
            is_interface.then_some(finding.text.as_str())
        });
        text.unwrap()
    }
}

/// Limits the process's locked memory to 64 KiB, less than the tables need; restores the previous
/// limit when dropped. Before Linux 5.11 the tables can then not be created without SYS_RESOURCE.
/// In a guest the limit affects no other test, because guests run one test at a time.
struct LockedMemoryLimit {
    previous_soft: u64,
    previous_hard: u64,
}

impl LockedMemoryLimit {
    fn lower() -> LockedMemoryLimit {
        let (previous_soft, previous_hard) = getrlimit(Resource::RLIMIT_MEMLOCK).unwrap();
        setrlimit(Resource::RLIMIT_MEMLOCK, 1 << 16, 1 << 16).unwrap();
        LockedMemoryLimit {
            previous_soft,
            previous_hard,
        }
    }
}

impl Drop for LockedMemoryLimit {
    fn drop(&mut self) {
        setrlimit(
            Resource::RLIMIT_MEMLOCK,
            self.previous_soft,
            self.previous_hard,
        )
        .unwrap();
    }
}

/// Mounts an empty directory over another, for the calling thread only.
fn hide_directory(folder: &Path) {
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(NONE, "/", NONE, private, NONE).unwrap();
    mount(Some("none"), folder, Some("tmpfs"), MsFlags::empty(), NONE).unwrap();
}

fn has_tcx() -> bool {
    KernelVersion::current().unwrap() >= KernelVersion::new(6, 6, 0)
}

fn interface(hook: HookChoice) -> Interface {
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
