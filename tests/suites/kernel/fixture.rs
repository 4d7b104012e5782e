//! Kernel tables with a small cluster, and loaded programs. Most tests do not attach the programs,
//! but run them over single frames by BPF_PROG_TEST_RUN.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{LazyLock, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use dns_common::outcomes::{Hook, Outcome, OutcomeCounters, PacketSource};
use zerohop_contract::{
    addresses::{POD, SERVED},
    packet::QueryPacket,
};
use zerohop_datapath::{
    DatapathConfig, KernelTables, PermittedClients, Persistence,
    grace::Rcu,
    program::{EbpfObject, HookProgram, TableSize},
    settings::RateLimit,
};
use zerohop_tests::topology::HOST_VETH_MAC;
use zerohop_zone::{ComputedNames, Model, ModelBuilder, Name, Rdata, Record, Srv};

/// TC_ACT_UNSPEC, the verdict with which the tc programs pass a packet.
pub(crate) const TC_PASS: u32 = u32::MAX;

/// An hour at 1,000 Hz, more at lower rates.
pub(crate) const LONG_LEASE_JIFFIES: u64 = 3_600_000;

/// Tables in the kernel with a long lease, and the published model.
pub(crate) struct KernelFixture {
    pub(crate) object: EbpfObject,
    pub(crate) tables: KernelTables<Rcu>,
    pub(crate) model: Model,
}

/// The result of a program run over one frame.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum TestRunResult {
    /// Answered with this outcome and this frame.
    Answered(Outcome, Vec<u8>),
    /// Passed unchanged, with this outcome.
    Passed(Outcome),
}

impl KernelFixture {
    /// The fixture that tests share unless they need another model. A test restores the settings
    /// that it changes. Sharing saves the time to load the programs, which is long in an emulated
    /// machine.
    pub(crate) fn shared() -> MutexGuard<'static, Self> {
        static SHARED: LazyLock<Mutex<KernelFixture>> =
            LazyLock::new(|| Mutex::new(KernelFixture::small(model())));
        SHARED.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The fixture that tests share one after another, each with its own model.
    pub(crate) fn with_model(model: Model) -> MutexGuard<'static, Self> {
        // Room for the clusters of `generated.rs`.
        const SIZE: TableSize = TableSize {
            buckets: 1 << 15,
            chunks: 256,
        };
        static FIXTURE: LazyLock<Mutex<KernelFixture>> = LazyLock::new(|| {
            let empty = ModelBuilder::new(1).build();
            Mutex::new(KernelFixture::sized(empty, SIZE))
        });
        let mut fixture = FIXTURE.lock().unwrap_or_else(PoisonError::into_inner);
        fixture.publish_model(model);
        fixture
    }

    /// A fixture with small tables.
    fn small(model: Model) -> Self {
        let size = TableSize {
            buckets: 1024,
            chunks: 16,
        };
        Self::sized(model, size)
    }

    /// A fixture without allowed networks: the tc program for devices other than pods' veths
    /// answers every client.
    pub(crate) fn answering_any_client() -> Self {
        let size = TableSize {
            buckets: 1024,
            chunks: 16,
        };
        Self::allowing(&[], model(), size)
    }

    /// A fixture whose network cards answer clients in the pods' networks.
    fn sized(model: Model, size: TableSize) -> Self {
        Self::allowing(&["10.244.0.0/16", "fd00:10:244::/64"], model, size)
    }

    /// A fixture whose network cards answer clients in `networks`. If the list is empty, they
    /// answer every client at tc, and none at XDP.
    fn allowing(networks: &[&str], model: Model, size: TableSize) -> Self {
        let config = DatapathConfig {
            allow: networks.iter().map(|text| text.parse().unwrap()).collect(),
            ..config()
        };
        let object = EbpfObject::load(dns_agent::KERNEL_OBJECT, size).unwrap();
        let mut tables = KernelTables::new(&object, size, &config, Rcu::new().unwrap()).unwrap();
        tables.publish_card_addresses(vec![HOST_VETH_MAC]);
        tables.publish_all(&model, &mut || {}).unwrap();
        object.set_lease(LONG_LEASE_JIFFIES).unwrap();
        Self {
            object,
            tables,
            model,
        }
    }

    /// The counters of both hooks for packets of BPF_PROG_TEST_RUN.
    pub(crate) fn counters(&self) -> [OutcomeCounters; 2] {
        Hook::ALL.map(|hook| self.object.counters(hook, PacketSource::TestRun).unwrap())
    }

    /// Publishes another model, which must fit into the tables, and renews the lease.
    pub(crate) fn publish_model(&mut self, model: Model) {
        let published = self.tables.publish_all(&model, &mut || {}).unwrap();
        assert_eq!(published.left_out, 0, "the tables are too small");
        self.object.set_lease(LONG_LEASE_JIFFIES).unwrap();
        self.model = model;
    }

    /// Sets the rate limit of each client on network cards.
    pub(crate) fn set_rate_limit(&mut self, limit: Option<RateLimit>) {
        self.tables.publish_rate_limit(limit);
    }

    /// Sets the clients that the client policy permits.
    pub(crate) fn set_clients(&mut self, clients: PermittedClients) {
        self.tables.publish_clients(&self.model, clients).unwrap();
    }

    /// Runs a program over a frame, and checks that verdict, counter and frame agree.
    pub(crate) fn run_program(&mut self, program: HookProgram, frame: &[u8]) -> TestRunResult {
        let before = self.counters();
        let (verdict, out) = self.object.test_run(program, frame).unwrap();
        let after = self.counters();
        let outcome = changed_outcome(program.hook(), before, after);
        let (pass, answer) = match program.hook() {
            // XDP_PASS and XDP_TX.
            Hook::Xdp => (2, 3),
            // TC_ACT_REDIRECT.
            Hook::Tc => (TC_PASS, 7),
        };
        if outcome.is_answer() {
            assert_eq!(verdict, answer, "{program:?} counted {outcome:?}");
            return TestRunResult::Answered(outcome, out);
        }
        assert_eq!(verdict, pass, "{program:?} counted {outcome:?}");
        assert_eq!(
            out, frame,
            "{program:?} counted {outcome:?}, but changed the frame"
        );
        TestRunResult::Passed(outcome)
    }

    /// A query from the pod to the served IPv4 address.
    pub(crate) fn query(name: &str, rtype: u16) -> QueryPacket {
        QueryPacket::new(POD[0], SERVED[0], name, rtype)
    }

    /// A query from the pod to the served IPv6 address.
    pub(crate) fn query6(name: &str, rtype: u16) -> QueryPacket {
        QueryPacket::new(POD[1], SERVED[1], name, rtype)
    }
}

/// The outcome of the one counter that changed.
fn changed_outcome(
    hook: Hook,
    before: [OutcomeCounters; 2],
    after: [OutcomeCounters; 2],
) -> Outcome {
    let moved: Vec<_> = Hook::ALL
        .into_iter()
        .flat_map(|hook| Outcome::ALL.map(|outcome| (hook, outcome)))
        .filter_map(|(hook, outcome)| {
            let [before, after] =
                [before, after].map(|counters| counters[hook as usize][outcome as usize]);
            (after != before).then(|| (hook, outcome, after - before))
        })
        .collect();
    let [(at, outcome, 1)] = moved[..] else {
        panic!("instead of one packet with one outcome, these were counted: {moved:?}");
    };
    assert_eq!(at, hook, "{outcome:?} was counted for another hook");
    outcome
}

/// The RCODE in a message's header.
pub(crate) fn rcode(message: &[u8]) -> u8 {
    message[3] & 15
}

/// Parses a domain name.
pub(crate) fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

/// A configuration without interfaces and without allowed networks.
pub(crate) fn config() -> DatapathConfig {
    DatapathConfig {
        object_file: dns_agent::KERNEL_OBJECT,
        interfaces: Vec::new(),
        allow: Vec::new(),
        rate_limit: None,
        served_addresses: SERVED.map(|address| SocketAddr::new(address, 53)).to_vec(),
        clients: PermittedClients::Any,
        capacity: None,
        stale_after: Duration::from_secs(10),
        persistence: Persistence::UntilAgentStops,
        bpffs: "/sys/fs/bpf".into(),
        steering: None,
    }
}

/// A model with most kinds of names that the kernel distinguishes. All its TTLs are 5 s.
pub(crate) fn model() -> Model {
    let mut builder = ModelBuilder::new(1);
    for zone in ["cluster.local", "96.10.in-addr.arpa"] {
        builder.add_zone(name(zone), 5).unwrap();
    }
    let address = |owner: &str, address: &str| {
        let data = match address.parse().unwrap() {
            IpAddr::V4(address) => Rdata::A(address),
            IpAddr::V6(address) => Rdata::Aaaa(address),
        };
        record(owner, data)
    };
    builder.add(address("web.shop.svc.cluster.local", "10.96.1.1"));
    builder.add(record(
        "web.shop.svc.cluster.local",
        Rdata::Srv(Srv {
            priority: 0,
            weight: 100,
            port: 80,
            target: name("web.shop.svc.cluster.local"),
        }),
    ));
    builder.add(record(
        "1.1.96.10.in-addr.arpa",
        Rdata::Ptr(name("web.shop.svc.cluster.local")),
    ));
    // A reverse name outside every zone.
    builder.add(record(
        "9.9.244.10.in-addr.arpa",
        Rdata::Ptr(name("web.shop.svc.cluster.local")),
    ));
    builder.add(address("cart.shop.svc.cluster.local", "10.96.1.2"));
    builder.add(address("cart.shop.svc.cluster.local", "fd00:10:96::2"));
    // Names of odd and even length: their answers start at odd and even offsets.
    builder.add(address("odd1.shop.svc.cluster.local", "10.96.1.3"));
    builder.add(address("odd22.shop.svc.cluster.local", "10.96.1.4"));
    for last in 1..=4 {
        builder.add(address(
            "db.shop.svc.cluster.local",
            &format!("10.244.0.{last}"),
        ));
        builder.add(address(
            "db.shop.svc.cluster.local",
            &format!("fd00:10:244::{last}"),
        ));
    }
    for last in 1..=60 {
        builder.add(address(
            "crowd.shop.svc.cluster.local",
            &format!("10.244.1.{last}"),
        ));
        // 120 addresses of 16 bytes are longer than the longest stored answer, 1024 bytes.
        for third in 0..2 {
            let owner = "throng.shop.svc.cluster.local";
            builder.add(address(owner, &format!("10.244.{third}.{last}")));
        }
    }
    builder.add(record(
        "away.shop.svc.cluster.local",
        Rdata::Cname(name("example.com")),
    ));
    for (owner, target) in [
        ("near", "web.shop.svc.cluster.local"),
        ("near2", "near.shop.svc.cluster.local"),
        ("herd", "db.shop.svc.cluster.local"),
        ("toaddress", "10-244-0-9.shop.pod.cluster.local"),
        ("tonothing", "absent.shop.svc.cluster.local"),
        ("loop", "loop.shop.svc.cluster.local"),
    ] {
        let owner = format!("{owner}.shop.svc.cluster.local");
        builder.add(record(&owner, Rdata::Cname(name(target))));
    }
    builder.set_computed_names(name("shop.pod.cluster.local"), ComputedNames::Addresses(5));
    let zonal = |word: &str| name(&format!("{word}._zone.db.shop.svc.cluster.local"));
    builder.set_computed_names(zonal("pin"), ComputedNames::Empty);
    builder.set_computed_names(
        zonal("prefer"),
        ComputedNames::Like(name("db.shop.svc.cluster.local")),
    );
    builder.add(address(
        "west.prefer._zone.db.shop.svc.cluster.local",
        "10.244.0.1",
    ));
    builder.build()
}

fn record(owner: &str, data: Rdata) -> Record {
    Record {
        owner: name(owner),
        ttl: 5,
        data,
    }
}
