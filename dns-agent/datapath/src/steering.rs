//! The steering programs and their maps: which packets go to the agent's network namespace.
//!
//! They are an object of their own, which stays loaded when the kernel plane starts again or moves
//! to larger tables. So the connections in the namespace go on.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem::offset_of,
    net::IpAddr,
    os::fd::AsFd as _,
    sync::atomic::Ordering,
    time::Duration,
};

use anyhow::{Context as _, anyhow};
use aya::{
    Ebpf, EbpfLoader,
    maps::{HashMap, Map, MapData, MapError, PerCpuArray},
    programs::{
        SchedClassifier, TcAttachType,
        tc::{NlOptions, SchedClassifierLink, TcAttachOptions, qdisc_add_clsact},
    },
};
use dns_common::{
    settings::ClientKey,
    steering::{SteeredPod, SteeringOutcome, SteeringTarget},
};
use rustix::time::{ClockId, clock_gettime};

use super::{
    memory::Memory, permitted_clients::client_key, program::ObjectFile,
    steering_program::SteeringProgram,
};

/// The steering programs and their maps.
#[derive(Debug)]
pub struct SteeringPrograms {
    target: Memory,
    served: AddressMap<u8>,
    /// The values are those of [`SteeredPod`].
    pods: AddressMap<[u32; 2]>,
    /// The programs that are attached. Dropped before the object.
    links: Vec<SchedClassifierLink>,
    object: Ebpf,
}

/// Where steered packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SteeringPlace {
    /// The ID of the agent's network namespace in the node's.
    pub namespace: u32,
    /// The index of the node's end of the veth pair that leads there.
    pub interface: u32,
    /// The port of the resolver's sockets there.
    pub port: u16,
}

/// A map of the kernel by addresses, and a copy of it.
#[derive(Debug)]
struct AddressMap<V: aya::Pod> {
    map: HashMap<MapData, ClientKey, V>,
    entries: BTreeMap<IpAddr, V>,
}

/// The steering program of pods, and of the canary's veth.
const STEER: &str = "zerohop_steer";
/// The program of the agent's veth.
const REPLY: &str = "zerohop_reply";
/// The word of [`SteeringTarget`] with the lease.
const LEASE_WORD: usize = offset_of!(SteeringTarget, lease) / 8;
/// The word of [`SteeringTarget`] with namespace and interface.
const PLACE_WORD: usize = offset_of!(SteeringTarget, namespace) / 8;
/// The word of [`SteeringTarget`] that starts with the port.
const PORT_WORD: usize = offset_of!(SteeringTarget, port) / 8;

impl SteeringPrograms {
    /// Loads the programs. They steer nothing yet.
    ///
    /// # Errors
    /// When the kernel refuses a map or a program, for example because it lacks a helper function,
    /// or the object lacks one.
    pub fn load(file: ObjectFile, place: SteeringPlace) -> anyhow::Result<SteeringPrograms> {
        let mut object = EbpfLoader::new()
            .load(file.0)
            .context("can't create the maps of the steering programs")?;
        for name in [STEER, REPLY] {
            let program = program_mut(&mut object, name)?;
            let loaded = program.load();
            loaded.with_context(|| format!("can't load the program {name} into the kernel"))?;
        }
        let target = object.map("TARGET").context("the object has no TARGET")?;
        let Map::Array(data) = target else {
            return Err(anyhow!("TARGET is not an array"));
        };
        let target = Memory::map(data.fd().as_fd(), size_of::<SteeringTarget>())
            .context("can't map the target of steering into memory")?;
        let mut programs = SteeringPrograms {
            target,
            served: AddressMap::take(&mut object, "SERVED")?,
            pods: AddressMap::take(&mut object, "PODS")?,
            links: Vec::new(),
            object,
        };
        programs.set_place(place);
        Ok(programs)
    }

    /// The program for the kernel plane.
    ///
    /// # Errors
    /// When this process can't open another descriptor.
    pub fn program(&self, port: u16) -> anyhow::Result<SteeringProgram> {
        let program = self.object.program(STEER).context("it is not loaded")?;
        let program: &SchedClassifier = program.try_into()?;
        Ok(SteeringProgram::new(program.fd()?.try_clone()?, port))
    }

    /// Attaches the program for replies to the device that leads into the agent's namespace. The
    /// calling thread must be in the node's network namespace.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn attach_reply(&mut self, device: &str) -> anyhow::Result<()> {
        self.attach(REPLY, device)
    }

    /// Attaches the steering program itself to a device, as [`SteeringPrograms::attach_reply`]
    /// does.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn attach_steering(&mut self, device: &str) -> anyhow::Result<()> {
        self.attach(STEER, device)
    }

    fn attach(&mut self, name: &str, device: &str) -> anyhow::Result<()> {
        let program = program_mut(&mut self.object, name)?;
        // This fails if the device has a clsact qdisc. After any other error, attaching a filter
        // fails.
        let _ = qdisc_add_clsact(device);
        // A filter, unlike a link, stays until its device goes. So when this process is killed, the
        // kernel's last segments on its connections still reach the pods.
        let filter = TcAttachOptions::Netlink(NlOptions::default());
        let attached = program.attach_with_options(device, TcAttachType::Ingress, filter);
        let link = attached.and_then(|link| program.take_link(link));
        let link = link.with_context(|| format!("can't attach {name} to {device}"))?;
        self.links.push(link);
        Ok(())
    }

    fn set_place(&mut self, place: SteeringPlace) {
        let halves = [place.namespace, place.interface];
        let words = self.target.words();
        words[PLACE_WORD].store(bytemuck::cast(halves), Ordering::Relaxed);
        words[PORT_WORD].store(place.port.to_be().into(), Ordering::Release);
    }

    /// Replaces the addresses to which packets are steered.
    ///
    /// # Errors
    /// When the kernel refuses. Then some of the changes may be made.
    pub fn replace_served(&mut self, served: &BTreeSet<IpAddr>) -> anyhow::Result<()> {
        let entries = served.iter().map(|address| (*address, 0)).collect();
        let replaced = self.served.replace(&entries);
        replaced.context("can't write the addresses to which packets are steered")
    }

    /// Replaces the steered pods, by their addresses.
    ///
    /// # Errors
    /// When the kernel refuses, for example because there are more than
    /// [`MAX_STEERED`](dns_common::steering::MAX_STEERED). Then some of the changes may be made:
    /// all pods that are left out are removed before others are added.
    pub fn replace_pods(&mut self, pods: &BTreeMap<IpAddr, SteeredPod>) -> anyhow::Result<()> {
        let entries = pods
            .iter()
            .map(|(address, pod)| (*address, bytemuck::cast(*pod)));
        let replaced = self.pods.replace(&entries.collect());
        replaced.context("can't write the steered pods")
    }

    /// Lets new flows be steered for this time from now on, which replaces the current lease.
    pub fn renew_lease(&self, duration: Duration) {
        let now = clock_gettime(ClockId::Monotonic);
        // The clock starts at 0 when the machine does.
        let now = Duration::new(now.tv_sec as u64, now.tv_nsec as u32);
        let until = (now + duration).as_nanos() as u64;
        self.target.words()[LEASE_WORD].store(until, Ordering::Relaxed);
    }

    /// Ends the lease: new flows pass until [`SteeringPrograms::renew_lease`].
    pub fn end_lease(&self) {
        self.target.words()[LEASE_WORD].store(0, Ordering::Relaxed);
    }

    /// The packets with each outcome, over all CPUs.
    ///
    /// # Errors
    /// When the kernel refuses to read a counter.
    pub fn counts(&self) -> anyhow::Result<Vec<(SteeringOutcome, u64)>> {
        let map = self
            .object
            .map("OUTCOMES")
            .context("there is no OUTCOMES")?;
        let counters: PerCpuArray<_, u64> = PerCpuArray::try_from(map)?;
        let count = |outcome: SteeringOutcome| {
            let values = counters.get(&(outcome as u32), 0)?;
            Ok((outcome, values.iter().sum()))
        };
        SteeringOutcome::ALL.into_iter().map(count).collect()
    }
}

fn program_mut<'a>(object: &'a mut Ebpf, name: &str) -> anyhow::Result<&'a mut SchedClassifier> {
    let program = object.program_mut(name);
    let program = program.ok_or_else(|| anyhow!("the object has no program {name}"))?;
    Ok(program.try_into()?)
}

impl<V: aya::Pod + PartialEq> AddressMap<V> {
    /// Takes an empty map out of an object.
    fn take(object: &mut Ebpf, name: &str) -> anyhow::Result<AddressMap<V>> {
        let map = object.take_map(name);
        let map = map.ok_or_else(|| anyhow!("the object has no map {name}"))?;
        Ok(AddressMap {
            map: HashMap::try_from(map)?,
            entries: BTreeMap::new(),
        })
    }

    /// Replaces the entries. Those that are left out are removed first, because they take room.
    fn replace(&mut self, entries: &BTreeMap<IpAddr, V>) -> Result<(), MapError> {
        let gone: Vec<_> = self.entries.keys().copied().collect();
        let gone = gone.into_iter().filter(|it| !entries.contains_key(it));
        for address in gone {
            match self.map.remove(&client_key(address)) {
                Ok(()) | Err(MapError::KeyNotFound) => {}
                Err(error) => return Err(error),
            }
            self.entries.remove(&address);
        }
        for (address, value) in entries {
            if self.entries.get(address) != Some(value) {
                self.map.insert(client_key(*address), *value, 0)?;
                self.entries.insert(*address, *value);
            }
        }
        Ok(())
    }
}
