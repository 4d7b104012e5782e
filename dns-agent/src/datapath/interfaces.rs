//! The node's network devices, as far as hooks care.

use anyhow::Context as _;
use futures_util::{FutureExt as _, Stream, StreamExt as _, TryStreamExt as _};
use rtnetlink::{
    Handle, MulticastGroup, RouteMessageBuilder, TrafficFilterGetRequest, new_connection,
    new_multicast_connection,
    packet_core::NetlinkMessage,
    packet_route::RouteNetlinkMessage,
    packet_route::{
        link::{InfoKind, LinkAttribute, LinkInfo, LinkLayerType, LinkMessage, LinkXdp},
        route::RouteAttribute,
        tc::{TcAttribute, TcFilterBpfOption, TcMessage, TcOption},
    },
    sys::SocketAddr,
};
use std::{
    fs,
    net::{Ipv4Addr, Ipv6Addr},
    pin::Pin,
    time::{Duration, Instant},
};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

/// A network device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its number, which is never used again while the device lives.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its hardware address, if that is one of Ethernet.
    pub address: Option<HardwareAddress>,
    /// Octets of the largest IP packet that it sends.
    pub mtu: u32,
    /// How many queues it receives into, and sends from.
    pub queues: [u32; 2],
    /// One end of a veth pair.
    pub is_veth: bool,
    /// Its peer is in another namespace.
    pub peer_is_elsewhere: bool,
    /// A default route leaves by it.
    pub is_default_route: bool,
    /// Its packets start with an Ethernet header.
    pub is_ethernet: bool,
    /// BPF filters on what it receives, in the order in which they run.
    pub filters: Vec<Filter>,
    /// BPF filters on what it sends.
    pub egress_filters: Vec<Filter>,
    /// XDP programs.
    pub xdp: Vec<Xdp>,
}

/// An Ethernet address, as on the wire.
pub type HardwareAddress = [u8; 6];

/// A BPF filter of a device (cls_bpf). From Linux 6.6 on there may be tcx programs before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// The program's name, as its owner called it.
    pub name: String,
    /// Lower ones run first.
    pub priority: u16,
    /// Tells it apart from others of its priority.
    pub handle: u32,
    /// The program's number (since Linux 4.13).
    pub id: Option<u32>,
}

/// An XDP program on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Xdp {
    /// `native`, `generic` or `offloaded`.
    pub mode: &'static str,
    /// The program's number.
    pub id: u32,
}

impl Device {
    /// The driver of the hardware behind it, if there is any and /sys shows it.
    #[must_use]
    pub fn driver(&self) -> Option<String> {
        let link = format!("/sys/class/net/{}/device/driver", self.name);
        let driver = fs::read_link(link).ok()?;
        Some(driver.file_name()?.to_string_lossy().into_owned())
    }
}

/// The devices of this namespace, which is asked again and again.
#[derive(Debug, Default)]
pub struct Devices {
    /// As the kernel gave them, before the default routes were looked up.
    links: Vec<Device>,
    devices: Vec<Device>,
    /// When the filters were read.
    filtered: Option<Instant>,
}

/// How old what is known of filters may be. The kernel tells when they change, but such a message may
/// be lost.
const REREAD: Duration = Duration::from_secs(30);

/// How long the kernel may take to answer over netlink: the lease is not renewed meanwhile.
const PATIENCE: Duration = Duration::from_secs(3);

impl Devices {
    /// The devices as they are now. Routes are looked up only when the devices have changed, since a node
    /// may have very many, and filters then and after [`Devices::forget_filters`].
    ///
    /// # Errors
    ///
    /// When the kernel does not answer over netlink.
    pub async fn list(&mut self) -> anyhow::Result<&[Device]> {
        let (connection, handle, _) = new_connection().context("opening a netlink socket")?;
        let connection = tokio::spawn(connection);
        let listed = timeout(PATIENCE, self.list_by(&handle)).await;
        connection.abort();
        listed.context("the kernel does not answer over netlink")??;
        Ok(&self.devices)
    }

    /// The devices as they were at the last look.
    #[must_use]
    pub fn latest(&self) -> &[Device] {
        &self.devices
    }

    /// Filters may have changed.
    pub fn forget_filters(&mut self) {
        self.filtered = None;
    }

    async fn list_by(&mut self, handle: &Handle) -> anyhow::Result<()> {
        let links: Vec<LinkMessage> = handle
            .link()
            .get()
            .execute()
            .try_collect()
            .await
            .context("asking the kernel for its network devices")?;
        let links: Vec<Device> = links.into_iter().filter_map(device).collect();
        if links != self.links {
            let defaults = default_routes(handle)
                .await
                .context("asking the kernel for its routes")?;
            self.devices.clone_from(&links);
            for device in &mut self.devices {
                device.is_default_route = defaults.contains(&device.index);
            }
            self.links = links;
            self.filtered = None;
        }
        if self.filtered.is_some_and(|read| read.elapsed() < REREAD) {
            return Ok(());
        }
        for device in &mut self.devices {
            let of = || format!("asking the kernel for the filters of {}", device.name);
            let request = handle.traffic_filter(device.index as i32).get();
            device.filters = filters(request.clone().ingress()).await.with_context(of)?;
            device.egress_filters = filters(request.egress()).await.with_context(of)?;
        }
        self.filtered = Some(Instant::now());
        Ok(())
    }
}

/// Changes of the devices of this namespace and of their filters, as the kernel tells of them.
pub struct Changes {
    messages: Pin<Box<dyn Stream<Item = (NetlinkMessage<RouteNetlinkMessage>, SocketAddr)> + Send>>,
    _connection: AbortOnDropHandle<()>,
}

impl Changes {
    /// Starts to listen.
    ///
    /// # Errors
    ///
    /// When the kernel refuses a netlink socket.
    pub fn listen() -> anyhow::Result<Changes> {
        let (connection, _, messages) =
            new_multicast_connection(&[MulticastGroup::Link, MulticastGroup::Tc])
                .context("listening to the kernel's network devices")?;
        Ok(Changes {
            messages: Box::pin(messages),
            _connection: AbortOnDropHandle::new(tokio::spawn(connection)),
        })
    }

    /// Waits for a change, or several that come together. None when there will be no more.
    pub async fn next(&mut self) -> Option<()> {
        self.messages.next().await?;
        while self.messages.next().now_or_never().flatten().is_some() {}
        Some(())
    }
}

fn device(link: LinkMessage) -> Option<Device> {
    let mut device = Device {
        index: link.header.index,
        name: String::new(),
        address: None,
        mtu: 0,
        queues: [0; 2],
        is_veth: false,
        peer_is_elsewhere: false,
        is_default_route: false,
        is_ethernet: link.header.link_layer_type == LinkLayerType::Ether,
        filters: Vec::new(),
        egress_filters: Vec::new(),
        xdp: Vec::new(),
    };
    for attribute in link.attributes {
        match attribute {
            LinkAttribute::IfName(name) => device.name = name,
            LinkAttribute::Xdp(attributes) => device.xdp = xdp(&attributes),
            LinkAttribute::Address(octets) => device.address = octets.try_into().ok(),
            LinkAttribute::Mtu(mtu) => device.mtu = mtu,
            LinkAttribute::NumRxQueues(count) => device.queues[0] = count,
            LinkAttribute::NumTxQueues(count) => device.queues[1] = count,
            LinkAttribute::LinkNetNsId(_) => device.peer_is_elsewhere = true,
            LinkAttribute::LinkInfo(infos) => {
                device.is_veth |= infos
                    .iter()
                    .any(|info| matches!(info, LinkInfo::Kind(InfoKind::Veth)));
            }
            _ => {}
        }
    }
    (!device.name.is_empty()).then_some(device)
}

fn xdp(attributes: &[LinkXdp]) -> Vec<Xdp> {
    let by_mode = attributes.iter().filter_map(|attribute| match attribute {
        LinkXdp::DrvProgId(id) => Some(("native", *id)),
        LinkXdp::SkbProgId(id) => Some(("generic", *id)),
        LinkXdp::HwProgId(id) => Some(("offloaded", *id)),
        _ => None,
    });
    by_mode.map(|(mode, id)| Xdp { mode, id }).collect()
}

/// The BPF filters of a device in one direction.
async fn filters(request: TrafficFilterGetRequest) -> Result<Vec<Filter>, rtnetlink::Error> {
    let mut messages = std::pin::pin!(request.execute());
    let mut filters = Vec::new();
    loop {
        match messages.try_next().await {
            Ok(None) => break,
            Ok(Some(message)) => filters.extend(filter(message)),
            // It is gone, or has no queueing discipline that could have filters.
            Err(rtnetlink::Error::NetlinkError(_)) => break,
            Err(error) => return Err(error),
        }
    }
    filters.sort_by_key(|filter| filter.priority);
    Ok(filters)
}

fn filter(message: TcMessage) -> Option<Filter> {
    let options = message
        .attributes
        .into_iter()
        .find_map(|attribute| match attribute {
            TcAttribute::Options(options) => Some(options),
            _ => None,
        });
    let (mut name, mut id) = (None, None);
    for option in options? {
        match option {
            TcOption::Bpf(TcFilterBpfOption::ProgName(text)) => name = Some(text),
            TcOption::Bpf(TcFilterBpfOption::ProgId(number)) => id = Some(number),
            _ => {}
        }
    }
    Some(Filter {
        id,
        name: name?,
        priority: (message.header.info >> 16) as u16,
        handle: message.header.handle.into(),
    })
}

/// The devices that default routes leave by.
async fn default_routes(handle: &Handle) -> Result<Vec<u32>, rtnetlink::Error> {
    let v4 = RouteMessageBuilder::<Ipv4Addr>::new().build();
    let v6 = RouteMessageBuilder::<Ipv6Addr>::new().build();
    let mut devices = Vec::new();
    for request in [v4, v6] {
        let mut routes = handle.route().get(request).execute();
        while let Some(route) = routes.try_next().await? {
            if route.header.destination_prefix_length != 0 {
                continue;
            }
            for attribute in route.attributes {
                match attribute {
                    RouteAttribute::Oif(device) => devices.push(device),
                    RouteAttribute::MultiPath(hops) => {
                        devices.extend(hops.iter().map(|hop| hop.interface_index));
                    }
                    _ => {}
                }
            }
        }
    }
    Ok(devices)
}
