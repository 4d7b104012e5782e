//! What the operator decides about the zones.

use std::net::IpAddr;

use clap::ValueEnum;
use ipnet::IpNet;
use serde::Deserialize;

use crate::zone::Name;

/// The TTL that CoreDNS gives the version of the naming scheme, in seconds.
pub(super) const VERSION_TTL: u32 = 28800;

/// What the operator decides about the zones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ZoneSettings {
    /// The cluster's domains; every one holds all names. PTR records name the
    /// first.
    pub cluster_domains: Vec<Name>,
    /// The networks whose reverse zones are answered with authority.
    pub reverse: Vec<IpNet>,
    /// The TTL of records, in seconds.
    pub ttl: u32,
    /// The TTL of the version of the naming scheme, in seconds.
    pub version_ttl: u32,
    /// How names of pods are answered.
    pub pods: PodMode,
    /// The namespaces that are exposed; empty means all.
    pub namespaces: Vec<String>,
    /// What is said of services that nobody serves.
    pub empty_services: EmptyServices,
    /// Names that belong to other software, with everything below them, although
    /// a zone of ours is above them.
    pub passed: Vec<Name>,
    /// What an endpoint without a host name is called.
    pub endpoint_names: EndpointNames,
    /// The addresses under which the cluster's clients ask: the services with one
    /// of them are the name servers of the cluster domains.
    pub served: Vec<IpAddr>,
    /// The addresses of `ns.dns.<zone>`, which is the name server when no service
    /// is; it has none when this is empty.
    pub name_server_addresses: Vec<IpAddr>,
    /// Who names the name servers of the cluster domains.
    pub name_servers: NameServers,
    /// Of which services the endpoints are known.
    pub endpoints: Endpoints,
    /// Of which nodes the pods are known.
    pub known_pods: KnownPods,
    /// The domains in which somebody else is asked for names that are not there.
    pub falls_through: Vec<Name>,
    /// The names below which addresses have their PTR records.
    pub pointers: Vec<Name>,
    /// Whether endpoints have names by topology zone.
    pub zonal_names: ZonalNames,
    /// What is said of endpoints that CoreDNS takes for something else than we do.
    pub odd_endpoints: OddEndpoints,
    /// What is said where CoreDNS departs from the standards.
    pub departures: Departures,
}

/// Whether `<topology zone>.pin|prefer._zone.<service>…` are names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ZonalNames {
    /// They aren't there, like other names that nobody has.
    Absent,
    /// They have the endpoints of the topology zone.
    #[default]
    Answered,
}

/// What is said of what CoreDNS takes for something else than we do: endpoints that are domain names
/// or addresses in an unusual spelling, and odd names of IPv6 addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OddEndpoints {
    /// Only what is an address counts.
    #[default]
    Read,
    /// Nothing: CoreDNS is asked for every name that they are part of.
    Passed,
}

/// What is said where CoreDNS departs from the standards: it says NXDOMAIN for a name without
/// addresses that exists because of names below it (RFC 8020), and for types that such a name
/// lacks. It ignores labels in front of a pod's, and missing underscores in those of ports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Departures {
    /// What the standards say.
    #[default]
    Answered,
    /// Nothing: CoreDNS is asked.
    Passed,
}

/// Who names the name servers of the cluster domains, and their addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NameServers {
    /// We do.
    #[default]
    Ours,
    /// Somebody else, who is asked for NS records at the apex and for all of `ns.dns`.
    Passed,
}

/// Of which services the endpoints are known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Endpoints {
    /// Those of headless services. Names of endpoints below others, and PTR records of endpoints,
    /// are somebody else's to answer.
    #[default]
    Headless,
    /// Those of all services.
    All,
}

/// Of which nodes the pods are known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KnownPods {
    /// Of all: an address that is none of theirs is no pod's.
    #[default]
    All,
    /// Of some: others may know an address that is none of theirs.
    Some,
}

/// How `<dashed-ip>.<namespace>.pod.<zone>` is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PodMode {
    /// No such names.
    Disabled,
    /// Any address under an existing namespace answers itself.
    #[default]
    Insecure,
    /// Only the addresses of pods of the namespace.
    Verified,
}

/// What an endpoint without a host name is called.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EndpointNames {
    /// By its address, with dashes.
    #[default]
    Address,
    /// By its pod, if that is a label; else by its address.
    Pod,
}

/// What is said of services with a ClusterIP, but without any ready endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EmptyServices {
    /// Their ClusterIP, as of others.
    #[default]
    Answered,
    /// They do not exist.
    Ignored,
}

/// The defaults of the command line.
impl Default for ZoneSettings {
    fn default() -> ZoneSettings {
        ZoneSettings {
            cluster_domains: Name::parse("cluster.local").into_iter().collect(),
            reverse: Vec::new(),
            ttl: 5,
            version_ttl: VERSION_TTL,
            pods: PodMode::default(),
            namespaces: Vec::new(),
            empty_services: EmptyServices::default(),
            passed: Vec::new(),
            endpoint_names: EndpointNames::default(),
            served: Vec::new(),
            name_server_addresses: Vec::new(),
            name_servers: NameServers::default(),
            endpoints: Endpoints::All,
            known_pods: KnownPods::default(),
            falls_through: Vec::new(),
            pointers: ["in-addr.arpa", "ip6.arpa"]
                .into_iter()
                .flat_map(Name::parse)
                .collect(),
            zonal_names: ZonalNames::default(),
            odd_endpoints: OddEndpoints::default(),
            departures: Departures::default(),
        }
    }
}
