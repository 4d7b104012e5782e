//! A small cluster in the kernel's tables, not attached to anything.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{LazyLock, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use dns_agent::{
    datapath::{
        Clients, Config, Persistence, Tables,
        grace::Rcu,
        object::{Object, Program, Size},
        settings::Limit,
    },
    zone::{Below, Model, ModelBuilder, Name, Rdata, Record, Srv},
};
use dns_common::outcomes::{Counters, Hook, Outcome, Source};
use zerohop_tests::{
    packet::Query,
    topology::{HOST_VETH_MAC, POD, SERVED},
};

/// Tables in the kernel, a lease of an hour, and what is in them.
pub(crate) struct Fixture {
    pub(crate) object: Object,
    pub(crate) tables: Tables<Rcu>,
    pub(crate) model: Model,
}

/// What became of a frame.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// With this outcome, and the frame that was sent back.
    Answered(Outcome, Vec<u8>),
    /// Unchanged, with this outcome.
    Passed(Outcome),
}

impl Fixture {
    /// The one of all tests that don't change it: loading the programs takes its time,
    /// above all in an emulated machine.
    pub(crate) fn shared() -> MutexGuard<'static, Self> {
        static SHARED: LazyLock<Mutex<Fixture>> =
            LazyLock::new(|| Mutex::new(Fixture::of(model())));
        SHARED.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The one of all tests that bring a model of their own.
    pub(crate) fn with(model: Model) -> MutexGuard<'static, Self> {
        // Room for the generated cluster.
        const SIZE: Size = Size {
            buckets: 1 << 15,
            chunks: 256,
        };
        static LENT: LazyLock<Mutex<Fixture>> = LazyLock::new(|| {
            let nothing = ModelBuilder::new(1).build();
            Mutex::new(Fixture::sized(nothing, SIZE))
        });
        let mut fixture = LENT.lock().unwrap_or_else(PoisonError::into_inner);
        fixture.change(model);
        fixture
    }

    fn of(model: Model) -> Self {
        let size = Size {
            buckets: 1024,
            chunks: 16,
        };
        Self::sized(model, size)
    }

    /// One whose cards answer everybody, as bridges of pods do.
    pub(crate) fn without_networks() -> Self {
        let size = Size {
            buckets: 1024,
            chunks: 16,
        };
        Self::allowing(&[], model(), size)
    }

    fn sized(model: Model, size: Size) -> Self {
        Self::allowing(&["10.244.0.0/16", "fd00:10:244::/64"], model, size)
    }

    fn allowing(networks: &[&str], model: Model, size: Size) -> Self {
        let config = Config {
            allow: networks.iter().map(|text| text.parse().unwrap()).collect(),
            ..config()
        };
        let object = Object::load(size).unwrap();
        let mut tables = Tables::new(&object, size, &config, Rcu::new().unwrap()).unwrap();
        tables.receive(vec![HOST_VETH_MAC]);
        tables.publish(&model, &mut || {}).unwrap();
        object.set_lease(1000 * 3600).unwrap();
        Self {
            object,
            tables,
            model,
        }
    }

    /// The counters of both hooks for packets that came from here.
    pub(crate) fn counted(&self) -> [Counters; 2] {
        Hook::ALL.map(|hook| self.object.counters(hook, Source::TestRun).unwrap())
    }

    /// Brings the tables to another model.
    pub(crate) fn change(&mut self, model: Model) {
        let published = self.tables.publish(&model, &mut || {}).unwrap();
        assert_eq!(published.left_out, 0, "the tables are too small");
        self.object.set_lease(1000 * 3600).unwrap();
        self.model = model;
    }

    /// Answers one client on network cards only so often.
    pub(crate) fn limit(&mut self, limit: Option<Limit>) {
        self.tables.limit(limit);
    }

    /// Answers only these clients on pods' veths.
    pub(crate) fn admit(&mut self, clients: Clients) {
        self.tables.admit(&self.model, clients).unwrap();
    }

    /// Runs a program over a frame. Checks that its verdict, its counter and its frame agree.
    pub(crate) fn run(&mut self, program: Program, frame: &[u8]) -> Ended {
        let before = self.counted();
        let (verdict, out) = self.object.test_run(program, frame).unwrap();
        let after = self.counted();
        let outcome = moved(program.hook(), before, after);
        let (pass, answer) = match program.hook() {
            Hook::Xdp => (2, 3),
            // TC_ACT_UNSPEC, and TC_ACT_REDIRECT.
            Hook::Tc => (u32::MAX, 7),
        };
        if outcome.is_answer() {
            assert_eq!(verdict, answer, "{program:?} says {outcome:?}");
            return Ended::Answered(outcome, out);
        }
        assert_eq!(verdict, pass, "{program:?} says {outcome:?}");
        assert_eq!(
            out, frame,
            "{program:?} says {outcome:?}, but changed the frame"
        );
        Ended::Passed(outcome)
    }

    /// A query of the pod to the served address of its family.
    pub(crate) fn query(name: &str, rtype: u16) -> Query {
        Query::new(POD[0], SERVED[0], name, rtype)
    }

    /// The same over IPv6.
    pub(crate) fn query6(name: &str, rtype: u16) -> Query {
        Query::new(POD[1], SERVED[1], name, rtype)
    }
}

/// The one counter that moved.
fn moved(hook: Hook, before: [Counters; 2], after: [Counters; 2]) -> Outcome {
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
        panic!("{moved:?} were counted");
    };
    assert_eq!(at, hook);
    outcome
}

pub(crate) fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

/// A kernel plane that is attached nowhere and answers everybody.
pub(crate) fn config() -> Config {
    Config {
        interfaces: Vec::new(),
        allow: Vec::new(),
        rate_limit: 0,
        serve: SERVED.map(|address| SocketAddr::new(address, 53)).to_vec(),
        clients: Clients::Any,
        capacity: None,
        stale_after: Duration::from_secs(10),
        persistence: Persistence::None,
        bpffs: "/sys/fs/bpf".into(),
    }
}

/// Names of every kind that the kernel tells apart.
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
    builder.add(record(
        "9.9.244.10.in-addr.arpa",
        Rdata::Ptr(name("web.shop.svc.cluster.local")),
    ));
    builder.add(address("cart.shop.svc.cluster.local", "10.96.1.2"));
    builder.add(address("cart.shop.svc.cluster.local", "fd00:10:96::2"));
    // The name's length is odd, and so is where the answer starts.
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
        // More than a record holds.
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
    builder.compute_below(name("shop.pod.cluster.local"), Below::Addresses(5));
    let zonal = |word: &str| name(&format!("{word}._zone.db.shop.svc.cluster.local"));
    builder.compute_below(zonal("pin"), Below::Empty);
    builder.compute_below(
        zonal("prefer"),
        Below::Like(name("db.shop.svc.cluster.local")),
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
