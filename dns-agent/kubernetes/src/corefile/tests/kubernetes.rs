//! The options and zones of the `kubernetes` plugin.

use crate::{EmptyServices, EndpointNames, PodMode, Selectors};

use super::{AbsentNames, AdoptedSettings, ZonalNames, answered, read_text, refusal, zone};

fn kubernetes(zones: &str, options: &str) -> String {
    format!(".:53 {{\nkubernetes {zones} {{\n{options}\n}}\n}}\n")
}

#[test]
fn defaults_are_those_of_coredns() {
    let bare = read_text("cluster.local {\nkubernetes\n}\n");
    let adopted = AdoptedSettings {
        zones: vec![zone("cluster.local", AbsentNames::Denied)],
        passed: Vec::new(),
        passed_types: Vec::new(),
        changed_answers: Vec::new(),
        signed_zones: Vec::new(),
        rewritten: Vec::new(),
        ttl: 5,
        uncapped_ttl: None,
        // CoreDNS's TTL of `dns-version`. Only the plugin `cache` lowers it.
        version_ttl: 28800,
        pods: PodMode::Disabled,
        namespaces: Vec::new(),
        selectors: Selectors::default(),
        empty_services: EmptyServices::Answered,
        endpoint_names: EndpointNames::Address,
        zonal_names: ZonalNames::Absent,
    };
    assert_eq!(bare.adopted, Some(adopted));
}

#[test]
fn every_option_is_adopted() {
    let text = kubernetes(
        "cluster.local other.local:53 10.96.0.0/15",
        "    ttl 0
    pods verified
    namespaces shop pay
    namespaces web
    labels env in (prod, test),
    labels app=web, tier != x
    endpoint_pod_names
    ignore empty_service
    zonal
    fallthrough other.local
    startup_timeout 1m30s
    apiserver_qps 10.5
    apiserver_burst 20
    apiserver_max_inflight 3",
    );
    // The first `labels` has a surplus comma.
    let reason = "line 7: \"env in (prod, test),\" is not a label selector";
    assert!(
        refusal(&text).starts_with(reason),
        "another reason: {}",
        refusal(&text)
    );
    let text = text.replace("(prod, test),", "(prod, test)");
    let adopted = AdoptedSettings {
        zones: vec![
            zone("cluster.local", AbsentNames::Denied),
            zone("other.local", AbsentNames::Passed),
            zone("96.10.in-addr.arpa", AbsentNames::Denied),
            zone("97.10.in-addr.arpa", AbsentNames::Denied),
        ],
        passed: Vec::new(),
        passed_types: Vec::new(),
        changed_answers: Vec::new(),
        signed_zones: Vec::new(),
        rewritten: Vec::new(),
        ttl: 0,
        uncapped_ttl: None,
        version_ttl: 28800,
        pods: PodMode::Verified,
        namespaces: ["shop", "pay", "web"].map(str::to_owned).to_vec(),
        selectors: Selectors {
            objects: "app=web,tier!=x".parse().unwrap(),
            ..Selectors::default()
        },
        empty_services: EmptyServices::Ignored,
        endpoint_names: EndpointNames::Pod,
        zonal_names: ZonalNames::Answered,
    };
    assert_eq!(read_text(&text).adopted, Some(adopted));
    let labels = read_text(&kubernetes("cluster.local", "namespace_labels dns=on"));
    let selectors = labels.adopted.unwrap().selectors;
    assert_eq!(selectors.namespaces, "dns=on".parse().unwrap());
}

#[test]
fn unknown_options_make_everything_pass() {
    for (options, reason) in [
        (
            "endpoint https://api",
            "`endpoint` may make CoreDNS read another API server than Zerohop does",
        ),
        (
            "tls a b c",
            "`tls` may make CoreDNS read another API server than Zerohop does",
        ),
        (
            "kubeconfig x",
            "`kubeconfig` may make CoreDNS read another API server than Zerohop does",
        ),
        (
            "noendpoints",
            "`noendpoints` removes names that Zerohop answers",
        ),
        (
            "upstream",
            "`upstream` is an option that CoreDNS removed in version 1.7",
        ),
        ("ttl", "`ttl` is not an option that Zerohop understands"),
        ("ttl 3601", "`3601` is not a TTL from 0 to 3600 seconds"),
        ("ttl -1", "`-1` is not a TTL from 0 to 3600 seconds"),
        (
            "ttl {$TTL}",
            "`ttl {$TTL}` includes text that Zerohop can't read",
        ),
        (
            "import x",
            "`import x` includes text that Zerohop can't read (it isn't known in which directory the \
             Corefile is)",
        ),
        (
            "pods maybe",
            "`maybe` is not one of the `pods` modes disabled, insecure and verified",
        ),
        ("pods", "`pods` is not an option that Zerohop understands"),
        (
            "namespaces",
            "`namespaces` is not an option that Zerohop understands",
        ),
        (
            "ignore",
            "`ignore` is not an option that Zerohop understands",
        ),
        (
            "ignore all",
            "`ignore all` is not an option that Zerohop understands",
        ),
        (
            "fallthrough a..b",
            "`a..b` is not a zone that Zerohop understands",
        ),
        (
            "multicluster x.local",
            "`multicluster` is for x.local., which is not one of the plugin's zones",
        ),
    ] {
        let reason = format!("line 3: {reason}, so everything passes");
        assert_eq!(refusal(&kubernetes("cluster.local", options)), reason);
    }
    let both = kubernetes("cluster.local", "namespaces x\nnamespace_labels dns=on");
    let reason =
        "line 2: `namespaces` and `namespace_labels` can't be combined, so everything passes";
    assert_eq!(refusal(&both), reason);
}

#[test]
fn zones_that_cannot_be_answered_pass() {
    for (zones, options, wanted) in [
        ("cluster.local cluster.local.", "", "cluster.local."),
        (
            "CLUSTER.local ten.cluster.local",
            "",
            "cluster.local. -ten.cluster.local.",
        ),
        (".", "", "nothing"),
        ("cluster.local .", "", "nothing"),
        ("cluster.local arpa", "", "nothing"),
        ("10.0.0.0/8", "", "nothing"),
        ("in-addr.arpa", "", "nothing"),
        ("cluster.local ::/0", "", "nothing"),
        ("cluster.local fd00::/8", "", "cluster.local. d.f.ip6.arpa."),
        // PTR records point into in-addr.arpa, because CoreDNS considers it a cluster domain.
        ("in-addr.arpa cluster.local", "", "cluster.local."),
        (
            "10.in-addr.arpa cluster.local",
            "",
            "10.in-addr.arpa. cluster.local.",
        ),
        (
            "cluster.local",
            "fallthrough a.cluster.local b.local",
            "cluster.local. -a.cluster.local.",
        ),
        (
            "a.local b.local ip6.arpa",
            "multicluster b.local",
            "a.local. ip6.arpa.",
        ),
        (
            "a.local b.local ip6.arpa",
            "multicluster a.local",
            "b.local.",
        ),
        ("a.local", "multicluster", "a.local."),
        (r"a\.local", "", "nothing"),
        ("a.local/b", "", "nothing"),
        ("ä.local", "", "nothing"),
    ] {
        let text = kubernetes(zones, options);
        assert_eq!(answered(&text), wanted, "{zones} {options}");
    }
    let reasons = read_text(&kubernetes(
        "a.local b.local ip6.arpa",
        "multicluster a.local",
    ))
    .reasons;
    let expected = [
        "line 2: Zerohop answers b.local., with NXDOMAIN for names that `kubernetes` doesn't have",
        "line 2: PTR records point into a.local., which Zerohop doesn't answer as a cluster domain, so ip6.arpa. passes",
        "line 3: `multicluster` adds Services of other clusters, so a.local. passes",
    ];
    assert_eq!(reasons, expected);
}

#[test]
fn absent_names_pass_in_fallthrough_zones() {
    let absent = |options| {
        let adopted = read_text(&kubernetes("cluster.local", options)).adopted;
        adopted.unwrap().zones[0].absent
    };
    assert_eq!(absent(""), AbsentNames::Denied);
    assert_eq!(absent("fallthrough"), AbsentNames::Passed);
    assert_eq!(absent("fallthrough local"), AbsentNames::Passed);
    assert_eq!(absent("fallthrough in-addr.arpa"), AbsentNames::Denied);
    // The last `fallthrough` counts.
    assert_eq!(
        absent("fallthrough\nfallthrough ip6.arpa"),
        AbsentNames::Denied
    );
}

#[test]
fn many_zones_are_not_all_listed() {
    // The network has 16 reverse zones.
    let reasons = read_text(&kubernetes("cluster.local 10.96.0.0/12", "")).reasons;
    let reason = "line 2: Zerohop answers cluster.local., 96.10.in-addr.arpa., \
                  97.10.in-addr.arpa., 98.10.in-addr.arpa. and 13 more, with NXDOMAIN for names that `kubernetes` doesn't have";
    assert_eq!(reasons, [reason]);
}
