//! From facts to findings.

use std::collections::BTreeSet;

use super::{
    DnsEndpoints, Finding, Report, Verdict, config::Config, kernel::Kernel, rights::Rights, *,
};
use crate::datapath::{
    others::{Other, Owner},
    pins::Place,
    probe::{Code, Refusal, Trial},
};

use Verdict::{Fails, Limited, Works};

/// All that root has.
const ROOT: &str = "CapEff:\t000001ffffffffff\nSeccomp:\t0\n";
/// BPF, PERFMON, NET_ADMIN and NET_BIND_SERVICE: what the DaemonSet has.
const POD: &str = "CapEff:\t000000c000001400\nSeccomp:\t2\n";
/// What a container has that is given nothing.
const NOTHING: &str = "CapEff:\t00000000a80425fb\nSeccomp:\t2\n";
const FIRST: &str = "         0          0 4294967295\n";

#[track_caller]
fn expect(finding: &Finding, verdict: Verdict, words: &[&str]) {
    assert_eq!(finding.verdict, verdict, "{finding}");
    for word in words {
        assert!(finding.text.contains(word), "no {word:?} in: {finding}");
    }
}

fn refusal(error: i32) -> Refusal {
    Refusal {
        reason: format!("trying it: {}", std::io::Error::from_raw_os_error(error)),
        error: Some(error),
    }
}

fn trial(code: Result<Code, Refusal>) -> Result<Trial, Refusal> {
    Ok(Trial {
        memory_octets: 5_200_000,
        rate: 250,
        programs: vec![("zerohop_xdp", code.clone()), ("zerohop_tc", code)],
    })
}

#[test]
fn kernels_by_what_they_do_rather_than_by_number() {
    let works = trial(Ok(Code::Compiled));
    let refused = trial(Err(refusal(libc::EINVAL)));
    for (release, trial, verdict) in [
        ("6.18.44-fc-v657", &works, Works),
        ("5.10.0-46-cloud-amd64", &works, Works),
        ("5.10.0-46-cloud-amd64", &refused, Works),
        ("4.18.0-553.el8_10.x86_64", &works, Limited),
        ("5.4.0-1", &refused, Fails),
    ] {
        let finding = kernel::kernel(&Kernel::new(release), trial);
        expect(&finding, verdict, &[release]);
    }
}

#[test]
fn rights_that_are_missing_are_named() {
    expect(
        &rights::rights(&Rights::of(ROOT, FIRST), &Ok(true)),
        Works,
        &[],
    );
    expect(
        &rights::rights(&Rights::of(POD, FIRST), &Ok(false)),
        Works,
        &[],
    );
    let finding = rights::rights(&Rights::of(NOTHING, FIRST), &Ok(true));
    expect(&finding, Fails, &["BPF, NET_ADMIN, PERFMON"]);
    // SYS_ADMIN stands for BPF and PERFMON, and for NET_ADMIN where there is tcx.
    let admin = Rights::of(&format!("CapEff:\t{:016x}\n", 1u64 << 21), FIRST);
    expect(&rights::rights(&admin, &Ok(true)), Works, &["SYS_ADMIN"]);
    let finding = rights::rights(&admin, &Ok(false));
    expect(&finding, Fails, &["without NET_ADMIN:"]);
}

#[test]
fn a_refusal_is_told_with_its_remedy() {
    let new = Kernel::new("6.1.0");
    let old = Kernel::new("5.10.0");
    let inner = "0 100000 65536";
    let [eperm, eacces] = [libc::EPERM, libc::EACCES];
    for (kernel, status, users, error, words) in [
        (
            &new,
            NOTHING,
            FIRST,
            eperm,
            "it needs BPF, NET_ADMIN, PERFMON",
        ),
        (
            &new,
            NOTHING,
            FIRST,
            eacces,
            "it needs BPF, NET_ADMIN, PERFMON",
        ),
        (&new, ROOT, inner, eperm, "user namespace"),
        (&old, POD, FIRST, eperm, "SYS_RESOURCE"),
        (&new, POD, FIRST, eperm, "seccompProfile to Unconfined"),
        (&new, ROOT, FIRST, eperm, "security module"),
        (&new, ROOT, FIRST, libc::ENOSYS, "CONFIG_BPF_SYSCALL"),
        (&new, ROOT, FIRST, libc::ENOMEM, "memory"),
        (&new, ROOT, FIRST, eacces, "trying it"),
        (
            &Kernel::new("5.4.0"),
            ROOT,
            FIRST,
            libc::EINVAL,
            "5.10 or newer",
        ),
    ] {
        let rights = Rights::of(status, users);
        let findings = programs::programs(kernel, &rights, &Err(refusal(error)));
        let [finding] = &findings[..] else {
            panic!("{findings:?}");
        };
        expect(finding, Fails, &[words]);
    }
}

#[test]
fn programs_are_told_together() {
    let (kernel, rights) = (Kernel::new("6.1.0"), Rights::of(ROOT, FIRST));
    let found = |code| {
        let mut findings = programs::programs(&kernel, &rights, &trial(code));
        assert_eq!(findings.len(), 2, "{findings:?}");
        expect(&findings[0], Works, &["5.2 MB", "250 Hz"]);
        findings.remove(1)
    };
    expect(&found(Ok(Code::Compiled)), Works, &["2 of 2"]);
    expect(
        &found(Ok(Code::Interpreted)),
        Limited,
        &["bpf_jit_enable=1"],
    );
    let finding = found(Err(refusal(libc::EINVAL)));
    expect(&finding, Fails, &["zerohop_xdp, zerohop_tc refused"]);
    // The verifier may say very much.
    let long = Refusal {
        reason: "word ".repeat(10_000),
        error: Some(libc::EINVAL),
    };
    assert!(found(Err(long)).text.len() < 1000);
}

#[test]
fn a_configuration_explains_and_is_not_needed() {
    let whole = "CONFIG_BPF_SYSCALL=y\nCONFIG_NET_SCH_INGRESS=m\nCONFIG_NET_CLS_BPF=m\n";
    let whole = Config::parse("/boot/config", whole);
    let poor = "CONFIG_BPF_SYSCALL=y\n# CONFIG_NET_CLS_BPF is not set\nCONFIG_NET_SCH_INGRESS=y\n";
    let poor = Config::parse("/boot/config", poor);
    expect(
        &config::config(Some(&whole), &Ok(true)),
        Works,
        &["/boot/config"],
    );
    let modules = "NET_SCH_INGRESS and NET_CLS_BPF as modules";
    expect(&config::config(Some(&whole), &Ok(false)), Works, &[modules]);
    expect(&config::config(Some(&poor), &Ok(true)), Works, &[]);
    expect(
        &config::config(Some(&poor), &Ok(false)),
        Fails,
        &["CONFIG_NET_CLS_BPF"],
    );
    expect(&config::config(None, &Ok(false)), Works, &["NET_CLS_BPF"]);
    expect(&config::config(None, &Ok(true)), Works, &["tried"]);
}

#[test]
fn pins_are_needed_to_persist() {
    let unusable = Place::Unusable("/sys/fs/bpf is no BPF file system".to_owned());
    for (place, persistence, verdict, words) in [
        (
            &Place::Free,
            Persistence::Pinned,
            Works,
            "no agent has the hooks",
        ),
        (
            &Place::Held,
            Persistence::Pinned,
            Works,
            "An agent is running",
        ),
        (&unusable, Persistence::None, Works, "only with --persist"),
        (
            &unusable,
            Persistence::Pinned,
            Limited,
            "won't stay over a stop",
        ),
    ] {
        let asked = Asked {
            persistence,
            ..Asked::from(Settings::default())
        };
        expect(&pins::pins(place, &asked), verdict, &[words]);
    }
}

#[test]
fn cilium_without_kube_proxy_needs_the_endpoints() {
    let nobody = || BTreeSet::new();
    let cilium = || BTreeSet::from([Owner::Cilium]);
    let unknown = || Err("nobody answers".to_owned());
    let flag = "--serve-dns-endpoints";
    let (passed, served) = (DnsEndpoints::Passed, DnsEndpoints::Served);
    for (mode, owners, endpoints, verdict, words) in [
        (Ok("ipvs".to_owned()), cilium(), passed, Works, "mode ipvs"),
        (unknown(), nobody(), passed, Works, "not known"),
        (unknown(), cilium(), passed, Limited, flag),
        (unknown(), cilium(), served, Works, flag),
    ] {
        expect(&proxy::proxy(&mode, &owners, endpoints), verdict, &[words]);
    }
}

#[test]
fn other_peoples_programs() {
    let other = |number: u32| Other {
        interface: format!("veth{number}"),
        hook: "tcx ingress",
        id: Some(number),
        name: None,
        owner: None,
        priority: None,
        handle: None,
    };
    let many: Vec<Other> = (1..=12).map(other).collect();
    let findings = others::others(&many, &Rights::of(POD, FIRST), &Place::Held);
    assert_eq!(findings.len(), 12);
    expect(&findings[0], Works, &["veth1: the program (number 1)"]);
    expect(&findings[10], Works, &["2 more"]);
    expect(&findings[11], Works, &["CAP_SYS_ADMIN", "running agent"]);
    assert_eq!(
        others::others(&many, &Rights::of(ROOT, FIRST), &Place::Free).len(),
        11
    );

    let finding = others::network(&BTreeSet::from([Owner::Libxdp]));
    expect(&finding, Works, &[]);
    let finding = others::network(&BTreeSet::from([Owner::Aws]));
    expect(&finding, Limited, &["the AWS VPC CNI"]);
}

#[test]
fn a_report_sums_up() {
    let works = || Finding::works("kernel", "6.18");
    let limited = || Finding::limited("interface", "word ".repeat(40));
    let fails = || Finding::fails("rights", "without BPF");
    for (findings, verdict, sum) in [
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
            "not everything works here: 1 thing fails, with 1 limit",
        ),
    ] {
        let report = Report::new(findings);
        assert_eq!(report.verdict, verdict);
        let text = report.to_string();
        assert_eq!(text.lines().last(), Some(sum));
        assert!(text.lines().all(|line| line.len() <= 100), "{text}");
    }
    let text = works().to_string();
    assert_eq!(text, "works    kernel      6.18");
}
