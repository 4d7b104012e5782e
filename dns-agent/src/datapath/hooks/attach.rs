//! Putting one program on one device, or in the place of one that an agent before left there.

use std::{io, path::PathBuf};

use anyhow::{Context as _, anyhow, bail};
use aya::programs::{
    LinkOrder, SchedClassifier, TcAttachType, XdpMode,
    links::{FdLink, LinkError, PinnedLink},
    tc::{
        NlOptions, SchedClassifierLink, SchedClassifierLinkId, TcAttachOptions, TcError,
        qdisc_add_clsact, qdisc_detach_program,
    },
    xdp::XdpLink,
};
use dns_common::outcomes::Hook;

use super::{AttachedStatus, program_on};
use crate::{
    config::Hook as Choice,
    datapath::{
        interfaces::{Device, Filter},
        object::{Object, Program},
        pins::{self, Mode, Pin, Pins},
    },
};

/// The filter's place before tcx: it runs first.
const PRIORITY: u16 = 1;

/// A program on a device.
pub(super) struct Attached {
    pub(super) status: AttachedStatus,
    pub(super) program: Program,
    link: Link,
}

/// What holds a program on its device.
enum Link {
    /// It goes with this process.
    #[expect(dead_code, reason = "held to stay attached")]
    Xdp(XdpLink),
    /// It goes with this process; a filter when it is taken off.
    Tc(SchedClassifierLink),
    /// It stays until its pin is removed;
    /// held as well, so that it outlives the BPF file system.
    Pinned(
        #[expect(dead_code, reason = "held to stay attached")] PinnedLink,
        PathBuf,
    ),
}

/// Where links are pinned, and whether they stay so.
#[derive(Clone, Copy)]
pub(super) enum Pinning<'a> {
    /// Links go with this process, those that were pinned before as well.
    Released(&'a Pins),
    /// Links stay.
    Kept(&'a Pins),
    /// There is nowhere to pin.
    Nowhere,
}

impl Attached {
    /// Attaches what is right for a device. An agent's program that is there already is replaced by
    /// ours at one stroke: no packet sees none of them.
    pub(super) fn new(
        object: &mut Object,
        device: &Device,
        choice: Choice,
        pinning: Pinning<'_>,
    ) -> anyhow::Result<Attached> {
        if !device.is_ethernet {
            bail!("its packets have no Ethernet header");
        }
        let modes = modes(device, choice);
        for &(mode, _) in modes {
            let pin = Pin {
                mode,
                index: device.index,
            };
            if let Some(left) = pinning.pins().and_then(|pins| pins.find(pin)) {
                return Attached::take_over(object, device, pin, left, pinning);
            }
        }
        if let Some(pins) = pinning.pins() {
            // What is pinned there otherwise is in the way.
            pins.keep(|pin| pin.index != device.index)?;
        }
        let mut refused: Option<anyhow::Error> = None;
        for &(mode, why) in modes {
            let reason = match (&refused, why) {
                (Some(error), _) => Some(format!("native XDP was refused: {error:#}")),
                (None, why) => why.map(str::to_owned),
            };
            let attached = match mode {
                Mode::Tcx => attach_tc(object, device, pinning),
                Mode::Native => attach_xdp(object, device, XdpMode::Driver, pinning),
                Mode::Generic => attach_xdp(object, device, XdpMode::Skb, pinning),
            };
            match attached {
                Ok(mut attached) => {
                    let reason = reason.or(attached.status.reason.take());
                    attached.status.reason = reason;
                    return Ok(attached);
                }
                Err(error) => refused = Some(error),
            }
        }
        Err(refused.unwrap_or_else(|| anyhow!("there is no way to attach to it")))
    }

    /// Puts our program in the place of the one that a pinned link holds.
    fn take_over(
        object: &mut Object,
        device: &Device,
        pin: Pin,
        left: PinnedLink,
        pinning: Pinning<'_>,
    ) -> anyhow::Result<Attached> {
        let hook = match pin.mode {
            Mode::Tcx => Hook::Tc,
            Mode::Native | Mode::Generic => Hook::Xdp,
        };
        let program = program_on(device, hook);
        let left = match pinning {
            Pinning::Released(_) => left.unpin()?,
            Pinning::Kept(_) | Pinning::Nowhere => FdLink::from(left),
        };
        let taken = |error| anyhow!("taking over the link that was pinned: {error}");
        let link = match hook {
            Hook::Tc => {
                let tc = object.tc(program.name())?;
                let link = left
                    .try_into()
                    .map_err(|error: LinkError| taken(error.to_string()))?;
                let id = tc
                    .attach_to_link(link)
                    .map_err(|error| taken(error.to_string()))?;
                Link::Tc(tc.take_link(id)?)
            }
            Hook::Xdp => {
                let xdp = object.xdp(program.name())?;
                let link = left
                    .try_into()
                    .map_err(|error: LinkError| taken(error.to_string()))?;
                let id = xdp
                    .attach_to_link(link)
                    .map_err(|error| taken(error.to_string()))?;
                Link::Xdp(xdp.take_link(id)?)
            }
        };
        let link = match pinning {
            // The pin is still there.
            Pinning::Kept(pins) => {
                let path = pins.path(pin);
                Link::Pinned(PinnedLink::from_pin(&path)?, path)
            }
            Pinning::Released(_) | Pinning::Nowhere => link,
        };
        let mut attached = Attached::of(device, program, pin.mode.name(), link);
        attached.status.reason = Some("taken over from the agent before".to_owned());
        Ok(attached)
    }

    /// Takes the program off.
    pub(super) fn take_off(self) -> io::Result<()> {
        match self.link {
            Link::Pinned(_, path) => pins::remove(&path),
            Link::Xdp(_) | Link::Tc(_) => Ok(()),
        }
    }

    /// Leaves the program where it is, as far as that can be.
    pub(super) fn leave(self) {
        match self.link {
            Link::Tc(link) if is_filter(&link) => std::mem::forget(link),
            Link::Pinned(..) | Link::Tc(_) | Link::Xdp(_) => {}
        }
    }

    fn of(device: &Device, program: Program, mode: &'static str, link: Link) -> Attached {
        let outlives = match &link {
            Link::Pinned(..) => true,
            Link::Tc(link) => is_filter(link),
            Link::Xdp(_) => false,
        };
        Attached {
            status: AttachedStatus {
                interface: device.name.clone(),
                index: device.index,
                hook: program.hook().name(),
                mode,
                program: program.name(),
                outlives,
                reason: None,
            },
            program,
            link,
        }
    }
}

impl Pinning<'_> {
    fn pins(&self) -> Option<&Pins> {
        match self {
            Pinning::Released(pins) | Pinning::Kept(pins) => Some(pins),
            Pinning::Nowhere => None,
        }
    }

    /// Where a new link is pinned.
    fn kept(&self) -> Option<&Pins> {
        match self {
            Pinning::Kept(pins) => Some(pins),
            Pinning::Released(_) | Pinning::Nowhere => None,
        }
    }
}

/// Whether a filter is an agent's.
pub(in crate::datapath) fn is_ours(filter: &Filter) -> bool {
    is_our_name(&filter.name)
}

/// Whether filters of this name are an agent's.
pub(in crate::datapath) fn is_our_name(name: &str) -> bool {
    Program::ALL.iter().any(|program| program.name() == name)
}

/// Removes the filters that an agent left on a device, on a kernel before tcx. None is no error.
pub(in crate::datapath) fn remove_filters(device: &Device) -> anyhow::Result<()> {
    let ours = device.filters.iter().filter(|filter| is_ours(filter));
    for filter in ours {
        let removed = qdisc_detach_program(&device.name, TcAttachType::Ingress, &filter.name);
        match removed {
            Ok(()) => {}
            Err(TcError::IoError(error)) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// The ways to attach, best first, each with the reason why it is not another one.
fn modes(device: &Device, choice: Choice) -> &'static [(Mode, Option<&'static str>)] {
    match choice {
        Choice::Tc => &[(Mode::Tcx, None)],
        Choice::Auto if device.is_veth => &[(Mode::Tcx, None)],
        // An answer sent by native XDP is lost at a peer that runs no XDP program.
        Choice::Xdp if device.is_veth => {
            &[(Mode::Generic, Some("a veth loses native XDP's answers"))]
        }
        Choice::XdpGeneric => &[(Mode::Generic, None)],
        Choice::Auto | Choice::Xdp => &[(Mode::Native, None), (Mode::Generic, None)],
    }
}

fn attach_xdp(
    object: &mut Object,
    device: &Device,
    mode: XdpMode,
    pinning: Pinning<'_>,
) -> anyhow::Result<Attached> {
    let program = program_on(device, Hook::Xdp);
    let pin = Pin {
        mode: match mode {
            XdpMode::Skb => Mode::Generic,
            _ => Mode::Native,
        },
        index: device.index,
    };
    let xdp = object.xdp(program.name())?;
    let mut attach = || -> anyhow::Result<XdpLink> {
        let id = xdp
            .attach_to_if_index(device.index, mode)
            .with_context(|| format!("attaching {} to {}", program.name(), device.name))?;
        Ok(xdp.take_link(id)?)
    };
    let link = attach()?;
    let Some(pins) = pinning.kept() else {
        return Ok(Attached::of(
            device,
            program,
            pin.mode.name(),
            Link::Xdp(link),
        ));
    };
    let pinned = FdLink::try_from(link)
        .map_err(|_| "not pinned: the driver knows no links".to_owned())
        .and_then(|link| {
            let pinned = link.pin(pins.path(pin));
            pinned.map_err(|error| format!("not pinned: {error}"))
        });
    match pinned {
        Ok(link) => Ok(Attached::of(
            device,
            program,
            pin.mode.name(),
            Link::Pinned(link, pins.path(pin)),
        )),
        // A link that could not be pinned is off again; where aya attached by netlink, for want of
        // links, this takes the place of that.
        Err(reason) => {
            let mut attached = Attached::of(device, program, pin.mode.name(), Link::Xdp(attach()?));
            attached.status.reason = Some(reason);
            Ok(attached)
        }
    }
}

fn attach_tc(
    object: &mut Object,
    device: &Device,
    pinning: Pinning<'_>,
) -> anyhow::Result<Attached> {
    let program = program_on(device, Hook::Tc);
    let tc = object.tc(program.name())?;
    let by_tcx = attach_tcx(tc, device);
    let link = match by_tcx {
        Ok(link) => link,
        Err(tcx) => {
            let link = match attach_filter(tc, device) {
                Ok(id) => tc.take_link(id)?,
                Err(clsact) => bail!("by tcx: {tcx:#}; by clsact: {clsact:#}"),
            };
            let mut attached = Attached::of(device, program, "clsact", Link::Tc(link));
            attached.status.reason = Some(format!("tcx was refused: {tcx:#}"));
            return Ok(attached);
        }
    };
    let pin = Pin {
        mode: Mode::Tcx,
        index: device.index,
    };
    let Some(pins) = pinning.kept() else {
        return Ok(Attached::of(
            device,
            program,
            pin.mode.name(),
            Link::Tc(link),
        ));
    };
    match FdLink::try_from(link)?.pin(pins.path(pin)) {
        Ok(link) => Ok(Attached::of(
            device,
            program,
            pin.mode.name(),
            Link::Pinned(link, pins.path(pin)),
        )),
        // What could not be pinned is off again.
        Err(error) => {
            let link = Link::Tc(attach_tcx(tc, device)?);
            let mut attached = Attached::of(device, program, pin.mode.name(), link);
            attached.status.reason = Some(format!("not pinned: {error}"));
            Ok(attached)
        }
    }
}

fn attach_tcx(tc: &mut SchedClassifier, device: &Device) -> anyhow::Result<SchedClassifierLink> {
    let first = TcAttachOptions::TcxOrder(LinkOrder::first());
    let id = tc.attach_with_options(&device.name, TcAttachType::Ingress, first)?;
    Ok(tc.take_link(id)?)
}

/// Before Linux 6.6 there is no tcx. The filter gets the highest priority, so it runs first.
fn attach_filter(
    tc: &mut SchedClassifier,
    device: &Device,
) -> anyhow::Result<SchedClassifierLinkId> {
    // It may be there already, ours from an earlier run or somebody else's; either will do, and if
    // it is not there the next step says so.
    let _ = qdisc_add_clsact(&device.name);
    let mut ours = device.filters.iter().filter(|filter| is_ours(filter));
    if let Some(left) = ours.next() {
        let ingress = TcAttachType::Ingress;
        let handle = left.handle.into();
        let left =
            SchedClassifierLink::attached(&device.name, ingress, left.priority, handle, None)?;
        // One that is gone meanwhile can't be replaced.
        if let Ok(id) = tc.attach_to_link(left) {
            return Ok(id);
        }
    }
    remove_filters(device)?;
    let options = NlOptions {
        priority: PRIORITY,
        ..NlOptions::default()
    };
    tc.attach_with_options(
        &device.name,
        TcAttachType::Ingress,
        TcAttachOptions::Netlink(options),
    )
    .with_context(|| format!("attaching a filter to {}", device.name))
}

/// Whether it is a filter of before tcx, which stays when nobody takes it off.
fn is_filter(link: &SchedClassifierLink) -> bool {
    <&FdLink>::try_from(link).is_err()
}
