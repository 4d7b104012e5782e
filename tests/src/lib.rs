//! The harness: network namespaces that act as pods and nodes.
//!
//! * A [`NetworkNamespace`](netns::NetworkNamespace) is one network stack.
//! * A [`Topology`](topology::Topology) is a pod on a node, wired as the usual CNI plugins do it.
//! * A [`UdpClient`](udp::UdpClient) asks from inside a namespace; a [`UdpServer`](udp::UdpServer)
//!   answers there.
//! * A [`Bpffs`](bpffs::Bpffs) is a BPF file system in which agents pin hooks.
//! * A [`NoopProgram`](noop_program::NoopProgram) stands for a foreign program.
//! * [`ethtool`] and [`capabilities`] change offloads and rights.
//!
//! The harness needs only root, `ip` and a kernel from 5.10 on, so it runs in the guests too.

pub mod bpffs;
pub mod capabilities;
pub mod ethtool;
pub mod netns;
pub mod noop_program;
pub mod topology;
pub mod udp;
