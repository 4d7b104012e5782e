//! Network cards, which unknown hosts can reach: packets that pass on a card, although the programs
//! on pods' veths answer them.

use std::net::IpAddr;

use dns_common::{Outcome, settings::TOKEN};
use zerohop_contract::{
    addresses::{POD, SERVED},
    packet::QueryPacket,
};
use zerohop_datapath::{program::HookProgram, settings::RateLimit};
use zerohop_tests::topology::{BRIDGE_MAC, HOST_VETH_MAC};

use super::{
    fixture::{KernelFixture, TestRunResult},
    packets::A,
};

const WEB: &str = "web.shop.svc.cluster.local";

/// Programs for network cards.
const CARD: [HookProgram; 2] = [HookProgram::Xdp, HookProgram::Tc];
/// Programs for pods' veths.
const VETH: [HookProgram; 2] = [HookProgram::XdpVeth, HookProgram::TcPeer];

/// A query from `client`, over its address family.
fn query_from(client: IpAddr) -> QueryPacket {
    let query = match client {
        IpAddr::V4(_) => KernelFixture::query(WEB, A),
        IpAddr::V6(_) => KernelFixture::query6(WEB, A),
    };
    QueryPacket { client, ..query }
}

fn is_answered(ended: &TestRunResult) -> bool {
    matches!(ended, TestRunResult::Answered(Outcome::Data, _))
}

#[test]
fn packets_for_another_hardware_address_pass() {
    let mut fixture = KernelFixture::shared();
    for client in POD {
        let mut frame = query_from(client).frame();
        // The destination address.
        frame[..6].copy_from_slice(&BRIDGE_MAC);
        for program in CARD {
            let ended = fixture.run_program(program, &frame);
            assert_eq!(
                ended,
                TestRunResult::Passed(Outcome::Misdirected),
                "{program:?}"
            );
        }
        // On a veth the destination address may be a bridge's.
        for program in VETH {
            assert!(
                is_answered(&fixture.run_program(program, &frame)),
                "{program:?} did not answer"
            );
        }
    }
}

#[test]
fn without_known_hardware_addresses_every_packet_passes() {
    let mut fixture = KernelFixture::answering_any_client();
    fixture.tables.publish_card_addresses(Vec::new());
    let frame = query_from(POD[0]).frame();
    let ended = fixture.run_program(HookProgram::Tc, &frame);
    assert_eq!(ended, TestRunResult::Passed(Outcome::Misdirected));
    fixture
        .tables
        .publish_card_addresses(vec![BRIDGE_MAC, HOST_VETH_MAC]);
    assert!(is_answered(&fixture.run_program(HookProgram::Tc, &frame)));
}

#[test]
fn source_addresses_that_no_client_can_have_pass() {
    // Without allowed networks every other client is answered.
    let mut fixture = KernelFixture::answering_any_client();
    let impossible = [
        "0.0.0.0",
        "127.0.0.1",
        "224.0.0.251",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "ff02::fb",
    ];
    let impossible = impossible.map(|text| text.parse().unwrap());
    for client in impossible.into_iter().chain(SERVED) {
        let frame = query_from(client).frame();
        let ended = fixture.run_program(HookProgram::Tc, &frame);
        assert_eq!(
            ended,
            TestRunResult::Passed(Outcome::NonstandardSource),
            "{client}"
        );
    }
    for client in ["1.0.0.1", "126.0.0.1", "223.255.255.255", "fe80::1"] {
        let frame = query_from(client.parse().unwrap()).frame();
        assert!(
            is_answered(&fixture.run_program(HookProgram::Tc, &frame)),
            "{client} was not answered"
        );
    }
}

#[test]
fn queries_over_the_rate_limit_pass() {
    let mut fixture = KernelFixture::shared();
    // A burst of three, and no refill.
    fixture.set_rate_limit(Some(RateLimit {
        refill: 0,
        burst: 3 * TOKEN as u32,
    }));
    let clients = ["10.244.0.77", "fd00:10:244::77"].map(|text| text.parse().unwrap());
    for client in clients {
        let frame = query_from(client).frame();
        // A passed packet takes no token.
        let to_other_port = QueryPacket {
            server: (SERVED[usize::from(client.is_ipv6())], 5353),
            ..query_from(client)
        };
        for _ in 0..5 {
            let ended = fixture.run_program(HookProgram::Xdp, &to_other_port.frame());
            assert_eq!(ended, TestRunResult::Passed(Outcome::NotServed));
        }
        for _ in 0..3 {
            assert!(
                is_answered(&fixture.run_program(HookProgram::Xdp, &frame)),
                "{client} was not answered within the limit"
            );
        }
        for program in CARD {
            let ended = fixture.run_program(program, &frame);
            assert_eq!(ended, TestRunResult::Passed(Outcome::OverLimit), "{client}");
        }
        for program in VETH {
            assert!(
                is_answered(&fixture.run_program(program, &frame)),
                "{client} was not answered by {program:?}, which has no limit"
            );
        }
    }
    // A host can use every address of its IPv6 network, so the whole network is one client.
    let neighbour = query_from("fd00:10:244::78".parse().unwrap()).frame();
    let ended = fixture.run_program(HookProgram::Xdp, &neighbour);
    assert_eq!(ended, TestRunResult::Passed(Outcome::OverLimit));
    // The bucket of another client is almost never the same: clients are hashed into buckets.
    let other = query_from("10.244.0.78".parse().unwrap()).frame();
    assert!(is_answered(&fixture.run_program(HookProgram::Xdp, &other)));

    // With this limit, one jiffy refills a whole bucket.
    fixture.set_rate_limit(Some(RateLimit {
        refill: 3 * TOKEN as u32,
        burst: 3 * TOKEN as u32,
    }));
    let frame = query_from(clients[0]).frame();
    let is_answered_again = || Ok(is_answered(&fixture.run_program(HookProgram::Xdp, &frame)));
    let limit = std::time::Duration::from_secs(5);
    assert!(zerohop_tests::udp::eventually(limit, is_answered_again).unwrap());
    fixture.set_rate_limit(None);
}
