//! The test harness: network namespaces that act as pods and nodes.
//!
//! * A [`NetworkNamespace`](netns::NetworkNamespace) is one network stack.
//! * A [`Topology`](topology::Topology) is a pod on a node, wired as the usual CNI plugins do it.
//! * A [`UdpClient`](udp::UdpClient) sends queries from inside a namespace, and a
//!   [`UdpServer`](udp::UdpServer) answers there. [`upstream`] starts a server for one name outside
//!   the cluster.
//! * An [`AgentProcess`](agent::AgentProcess) is the agent's binary, run as an operator runs it.
//! * A [`Bpffs`](bpffs::Bpffs) is a BPF file system in which agents pin hooks.
//! * A [`NoopProgram`](noop_program::NoopProgram) acts as a foreign program.
//! * [`ethtool`] turns checksum offload off, and [`capabilities`] drops a thread's capabilities.
//! * [`report_not_run`](not_run::report_not_run) prints and counts tests that can't run here.
//!
//! The harness needs only root, `ip` and Linux 5.10, so it also runs in the guests: the virtual
//! machines of the kernel matrix.

#![deny(unsafe_code)]

pub mod agent;
pub mod bpffs;
pub mod capabilities;
#[expect(unsafe_code, reason = "raw system calls")]
pub mod ethtool;
#[expect(unsafe_code, reason = "code between fork and exec")]
pub mod netns;
#[expect(unsafe_code, reason = "raw system calls")]
pub mod noop_program;
pub mod not_run;
pub mod topology;
pub mod udp;
pub mod upstream;
