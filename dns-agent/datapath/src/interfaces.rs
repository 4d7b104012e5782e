//! The network devices of this network namespace, with their filters and XDP programs.

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
    /// The index, unique while the device exists.
    pub index: u32,
    /// The name.
    pub name: String,
    /// The hardware address; `None` if there is none, or if it does not have six bytes.
    pub address: Option<HardwareAddress>,
    /// The size in bytes of the largest IP packet that the device sends.
    pub mtu: u32,
    /// The numbers of receive and transmit queues, whether they are in use or not.
    pub queues: [u32; 2],
    /// Whether the device is one end of a veth pair.
    pub is_veth: bool,
    /// Whether the veth's peer is in another network namespace. Without meaning for other devices.
    pub peer_in_other_namespace: bool,
    /// Whether a default route used the device when the routes were last read (see
    /// [`Devices::list`]).
    pub has_default_route: bool,
    /// Whether the device's type is Ethernet, so that its packets start with an Ethernet header.
    pub is_ethernet: bool,
    /// BPF filters of received packets, in the order in which they run.
    pub ingress_filters: Vec<TcFilter>,
    /// BPF filters of sent packets, in the order in which they run.
    pub egress_filters: Vec<TcFilter>,
    /// XDP programs.
    pub xdp_programs: Vec<XdpProgram>,
}

/// An Ethernet address in wire order.
pub type HardwareAddress = [u8; 6];

/// A BPF filter of a device (cls_bpf). From Linux 6.6 on, tcx programs run before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcFilter {
    /// The name that its owner gave it.
    pub name: String,
    /// The priority. Filters with lower numbers run first.
    pub priority: u16,
    /// The handle, which is unique within the priority.
    pub handle: u32,
    /// The program's ID, if the kernel reports it, as every supported kernel does.
    pub id: Option<u32>,
}

/// An XDP program on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XdpProgram {
    /// `native`, `generic` or `offloaded`.
    pub mode: &'static str,
    /// The program's ID.
    pub id: u32,
}

impl Device {
    /// The driver of the device's hardware. `None` for a virtual device, and when /sys can't be
    /// read.
    #[must_use]
    pub fn driver(&self) -> Option<String> {
        let link = format!("/sys/class/net/{}/device/driver", self.name);
        let driver = fs::read_link(link).ok()?;
        Some(driver.file_name()?.to_string_lossy().into_owned())
    }
}

/// The devices of this network namespace, as read last.
#[derive(Debug, Default)]
pub struct Devices {
    /// The devices as reported by the kernel, without routes and filters.
    links: Vec<Device>,
    /// `links` with default routes and filters.
    devices: Vec<Device>,
    /// When the filters were last read; `None` if the next [`Devices::list`] must read them.
    filters_read: Option<Instant>,
}

/// The interval at which filters are read even without a notification, because notifications may
/// be lost.
const FILTER_READ_INTERVAL: Duration = Duration::from_secs(30);

/// The timeout of [`Devices::list`]. It is shorter than the default lease of 10 seconds, because
/// the lease is not renewed while the agent waits.
const NETLINK_TIMEOUT: Duration = Duration::from_secs(3);

impl Devices {
    /// Reads the devices. Routes are read only when devices have changed, because a node may have
    /// very many routes. Filters are read when devices have changed, after
    /// [`Devices::forget_filters`], and every 30 seconds.
    ///
    /// # Errors
    ///
    /// When no netlink socket can be opened, when the kernel doesn't answer within
    /// `NETLINK_TIMEOUT`, or when it answers with an error. An error in the answer to a request for
    /// filters only ends the list of filters, because a kernel without traffic control has none.
    pub async fn list(&mut self) -> anyhow::Result<&[Device]> {
        let (connection, handle, _) = new_connection().context("opening a netlink socket")?;
        let connection = tokio::spawn(connection);
        let listed = timeout(NETLINK_TIMEOUT, self.read_devices(&handle)).await;
        connection.abort();
        listed.with_context(|| {
            let seconds = NETLINK_TIMEOUT.as_secs();
            format!("the kernel did not answer over netlink within {seconds} s")
        })??;
        Ok(&self.devices)
    }

    /// The devices as read by the last [`Devices::list`], without reading them again.
    #[must_use]
    pub fn latest(&self) -> &[Device] {
        &self.devices
    }

    /// Makes the next [`Devices::list`] read the filters again.
    pub fn forget_filters(&mut self) {
        self.filters_read = None;
    }

    async fn read_devices(&mut self, handle: &Handle) -> anyhow::Result<()> {
        let links: Vec<LinkMessage> = handle
            .link()
            .get()
            .execute()
            .try_collect()
            .await
            .context("reading the network devices")?;
        let links: Vec<Device> = links.into_iter().filter_map(parse_device).collect();
        if links != self.links {
            let defaults = read_default_routes(handle)
                .await
                .context("reading the routes")?;
            self.devices.clone_from(&links);
            for device in &mut self.devices {
                device.has_default_route = defaults.contains(&device.index);
            }
            self.links = links;
            self.filters_read = None;
        }
        if self
            .filters_read
            .is_some_and(|read| read.elapsed() < FILTER_READ_INTERVAL)
        {
            return Ok(());
        }
        for device in &mut self.devices {
            let reading = || format!("reading the filters of {}", device.name);
            let request = handle.traffic_filter(device.index as i32).get();
            device.ingress_filters = read_filters(request.clone().ingress())
                .await
                .with_context(reading)?;
            device.egress_filters = read_filters(request.egress()).await.with_context(reading)?;
        }
        self.filters_read = Some(Instant::now());
        Ok(())
    }
}

/// The kernel's notifications of changed devices and filters in this network namespace.
pub struct DeviceChanges {
    messages: Pin<Box<dyn Stream<Item = (NetlinkMessage<RouteNetlinkMessage>, SocketAddr)> + Send>>,
    _connection: AbortOnDropHandle<()>,
}

impl DeviceChanges {
    /// Subscribes to the notifications.
    ///
    /// # Errors
    ///
    /// When the kernel refuses a netlink socket.
    pub fn listen() -> anyhow::Result<DeviceChanges> {
        let (connection, _, messages) =
            new_multicast_connection(&[MulticastGroup::Link, MulticastGroup::Tc])
                .context("subscribing to changes of network devices")?;
        Ok(DeviceChanges {
            messages: Box::pin(messages),
            _connection: AbortOnDropHandle::new(tokio::spawn(connection)),
        })
    }

    /// Waits for a change, or for several that arrive together. `None` when the subscription has
    /// ended.
    pub async fn next(&mut self) -> Option<()> {
        self.messages.next().await?;
        while self.messages.next().now_or_never().flatten().is_some() {}
        Some(())
    }
}

fn parse_device(link: LinkMessage) -> Option<Device> {
    let mut device = Device {
        index: link.header.index,
        name: String::new(),
        address: None,
        mtu: 0,
        queues: [0; 2],
        is_veth: false,
        peer_in_other_namespace: false,
        has_default_route: false,
        is_ethernet: link.header.link_layer_type == LinkLayerType::Ether,
        ingress_filters: Vec::new(),
        egress_filters: Vec::new(),
        xdp_programs: Vec::new(),
    };
    for attribute in link.attributes {
        match attribute {
            LinkAttribute::IfName(name) => device.name = name,
            LinkAttribute::Xdp(attributes) => device.xdp_programs = parse_xdp(&attributes),
            LinkAttribute::Address(bytes) => device.address = bytes.try_into().ok(),
            LinkAttribute::Mtu(mtu) => device.mtu = mtu,
            LinkAttribute::NumRxQueues(count) => device.queues[0] = count,
            LinkAttribute::NumTxQueues(count) => device.queues[1] = count,
            // For a veth the kernel sends this attribute only if the peer is in another namespace.
            LinkAttribute::LinkNetNsId(_) => device.peer_in_other_namespace = true,
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

fn parse_xdp(attributes: &[LinkXdp]) -> Vec<XdpProgram> {
    let by_mode = attributes.iter().filter_map(|attribute| match attribute {
        LinkXdp::DrvProgId(id) => Some(("native", *id)),
        LinkXdp::SkbProgId(id) => Some(("generic", *id)),
        LinkXdp::HwProgId(id) => Some(("offloaded", *id)),
        _ => None,
    });
    by_mode.map(|(mode, id)| XdpProgram { mode, id }).collect()
}

/// Reads the BPF filters of a device in one direction.
async fn read_filters(request: TrafficFilterGetRequest) -> Result<Vec<TcFilter>, rtnetlink::Error> {
    let mut messages = std::pin::pin!(request.execute());
    let mut filters = Vec::new();
    loop {
        match messages.try_next().await {
            Ok(None) => break,
            Ok(Some(message)) => filters.extend(parse_filter(message)),
            // A kernel without traffic control answers with an error, and then no filter runs.
            // For a device that is gone, or has no filter, the list is empty.
            Err(rtnetlink::Error::NetlinkError(_)) => break,
            Err(error) => return Err(error),
        }
    }
    // The kernel reports filters of the same priority in the order in which they run, and the sort
    // is stable.
    filters.sort_by_key(|filter| filter.priority);
    Ok(filters)
}

/// `None` for a filter that is not a BPF filter, or has no name.
fn parse_filter(message: TcMessage) -> Option<TcFilter> {
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
    Some(TcFilter {
        id,
        name: name?,
        // The upper half of `tcm_info`. The lower half is the protocol.
        priority: (message.header.info >> 16) as u16,
        handle: message.header.handle.into(),
    })
}

/// Reads the indices of the devices that default routes use.
async fn read_default_routes(handle: &Handle) -> Result<Vec<u32>, rtnetlink::Error> {
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
