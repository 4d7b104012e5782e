//! Reads the facts for evaluating policies from the Kubernetes API.
//!
//! These feeds are separate from the feeds of objects, because names are published even if facts
//! can't be read. The kernel answers no pod until the facts are known, unless policies are ignored.
//! The path from this node's pods to CoreDNS ([`super::dns_path`]) is computed from the same
//! events. Because the kernel plane always needs the path, some of these feeds also run when
//! policies are ignored.

use std::{sync::Arc, time::Duration};

use tokio::sync::{mpsc, watch};
use zerohop_kubernetes::{Event, Fact, Object, ObjectKey};
use zerohop_kubernetes_api::{
    Client, Discovery, KubernetesSource, PolicyScope, ReceivedEvent, ServedKinds,
};

use super::{
    dns_path::{DnsPath, DnsPathObserver},
    dns_pods::{DnsPodsFeed, EventSource, NO_PODS},
    intake::{KubernetesSender, UrgentMessage},
};
use crate::{
    admin::status_board::StatusBoard, agent::intake::PublisherGone, config::NetworkPolicy,
};

/// The number of events that may wait for the publisher. More events wait in the connections to the
/// API server.
const EVENT_QUEUE: usize = 256;

/// Sends events to the publisher, and the DNS path to `dns_path`, until the publisher or a source
/// of events has ended. Returns the task's name.
pub(super) async fn follow(
    client: Client,
    scope: PolicyScope,
    policy: NetworkPolicy,
    jitter: Duration,
    publisher: KubernetesSender,
    dns_path: watch::Sender<DnsPath>,
    board: Arc<StatusBoard>,
) -> &'static str {
    let (sender, events) = mpsc::channel(EVENT_QUEUE);
    let (policies, discovery) = match policy {
        NetworkPolicy::Respect => {
            let (kinds, served_kinds) = mpsc::channel(1);
            let discovery = KindDiscovery {
                discovery: Discovery::start(client.clone(), jitter, kinds),
                served_kinds,
            };
            let policies = KubernetesSource::start_policies(client.clone(), &scope, jitter, sender);
            (policies, Some(discovery))
        }
        NetworkPolicy::Ignore => {
            let client = client.clone();
            let source = KubernetesSource::start_dns_path(client, &scope, jitter, sender);
            (source, None)
        }
    };
    let mut follower = PolicyFollower {
        dns_pods: DnsPodsFeed::new(client.clone(), &scope.dns),
        client,
        dns_service: scope.dns,
        policies: EventSource {
            events,
            source: policies,
        },
        discovery,
        namespaces: None,
        other_policies: None,
        observer: DnsPathObserver::default(),
        dns_path,
    };
    let _ = follower.send_all(&publisher, &board).await;
    "the reader of policies"
}

/// Starts and stops the sources of facts as events require.
struct PolicyFollower {
    client: Client,
    /// The Service of the cluster's DNS.
    dns_service: ObjectKey,
    /// The main source. If policies are ignored, it reads only what the DNS path needs.
    policies: EventSource,
    /// `None` if policies are ignored.
    discovery: Option<KindDiscovery>,
    dns_pods: DnsPodsFeed,
    /// All Namespaces with their labels; `None` until an ingress policy in the namespace of the
    /// cluster's DNS, or a cluster-wide policy, selects clients by a Namespace label other than the
    /// Namespace's name.
    namespaces: Option<EventSource>,
    /// Policies of other kinds than NetworkPolicy, such as AdminNetworkPolicy. `None` until the
    /// kinds are discovered, while the API serves none of them, or if policies are ignored.
    other_policies: Option<EventSource>,
    /// Computes the DNS path from the same events.
    observer: DnsPathObserver,
    /// Receives the path from this node's pods to CoreDNS.
    dns_path: watch::Sender<DnsPath>,
}

/// Discovers the kinds of policies that the API serves besides NetworkPolicy.
struct KindDiscovery {
    discovery: Discovery,
    served_kinds: mpsc::Receiver<ServedKinds>,
}

/// An event, or a change of the served kinds.
enum PolicyUpdate {
    Event(Box<Event>),
    Kinds(ServedKinds),
}

impl PolicyFollower {
    async fn send_all(
        &mut self,
        publisher: &KubernetesSender,
        board: &StatusBoard,
    ) -> Result<(), PublisherGone> {
        self.send_health(publisher, board).await?;
        while let Some(update) = self.next_update().await {
            match update {
                PolicyUpdate::Event(event) => {
                    let has_selector_changed = self.dns_pods.follow_selector(&event);
                    // `|` rather than `||`, because both functions must see the event.
                    if has_selector_changed | self.follow_namespaces(&event) {
                        self.send_health(publisher, board).await?;
                    }
                    if has_selector_changed {
                        self.reset_dns_pods(publisher, &event).await?;
                    }
                    self.update_dns_path(&event);
                    publisher
                        .urgent
                        .send(UrgentMessage::PolicyEvent(*event))
                        .await?;
                }
                PolicyUpdate::Kinds(kinds) => {
                    self.follow_kinds(&kinds);
                    self.send_health(publisher, board).await?;
                    let message = UrgentMessage::PolicyKinds(kinds.into_keys().collect());
                    publisher.urgent.send(message).await?;
                }
            }
        }
        Ok(())
    }

    async fn next_update(&mut self) -> Option<PolicyUpdate> {
        let event = tokio::select! {
            kinds = next_served_kinds(self.discovery.as_mut()) => {
                return kinds.map(PolicyUpdate::Kinds);
            }
            event = self.policies.events.recv() => event,
            event = next_event(self.dns_pods.source_mut()) => event,
            event = next_event(self.namespaces.as_mut()) => event,
            event = next_event(self.other_policies.as_mut()) => event,
        };
        event.map(|event| PolicyUpdate::Event(Box::new(event.event)))
    }

    /// Starts reading the policies of these kinds, and stops reading those of the previous kinds.
    fn follow_kinds(&mut self, kinds: &ServedKinds) {
        self.other_policies = (!kinds.is_empty()).then(|| {
            EventSource::start(|sender| {
                KubernetesSource::start_other_policies(self.client.clone(), kinds, sender)
            })
        });
    }

    /// Starts reading all Namespaces if this event is the first policy that needs their labels.
    /// Returns whether reading was started.
    fn follow_namespaces(&mut self, event: &Event) -> bool {
        let Event::Applied {
            object: Object::Fact(fact),
            ..
        } = event
        else {
            return false;
        };
        let needs_namespaces = match fact {
            Fact::Policy(policy) => {
                policy.key.namespace == self.dns_service.namespace && policy.needs_namespaces()
            }
            Fact::OtherPolicy(policy) => policy.needs_namespaces(),
            _ => false,
        };
        if self.namespaces.is_some() || !needs_namespaces {
            return false;
        }
        let client = self.client.clone();
        let start = |sender| KubernetesSource::start_all_namespaces(client, sender);
        self.namespaces = Some(EventSource::start(start));
        true
    }

    /// Applies an event to the DNS path, and sends the path if it has changed.
    fn update_dns_path(&mut self, event: &Event) {
        if self.observer.apply_event(event) {
            self.send_dns_path();
        }
    }

    fn send_dns_path(&mut self) {
        let current = self.observer.path();
        self.dns_path.send_if_modified(|dns_path| {
            let has_changed = *dns_path != current;
            *dns_path = current;
            has_changed
        });
    }

    /// Drops the pods of the cluster's DNS because its Service selects other pods or none now.
    /// Until the new pods are listed, policies are evaluated as if the Service had no pods, and the
    /// start times are unknown. If the Service exists without a selector, no pods will be listed,
    /// so the list of start times is empty at once.
    async fn reset_dns_pods(
        &mut self,
        publisher: &KubernetesSender,
        service_event: &Event,
    ) -> Result<(), PublisherGone> {
        self.dns_pods.reset_path(&mut self.observer, service_event);
        self.send_dns_path();
        for event in NO_PODS {
            publisher
                .urgent
                .send(UrgentMessage::PolicyEvent(event))
                .await?;
        }
        Ok(())
    }

    async fn send_health(
        &self,
        publisher: &KubernetesSender,
        board: &StatusBoard,
    ) -> Result<(), PublisherGone> {
        let sources = std::iter::once(&self.policies).chain(self.dns_pods.source());
        let sources = sources.chain(&self.namespaces).chain(&self.other_policies);
        let health = sources.map(|source| source.source.health());
        let discovery = self.discovery.iter().map(|it| it.discovery.health());
        let health: Vec<_> = health.chain(discovery).collect();
        board.set_policy_feeds(health.clone());
        let message = UrgentMessage::PolicyHealth(health);
        publisher.urgent.send(message).await
    }
}

/// The kinds that are served now; waits forever if policies are ignored.
async fn next_served_kinds(kinds: Option<&mut KindDiscovery>) -> Option<ServedKinds> {
    match kinds {
        Some(kinds) => kinds.served_kinds.recv().await,
        None => std::future::pending().await,
    }
}

/// The next event of a source; waits forever without one.
async fn next_event(source: Option<&mut EventSource>) -> Option<ReceivedEvent> {
    match source {
        Some(source) => source.events.recv().await,
        None => std::future::pending().await,
    }
}
