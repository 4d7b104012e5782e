//! Which Service is taken for the cluster's DNS.

use std::time::Duration;

use zerohop_kubernetes::Labels;

use super::*;

fn service(namespace: &str, name: &str, created: u64) -> (ObjectKey, DnsService) {
    let key = ObjectKey::new(namespace, name);
    let service = DnsService {
        key: key.clone(),
        addresses: Box::default(),
        ports: Box::default(),
        selector: Labels::from([("k8s-app".to_owned(), "kube-dns".to_owned())]),
        created: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(created)),
    };
    (key, service)
}

#[test]
fn services_of_the_system_are_preferred() {
    let tenant = service("tenant", "kube-dns", 1);
    let upstream = service("kube-system", "kube-dns-upstream", 2);
    let dns = service("kube-system", "kube-dns", 3);
    let mut candidates = BTreeMap::from([tenant.clone()]);
    let first = keep_or_replace(&candidates, None);
    assert_eq!(first, Some(tenant.0));
    candidates.extend([upstream.clone()]);
    let second = keep_or_replace(&candidates, first.as_ref());
    assert_eq!(second, Some(upstream.0.clone()));
    candidates.extend([dns.clone()]);
    let third = keep_or_replace(&candidates, second.as_ref());
    assert_eq!(third, Some(dns.0.clone()));
    candidates.remove(&dns.0);
    assert_eq!(
        keep_or_replace(&candidates, third.as_ref()),
        Some(upstream.0)
    );
    assert_eq!(keep_or_replace(&BTreeMap::new(), None), None);
}

#[test]
fn names_count_only_in_namespaces_of_the_system() {
    let dns = service("dns", "cluster-dns", 1);
    let tenant = service("tenant", "kube-dns", 2);
    let candidates = BTreeMap::from([dns.clone(), tenant]);
    assert_eq!(keep_or_replace(&candidates, None), Some(dns.0));
}

#[test]
fn an_equally_good_service_replaces_none() {
    let older = service("kube-system", "a", 1);
    let newer = service("kube-system", "b", 2);
    let candidates = BTreeMap::from([older.clone(), newer.clone()]);
    assert_eq!(keep_or_replace(&candidates, None), Some(older.0));
    assert_eq!(keep_or_replace(&candidates, Some(&newer.0)), Some(newer.0));
}

/// How long a proof must last in these tests.
const SETTLE_TIME: Duration = Duration::from_secs(60);

/// Candidates in the order of their preference, and what is known of them.
struct Candidates {
    ranked: Vec<ObjectKey>,
    found: Option<ObjectKey>,
    states: BTreeMap<ObjectKey, ProofState>,
    now: Instant,
}

impl Candidates {
    fn new(services: &[(ObjectKey, DnsService)]) -> Candidates {
        Candidates {
            ranked: rank(&services.iter().cloned().collect()),
            found: None,
            states: BTreeMap::new(),
            now: Instant::now(),
        }
    }

    /// What is known of a candidate from now on.
    fn set(&mut self, (key, _): &(ObjectKey, DnsService), proof: Proof) {
        let state = self.states.entry(key.clone());
        let state = state.or_insert(ProofState::new(self.now));
        state.update(proof, self.now);
    }

    fn wait(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
    }

    /// Decides as [`ServiceSearch::choose`] does. Returns the Service, and those that are probed.
    fn decide(&mut self) -> (String, Vec<String>) {
        let found = self.found.as_ref();
        let found = found.map(|key| (key, &self.states[key]));
        let is_found = |key: &ObjectKey| found.is_some_and(|(found, _)| found == key);
        let probes = self.states.iter().filter(|(key, _)| !is_found(key));
        let decision = decide(
            &self.ranked,
            found,
            &probes.collect(),
            SETTLE_TIME,
            self.now,
        );
        let Decision { service, probed } = decision;
        // A probe starts without knowledge.
        let is_kept = |key: &ObjectKey| probed.contains(key) || self.found.as_ref() == Some(key);
        self.states.retain(|key, _| is_kept(key));
        if self.found.as_ref() != Some(&service) {
            self.states
                .insert(service.clone(), ProofState::new(self.now));
            self.found = Some(service.clone());
        }
        for key in &probed {
            let state = self.states.entry(key.clone());
            state.or_insert(ProofState::new(self.now));
        }
        let probed = probed.iter().map(ToString::to_string);
        (service.to_string(), probed.collect())
    }
}

fn unproven() -> Proof {
    Proof::Unproven("the test says so".to_owned())
}

fn decision(service: &str, probed: &[&str]) -> (String, Vec<String>) {
    let probed = probed.iter().map(|key| (*key).to_owned());
    (service.to_owned(), probed.collect())
}

const KUBE_DNS: &str = "kube-system/kube-dns";
const COREDNS: &str = "kube-system/coredns";

#[test]
fn a_service_that_is_not_proven_is_replaced_by_one_that_is() {
    let dns = service("kube-system", "kube-dns", 1);
    let other = service("kube-system", "coredns", 2);
    let mut all = Candidates::new(&[dns.clone(), other.clone()]);
    assert_eq!(all.decide(), decision(KUBE_DNS, &[]));
    all.set(&dns, unproven());
    all.wait(59);
    assert_eq!(all.decide(), decision(KUBE_DNS, &[]));
    all.wait(1);
    assert_eq!(all.decide(), decision(KUBE_DNS, &[COREDNS]));
    all.set(&other, Proof::Proven);
    assert_eq!(all.decide(), decision(COREDNS, &[]));
    // The one that is preferred is looked at from now on.
    assert_eq!(all.decide(), decision(COREDNS, &[KUBE_DNS]));
    all.set(&other, Proof::Proven);
    all.set(&dns, unproven());
    all.wait(3600);
    assert_eq!(all.decide(), decision(COREDNS, &[KUBE_DNS]));
    // It returns after it has been proven for the settle time.
    all.set(&dns, Proof::Proven);
    all.wait(59);
    all.set(&dns, unproven());
    all.set(&dns, Proof::Proven);
    all.wait(59);
    assert_eq!(all.decide(), decision(COREDNS, &[KUBE_DNS]));
    all.wait(1);
    assert_eq!(all.decide(), decision(KUBE_DNS, &[]));
}

#[test]
fn a_proven_service_outlasts_rollouts_and_other_services() {
    let dns = service("kube-system", "kube-dns", 1);
    let newer = service("kube-system", "coredns", 2);
    let tenant = service("tenant", "kube-dns", 0);
    let mut all = Candidates::new(&[dns.clone(), newer, tenant]);
    all.decide();
    all.set(&dns, Proof::Proven);
    all.wait(3600);
    assert_eq!(all.decide(), decision(KUBE_DNS, &[]));
    for proof in [unproven(), Proof::Awaited] {
        all.set(&dns, proof);
        all.wait(59);
        assert_eq!(all.decide(), decision(KUBE_DNS, &[]));
        all.set(&dns, Proof::Proven);
        assert_eq!(all.decide(), decision(KUBE_DNS, &[]));
    }
}

#[test]
fn a_tenants_service_never_replaces_one_of_the_system() {
    let dns = service("kube-system", "kube-dns", 3);
    let other = service("kube-system", "other", 4);
    let tenant = service("tenant", "coredns", 1);
    let mut all = Candidates::new(&[dns.clone(), other.clone(), tenant.clone()]);
    all.decide();
    all.set(&dns, unproven());
    all.wait(60);
    assert_eq!(all.decide(), decision(KUBE_DNS, &["kube-system/other"]));
    all.set(&tenant, Proof::Proven);
    all.set(&other, unproven());
    all.wait(3600);
    assert_eq!(all.decide().0, KUBE_DNS);
    // Without any in a Namespace of the system, the operator may run the cluster's DNS elsewhere.
    let mut elsewhere = Candidates::new(&[tenant]);
    assert_eq!(elsewhere.decide().0, "tenant/coredns");
}

#[test]
fn few_services_are_looked_at_and_the_preferred_one_stays_if_none_is_proven() {
    let numbers = 0..20_u64;
    let services: Vec<_> = numbers
        .map(|number| service("kube-system", &format!("dns-{number:02}"), number))
        .collect();
    let mut all = Candidates::new(&services);
    all.decide();
    all.set(&services[0], unproven());
    all.wait(60);
    let wanted = [1, 2, 3, 4].map(|number| format!("kube-system/dns-0{number}"));
    assert_eq!(
        all.decide(),
        ("kube-system/dns-00".to_owned(), wanted.to_vec())
    );
    for service in &services[1..5] {
        all.set(service, unproven());
    }
    for _ in 0..10 {
        all.wait(60);
        assert_eq!(all.decide().0, "kube-system/dns-00");
    }
    // The one that replaces it isn't proven for long.
    all.set(&services[3], Proof::Proven);
    assert_eq!(all.decide().0, "kube-system/dns-03");
    all.decide();
    for service in &services[..4] {
        all.set(service, unproven());
    }
    all.wait(60);
    // The fourth one is looked at again before the first one is taken.
    let (service, probed) = all.decide();
    assert_eq!(service, "kube-system/dns-03");
    assert_eq!(probed.len(), 4);
    all.set(&services[4], unproven());
    assert_eq!(all.decide().0, "kube-system/dns-00");
}
