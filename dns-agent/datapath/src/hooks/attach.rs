//! Attaches one program to one device, or replaces the program that an earlier agent left there.

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

use super::{AttachedStatus, program_for};
use crate::HookChoice as Choice;
use crate::{
    interfaces::{Device, TcFilter},
    pins::{self, AttachMode, HeldLink, Pin, Pins},
    program::{EbpfObject, HookProgram, is_zerohop_name},
};

/// The priority of the tc filter on kernels without tcx. Filters with the lowest number run first.
const PRIORITY: u16 = 1;

/// A program attached to a device.
pub(super) struct Attachment {
    pub(super) status: AttachedStatus,
    pub(super) program: HookProgram,
    link: Link,
}

/// The link that keeps a program attached.
enum Link {
    /// An XDP link, detached when this process ends.
    Xdp(XdpLink),
    /// A tcx link, detached when this process ends; or a clsact filter, which stays until it is
    /// removed.
    Tc(SchedClassifierLink),
    /// A pinned link, which outlives this process. While the process runs, the descriptors keep the
    /// link attached even without its pin, for example after the BPF file system was unmounted, so
    /// that it can be pinned again.
    Pinned(Box<Pinned>),
}

/// A link with its pin.
struct Pinned {
    link: FdLink,
    /// A second descriptor of the link, for system calls that aya doesn't offer.
    held: HeldLink,
    path: PathBuf,
}

/// What to do with the pins of links.
#[derive(Clone, Copy)]
pub(super) enum Pinning<'a> {
    /// Remove the pins of earlier agents' links, so that all links end with this process.
    Unpin(&'a Pins),
    /// Pin the links, so that they outlive this process.
    Pin(&'a Pins),
    /// Links can't be pinned.
    Unavailable,
}

impl Attachment {
    /// Attaches the right program to a device. If an earlier agent left its program there in a mode
    /// that fits `choice`, by a filter or by a link that `pinning` can find, the program is
    /// replaced atomically, so exactly one of the two runs for every packet.
    pub(super) fn new(
        object: &mut EbpfObject,
        device: &Device,
        choice: Choice,
        pinning: Pinning<'_>,
    ) -> anyhow::Result<Attachment> {
        if !device.is_ethernet {
            bail!("its packets have no Ethernet header");
        }
        let modes = modes(device, choice);
        for &(mode, _) in modes {
            let pin = pin_for(mode, device);
            if let Some(earlier) = pinning.pins().and_then(|pins| pins.find(pin)) {
                return Attachment::take_over(object, device, pin, earlier, pinning);
            }
        }
        if let Some(pins) = pinning.pins() {
            // A link that is pinned in another mode would block the new link or run beside it.
            pins.remove_all_except(|pin| pin.device != device.index)?;
        }
        let mut refused: Option<anyhow::Error> = None;
        for &(mode, why) in modes {
            // Only native XDP has a mode after it.
            let reason = match (&refused, why) {
                (Some(error), _) => Some(format!(
                    "native XDP was refused: {error:#}; {}",
                    likely_refusal(device)
                )),
                (None, why) => why.map(str::to_owned),
            };
            let attached = match mode.hook() {
                Hook::Tc => attach_tc(object, device, pinning),
                Hook::Xdp => attach_xdp(object, device, mode, pinning),
            };
            match attached {
                Ok(attached) => return Ok(attached.with_reason(reason)),
                Err(error) => refused = Some(error),
            }
        }
        Err(refused.unwrap_or_else(|| anyhow!("no attach mode is left to try")))
    }

    /// Takes over a link that an earlier agent pinned: replaces its program with this agent's.
    fn take_over(
        object: &mut EbpfObject,
        device: &Device,
        pin: Pin,
        earlier: PinnedLink,
        pinning: Pinning<'_>,
    ) -> anyhow::Result<Attachment> {
        let hook = pin.mode.hook();
        let program = program_for(device, hook);
        let earlier = match pinning {
            Pinning::Unpin(_) => earlier.unpin()?,
            Pinning::Pin(_) | Pinning::Unavailable => FdLink::from(earlier),
        };
        let link =
            match hook {
                Hook::Tc => replace_tc(object.loaded_tc(program.name())?, earlier.try_into()?)
                    .map(Link::from),
                Hook::Xdp => replace_xdp(object.loaded_xdp(program.name())?, earlier.try_into()?)
                    .map(Link::from),
            };
        let link = link.context("taking over the link that an earlier agent pinned")?;
        let link = match pinning {
            // The replacement keeps the link and its pin, so dropping `link` detaches nothing.
            Pinning::Pin(pins) => {
                let path = pins.path(pin);
                Link::pinned(PinnedLink::from_pin(&path)?, path)?
            }
            Pinning::Unpin(_) | Pinning::Unavailable => link,
        };
        let reason = "taken over from an earlier agent".to_owned();
        Ok(Attachment::with_link(device, program, pin.mode.name(), link).with_reason(Some(reason)))
    }

    /// Replaces the program with the program of the same name in another object.
    ///
    /// # Errors
    ///
    /// When the program can't be loaded or replaced. Then a link without a pin is detached, and a
    /// pinned link keeps the old program.
    pub(super) fn replace_program(self, object: &mut EbpfObject) -> anyhow::Result<Attachment> {
        let name = self.program.name();
        let link = match self.link {
            Link::Xdp(link) => replace_xdp(object.loaded_xdp(name)?, link)?.into(),
            Link::Tc(link) => replace_tc(object.loaded_tc(name)?, link)?.into(),
            Link::Pinned(pinned) => {
                let Pinned { link, held, path } = *pinned;
                let replaced: FdLink = match self.program.hook() {
                    Hook::Tc => {
                        replace_tc(object.loaded_tc(name)?, link.try_into()?)?.try_into()?
                    }
                    Hook::Xdp => {
                        replace_xdp(object.loaded_xdp(name)?, link.try_into()?)?.try_into()?
                    }
                };
                Link::Pinned(Box::new(Pinned {
                    link: replaced,
                    held,
                    path,
                }))
            }
        };
        Ok(Attachment { link, ..self })
    }

    /// Restores the pin of a pinned link if it was removed or replaced.
    ///
    /// # Errors
    ///
    /// When the link can't be pinned. Then it ends with this process.
    pub(super) fn repin(&mut self, pins: &Pins) -> anyhow::Result<()> {
        let Link::Pinned(pinned) = &self.link else {
            return Ok(());
        };
        let repinned = pins.repin(&pinned.path, &pinned.held);
        self.status.outlives = repinned.is_ok();
        if repinned? {
            tracing::warn!(
                "the pin {} of the hook on {} was removed or replaced, and has been restored",
                pinned.path.display(),
                self.status.interface
            );
        }
        Ok(())
    }

    /// Notes in the status that a pinned link may have lost its pin, and then ends with this
    /// process.
    pub(super) fn mark_unpinned(&mut self) {
        if let Link::Pinned(_) = &self.link {
            self.status.outlives = false;
        }
    }

    /// Detaches the program.
    pub(super) fn detach(self) -> io::Result<()> {
        match self.link {
            Link::Pinned(pinned) => pins::remove_pin(&pinned.path),
            // Dropping the link detaches the program.
            Link::Xdp(_) | Link::Tc(_) => Ok(()),
        }
    }

    /// Leaves a pinned link or a filter attached. Other links end when they are dropped.
    pub(super) fn keep_attached(self) {
        match self.link {
            Link::Tc(link) if is_filter(&link) => std::mem::forget(link),
            Link::Pinned(..) | Link::Tc(_) | Link::Xdp(_) => {}
        }
    }

    /// Adds a reason to the status, if there is one.
    fn with_reason(mut self, reason: Option<String>) -> Attachment {
        let reasons = [reason, self.status.reason.take()].into_iter().flatten();
        self.status.reason = reasons.reduce(|first, second| format!("{first}; {second}"));
        self
    }

    fn with_link(
        device: &Device,
        program: HookProgram,
        mode: &'static str,
        link: Link,
    ) -> Attachment {
        let outlives = match &link {
            Link::Pinned(..) => true,
            Link::Tc(link) => is_filter(link),
            Link::Xdp(_) => false,
        };
        Attachment {
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
    /// Wraps the link that is pinned at `path`.
    fn pinned(link: PinnedLink, path: PathBuf) -> io::Result<Link> {
        let held = HeldLink::open_pinned(&path)?;
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
            Pinning::Unpin(pins) | Pinning::Pin(pins) => Some(pins),
            Pinning::Unavailable => None,
        }
    }

    /// Where to pin a new link; `None` if new links are not pinned.
    fn pins_for_new_links(&self) -> Option<&Pins> {
        match self {
            Pinning::Pin(pins) => Some(pins),
            Pinning::Unpin(_) | Pinning::Unavailable => None,
        }
    }
}

/// Whether a filter is one of Zerohop's.
fn is_zerohop_filter(filter: &TcFilter) -> bool {
    is_zerohop_name(&filter.name)
}

/// Removes the filters that an agent left on a device, on a kernel without tcx. Returns their
/// names.
pub(crate) fn remove_filters(device: &Device) -> anyhow::Result<Vec<String>> {
    let mut names = Vec::new();
    for filter in device
        .ingress_filters
        .iter()
        .filter(|filter| is_zerohop_filter(filter))
    {
        let removed = qdisc_detach_program(&device.name, TcAttachType::Ingress, &filter.name);
        match removed {
            Ok(()) => names.push(filter.name.clone()),
            // It is gone already: a removal takes all filters of a name.
            Err(TcError::IoError(error)) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                return Err(error).with_context(|| {
                    format!("removing the filter {} from {}", filter.name, device.name)
                });
            }
        }
    }
    Ok(names)
}

/// Likely reasons why a driver refused XDP. Drivers report the actual reason only in the kernel's
/// log, if at all.
fn likely_refusal(device: &Device) -> String {
    let [receiving, sending] = device.queues;
    let driver = device.driver().map_or_else(
        || "no driver in /sys".to_owned(),
        |driver| format!("the driver {driver}"),
    );
    format!(
        "the device has {driver}, an MTU of {}, {receiving} receive and {sending} transmit \
         queues: drivers refuse native XDP when they don't support it, when packets are longer \
         than a page, or when the device has fewer queues than CPUs",
        device.mtu
    )
}

/// The modes to try, best first. A mode has a reason if a better one fits `choice` but isn't tried.
/// [`AttachMode::Tcx`] includes the clsact filter to which [`attach_tc`] resorts.
pub(super) fn modes(
    device: &Device,
    choice: Choice,
) -> &'static [(AttachMode, Option<&'static str>)] {
    match choice {
        Choice::Tc => &[(AttachMode::Tcx, None)],
        Choice::Auto if device.is_veth => &[(AttachMode::Tcx, None)],
        // An answer sent by native XDP is lost at a peer that runs no XDP program.
        Choice::Xdp if device.is_veth => &[(
            AttachMode::Generic,
            Some("a veth loses native XDP's answers"),
        )],
        Choice::XdpGeneric => &[(AttachMode::Generic, None)],
        Choice::Auto | Choice::Xdp => &[(AttachMode::Native, None), (AttachMode::Generic, None)],
    }
}

fn attach_xdp(
    object: &mut EbpfObject,
    device: &Device,
    mode: AttachMode,
    pinning: Pinning<'_>,
) -> anyhow::Result<Attachment> {
    let program = program_for(device, Hook::Xdp);
    let xdp = object.loaded_xdp(program.name())?;
    let flags = match mode {
        AttachMode::Generic => XdpMode::Skb,
        // The mode of an XDP program is never `Tcx`.
        AttachMode::Native | AttachMode::Tcx => XdpMode::Driver,
    };
    let attach = || -> anyhow::Result<XdpLink> {
        let id = xdp
            .attach_to_if_index(device.index, flags)
            .with_context(|| format!("attaching {} to {}", program.name(), device.name))?;
        Ok(xdp.take_link(id)?)
    };
    let (link, reason) = attach_and_pin(attach, pinning, pin_for(mode, device))?;
    Ok(Attachment::with_link(device, program, mode.name(), link).with_reason(reason))
}

fn attach_tc(
    object: &mut EbpfObject,
    device: &Device,
    pinning: Pinning<'_>,
) -> anyhow::Result<Attachment> {
    let program = program_for(device, Hook::Tc);
    let tc = object.loaded_tc(program.name())?;
    let by_tcx = attach_and_pin(
        || attach_tcx(tc, device),
        pinning,
        pin_for(AttachMode::Tcx, device),
    );
    let tcx_error = match by_tcx {
        Ok((link, reason)) => {
            let attached = Attachment::with_link(device, program, AttachMode::Tcx.name(), link);
            return Ok(attached.with_reason(reason));
        }
        Err(error) => error,
    };
    let link = attach_filter(tc, device)
        .map_err(|error| anyhow!("by tcx: {tcx_error:#}; by clsact: {error:#}"))?;
    let reason = format!("tcx was refused: {tcx_error:#}");
    Ok(Attachment::with_link(device, program, "clsact", Link::Tc(link)).with_reason(Some(reason)))
}

/// Attaches a program, and pins the link if links are to be pinned.
///
/// A link that can't be pinned is dropped, which detaches the program. The program is then attached
/// again without a pin, and the reason is returned.
fn attach_and_pin<L>(
    mut attach: impl FnMut() -> anyhow::Result<L>,
    pinning: Pinning<'_>,
    pin: Pin,
) -> anyhow::Result<(Link, Option<String>)>
where
    L: Into<Link>,
    FdLink: TryFrom<L>,
{
    let link = attach()?;
    let Some(pins) = pinning.pins_for_new_links() else {
        return Ok((link.into(), None));
    };
    let path = pins.path(pin);
    let pinned = FdLink::try_from(link)
        .map_err(|_| "the kernel has no BPF link for this hook".to_owned())
        .and_then(|link| link.pin(&path).map_err(|error| error.to_string()))
        .and_then(|link| Link::pinned(link, path).map_err(|error| error.to_string()));
    match pinned {
        Ok(link) => Ok((link, None)),
        Err(reason) => Ok((attach()?.into(), Some(format!("not pinned: {reason}")))),
    }
}

fn attach_tcx(tc: &mut SchedClassifier, device: &Device) -> anyhow::Result<SchedClassifierLink> {
    // First, because an earlier program could end the run, for example by a redirect.
    let first = TcAttachOptions::TcxOrder(LinkOrder::first());
    let id = tc.attach_with_options(&device.name, TcAttachType::Ingress, first)?;
    Ok(tc.take_link(id)?)
}

/// Attaches by a clsact filter, for kernels without tcx (before Linux 6.6). Replaces the program of
/// a filter that an earlier agent left.
fn attach_filter(tc: &mut SchedClassifier, device: &Device) -> anyhow::Result<SchedClassifierLink> {
    // An error may mean that the device already has a clsact qdisc. After any other error,
    // attaching the filter fails below.
    let _ = qdisc_add_clsact(&device.name);
    let mut earlier_filters = device
        .ingress_filters
        .iter()
        .filter(|filter| is_zerohop_filter(filter));
    if let Some(earlier) = earlier_filters.next() {
        let ingress = TcAttachType::Ingress;
        let handle = earlier.handle.into();
        // `None`, because Zerohop's filters have no class ID.
        let earlier =
            SchedClassifierLink::attached(&device.name, ingress, earlier.priority, handle, None)?;
        // This fails, for example, if the filter has just been removed. Then a new one is attached.
        if let Ok(link) = replace_tc(tc, earlier) {
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
    link: SchedClassifierLink,
) -> anyhow::Result<SchedClassifierLink> {
    let id = tc.attach_to_link(link)?;
    Ok(tc.take_link(id)?)
}

fn replace_xdp(xdp: &mut Xdp, link: XdpLink) -> anyhow::Result<XdpLink> {
    let id = xdp.attach_to_link(link)?;
    Ok(xdp.take_link(id)?)
}

fn pin_for(mode: AttachMode, device: &Device) -> Pin {
    Pin {
        mode,
        device: device.index,
    }
}

/// Whether the link is a clsact filter, which stays attached until it is removed.
fn is_filter(link: &SchedClassifierLink) -> bool {
    <&FdLink>::try_from(link).is_err()
}
