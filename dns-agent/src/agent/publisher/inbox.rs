//! The messages that wait for the publisher.
//!
//! Objects may arrive faster than they can be published. Everything else, such as policies and
//! plans, has a channel of its own, so that it doesn't wait behind objects.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};
use zerohop_datapath::StopMode;
use zerohop_kubernetes::{Event, Objects, PolicyKind};
use zerohop_kubernetes_api::SourceHealth;

use super::AnswerPlan;

/// The number of messages of each channel that may wait.
const CAPACITY: usize = 1024;

/// Messages to the publisher, except objects.
#[derive(Debug)]
pub(in crate::agent) enum PublisherMessage {
    /// A new plan.
    Plan(AnswerPlan),
    /// An event of a feed of facts for NetworkPolicies.
    PolicyEvent(Event),
    /// The kinds of policies that the API serves but Zerohop doesn't evaluate.
    PolicyKinds(BTreeSet<PolicyKind>),
    /// The health of the feeds of facts.
    PolicyHealth(Vec<Arc<SourceHealth>>),
    /// Network devices were added, changed or removed.
    DevicesChanged,
    /// Stops the publisher, and the kernel plane in this mode.
    Shutdown(StopMode),
}

/// Objects for the publisher.
#[derive(Debug)]
pub(super) enum ObjectMessage {
    /// All objects of the manifests.
    Objects {
        objects: Box<Objects>,
        /// Receives `()` when the objects are published.
        published: oneshot::Sender<()>,
        received: Instant,
    },
    /// An event of a feed of objects.
    Event {
        event: Box<Event>,
        /// The reader of the feed.
        reader: ReaderNumber,
        /// When the event was read from the API.
        received: Instant,
    },
}

/// The number of a reader of objects from the API. A later reader has a larger number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::agent) struct ReaderNumber(u64);

/// Sends messages to the publisher.
#[derive(Clone, Debug)]
pub(in crate::agent) struct PublisherSender {
    urgent: mpsc::Sender<PublisherMessage>,
    objects: mpsc::Sender<ObjectMessage>,
}

/// Receives the messages to the publisher.
#[derive(Debug)]
pub(in crate::agent) struct PublisherInbox {
    urgent: mpsc::Receiver<PublisherMessage>,
    objects: mpsc::Receiver<ObjectMessage>,
    /// Messages that [`PublisherInbox::wait`] took from the channels.
    waiting_urgent: Option<PublisherMessage>,
    waiting_objects: Option<ObjectMessage>,
}

/// Objects that wait in the inbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Backlog {
    Empty,
    /// Objects may wait that were received after this time.
    Since(Instant),
}

/// The publisher has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::agent) struct PublisherGone;

impl PublisherSender {
    /// Sends a message that must not wait behind objects.
    pub(in crate::agent) async fn send(
        &self,
        message: PublisherMessage,
    ) -> Result<(), PublisherGone> {
        let sent = self.urgent.send(message).await;
        sent.map_err(|_| PublisherGone)
    }

    /// Sends all objects of the manifests, and waits until they are published.
    pub(in crate::agent) async fn publish_objects(
        &self,
        objects: Objects,
    ) -> Result<(), PublisherGone> {
        let (published, done) = oneshot::channel();
        let message = ObjectMessage::Objects {
            objects: Box::new(objects),
            published,
            received: Instant::now(),
        };
        let sent = self.objects.send(message).await;
        sent.map_err(|_| PublisherGone)?;
        done.await.map_err(|_| PublisherGone)
    }

    /// Waits for room for an event in the inbox.
    pub(in crate::agent) async fn reserve_event(&self) -> Result<EventPlace<'_>, PublisherGone> {
        let permit = self.objects.reserve().await;
        permit.map(EventPlace).map_err(|_| PublisherGone)
    }
}

/// Room for an event in the publisher's inbox.
pub(in crate::agent) struct EventPlace<'a>(mpsc::Permit<'a, ObjectMessage>);

impl EventPlace<'_> {
    /// Sends an event that was just received.
    pub(in crate::agent) fn send(self, event: Event, reader: ReaderNumber) {
        self.0.send(ObjectMessage::Event {
            event: Box::new(event),
            reader,
            received: Instant::now(),
        });
    }
}

impl PublisherInbox {
    /// An empty inbox, and its sender.
    pub(in crate::agent) fn new() -> (PublisherSender, PublisherInbox) {
        let (urgent_sender, urgent) = mpsc::channel(CAPACITY);
        let (objects_sender, objects) = mpsc::channel(CAPACITY);
        let sender = PublisherSender {
            urgent: urgent_sender,
            objects: objects_sender,
        };
        let inbox = PublisherInbox {
            urgent,
            objects,
            waiting_urgent: None,
            waiting_objects: None,
        };
        (sender, inbox)
    }

    /// Waits for a message, at most for this time.
    pub(super) async fn wait(&mut self, limit: Duration) {
        let (urgent, objects) = (&mut self.urgent, &mut self.objects);
        let next = async {
            tokio::select! {
                message = urgent.recv() => self.waiting_urgent = message,
                message = objects.recv() => self.waiting_objects = message,
            }
        };
        // Without a message, the wait is over too.
        let _ = timeout(limit, next).await;
    }

    /// The next message that is not about objects.
    pub(super) fn next_urgent(&mut self) -> Option<PublisherMessage> {
        let waiting = self.waiting_urgent.take();
        waiting.or_else(|| self.urgent.try_recv().ok())
    }

    /// The next objects.
    pub(super) fn next_objects(&mut self) -> Option<ObjectMessage> {
        let waiting = self.waiting_objects.take();
        waiting.or_else(|| self.objects.try_recv().ok())
    }

    /// Whether objects wait.
    pub(super) fn has_objects(&self) -> bool {
        !self.objects.is_empty() || self.waiting_objects.is_some()
    }

    /// Whether there is no sender any more, and no message.
    pub(super) fn is_closed(&self) -> bool {
        self.urgent.is_closed() && self.urgent.is_empty()
    }
}

impl ObjectMessage {
    /// The reader of an event. Manifests have no reader, so their number is the lowest.
    pub(super) fn reader(&self) -> ReaderNumber {
        match self {
            ObjectMessage::Objects { .. } => ReaderNumber::default(),
            ObjectMessage::Event { reader, .. } => *reader,
        }
    }

    /// When the objects were received.
    pub(super) fn received(&self) -> Instant {
        match self {
            ObjectMessage::Objects { received, .. } | ObjectMessage::Event { received, .. } => {
                *received
            }
        }
    }
}

impl ReaderNumber {
    /// The number of the next reader.
    pub(in crate::agent) fn next(self) -> ReaderNumber {
        ReaderNumber(self.0 + 1)
    }
}
