//! Findings that follow from facts.

use std::collections::BTreeSet;

use CheckVerdict::{Fails, Limited, Works};
use zerohop_datapath::{
    foreign_programs::{ForeignProgram, Owner},
    pins::PinFolderState,
    probe::{ExecutionMode, KernelRefusal, Trial},
};

use super::{
    CheckVerdict, DnsEndpoints, Finding, Report, kernel::KernelVersion,
    kernel_config::KernelConfig, rights::ProcessRights, *,
};

/// All capabilities, as root has them.
const ROOT: &str = "CapEff:\t000001ffffffffff\nSeccomp:\t0\n";
/// BPF, PERFMON, NET_ADMIN and NET_BIND_SERVICE, as the DaemonSet has them.
const POD: &str = "CapEff:\t000000c000001400\nSeccomp:\t2\n";
/// A container's default capabilities. They include none that the kernel plane needs.
const DEFAULT: &str = "CapEff:\t00000000a80425fb\nSeccomp:\t2\n";
/// The `uid_map` of a process in the initial user namespace.
const INITIAL: &str = "         0          0 4294967295\n";

#[track_caller]
fn expect(finding: &Finding, verdict: CheckVerdict, words: &[&str]) {
    assert_eq!(finding.verdict, verdict, "{finding}");
    for word in words {
        assert!(finding.text.contains(word), "no {word:?} in: {finding}");
    }
}

fn refusal(error: i32) -> KernelRefusal {
    KernelRefusal {
        reason: format!("trying it: {}", std::io::Error::from_raw_os_error(error)),
        error: Some(error),
    }
}

fn trial(code: Result<ExecutionMode, KernelRefusal>) -> Result<Trial, KernelRefusal> {
    Ok(Trial {
        memory_bytes: 5_200_000,
        rate: 250,
        programs: vec![("zerohop_xdp", code.clone()), ("zerohop_tc", code)],
    })
}

#[test]
fn an_old_kernel_fails_only_if_it_refuses_the_programs() {
    let works = trial(Ok(ExecutionMode::Compiled));
    let refused = trial(Err(refusal(libc::EINVAL)));
    for (release, trial, verdict) in [
        ("6.18.44-fc-v657", &works, Works),
        ("5.10.0-46-cloud-amd64", &works, Works),
        // Refused programs are a finding of their own.
        ("5.10.0-46-cloud-amd64", &refused, Works),
        ("4.18.0-553.el8_10.x86_64", &works, Limited),
        ("5.4.0-1", &refused, Fails),
    ] {
        let finding = kernel::kernel(&KernelVersion::new(release), trial);
        expect(&finding, verdict, &[release]);
    }
}

#[test]
fn missing_capabilities_are_listed() {
    expect(
        &rights::rights(&ProcessRights::parse(ROOT, INITIAL), &Ok(true)),
        Works,
        &[],
    );
    expect(
        &rights::rights(&ProcessRights::parse(POD, INITIAL), &Ok(false)),
        Works,
        &[],
    );
    let finding = rights::rights(&ProcessRights::parse(DEFAULT, INITIAL), &Ok(true));
    expect(&finding, Fails, &["BPF, NET_ADMIN, PERFMON"]);
    // SYS_ADMIN includes BPF and PERFMON; with tcx NET_ADMIN is not needed.
    let admin = ProcessRights::parse(&format!("CapEff:\t{:016x}\n", 1u64 << 21), INITIAL);
    expect(&rights::rights(&admin, &Ok(true)), Works, &["SYS_ADMIN"]);
    let finding = rights::rights(&admin, &Ok(false));
    expect(&finding, Fails, &["has no NET_ADMIN:"]);
}

#[test]
fn a_refusal_is_reported_with_its_remedy() {
    let new = KernelVersion::new("6.1.0");
    let old = KernelVersion::new("5.10.0");
    // The `uid_map` of a rootless container.
    let rootless = "0 100000 65536";
    let [eperm, eacces] = [libc::EPERM, libc::EACCES];
    for (kernel, status, users, error, words) in [
        (
            &new,
            DEFAULT,
            INITIAL,
            eperm,
            "add the capabilities BPF, NET_ADMIN, PERFMON",
        ),
        (
            &new,
            DEFAULT,
            INITIAL,
            eacces,
            "add the capabilities BPF, NET_ADMIN, PERFMON",
        ),
        (&new, ROOT, rootless, eperm, "user namespace"),
        (&old, POD, INITIAL, eperm, "SYS_RESOURCE"),
        (&new, POD, INITIAL, eperm, "seccompProfile to Unconfined"),
        (&new, ROOT, INITIAL, eperm, "security module"),
        (&new, ROOT, INITIAL, libc::ENOSYS, "CONFIG_BPF_SYSCALL"),
        (&new, ROOT, INITIAL, libc::ENOMEM, "memory"),
        (&new, ROOT, INITIAL, eacces, "trying it"),
        (
            &KernelVersion::new("5.4.0"),
            ROOT,
            INITIAL,
            libc::EINVAL,
            "5.10 or newer",
        ),
    ] {
        let rights = ProcessRights::parse(status, users);
        let findings = programs::programs(kernel, &rights, &Err(refusal(error)));
        let [finding] = &findings[..] else {
            panic!("not exactly one finding: {findings:?}");
        };
        expect(finding, Fails, &[words]);
    }
}

#[test]
fn programs_with_the_same_result_share_a_finding() {
    let (kernel, rights) = (
        KernelVersion::new("6.1.0"),
        ProcessRights::parse(ROOT, INITIAL),
    );
    let found = |code| {
        let mut findings = programs::programs(&kernel, &rights, &trial(code));
        // One about the tables, and one about the programs.
        assert_eq!(findings.len(), 2, "{findings:?}");
        expect(&findings[0], Works, &["5.2 MB", "250 Hz"]);
        findings.remove(1)
    };
    expect(&found(Ok(ExecutionMode::Compiled)), Works, &["2 of 2"]);
    expect(
        &found(Ok(ExecutionMode::Interpreted)),
        Limited,
        &["bpf_jit_enable=1"],
    );
    let finding = found(Err(refusal(libc::EINVAL)));
    expect(
        &finding,
        Fails,
        &["the kernel refused zerohop_xdp, zerohop_tc:"],
    );
    // The verifier's log may be very long. At most `MAX_REFUSAL` bytes of it are shown: 600.
    let long = KernelRefusal {
        reason: "word ".repeat(10_000),
        error: Some(libc::EINVAL),
    };
    assert!(found(Err(long)).text.len() < 1000);
}

#[test]
fn missing_kernel_options_fail_but_an_unreadable_configuration_does_not() {
    let complete = "CONFIG_BPF_SYSCALL=y\nCONFIG_NET_SCH_INGRESS=m\nCONFIG_NET_CLS_BPF=m\n";
    let complete = KernelConfig::parse("/boot/config", complete);
    let incomplete =
        "CONFIG_BPF_SYSCALL=y\n# CONFIG_NET_CLS_BPF is not set\nCONFIG_NET_SCH_INGRESS=y\n";
    let incomplete = KernelConfig::parse("/boot/config", incomplete);
    expect(
        &kernel_config::config(Some(&complete), &Ok(true)),
        Works,
        &["/boot/config"],
    );
    let modules = "NET_SCH_INGRESS and NET_CLS_BPF as modules";
    expect(
        &kernel_config::config(Some(&complete), &Ok(false)),
        Works,
        &[modules],
    );
    expect(
        &kernel_config::config(Some(&incomplete), &Ok(true)),
        Works,
        &[],
    );
    expect(
        &kernel_config::config(Some(&incomplete), &Ok(false)),
        Fails,
        &["CONFIG_NET_CLS_BPF"],
    );
    expect(
        &kernel_config::config(None, &Ok(false)),
        Works,
        &["NET_CLS_BPF"],
    );
    expect(&kernel_config::config(None, &Ok(true)), Works, &["tried"]);
}

#[test]
fn an_unusable_pin_folder_limits_only_persistent_hooks() {
    let unusable = PinFolderState::Unusable("/sys/fs/bpf is not a BPF file system".to_owned());
    for (pin_folder, persistence, verdict, words) in [
        (
            &PinFolderState::Free,
            Persistence::Pinned,
            Works,
            "no agent holds the hooks",
        ),
        (
            &PinFolderState::Held,
            Persistence::Pinned,
            Works,
            "An agent is running",
        ),
        (
            &unusable,
            Persistence::UntilAgentStops,
            Works,
            "only with --persist",
        ),
        (
            &unusable,
            Persistence::Pinned,
            Limited,
            "won't outlive the agent",
        ),
    ] {
        let request = CheckRequest {
            persistence,
            ..CheckRequest::from(RunSettings::default())
        };
        expect(&pins::pins(pin_folder, &request), verdict, &[words]);
    }
}

#[test]
fn cilium_without_kube_proxy_needs_serve_dns_endpoints() {
    let no_owner = || BTreeSet::new();
    let cilium = || BTreeSet::from([Owner::Cilium]);
    let unknown = || Err("no answer".to_owned());
    let flag = "--serve-dns-endpoints";
    let (passed, served) = (DnsEndpoints::Passed, DnsEndpoints::Served);
    for (mode, owners, endpoints, verdict, words) in [
        (Ok("ipvs".to_owned()), cilium(), passed, Works, "mode ipvs"),
        (unknown(), no_owner(), passed, Works, "not known"),
        (unknown(), cilium(), passed, Limited, flag),
        (unknown(), cilium(), served, Works, flag),
    ] {
        expect(&proxy::proxy(&mode, &owners, endpoints), verdict, &[words]);
    }
}

#[test]
fn foreign_programs_are_listed() {
    let other = |number: u32| ForeignProgram {
        interface: format!("veth{number}"),
        hook: "tcx ingress",
        id: Some(number),
        name: None,
        owner: None,
        priority: None,
        handle: None,
    };
    let many: Vec<ForeignProgram> = (1..=12).map(other).collect();
    let findings = foreign_programs::foreign_programs(
        &many,
        &ProcessRights::parse(POD, INITIAL),
        &PinFolderState::Held,
    );
    // Ten programs, the number of further programs, and why there are no names.
    assert_eq!(findings.len(), 12, "{findings:?}");
    expect(&findings[0], Works, &["veth1: the program (ID 1)"]);
    expect(&findings[10], Works, &["2 more"]);
    expect(&findings[11], Works, &["CAP_SYS_ADMIN", "running agent"]);
    // Root would see the names, so the last finding is missing.
    assert_eq!(
        foreign_programs::foreign_programs(
            &many,
            &ProcessRights::parse(ROOT, INITIAL),
            &PinFolderState::Free
        )
        .len(),
        11
    );

    let finding = foreign_programs::pod_network(&BTreeSet::from([Owner::Libxdp]));
    expect(&finding, Works, &[]);
    let finding = foreign_programs::pod_network(&BTreeSet::from([Owner::Aws]));
    expect(&finding, Limited, &["the AWS VPC CNI"]);
    assert!(!finding.text.contains("Hubble"), "{finding:?}");
    let finding = foreign_programs::pod_network(&BTreeSet::from([Owner::Cilium]));
    let words = [
        "answers no pod",
        "--listen",
        "policies",
        "toFQDNs",
        "Hubble",
    ];
    expect(&finding, Limited, &words);
}

#[test]
fn a_report_has_a_summary() {
    let works = || Finding::works("kernel", "6.18");
    // 200 bytes of text, so it takes several lines.
    let limited = || Finding::limited("interface", "word ".repeat(40));
    let fails = || Finding::fails("rights", "without BPF");
    for (findings, verdict, summary) in [
        (vec![works()], Works, "the kernel plane works here"),
        (
            vec![works(), limited()],
            Limited,
            "the kernel plane works here, with 1 limit",
        ),
        (
            vec![limited(), limited()],
            Limited,
            "the kernel plane works here, with 2 limits",
        ),
        (
            vec![works(), fails(), limited()],
            Fails,
            "not everything works here: 1 check fails, with 1 limit",
        ),
    ] {
        let report = Report::new(findings);
        assert_eq!(report.verdict, verdict, "{summary}");
        let text = report.to_string();
        assert_eq!(text.lines().last(), Some(summary));
        assert!(text.lines().all(|line| line.len() <= 100), "{text}");
    }
    let text = works().to_string();
    assert_eq!(text, "works    kernel      6.18");
}
