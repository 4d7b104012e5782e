//! The feed of the pods that a DNS Service selects.

use tokio::sync::mpsc;
use zerohop_kubernetes::{Event, Fact, Feed, Labels, Object, ObjectKey};
use zerohop_kubernetes_api::{Client, KubernetesSource, ReceivedEvent};

use super::dns_path::DnsPathObserver;

/// The number of events that may wait. More events wait in the connections to the API server.
const EVENT_QUEUE: usize = 256;

/// The events of a Service without pods.
pub(super) const NO_PODS: [Event; 2] = [
    Event::ListStarted(Feed::DnsPods),
    Event::ListEnded(Feed::DnsPods),
];

/// A source with its own channel, so that no event of the source arrives after it is dropped.
pub(super) struct EventSource {
    pub(super) source: KubernetesSource,
    pub(super) events: mpsc::Receiver<ReceivedEvent>,
}

/// Reads the pods that a DNS Service selects.
pub(super) struct DnsPodsFeed {
    client: Client,
    /// The Service's Namespace, which is that of the pods.
    namespace: String,
    /// `None` before the Service is known, and if the Service does not exist or has no selector.
    pods: Option<SelectedPods>,
}

struct SelectedPods {
    labels: Labels,
    source: EventSource,
}

impl EventSource {
    pub(super) fn start(
        start: impl FnOnce(mpsc::Sender<ReceivedEvent>) -> KubernetesSource,
    ) -> EventSource {
        let (sender, events) = mpsc::channel(EVENT_QUEUE);
        EventSource {
            source: start(sender),
            events,
        }
    }
}

impl DnsPodsFeed {
    /// A feed that waits for the Service.
    pub(super) fn new(client: Client, service: &ObjectKey) -> DnsPodsFeed {
        DnsPodsFeed {
            client,
            namespace: service.namespace.to_string(),
            pods: None,
        }
    }

    /// The current source, if there is one.
    pub(super) fn source(&self) -> Option<&EventSource> {
        self.pods.as_ref().map(|pods| &pods.source)
    }

    /// As [`DnsPodsFeed::source`].
    pub(super) fn source_mut(&mut self) -> Option<&mut EventSource> {
        self.pods.as_mut().map(|pods| &mut pods.source)
    }

    /// If the event changes the Service's selector, starts reading the pods that it selects now.
    /// Returns whether the selector changed.
    pub(super) fn follow_selector(&mut self, event: &Event) -> bool {
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
        let before = self.pods.as_ref().map(|pods| &pods.labels);
        // The endpoints of a Service without a selector are written by hand and need not be pods.
        let wanted = Some(labels).filter(|labels| !labels.is_empty());
        if before == wanted {
            return false;
        }
        self.pods = wanted.map(|labels| {
            let (client, namespace) = (self.client.clone(), &self.namespace);
            let start =
                |sender| KubernetesSource::start_dns_pods(client, namespace, labels, sender);
            SelectedPods {
                labels: labels.clone(),
                source: EventSource::start(start),
            }
        });
        true
    }

    /// Drops the pods from a path after [`DnsPodsFeed::follow_selector`] has returned `true` for
    /// this event of the Service. If the Service exists without a selector, no pods will be listed,
    /// so the list of pods is empty at once.
    pub(super) fn reset_path(&self, observer: &mut DnsPathObserver, service_event: &Event) {
        observer.reset_feed(Feed::DnsPods);
        let exists = matches!(service_event, Event::Applied { .. });
        if exists && self.pods.is_none() {
            for event in NO_PODS {
                observer.apply_event(&event);
            }
        }
    }
}
