//! Search lists: when a pod looks up a name outside the cluster, the kernel denies the names that
//! the pod's resolver tries below the search domains.

use dns_common::Outcome;
use zerohop_contract::{message::Message, packet};
use zerohop_datapath::program::HookProgram;

use super::{
    fixture::{KernelFixture, TestRunResult},
    models::model,
};

const A: u16 = 1;
const AAAA: u16 = 28;

/// A pod's namespace, and one with the name of a top-level domain.
const MANIFESTS: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Namespace
metadata: {name: com}
---
apiVersion: v1
kind: Service
metadata: {name: example, namespace: com}
spec: {clusterIP: 10.96.1.1}
---
apiVersion: v1
kind: Service
metadata: {name: db, namespace: com}
spec: {clusterIP: None}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
addressType: IPv4
metadata: {name: db, namespace: com, labels: {kubernetes.io/service-name: db}}
endpoints: [{addresses: [10.244.0.1], hostname: www}]
";

#[test]
fn names_outside_the_cluster_are_denied_below_search_domains() {
    let mut fixture = KernelFixture::with_model(model(MANIFESTS, &[]));
    for name in [
        // The search list of a pod in `shop`.
        "www.example.com.shop.svc.cluster.local",
        "www.example.com.svc.cluster.local",
        "www.example.com.cluster.local",
        // The search list of a pod in `com`.
        "www.example.com.com.svc.cluster.local",
        // No endpoint, service or namespace has these names.
        "www.example.org.svc.cluster.local",
        "example.org.svc.cluster.local",
        "org.svc.cluster.local",
        "www.shop.com.svc.cluster.local",
        // A name with many labels, and one with upper-case letters.
        "a.b.c.d.e.f.g.h.example.com.shop.svc.cluster.local",
        "WWW.Example.COM.shop.svc.cluster.local",
    ] {
        for rtype in [A, AAAA] {
            for query in [
                KernelFixture::query(name, rtype),
                KernelFixture::query6(name, rtype),
            ] {
                let plain = query.frame();
                let with_edns = query.with_edns(1232, 0, &[]).frame();
                assert_eq!(denial(&mut fixture, name, &plain), DENIAL, "{name}");
                let lines = denial(&mut fixture, name, &with_edns);
                assert_eq!(lines, [&DENIAL[..], &["edns 1232"]].concat(), "{name}");
            }
        }
    }
}

/// The expected reply. The SOA record tells how long the denial may be cached (RFC 2308 section 5).
const DENIAL: [&str; 2] = [
    "NXDOMAIN aa rd",
    "authority cluster.local. 5 IN SOA ns.dns.cluster.local. hostmaster.cluster.local. 1 7200 1800 86400 5",
];

/// The lines of the reply to a frame with a query for `name`, which must be denied.
fn denial(fixture: &mut KernelFixture, name: &str, frame: &[u8]) -> Vec<String> {
    match fixture.run_program(HookProgram::TcPeer, frame) {
        TestRunResult::Answered(Outcome::NxDomain, out) => {
            let reply = packet::parse_reply(frame, &out).unwrap();
            Message::read(&reply).unwrap().lines()
        }
        other => panic!("{name} is not denied: {other:?}"),
    }
}

/// `example.com.svc.cluster.local` is the service `example` of the namespace `com`. An existing
/// name is answered, even if the client meant the domain.
#[test]
fn a_namespace_with_the_name_of_a_top_level_domain_is_answered() {
    let mut fixture = KernelFixture::with_model(model(MANIFESTS, &[]));
    for (name, rtype, outcome) in [
        ("com.svc.cluster.local", A, Outcome::NoData),
        ("example.com.svc.cluster.local", A, Outcome::Data),
        ("example.com.svc.cluster.local", AAAA, Outcome::NoData),
        ("www.example.com.svc.cluster.local", A, Outcome::NxDomain),
        ("db.com.svc.cluster.local", A, Outcome::Data),
        ("www.db.com.svc.cluster.local", A, Outcome::Data),
        ("www.db.com.svc.cluster.local", AAAA, Outcome::NoData),
        ("www.www.db.com.svc.cluster.local", A, Outcome::NxDomain),
    ] {
        let ended = fixture.run_program(
            HookProgram::TcPeer,
            &KernelFixture::query(name, rtype).frame(),
        );
        assert!(
            matches!(ended, TestRunResult::Answered(found, _) if found == outcome),
            "{name} {rtype}: {ended:?} instead of {outcome:?}"
        );
    }
}
