//! A network namespace of the agent's own.

use std::{fs::File, io, net::IpAddr, net::Ipv6Addr, os::fd::AsRawFd, thread, time::Duration};

use anyhow::{Context as _, anyhow};
use futures_util::{StreamExt as _, TryStreamExt as _};
use nix::sched::{CloneFlags, unshare};
use rtnetlink::{
    Error, Handle, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder, new_connection,
    packet_core::{
        NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
    },
    packet_route::{
        RouteNetlinkMessage,
        address::AddressHeaderFlags,
        link::{
            AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoVeth, LinkAttribute,
            LinkMessage,
        },
        nsid::{NsidAttribute, NsidMessage},
        route::{RouteAddress, RouteAttribute, RouteType},
    },
};
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};
use tokio::{
    runtime::{self, Builder},
    sync::oneshot,
    time::{sleep, timeout},
};

/// A network namespace that belongs to this process, joined to the node's by a veth pair.
///
/// A thread stays in it, because addresses and sockets are added as they become known. When this
/// value is dropped, the thread ends. When the last socket in the namespace is closed too, the
/// kernel removes the namespace and the veth pair.
#[derive(Debug)]
pub struct AgentNamespace {
    /// The runtime of the thread in the namespace.
    thread: runtime::Handle,
    /// Configures the namespace. Its requests are sent by the thread.
    inside: Handle,
    /// The ID of the namespace in the node's.
    id: i32,
    /// The index of the node's end of the veth pair.
    node_device: u32,
    /// Dropped with this value, which ends the thread.
    _alive: oneshot::Sender<()>,
}

/// The IDs that an agent's namespace may have in the node's. The kernel chooses the lowest free ID
/// for namespaces without one, so it doesn't come to these. Two agents run while one replaces the
/// other.
const IDS: std::ops::Range<i32> = 23_112..23_128;
/// What the name of the node's end of the veth pair begins with. The namespace's ID follows.
const NODE_DEVICE: &str = "zh";
/// The agent's end of the veth pair.
const AGENT_DEVICE: &str = "zh1";
/// The index of the loopback device of every namespace.
const LOOPBACK: u32 = 1;
/// The number of the routing table of local addresses (`RT_TABLE_LOCAL` in `linux/rtnetlink.h`).
const LOCAL_TABLE: u32 = 255;
/// Error numbers of netlink (`errno-base.h`).
const EEXIST: i32 = -17;
const ENODEV: i32 = -19;
/// The time for what the kernel does in the background.
const LIMIT: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(5);

impl AgentNamespace {
    /// Makes the namespace and the veth pair. The calling thread must be in the node's network
    /// namespace, with CAP_SYS_ADMIN and CAP_NET_ADMIN. The new thread keeps only CAP_NET_ADMIN
    /// and CAP_NET_BIND_SERVICE.
    ///
    /// # Errors
    /// When a system call fails, for example because the capability SYS_ADMIN is missing. The error
    /// says which.
    pub async fn create() -> anyhow::Result<AgentNamespace> {
        let (ready, created) = oneshot::channel();
        thread::Builder::new()
            .name("steering".to_owned())
            .spawn(move || stay_in_namespace(ready))
            .context("can't start a thread")?;
        created
            .await
            .context("the thread of the agent's network namespace failed")?
    }

    /// The ID of the namespace in the node's namespace.
    #[must_use]
    pub fn id(&self) -> i32 {
        self.id
    }

    /// The index of the node's end of the veth pair.
    #[must_use]
    pub fn node_device(&self) -> u32 {
        self.node_device
    }

    /// The name of the node's end of the veth pair.
    #[must_use]
    pub fn node_device_name(&self) -> String {
        device_name(self.id)
    }

    /// Gives the namespace an address on its loopback device, and waits until packets to the
    /// address are received. Without effect if it has the address.
    ///
    /// # Errors
    /// When the kernel refuses the address, or has no route to it within 5 seconds.
    pub async fn add_address(&self, address: IpAddr) -> anyhow::Result<()> {
        let inside = self.inside.clone();
        self.run_task(async move {
            let added = timeout(LIMIT, add_address(&inside, address)).await;
            added.map_err(|_| anyhow!("the kernel has no local route within {LIMIT:?}"))?
        })
        .await?
        .with_context(|| format!("can't add {address} to the agent's network namespace"))
    }

    /// Runs a closure on the thread in the namespace. Sockets that it opens stay in the namespace,
    /// whichever thread uses them. The closure must not block.
    ///
    /// # Errors
    /// When the closure panics.
    pub async fn run<T: Send + 'static>(
        &self,
        inside: impl FnOnce() -> T + Send + 'static,
    ) -> anyhow::Result<T> {
        self.run_task(async { inside() }).await
    }

    /// Runs a task on the thread in the namespace, as [`AgentNamespace::run`] does.
    ///
    /// # Errors
    /// When the task panics.
    pub async fn run_task<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> anyhow::Result<T> {
        let done = self.thread.spawn(task).await;
        done.context("the thread of the agent's network namespace failed")
    }
}

/// Whether a device of the node with this name is one of an agent's own.
#[must_use]
pub fn is_agent_device(name: &str) -> bool {
    let id = name.strip_prefix(NODE_DEVICE).map(str::parse);
    matches!(id, Some(Ok(id)) if IDS.contains(&id))
}

/// The body of the thread.
fn stay_in_namespace(ready: oneshot::Sender<anyhow::Result<AgentNamespace>>) {
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = match runtime.context("can't start a runtime") {
        Ok(runtime) => runtime,
        Err(error) => {
            // Fails when the caller no longer waits.
            let _ = ready.send(Err(error));
            return;
        }
    };
    runtime.block_on(async {
        let (alive, ended) = oneshot::channel();
        let made = make_namespace(alive).await;
        let is_made = made.is_ok();
        if ready.send(made).is_ok() && is_made {
            // Always an error, because nothing is ever sent.
            let _ = ended.await;
        }
    });
}

/// Moves the calling thread into a new namespace, and connects it.
async fn make_namespace(alive: oneshot::Sender<()>) -> anyhow::Result<AgentNamespace> {
    let node = open_netlink()?;
    unshare(CloneFlags::CLONE_NEWNET).context(
        "can't make a network namespace, which needs the capability SYS_ADMIN: the kustomize \
             component `steering` and the chart's value `steering` give it",
    )?;
    keep_network_capabilities().context("can't drop capabilities")?;
    let inside = open_netlink()?;
    let namespace = File::open("/proc/thread-self/ns/net")
        .context("can't open the new network namespace in /proc")?;
    // Before the veth pair, because the kernel then gives the namespace an ID if it has none.
    let id = set_id(&node, &namespace).await?;
    let node_device = add_veth_pair(&node, id, &namespace).await?;
    configure(&inside).await?;
    Ok(AgentNamespace {
        thread: runtime::Handle::current(),
        inside,
        id,
        node_device,
        _alive: alive,
    })
}

/// A netlink socket in the calling thread's network namespace, where it stays.
fn open_netlink() -> anyhow::Result<Handle> {
    let (connection, handle, _) = new_connection().context("can't open a netlink socket")?;
    tokio::spawn(connection);
    Ok(handle)
}

/// Drops all capabilities of the calling thread but those for addresses and sockets.
fn keep_network_capabilities() -> io::Result<()> {
    let kept = CapabilitySet::NET_ADMIN | CapabilitySet::NET_BIND_SERVICE;
    let permitted = capabilities(None)?.permitted & kept;
    Ok(set_capabilities(
        None,
        CapabilitySets {
            effective: permitted,
            permitted,
            inheritable: CapabilitySet::empty(),
        },
    )?)
}

/// Gives a namespace the first free ID of [`IDS`] in the node's namespace. Waits for one, because
/// the kernel removes namespaces in the background. It frees the ID of a namespace long before it
/// removes its devices, so an ID with a device is not free.
async fn set_id(node: &Handle, namespace: &File) -> anyhow::Result<i32> {
    let set = async {
        loop {
            for id in IDS {
                if has_device(node, &device_name(id)).await? {
                    continue;
                }
                match request_id(node, namespace, id).await {
                    Ok(()) => return anyhow::Ok(id),
                    Err(error) if error_number(&error) == Some(EEXIST) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            sleep(PAUSE).await;
        }
    };
    let set = timeout(LIMIT, set).await.map_err(|_| {
        let (first, last) = (IDS.start, IDS.end - 1);
        anyhow!(
            "the IDs {first} to {last} of network namespaces are in use: end the agents that have \
             them"
        )
    })?;
    set.context("can't give the agent's network namespace an ID (RTM_NEWNSID)")
}

async fn request_id(node: &Handle, namespace: &File, id: i32) -> Result<(), Error> {
    let mut message = NsidMessage::default();
    // The kernel takes descriptors as 32-bit numbers, and they are never negative.
    let descriptor = namespace.as_raw_fd() as u32;
    message.attributes = vec![NsidAttribute::Fd(descriptor), NsidAttribute::Id(id)];
    let mut request = NetlinkMessage::from(RouteNetlinkMessage::NewNsId(message));
    request.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
    let mut response = node.clone().request(request)?;
    while let Some(message) = response.next().await {
        if let NetlinkPayload::Error(error) = message.payload
            && error.code.is_some()
        {
            return Err(Error::NetlinkError(error));
        }
    }
    Ok(())
}

/// Makes a veth pair from the node into a namespace. Returns the index of the node's end.
async fn add_veth_pair(node: &Handle, id: i32, namespace: &File) -> anyhow::Result<u32> {
    let name = device_name(id);
    let peer = LinkUnspec::new_with_name(AGENT_DEVICE)
        .setns_by_fd(namespace.as_raw_fd())
        .build();
    let pair = LinkVeth::new(&name, AGENT_DEVICE)
        .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
        .build();
    let add = async {
        loop {
            match node.link().add(pair.clone()).execute().await {
                // Another agent may have it meanwhile.
                Err(error) if error_number(&error) == Some(EEXIST) => sleep(PAUSE).await,
                added => return added,
            }
        }
    };
    timeout(LIMIT, add)
        .await
        .map_err(|_| anyhow!("there is a device {name} already: remove it"))?
        .with_context(|| format!("can't make the veth pair {name}"))?;
    let device = find_device(node, &name).await?.header.index;
    let up = LinkUnspec::new_with_index(device).up();
    set_up(node, device, up)
        .await
        .with_context(|| format!("can't set {name} up"))?;
    Ok(device)
}

/// Sets a device up. Without an IPv6 address of its own, it sends nothing by itself.
async fn set_up(
    handle: &Handle,
    device: u32,
    up: LinkMessageBuilder<LinkUnspec>,
) -> Result<(), Error> {
    let mode = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
    let attribute = LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![mode])]);
    let silent = LinkUnspec::new_with_index(device).append_extra_attribute(attribute);
    handle.link().set(silent.build()).execute().await?;
    handle.link().set(up.build()).execute().await
}

async fn has_device(handle: &Handle, name: &str) -> anyhow::Result<bool> {
    let mut devices = handle.link().get().match_name(name.to_owned()).execute();
    match devices.try_next().await {
        Ok(device) => Ok(device.is_some()),
        Err(error) if error_number(&error) == Some(ENODEV) => Ok(false),
        Err(error) => Err(error).with_context(|| format!("can't look for the device {name}")),
    }
}

/// The name of the node's end of the veth pair.
fn device_name(id: i32) -> String {
    format!("{NODE_DEVICE}{id}")
}

async fn find_device(handle: &Handle, name: &str) -> anyhow::Result<LinkMessage> {
    let mut devices = handle.link().get().match_name(name.to_owned()).execute();
    let device = devices.try_next().await;
    device
        .with_context(|| format!("can't read the device {name}"))?
        .with_context(|| format!("the device {name} is gone"))
}

/// Sets the devices and default routes of the agent's namespace up.
async fn configure(inside: &Handle) -> anyhow::Result<()> {
    let device = find_device(inside, AGENT_DEVICE).await?.header.index;
    // Without ARP, because the node's end has no address that would answer.
    let up = LinkUnspec::new_with_index(device).arp(false).up();
    let loopback = LinkUnspec::new_with_index(LOOPBACK).up().build();
    let set = async {
        set_up(inside, device, up).await?;
        inside.link().set(loopback).execute().await
    };
    set.await
        .context("can't set a device up in the agent's network namespace")?;
    let ipv4 = RouteMessageBuilder::<std::net::Ipv4Addr>::new().output_interface(device);
    let ipv6 = RouteMessageBuilder::<Ipv6Addr>::new().output_interface(device);
    for route in [ipv4.build(), ipv6.build()] {
        let add = inside.route().add(route).execute().await;
        add.context("can't add a default route in the agent's network namespace")?;
    }
    Ok(())
}

async fn add_address(inside: &Handle, address: IpAddr) -> anyhow::Result<()> {
    let length = if address.is_ipv4() { 32 } else { 128 };
    let mut request = inside.address().add(LOOPBACK, address, length);
    // The address is on no network, so there is no duplicate to be detected.
    request.message_mut().header.flags = AddressHeaderFlags::Nodad;
    match request.execute().await {
        Err(error) if error_number(&error) != Some(EEXIST) => return Err(error.into()),
        _ => {}
    }
    // The kernel adds the route to an IPv6 address in the background. Before, a socket is found
    // that packets don't reach.
    if let IpAddr::V6(address) = address {
        while !has_local_route(inside, address).await? {
            sleep(PAUSE).await;
        }
    }
    Ok(())
}

async fn has_local_route(inside: &Handle, address: Ipv6Addr) -> anyhow::Result<bool> {
    let local = RouteMessageBuilder::<Ipv6Addr>::new().table_id(LOCAL_TABLE);
    let mut routes = inside.route().get(local.build()).execute();
    let destination = RouteAttribute::Destination(RouteAddress::Inet6(address));
    let mut is_found = false;
    while let Some(route) = routes.try_next().await? {
        is_found |=
            route.header.kind == RouteType::Local && route.attributes.contains(&destination);
    }
    Ok(is_found)
}

/// The number of an error that the kernel answered; `None` for other errors.
fn error_number(error: &Error) -> Option<i32> {
    match error {
        Error::NetlinkError(message) => message.code.map(std::num::NonZero::get),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agents_own_devices_are_known_by_name() {
        assert!(is_agent_device("zh23112") && is_agent_device(&device_name(23_127)));
        for other in ["zh23128", "zh", "zhx", "eth0", "veth23112"] {
            assert!(!is_agent_device(other), "{other}");
        }
    }
}
