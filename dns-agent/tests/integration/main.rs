//! The agent and its resolver over real sockets.

#![forbid(unsafe_code)]

mod agent;
mod caching;
mod cases;
mod connections;
mod dns_path;
mod dnstap;
#[expect(dead_code, reason = "shared with the tests of zerohop-kubernetes-api")]
#[path = "../../kubernetes-api/src/tests/fake.rs"]
mod fake;
mod forwarding;
mod kubernetes;
mod lookup;
mod metrics;
mod policies;
mod probes;
mod process;
mod query_log;
mod routes;
mod support;
mod udp_sockets;
