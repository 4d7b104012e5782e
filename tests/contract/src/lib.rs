//! What Zerohop must answer, independent of its code: nothing here depends on another crate of this
//! workspace.
//!
//! * [`cases`] and [`scenario`] parse the questions of `tests/cases` and `tests/scenarios` with
//!   their required replies.
//! * [`message`] is a reader of DNS messages of its own. It shares no code with the agent, so an
//!   error in the agent's reader or renderer can't hide itself.
//! * [`packet`] makes queries and parses the packets of replies.
//! * [`addresses`] holds the addresses of the pod and of the cluster's DNS in all tests.

#![forbid(unsafe_code)]

pub mod addresses;
pub mod cases;
pub mod message;
pub mod packet;
pub mod scenario;
