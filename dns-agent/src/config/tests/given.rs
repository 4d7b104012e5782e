//! Settings of the file, and how flags override them.

use super::*;

#[test]
fn flags_override_the_settings_of_the_file() {
    let settings = settings(
        "manifests: objects\n\
         cluster-domain: [a.example]\n\
         reverse: [10.0.0.0/8]\n\
         ttl: 30\n\
         pods: disabled\n\
         namespace: [one, two]\n\
         pass: [legacy.a.example]\n\
         labels: app in (web, db)\n\
         ignore-empty-service: true\n\
         endpoint-pod-names: true\n\
         interface: [eth0=tc]\n\
         allow: [10.0.0.0/8]\n\
         rate-limit: 0\n\
         serve: [10.0.0.10]\n\
         listen: ['[::1]:53', 127.0.0.1:53]\n\
         upstream: [192.0.2.1]\n\
         admin: 127.0.0.1:1\n\
         stale-after: 20s\n\
         capacity: 7\n",
        &["--ttl=1", "--namespace=three"],
    );
    let config = Config::new(settings).unwrap();
    assert!(
        matches!(&config.source, SourceConfig::Manifests(path) if path == Path::new("objects"))
    );
    assert_eq!(
        config.zone.cluster_domains,
        [Name::parse("a.example").unwrap()]
    );
    assert_eq!(
        config.zone.reverse,
        ["10.0.0.0/8".parse::<IpNet>().unwrap()]
    );
    assert_eq!(config.zone.ttl, 1);
    assert!(matches!(config.zone.pods, PodMode::Disabled));
    assert_eq!(config.zone.namespaces, ["three"]);
    assert_eq!(config.selectors.objects, "app in (web,db)".parse().unwrap());
    assert_eq!(config.zone.empty_services, EmptyServices::Ignored);
    assert_eq!(config.zone.endpoint_names, EndpointNames::Pod);
    assert_eq!(
        config.zone.passed,
        [Name::parse("legacy.a.example").unwrap()]
    );
    assert_eq!(
        config.interfaces,
        [Interface {
            name: "eth0".to_owned(),
            hook: HookChoice::Tc
        }]
    );
    assert_eq!(config.allow, ["10.0.0.0/8".parse::<IpNet>().unwrap()]);
    assert_eq!(config.rate_limit, 0);
    assert_eq!(config.served_addresses, ["10.0.0.10:53".parse().unwrap()]);
    assert_eq!(config.listen.len(), 2);
    assert_eq!(config.upstreams, ["192.0.2.1:53".parse().unwrap()]);
    assert_eq!(config.admin, "127.0.0.1:1".parse().unwrap());
    assert_eq!(config.stale_after, Duration::from_secs(20));
    assert_eq!(config.capacity, Some(7));
}

#[test]
fn errors_in_a_file_name_the_line() {
    #[track_caller]
    fn check(text: &str, reasons: &[&str]) {
        let error = format!(
            "{:#}",
            file::parse(text).expect_err("the file was accepted")
        );
        for reason in reasons {
            assert!(error.contains(reason), "no {reason:?} in: {error}");
        }
    }
    check(
        "ttl: 5\ncluster_domain: [a]\n",
        &["cluster_domain", "cluster-domain", "line 2"],
    );
    check("ttl: 5\npods: maybe\n", &["maybe", "line 2"]);
    check(
        "listen:\n- 127.0.0.1:53\n- 127.0.0.1\n",
        &["IP:PORT", "line 3"],
    );
    check("ttl: 5\nttl: 6\n", &["line 2"]);
    check("upstream: 192.0.2.1\n", &["sequence", "line 1"]);
    check("manifests: [\n", &["line"]);
}

#[test]
fn a_missing_file_is_named() {
    assert_refused(
        &["--config", "/nonexistent/agent.yaml"],
        &["/nonexistent/agent.yaml", "can't read"],
    );
}

#[test]
fn flags_turn_off_what_the_file_turned_on() {
    let file = "kubernetes: true\npersist: yes\ntrust-zone: True\nignore-empty-service: true\n\
                endpoint-pod-names: true\nserve-dns-endpoints: true\npass-deviations: true\n";
    let kept = settings(file, &[]);
    assert!(
        kept.kubernetes && kept.persist && kept.trust_zone && kept.pass_deviations,
        "not all switches are on: {kept:?}"
    );
    let off = settings(
        file,
        &[
            "--kubernetes=false",
            "--persist=false",
            "--trust-zone=false",
            "--ignore-empty-service=false",
            "--endpoint-pod-names=false",
            "--serve-dns-endpoints=false",
            "--pass-deviations=false",
        ],
    );
    assert!(!off.kubernetes && !off.persist && !off.trust_zone && !off.ignore_empty_service);
    assert!(!off.endpoint_pod_names && !off.serve_dns_endpoints && !off.pass_deviations);
    // A switch that is off does not contradict --manifests.
    parse_config(&["--manifests=m", "--trust-zone=false"]).unwrap();
    assert_refused(&["--persist=maybe"], &["--persist", "boolean"]);
    // The next word is not taken as the value of a switch.
    let args = run_args(&["--kubernetes", "--persist", "--ttl", "7"]).unwrap();
    assert!(args.settings().unwrap().kubernetes);
    run_args(&["--persist", "false"]).unwrap_err();
}

#[test]
fn a_list_of_flags_replaces_the_list_of_the_file() {
    let file = "namespace: [one, two]\ncluster-domain: [a.example]\nreverse: [10.0.0.0/8]\n";
    let settings = settings(file, &["--namespace=three", "--cluster-domain=b.example"]);
    assert_eq!(settings.namespace, [NamespaceName("three".to_owned())]);
    assert_eq!(settings.cluster_domain, ["b.example".parse().unwrap()]);
    assert_eq!(settings.reverse, ["10.0.0.0/8".parse().unwrap()]);
}

#[test]
fn settings_of_the_file_are_checked_like_flags() {
    let error = Config::new(settings("manifests: m\nmax-age: 5m\n", &[])).unwrap_err();
    assert!(error.to_string().contains("--max-age is about"), "{error}");
    let error = Config::new(settings("kubernetes: true\nttl: 5\n", &[])).unwrap_err();
    assert!(error.to_string().contains("--ttl is taken from"), "{error}");
}

#[test]
fn a_former_name_is_still_accepted() {
    assert!(settings("", &["--pass-departures"]).pass_deviations);
    assert!(settings("pass-departures: true\n", &[]).pass_deviations);
    let off = settings("pass-departures: true\n", &["--pass-deviations=false"]);
    assert!(!off.pass_deviations);
    let twice = file::parse("pass-departures: true\npass-deviations: true\n").unwrap_err();
    assert!(twice.to_string().contains("given twice"), "{twice}");
    assert!(twice.to_string().contains("line 2"), "{twice}");
}

#[test]
fn a_key_without_a_value_is_not_given() {
    assert_eq!(settings("node-name:\nttl:\nserve:\n", &[]).ttl, Ttl(5));
    assert!(settings("", &[]).serve.is_empty());
    assert!(settings("# only a comment\n", &[]).serve.is_empty());
}
