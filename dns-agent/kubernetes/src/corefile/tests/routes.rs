//! Routes for names outside the cluster, read from Corefiles.

use std::time::Duration;

use zerohop_routes::{CacheRules, ForwardServer, KeptAnswers, StaleMode, StaleRules, Way};
use zerohop_zone::{Name, Rtype};

use super::super::CorefileRoutes;
use super::corefile_with;
use crate::coredns_config::{CoreDnsConfig, PodHostsFile};
use crate::resolv_conf::PodResolvConf;

/// A Corefile of a pod with `dnsPolicy: Default`.
fn read(corefile: impl Into<String>) -> CorefileRoutes {
    CorefileRoutes::read(&CoreDnsConfig {
        corefile: corefile.into(),
        resolv_conf: PodResolvConf::Node,
        hosts_file: PodHostsFile::OfKubelet,
        ..CoreDnsConfig::default()
    })
}

/// The way of a question, as words.
fn way(routes: &CorefileRoutes, name: &str, rtype: Rtype) -> String {
    let server = |server: &ForwardServer| match server {
        ForwardServer::Plain(address) => address.to_string(),
        ForwardServer::Tls(address, name) => format!("tls://{address}#{name}"),
        ForwardServer::NodeResolvConf => "node".to_owned(),
    };
    match routes.routes.way(&Name::parse(name).unwrap(), rtype) {
        Way::ClusterDns => "cluster".to_owned(),
        Way::Rewritten(rewriting) => format!("= {}", rewriting.name),
        Way::Answer(answer) => format!("rcode {}, {}", answer.rcode, answer.records.len()),
        Way::Forward(forwarding) => {
            let group = forwarding.group;
            let servers: Vec<String> = group.servers.iter().map(server).collect();
            format!(
                "{} {} {:?}",
                servers.join(" "),
                group.policy,
                group.transport
            )
        }
    }
}

#[track_caller]
fn check(corefile: impl Into<String>, cases: &[(&str, Rtype, &str)]) {
    let routes = read(corefile);
    for (name, rtype, expected) in cases {
        let actual = way(&routes, name, *rtype);
        assert_eq!(actual, *expected, "{name} {rtype}: {:?}", routes.reasons);
    }
}

const NODE: &str = "node fastest UdpAndTcp";

#[test]
fn it_is_known_where_answers_depend_on_the_client() {
    let dependence = |plugins: &str| {
        let routes = read(corefile_with(plugins));
        routes.routes.client_dependence().map(str::to_owned)
    };
    let plain = "forward . /etc/resolv.conf\ncache 30\nhosts {\n10.0.0.1 a.test\n fallthrough\n}";
    assert_eq!(dependence(plain), None);
    for (plugins, expected) in [
        (
            "forward . /etc/resolv.conf\nacl {\nblock\n}",
            "`acl` depends on the client",
        ),
        (
            "acl internal.test {\nblock\n}",
            "`acl` depends on the client",
        ),
        ("autopath @kubernetes", "`autopath` depends on the client"),
        ("other_plugin", "is not a plugin that Zerohop understands"),
        ("forward . 10.0.0.1 {\nsome_option\n}", "some_option"),
        ("rewrite edns0 local set 0xffee 1", ""),
    ] {
        let reason = dependence(plugins).unwrap_or_else(|| panic!("{plugins}"));
        assert!(reason.contains(expected), "{plugins}: {reason}");
    }
}

#[test]
fn names_outside_the_cluster_go_where_the_corefile_forwards_them() {
    let corefile = corefile_with(
        "forward . /etc/resolv.conf { \n max_concurrent 1000 \n }\n cache 30 \n loop \n reload",
    ) + "corp.example:53 b.corp.example {\n errors \n cache 30 \n forward . 10.0.0.2 10.0.0.3:5353 \
         {\n policy sequential \n force_tcp \n }\n}\n\
         tls.example {\n forward . tls://9.9.9.9 tls://[fd00::9]:8853 {\n tls_servername dns.quad9 \
         \n }\n}\n10.0.0.0/24 {\n forward . dns://10.0.0.4\n}";
    check(
        corefile,
        &[
            ("example.org", Rtype::A, NODE),
            (
                "corp.example",
                Rtype::A,
                "10.0.0.2:53 10.0.0.3:5353 sequential Tcp",
            ),
            (
                "x.b.corp.example",
                Rtype::MX,
                "10.0.0.2:53 10.0.0.3:5353 sequential Tcp",
            ),
            (
                "a.tls.example",
                Rtype::A,
                "tls://9.9.9.9:853#dns.quad9 tls://[fd00::9]:8853#dns.quad9 fastest UdpAndTcp",
            ),
            (
                "9.0.0.10.in-addr.arpa",
                Rtype::PTR,
                "10.0.0.4:53 fastest UdpAndTcp",
            ),
            // These belong to the cluster.
            ("web.default.svc.cluster.local", Rtype::A, "cluster"),
            ("9.9.9.10.in-addr.arpa", Rtype::PTR, "cluster"),
            // CoreDNS answers questions for DS in the block of the parent zone.
            ("corp.example", Rtype::DS, "cluster"),
        ],
    );
}

#[test]
fn forward_is_understood_or_left_to_the_cluster_dns() {
    for (line, expected) in [
        (
            "forward . 10.0.0.2 10.0.0.2",
            "10.0.0.2:53 fastest UdpAndTcp",
        ),
        (
            "forward . tls://1.1.1.1",
            "tls://1.1.1.1:853#1.1.1.1 fastest UdpAndTcp",
        ),
        (
            "forward . tls://1.1.1.1%one.one:8853",
            "tls://1.1.1.1:8853#one.one fastest UdpAndTcp",
        ),
        ("forward . [fe80::1%3]:53", "cluster"),
        (
            "forward . tls://1.1.1.1%one.one",
            "tls://1.1.1.1:853#one.one fastest UdpAndTcp",
        ),
        (
            "forward . 10.0.0.2 {\n policy round_robin \n }",
            "10.0.0.2:53 round_robin UdpAndTcp",
        ),
        ("forward example 10.0.0.2", "cluster"),
        ("forward . 10.0.0.2 {\n except example.org \n }", "cluster"),
        (
            "forward . 10.0.0.2 {\n except example.com \n }",
            "10.0.0.2:53 fastest UdpAndTcp",
        ),
        ("forward . 10.0.0.2 {\n next NXDOMAIN \n }", "cluster"),
        (
            "forward . 10.0.0.2 {\n source_address 10.0.0.9 \n }",
            "cluster",
        ),
        ("forward . 10.0.0.2 {\n tls /cert /key /ca \n }", "cluster"),
        ("forward . https://1.1.1.1", "cluster"),
        ("forward . dns.example", "cluster"),
        ("forward . /other/file", "cluster"),
        ("forward . fe80::1%eth0", "cluster"),
        ("forward .", "cluster"),
        (
            "forward org 10.0.0.2\n forward . 10.0.0.3",
            "10.0.0.2:53 fastest UdpAndTcp",
        ),
        ("", "cluster"),
    ] {
        let routes = read(corefile_with(line));
        assert_eq!(way(&routes, "a.example.org", Rtype::A), expected, "{line}");
    }
}

#[test]
fn other_plugins_make_the_cluster_dns_answer() {
    for (lines, name, rtype, expected) in [
        (
            "acl example.org {\n block net 10.0.0.0/8 \n }",
            "a.example.org",
            Rtype::A,
            "cluster",
        ),
        (
            "acl example.org {\n block net 10.0.0.0/8 \n }",
            "a.example",
            Rtype::A,
            NODE,
        ),
        ("dns64", "a.example", Rtype::AAAA, "cluster"),
        ("dns64", "a.example", Rtype::A, NODE),
        ("any", "a.example", Rtype::ANY, "cluster"),
        ("local", "x.localhost", Rtype::A, "cluster"),
        (
            "autopath corp.example /search",
            "x.corp.example",
            Rtype::A,
            "cluster",
        ),
        ("autopath corp.example /search", "x.example", Rtype::A, NODE),
        (
            "hosts {\n fallthrough \n 10.0.0.1 db.example \n }",
            "a.example",
            Rtype::A,
            "cluster",
        ),
        ("local", "localhost.example", Rtype::A, "cluster"),
        ("local", "a.example", Rtype::A, NODE),
        (
            "file /zone example.org",
            "a.example.org",
            Rtype::A,
            "cluster",
        ),
        (
            "k8s_external k8s.example",
            "a.k8s.example",
            Rtype::A,
            "cluster",
        ),
        (
            "header {\n response set aa \n }",
            "a.example",
            Rtype::A,
            "cluster",
        ),
        ("minimal", "a.example", Rtype::A, "cluster"),
        ("unknown", "a.example", Rtype::A, "cluster"),
        (
            "import /custom/*.override",
            "a.example",
            Rtype::A,
            "cluster",
        ),
        (
            "loadbalance weighted /weights",
            "a.example",
            Rtype::A,
            "cluster",
        ),
        (
            "whoami\n erratic\n nsid x\n bufsize 1232\n autopath @kubernetes",
            "a.test",
            Rtype::A,
            NODE,
        ),
        ("cache 30\n cache 60", "a.example", Rtype::A, "cluster"),
        ("reload 1s", "a.example", Rtype::A, "cluster"),
    ] {
        let routes = read(corefile_with(&format!(
            "forward . /etc/resolv.conf\n{lines}"
        )));
        assert_eq!(
            way(&routes, name, rtype),
            expected,
            "{lines}: {:?}",
            routes.reasons
        );
        if expected == "cluster" && rtype == Rtype::A && !lines.starts_with("local") {
            assert!(!routes.reasons.is_empty(), "{lines}");
        }
    }
}

#[test]
fn server_blocks_that_choose_by_client_or_port_are_not_followed() {
    for (other, expected) in [
        ("b.example {\n view internal {\n expr x \n }\n}", "cluster"),
        ("b.example:5353 {\n forward . 10.0.0.2 \n}", "cluster"),
        ("b.example {\n bind 10.0.0.1 \n}", "cluster"),
        ("tls://b.example {\n forward . 10.0.0.2 \n}", NODE),
    ] {
        let routes = read(corefile_with("forward . /etc/resolv.conf") + other);
        assert_eq!(way(&routes, "a.example", Rtype::A), expected, "{other}");
    }
}

#[test]
fn the_servers_of_the_pods_resolv_conf_count() {
    let corefile = corefile_with("forward . /etc/resolv.conf");
    for (resolv_conf, expected) in [
        (PodResolvConf::Node, NODE),
        (
            PodResolvConf::Servers(vec!["10.0.0.2".parse().unwrap()]),
            "10.0.0.2:53 fastest UdpAndTcp",
        ),
        (
            PodResolvConf::Unknown("it isn't known".to_owned()),
            "cluster",
        ),
    ] {
        let routes = CorefileRoutes::read(&CoreDnsConfig {
            corefile: corefile.clone(),
            resolv_conf,
            ..CoreDnsConfig::default()
        });
        assert_eq!(way(&routes, "a.example", Rtype::A), expected);
    }
}

#[test]
fn names_of_hosts_are_answered() {
    let hosts = "hosts {\n 10.0.0.1 db.example \n fd00::1 db.example \n fallthrough \n }\n\
                 forward . /etc/resolv.conf";
    check(
        corefile_with(hosts),
        &[
            ("db.example", Rtype::A, "rcode 0, 1"),
            ("db.example", Rtype::AAAA, "rcode 0, 1"),
            ("db.example", Rtype::MX, "rcode 0, 0"),
            ("x.db.example", Rtype::A, NODE),
            // The container's /etc/hosts has its own name.
            ("coredns-5d78c9869d-abcde", Rtype::A, "cluster"),
        ],
    );
    // It isn't known how other names are forwarded.
    check(
        corefile_with(&hosts.replace("/etc/resolv.conf", "dns.example")),
        &[
            ("db.example", Rtype::A, "rcode 0, 1"),
            ("x.db.example", Rtype::A, "cluster"),
        ],
    );
    let unknown = CoreDnsConfig::from(corefile_with(hosts));
    let routes = CorefileRoutes::read(&unknown);
    assert_eq!(way(&routes, "db.example", Rtype::A), "cluster");
    check(
        corefile_with("hosts /some/file {\n fallthrough \n }\n forward . 10.0.0.2"),
        &[("a.example", Rtype::A, "cluster")],
    );
}

#[test]
fn templates_with_only_a_response_code_are_answered() {
    let lines = "forward . /etc/resolv.conf
    template ANY AAAA {\n rcode NOERROR \n }
    template ANY ANY reddog.microsoft.com {\n rcode NXDOMAIN \n }
    template IN MX mail.example {\n answer \"{{ .Name }} 60 IN MX 10 x\" \n }
    template CH TXT {\n answer x \n }";
    check(
        corefile_with(lines),
        &[
            ("a.example", Rtype::AAAA, "rcode 0, 0"),
            ("a.reddog.microsoft.com", Rtype::A, "rcode 3, 0"),
            ("mail.example", Rtype::MX, "cluster"),
            ("mail.example", Rtype::A, NODE),
        ],
    );
}

#[test]
fn rewritten_names_are_looked_up() {
    let lines = "forward . /etc/resolv.conf
    rewrite name a.example web.shop.svc.cluster.local
    rewrite continue name exact b.example c.example
    rewrite stop {\n name regex (.*)\\.apps\\.example ingress.shop.svc.cluster.local \n \
    answer auto \n }
    rewrite name suffix .old.example .new.example answer auto
    rewrite name suffix .lost.example .new.example
    rewrite name prefix odd new
    rewrite ttl exact t.example 30
    rewrite type HINFO A
    rewrite class CH IN";
    check(
        corefile_with(lines),
        &[
            ("a.example", Rtype::A, "= web.shop.svc.cluster.local."),
            ("b.example", Rtype::A, "= c.example."),
            (
                "x.apps.example",
                Rtype::A,
                "= ingress.shop.svc.cluster.local.",
            ),
            ("x.old.example", Rtype::A, "= x.new.example."),
            ("x.lost.example", Rtype::A, "cluster"),
            ("t.example", Rtype::A, "cluster"),
            ("x.example", Rtype::HINFO, "cluster"),
            ("x.example", Rtype::A, NODE),
        ],
    );
    for rule in [
        "rewrite edns0 local set 0xffee x",
        "rewrite cname exact a b",
        "rewrite name",
    ] {
        let corefile = corefile_with(&format!("forward . /etc/resolv.conf\n{rule}"));
        check(corefile, &[("x.example", Rtype::A, "cluster")]);
    }
}

#[test]
fn cache_says_how_replies_are_kept() {
    let rules = |max_ttl, max_negative_ttl, kept, stale| CacheRules {
        max_ttl,
        max_negative_ttl,
        kept,
        stale,
    };
    let all = KeptAnswers::All;
    let stale = |seconds, mode| {
        Some(StaleRules {
            limit: Duration::from_secs(seconds),
            mode,
        })
    };
    for (line, expected) in [
        ("", CacheRules::OFF),
        ("cache", rules(3600, 1800, all, None)),
        ("cache 30", rules(30, 30, all, None)),
        ("cache 30 other.example", CacheRules::OFF),
        ("cache 30 example", rules(30, 30, all, None)),
        (
            "cache 900 {\n denial 9984 30 \n }",
            rules(900, 30, all, None),
        ),
        (
            "cache 30 {\n disable denial \n }",
            rules(30, 30, KeptAnswers::Positive, None),
        ),
        (
            "cache 30 {\n disable success a.example \n }",
            rules(30, 30, KeptAnswers::Negative, None),
        ),
        (
            "cache 30 {\n disable success cluster.local \n }",
            rules(30, 30, all, None),
        ),
        (
            "cache 30 a.example {\n disable success x.a.example \n }",
            rules(30, 30, KeptAnswers::Negative, None),
        ),
        (
            "cache 30 {\n serve_stale \n }",
            rules(30, 30, all, stale(3600, StaleMode::AtOnce)),
        ),
        (
            "cache 30 {\n serve_stale 1m verify \n }",
            rules(30, 30, all, stale(60, StaleMode::IfUpstreamsFail)),
        ),
    ] {
        let routes = read(corefile_with(&format!("forward . 10.0.0.2\n{line}")));
        let name = Name::parse("x.a.example").unwrap();
        match routes.routes.way(&name, Rtype::A) {
            Way::Forward(forwarding) => assert_eq!(forwarding.cache, expected, "{line}"),
            other => panic!("{line}: {other:?} {:?}", routes.reasons),
        }
    }
}
