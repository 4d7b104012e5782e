//! The configuration that command lines result in, and the messages for wrong ones.

mod document;
mod given;

use std::path::Path;

use clap::Parser as _;
use zerohop_kubernetes::PodMode;
use zerohop_zone::Name;

use super::*;

/// The configuration of a `run` command line, or the whole error message.
fn parse_config(arguments: &[&str]) -> Result<Config, String> {
    let args = run_args(arguments).map_err(|error| error.to_string())?;
    Config::from_args(args).map_err(|error| format!("{error:#}"))
}

fn run_args(arguments: &[&str]) -> Result<RunArgs, clap::Error> {
    let line = ["dns-agent", "run"].iter().chain(arguments);
    let AgentCommand::Run(args) = Cli::try_parse_from(line)?.command else {
        panic!("`run` was not parsed as a run command")
    };
    Ok(*args)
}

/// The settings of a `run` command line with a configuration file of this text.
#[track_caller]
fn settings(file: &str, flags: &[&str]) -> RunSettings {
    let file = file::parse(file).unwrap();
    let flags = run_args(flags).unwrap().flags;
    flags.overlay(file).parse().unwrap()
}

#[track_caller]
fn assert_refused(arguments: &[&str], reasons: &[&str]) {
    let error = parse_config(arguments).expect_err("the settings were accepted");
    for reason in reasons {
        assert!(error.contains(reason), "no {reason:?} in: {error}");
    }
}

#[test]
fn defaults_are_filled_in() {
    let config = parse_config(&["--manifests", "objects"]).unwrap();
    assert!(
        matches!(&config.source, SourceConfig::Manifests(path) if path == Path::new("objects"))
    );
    assert_eq!(
        config.zone.cluster_domains,
        [Name::parse("cluster.local").unwrap()]
    );
    assert_eq!(config.zone.ttl, 5);
    assert!(matches!(config.zone.pods, PodMode::Insecure));
    assert!(config.zone.namespaces.is_empty() && config.zone.reverse.is_empty());
    assert_eq!(config.admin, "127.0.0.1:9153".parse().unwrap());
    assert_eq!(config.stale_after, Duration::from_secs(10));
    assert_eq!(config.network_policy, NetworkPolicy::Respect);
    assert_eq!(config.capacity, None);
    assert_eq!(config.rate_limit, 1000);
    assert_eq!(config.selectors, Selectors::default());
    assert_eq!(config.zone.empty_services, EmptyServices::Answered);
    assert_eq!(config.zone.endpoint_names, EndpointNames::Address);
    assert!(
        config.interfaces.is_empty()
            && config.served_addresses.is_empty()
            && config.listen.is_empty()
    );
}

#[test]
fn flags_are_parsed() {
    let config = parse_config(&[
        "--manifests=objects",
        "--cluster-domain",
        "a.example",
        "--cluster-domain",
        "b.example.",
        "--reverse",
        "10.96.0.1/12",
        "--reverse",
        "fd00::/64",
        "--ttl",
        "0",
        "--pods",
        "verified",
        "--namespace",
        "one",
        "--namespace",
        "two",
        "--labels",
        "app=web",
        "--ignore-empty-service",
        "--endpoint-pod-names",
        "--pass",
        "legacy.svc.a.example",
        "--pass",
        "5.96.10.in-addr.arpa",
        "--interface",
        "veth*",
        "--interface",
        "eth0=xdp-generic",
        "--interface",
        "lo=tc",
        "--interface",
        "eth1=xdp",
        "--interface",
        "pods=auto",
        "--allow",
        "10.0.0.0/8",
        "--network-policy",
        "ignore",
        "--serve",
        "10.96.0.10",
        "--serve",
        "10.96.0.10:5353",
        "--serve",
        "fd00::a",
        "--serve",
        "[fd00::a]",
        "--serve",
        "[fd00::a]:5353",
        "--listen",
        "[::1]:53",
        "--listen",
        "127.0.0.1:0",
        "--upstream",
        "192.0.2.1",
        "--admin",
        "0.0.0.0:80",
        "--stale-after",
        "1m30s",
        "--capacity",
        "1000",
    ])
    .unwrap();
    assert_eq!(config.zone.cluster_domains.len(), 2);
    assert_eq!(
        config.zone.reverse,
        [
            "10.96.0.0/12".parse::<IpNet>().unwrap(),
            "fd00::/64".parse().unwrap()
        ]
    );
    assert_eq!(config.network_policy, NetworkPolicy::Ignore);
    assert_eq!(config.zone.ttl, 0);
    assert!(matches!(config.zone.pods, PodMode::Verified));
    assert_eq!(config.zone.namespaces, ["one", "two"]);
    assert_eq!(config.selectors.objects, "app=web".parse().unwrap());
    assert_eq!(config.selectors.namespaces, Selector::default());
    assert_eq!(config.zone.empty_services, EmptyServices::Ignored);
    assert_eq!(config.zone.endpoint_names, EndpointNames::Pod);
    let passed: Vec<_> = config.zone.passed.iter().map(Name::to_string).collect();
    assert_eq!(passed, ["legacy.svc.a.example.", "5.96.10.in-addr.arpa."]);
    let hooks: Vec<_> = config
        .interfaces
        .iter()
        .map(|interface| (interface.name.as_str(), interface.hook))
        .collect();
    assert_eq!(
        hooks,
        [
            ("veth*", HookChoice::Auto),
            ("eth0", HookChoice::XdpGeneric),
            ("lo", HookChoice::Tc),
            ("eth1", HookChoice::Xdp),
            ("pods", HookChoice::Auto)
        ]
    );
    let serve: Vec<_> = config
        .served_addresses
        .iter()
        .map(ToString::to_string)
        .collect();
    // An address that is given twice stays twice.
    assert_eq!(
        serve,
        [
            "10.96.0.10:53",
            "10.96.0.10:5353",
            "[fd00::a]:53",
            "[fd00::a]:53",
            "[fd00::a]:5353"
        ]
    );
    assert_eq!(
        config.listen,
        ["[::1]:53".parse().unwrap(), "127.0.0.1:0".parse().unwrap()]
    );
    assert_eq!(config.upstreams, ["192.0.2.1:53".parse().unwrap()]);
    assert_eq!(config.stale_after, Duration::from_secs(90));
    assert_eq!(config.capacity, Some(1000));
}

#[test]
fn wrong_values_are_refused_with_advice() {
    assert_refused(&["--ttl", "3601"], &["--ttl", "from 0 to 3600"]);
    assert_refused(&["--ttl=-1"], &["--ttl"]);
    assert_refused(
        &["--pods", "maybe"],
        &["--pods", "disabled, insecure, verified"],
    );
    assert_refused(&["--reverse", "10.0.0.0"], &["--reverse", "ADDRESS/PREFIX"]);
    assert_refused(
        &["--interface", "eth0=dpdk"],
        &["--interface", "auto, xdp, xdp-generic or tc"],
    );
    assert_refused(&["--interface", "=tc"], &["name is missing"]);
    assert_refused(&["--listen", "127.0.0.1"], &["--listen", "IP:PORT"]);
    assert_refused(&["--node-ip", "0.0.0.0"], &["--node-ip", "192.0.2.7"]);
    assert_refused(&["--listen", "::1:53:99999"], &["[::1]:53"]);
    assert_refused(
        &["--upstream", "dns.example"],
        &["--upstream", "IP or IP:PORT"],
    );
    assert_refused(&["--serve", "0.0.0.0"], &["of a single server"]);
    assert_refused(&["--stale-after", "0s"], &["from 100ms to 1h"]);
    assert_refused(&["--stale-after", "soon"], &["10s or 1m30s"]);
    assert_refused(&["--namespace", "Prod"], &["a-z, 0-9 and -"]);
    assert_refused(&["--namespace=-a"], &["a-z, 0-9 and -"]);
    assert_refused(&["--cluster-domain", "."], &["the root"]);
    assert_refused(&["--cluster-domain", "a..b"], &["not a domain name"]);
    assert_refused(
        &["--labels", "app in web"],
        &["--labels", "list of values in parentheses", "app=web"],
    );
    assert_refused(&["--namespace-labels", ""], &["--namespace-labels", "key"]);
    assert_refused(&["--pass", "a..b"], &["not a domain name"]);
    assert_refused(&["--capacity", "0"], &["give one from 1 to"]);
    assert_refused(
        &["--probe", "coredns,dns.example,web.example"],
        &["--probe", "IP or IP:PORT"],
    );
}

#[test]
fn probes_have_different_labels_and_are_few() {
    let parse = |labels: &[&str]| {
        let probe = |label: &&str| format!("--probe={label},10.0.0.1,a.example,1");
        let flags: Vec<String> = labels.iter().map(probe).collect();
        let flags = flags.iter().map(String::as_str);
        parse_config(&flags.chain(["--manifests=m"]).collect::<Vec<_>>())
    };
    let config = parse(&["a", "A", "b"]).unwrap();
    let labels: Vec<_> = config.probes.iter().map(|it| it.label.as_str()).collect();
    assert_eq!(labels, ["a", "A", "b"]);
    let error = parse(&["a", "b", "a"]).unwrap_err();
    assert!(error.contains("two --probe have the label a:"), "{error}");
    let labels: Vec<String> = (0..17).map(|number| format!("l{number}")).collect();
    let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
    parse(&labels[..16]).unwrap();
    let error = parse(&labels).unwrap_err();
    assert!(error.contains("17 times: give at most 16"), "{error}");

    let file = "manifests: m\nprobe: ['a,10.0.0.1,a.example,7,A']\n";
    let config = Config::new(settings(file, &[])).unwrap();
    assert_eq!(config.probes[0].interval, Duration::from_secs(7));
}

#[test]
fn kubernetes_flags_configure_the_api() {
    let kubernetes = |flags: &[&str]| match parse_config(flags).unwrap().source {
        SourceConfig::Kubernetes(kubernetes) => kubernetes,
        other => panic!("the source is not the Kubernetes API: {other:?}"),
    };
    let key = |name: &str| ObjectKey::new("kube-system", name);
    let plain = kubernetes(&["--kubernetes", "--interface=pods"]);
    assert_eq!((plain.corefile, plain.dns_service), (None, None));
    assert_eq!(plain.dns_addresses, DnsAddresses::Service);
    assert_eq!(plain.without_corefile, WithoutCorefile::Pass);
    assert_eq!(plain.max_age, Some(Duration::from_secs(900)));
    let config = parse_config(&["--kubernetes"]).unwrap();
    assert_eq!(config.zone.endpoint_scope, EndpointScope::Headless);
    assert_eq!(config.zone.name_servers, NameServers::Passed);

    let given = kubernetes(&[
        "--kubeconfig=admin.conf",
        "--corefile=kube-system/rke2-coredns",
        "--dns-service=kube-system/rke2-dns",
        "--serve-dns-endpoints",
        "--cluster-dns=10.43.0.10",
        "--node-name=node-1",
        "--max-age=0",
        "--trust-zone",
        "--ttl=30",
    ]);
    assert_eq!(given.kubeconfig.as_deref(), Some(Path::new("admin.conf")));
    assert_eq!(given.corefile, Some(key("rke2-coredns")));
    assert_eq!(given.dns_service, Some(key("rke2-dns")));
    assert_eq!(given.dns_addresses, DnsAddresses::ServiceAndEndpoints);
    assert_eq!(given.cluster_dns, ["10.43.0.10:53".parse().unwrap()]);
    assert_eq!(given.node_name.as_deref(), Some("node-1"));
    assert_eq!(given.max_age, None);
    assert_eq!(given.without_corefile, WithoutCorefile::Trust);

    for (flag, hint) in [
        ("--max-age=30s", "2m or more"),
        ("--corefile=coredns", "NAMESPACE/NAME"),
        ("--dns-service=a/b/c", "NAMESPACE/NAME"),
    ] {
        let text = format!("{:#}", parse_config(&["--kubernetes", flag]).unwrap_err());
        assert!(text.contains(hint), "{text}");
    }
}

#[test]
fn contradicting_flags_are_refused() {
    assert_refused(&[], &["--kubernetes", "--manifests PATH"]);
    assert_refused(
        &["--manifests=m", "--kubernetes"],
        &["--manifests and --kubernetes are two sources"],
    );
    assert_refused(
        &["--manifests=m", "--max-age=5m"],
        &["--max-age is about the Kubernetes API"],
    );
    assert_refused(
        &["--kubernetes", "--ttl=5"],
        &["--ttl is taken from CoreDNS's Corefile", "--trust-zone"],
    );
    assert_refused(
        &["--kubernetes", "--serve=10.0.0.1", "--serve-dns-endpoints"],
        &["contradict each other"],
    );
    assert_refused(
        &[
            "--kubernetes",
            "--trust-zone",
            "--ignore-empty-service",
            "--endpoints=headless",
        ],
        &["--endpoints all"],
    );
    assert_refused(
        &["--manifests", "m", "--interface", "eth0"],
        &["--interface needs --serve"],
    );
    assert_refused(
        &["--manifests=m", "--namespace=a", "--namespace-labels=b"],
        &["--namespace and --namespace-labels contradict each other"],
    );
    assert_refused(
        &[
            "--manifests",
            "m",
            "--serve",
            "10.0.0.1",
            "--interface",
            "a",
            "--interface",
            "a=tc",
        ],
        &["a is given twice"],
    );
}

#[test]
fn name_servers_have_the_served_addresses_and_the_addresses_of_the_node() {
    let config = parse_config(&[
        "--manifests=m",
        "--serve=10.96.0.10",
        "--serve=[fd00::a]:5353",
        "--listen=169.254.20.10:53",
        "--node-ip=192.0.2.7",
        "--node-ip=2001:db8::1",
    ])
    .unwrap();
    // The address of `--listen` is in neither list.
    let texts = |addresses: &[IpAddr]| {
        let texts: Vec<_> = addresses.iter().map(ToString::to_string).collect();
        texts
    };
    assert_eq!(
        texts(&config.zone.served_addresses),
        ["10.96.0.10", "fd00::a"]
    );
    assert_eq!(
        texts(&config.zone.name_server_addresses),
        ["192.0.2.7", "2001:db8::1"]
    );
}

#[test]
fn only_reverse_names_and_names_inside_a_cluster_domain_may_be_passed() {
    let domains = ["--manifests=m", "--cluster-domain=a.b.c"];
    for (name, reasons) in [
        ("a.b.c", ["would pass all", "below it"]),
        (
            "c",
            ["would pass all of --cluster-domain a.b.c.", "below it"],
        ),
        (".", ["would pass all", "below it"]),
        ("x.b.c", ["below no --cluster-domain", "leave it out"]),
        (
            "cluster.local",
            ["below no --cluster-domain", "leave it out"],
        ),
    ] {
        assert_refused(&[&domains[..], &["--pass", name]].concat(), &reasons);
    }
    parse_config(&[&domains[..], &["--pass=x.a.b.c", "--pass=10.in-addr.arpa"]].concat()).unwrap();
}

#[test]
fn served_addresses_without_an_interface_are_accepted() {
    let config = parse_config(&["--manifests", "m", "--serve", "10.0.0.1"]).unwrap();
    assert!(config.interfaces.is_empty());
}

#[test]
fn check_accepts_all_flags_of_run_and_its_help_shows_only_flags_with_an_effect() {
    let line = |flags: &[&str]| {
        let words = ["dns-agent", "check"];
        Cli::try_parse_from(words.iter().chain(flags))
    };
    let cli = line(&["--json", "--kubernetes", "--ttl=7", "--interface=eth0=xdp"]).unwrap();
    let AgentCommand::Check(args) = cli.command else {
        panic!("`check` was not parsed as a check command")
    };
    assert!(args.json);
    let settings = args.run.settings().unwrap();
    assert_eq!(settings.interface[0].hook, HookChoice::Xdp);
    let help = line(&["--help"]).unwrap_err().to_string();
    for shown in ["--json", "--config", "--interface", "--allow", "--bpffs"] {
        assert!(help.contains(shown), "no {shown} in: {help}");
    }
    assert!(help.contains("Exit code: 0"), "{help}");
    for hidden in ["--ttl", "--upstream", "--capacity"] {
        assert!(!help.contains(hidden), "{hidden} in: {help}");
    }
}

#[test]
fn upstreams_over_tls_have_a_name() {
    let parse = |text: &str| text.parse::<OutsideUpstream>();
    for (text, address) in [
        ("tls://192.0.2.53#dns.example", "192.0.2.53:853"),
        ("tls://192.0.2.53:8853#dns.example", "192.0.2.53:8853"),
        (
            "tls://[2001:db8::53]:8853#dns.example",
            "[2001:db8::53]:8853",
        ),
        ("tls://2001:db8::53#dns.example", "[2001:db8::53]:853"),
    ] {
        let server = parse(text).expect(text);
        assert_eq!(server.address.to_string(), address);
        assert_eq!(server.tls_name.as_deref(), Some("dns.example"), "{text}");
    }
    assert_eq!(parse("192.0.2.53").unwrap().tls_name, None);
    for text in [
        "tls://192.0.2.53",
        "tls://192.0.2.53#",
        "tls://dns.example#x",
    ] {
        let error = parse(text).expect_err(text);
        assert!(error.contains("tls://IP#NAME"), "{text}: {error}");
    }
    let error = parse("tls://192.0.2.53:0#x").unwrap_err();
    assert!(error.contains("of a single server"), "{error}");
}

#[test]
fn link_local_servers_need_an_interface() {
    let parse = |text: &str| text.parse::<Upstream>().map(|Upstream(address)| address);
    // Every network namespace has the interface `lo` with index 1.
    let expected = "[fe80::1%1]:53".parse().unwrap();
    for text in [
        "fe80::1%lo",
        "[fe80::1%lo]",
        "[fe80::1%lo]:53",
        "fe80::1%1",
        "[fe80::1%1]:53",
    ] {
        assert_eq!(parse(text), Ok(expected), "{text}");
    }
    assert_eq!(parse("[fe80::1%lo]:5353").unwrap().port(), 5353);
    for (text, reason) in [
        ("fe80::1", "fe80::1%eth0 or [fe80::1%eth0]:53"),
        ("[fe80::1]:5353", "[fe80::1%eth0]:5353"),
        // Link-local addresses are fe80::/10, from `fe80::` to `febf:…`.
        ("febf::1", "link-local"),
        (
            "fe80::1%no-such-one",
            "no interface is called \"no-such-one\"",
        ),
        ("fe80::1%4294967290", "no interface"),
        ("fe80::1%", "no interface"),
        ("fd00::1%lo", "leave %lo out"),
        ("10.0.0.1%lo", "is not a server's address"),
        ("[fe80::1%lo", "is not a server's address"),
        ("[fe80::1%lo]:dns", "is not a server's address"),
        ("[fe80::1%lo]:0", "of a single server"),
    ] {
        let error = parse(text).expect_err(text);
        assert!(error.contains(reason), "{text}: {error}");
    }
    for (text, right) in [
        ("10.96.0.10", "10.96.0.10:53"),
        ("10.96.0.10:5353", "10.96.0.10:5353"),
        ("fd00::a", "[fd00::a]:53"),
        ("[fd00::a]", "[fd00::a]:53"),
        ("[fd00::a]:54", "[fd00::a]:54"),
    ] {
        assert_eq!(parse(text), Ok(right.parse().unwrap()), "{text}");
    }
    for flag in ["--upstream", "--cluster-dns"] {
        assert_refused(
            &["--kubernetes", flag, "fe80::1"],
            &[flag, "link-local", "%eth0"],
        );
        parse_config(&["--kubernetes", flag, "fe80::1%lo"]).unwrap();
    }
    assert_refused(
        &["--manifests", "objects", "--listen", "[fe80::1]:53"],
        &["--listen", "[fe80::1%eth0]:53"],
    );
    let listen = ["--manifests", "objects", "--listen", "[fe80::1%lo]:53"];
    assert_eq!(parse_config(&listen).unwrap().listen, [expected]);
}

#[test]
fn a_served_address_is_refused_as_an_upstream_without_kubernetes() {
    let served = ["--serve", "10.96.0.10", "--upstream", "10.96.0.10"];
    assert_refused(
        &[&["--manifests", "objects"], &served[..]].concat(),
        &["--upstream 10.96.0.10:53", "--serve"],
    );
    // With --kubernetes, the served address belongs to the cluster's DNS, so CoreDNS answers there.
    parse_config(&[&["--kubernetes"], &served[..]].concat()).unwrap();
    let another = ["--serve", "10.96.0.10", "--upstream", "10.96.0.10:5353"];
    parse_config(&[&["--manifests", "objects"], &another[..]].concat()).unwrap();
}
