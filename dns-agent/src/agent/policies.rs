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
        kubernetes::{Health, Kubernetes, PolicyScope},
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
    let policies = match policy {
        NetworkPolicy::Respect => {
            Kubernetes::start_policies(client.clone(), &scope, jitter, sender)
        }
        NetworkPolicy::Ignore => Kubernetes::start_dns_path(client.clone(), &scope, jitter, sender),
    };
    let mut followed = Followed {
        client,
        dns: scope.dns,
        events,
        policies,
        dns_pods: None,
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
    events: mpsc::Receiver<Event>,
    policies: Kubernetes,
    /// The pods of the cluster's DNS, by the labels that its Service selects.
    dns_pods: Option<DnsPods>,
    observer: Observer,
    /// What stands between this node's pods and CoreDNS.
    path: watch::Sender<DnsPath>,
}

/// The pods that a selector selects.
struct DnsPods {
    labels: Labels,
    source: Kubernetes,
    /// Of its own, so that nothing comes of it after its end.
    events: mpsc::Receiver<Event>,
}

/// Nobody listens any more.
struct Gone;

impl Followed {
    async fn tell_all(&mut self, tell: &mpsc::Sender<Told>, board: &Board) -> Result<(), Gone> {
        self.tell_health(tell, board).await?;
        while let Some(event) = self.next().await {
            if self.follow_selector(&event) {
                self.tell_health(tell, board).await?;
                self.forget_pods(tell).await?;
            }
            self.observe(&event);
            tell.send(Told::Policy(event)).await.map_err(|_| Gone)?;
        }
        Ok(())
    }

    async fn next(&mut self) -> Option<Event> {
        let pods = async {
            match &mut self.dns_pods {
                Some(pods) => pods.events.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            event = self.events.recv() => event,
            event = pods => event,
        }
    }

    /// Shows what an event changes of what stands before CoreDNS.
    fn observe(&mut self, event: &Event) {
        self.observer.event(event);
        let now = self.observer.path();
        self.path.send_if_modified(|path| {
            let is_other = *path != now;
            *path = now;
            is_other
        });
    }

    /// There are no such pods any more, until they are listed again.
    async fn forget_pods(&mut self, tell: &mpsc::Sender<Told>) -> Result<(), Gone> {
        for event in [Event::Listing(Feed::DnsPods), Event::Listed(Feed::DnsPods)] {
            self.observe(&event);
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
            let (sender, events) = mpsc::channel(WAITING);
            let (client, namespace) = (self.client.clone(), &self.dns.namespace);
            DnsPods {
                labels: labels.clone(),
                source: Kubernetes::start_dns_pods(client, namespace, labels, sender),
                events,
            }
        });
        true
    }

    async fn tell_health(&self, tell: &mpsc::Sender<Told>, board: &Board) -> Result<(), Gone> {
        let dns_pods = self.dns_pods.iter().map(|pods| pods.source.health());
        let health: Vec<Arc<Health>> = std::iter::once(self.policies.health())
            .chain(dns_pods)
            .collect();
        board.show_policy_feeds(health.clone());
        let told = Told::PolicyHealth(health);
        tell.send(told).await.map_err(|_| Gone)
    }
}
