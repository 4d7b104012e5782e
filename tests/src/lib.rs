//! The harness: network namespaces that act as pods and nodes.
//!
//! * A [`NetworkNamespace`](netns::NetworkNamespace) is one network stack.
//! * A [`Topology`](topology::Topology) is a pod on a node, wired as the usual CNI plugins do it.
//! * A [`UdpClient`](udp::UdpClient) asks from inside a namespace; a [`UdpServer`](udp::UdpServer)
//!   answers there. [`upstream`] is such a server, for one name outside the cluster.
//! * A [`Bpffs`](bpffs::Bpffs) is a BPF file system in which agents pin hooks.
//! * A [`NoopProgram`](noop_program::NoopProgram) stands for a foreign program.
//! * [`ethtool`] and [`capabilities`] change offloads and rights.
//! * [`report_not_run`](not_run::report_not_run) counts what this machine can't run.
//!
//! The harness needs only root, `ip` and a kernel from 5.10 on, so it runs in the guests too.

#![deny(unsafe_code)]

pub mod bpffs;
pub mod capabilities;
#[expect(unsafe_code, reason = "raw system calls")]
pub mod ethtool;
#[expect(unsafe_code, reason = "raw system calls")]
pub mod netns;
#[expect(unsafe_code, reason = "raw system calls")]
pub mod noop_program;
pub mod not_run;
pub mod topology;
pub mod udp;
pub mod upstream;
