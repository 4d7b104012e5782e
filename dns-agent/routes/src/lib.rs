//! How names outside the cluster are answered: by rules, or by groups of upstream servers.
//!
//! [`Routes`] is what CoreDNS's Corefile, kube-dns's ConfigMap or the operator's settings say about
//! these names. [`Routes::way`] is a pure function of a name and a type. Where CoreDNS may do
//! something that this crate can't express, the way is [`Way::ClusterDns`].

#![forbid(unsafe_code)]

mod block;
mod forward;
mod hosts;
mod name_pattern;
mod rewrite;
mod template;

use std::collections::HashMap;

use zerohop_zone::{Name, Record, Rtype};

pub use block::{Exclusion, RouteBlock};
pub use forward::{
    CacheRules, Forward, ForwardGroup, ForwardServer, ForwardTransport, GroupTrust, KeptAnswers,
    StaleMode, StaleRules, UpstreamPolicy,
};
pub use hosts::{HostsRules, UnsupportedTypes};
pub use name_pattern::NamePattern;
pub use rewrite::{AfterMatch, NameRewrite, RewriteEffect, RewriteStep, Rewriting};
pub use template::TemplateRule;

/// How names outside the cluster are answered. The blocks have the meaning of CoreDNS's server
/// blocks: a name belongs to the block with the longest zone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Routes {
    blocks: Vec<RouteBlock>,
    /// The index of each zone's block.
    by_zone: HashMap<Name, usize>,
    /// The cluster's zones of all blocks.
    cluster_zones: Vec<Name>,
}

/// How a question is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way<'a> {
    /// The cluster's DNS answers it, because it isn't known how.
    ClusterDns,
    /// Another name is looked up instead: first in the local data, then by
    /// [`Routes::way_after_rewriting`].
    Rewritten(Rewriting),
    /// The answer.
    Answer(FixedAnswer),
    /// These servers answer it.
    Forward(Forwarding<'a>),
}

/// An answer without an upstream. It is authoritative unless it is a failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FixedAnswer {
    /// The response code: 0 is NOERROR, 2 is SERVFAIL, 3 is NXDOMAIN (RFC 1035 section 4.1.1).
    pub rcode: u8,
    /// The records of the answer section.
    pub records: Vec<Record>,
}

/// How a question is forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forwarding<'a> {
    /// The zone that leads to the servers: that of the server block, or a longer one of its rule.
    pub zone: &'a Name,
    /// The servers.
    pub group: &'a ForwardGroup,
    /// How replies are cached.
    pub cache: CacheRules,
}

impl Routes {
    /// Routes by these blocks. Of two blocks with the same zone, the first one counts.
    pub fn new(blocks: Vec<RouteBlock>) -> Routes {
        let mut by_zone = HashMap::new();
        for (index, block) in blocks.iter().enumerate() {
            for zone in &block.zones {
                by_zone.entry(zone.clone()).or_insert(index);
            }
        }
        let cluster_zones = blocks.iter().flat_map(|block| &block.cluster_zones);
        Routes {
            cluster_zones: cluster_zones.cloned().collect(),
            blocks,
            by_zone,
        }
    }

    /// Whether all questions go to the cluster's DNS.
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// The blocks, in their order.
    pub fn blocks(&self) -> &[RouteBlock] {
        &self.blocks
    }

    /// The groups of servers, in the order of their blocks.
    pub fn groups(&self) -> impl Iterator<Item = &ForwardGroup> {
        let forwards = self.blocks.iter().flat_map(|block| &block.forwards);
        forwards.filter_map(|forward| forward.group.as_ref())
    }

    /// The cluster's zones, whose names the cluster's DNS answers.
    pub fn cluster_zones(&self) -> &[Name] {
        &self.cluster_zones
    }

    /// Why only the cluster's DNS can answer its clients' questions. `None`: it doesn't matter to
    /// the answers who asks.
    pub fn client_dependence(&self) -> Option<&str> {
        let mut reasons = self.blocks.iter().flat_map(|block| &block.client_dependent);
        reasons.next().map(String::as_str)
    }

    /// The longest zone of a name that a block has.
    pub fn zone_of(&self, name: &Name) -> Option<&Name> {
        self.find_zone(name).map(|(zone, _)| zone)
    }

    /// How a question is answered.
    pub fn way(&self, name: &Name, rtype: Rtype) -> Way<'_> {
        let Some((zone, block)) = self.block_of(name) else {
            return Way::ClusterDns;
        };
        if block.excludes(name, rtype) {
            return Way::ClusterDns;
        }
        match rewrite::rewrite(&block.rewrites, name, rtype) {
            RewriteEffect::Unchanged => block.way(zone, name, rtype),
            RewriteEffect::Unknown => Way::ClusterDns,
            // CoreDNS looks the new name up in the same block.
            RewriteEffect::Rewritten(rewriting)
                if self
                    .block_of(&rewriting.name)
                    .is_some_and(|(_, it)| std::ptr::eq(it, block)) =>
            {
                Way::Rewritten(rewriting)
            }
            RewriteEffect::Rewritten(_) => Way::ClusterDns,
        }
    }

    /// How a question is answered whose name is the result of a rewriting.
    pub fn way_after_rewriting(&self, name: &Name, rtype: Rtype) -> Way<'_> {
        match self.block_of(name) {
            Some((zone, block)) if !block.excludes(name, rtype) => block.way(zone, name, rtype),
            _ => Way::ClusterDns,
        }
    }

    /// The longest zone of a name, and its block.
    fn block_of(&self, name: &Name) -> Option<(&Name, &RouteBlock)> {
        let (zone, index) = self.find_zone(name)?;
        Some((zone, self.blocks.get(*index)?))
    }

    fn find_zone(&self, name: &Name) -> Option<(&Name, &usize)> {
        let mut suffixes = name.suffixes();
        let found = suffixes.find_map(|suffix| self.by_zone.get_key_value(suffix));
        found.or_else(|| self.by_zone.get_key_value(&Name::root()))
    }
}

/// Whether a name is at or below one of these zones.
fn is_within(name: &Name, zones: &[Name]) -> bool {
    zones.iter().any(|zone| name.is_at_or_below(zone))
}

#[cfg(test)]
mod tests;
