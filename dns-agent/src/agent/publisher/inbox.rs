//! Messages to the publisher itself. Objects, policies and plans go to the intakes of the
//! providers.

use std::time::Duration;

use tokio::{sync::mpsc, time::timeout};
use zerohop_datapath::StopMode;

use crate::agent::intake::{self, IntakeSender, Wake};

/// Messages to the publisher, except those of providers.
#[derive(Debug)]
pub(in crate::agent) enum PublisherMessage {
    /// Network devices were added, changed or removed.
    DevicesChanged,
    /// Stops the publisher, and the kernel plane in this mode.
    Shutdown(StopMode),
}

/// Sends messages to the publisher.
pub(in crate::agent) type PublisherSender = IntakeSender<PublisherMessage>;

/// Receives the messages to the publisher.
#[derive(Debug)]
pub(in crate::agent) struct PublisherInbox {
    messages: mpsc::Receiver<PublisherMessage>,
    /// Notified when a message has arrived here or at an intake.
    wake: Wake,
}

impl PublisherInbox {
    /// An empty inbox, and its sender.
    pub(in crate::agent) fn new(wake: &Wake) -> (PublisherSender, PublisherInbox) {
        let (sender, messages) = intake::channel(wake);
        let wake = wake.clone();
        (sender, PublisherInbox { messages, wake })
    }

    /// Waits until a message has arrived here or at an intake, at most for this time.
    pub(super) async fn wait(&self, limit: Duration) {
        // Without a message, the wait is over too.
        let _ = timeout(limit, self.wake.notified()).await;
    }

    /// The next message.
    pub(super) fn next(&mut self) -> Option<PublisherMessage> {
        self.messages.try_recv().ok()
    }

    /// Whether there is no sender any more, and no message.
    pub(super) fn is_closed(&self) -> bool {
        self.messages.is_closed() && self.messages.is_empty()
    }
}
