//! What a hook does with a packet after [`respond`](crate::respond).

use dns_common::Outcome;

/// The decision about one packet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The packet has become the reply.
    Reply,
    /// The packet is unchanged and continues on its way.
    Pass,
}

impl From<Outcome> for Verdict {
    #[inline(always)]
    fn from(outcome: Outcome) -> Self {
        if outcome.is_answer() {
            Self::Reply
        } else {
            Self::Pass
        }
    }
}
