//! The answers that Zerohop must give, and the tools to check them. This crate depends on no other
//! crate of the workspace.
//!
//! * [`cases`] and [`scenario`] parse the questions of `tests/cases` and `tests/scenarios` with
//!   their required replies.
//! * [`message`] parses DNS messages. It shares no code with the agent, so that the tests find
//!   errors in the agent's parser and renderer.
//! * [`packet`] makes queries, their frames and other servers' replies, and checks the frames of
//!   replies.
//! * [`corefile_shapes`] lists the Corefiles of `tests/corefiles`.
//! * [`corefiles`] holds Corefiles of NodeLocal DNSCache.
//! * [`platforms`] lists the platforms of `tests/platforms`.
//! * [`dnstap`] receives and parses dnstap messages. It shares no code with the agent either.
//! * [`addresses`] holds addresses of a pod and of the cluster's DNS that most tests share.

#![forbid(unsafe_code)]

pub mod addresses;
pub mod cases;
pub mod corefile_shapes;
pub mod corefiles;
pub mod dnstap;
pub mod message;
pub mod packet;
pub mod platforms;
pub mod scenario;
