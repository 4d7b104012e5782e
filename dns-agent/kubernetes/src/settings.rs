//! Settings of the answered zones.

use std::collections::BTreeSet;
use std::net::IpAddr;

use clap::ValueEnum;
use ipnet::IpNet;
use zerohop_routes::NamePattern;
use zerohop_zone::{ChangedAnswers, Name, Rtype};

/// The TTL of `dns-version.<zone>` in CoreDNS, in seconds.
pub(super) const VERSION_TTL: u32 = 28800;

/// Which zones are answered, and how. The settings come from the operator and from CoreDNS's
/// Corefile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ZoneSettings {
    /// The cluster domains. Every domain has the same names. PTR records point into the first one.
    pub cluster_domains: Vec<Name>,
    /// Networks. The agent is authoritative for their reverse zones.
    pub reverse: Vec<IpNet>,
    /// The TTL of records, in seconds.
    pub ttl: u32,
    /// The TTL in seconds before a cache capped it. `None`: no cache caps it.
    pub uncapped_ttl: Option<u32>,
    /// The TTL of `dns-version.<zone>`, in seconds.
    pub version_ttl: u32,
    /// How names of pods are answered.
    pub pods: PodMode,
    /// The namespaces whose names are answered. Empty: all.
    pub namespaces: Vec<String>,
    /// How Services with a ClusterIP, but without a ready endpoint, are answered.
    pub empty_services: EmptyServices,
    /// Names that are delegated to CoreDNS, with all names below them.
    pub passed: Vec<Name>,
    /// The label of an endpoint without a host name.
    pub endpoint_names: EndpointNames,
    /// The DNS addresses that the cluster's clients use. A Service with one of them as its
    /// ClusterIP is a name server of the cluster domains.
    pub served_addresses: Vec<IpAddr>,
    /// The addresses of `ns.dns.<zone>`, which is the name server of a cluster domain if no Service
    /// is. Empty: the name has no address.
    pub name_server_addresses: Vec<IpAddr>,
    /// How queries for the name servers of the zones are answered.
    pub name_servers: NameServers,
    /// The Services whose endpoints are known.
    pub endpoint_scope: EndpointScope,
    /// The nodes whose Pods are known.
    pub known_pods: KnownPods,
    /// The zones in which queries for absent names pass (CoreDNS's `fallthrough`).
    pub fallthrough_zones: Vec<Name>,
    /// For zones, the types whose queries pass, because another plugin of CoreDNS changes their
    /// answers.
    pub passed_types: Vec<(Name, BTreeSet<Rtype>)>,
    /// For zones, the answers of existing names that another plugin of CoreDNS changes, so that the
    /// queries pass.
    pub changed_answers: Vec<(Name, BTreeSet<ChangedAnswers>)>,
    /// The zones in which queries with the DO bit pass, because CoreDNS signs the answers to them.
    /// It also answers queries for the DNSKEY records of these zones.
    pub signed_zones: Vec<Name>,
    /// Queries for names with one of these patterns pass, because CoreDNS rewrites them. Unlike
    /// `passed`, this concerns neither the names below them nor their aliases in the same zone,
    /// which CoreDNS follows without rewriting. Absent names must pass in all zones, because the
    /// kernel compares no patterns.
    pub rewritten: Vec<NamePattern>,
    /// The suffixes below which PTR records are answered.
    pub pointer_suffixes: Vec<Name>,
    /// Whether endpoints have names by topology zone.
    pub zonal_names: ZonalNames,
    /// How endpoints that CoreDNS reads differently are answered.
    pub nonstandard_endpoints: NonstandardEndpoints,
    /// How queries are answered where CoreDNS deviates from the standards.
    pub deviations: Deviations,
}

/// Whether names `<topology zone>.pin|prefer._zone.<service>…` exist.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ZonalNames {
    /// They do not exist.
    Absent,
    /// They exist below headless Services that have an endpoint.
    #[default]
    Answered,
}

/// How names are answered if CoreDNS may interpret them differently. Such names come, for example,
/// from endpoints that are domain names, from addresses in an unusual spelling, and from
/// nonstandard reverse names of IPv6 addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NonstandardEndpoints {
    /// Valid addresses are answered, and all other endpoints are ignored.
    #[default]
    Read,
    /// Queries that depend on such an endpoint or reverse name pass to CoreDNS.
    Passed,
}

/// How queries are answered where CoreDNS deviates from the standards. For example, CoreDNS answers
/// NXDOMAIN for an empty non-terminal (against RFC 8020). It also ignores labels in front of a
/// Pod's label, and accepts the labels of ports without underscores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Deviations {
    /// The queries are answered as the standards require.
    #[default]
    Answered,
    /// The queries pass to CoreDNS.
    Passed,
}

/// Whether the agent answers for the name servers of the zones and their addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NameServers {
    /// The agent answers.
    #[default]
    Answered,
    /// NS queries at the apex, and all queries at and below `ns.dns`, pass.
    Passed,
}

/// The Services whose endpoints are known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum EndpointScope {
    /// Headless Services only. Names of endpoints below other Services, and PTR records of
    /// endpoints, are delegated to CoreDNS.
    #[default]
    Headless,
    /// All Services.
    All,
}

/// The nodes whose Pods are known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KnownPods {
    /// All nodes. An unknown address belongs to no Pod.
    #[default]
    AllNodes,
    /// Some nodes. An unknown address may belong to a Pod of another node.
    SomeNodes,
}

/// How `<dashed-ip>.<namespace>.pod.<zone>` is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PodMode {
    /// The names do not exist.
    Disabled,
    /// Any address below an existing namespace is answered with that address.
    #[default]
    Insecure,
    /// Only the addresses of Pods in the namespace are answered.
    Verified,
}

/// The label of an endpoint without a host name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EndpointNames {
    /// The dashed address.
    #[default]
    Address,
    /// The name of the endpoint's target, usually a Pod, if that is a valid label; else the dashed
    /// address.
    Pod,
}

/// How Services with a ClusterIP, but without a ready endpoint, are answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EmptyServices {
    /// With the ClusterIP, like other Services.
    #[default]
    Answered,
    /// Their names do not exist.
    Ignored,
}

impl ZoneSettings {
    /// The minimum in the SOA data of the zones, in seconds. CoreDNS's `kubernetes` writes the TTL
    /// there, and a cache that caps TTLs does not change it.
    #[must_use]
    pub fn soa_minimum(&self) -> u32 {
        self.uncapped_ttl.unwrap_or(self.ttl)
    }

    /// Sets the TTL and the minimum in the SOA data, both in seconds.
    pub fn set_ttl(&mut self, ttl: u32, soa_minimum: u32) {
        self.ttl = ttl;
        self.uncapped_ttl = (soa_minimum > ttl).then_some(soa_minimum);
    }
}

/// The defaults of the command line for an agent that reads manifests.
impl Default for ZoneSettings {
    fn default() -> ZoneSettings {
        ZoneSettings {
            cluster_domains: Name::parse("cluster.local").into_iter().collect(),
            reverse: Vec::new(),
            ttl: 5,
            uncapped_ttl: None,
            version_ttl: VERSION_TTL,
            pods: PodMode::default(),
            namespaces: Vec::new(),
            empty_services: EmptyServices::default(),
            passed: Vec::new(),
            endpoint_names: EndpointNames::default(),
            served_addresses: Vec::new(),
            name_server_addresses: Vec::new(),
            name_servers: NameServers::default(),
            endpoint_scope: EndpointScope::All,
            known_pods: KnownPods::default(),
            fallthrough_zones: Vec::new(),
            passed_types: Vec::new(),
            changed_answers: Vec::new(),
            signed_zones: Vec::new(),
            rewritten: Vec::new(),
            pointer_suffixes: ["in-addr.arpa", "ip6.arpa"]
                .into_iter()
                .flat_map(Name::parse)
                .collect(),
            zonal_names: ZonalNames::default(),
            nonstandard_endpoints: NonstandardEndpoints::default(),
            deviations: Deviations::default(),
        }
    }
}
