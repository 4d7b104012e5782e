//! Forwarding to groups of upstream servers, and caching of what they reply.

use std::{
    fmt,
    hash::{Hash, Hasher},
    net::SocketAddr,
    str::FromStr,
    time::Duration,
};

use zerohop_zone::Name;

use crate::is_within;

/// Which names a group of servers receives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward {
    /// The zone of the names.
    pub zone: Name,
    /// Names at or below these are not taken, except the zone's own.
    pub except: Vec<Name>,
    /// The servers. `None`: the cluster's DNS, because it isn't known how CoreDNS forwards.
    pub group: Option<ForwardGroup>,
}

/// Upstream servers that know the same names. Two groups are equal if they differ only in `origin`.
#[derive(Clone, Debug)]
pub struct ForwardGroup {
    /// The servers, in their order.
    pub servers: Vec<ForwardServer>,
    /// The order in which they are asked.
    pub policy: UpstreamPolicy,
    /// How servers without TLS are asked.
    pub transport: ForwardTransport,
    /// When the group counts.
    pub trust: GroupTrust,
    /// Where the group is configured, for people, as in "line 3".
    pub origin: String,
}

/// When a group of servers is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GroupTrust {
    /// Always: the operator has given it to this agent.
    Given,
    /// After it has answered a question from this node. Until then the cluster's DNS is asked.
    AfterAnswer,
}

/// An upstream server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ForwardServer {
    /// A server over UDP and TCP.
    Plain(SocketAddr),
    /// A server over TLS, and the name in its certificate.
    Tls(SocketAddr, String),
    /// The servers in the node's `resolv.conf`, which stands for that of a CoreDNS pod with
    /// `dnsPolicy: Default`.
    NodeResolvConf,
}

/// How servers without TLS are asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ForwardTransport {
    /// Over UDP, and over TCP where that is needed.
    #[default]
    UdpAndTcp,
    /// Over TCP only.
    Tcp,
}

/// The order in which upstream servers are queried. A server that doesn't answer is queried last,
/// whatever the policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum UpstreamPolicy {
    /// By measured round-trip time.
    #[default]
    Fastest,
    /// A random order for each question.
    Random,
    /// Each question begins with the next server.
    RoundRobin,
    /// In the given order.
    Sequential,
}

/// How replies are cached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheRules {
    /// The largest TTL of a record in a reply to a client, in seconds, whether or not the reply is
    /// kept.
    pub max_ttl: u32,
    /// How long a negative answer is kept at most, in seconds.
    pub max_negative_ttl: u32,
    /// Which answers are kept.
    pub kept: KeptAnswers,
    /// Whether and how expired replies are used.
    pub stale: Option<StaleRules>,
}

/// Which answers are kept in the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeptAnswers {
    /// All.
    All,
    /// Those with records of the type that was asked for.
    Positive,
    /// Those that the name or its records don't exist.
    Negative,
    /// None.
    None,
}

/// How expired replies are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StaleRules {
    /// How long after its end a reply may be used.
    pub limit: Duration,
    /// When it is used.
    pub mode: StaleMode,
}

/// When an expired reply is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StaleMode {
    /// When upstreams fail or are late (RFC 8767 section 5).
    IfUpstreamsFail,
    /// At once. The reply is fetched again afterwards.
    AtOnce,
}

impl PartialEq for ForwardGroup {
    fn eq(&self, other: &ForwardGroup) -> bool {
        self.identity() == other.identity()
    }
}

impl Eq for ForwardGroup {}

impl Hash for ForwardGroup {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.identity().hash(state);
    }
}

impl Forward {
    pub(super) fn takes(&self, name: &Name) -> bool {
        name.is_at_or_below(&self.zone) && (*name == self.zone || !is_within(name, &self.except))
    }
}

impl ForwardGroup {
    fn identity(
        &self,
    ) -> (
        &[ForwardServer],
        UpstreamPolicy,
        ForwardTransport,
        GroupTrust,
    ) {
        (&self.servers, self.policy, self.transport, self.trust)
    }

    /// The group with the servers of the node's `resolv.conf` in their place.
    pub fn with_node_servers(&self, node: &[SocketAddr]) -> ForwardGroup {
        let servers = self.servers.iter().flat_map(|server| match server {
            ForwardServer::NodeResolvConf => {
                node.iter().copied().map(ForwardServer::Plain).collect()
            }
            server => vec![server.clone()],
        });
        ForwardGroup {
            servers: servers.collect(),
            ..self.clone()
        }
    }

    /// The addresses of the servers, without those of the node's `resolv.conf`.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.servers.iter().filter_map(|server| match server {
            ForwardServer::Plain(address) | ForwardServer::Tls(address, _) => Some(*address),
            ForwardServer::NodeResolvConf => None,
        })
    }
}

impl CacheRules {
    /// Nothing is cached, and TTLs stay as they are.
    pub const OFF: CacheRules = CacheRules {
        max_ttl: u32::MAX,
        max_negative_ttl: u32::MAX,
        kept: KeptAnswers::None,
        stale: None,
    };
}

impl KeptAnswers {
    /// Whether positive answers are kept.
    pub fn has_positive(self) -> bool {
        matches!(self, KeptAnswers::All | KeptAnswers::Positive)
    }

    /// Whether negative answers are kept.
    pub fn has_negative(self) -> bool {
        matches!(self, KeptAnswers::All | KeptAnswers::Negative)
    }
}

impl UpstreamPolicy {
    /// All policies.
    pub const ALL: [UpstreamPolicy; 4] = [
        UpstreamPolicy::Fastest,
        UpstreamPolicy::Random,
        UpstreamPolicy::RoundRobin,
        UpstreamPolicy::Sequential,
    ];

    /// The name in the configuration. Those of the last three policies are CoreDNS's.
    pub fn name(self) -> &'static str {
        match self {
            UpstreamPolicy::Fastest => "fastest",
            UpstreamPolicy::Random => "random",
            UpstreamPolicy::RoundRobin => "round_robin",
            UpstreamPolicy::Sequential => "sequential",
        }
    }
}

impl FromStr for UpstreamPolicy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut policies = UpstreamPolicy::ALL.into_iter();
        policies
            .find(|policy| policy.name() == text)
            .ok_or_else(|| {
                let names = UpstreamPolicy::ALL.map(UpstreamPolicy::name).join(", ");
                format!("{text:?} is not an order of upstreams: give one of {names}")
            })
    }
}

impl fmt::Display for UpstreamPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
