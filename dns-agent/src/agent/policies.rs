//! Follows what the Kubernetes API says of who may ask the cluster's DNS.
//!
//! It is read beside everything else: what can't be known of it keeps pods from being answered, and
//! names from nothing. The same objects say what stands between this node's pods and CoreDNS
//! ([`super::dns_path`]), which matters where policies are ignored, too.

use std::{sync::Arc, time::Duration};

use kube::Client;
use tokio::sync::{mpsc, watch};

use super::{
    dns_path::{DnsPath, Observer},
    writer::Told,
};
use crate::{
    admin::board::Board,
    cluster::{Fact, Key, Labels, Object},
    config::NetworkPolicy,
    source::{
        Event, Feed,
        kubernetes::{Discovery, Kubernetes, PolicyScope, ServedKinds},
    },
};

/// Events that wait for the writer. More wait in the API server's connections.
const WAITING: usize = 256;

/// Tells the writer what the API server tells, until the writer is gone.
pub(super) async fn follow(
    client: Client,
    scope: PolicyScope,
    policy: NetworkPolicy,
    jitter: Duration,
    tell: mpsc::Sender<Told>,
    path: watch::Sender<DnsPath>,
    board: Arc<Board>,
) -> &'static str {
    let (sender, events) = mpsc::channel(WAITING);
    let (policies, discovery) = match policy {
        NetworkPolicy::Respect => {
            let (kinds, discovered) = mpsc::channel(1);
            let discovery = KindsServed {
                discovery: Discovery::start(client.clone(), jitter, kinds),
                discovered,
            };
            let policies = Kubernetes::start_policies(client.clone(), &scope, jitter, sender);
            (policies, Some(discovery))
        }
        NetworkPolicy::Ignore => {
            let path = Kubernetes::start_dns_path(client.clone(), &scope, jitter, sender);
            (path, None)
        }
    };
    let mut followed = Followed {
        client,
        dns: scope.dns,
        policies: Source {
            events,
            source: policies,
        },
        discovery,
        dns_pods: None,
        namespaces: None,
        others: None,
        observer: Observer::default(),
        path,
    };
    let _ = followed.tell_all(&tell, &board).await;
    "the source of policies"
}

/// What is read.
struct Followed {
    client: Client,
    dns: Key,
    policies: Source,
    /// None where policies don't matter.
    discovery: Option<KindsServed>,
    /// The pods of the cluster's DNS, by the labels that its Service selects.
    dns_pods: Option<DnsPods>,
    /// All Namespaces with their labels, once a policy about the cluster's DNS selects by these.
    namespaces: Option<Source>,
    /// Policies of the kinds that are not evaluated.
    others: Option<Source>,
    observer: Observer,
    /// What stands between this node's pods and CoreDNS.
    path: watch::Sender<DnsPath>,
}

/// The kinds of policies that the API serves.
struct KindsServed {
    discovery: Discovery,
    discovered: mpsc::Receiver<ServedKinds>,
}

/// Objects that are read, and their events: a channel of its own, so that nothing comes of a source after
/// its end.
struct Source {
    source: Kubernetes,
    events: mpsc::Receiver<Event>,
}

/// The pods that a selector selects.
struct DnsPods {
    labels: Labels,
    source: Source,
}

/// What comes next.
enum News {
    Event(Box<Event>),
    Kinds(ServedKinds),
}

/// Nobody listens any more.
struct Gone;

impl Followed {
    async fn tell_all(&mut self, tell: &mpsc::Sender<Told>, board: &Board) -> Result<(), Gone> {
        self.tell_health(tell, board).await?;
        while let Some(news) = self.next().await {
            match news {
                News::Event(event) => {
                    let has_other_pods = self.follow_selector(&event);
                    if has_other_pods | self.follow_namespaces(&event) {
                        self.tell_health(tell, board).await?;
                    }
                    if has_other_pods {
                        self.forget_pods(tell, &event).await?;
                    }
                    self.observe(&event);
                    tell.send(Told::Policy(*event)).await.map_err(|_| Gone)?;
                }
                News::Kinds(kinds) => {
                    self.follow_kinds(&kinds);
                    self.tell_health(tell, board).await?;
                    let told = Told::PolicyKinds(kinds.into_keys().collect());
                    tell.send(told).await.map_err(|_| Gone)?;
                }
            }
        }
        Ok(())
    }

    async fn next(&mut self) -> Option<News> {
        let pods = self.dns_pods.as_mut().map(|pods| &mut pods.source);
        let event = tokio::select! {
            kinds = discovered(self.discovery.as_mut()) => return kinds.map(News::Kinds),
            event = self.policies.events.recv() => event,
            event = next(pods) => event,
            event = next(self.namespaces.as_mut()) => event,
            event = next(self.others.as_mut()) => event,
        };
        event.map(Box::new).map(News::Event)
    }

    /// Reads the policies of these kinds.
    fn follow_kinds(&mut self, kinds: &ServedKinds) {
        self.others = (!kinds.is_empty()).then(|| {
            Source::start(|sender| {
                Kubernetes::start_other_policies(self.client.clone(), kinds, sender)
            })
        });
    }

    /// Reads all Namespaces from the first policy on that needs to know their labels. Says whether it has
    /// just begun.
    fn follow_namespaces(&mut self, event: &Event) -> bool {
        let Event::Applied {
            object: Object::Fact(Fact::Policy(policy)),
            ..
        } = event
        else {
            return false;
        };
        let is_about_dns = policy.key.namespace == self.dns.namespace;
        if self.namespaces.is_some() || !is_about_dns || !policy.needs_namespaces() {
            return false;
        }
        let client = self.client.clone();
        let start = |sender| Kubernetes::start_client_namespaces(client, sender);
        self.namespaces = Some(Source::start(start));
        true
    }

    /// Shows what an event changes of what stands before CoreDNS.
    fn observe(&mut self, event: &Event) {
        self.observer.event(event);
        self.show_path();
    }

    fn show_path(&mut self) {
        let now = self.observer.path();
        self.path.send_if_modified(|path| {
            let is_other = *path != now;
            *path = now;
            is_other
        });
    }

    /// The pods of the cluster's DNS are others now. Policies are judged as if there were none until they
    /// are listed. When they were started is not known until then, but for a Service without a selector,
    /// which has none.
    async fn forget_pods(&mut self, tell: &mpsc::Sender<Told>, by: &Event) -> Result<(), Gone> {
        self.observer.forget(Feed::DnsPods);
        let is_there = matches!(by, Event::Applied { .. });
        let has_none = is_there && self.dns_pods.is_none();
        for event in [Event::Listing(Feed::DnsPods), Event::Listed(Feed::DnsPods)] {
            if has_none {
                self.observer.event(&event);
            }
            self.show_path();
            tell.send(Told::Policy(event)).await.map_err(|_| Gone)?;
        }
        Ok(())
    }

    /// Reads the pods of the Service of the cluster's DNS, as it is now. Says whether these are others
    /// than before.
    fn follow_selector(&mut self, event: &Event) -> bool {
        let labels = match event {
            Event::Applied {
                feed: Feed::DnsService,
                object: Object::Fact(Fact::Service(service)),
                ..
            } => &service.selector,
            Event::Deleted {
                feed: Feed::DnsService,
                ..
            } => &Labels::new(),
            _ => return false,
        };
        let before = self.dns_pods.as_ref().map(|pods| &pods.labels);
        // A Service without a selector has no pods, but whatever somebody wrote into its slices.
        let wanted = Some(labels).filter(|labels| !labels.is_empty());
        if before == wanted {
            return false;
        }
        self.dns_pods = wanted.map(|labels| {
            let (client, namespace) = (self.client.clone(), &self.dns.namespace);
            let start = |sender| Kubernetes::start_dns_pods(client, namespace, labels, sender);
            DnsPods {
                labels: labels.clone(),
                source: Source::start(start),
            }
        });
        true
    }

    async fn tell_health(&self, tell: &mpsc::Sender<Told>, board: &Board) -> Result<(), Gone> {
        let dns_pods = self.dns_pods.iter().map(|pods| &pods.source);
        let sources = std::iter::once(&self.policies).chain(dns_pods);
        let sources = sources.chain(&self.namespaces).chain(&self.others);
        let health = sources.map(|source| source.source.health());
        let discovery = self.discovery.iter().map(|it| it.discovery.health());
        let health: Vec<_> = health.chain(discovery).collect();
        board.show_policy_feeds(health.clone());
        let told = Told::PolicyHealth(health);
        tell.send(told).await.map_err(|_| Gone)
    }
}

impl Source {
    fn start(start: impl FnOnce(mpsc::Sender<Event>) -> Kubernetes) -> Source {
        let (sender, events) = mpsc::channel(WAITING);
        Source {
            source: start(sender),
            events,
        }
    }
}

/// The kinds that are served now; never, where they don't matter.
async fn discovered(kinds: Option<&mut KindsServed>) -> Option<ServedKinds> {
    match kinds {
        Some(kinds) => kinds.discovered.recv().await,
        None => std::future::pending().await,
    }
}

/// The next event of a source; never, where there is none.
async fn next(source: Option<&mut Source>) -> Option<Event> {
    match source {
        Some(source) => source.events.recv().await,
        None => std::future::pending().await,
    }
}
