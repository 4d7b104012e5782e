//! The harness: network namespaces that act as pods and nodes.
//!
//! A [`Namespace`](netns::Namespace) is one network stack. A
//! [`Topology`](topology::Topology) is a pod on a node, as the usual CNI
//! plugins wire them. A [`Client`](udp::Client) asks from inside a namespace,
//! a [`Server`](udp::Server) answers there. A [`Bpffs`](bpffs::Bpffs) is where agents pin hooks. [`foreign`] are other
//! people's programs. [`ethtool`] sets what `ip` cannot, [`capabilities`] takes rights away.
//! [`packet`] makes queries and [`message`] reads replies; [`cases`] knows which are right,
//! and [`scenario`] reads those that people write.
//!
//! Everything works with root, `ip` and a kernel from 5.10 on, and nothing
//! else, so that it runs in the guests too.

pub mod bpffs;
pub mod capabilities;
pub mod cases;
pub mod ethtool;
pub mod foreign;
pub mod message;
pub mod netns;
pub mod packet;
pub mod scenario;
pub mod topology;
pub mod udp;
