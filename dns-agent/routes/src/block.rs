//! One block of routes.

use zerohop_zone::{Name, Rtype};

use crate::{
    FixedAnswer, Forwarding, Way,
    forward::{CacheRules, Forward},
    hosts::{HostsDecision, HostsRules},
    is_within,
    name_pattern::NamePattern,
    rewrite::RewriteStep,
    template::{self, TemplateDecision, TemplateRule},
};

/// How the names in some zones are answered. The rules apply in this order: exclusions, rewriting,
/// templates, hosts, forwarding.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteBlock {
    /// The zones.
    pub zones: Vec<Name>,
    /// The cluster's zones, whose names the cluster's DNS answers.
    pub cluster_zones: Vec<Name>,
    /// Other questions that the cluster's DNS answers.
    pub exclusions: Vec<Exclusion>,
    /// The rules that replace names.
    pub rewrites: Vec<RewriteStep>,
    /// The rules that answer with a response code.
    pub templates: Vec<TemplateRule>,
    /// The names with addresses.
    pub hosts: Option<HostsRules>,
    /// The servers. The first entry that takes a name counts. If no entry takes a name, the
    /// cluster's DNS answers it.
    pub forwards: Vec<Forward>,
    /// How replies are cached, by zones. The first entry with a name counts. A name without an
    /// entry is not cached.
    pub caching: Vec<(Vec<Name>, CacheRules)>,
    /// Reasons, for people, why only the cluster's DNS can answer its clients' questions: an answer
    /// depends on the client, or it isn't known what it depends on.
    pub client_dependent: Vec<String>,
}

/// Questions that the cluster's DNS answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exclusion {
    /// Those for names at or below these.
    Names(Vec<Name>),
    /// Those for names with this pattern.
    Pattern(NamePattern),
    /// Those for this type at or below these names.
    Type(Rtype, Vec<Name>),
}

impl RouteBlock {
    pub(super) fn excludes(&self, name: &Name, rtype: Rtype) -> bool {
        is_within(name, &self.cluster_zones)
            || self.exclusions.iter().any(|it| it.covers(name, rtype))
            || (self.compares_texts() && !has_plain_text(name))
    }

    /// How a question is answered without rewriting. `zone` is the zone of this block that has the
    /// name.
    pub(super) fn way<'a>(&'a self, zone: &'a Name, name: &Name, rtype: Rtype) -> Way<'a> {
        match template::decide(&self.templates, name, rtype) {
            TemplateDecision::Next => {}
            TemplateDecision::Answer(rcode) => {
                return Way::Answer(FixedAnswer {
                    rcode,
                    records: Vec::new(),
                });
            }
            TemplateDecision::Unknown => return Way::ClusterDns,
        }
        let cache = self.cache_rules(name);
        if let Some(hosts) = &self.hosts {
            match hosts.decide(name, rtype) {
                HostsDecision::Next => {}
                HostsDecision::Answer(mut answer) => {
                    for record in &mut answer.records {
                        record.ttl = record.ttl.min(cache.max_ttl);
                    }
                    return Way::Answer(answer);
                }
            }
        }
        let forward = self.forwards.iter().find(|forward| forward.takes(name));
        let Some(forward) = forward else {
            return Way::ClusterDns;
        };
        let zone = match forward.zone.is_at_or_below(zone) {
            true => &forward.zone,
            false => zone,
        };
        match &forward.group {
            Some(group) => Way::Forward(Forwarding { zone, group, cache }),
            None => Way::ClusterDns,
        }
    }

    /// Whether rules compare the text of names.
    fn compares_texts(&self) -> bool {
        let mut exclusions = self.exclusions.iter();
        !self.rewrites.is_empty()
            || !self.templates.is_empty()
            || exclusions.any(|it| matches!(it, Exclusion::Pattern(_)))
    }

    fn cache_rules(&self, name: &Name) -> CacheRules {
        let mut entries = self.caching.iter();
        let found = entries.find(|(zones, _)| is_within(name, zones));
        found.map_or(CacheRules::OFF, |(_, rules)| *rules)
    }
}

/// Whether CoreDNS writes the name as this crate does. They differ in some characters that they
/// escape.
fn has_plain_text(name: &Name) -> bool {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_*".contains(byte);
    name.labels().all(|label| label.iter().all(is_plain))
}

impl Exclusion {
    fn covers(&self, name: &Name, rtype: Rtype) -> bool {
        match self {
            Exclusion::Names(names) => is_within(name, names),
            Exclusion::Pattern(pattern) => pattern.matches(name),
            Exclusion::Type(excluded, names) => *excluded == rtype && is_within(name, names),
        }
    }
}
