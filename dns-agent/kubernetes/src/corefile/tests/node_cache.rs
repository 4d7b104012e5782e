//! Conclusions from the Corefiles of node caches.

use zerohop_contract::corefiles::NODE_LOCAL_DNS;
use zerohop_zone::Name;

use super::{NodeCacheContext, NodeCacheEffect, UpstreamService, name};

/// The Corefile of kops, which forwards the reverse zones to the node's DNS servers.
const KOPS: &str = "cluster.local:53 {
  errors
  cache {
    success 9984 30
    denial 9984 5
  }
  reload
  loop
  bind 169.254.20.10 10.96.0.10
  forward . __PILLAR__CLUSTER__DNS__ {
    force_tcp
  }
  prometheus :9253
  health 169.254.20.10:3989
}
.:53 {
  errors
  cache 30
  reload
  loop
  bind 169.254.20.10 10.96.0.10
  forward . /etc/resolv.conf
  prometheus :9253
}
";

/// The Corefile of kubespray, which contains the address of the cluster's DNS.
const KUBESPRAY: &str = "cluster.local:53 {
    errors
    cache {
        success 9984 30
        denial 9984 5
    }
    reload
    loop
    bind 169.254.25.10 10.96.0.10
    forward . 10.96.0.99 {
        force_tcp
    }
    prometheus :9253
    health 169.254.25.10:9254
}
in-addr.arpa:53 {
    errors
    cache 30
    reload
    loop
    bind 169.254.25.10 10.96.0.10
    forward . 10.96.0.99 {
        force_tcp
    }
    prometheus :9253
}
ip6.arpa:53 {
    errors
    cache 30
    reload
    loop
    bind 169.254.25.10 10.96.0.10
    forward . 10.96.0.99 {
        force_tcp
    }
    prometheus :9253
}
.:53 {
    errors
    cache 30
    reload
    loop
    bind 169.254.25.10 10.96.0.10
    forward . /etc/resolv.conf
    prometheus :9253
}
";

/// A Corefile that answers some names itself.
const TEMPLATE_AND_REWRITE: &str = "cluster.local:53 {
    template IN AAAA cluster.local {
        rcode NOERROR
    }
    rewrite name exact legacy.shop.svc.cluster.local ok.shop.svc.cluster.local
    cache 30
    bind 169.254.20.10 10.96.0.10
    forward . 10.96.0.99
}
";

fn zones() -> Vec<Name> {
    ["cluster.local", "in-addr.arpa", "ip6.arpa"]
        .map(name)
        .to_vec()
}

/// The node cache may answer at the served address 10.96.0.10. The cluster's DNS has this address
/// and 10.96.0.99.
fn context() -> NodeCacheContext {
    let addresses = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
    NodeCacheContext {
        bound: addresses(&["10.96.0.10"]),
        cluster_dns: addresses(&["10.96.0.10", "10.96.0.99"])
            .into_iter()
            .collect(),
        upstream: UpstreamService::ClusterDns,
    }
}

/// The effect on zones whose TTL is 30 s without the node cache.
fn read(text: &str) -> NodeCacheEffect {
    NodeCacheEffect::read(&text.into(), &zones(), 30, &context())
}

/// The names that pass, and the TTL of the others.
fn effect(text: &str) -> (String, u32) {
    let effect = read(text);
    let mut passed: Vec<String> = effect.passed.iter().map(Name::to_string).collect();
    passed.sort();
    (passed.join(" "), effect.cap_ttl(30))
}

/// Kubernetes's Corefile with an additional line in the first block.
fn with_line(line: &str) -> String {
    NODE_LOCAL_DNS.replacen("    reload\n", &format!("    reload\n    {line}\n"), 1)
}

/// The names that pass if everything passes.
const ALL: &str = "cluster.local. in-addr.arpa. ip6.arpa.";

#[test]
fn zones_that_distributions_forward_to_the_cluster_dns_do_not_pass() {
    assert_eq!(effect(NODE_LOCAL_DNS), (String::new(), 5));
    assert_eq!(effect(KUBESPRAY), (String::new(), 5));
    assert_eq!(effect(KOPS), ("in-addr.arpa. ip6.arpa.".to_owned(), 5));
    let reasons = read(NODE_LOCAL_DNS).reasons;
    assert_eq!(
        reasons,
        ["line 3: `cache` caps TTLs, so TTLs are at most 5 s instead of 30 s"]
    );
}

#[test]
fn names_answered_by_the_node_cache_pass() {
    let (passed, _) = effect(TEMPLATE_AND_REWRITE);
    // No server block receives the queries for the reverse zones.
    assert_eq!(
        passed,
        "cluster.local. in-addr.arpa. ip6.arpa. legacy.shop.svc.cluster.local."
    );
    let rewrite = "rewrite name exact legacy.shop.svc.cluster.local ok.shop.svc.cluster.local";
    for (line, wanted) in [
        (rewrite, "legacy.shop.svc.cluster.local."),
        // Without a file, `hosts` also has the names from the node's /etc/hosts.
        (
            "hosts {\n 10.0.0.1 a.cluster.local\n fallthrough\n }",
            "cluster.local.",
        ),
        ("template IN AAAA", "cluster.local."),
        ("template IN AAAA v6.cluster.local", "v6.cluster.local."),
        ("template IN ANY example.org", ""),
        ("rewrite name regex (.*).shop {1}.store", "cluster.local."),
        ("dns64", "cluster.local."),
        ("kubernetes cluster.local", "cluster.local."),
        ("acl {\n block\n }", "cluster.local."),
        ("import /etc/coredns/custom/*", "cluster.local."),
        // No name passes.
        ("log", ""),
        ("loadbalance", ""),
        ("bufsize 1232", ""),
    ] {
        let (passed, _) = effect(&with_line(line));
        // If no name passes, the only word is empty.
        let passed: Vec<&str> = passed.split(' ').collect();
        assert!(
            passed.contains(&wanted),
            "{line}: {wanted:?} is not in {passed:?}"
        );
    }
}

#[test]
fn names_of_other_node_cache_blocks_pass() {
    for (block, wanted) in [
        (
            "shop.svc.cluster.local:53 {\n forward . 10.0.0.2\n}\n",
            "shop.svc.cluster.local.",
        ),
        (
            "10.in-addr.arpa {\n forward . 10.0.0.2\n}\n",
            "10.in-addr.arpa.",
        ),
        ("consul.local:53 {\n forward . 10.0.0.2\n}\n", ""),
        // This block receives the DS queries for `cluster.local`.
        ("local:53 {\n forward . 10.0.0.2\n}\n", "cluster.local."),
        // Queries to the DNS Service may arrive at this port.
        (
            "cluster.local:5353 {\n forward . 10.0.0.2\n}\n",
            "cluster.local.",
        ),
        ("import /etc/coredns/custom/*.server\n", ALL),
        ("(snippet) {\n errors\n}\n", ""),
        (
            "(far) {\n forward . 10.0.0.2\n}\nshop.svc.cluster.local:53 {\n import far\n}\n",
            "shop.svc.cluster.local.",
        ),
        (
            "(plain) {\n log\n}\nexample.org:53 {\n import plain\n forward . 10.0.0.2\n}\n",
            "",
        ),
        ("import snippet\n(snippet) {\n errors\n}\n", ALL),
    ] {
        let (passed, _) = effect(&format!("{NODE_LOCAL_DNS}{block}"));
        assert_eq!(passed, wanted, "{block}");
    }
}

#[test]
fn zones_not_forwarded_to_the_cluster_dns_pass() {
    let is_answered = |block: &str| {
        let (passed, _) = effect(&format!("cluster.local:53 {{\n{block}\n}}\n"));
        !passed.contains("cluster.local.")
    };
    for (block, wanted) in [
        ("forward . 10.96.0.99", true),
        ("forward . 10.96.0.99:53", true),
        ("forward . dns://10.96.0.99", true),
        (
            "forward . __PILLAR__CLUSTER__DNS__ {\n prefer_udp\n max_fails 0\n }",
            true,
        ),
        ("forward . 10.96.0.99 10.96.0.10", true),
        // One of the two servers is unknown.
        ("forward . 10.96.0.99 10.96.0.98", false),
        ("forward . /etc/resolv.conf", false),
        ("forward . tls://10.96.0.99", false),
        ("forward shop.svc.cluster.local 10.96.0.99", false),
        (
            "forward . 10.96.0.99 {\n except shop.svc.cluster.local\n }",
            false,
        ),
        ("forward . 10.96.0.99 {\n next NXDOMAIN\n }", false),
        ("forward . 10.96.0.99\n forward . 10.96.0.99", false),
        ("forward . {$DNS}", false),
        ("errors", false),
        ("bind 169.254.20.10 10.96.0.10\n forward . 10.96.0.99", true),
        ("bind 0.0.0.0\n forward . 10.96.0.99", true),
        // This block doesn't answer at the served address.
        ("bind 169.254.20.10\n forward . 10.96.0.99", false),
        ("bind nodelocaldns\n forward . 10.96.0.99", false),
        (
            "bind 10.96.0.10 {\n except 10.96.0.10\n }\n forward . 10.96.0.99",
            false,
        ),
    ] {
        assert_eq!(is_answered(block), wanted, "{block}");
    }
    let other = NodeCacheContext {
        upstream: UpstreamService::Other,
        ..context()
    };
    let passed = NodeCacheEffect::read(&NODE_LOCAL_DNS.into(), &zones(), 30, &other).passed;
    assert_eq!(
        passed.len(),
        zones().len(),
        "not every zone passes: {passed:?}"
    );
}

#[test]
fn an_unreadable_node_cache_corefile_makes_everything_pass() {
    for text in [
        "",
        "cluster.local:53 {\n forward . 10.96.0.99\n",
        "{$DOMAIN}:53 {\n forward . 10.96.0.99\n}\n",
        // This placeholder was never replaced with the domain.
        "__PILLAR__DNS__DOMAIN__:53 {\n forward . 10.96.0.99\n}\n",
    ] {
        assert_eq!(effect(text).0, ALL, "{text}");
    }
}

#[test]
fn caps_count_only_for_answered_zones() {
    let (_, ttl) = effect(&NODE_LOCAL_DNS.replace("denial 9984 5", "denial 9984 20"));
    assert_eq!(ttl, 20);
    let (_, ttl) = effect(&KOPS.replacen("cache 30", "cache 1", 1));
    assert_eq!(ttl, 5, "the zones of that block pass");
}
