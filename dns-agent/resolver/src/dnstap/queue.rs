//! Encoded messages that wait for the collector.

use std::{
    mem::swap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::Notify;

use crate::counters::ResolverCounters;

/// Upper bound on the messages that wait. As many may be on their way to the collector.
pub(super) const MAX_MESSAGES: usize = 16_384;
/// Upper bound on the bytes of the messages that wait. As many may be on their way to the
/// collector.
pub(super) const MAX_BYTES: usize = 4 << 20;
/// With this many bytes, messages are sent at once.
const FULL_BYTES: usize = 64 << 10;

/// A queue of frames. A message that finds it full is dropped and counted.
#[derive(Debug)]
pub(super) struct FrameQueue {
    waiting: Mutex<FrameBatch>,
    /// Notified when [`FULL_BYTES`] wait.
    full: Notify,
    counters: Arc<ResolverCounters>,
}

/// Data frames, one after the other.
#[derive(Debug, Default)]
pub(super) struct FrameBatch {
    pub(super) bytes: Vec<u8>,
    pub(super) messages: usize,
}

impl FrameQueue {
    pub(super) fn new(counters: Arc<ResolverCounters>) -> FrameQueue {
        FrameQueue {
            waiting: Mutex::default(),
            full: Notify::new(),
            counters,
        }
    }

    /// Appends a data frame, or drops it if the queue is full. Never waits for the collector.
    pub(super) fn push(&self, frame: &[u8]) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let before = waiting.bytes.len();
        let after = before + frame.len();
        if after > MAX_BYTES || waiting.messages == MAX_MESSAGES {
            drop(waiting);
            self.count_dropped(1);
            return;
        }
        waiting.bytes.extend_from_slice(frame);
        waiting.messages += 1;
        drop(waiting);
        if before < FULL_BYTES && after >= FULL_BYTES {
            self.full.notify_one();
        }
    }

    /// Waits until many bytes wait.
    pub(super) async fn wait_until_full(&self) {
        self.full.notified().await;
    }

    /// Moves all frames that wait into `batch`, which loses its own.
    pub(super) fn take(&self, batch: &mut FrameBatch) {
        batch.bytes.clear();
        batch.messages = 0;
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        swap(&mut *waiting, batch);
    }

    /// Counts messages that the collector doesn't receive.
    pub(super) fn count_dropped(&self, messages: usize) {
        self.counters.count_dnstap_dropped(messages as u64);
    }
}
