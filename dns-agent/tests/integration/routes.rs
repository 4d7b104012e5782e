//! Names outside the cluster, by the routes of a Corefile, over sockets.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use domain::base::iana::Rtype;
use tokio::{runtime::Handle, task::JoinSet, time::sleep};
use zerohop_contract::{
    addresses::{POD, SERVED},
    packet::{QueryPacket, wire_name},
};
use zerohop_kubernetes::CorefileRoutes;
use zerohop_resolver::{
    CacheSettings, ClusterDns, FollowedRoutes, GroupUse, LiveRoutes, UpstreamServers, Upstreams,
    query::Transport,
};
use zerohop_routes::Routes;
use zerohop_zone::Name;

use crate::support::{
    FakeUpstream, ResolverUnderTest, address_reply, ask, ask_over_tcp, header_word, last_address,
    query, rcode, reply, without_delay,
};

/// The address that the cluster's DNS gives.
const CLUSTER: [u8; 4] = [10, 9, 9, 9];
/// The address that the servers of the Corefile give.
const FORWARDED: [u8; 4] = [192, 0, 2, 1];
/// The address of `one.z`.
const LOCAL: [u8; 4] = [10, 0, 0, 1];

/// The routes of a Corefile.
fn known(corefile: &str) -> FollowedRoutes {
    FollowedRoutes::Known(CorefileRoutes::read(&corefile.into()).routes)
}

/// A resolver that follows a Corefile, beside the cluster's DNS.
struct RoutedResolver {
    served: ResolverUnderTest,
    routes: LiveRoutes,
    /// The questions that the cluster's DNS has received.
    cluster_questions: Arc<Mutex<Vec<Vec<u8>>>>,
    cluster: FakeUpstream,
    _tasks: JoinSet<()>,
}

impl RoutedResolver {
    /// `plugins` stand in a server block for all names, beside `kubernetes z`, and `blocks` are
    /// other server blocks.
    async fn new(plugins: &str, blocks: &str) -> RoutedResolver {
        let (cluster, cluster_questions) = recording(CLUSTER).await;
        let routes = LiveRoutes::new(Routes::default());
        let upstreams = Upstreams {
            cluster: Some(ClusterDns {
                domains: vec![Name::parse("z").unwrap()],
                servers: UpstreamServers::new(vec![cluster.address]),
            }),
            routes: routes.clone(),
            ..Upstreams::default()
        };
        let served = ResolverUnderTest::caching(upstreams, CacheSettings::default());
        let corefile = format!(".:53 {{\n kubernetes z\n cache 30\n {plugins}\n}}\n{blocks}");
        routes.follow(known(&corefile));
        let mut tasks = JoinSet::new();
        let resolver = served.resolver.clone();
        tasks.spawn(async move { match resolver.prove_groups().await {} });
        RoutedResolver {
            served,
            routes,
            cluster_questions,
            cluster,
            _tasks: tasks,
        }
    }

    fn address(&self) -> SocketAddr {
        self.served.address
    }

    /// Whether each group of servers receives queries, in the order of the routes.
    fn group_states(&self) -> Vec<GroupUse> {
        let groups = self.served.resolver.route_groups();
        groups.iter().map(|group| group.state).collect()
    }

    /// Asks until a server of the Corefile answers, each time for another name below this one.
    async fn wait_for_servers(&self, name: &str) {
        for id in 0.. {
            let message = query(id, &format!("wait-{id}.{name}"), Rtype::A);
            if last_address(&ask(self.address(), &message).await) != CLUSTER {
                return;
            }
            sleep(Duration::from_millis(10)).await;
        }
    }

    async fn ask(&self, name: &str) -> Vec<u8> {
        ask(self.address(), &query(7, name, Rtype::A)).await
    }
}

/// A server that gives this address, and writes down the questions that it receives.
async fn recording(address: [u8; 4]) -> (FakeUpstream, Arc<Mutex<Vec<Vec<u8>>>>) {
    let questions = Arc::new(Mutex::new(Vec::new()));
    let received = questions.clone();
    let answer = move |query: &[u8]| {
        received.lock().unwrap().push(query[12..].to_vec());
        without_delay(address_reply(query, address))
    };
    (FakeUpstream::new(answer, |_| Vec::new()).await, questions)
}

/// A server of the Corefile, and whether it is silent, which it isn't at first.
async fn server_with_switch() -> (FakeUpstream, Arc<AtomicBool>) {
    let is_silent = Arc::new(AtomicBool::new(false));
    let silent = is_silent.clone();
    let answer = move |query: &[u8]| match silent.load(Relaxed) {
        true => Vec::new(),
        false => without_delay(address_reply(query, FORWARDED)),
    };
    (FakeUpstream::new(answer, |_| Vec::new()).await, is_silent)
}

fn forward(server: &FakeUpstream) -> String {
    format!("forward . {}", server.address)
}

/// The owner name of a reply's first answer record, if it is that of the question.
fn answers_the_question(reply: &[u8]) -> bool {
    let name = reply[12..].iter().position(|byte| *byte == 0).unwrap() + 1;
    // A pointer to the question.
    reply[12 + name + 4..].starts_with(&[0xc0, 12])
}

#[tokio::test]
async fn a_server_is_asked_after_it_has_answered_from_here() {
    let (root, stub) = (
        FakeUpstream::answering(FORWARDED).await,
        recording(FORWARDED).await,
    );
    let block = format!("corp.example {{\n {}\n}}", forward(&stub.0));
    let routed = RoutedResolver::new(&forward(&root), &block).await;
    let first = routed.ask("a.corp.example").await;
    assert_eq!(last_address(&first), CLUSTER);
    routed.wait_for_servers("corp.example").await;
    let unused = GroupUse::NotProven;
    assert_eq!(routed.group_states(), [unused, GroupUse::Used]);
    // The other server has not been asked.
    assert_eq!(last_address(&routed.ask("a.example").await), CLUSTER);
    routed.wait_for_servers("example").await;
    // The local data decides about names of the cluster.
    assert_eq!(rcode(&routed.ask("absent.x.z").await), 3);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_does_not_answer_costs_nothing() {
    let silent = FakeUpstream::silent().await;
    let routed = RoutedResolver::new(&forward(&silent), "").await;
    for name in ["a.example", "b.example", "c.example"] {
        assert_eq!(last_address(&routed.ask(name).await), CLUSTER);
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_stops_answering_is_left_after_three_questions() {
    let (server, is_silent) = server_with_switch().await;
    let routed = RoutedResolver::new(&forward(&server), "").await;
    routed.wait_for_servers("example").await;
    is_silent.store(true, Relaxed);
    for name in ["a.example", "b.example", "c.example"] {
        assert_eq!(rcode(&routed.ask(name).await), 2, "{name}");
    }
    assert_eq!(last_address(&routed.ask("d.example").await), CLUSTER);
    is_silent.store(false, Relaxed);
    routed.wait_for_servers("example").await;
}

/// Each query for an expired name may start a question to the silent server.
#[tokio::test(start_paused = true)]
async fn the_questions_that_refresh_stale_replies_are_limited() {
    // A client's half of `MAX_WAITING` of the resolver, and some tasks of the test.
    const MOST_TASKS: usize = 2048 + 50;
    let (server, is_silent) = server_with_switch().await;
    let forward = forward(&server);
    let block = format!("corp.example {{\n {forward}\n cache 30 {{\n serve_stale\n }}\n}}");
    let routed = RoutedResolver::new("forward . 192.0.2.1", &block).await;
    routed.wait_for_servers("corp.example").await;
    assert_eq!(last_address(&routed.ask("a.corp.example").await), FORWARDED);
    is_silent.store(true, Relaxed);
    sleep(Duration::from_secs(31)).await;
    let (message, resolver) = (
        query(7, "a.corp.example", Rtype::A),
        &routed.served.resolver,
    );
    for _ in 0..4000 {
        let client = Ipv4Addr::LOCALHOST.into();
        let reply = resolver.answer_message(&message, Transport::Udp, client);
        assert_eq!(last_address(&reply.await.unwrap()), FORWARDED);
    }
    let tasks = Handle::current().metrics().num_alive_tasks();
    assert!(tasks <= MOST_TASKS, "{tasks} tasks");
}

#[tokio::test]
async fn a_server_that_leads_back_is_not_asked() {
    let routed = RoutedResolver::new("forward . 192.0.2.1", "").await;
    let own = format!(
        ".:53 {{\n kubernetes z\n forward . {}\n}}",
        routed.address()
    );
    routed.routes.follow(known(&own));
    for id in 0..20 {
        let message = query(id, &format!("n{id}.example"), Rtype::A);
        assert_eq!(
            last_address(&ask(routed.address(), &message).await),
            CLUSTER
        );
    }
    assert_eq!(routed.group_states(), [GroupUse::NotProven]);
}

#[tokio::test]
async fn a_server_that_is_the_cluster_dns_is_asked_as_the_cluster_dns() {
    let routed = RoutedResolver::new("forward . 192.0.2.1", "").await;
    let to_cluster = format!(".:53 {{\n kubernetes z\n {}\n}}", forward(&routed.cluster));
    routed.routes.follow(known(&to_cluster));
    assert_eq!(last_address(&routed.ask("a.example").await), CLUSTER);
    let resolver = &routed.served.resolver;
    assert_eq!(routed.group_states(), [GroupUse::ClusterDns]);
    let name = Name::parse("a.example").unwrap();
    let explanation = resolver.explain_route(&name, Rtype::A).unwrap();
    let origin = "one of these servers is the cluster's DNS";
    assert!(explanation.to_string().contains(origin), "{explanation}");
}

#[tokio::test]
async fn rewritten_names_are_answered_under_the_name_that_was_asked() {
    let (server, questions) = recording(FORWARDED).await;
    let plugins = format!(
        "rewrite name www.example one.z
        rewrite name many.example many.z
        rewrite name a.example b.example
        rewrite name suffix .old.example .new.example answer auto
        {}",
        forward(&server)
    );
    let routed = RoutedResolver::new(&plugins, "").await;
    let local = routed.ask("wWw.example").await;
    assert_eq!(last_address(&local), LOCAL);
    assert_eq!(local[12..25], query(7, "wWw.example", Rtype::A)[12..25]);
    assert!(answers_the_question(&local), "{local:02x?}");
    // A local answer that doesn't fit a datagram is truncated, and whole over TCP.
    let many = query(7, "many.example", Rtype::A);
    let truncated = ask(routed.address(), &many).await;
    assert!(
        truncated.len() <= 512 && truncated[2] & 2 != 0,
        "{truncated:02x?}"
    );
    let whole = ask_over_tcp(routed.address(), &many).await;
    assert_eq!(header_word(&whole, 6), 60);
    assert!(answers_the_question(&whole));
    // No data, and no such name.
    let none = ask(routed.address(), &query(7, "www.example", Rtype::AAAA)).await;
    assert_eq!((rcode(&none), header_word(&none, 6)), (0, 0));
    routed.wait_for_servers("example").await;
    questions.lock().unwrap().clear();
    for (asked, looked_up) in [
        ("a.example", "b.example"),
        ("x.y.old.example", "x.y.new.example"),
    ] {
        for _ in 0..2 {
            let reply = routed.ask(asked).await;
            assert_eq!(last_address(&reply), FORWARDED);
            assert!(answers_the_question(&reply), "{reply:02x?}");
        }
        // The second reply is from the cache.
        let received = std::mem::take(&mut *questions.lock().unwrap());
        let expected = query(7, looked_up, Rtype::A)[12..].to_vec();
        assert_eq!(received, [expected], "{asked}");
    }
}

#[tokio::test]
async fn the_cluster_dns_receives_the_name_that_was_asked() {
    let silent = FakeUpstream::silent().await;
    // The first rule ends the rewriting, so its result is not rewritten by the second one. The
    // cluster's DNS would do that with a question for the result.
    let plugins = format!(
        "rewrite stop name a.example b.example
        rewrite name b.example one.z
        {}",
        forward(&silent)
    );
    let routed = RoutedResolver::new(&plugins, "").await;
    assert_eq!(last_address(&routed.ask("a.example").await), CLUSTER);
    let received = std::mem::take(&mut *routed.cluster_questions.lock().unwrap());
    let asked: Vec<_> = (received.iter())
        .filter(|question| question.starts_with(b"\x01"))
        .collect();
    assert_eq!(asked, [&query(7, "a.example", Rtype::A)[12..]]);
}

#[tokio::test]
async fn replies_by_earlier_routes_are_not_kept() {
    let other = FakeUpstream::answering([192, 0, 2, 2]).await;
    let other = format!(
        ".:53 {{\n kubernetes z\n cache 30\n {}\n}}",
        forward(&other)
    );
    let routes: Arc<OnceLock<LiveRoutes>> = Arc::default();
    let live = routes.clone();
    // The routes change while the question waits for its answer.
    let answer = move |query: &[u8]| {
        if query[12..].starts_with(b"\x05early")
            && let Some(live) = live.get()
        {
            live.follow(known(&other));
        }
        without_delay(address_reply(query, FORWARDED))
    };
    let server = FakeUpstream::new(answer, |_| Vec::new()).await;
    let routed = RoutedResolver::new(&forward(&server), "").await;
    routed.wait_for_servers("example").await;
    routes.set(routed.routes.clone()).unwrap();
    assert_eq!(last_address(&routed.ask("early.example").await), FORWARDED);
    assert_eq!(last_address(&routed.ask("early.example").await), CLUSTER);
}

#[tokio::test]
async fn targets_of_aliases_are_asked_for_with_do() {
    let (server, questions) = recording(FORWARDED).await;
    let routed = RoutedResolver::new(&forward(&server), "").await;
    routed.wait_for_servers("example").await;
    questions.lock().unwrap().clear();
    // `out.z` is an alias.
    for dnssec_ok in [0, 1] {
        let query = QueryPacket::new(POD[0], SERVED[0], "out.z", Rtype::A.to_int());
        let query = query.with_edns(1232, dnssec_ok, &[]).message();
        let reply = ask(routed.address(), &query).await;
        assert_eq!(header_word(&reply, 6), 2);
        let received = std::mem::take(&mut *questions.lock().unwrap());
        let has_do: Vec<_> = received
            .iter()
            .map(|it| it.ends_with(&[0x80, 0, 0, 0]))
            .collect();
        assert_eq!(has_do, [dnssec_ok == 1]);
    }
}

#[tokio::test]
async fn names_that_a_server_did_not_compress_are_compressed_if_the_reply_is_too_long() {
    const COUNT: u8 = 15;
    let answer = |query: &[u8]| {
        let name = wire_name("a-host-with-a-long-name.example");
        if !query[12..].starts_with(&name) {
            return without_delay(address_reply(query, FORWARDED));
        }
        let mut reply = reply(query, 0x8180);
        reply[7] = COUNT;
        for index in 0..COUNT {
            let numbers = [0, 1, 0, 1, 0, 0, 0, 60, 0, 4];
            reply.extend([&name[..], &numbers, &[192, 0, 2, index]].concat());
        }
        without_delay(reply)
    };
    let server = FakeUpstream::new(answer, |_| Vec::new()).await;
    let routed = RoutedResolver::new(&forward(&server), "").await;
    routed.wait_for_servers("example").await;
    let reply = routed.ask("a-host-with-a-long-name.example").await;
    assert_eq!((header_word(&reply, 6), reply[2] & 2), (COUNT.into(), 0));
    assert!(reply.len() <= 512);
}

#[tokio::test]
async fn hosts_and_templates_are_answered() {
    let server = FakeUpstream::answering(FORWARDED).await;
    let plugins = format!(
        "template ANY AAAA {{\n rcode NOERROR \n }}
        template ANY ANY internal.example {{\n rcode NXDOMAIN \n }}
        {}",
        forward(&server)
    );
    let routed = RoutedResolver::new(&plugins, "").await;
    let none = ask(routed.address(), &query(7, "a.example", Rtype::AAAA)).await;
    assert_eq!((rcode(&none), header_word(&none, 6)), (0, 0));
    assert_eq!(rcode(&routed.ask("a.internal.example").await), 3);
}

#[tokio::test]
async fn special_names_are_answered_here_unless_the_corefile_has_rules_for_them() {
    const LOOPBACK: [u8; 4] = [127, 0, 0, 1];
    let (server, questions) = recording(FORWARDED).await;
    let plugins = format!(
        "rewrite name www.invalid one.z
        rewrite name example.org a.localhost
        template ANY ANY refused.alt {{\n rcode REFUSED \n }}
        forward onion {address}
        forward . {address}",
        address = server.address
    );
    let block = format!("dev.localhost {{\n {}\n}}", forward(&server));
    let routed = RoutedResolver::new(&plugins, &block).await;
    // Before a server has answered too.
    assert_eq!(last_address(&routed.ask("a.localhost").await), LOOPBACK);
    routed.wait_for_servers("example").await;
    questions.lock().unwrap().clear();
    routed.cluster_questions.lock().unwrap().clear();
    for (name, expected) in [
        ("a.localhost", LOOPBACK),
        ("out.z", LOOPBACK),
        ("www.invalid", LOCAL),
    ] {
        let reply = routed.ask(name).await;
        assert_eq!(last_address(&reply), expected, "{name}");
    }
    for (name, expected) in [("a.invalid", 3), ("a.alt", 3), ("a.refused.alt", 5)] {
        assert_eq!(rcode(&routed.ask(name).await), expected, "{name}");
    }
    assert_eq!(*questions.lock().unwrap(), [[0; 0]; 0]);
    assert_eq!(*routed.cluster_questions.lock().unwrap(), [[0; 0]; 0]);
    for name in ["a.onion", "a.dev.localhost"] {
        assert_eq!(last_address(&routed.ask(name).await), FORWARDED, "{name}");
    }
}

#[tokio::test]
async fn special_names_are_the_cluster_dns_s_if_it_may_have_a_plugin_for_them() {
    let server = FakeUpstream::answering(FORWARDED).await;
    let plugins = format!("local\n {}", forward(&server));
    let routed = RoutedResolver::new(&plugins, "").await;
    assert_eq!(last_address(&routed.ask("localhost").await), CLUSTER);
    assert_eq!(rcode(&routed.ask("a.onion").await), 3);
    routed.routes.follow(FollowedRoutes::Unknown);
    assert_eq!(last_address(&routed.ask("a.onion").await), CLUSTER);
}

#[tokio::test]
async fn replies_that_are_not_kept_have_the_ttl_of_the_route() {
    let (server, questions) = recording(FORWARDED).await;
    let caching = "cache 20 {\n disable success \n }";
    let block = format!("corp.example {{\n {}\n {caching}\n}}", forward(&server));
    let routed = RoutedResolver::new("forward . 192.0.2.9", &block).await;
    routed.wait_for_servers("corp.example").await;
    questions.lock().unwrap().clear();
    for _ in 0..2 {
        let reply = routed.ask("a.corp.example").await;
        // The last record ends with its TTL, the length of its data, and the data.
        let ttl = reply[reply.len() - 10..][..4].try_into().unwrap();
        assert_eq!(u32::from_be_bytes(ttl), 20);
    }
    assert_eq!(questions.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn targets_of_aliases_follow_the_routes() {
    let server = FakeUpstream::answering(FORWARDED).await;
    let plugins = format!("rewrite name example.org one.z\n{}", forward(&server));
    let routed = RoutedResolver::new(&plugins, "").await;
    let reply = routed.ask("out.z").await;
    assert_eq!((header_word(&reply, 6), last_address(&reply)), (2, LOCAL));
    // An alias whose target is rewritten to the alias has no end.
    let plugins = format!("rewrite name example.org out.z\n{}", forward(&server));
    let routed = RoutedResolver::new(&plugins, "").await;
    assert_eq!(rcode(&routed.ask("out.z").await), 2);
    assert_eq!(rcode(&routed.ask("example.org").await), 2);
}

/// A rewritten name and the same name of a client don't share a reply: CoreDNS may treat the name
/// of a client in another way.
#[tokio::test]
async fn a_rewritten_name_has_replies_of_its_own() {
    let server = FakeUpstream::answering(FORWARDED).await;
    let plugins = format!(
        "rewrite name a.example b.example
        rewrite ttl b.example 5
        {}",
        forward(&server)
    );
    let routed = RoutedResolver::new(&plugins, "").await;
    routed.wait_for_servers("example").await;
    assert_eq!(last_address(&routed.ask("a.example").await), FORWARDED);
    assert_eq!(last_address(&routed.ask("b.example").await), CLUSTER);
}

/// If it isn't known how CoreDNS answers names outside the cluster, it answers them, whatever
/// servers the operator has given for them.
#[tokio::test]
async fn unknown_routes_lead_to_the_cluster_dns() {
    let server = FakeUpstream::answering(FORWARDED).await;
    let routed = RoutedResolver::new(&forward(&server), "").await;
    routed.wait_for_servers("example").await;
    routed.routes.follow(FollowedRoutes::Unknown);
    assert_eq!(last_address(&routed.ask("a.example").await), CLUSTER);
    // A group that has answered before is asked again after it has answered once more.
    let corefile = format!(".:53 {{\n kubernetes z\n {}\n}}", forward(&server));
    routed.routes.follow(known(&corefile));
    routed.wait_for_servers("example").await;
}
