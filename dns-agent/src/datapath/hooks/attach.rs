//! Putting one program on one device, or in the place of one that an agent before left there.

use std::{io, path::PathBuf};

use anyhow::{Context as _, anyhow, bail};
use aya::programs::{
    LinkOrder, SchedClassifier, TcAttachType, Xdp, XdpMode,
    links::{FdLink, PinnedLink},
    tc::{
        NlOptions, SchedClassifierLink, TcAttachOptions, TcError, qdisc_add_clsact,
        qdisc_detach_program,
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
        pins::{self, HeldLink, Mode, Pin, Pins},
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
    Xdp(XdpLink),
    /// It goes with this process; a filter when it is taken off.
    Tc(SchedClassifierLink),
    /// It stays until its pin is removed. It is held as well, so that it outlives the BPF file system,
    /// and can be pinned again.
    Pinned(Box<Pinned>),
}

/// A link with its pin.
struct Pinned {
    link: FdLink,
    held: HeldLink,
    path: PathBuf,
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
            let pin = pin(mode, device);
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
                (Some(error), _) => Some(format!(
                    "native XDP was refused: {error:#}; {}",
                    why_refused(device)
                )),
                (None, why) => why.map(str::to_owned),
            };
            let attached = match mode.hook() {
                Hook::Tc => attach_tc(object, device, pinning),
                Hook::Xdp => attach_xdp(object, device, mode, pinning),
            };
            match attached {
                Ok(attached) => return Ok(attached.because(reason)),
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
        let hook = pin.mode.hook();
        let program = program_on(device, hook);
        let left = match pinning {
            Pinning::Released(_) => left.unpin()?,
            Pinning::Kept(_) | Pinning::Nowhere => FdLink::from(left),
        };
        let link = match hook {
            Hook::Tc => replace_tc(object.tc(program.name())?, left.try_into()?).map(Link::from),
            Hook::Xdp => replace_xdp(object.xdp(program.name())?, left.try_into()?).map(Link::from),
        };
        let link = link.context("taking over the link that was pinned")?;
        let link = match pinning {
            // The pin is still there.
            Pinning::Kept(pins) => {
                let path = pins.path(pin);
                Link::pinned(PinnedLink::from_pin(&path)?, path)?
            }
            Pinning::Released(_) | Pinning::Nowhere => link,
        };
        let reason = "taken over from the agent before".to_owned();
        Ok(Attached::of(device, program, pin.mode.name(), link).because(Some(reason)))
    }

    /// Puts another object's program in the place of this one.
    pub(super) fn replaced(self, object: &mut Object) -> anyhow::Result<Attached> {
        let name = self.program.name();
        let link = match self.link {
            Link::Xdp(link) => replace_xdp(object.xdp(name)?, link)?.into(),
            Link::Tc(link) => replace_tc(object.tc(name)?, link)?.into(),
            Link::Pinned(pinned) => {
                let Pinned { link, held, path } = *pinned;
                let replaced: FdLink = match self.program.hook() {
                    Hook::Tc => replace_tc(object.tc(name)?, link.try_into()?)?.try_into()?,
                    Hook::Xdp => replace_xdp(object.xdp(name)?, link.try_into()?)?.try_into()?,
                };
                Link::Pinned(Box::new(Pinned {
                    link: replaced,
                    held,
                    path,
                }))
            }
        };
        Ok(Attached { link, ..self })
    }

    /// Pins the link again where it is to be pinned and is not.
    pub(super) fn repin(&mut self, pins: &Pins) -> anyhow::Result<()> {
        let Link::Pinned(pinned) = &self.link else {
            return Ok(());
        };
        let repinned = pins.repin(&pinned.path, &pinned.held);
        self.status.outlives = repinned.is_ok();
        if repinned? {
            tracing::warn!(
                "{}: the pin {} was gone or replaced, and is there again",
                self.status.interface,
                pinned.path.display()
            );
        }
        Ok(())
    }

    /// Notes that the link goes with this process: there is nowhere to pin it.
    pub(super) fn is_not_pinned(&mut self) {
        if let Link::Pinned(_) = &self.link {
            self.status.outlives = false;
        }
    }

    /// Takes the program off.
    pub(super) fn take_off(self) -> io::Result<()> {
        match self.link {
            Link::Pinned(pinned) => pins::remove(&pinned.path),
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

    /// Says why it is so, if there is a reason.
    fn because(mut self, reason: Option<String>) -> Attached {
        self.status.reason = reason.or(self.status.reason);
        self
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

impl Link {
    /// A link that has just been pinned.
    fn pinned(link: PinnedLink, path: PathBuf) -> io::Result<Link> {
        let held = HeldLink::of(&path)?;
        let link = link.into();
        Ok(Link::Pinned(Box::new(Pinned { link, held, path })))
    }
}

impl From<XdpLink> for Link {
    fn from(link: XdpLink) -> Link {
        Link::Xdp(link)
    }
}

impl From<SchedClassifierLink> for Link {
    fn from(link: SchedClassifierLink) -> Link {
        Link::Tc(link)
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
fn is_ours(filter: &Filter) -> bool {
    is_our_name(&filter.name)
}

/// Whether filters of this name are an agent's.
pub(in crate::datapath) fn is_our_name(name: &str) -> bool {
    Program::ALL.iter().any(|program| program.name() == name)
}

/// Removes the filters that an agent left on a device, on a kernel before tcx. Says their names; there
/// may be none.
pub(in crate::datapath) fn remove_filters(device: &Device) -> anyhow::Result<Vec<String>> {
    let mut names = Vec::new();
    for filter in device.filters.iter().filter(|filter| is_ours(filter)) {
        let removed = qdisc_detach_program(&device.name, TcAttachType::Ingress, &filter.name);
        match removed {
            Ok(()) => names.push(filter.name.clone()),
            Err(TcError::IoError(error)) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                return Err(error).with_context(|| {
                    format!("taking the filter {} off {}", filter.name, device.name)
                });
            }
        }
    }
    Ok(names)
}

/// What a driver may have against XDP: what it says goes to the kernel's log, at best.
fn why_refused(device: &Device) -> String {
    let [receiving, sending] = device.queues;
    let driver = device.driver().unwrap_or_else(|| "no driver".to_owned());
    format!(
        "{driver}, an MTU of {}, {receiving} receive and {sending} transmit queues: drivers refuse it for want of support, \
         for packets longer than a page or for want of queues, about one for each CPU",
        device.mtu
    )
}

/// The ways to attach, best first, each with the reason why it is not another one.
pub(super) fn modes(device: &Device, choice: Choice) -> &'static [(Mode, Option<&'static str>)] {
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
    mode: Mode,
    pinning: Pinning<'_>,
) -> anyhow::Result<Attached> {
    let program = program_on(device, Hook::Xdp);
    let xdp = object.xdp(program.name())?;
    let flags = match mode {
        Mode::Generic => XdpMode::Skb,
        Mode::Native | Mode::Tcx => XdpMode::Driver,
    };
    let attach = || -> anyhow::Result<XdpLink> {
        let id = xdp
            .attach_to_if_index(device.index, flags)
            .with_context(|| format!("attaching {} to {}", program.name(), device.name))?;
        Ok(xdp.take_link(id)?)
    };
    let (link, reason) = hold(attach, pinning, pin(mode, device))?;
    Ok(Attached::of(device, program, mode.name(), link).because(reason))
}

fn attach_tc(
    object: &mut Object,
    device: &Device,
    pinning: Pinning<'_>,
) -> anyhow::Result<Attached> {
    let program = program_on(device, Hook::Tc);
    let tc = object.tc(program.name())?;
    let by_tcx = hold(|| attach_tcx(tc, device), pinning, pin(Mode::Tcx, device));
    let tcx = match by_tcx {
        Ok((link, reason)) => {
            let attached = Attached::of(device, program, Mode::Tcx.name(), link);
            return Ok(attached.because(reason));
        }
        Err(tcx) => tcx,
    };
    let link = attach_filter(tc, device)
        .map_err(|clsact| anyhow!("by tcx: {tcx:#}; by clsact: {clsact:#}"))?;
    let reason = format!("tcx was refused: {tcx:#}");
    Ok(Attached::of(device, program, "clsact", Link::Tc(link)).because(Some(reason)))
}

/// Attaches, and pins if links are to stay. What can't be pinned is off then: it is attached once more,
/// to go with this process, with the reason. Where aya attaches by netlink, for want of links, that
/// takes the place of the first.
fn hold<L>(
    mut attach: impl FnMut() -> anyhow::Result<L>,
    pinning: Pinning<'_>,
    pin: Pin,
) -> anyhow::Result<(Link, Option<String>)>
where
    L: Into<Link>,
    FdLink: TryFrom<L>,
{
    let link = attach()?;
    let Some(pins) = pinning.kept() else {
        return Ok((link.into(), None));
    };
    let path = pins.path(pin);
    let pinned = FdLink::try_from(link)
        .map_err(|_| "there is no link".to_owned())
        .and_then(|link| link.pin(&path).map_err(|error| error.to_string()))
        .and_then(|link| Link::pinned(link, path).map_err(|error| error.to_string()));
    match pinned {
        Ok(link) => Ok((link, None)),
        Err(reason) => Ok((attach()?.into(), Some(format!("not pinned: {reason}")))),
    }
}

fn attach_tcx(tc: &mut SchedClassifier, device: &Device) -> anyhow::Result<SchedClassifierLink> {
    let first = TcAttachOptions::TcxOrder(LinkOrder::first());
    let id = tc.attach_with_options(&device.name, TcAttachType::Ingress, first)?;
    Ok(tc.take_link(id)?)
}

/// Before Linux 6.6 there is no tcx. The filter gets the highest priority, so it runs first.
fn attach_filter(tc: &mut SchedClassifier, device: &Device) -> anyhow::Result<SchedClassifierLink> {
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
        if let Ok(link) = replace_tc(tc, left) {
            return Ok(link);
        }
    }
    remove_filters(device)?;
    let options = NlOptions {
        priority: PRIORITY,
        ..NlOptions::default()
    };
    let options = TcAttachOptions::Netlink(options);
    let id = tc
        .attach_with_options(&device.name, TcAttachType::Ingress, options)
        .with_context(|| format!("attaching a filter to {}", device.name))?;
    Ok(tc.take_link(id)?)
}

fn replace_tc(
    tc: &mut SchedClassifier,
    left: SchedClassifierLink,
) -> anyhow::Result<SchedClassifierLink> {
    let id = tc.attach_to_link(left)?;
    Ok(tc.take_link(id)?)
}

fn replace_xdp(xdp: &mut Xdp, left: XdpLink) -> anyhow::Result<XdpLink> {
    let id = xdp.attach_to_link(left)?;
    Ok(xdp.take_link(id)?)
}

fn pin(mode: Mode, device: &Device) -> Pin {
    Pin {
        mode,
        index: device.index,
    }
}

/// Whether it is a filter of before tcx, which stays when nobody takes it off.
fn is_filter(link: &SchedClassifierLink) -> bool {
    <&FdLink>::try_from(link).is_err()
}
