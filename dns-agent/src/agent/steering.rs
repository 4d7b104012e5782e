//! Steering: queries of pods that the kernel passes go to the resolver's sockets in a network
//! namespace of the agent, instead of to the cluster's DNS.
//!
//! ```text
//! pod ─► zerohop_tc_peer ─► zerohop_steer ══► sockets in the agent's namespace ─► resolver
//!                                   ▲                       │
//! canary's namespace ───────────────┘       pods ◄══ zerohop_reply
//! ```
//!
//! One task does all of it ([`Steering::run`]): it follows what the publisher knows and which
//! devices lead to pods, and it renews the lease of steering whenever a canary was answered. The
//! canary is a client in a namespace of its own, whose queries take the way of a pod's. So if
//! anything on this way fails or hangs, this task included, the lease ends within
//! [`LEASE`], and queries go where they would go without Zerohop.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::pending,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use dns_common::steering::SteeredPod;
use futures_util::future::select_all;
use tokio::{
    runtime::Handle,
    sync::{oneshot, watch},
    task::JoinHandle,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};
use zerohop_datapath::{
    PermittedClients, SteeringProgram,
    interfaces::DeviceChanges,
    steering::{SteeringPlace, SteeringPrograms},
};
use zerohop_resolver::{AdmittedClients, Canary, Resolver, Sockets};
use zerohop_steering::{AgentNamespace, InterfaceReader, PodInterfaces};
use zerohop_zone::{LiveZoneData, Name, Rtype};

use super::{permitted_queries::PermittedQueries, routes::RouteFollower};
use crate::{
    STEERING_OBJECT,
    admin::{
        status::{SteeringState, SteeringStatus},
        status_board::StatusBoard,
    },
    config::{Config, SourceConfig, Steer},
};

/// What is made for steering while the first thread has all capabilities. It steers nothing.
pub struct PreparedSteering {
    programs: SteeringPrograms,
    /// The namespace with the resolver's sockets.
    namespace: AgentNamespace,
    /// The namespace of the canary's client.
    canary_namespace: AgentNamespace,
    /// Sockets in `namespace` on the wildcard address of each family.
    sockets: Vec<Sockets>,
    port: u16,
}

/// The result of [`PreparedSteering::prepare`].
pub enum SteeringPreparation {
    /// Steering isn't wanted.
    Off,
    /// It can't be had here, for this reason.
    Unavailable(String),
    /// It can begin.
    Ready(Box<PreparedSteering>),
}

/// What the publisher knows, as far as steering depends on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct SteeringInputs {
    /// The server addresses at which the kernel answers queries.
    pub(super) served_addresses: Vec<SocketAddr>,
    /// What policies permit.
    pub(super) permitted: PermittedQueries,
    /// Until when the rest counts: the end of the kernel plane's lease. `None`: it doesn't.
    pub(super) leased_until: Option<std::time::Instant>,
}

/// The way to end the task.
#[derive(Debug)]
pub(super) struct SteeringEnd {
    ending: CancellationToken,
    ended: oneshot::Receiver<()>,
}

/// The task that steers.
pub(super) struct Steering {
    programs: SteeringPrograms,
    namespace: AgentNamespace,
    canary_namespace: AgentNamespace,
    sockets: SocketWatch,
    port: u16,
    inputs: watch::Receiver<SteeringInputs>,
    /// The names of zones, of which the canary asks for one.
    data: Arc<dyn LiveZoneData>,
    board: Arc<StatusBoard>,
    resolver: Arc<Resolver>,
    /// They decide whether the resolver may answer in place of the cluster's DNS.
    routes: RouteFollower,
    /// The clients that may have connections to the sockets in the namespace.
    admitted: watch::Sender<AdmittedClients>,
    probe: UpstreamProbe,
    /// The runtime on which answers wait for upstreams.
    workers: Handle,
    reader: InterfaceReader,
    interfaces: PodInterfaces,
    /// The addresses that the namespace has and the kernel steers to.
    served: BTreeSet<IpAddr>,
    status: SteeringStatus,
}

/// When the devices that lead to pods are to be listed.
struct LiveDevices {
    /// `None`: the kernel sends no notifications.
    changes: Option<DeviceChanges>,
    last_change: Option<Instant>,
    next_list: Instant,
}

/// Asks the servers for names outside the cluster for the SOA record of the root, because nearly
/// everything that is steered needs them.
struct UpstreamProbe {
    running: Option<JoinHandle<bool>>,
    /// When the last question was answered.
    answered: Option<Instant>,
    /// When the next question is due.
    next: Instant,
}

/// What shows whether the sockets in the agent's namespace are served.
pub(super) struct SocketWatch {
    /// One for the sockets of each address family.
    canaries: Vec<FamilyCanary>,
    /// Change when datagrams are lost because a socket is full.
    overflows: Vec<watch::Receiver<u64>>,
}

/// The canary of the sockets of an address family.
struct FamilyCanary {
    /// The canary that the sockets came with, from which the others are made.
    first: Arc<Canary>,
    /// The canary at the first served address of the family. `None`: there is no such address.
    current: Option<(SocketAddr, Arc<Canary>)>,
}

/// The lease of steering. It is renewed about four times in this time.
pub(super) const LEASE: Duration = Duration::from_secs(1);
/// The time between two questions of the canary.
const ROUND: Duration = Duration::from_millis(250);
/// The time without steering after datagrams were lost because a socket was full.
const OVERFLOW_PAUSE: Duration = Duration::from_secs(1);
/// The time for an answer to the canary.
const ANSWER_LIMIT: Duration = Duration::from_millis(750);
/// The time between two questions to the servers for names outside the cluster.
const PROBE_PAUSE: Duration = Duration::from_secs(2);
/// The time since the last answer after which they count as unreachable.
const PROBE_LIMIT: Duration = Duration::from_secs(5);
const SERVFAIL: u8 = 2;
/// The time between two lists of the devices that lead to pods.
const LIST_PAUSE: Duration = Duration::from_secs(10);
/// The same in the time of [`LIST_PAUSE`] after a device has changed: a pod gets its addresses soon
/// after its device.
const SHORT_LIST_PAUSE: Duration = Duration::from_secs(1);
/// The longest time for the end of what was steered.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);
const DRAIN_PAUSE: Duration = Duration::from_millis(10);
/// The port of the cluster's DNS, unless `--serve` has another one.
const DNS_PORT: u16 = 53;
/// The canary's addresses: IPv4's dummy address (RFC 7600 section 4.8), and one of IPv6's discard
/// prefix (RFC 6666). No host has them, and nothing is sent to them outside of the two namespaces.
const CANARY: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 8)),
    IpAddr::V6(Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 1)),
];

impl SteeringPreparation {
    /// Makes what steering needs. The calling thread must be in the node's network namespace, and
    /// needs the capabilities of the kernel plane and SYS_ADMIN. SYS_ADMIN is not needed later.
    pub async fn prepare(config: &Config) -> SteeringPreparation {
        if config.steer == Steer::Off || config.interfaces.is_empty() {
            return SteeringPreparation::Off;
        }
        if matches!(config.source, SourceConfig::Manifests(_)) && config.upstreams.is_empty() {
            return SteeringPreparation::Unavailable(
                "the resolver has no servers for names outside the cluster: give --upstream"
                    .to_owned(),
            );
        }
        match PreparedSteering::prepare(config).await {
            Ok(prepared) => SteeringPreparation::Ready(Box::new(prepared)),
            Err(reason) => SteeringPreparation::Unavailable(format!("{reason:#}")),
        }
    }
}

impl PreparedSteering {
    async fn prepare(config: &Config) -> anyhow::Result<PreparedSteering> {
        let given = config.served_addresses.first();
        let port = given.map_or(DNS_PORT, SocketAddr::port);
        let namespace = AgentNamespace::create().await?;
        let canary_namespace = AgentNamespace::create().await?;
        for address in CANARY {
            canary_namespace.add_address(address).await?;
        }
        let mut sockets = Vec::new();
        for wildcard in [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()] {
            let address = SocketAddr::new(wildcard, port);
            let runtime = Handle::current();
            let bound = namespace.run(move || {
                // The tasks that use the sockets run there.
                let _inside = runtime.enter();
                Sockets::bind(address)
            });
            sockets.push(bound.await??);
        }
        let place = SteeringPlace {
            // IDs are never negative.
            namespace: namespace.id() as u32,
            interface: namespace.node_device(),
            port,
        };
        let mut programs = SteeringPrograms::load(STEERING_OBJECT, place)?;
        programs.attach_reply(&namespace.node_device_name())?;
        programs.attach_steering(&canary_namespace.node_device_name())?;
        Ok(PreparedSteering {
            programs,
            namespace,
            canary_namespace,
            sockets,
            port,
        })
    }

    /// The program for the kernel plane.
    pub(super) fn program(&self) -> anyhow::Result<SteeringProgram> {
        self.programs.program(self.port)
    }

    /// Takes the sockets out, which are to be served.
    pub(super) fn take_sockets(&mut self) -> Vec<Sockets> {
        std::mem::take(&mut self.sockets)
    }
}

impl Steering {
    /// The task for what was prepared. `sockets` watches the sockets that were taken out.
    pub(super) fn new(
        prepared: PreparedSteering,
        sockets: SocketWatch,
        inputs: watch::Receiver<SteeringInputs>,
        data: Arc<dyn LiveZoneData>,
        resolver: Arc<Resolver>,
        routes: RouteFollower,
        board: Arc<StatusBoard>,
    ) -> Steering {
        let device = prepared.namespace.node_device_name();
        let status = SteeringStatus {
            state: SteeringState::Waiting,
            device,
            ..SteeringStatus::default()
        };
        Steering {
            programs: prepared.programs,
            namespace: prepared.namespace,
            canary_namespace: prepared.canary_namespace,
            sockets,
            port: prepared.port,
            inputs,
            data,
            board,
            resolver,
            routes,
            admitted: watch::Sender::default(),
            probe: UpstreamProbe {
                running: None,
                answered: None,
                next: Instant::now(),
            },
            workers: Handle::current(),
            reader: InterfaceReader::default(),
            interfaces: PodInterfaces::default(),
            served: BTreeSet::new(),
            status,
        }
    }

    /// The clients that may have connections to the sockets in the namespace.
    pub(super) fn admitted(&self) -> watch::Receiver<AdmittedClients> {
        self.admitted.subscribe()
    }

    /// The task, which is to run on a thread in the node's network namespace, and the way to end
    /// it.
    pub(super) fn into_task(self) -> (impl Future<Output = ()> + Send + 'static, SteeringEnd) {
        let ending = CancellationToken::new();
        let (done, ended) = oneshot::channel();
        let task = {
            let ending = ending.clone();
            async move {
                self.run(ending).await;
                // Fails if the agent doesn't wait for it.
                let _ = done.send(());
            }
        };
        (task, SteeringEnd { ending, ended })
    }

    /// Steers until `ending` is cancelled. Then waits until what was steered is answered, for at
    /// most [`DRAIN_LIMIT`].
    async fn run(mut self, ending: CancellationToken) {
        tokio::select! {
            () = ending.cancelled() => {}
            () = self.steer() => {}
        }
        self.programs.end_lease();
        if timeout(DRAIN_LIMIT, self.drain()).await.is_err() {
            info!(
                "some steered questions or connections are not finished after {DRAIN_LIMIT:?}, \
                 and end now"
            );
        }
    }

    /// Steers until the publisher has ended.
    async fn steer(&mut self) {
        let mut inputs = self.inputs.clone();
        let mut devices = LiveDevices::listen();
        let mut next_round = Instant::now();
        loop {
            let followed = tokio::select! {
                changed = inputs.changed() => {
                    if changed.is_err() {
                        // The publisher has ended.
                        break;
                    }
                    match self.follow_inputs().await {
                        Ok(()) => continue,
                        Err(reason) => Err(reason),
                    }
                }
                () = self.sockets.overflow() => {
                    next_round = Instant::now() + OVERFLOW_PAUSE;
                    Err(anyhow::anyhow!("the resolver's sockets were full"))
                }
                () = devices.change() => continue,
                () = sleep_until(next_round) => {
                    next_round = Instant::now() + ROUND;
                    self.probe.go_on(&self.resolver, &self.workers).await;
                    let listed = match devices.is_list_due() {
                        true => self.list_interfaces().await,
                        false => Ok(()),
                    };
                    match listed {
                        Ok(()) => self.renew_lease().await,
                        Err(reason) => Err(reason),
                    }
                }
            };
            match followed {
                Ok(()) => self.set_state(SteeringState::On, String::new()),
                Err(reason) => {
                    self.programs.end_lease();
                    self.set_state(SteeringState::Waiting, format!("{reason:#}"));
                }
            }
        }
    }

    /// Makes the kernel's maps what the publisher's inputs say.
    async fn follow_inputs(&mut self) -> anyhow::Result<()> {
        let inputs = self.inputs.borrow_and_update().clone();
        let objection = inputs.permitted.steering_objection.clone();
        let objection = objection.or_else(|| self.routes.objection());
        let left = time_left(&inputs);
        let admitted = match &inputs.permitted.tcp {
            // Without a lease it isn't known any more who is permitted.
            _ if objection.is_some() || left.is_none() => AdmittedClients::Only(Arc::default()),
            PermittedClients::Any => AdmittedClients::All,
            PermittedClients::Only(clients) => AdmittedClients::Only(clients.clone().into()),
        };
        self.admit(admitted);
        if let Some(objection) = objection {
            anyhow::bail!(objection);
        }
        left.context("the kernel plane has no lease")?;
        self.write_maps(&inputs).await
    }

    /// Renews the lease if the canaries are answered.
    async fn renew_lease(&mut self) -> anyhow::Result<()> {
        self.follow_inputs().await?;
        self.probe.check()?;
        let followed = self.inputs.borrow().clone();
        let asked = Instant::now();
        self.ask_canaries().await?;
        let now = self.inputs.borrow().clone();
        if !now.says_the_same(&followed) {
            // It is followed at the next turn of the loop, and the lease lasts so long.
            return Ok(());
        }
        let left = time_left(&now).context("the kernel plane has no lease")?;
        let left = left.min(LEASE.saturating_sub(asked.elapsed()));
        self.programs.renew_lease(left);
        Ok(())
    }

    /// Waits until all questions that were steered are answered, and all connections have ended.
    async fn drain(&self) {
        self.admit(AdmittedClients::Only(Arc::default()));
        // Its question comes after those that wait in the sockets.
        if let Err(error) = self.ask_canaries().await {
            debug!("steering ends without an answer to the canary: {error:#}");
        }
        // The servers' receivers, and one for each connection.
        while self.admitted.receiver_count() > self.sockets.canaries.len()
            || self.resolver.waiting_queries() > 0
        {
            sleep(DRAIN_PAUSE).await;
        }
    }

    /// Ends the connections of other clients.
    fn admit(&self, clients: AdmittedClients) {
        self.admitted.send_if_modified(|admitted| {
            let has_changed = *admitted != clients;
            *admitted = clients;
            has_changed
        });
    }

    async fn write_maps(&mut self, inputs: &SteeringInputs) -> anyhow::Result<()> {
        let served = inputs.served_addresses.iter();
        let served = served.filter(|address| address.port() == self.port);
        let served: BTreeSet<IpAddr> = served.map(SocketAddr::ip).collect();
        let pods = self.pods(&inputs.permitted);
        // Before the addresses, so that a pod that isn't permitted any more isn't steered.
        self.programs.replace_pods(&pods)?;
        if self.served != served {
            for address in served.difference(&self.served) {
                self.namespace.add_address(*address).await?;
            }
            self.programs.replace_served(&served)?;
            self.served = served;
            for canary in &mut self.sockets.canaries {
                canary.follow(&self.served, self.port);
            }
        }
        self.status.served = self.served.iter().copied().collect();
        let steered = pods.values();
        let steered = steered.filter(|pod| pod.new_flows != 0).count();
        self.status.pods = steered - CANARY.len();
        Ok(())
    }

    /// The pods, by their addresses, and the canary. Pods whose new flows are not steered are among
    /// them, because they may have connections.
    fn pods(&self, permitted: &PermittedQueries) -> BTreeMap<IpAddr, SteeredPod> {
        let flow = |clients: &PermittedClients, address: &IpAddr, flow| match clients {
            PermittedClients::Any => flow,
            PermittedClients::Only(clients) if clients.contains(address) => flow,
            PermittedClients::Only(_) => 0,
        };
        let interfaces = self.interfaces.iter();
        let pods = interfaces.map(|(address, interface)| {
            let pod = SteeredPod {
                interface,
                new_flows: flow(&permitted.udp, &address, SteeredPod::UDP)
                    | flow(&permitted.tcp, &address, SteeredPod::TCP),
            };
            (address, pod)
        });
        let mut pods: BTreeMap<IpAddr, SteeredPod> = pods.collect();
        let canary = SteeredPod {
            interface: self.canary_namespace.node_device(),
            new_flows: SteeredPod::UDP | SteeredPod::UNLEASED,
        };
        pods.extend(CANARY.map(|address| (address, canary)));
        pods
    }

    /// Lists the devices that lead to pods. After an error, replies still go to those that are
    /// known.
    async fn list_interfaces(&mut self) -> anyhow::Result<()> {
        let read = self.reader.read().await;
        self.interfaces = read.context("it isn't known which devices lead to pods")?;
        Ok(())
    }

    /// Asks each receiver of the sockets through the canary's namespace, and lets the runtime of
    /// the workers do something.
    async fn ask_canaries(&self) -> anyhow::Result<()> {
        let zone = self.any_zone().context("there is no zone to ask for")?;
        let canaries = self
            .sockets
            .canaries
            .iter()
            .filter_map(|it| it.current.as_ref());
        let canaries: Vec<_> = canaries.map(|(_, canary)| canary.clone()).collect();
        if canaries.is_empty() {
            anyhow::bail!(
                "no address of the cluster's DNS is known with the port {}",
                self.port
            );
        }
        let workers = self.workers.spawn(async {});
        let questions = async move {
            for canary in canaries {
                let answered = canary.query_soa(&zone).await;
                answered.map_err(|reason| {
                    anyhow::anyhow!("the resolver at {} {reason}", canary.server_address())
                })?;
            }
            anyhow::Ok(())
        };
        let answered = timeout(ANSWER_LIMIT, async {
            self.canary_namespace.run_task(questions).await??;
            workers.await.context("the workers' runtime has ended")
        });
        answered.await.map_err(|_| {
            anyhow::anyhow!("the resolver doesn't answer the canary within {ANSWER_LIMIT:?}")
        })?
    }

    /// The name of a zone, whose SOA record the resolver has.
    fn any_zone(&self) -> Option<Name> {
        let mut zone = None;
        self.data.with_data(&mut |data| {
            zone = data.zones().first().map(|zone| zone.name.clone());
        });
        zone
    }

    fn set_state(&mut self, state: SteeringState, reason: String) {
        if self.status.state != state {
            match state {
                SteeringState::On => info!(
                    pods = self.status.pods,
                    "queries of pods that the kernel passes go to this agent's resolver"
                ),
                _ => info!("pods' queries are not steered to this agent's resolver: {reason}"),
            }
        }
        self.status.state = state;
        self.status.reason = reason;
        match self.programs.counts() {
            Ok(counts) => {
                let counts = counts.into_iter();
                let counts = counts.map(|(outcome, count)| (outcome.name().to_owned(), count));
                self.status.outcomes = counts.collect();
            }
            Err(error) => debug!("can't read the counters of steering: {error:#}"),
        }
        self.board.update(|status| {
            if status.steering != self.status {
                status.steering.clone_from(&self.status);
            }
        });
    }
}

impl SteeringEnd {
    /// Ends the task, and waits until what was steered is answered, for at most twice
    /// [`DRAIN_LIMIT`].
    pub(super) async fn drain(self) {
        self.ending.cancel();
        // Fails if the task has ended otherwise, or hangs.
        let _ = timeout(2 * DRAIN_LIMIT, self.ended).await;
    }
}

impl SteeringInputs {
    /// Whether other inputs differ in nothing but the time for which they count.
    fn says_the_same(&self, other: &SteeringInputs) -> bool {
        let SteeringInputs {
            served_addresses,
            permitted,
            leased_until: _,
        } = self;
        (served_addresses, permitted) == (&other.served_addresses, &other.permitted)
    }
}

/// How long the inputs count. `None`: they don't.
fn time_left(inputs: &SteeringInputs) -> Option<Duration> {
    let left = inputs.leased_until?;
    let left = left.saturating_duration_since(std::time::Instant::now());
    (!left.is_zero()).then_some(left)
}

impl UpstreamProbe {
    /// Takes the result of a question that has ended, and asks the next one if it is due.
    async fn go_on(&mut self, resolver: &Arc<Resolver>, workers: &Handle) {
        let now = Instant::now();
        if let Some(question) = self.running.take_if(|question| question.is_finished())
            && let Ok(true) = question.await
        {
            self.answered = Some(now);
        }
        if self.running.is_none() && now >= self.next {
            self.next = now + PROBE_PAUSE;
            let resolver = resolver.clone();
            self.running = Some(workers.spawn(async move {
                let name = Name::root();
                let reply = resolver
                    .explain_answer(&name, Rtype::SOA, &mut Vec::new())
                    .await;
                // The response code (RFC 1035 section 4.1.1).
                reply.get(3).is_some_and(|flags| flags & 0x0f != SERVFAIL)
            }));
        }
    }

    /// # Errors
    /// When no question was answered in the last time.
    fn check(&self) -> anyhow::Result<()> {
        let is_recent = |answered: Instant| answered.elapsed() < PROBE_LIMIT;
        anyhow::ensure!(
            self.answered.is_some_and(is_recent),
            "the servers for names outside the cluster don't answer this agent"
        );
        Ok(())
    }
}

impl SocketWatch {
    /// Watches these sockets.
    pub(super) fn new(sockets: &[Sockets]) -> SocketWatch {
        let canaries = sockets.iter().map(|sockets| FamilyCanary {
            first: sockets.canary().clone(),
            current: None,
        });
        SocketWatch {
            canaries: canaries.collect(),
            overflows: sockets.iter().map(Sockets::overflows).collect(),
        }
    }

    /// Waits until datagrams are lost because a socket is full.
    async fn overflow(&mut self) {
        let changes = self.overflows.iter_mut();
        let changes = changes.map(|overflows| Box::pin(overflows.changed()));
        // An error says that the sockets are gone. Then the canary says so too.
        if let (Err(_), _, _) = select_all(changes).await {
            pending::<()>().await;
        }
    }
}

impl LiveDevices {
    fn listen() -> LiveDevices {
        let changes = DeviceChanges::listen()
            .inspect_err(|error| debug!("the steering task hears of no devices: {error:#}"));
        LiveDevices {
            changes: changes.ok(),
            last_change: None,
            next_list: Instant::now(),
        }
    }

    /// Waits for a change of the node's devices.
    async fn change(&mut self) {
        match &mut self.changes {
            Some(changes) => match changes.next().await {
                Some(()) => {
                    let now = Instant::now();
                    self.last_change = Some(now);
                    self.next_list = self.next_list.min(now + ROUND);
                }
                None => self.changes = None,
            },
            None => pending().await,
        }
    }

    /// Whether the devices are to be listed. If so, they aren't again before a pause has passed,
    /// or a device has changed.
    fn is_list_due(&mut self) -> bool {
        let now = Instant::now();
        if now < self.next_list {
            return false;
        }
        let is_recent = |change: Instant| now - change < LIST_PAUSE;
        let pause = match self.last_change.is_some_and(is_recent) {
            true => SHORT_LIST_PAUSE,
            false => LIST_PAUSE,
        };
        self.next_list = now + pause;
        true
    }
}

impl FamilyCanary {
    /// Asks at the first of these addresses from now on.
    fn follow(&mut self, served: &BTreeSet<IpAddr>, port: u16) {
        let is_ipv4 = self.first.server_address().is_ipv4();
        let server = served.iter().find(|address| address.is_ipv4() == is_ipv4);
        let server = server.map(|address| SocketAddr::new(*address, port));
        if self.current.as_ref().map(|(current, _)| *current) != server {
            self.current = server.map(|server| (server, Arc::new(self.first.at(server))));
        }
    }
}
