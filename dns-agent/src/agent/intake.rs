//! What the publisher knows of a provider: its names, its messages, and whether its names may be
//! answered.
//!
//! Each provider has readers, which are tasks, and an intake, which the publisher owns. A reader
//! sends messages of the provider's own kind over a [`channel`] of its own. The intake applies them
//! to the provider when the publisher says so. So the publisher decides when names change, and
//! knows nothing of the objects.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::Instant,
};

use tokio::sync::{Notify, mpsc, oneshot};
use zerohop_zone::Provider;

use super::{kernel_plane::Freshness, permitted_queries::PermittedQueries};
use crate::{admin::metrics::Metrics, admin::status_board::StatusBoard};

/// The number of messages of each channel that may wait.
const CAPACITY: usize = 1024;

/// The publisher's side of a provider.
pub(super) trait Intake: Send {
    /// The provider's name in messages, such as `the Kubernetes API`.
    fn name(&self) -> &'static str;

    /// The provider. Only the intake, and the publisher, write to it.
    fn provider(&self) -> Arc<RwLock<dyn Provider>>;

    /// Whether the provider has names, or a zone.
    fn has_names(&self) -> bool;

    /// Applies all messages that must not wait behind objects, such as policies.
    fn apply_urgent(&mut self) -> UrgentChange {
        UrgentChange::default()
    }

    /// Applies the next objects. `None` if there are none now.
    fn apply_next(&mut self) -> Option<AppliedChange>;

    /// Whether objects wait.
    fn has_waiting(&self) -> bool;

    /// Since when objects that were received can't be sent, because too many messages wait.
    fn blocked_since(&self) -> Option<Instant> {
        None
    }

    /// Whether the kernel may answer from the provider's names. Before the first objects are
    /// complete, it may not.
    fn freshness(&self) -> Freshness;

    /// The server addresses at which the kernel answers queries, if this provider knows them.
    fn served_addresses(&self) -> Option<Vec<SocketAddr>> {
        None
    }

    /// The clients that the kernel may answer before the first evaluation, if this provider knows
    /// of any restriction.
    fn clients(&self) -> Option<PermittedQueries> {
        None
    }

    /// Evaluates which clients may query these addresses. `None` when no input has changed since
    /// the last evaluation, or when this provider doesn't know.
    fn evaluate_clients(&mut self, _served_addresses: &[SocketAddr]) -> Option<PermittedQueries> {
        None
    }

    /// Whether the kernel plane need not wait for what this provider says about clients.
    fn is_settled(&self) -> bool {
        true
    }

    /// Whether changes may come many times a second, so that the status is not updated after each.
    fn changes_often(&self) -> bool {
        false
    }

    /// Writes the provider's part of the status to the board, and reports the rest.
    fn report(&mut self, board: &StatusBoard) -> IntakeReport;
}

/// What urgent messages have changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct UrgentChange {
    /// When a message was received after which the provider's names may have changed.
    pub(super) names_since: Option<Instant>,
    /// Whether the kernel may not answer from the current names any more.
    pub(super) ends_answers: bool,
    /// Whether served addresses or permitted clients may have changed.
    pub(super) may_change_clients: bool,
}

/// A message with objects that was applied.
pub(super) struct AppliedChange {
    /// When the objects were received.
    pub(super) received: Instant,
    /// Is notified when the change is published.
    pub(super) published: Option<oneshot::Sender<()>>,
    /// Records the latency of the change when it is published. `None` if it is not measured.
    pub(super) measure: Option<Measure>,
}

/// Records the latency of a change in the metrics.
pub(super) type Measure = Box<dyn FnOnce(&Metrics) + Send>;

/// What an operator should know of a provider.
#[derive(Debug, Default)]
pub(super) struct IntakeReport {
    /// Reasons for not being ready.
    pub(super) missing: Vec<String>,
    /// Failures that do not keep the agent from being ready.
    pub(super) degraded: Vec<String>,
    /// Objects and parts of objects that can't be used, with the reason.
    pub(super) problems: BTreeSet<String>,
}

/// The publisher has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PublisherGone;

/// Wakes the publisher.
pub(super) type Wake = Arc<Notify>;

/// A channel for messages of one kind, whose messages wake the publisher.
pub(super) fn channel<T>(wake: &Wake) -> (IntakeSender<T>, mpsc::Receiver<T>) {
    let (sender, receiver) = mpsc::channel(CAPACITY);
    let wake = wake.clone();
    (IntakeSender { sender, wake }, receiver)
}

/// Sends messages to an intake.
#[derive(Debug)]
pub(super) struct IntakeSender<T> {
    sender: mpsc::Sender<T>,
    wake: Wake,
}

impl<T> Clone for IntakeSender<T> {
    fn clone(&self) -> IntakeSender<T> {
        IntakeSender {
            sender: self.sender.clone(),
            wake: self.wake.clone(),
        }
    }
}

impl<T> IntakeSender<T> {
    /// Sends a message. Waits for room.
    pub(super) async fn send(&self, message: T) -> Result<(), PublisherGone> {
        self.reserve().await?.send(message);
        Ok(())
    }

    /// Waits for room for a message.
    pub(super) async fn reserve(&self) -> Result<MessagePlace<'_, T>, PublisherGone> {
        let permit = self.sender.reserve().await.map_err(|_| PublisherGone)?;
        Ok(MessagePlace {
            permit,
            wake: &self.wake,
        })
    }
}

/// Room for a message.
pub(super) struct MessagePlace<'a, T> {
    permit: mpsc::Permit<'a, T>,
    wake: &'a Wake,
}

impl<T> MessagePlace<'_, T> {
    /// Sends the message.
    pub(super) fn send(self, message: T) {
        self.permit.send(message);
        self.wake.notify_one();
    }
}

/// Ignores poisoning: a publisher that panicked ends the agent, so its state is no longer used.
pub(super) fn read_lock<T: ?Sized>(provider: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    provider.read().unwrap_or_else(PoisonError::into_inner)
}

/// As [`read_lock`], for writing.
pub(super) fn write_lock<T: ?Sized>(provider: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    provider.write().unwrap_or_else(PoisonError::into_inner)
}
