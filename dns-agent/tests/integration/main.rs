//! The agent and its resolver over real sockets.

mod agent;
mod cases;
mod connections;
mod forwarding;
mod lookup;
mod process;
mod support;
