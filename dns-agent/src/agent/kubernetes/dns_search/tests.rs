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
    let first = choose(&candidates, None);
    assert_eq!(first, Some(tenant.0));
    candidates.extend([upstream.clone()]);
    let second = choose(&candidates, first.as_ref());
    assert_eq!(second, Some(upstream.0.clone()));
    candidates.extend([dns.clone()]);
    let third = choose(&candidates, second.as_ref());
    assert_eq!(third, Some(dns.0.clone()));
    candidates.remove(&dns.0);
    assert_eq!(choose(&candidates, third.as_ref()), Some(upstream.0));
    assert_eq!(choose(&BTreeMap::new(), None), None);
}

#[test]
fn names_count_only_in_namespaces_of_the_system() {
    let dns = service("dns", "cluster-dns", 1);
    let tenant = service("tenant", "kube-dns", 2);
    let candidates = BTreeMap::from([dns.clone(), tenant]);
    assert_eq!(choose(&candidates, None), Some(dns.0));
}

#[test]
fn an_equally_good_service_replaces_none() {
    let older = service("kube-system", "a", 1);
    let newer = service("kube-system", "b", 2);
    let candidates = BTreeMap::from([older.clone(), newer.clone()]);
    assert_eq!(choose(&candidates, None), Some(older.0));
    assert_eq!(choose(&candidates, Some(&newer.0)), Some(newer.0));
}
