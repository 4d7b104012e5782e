//! Which device of the node leads to which pod.
//!
//! The kernel tells it: for a veth whose other end is in another network namespace, it lists the
//! addresses of that other end (`RTM_GETADDR` with `IFA_TARGET_NETNSID`, Linux 4.20). So it doesn't
//! matter whether the CNI plugin routes or bridges, and no packet of a pod can change it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    time::Duration,
};

use anyhow::{Context as _, bail};
use futures_util::TryStreamExt as _;
use rtnetlink::{
    Handle, new_connection_with_strict_check,
    packet_route::{
        AddressFamily,
        address::{AddressAttribute, AddressScope},
        link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage},
    },
};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

/// The devices that lead to pods, by the addresses of the pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodInterfaces {
    /// The index of the one device whose other end has the address.
    by_address: HashMap<IpAddr, u32>,
}

/// Reads [`PodInterfaces`].
#[derive(Debug, Default)]
pub struct InterfaceReader {
    /// Devices whose other ends have too many addresses. They are not read again.
    overfull: BTreeSet<u32>,
}

/// The other end of a veth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct OtherEnd {
    /// The ID of its namespace.
    namespace: i32,
    /// Its index there.
    index: u32,
}

/// Upper bound on the addresses of a pod's end of a veth. A pod has one or two, and one with
/// CAP_NET_ADMIN may give itself more.
const MAX_ADDRESSES: usize = 16;
/// The time for a list of the kernel.
const LIMIT: Duration = Duration::from_secs(3);

impl PodInterfaces {
    /// The index of the device that leads to the pod with this address. `None` if no device is
    /// known, or more than one.
    #[must_use]
    pub fn of(&self, pod: IpAddr) -> Option<u32> {
        self.by_address.get(&pod).copied()
    }

    /// The addresses of pods, and the index of the device that leads to each.
    pub fn iter(&self) -> impl Iterator<Item = (IpAddr, u32)> {
        self.by_address
            .iter()
            .map(|(address, device)| (*address, *device))
    }

    /// An address of several devices leads nowhere: a pod with CAP_NET_ADMIN can give itself the
    /// address of another one.
    fn from_claims(claims: impl IntoIterator<Item = (IpAddr, u32)>) -> PodInterfaces {
        let mut claimed: HashMap<IpAddr, Option<u32>> = HashMap::new();
        for (address, device) in claims {
            claimed
                .entry(address)
                .and_modify(|known| *known = known.filter(|known| *known == device))
                .or_insert(Some(device));
        }
        let unique = claimed.into_iter();
        PodInterfaces {
            by_address: unique
                .filter_map(|(address, device)| Some((address, device?)))
                .collect(),
        }
    }
}

impl InterfaceReader {
    /// Reads the addresses behind all veths of the calling thread's network namespace. Leaves out a
    /// device that vanishes meanwhile, and one that leads to more than 16 addresses.
    ///
    /// # Errors
    /// When no netlink socket can be opened, or the kernel doesn't list the devices, or the
    /// addresses behind one, within 3 s. It is left out from the next call on.
    pub async fn read(&mut self) -> anyhow::Result<PodInterfaces> {
        let (connection, handle, _) =
            new_connection_with_strict_check().context("can't open a netlink socket")?;
        let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
        let veths = list_veths(&handle).await?;
        self.overfull.retain(|device| veths.contains_key(device));
        let mut claims = Vec::new();
        for (&device, &other_end) in &veths {
            if self.overfull.contains(&device) {
                continue;
            }
            let addresses = timeout(LIMIT, list_addresses(&handle, other_end)).await;
            match addresses {
                Ok(Ok(addresses)) if addresses.len() <= MAX_ADDRESSES => {
                    claims.extend(addresses.into_iter().map(|address| (address, device)));
                }
                Ok(Ok(_)) => {
                    self.overfull.insert(device);
                }
                Ok(Err(error)) => {
                    // Without the claims of a device that is there, another one's claim to the same
                    // address would seem to be the only one.
                    if list_veths(&handle).await?.get(&device) == Some(&other_end) {
                        let what = format!("can't list the addresses behind device {device}");
                        return Err(error).context(what);
                    }
                }
                Err(_) => {
                    // The kernel still lists its addresses on this socket. So nothing is known of
                    // the others now, and this device is left out from the next time on.
                    self.overfull.insert(device);
                    bail!("the kernel doesn't list the addresses behind device {device} in time");
                }
            }
        }
        Ok(PodInterfaces::from_claims(claims))
    }
}

/// The veths whose other ends are in other namespaces, by index.
async fn list_veths(handle: &Handle) -> anyhow::Result<BTreeMap<u32, OtherEnd>> {
    let list = async {
        let mut links = handle.link().get().execute();
        let mut veths = BTreeMap::new();
        while let Some(link) = links.try_next().await.context("can't list the devices")? {
            veths.extend(other_end(&link).map(|end| (link.header.index, end)));
        }
        Ok(veths)
    };
    let listed = timeout(LIMIT, list).await;
    listed.context("the kernel lists no devices")?
}

fn other_end(link: &LinkMessage) -> Option<OtherEnd> {
    let (mut is_veth, mut namespace, mut index) = (false, None, None);
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::LinkInfo(infos) => {
                is_veth = infos.contains(&LinkInfo::Kind(InfoKind::Veth));
            }
            LinkAttribute::LinkNetNsId(id) => namespace = Some(*id),
            LinkAttribute::Link(peer) => index = Some(*peer),
            _ => {}
        }
    }
    if !is_veth {
        return None;
    }
    Some(OtherEnd {
        namespace: namespace?,
        index: index?,
    })
}

/// The addresses of the other end of a veth, without those that count only on its link.
async fn list_addresses(handle: &Handle, end: OtherEnd) -> anyhow::Result<Vec<IpAddr>> {
    let mut addresses = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut request = handle.address().get();
        let message = request.message_mut();
        message.header.family = family;
        message.header.index = end.index;
        let namespace = AddressAttribute::TargetNetNsId(end.namespace);
        message.attributes.push(namespace);
        let mut found = request.execute();
        while let Some(message) = found.try_next().await? {
            if message.header.scope == AddressScope::Link || message.header.index != end.index {
                continue;
            }
            addresses.extend(message.attributes.iter().find_map(own_address));
        }
    }
    Ok(addresses)
}

/// The address itself. On a point-to-point link, `IFA_ADDRESS` is the address of the other side;
/// IPv6 has only `IFA_ADDRESS` otherwise.
fn own_address(attribute: &AddressAttribute) -> Option<IpAddr> {
    match attribute {
        AddressAttribute::Local(address) => Some(*address),
        AddressAttribute::Address(address @ IpAddr::V6(_)) => Some(*address),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_leads_to_its_only_device() {
        let interfaces = PodInterfaces::from_claims([
            (address("10.0.0.1"), 3),
            (address("fd00::1"), 3),
            (address("10.0.0.2"), 4),
            // The same address twice on one device.
            (address("10.0.0.2"), 4),
        ]);
        assert_eq!(interfaces.of(address("10.0.0.1")), Some(3));
        assert_eq!(interfaces.of(address("fd00::1")), Some(3));
        assert_eq!(interfaces.of(address("10.0.0.2")), Some(4));
        assert_eq!(interfaces.of(address("10.0.0.3")), None);
    }

    #[test]
    fn an_address_of_several_devices_leads_nowhere() {
        for last in [3, 4, 5] {
            let claims = [3, 4, last].map(|device| (address("10.0.0.1"), device));
            let interfaces = PodInterfaces::from_claims(claims);
            assert_eq!(interfaces.of(address("10.0.0.1")), None, "{last}");
        }
    }
}
