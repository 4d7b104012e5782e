//! Who may ask, as far as it is known: the writer's side of NetworkPolicies.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use tracing::info;

use crate::{
    admin::status::PolicyStatus,
    cluster::{Facts, Key, LeftOut, Object, PolicyKind, Verdicts},
    config::{Config, NetworkPolicy, Source},
    datapath::Clients,
    source::{
        Event, Feed,
        kubernetes::{FeedHealth, Health, State},
    },
};

/// Lists that must be complete before any pod can be allowed.
const NEEDED: [Feed; 4] = [
    Feed::Policies,
    Feed::PolicyKinds,
    Feed::DnsService,
    Feed::DnsEndpoints,
];

/// Judges who may ask.
pub(super) struct Guard {
    watched: Watched,
    facts: Facts,
    /// What was judged last, of what is known.
    judged: Judged,
    /// Whether other facts are known since.
    is_newer: bool,
    clients: Clients,
    left_out: Vec<LeftOut>,
}

/// Where facts come from.
enum Watched {
    /// Nowhere: there is no kernel plane.
    Off,
    /// Nowhere: everybody may ask.
    Ignored,
    /// Files, which are whole at any time.
    Files,
    /// The Kubernetes API.
    Api {
        /// How its feeds do.
        health: Vec<Arc<Health>>,
        max_age: Option<Duration>,
        /// Whether it is known which pods are this node's.
        has_node: bool,
    },
}

/// By what was judged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Judged {
    state: Known,
    served: Vec<SocketAddr>,
}

/// Whether what is known suffices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Known {
    /// Not everything has been listed once.
    #[default]
    NotYet,
    /// It may have changed since.
    NoMore,
    /// It does.
    Yes,
}

impl Guard {
    /// Nobody is known to be allowed yet.
    pub(super) fn new(config: &Config) -> Guard {
        let watched = match &config.source {
            _ if config.interfaces.is_empty() => Watched::Off,
            _ if config.network_policy == NetworkPolicy::Ignore => Watched::Ignored,
            Source::Manifests(_) => Watched::Files,
            Source::Kubernetes(kubernetes) => Watched::Api {
                health: Vec::new(),
                max_age: kubernetes.max_age,
                has_node: kubernetes.node_name.is_some(),
            },
        };
        Guard {
            clients: match watched {
                Watched::Off | Watched::Ignored => Clients::Any,
                Watched::Files | Watched::Api { .. } => Clients::Known(BTreeSet::new()),
            },
            facts: match watched {
                Watched::Off | Watched::Ignored | Watched::Files => Facts::default(),
                Watched::Api { .. } => Facts::awaiting(NEEDED),
            },
            watched,
            judged: Judged::default(),
            is_newer: true,
            left_out: Vec::new(),
        }
    }

    /// Who may ask.
    pub(super) fn clients(&self) -> &Clients {
        &self.clients
    }

    /// These facts are all there are.
    pub(super) fn replace(&mut self, facts: Facts) {
        self.facts = facts;
        self.is_newer = true;
    }

    /// Takes what a feed tells.
    pub(super) fn event(&mut self, event: Event) {
        // Most events change nothing that matters here, such as the status of a pod.
        self.is_newer |= match event {
            Event::Listing(feed) => {
                self.facts.listing(feed);
                false
            }
            Event::Listed(feed) => self.facts.listed(feed),
            Event::Applied {
                feed,
                object: Object::Fact(fact),
                ..
            } => self.facts.apply(feed, fact),
            Event::Deleted { feed, key } => self.facts.delete(feed, &key),
            Event::Unusable { feed, problem, .. } => {
                let key = Key::new(problem.namespace, problem.name);
                self.facts.unusable(feed, key)
            }
            Event::Applied { .. }
            | Event::Covered(..)
            | Event::Corefile { .. }
            | Event::CacheConfig { .. } => false,
        };
    }

    /// The API serves these kinds of policies that are not evaluated.
    pub(super) fn discovered(&mut self, kinds: BTreeSet<PolicyKind>) {
        self.is_newer = true;
        self.facts.discovered(kinds);
    }

    /// From now on the feeds do as these say.
    pub(super) fn watch(&mut self, feeds: Vec<Arc<Health>>) {
        if let Watched::Api { health, .. } = &mut self.watched {
            *health = feeds;
        }
    }

    /// Who may ask at these addresses, if that is not what it was when this was asked last.
    pub(super) fn judge(&mut self, served: &[SocketAddr]) -> Option<Clients> {
        if matches!(self.watched, Watched::Off | Watched::Ignored) {
            return None;
        }
        let judged = Judged {
            state: self.known(),
            served: served.to_vec(),
        };
        if !self.is_newer && judged == self.judged {
            return None;
        }
        self.is_newer = false;
        let verdicts = match judged.state {
            Known::NotYet | Known::NoMore => Verdicts {
                permitted: Some(BTreeSet::new()),
                left_out: Vec::new(),
            },
            Known::Yes => self.facts.verdicts(served),
        };
        self.judged = judged;
        self.tell(&verdicts.left_out);
        self.left_out = verdicts.left_out;
        self.clients = verdicts.permitted.map_or(Clients::Any, Clients::Known);
        Some(self.clients.clone())
    }

    /// Whether it is no use to wait for more before the kernel may answer.
    pub(super) fn is_settled(&self) -> bool {
        self.waiting().is_empty()
    }

    /// What is still to come.
    pub(super) fn missing(&self) -> Option<String> {
        let waiting: Vec<_> = self.waiting().iter().map(|feed| feed.name()).collect();
        let waiting = waiting.join(", ");
        (!waiting.is_empty()).then(|| format!("no list yet of {waiting}"))
    }

    /// Why nobody, or not everybody who may ask, is answered.
    pub(super) fn degraded(&self) -> Vec<String> {
        let Watched::Api { has_node, .. } = &self.watched else {
            return Vec::new();
        };
        let mut degraded = Vec::new();
        let restricts = matches!(self.clients, Clients::Known(_));
        for (feed, health) in self.feeds() {
            let is_needed = self.facts.awaited().contains(&feed) || restricts;
            if let State::Retrying { error } = &health.state
                && health.heard.is_none()
                && is_needed
            {
                degraded.push(format!(
                    "pods' queries pass, since it isn't known whom NetworkPolicies let ask: {error}; or give --network-policy ignore"
                ));
            }
        }
        if self.judged.state == Known::NoMore {
            degraded.push(
                "pods' queries pass: the API has said nothing of NetworkPolicies for --max-age"
                    .to_owned(),
            );
        }
        if !has_node && self.judged.state == Known::Yes && restricts {
            degraded.push(
                "pods' queries pass: there are policies about egress or about the cluster's DNS, and which pods are on this node isn't known; give its name as --node-name"
                    .to_owned(),
            );
        }
        degraded
    }

    /// What to show.
    pub(super) fn status(&self) -> Option<PolicyStatus> {
        let mode = match self.watched {
            Watched::Off => return None,
            Watched::Ignored => "ignore",
            Watched::Files | Watched::Api { .. } => "respect",
        };
        Some(PolicyStatus {
            mode: mode.to_owned(),
            permitted: match &self.clients {
                Clients::Any => None,
                Clients::Known(addresses) => Some(addresses.len()),
            },
            left_out: self.left_out.clone(),
        })
    }

    /// Says of every pod that is left out why, when that is new.
    fn tell(&self, left_out: &[LeftOut]) {
        let before: BTreeSet<_> = self.left_out.iter().collect();
        for LeftOut { pod, reason, .. } in left_out.iter().filter(|it| !before.contains(it)) {
            info!("the kernel does not answer Pod {pod}: {reason}");
        }
    }

    fn known(&self) -> Known {
        if !self.facts.awaited().is_empty() {
            return Known::NotYet;
        }
        let Watched::Api {
            max_age: Some(max_age),
            ..
        } = &self.watched
        else {
            return Known::Yes;
        };
        let feeds = self.feeds();
        let mut ages = feeds.values().filter_map(FeedHealth::age);
        match ages.all(|age| age <= *max_age) {
            true => Known::Yes,
            false => Known::NoMore,
        }
    }

    /// Feeds of which nothing has come yet, nor an error.
    fn waiting(&self) -> Vec<Feed> {
        let is_waiting = |health: &FeedHealth| {
            health.heard.is_none() && !matches!(health.state, State::Retrying { .. })
        };
        match &self.watched {
            Watched::Off | Watched::Ignored | Watched::Files => Vec::new(),
            // The reading has not begun.
            Watched::Api { health, .. } if health.is_empty() => NEEDED.to_vec(),
            Watched::Api { .. } => {
                let feeds = self.feeds().into_iter();
                let waiting = feeds.filter(|(_, health)| is_waiting(health));
                waiting.map(|(feed, _)| feed).collect()
            }
        }
    }

    fn feeds(&self) -> BTreeMap<Feed, FeedHealth> {
        match &self.watched {
            Watched::Off | Watched::Ignored | Watched::Files => BTreeMap::new(),
            Watched::Api { health, .. } => {
                health.iter().flat_map(|health| health.feeds()).collect()
            }
        }
    }
}
