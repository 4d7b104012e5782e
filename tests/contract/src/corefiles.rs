//! Corefiles of NodeLocal DNSCache, whose program is called node-cache.

/// The Corefile in the ConfigMap of Kubernetes' own manifest (kubernetes/kubernetes,
/// `cluster/addons/dns/nodelocaldns/nodelocaldns.yaml`) for iptables mode, with the placeholders
/// filled in. One is left: node-cache replaces it by the address of the Service that its flag
/// `-upstreamsvc` names.
pub const NODE_LOCAL_DNS: &str = "cluster.local:53 {
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
    health 169.254.20.10:8080
    }
in-addr.arpa:53 {
    errors
    cache 30
    reload
    loop
    bind 169.254.20.10 10.96.0.10
    forward . __PILLAR__CLUSTER__DNS__ {
            force_tcp
    }
    prometheus :9253
    }
ip6.arpa:53 {
    errors
    cache 30
    reload
    loop
    bind 169.254.20.10 10.96.0.10
    forward . __PILLAR__CLUSTER__DNS__ {
            force_tcp
    }
    prometheus :9253
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

/// A Corefile with plugins that change answers, and without `reload`.
pub const ALTERED_NODE_LOCAL_DNS: &str = "cluster.local:53 {
    template IN AAAA cluster.local {
        rcode NOERROR
    }
    rewrite name exact legacy.shop.svc.cluster.local ok.shop.svc.cluster.local
    cache 30
    bind 169.254.20.10 10.96.0.10
    forward . 10.96.0.99
}
";
