//! Events with the time at which they were read.

use std::time::Instant;

use zerohop_kubernetes::Event;

/// An event, and when it was received. The agent answers nothing for longer than `--stale-after`
/// after an event that says otherwise was received, so the time in which an event waits for the
/// events before it counts.
#[derive(Clone, Debug, PartialEq)]
pub struct ReceivedEvent {
    /// The event.
    pub event: Event,
    /// When the bytes that complete the event were read from the connection to the API server or,
    /// for an event that the agent concludes, when it was concluded.
    pub received: Instant,
}

impl ReceivedEvent {
    /// An event that is concluded now.
    pub(super) fn now(event: Event) -> ReceivedEvent {
        ReceivedEvent {
            event,
            received: Instant::now(),
        }
    }
}
