//! The effect of plugins other than `kubernetes` on the conclusions.

use super::{AdoptedZone, answered, corefile_with, kubeadm_settings, name, read_text, refusal};
use crate::AdoptedSettings;
use zerohop_zone::{AbsentNames, ChangedAnswers, Rtype};

/// What is answered if nothing passes.
const ALL: &str = "cluster.local. in-addr.arpa. ip6.arpa.";

#[test]
fn plugins_that_change_no_answers_make_nothing_pass() {
    for lines in [
        "errors {\n consolidate 5m \".* i/o timeout$\"\n}",
        "health :8080 {\n}",
        "log . {\n class denial\n}",
        "ready localhost:8091",
        "prometheus",
        "loop",
        "reload 30s",
        "loadbalance",
        "loadbalance round_robin",
        "forward . tls://9.9.9.9 {\n tls_servername dns.quad9.net\n}",
        "bind 10.0.0.1",
        "bufsize 1232",
        "transfer {\n to *\n}",
        // `cache` only caps TTLs.
        "cache {\n success 5000\n denial 2500 5\n prefetch 1 1m 10%\n serve_stale 1h verify\n serve_stale_policy prefer_positive\n servfail 5s\n keepttl\n disable success\n}",
        "health { }",
        "cancel 1s",
        "chaos CoreDNS-1.14 dns@example.org",
        "debug",
        "dnstap /tmp/dnstap.sock full",
        "geoip /db.mmdb",
        "metadata",
        "multisocket",
        "nsid",
        "pprof",
        "root /etc/coredns",
        "shed",
        "timeouts {\n read 3s\n}",
        "tls cert.pem key.pem",
        "trace jaeger.local",
        // These come after `kubernetes`.
        "file",
        "file /db",
        "file /db db.cluster.local {\n reload 1m\n}",
        "auto db.cluster.local {\n directory /zones\n}",
        "etcd cluster.local {\n path /skydns\n}",
        "secondary x.local {\n transfer from 10.0.0.1\n catalog y.local\n}",
        "grpc . 127.0.0.1:9005",
        "erratic",
        "whoami",
        "sign db.example.org",
        "nomad service.nomad",
    ] {
        assert_eq!(answered(&corefile_with(lines)), ALL, "{lines}");
    }
}

#[test]
fn unknown_plugins_make_everything_pass() {
    // Also a second `kubernetes`, and known plugins whose lines Zerohop doesn't accept.
    for lines in [
        "acl {\n block\n}",
        "route53 example.org",
        "autopath",
        "header {\n response set aa\n}",
        "import custom",
        "import_x",
        "template IN aaaa",
        "template in AAAA",
        "template IN TYPE28",
        "tsig {\n require all\n}",
        "view v {\n expr true\n}",
        "kubernetes",
        "loadbalance weighted",
        "loadbalance random",
        "loadbalance weighted file {\n prefer 10.0.0.0/8\n}",
        "loadbalance {\n reload 5s\n}",
        "dns64 {\n exclude ::/0\n}",
        "forward . {$UPSTREAM}",
        "forward . 1.1.1.1 {\n import policy\n}",
        "template",
        "template IN A \"not a zone\" {\n}",
        "cache 0",
        "cache -5",
        "cache {\n success 100 0\n}",
        "cache {\n unknown\n}",
        "cache 30 {\n success {$CAPACITY}\n}",
        "ERRORS",
    ] {
        assert_eq!(answered(&corefile_with(lines)), "nothing", "{lines}");
    }
    let reason =
        "line 7: `view` is not a plugin that Zerohop understands here, so everything passes";
    assert_eq!(refusal(&corefile_with("view v")), reason);
}

#[test]
fn queries_with_the_do_bit_pass_in_signed_zones() {
    let all = ["cluster.local.", "in-addr.arpa.", "ip6.arpa."];
    for (lines, wanted, signed) in [
        ("dnssec", ALL, &all[..]),
        ("dnssec {\n key file Kcluster.local\n}", ALL, &all),
        ("dnssec cluster.local", ALL, &all[..1]),
        ("dnssec example.org", ALL, &[]),
        // CoreDNS has DNSKEY records at these names.
        (
            "dnssec db.cluster.local",
            "cluster.local. in-addr.arpa. ip6.arpa. -db.cluster.local.",
            &all[..1],
        ),
        ("dnssec in-addr.arpa", "cluster.local. ip6.arpa.", &[]),
        ("dnssec\n dnssec", "nothing", &[]),
    ] {
        let text = corefile_with(lines);
        assert_eq!(answered(&text), wanted, "{lines}");
        let zones = read_text(&text).adopted.map(|adopted| adopted.signed_zones);
        let zones: Vec<String> = zones.iter().flatten().map(ToString::to_string).collect();
        assert_eq!(zones, signed, "{lines}");
    }
    let reasons = read_text(&corefile_with("dnssec cluster.local")).reasons;
    let expected = "line 7: `dnssec` signs answers in its zones, so queries with the DO bit in \
                    cluster.local. pass";
    assert_eq!(reasons.last().unwrap(), expected);
}

#[test]
fn plugins_with_zones_make_their_zones_pass() {
    for (lines, wanted) in [
        ("template IN ANY example.org", ALL),
        ("template IN ANY", "nothing"),
        ("template IN A db.cluster.local", "-db.cluster.local."),
        ("template CH ANY", ALL),
        // If a cluster domain passes, the PTR records that point into it pass too.
        ("template ANY ANY local", "nothing"),
        (
            "template ANY ANY x.cluster.local y.cluster.local {\n rcode NXDOMAIN\n}",
            "-x.cluster.local. -y.cluster.local.",
        ),
        ("acl example.org {\n block\n}", ALL),
        (
            "acl db.cluster.local {\n block type A net 10.0.0.0/8\n}",
            "-db.cluster.local.",
        ),
        (
            "route53 example.org:Z1 db.cluster.local:Z2",
            "-db.cluster.local.",
        ),
        ("azure group:db.cluster.local", "-db.cluster.local."),
        (
            "clouddns db.cluster.local:project:zone",
            "-db.cluster.local.",
        ),
        ("k8s_external example.org", ALL),
        ("k8s_external", "nothing"),
    ] {
        let wanted = if wanted.starts_with('-') {
            format!("{ALL} {wanted}")
        } else {
            wanted.to_owned()
        };
        assert_eq!(answered(&corefile_with(lines)), wanted, "{lines}");
    }
    let reasons = read_text(&corefile_with("template ANY ANY local")).reasons;
    let expected = [
        "line 3: PTR records point into cluster.local., which Zerohop doesn't answer as a cluster domain, so in-addr.arpa. and ip6.arpa. pass",
        "line 7: `template` may answer names in its zones, so cluster.local. passes",
    ];
    assert_eq!(reasons, expected);
}

#[test]
fn templates_for_one_type_make_queries_for_the_type_pass() {
    let aaaa = |zones: &[&str]| -> Vec<_> {
        let zones = zones.iter();
        zones
            .map(|zone| (name(zone), [Rtype::AAAA].into()))
            .collect()
    };
    let all = ["cluster.local", "in-addr.arpa", "ip6.arpa"];
    for (lines, wanted) in [
        ("template IN AAAA {\n rcode NXDOMAIN\n}", aaaa(&all)),
        ("template ANY AAAA .", aaaa(&all)),
        ("template IN AAAA local", aaaa(&["cluster.local"])),
        ("template IN AAAA example.org", aaaa(&[])),
        ("template IN AAAA db.cluster.local", aaaa(&[])),
        (
            "template IN AAAA cluster.local\n template IN HTTPS local",
            vec![(name("cluster.local"), [Rtype::AAAA, Rtype::HTTPS].into())],
        ),
        (
            "minimal",
            all.iter()
                .map(|zone| (name(zone), [Rtype::NS, Rtype::SRV].into()))
                .collect(),
        ),
    ] {
        let adopted = read_text(&corefile_with(lines)).adopted.unwrap();
        assert_eq!(adopted.passed_types, wanted, "{lines}");
    }
    // Only PTR records are answered in reverse zones.
    for lines in ["template IN PTR", "rewrite type PTR TXT"] {
        assert_eq!(answered(&corefile_with(lines)), "cluster.local.", "{lines}");
    }
    let reasons = read_text(&corefile_with("template IN AAAA .")).reasons;
    let expected = "line 7: `template` may answer names in its zones, so queries for AAAA in \
                    cluster.local., in-addr.arpa. and ip6.arpa. pass";
    assert_eq!(reasons.last().unwrap(), expected);
}

#[test]
fn answers_that_a_plugin_changes_pass() {
    let without_aaaa = ChangedAnswers::WithoutType(Rtype::AAAA);
    for (lines, wanted) in [
        ("dns64", without_aaaa),
        ("dns64 64:ff9b::/96", without_aaaa),
        (
            "dns64 {\n prefix 64:1337::/96\n allow_ipv4\n}",
            without_aaaa,
        ),
        (
            "loadbalance weighted /weights {\n reload 5s\n}",
            ChangedAnswers::SeveralAddresses,
        ),
        (
            "loadbalance {\n prefer 10.0.0.0/8\n}",
            ChangedAnswers::SeveralAddresses,
        ),
        (
            "loadbalance round_robin {\n prefer 10.0.0.0/8 fd00::/8\n}",
            ChangedAnswers::SeveralAddresses,
        ),
    ] {
        let adopted = read_text(&corefile_with(lines)).adopted.unwrap();
        let zones = adopted.zones.iter();
        let wanted: Vec<_> = zones
            .map(|zone| (zone.name.clone(), [wanted].into()))
            .collect();
        assert_eq!(adopted.changed_answers, wanted, "{lines}");
        assert_eq!(adopted.passed_types, [], "{lines}");
    }
    let all = read_text(&corefile_with("dns64 {\n translate_all\n}"))
        .adopted
        .unwrap();
    assert_eq!(all.passed_types[0].1, [Rtype::AAAA].into());
    assert_eq!(all.changed_answers, []);

    let reason = |lines| read_text(&corefile_with(lines)).reasons.pop().unwrap();
    let expected = "line 7: `dns64` may add AAAA records, so queries for AAAA of names without \
                    such records in cluster.local., in-addr.arpa. and ip6.arpa. pass";
    assert_eq!(reason("dns64"), expected);
    let expected = "line 7: `weighted` orders the addresses of answers, so queries whose answers \
                    have several addresses in cluster.local., in-addr.arpa. and ip6.arpa. pass";
    assert_eq!(reason("loadbalance weighted file"), expected);
}

#[test]
fn rewritten_patterns_and_types_pass() {
    let adopted = |lines: &str| read_text(&corefile_with(lines)).adopted.unwrap();
    let shop = name("web.shop.svc.cluster.local");
    for (lines, is_rewritten) in [
        ("rewrite name regex web\\.shop\\. x", true),
        ("rewrite stop name regex ^web\\. x answer auto", true),
        (
            "rewrite stop {\n name regex ^WEB\\. x\n answer auto\n}",
            false,
        ),
        (
            "rewrite name regex (.*)\\.example\\.org {1}.shop.svc.cluster.local",
            false,
        ),
        ("rewrite name regex local\\.$ x", true),
        // CoreDNS adds a dot to the texts below.
        ("rewrite name substring shop x", true),
        ("rewrite name substring Shop.svc x", true),
        ("rewrite name substring shop.sv x", false),
        ("rewrite name prefix web x", true),
        ("rewrite name prefix we x", false),
        ("rewrite name prefix web.shop x answer auto", true),
        ("rewrite ttl regex ^web\\. 30", true),
        ("rewrite ttl prefix we 30", false),
        (
            "rewrite rcode substring shop.svc.cluster.local NXDOMAIN NOERROR",
            true,
        ),
    ] {
        let adopted = adopted(lines);
        assert_eq!(adopted.rewritten[0].matches(&shop), is_rewritten, "{lines}");
        let passes = |zone: &AdoptedZone| zone.absent == AbsentNames::Passed;
        assert!(adopted.zones.iter().all(passes), "{lines}");
    }
    let types = adopted("rewrite type aaaa A").passed_types;
    assert_eq!(types[0], (name("cluster.local"), [Rtype::AAAA].into()));
    for lines in ["rewrite type ANY HINFO", "any"] {
        let types = adopted(lines).passed_types;
        assert_eq!(
            types[0],
            (name("cluster.local"), [Rtype::ANY].into()),
            "{lines}"
        );
    }
}

#[test]
fn autopath_makes_absent_names_pass() {
    for (lines, passing) in [
        ("autopath @kubernetes", true),
        ("autopath cluster.local @kubernetes", true),
        ("autopath shop.svc.cluster.local /etc/resolv.conf", true),
        ("autopath example.org @kubernetes", false),
    ] {
        let text = corefile_with(lines);
        assert_eq!(answered(&text), ALL, "{lines}");
        let zones = read_text(&text).adopted.unwrap().zones;
        let is_passed = zones[0].absent == AbsentNames::Passed;
        assert_eq!(is_passed, passing, "{lines}");
    }
    let reasons = read_text(&corefile_with("autopath local @kubernetes")).reasons;
    let expected = [
        "line 3: Zerohop answers cluster.local., in-addr.arpa. and ip6.arpa., except names that \
         `kubernetes` doesn't have, which pass",
        "line 7: `autopath` may answer absent names, so names that don't exist in cluster.local. \
         pass",
    ];
    assert_eq!(reasons, expected);
}

#[test]
fn names_in_hosts_pass() {
    let without_reverse = "cluster.local.";
    for (lines, wanted) in [
        (
            "hosts {\n 10.0.0.1 db.cluster.local www.example.org\n fallthrough\n}",
            "cluster.local. -db.cluster.local.",
        ),
        (
            "hosts {\n 10.0.0.1 *.db.cluster.local\n fallthrough local\n ttl 60\n}",
            "cluster.local. -db.cluster.local.",
        ),
        (
            "hosts {\n fe80::1%eth0 db.cluster.local\n fallthrough local\n}",
            "cluster.local. -db.cluster.local.",
        ),
        (
            "hosts {\n fallthrough\n no_reverse\n fallthrough_unsupported\n reload 0\n}",
            ALL,
        ),
        ("hosts {\n fallthrough\n}", without_reverse),
        (
            "hosts {\n 10.0.0.1 *.cluster.local\n fallthrough\n}",
            "nothing",
        ),
        // Without a `fallthrough` for the zones, `hosts` answers all names in them.
        ("hosts {\n 10.0.0.1 x.example.org\n}", "nothing"),
        ("hosts", "nothing"),
        ("hosts {\n fallthrough example.org\n}", "nothing"),
        // Entries that Zerohop can't read.
        ("hosts {\n 10.0.0 x.example.org\n fallthrough\n}", "nothing"),
        (
            "hosts {\n 10.0.0.1 x..example.org\n fallthrough\n}",
            "nothing",
        ),
        (
            "hosts {\n 10.0.0.1 \"db.cluster.local#x\"\n fallthrough\n}",
            "nothing",
        ),
        // Names in a file are unknown, so `hosts` may answer any name in its zones.
        ("hosts /etc/h {\n fallthrough\n}", "nothing"),
        (
            "hosts /etc/h example.org {\n fallthrough\n}",
            without_reverse,
        ),
        ("hosts /etc/h example.org {\n no_reverse\n}", ALL),
        (
            "hosts /etc/h db.cluster.local {\n no_reverse\n}",
            "cluster.local. in-addr.arpa. ip6.arpa. -db.cluster.local.",
        ),
    ] {
        assert_eq!(answered(&corefile_with(lines)), wanted, "{lines}");
    }
    let text = corefile_with(
        "hosts {\n 10.0.0.1 a.cluster.local b.cluster.local\n 10.0.0.2 x.example.org\n}",
    );
    let expected = [
        "line 7: `hosts` answers PTR queries for addresses in a file that Zerohop doesn't read, so in-addr.arpa. and ip6.arpa. pass",
        "line 7: `hosts` answers all names in zones without `fallthrough`, so everything passes",
        "line 8: `hosts` has addresses for these names, so a.cluster.local. and b.cluster.local. pass",
    ];
    assert_eq!(read_text(&text).reasons, expected);
}

#[test]
fn rewritten_names_pass() {
    for (lines, wanted) in [
        (
            "rewrite name x.svc.cluster.local y.svc.cluster.local",
            "-x.svc.cluster.local.",
        ),
        (
            "rewrite name exact X.svc.Cluster.local. y",
            "-x.svc.cluster.local.",
        ),
        (
            "rewrite NAME EXACT x.svc.cluster.local y",
            "-x.svc.cluster.local.",
        ),
        (
            "rewrite stop name x.svc.cluster.local y",
            "-x.svc.cluster.local.",
        ),
        (
            "rewrite continue name exact x.svc.cluster.local y answer auto",
            "-x.svc.cluster.local.",
        ),
        (
            "rewrite stop {\n name exact x.svc.cluster.local y\n answer auto\n}",
            "-x.svc.cluster.local.",
        ),
        // A rule doesn't change the answers to queries for the replacement name.
        (
            "rewrite name www.example.org web.shop.svc.cluster.local",
            "",
        ),
        ("rewrite name suffix .example.org .svc.cluster.local", ""),
        // The name my-shop.svc.cluster.local ends with the first text. A name whose first label is
        // `my.shop` ends with the second text.
        (
            "rewrite name suffix shop.svc.cluster.local web",
            "-svc.cluster.local.",
        ),
        (
            "rewrite name suffix .shop.svc.cluster.local .web",
            "-svc.cluster.local.",
        ),
        ("rewrite name suffix example.org web", ""),
        // These change answers to queries for the same names.
        (
            "rewrite ttl x.svc.cluster.local 30",
            "-x.svc.cluster.local.",
        ),
        ("rewrite ttl exact x.example.org 30", ""),
        (
            "rewrite ttl suffix shop.svc.cluster.local 30-60",
            "-svc.cluster.local.",
        ),
        (
            "rewrite continue {\n ttl exact x.svc.cluster.local -60\n}",
            "-x.svc.cluster.local.",
        ),
        (
            "rewrite rcode x.svc.cluster.local NXDOMAIN NOERROR",
            "-x.svc.cluster.local.",
        ),
        ("rewrite stop rcode suffix .example.org 2 nxdomain", ""),
        // Queries of other classes always pass.
        ("rewrite class CH IN", ""),
    ] {
        let wanted = format!("{ALL} {wanted}");
        assert_eq!(
            answered(&corefile_with(lines)),
            wanted.trim_end(),
            "{lines}"
        );
    }
    for lines in [
        "rewrite",
        "rewrite name",
        "rewrite name suffix cluster.local x",
        "rewrite name suffix local x",
        "rewrite name suffix . x",
        "rewrite name regex x( y",
        "rewrite name glob x y",
        "rewrite type X A",
        "rewrite class IN CH",
        "rewrite ttl exact x.example.org thirty",
        "rewrite ttl x.example.org 60-30",
        "rewrite ttl x.example.org +30",
        "rewrite rcode x.example.org NXDOMAIN +0",
        "rewrite ttl glob x.example.org 30",
        "rewrite ttl suffix cluster.local 30",
        "rewrite rcode x.example.org NXDOMAIN",
        "rewrite rcode x.example.org NXDOMAIN 24",
        "rewrite rcode regex x( NXDOMAIN NOERROR",
        "rewrite cname x.example.org y.example.org",
        "rewrite class CH XX",
        "rewrite edns0 local set 0xffee x",
        "rewrite name exact a\\.b.example.org y",
        "rewrite name x y {\n answer auto\n}",
    ] {
        assert_eq!(answered(&corefile_with(lines)), "nothing", "{lines}");
    }
    let reason = "line 7: `rewrite class IN CH` is not a rule that Zerohop understands, so everything passes";
    assert_eq!(refusal(&corefile_with("rewrite class IN CH")), reason);
}

#[test]
fn cache_caps_ttls() {
    // Without a cap, the TTLs are 3600 (`ttl 3600` below) and 28800 (CoreDNS's TTL of
    // `dns-version`). The lower cap of `success` and `denial` counts. CoreDNS's defaults are 3600
    // and 1800.
    for (cache, ttl, version_ttl) in [
        ("", 3600, 28800),
        ("cache", 1800, 1800),
        ("cache 30", 30, 30),
        ("cache 30 example.org", 3600, 28800),
        ("cache 30 cluster.local", 30, 30),
        ("cache 30 svc.cluster.local", 30, 30),
        ("cache 9000", 3600, 9000),
        ("cache {\n success 1000 60\n}", 60, 60),
        (
            "cache 300 {\n success 1000 200 7\n denial 1000 20 3\n}",
            20,
            20,
        ),
        // Answers that aren't cached are capped too.
        ("cache 30 {\n disable success cluster.local\n}", 30, 30),
        ("cache 30 {\n disable denial cluster.local\n}", 30, 30),
    ] {
        let text = corefile_with(cache).replace("pods insecure", "pods insecure\nttl 3600");
        let adopted = AdoptedSettings {
            uncapped_ttl: (ttl < 3600).then_some(3600),
            version_ttl,
            ..kubeadm_settings(ttl)
        };
        assert_eq!(read_text(&text).adopted, Some(adopted), "{cache}");
    }
}
