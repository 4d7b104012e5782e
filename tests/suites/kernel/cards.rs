//! Network cards, where strangers may ask: what passes there and is answered on pods' veths.

use std::net::IpAddr;

use dns_agent::datapath::{object::Program, settings::Limit};
use dns_common::{Outcome, settings::TOKEN};
use zerohop_tests::{
    packet::Query,
    topology::{BRIDGE_MAC, POD, SERVED},
};

use super::{
    fixture::{Ended, Fixture},
    packets::A,
};

const WEB: &str = "web.shop.svc.cluster.local";

/// Programs for cards.
const CARD: [Program; 2] = [Program::Xdp, Program::Tc];
/// Programs for pods' veths.
const VETH: [Program; 2] = [Program::XdpVeth, Program::TcPeer];

/// A question of this client, over its IP version.
fn question(client: IpAddr) -> Query {
    let query = match client {
        IpAddr::V4(_) => Fixture::query(WEB, A),
        IpAddr::V6(_) => Fixture::query6(WEB, A),
    };
    Query { client, ..query }
}

fn answered(ended: &Ended) -> bool {
    matches!(ended, Ended::Answered(Outcome::Data, _))
}

#[test]
fn packets_for_another_hardware_address_pass() {
    let mut fixture = Fixture::shared();
    for client in POD {
        let mut frame = question(client).frame();
        frame[..6].copy_from_slice(&BRIDGE_MAC);
        for program in CARD {
            let ended = fixture.run(program, &frame);
            assert_eq!(ended, Ended::Passed(Outcome::Misdirected), "{program:?}");
        }
        // There it may be a bridge's.
        for program in VETH {
            assert!(answered(&fixture.run(program, &frame)), "{program:?}");
        }
    }
}

#[test]
fn nothing_is_answered_where_no_card_is_known() {
    let mut fixture = Fixture::without_networks();
    fixture.tables.receive(Vec::new());
    let frame = question(POD[0]).frame();
    let ended = fixture.run(Program::Tc, &frame);
    assert_eq!(ended, Ended::Passed(Outcome::Misdirected));
    fixture.tables.receive(vec![BRIDGE_MAC, [2, 0, 0, 0, 0, 1]]);
    assert!(answered(&fixture.run(Program::Tc, &frame)));
}

#[test]
fn addresses_that_no_client_has_pass() {
    // Everybody may ask there.
    let mut fixture = Fixture::without_networks();
    let odd = [
        "0.0.0.0",
        "127.0.0.1",
        "224.0.0.251",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "ff02::fb",
    ];
    let odd = odd.map(|text| text.parse().unwrap());
    for client in odd.into_iter().chain(SERVED) {
        let frame = question(client).frame();
        let ended = fixture.run(Program::Tc, &frame);
        assert_eq!(ended, Ended::Passed(Outcome::OddSource), "{client}");
    }
    for client in ["1.0.0.1", "126.0.0.1", "223.255.255.255", "fe80::1"] {
        let frame = question(client.parse().unwrap()).frame();
        assert!(answered(&fixture.run(Program::Tc, &frame)), "{client}");
    }
}

#[test]
fn a_client_that_asks_too_often_passes() {
    let mut fixture = Fixture::shared();
    // Three in one go, and hardly any more after that.
    fixture.limit(Some(Limit {
        refill: 0,
        burst: 3 * TOKEN as u32,
    }));
    let clients = ["10.244.0.77", "fd00:10:244::77"].map(|text| text.parse().unwrap());
    for client in clients {
        let frame = question(client).frame();
        // What is not answered costs nothing.
        let absent = Query {
            server: (SERVED[usize::from(client.is_ipv6())], 5353),
            ..question(client)
        };
        for _ in 0..5 {
            let ended = fixture.run(Program::Xdp, &absent.frame());
            assert_eq!(ended, Ended::Passed(Outcome::NotServed));
        }
        for _ in 0..3 {
            assert!(answered(&fixture.run(Program::Xdp, &frame)), "{client}");
        }
        for program in CARD {
            let ended = fixture.run(program, &frame);
            assert_eq!(ended, Ended::Passed(Outcome::OverLimit), "{client}");
        }
        for program in VETH {
            assert!(answered(&fixture.run(program, &frame)), "{client}");
        }
    }
    // A host may have every address of its IPv6 network, so that it is one client.
    let neighbour = question("fd00:10:244::78".parse().unwrap()).frame();
    let ended = fixture.run(Program::Xdp, &neighbour);
    assert_eq!(ended, Ended::Passed(Outcome::OverLimit));
    // Nobody else is held to it.
    let other = question("10.244.0.78".parse().unwrap()).frame();
    assert!(answered(&fixture.run(Program::Xdp, &other)));

    // Buckets fill up with time: by a whole one in each jiffy.
    fixture.limit(Some(Limit {
        refill: 3 * TOKEN as u32,
        burst: 3 * TOKEN as u32,
    }));
    let frame = question(clients[0]).frame();
    let again = || Ok(answered(&fixture.run(Program::Xdp, &frame)));
    let limit = std::time::Duration::from_secs(5);
    assert!(zerohop_tests::udp::eventually(limit, again).unwrap());
    fixture.limit(None);
}
