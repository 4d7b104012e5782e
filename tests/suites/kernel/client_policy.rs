//! The client policy in the kernel: which clients the programs answer while NetworkPolicies
//! restrict DNS queries.

use std::{collections::BTreeSet, net::IpAddr};

use dns_common::Outcome;
use zerohop_contract::{addresses::POD, packet::QueryPacket};
use zerohop_datapath::{PermittedClients, program::HookProgram};

use super::{
    fixture::{KernelFixture, TestRunResult},
    packets::A,
};

const WEB: &str = "web.shop.svc.cluster.local";

/// Programs for pods' veths.
const VETH: [HookProgram; 2] = [HookProgram::XdpVeth, HookProgram::TcPeer];
/// Programs for network cards, where --allow names the clients.
const CARD: [HookProgram; 2] = [HookProgram::Xdp, HookProgram::Tc];

/// Queries from the pod over IPv4 and IPv6, and from another client of each family.
fn queries() -> [(IpAddr, Vec<u8>); 4] {
    let query = KernelFixture::query(WEB, A);
    let query6 = KernelFixture::query6(WEB, A);
    // The IPv4 address differs from the pod's in the last byte, the IPv6 address in the seventh
    // group.
    let other: IpAddr = "10.244.0.3".parse().unwrap();
    let other6: IpAddr = "fd00:10:244:0:0:0:1:2".parse().unwrap();
    [
        (POD[0], query.frame()),
        (POD[1], query6.frame()),
        (
            other,
            QueryPacket {
                client: other,
                ..query
            }
            .frame(),
        ),
        (
            other6,
            QueryPacket {
                client: other6,
                ..query6
            }
            .frame(),
        ),
    ]
}

/// Checks that these programs answer permitted clients, and pass the queries of all others.
fn check_clients(
    fixture: &mut KernelFixture,
    programs: [HookProgram; 2],
    is_permitted: &dyn Fn(IpAddr) -> bool,
) {
    for program in programs {
        for (client, frame) in queries() {
            let ended = fixture.run_program(program, &frame);
            if is_permitted(client) {
                assert!(
                    matches!(ended, TestRunResult::Answered(Outcome::Data, _)),
                    "{client} by {program:?}: {ended:?}"
                );
            } else {
                assert_eq!(
                    ended,
                    TestRunResult::Passed(Outcome::NotPermitted),
                    "{client} by {program:?}"
                );
            }
        }
    }
}

#[test]
fn only_permitted_clients_are_answered_on_veths() {
    let mut fixture = KernelFixture::shared();
    check_clients(&mut fixture, VETH, &|_| true);

    for permitted in [
        BTreeSet::new(),
        BTreeSet::from([POD[0]]),
        BTreeSet::from([POD[1]]),
        BTreeSet::from(POD),
        // Another client is permitted instead of the pod.
        BTreeSet::from(["10.244.0.3".parse().unwrap()]),
    ] {
        fixture.set_clients(PermittedClients::Only(permitted.clone()));
        check_clients(&mut fixture, VETH, &|client| permitted.contains(&client));
        // While networks are allowed, the client policy does not apply to network cards.
        check_clients(&mut fixture, CARD, &|_| true);
    }

    fixture.set_clients(PermittedClients::Any);
    check_clients(&mut fixture, VETH, &|_| true);
}

#[test]
fn a_new_restriction_does_not_permit_the_clients_of_the_previous_one() {
    let mut fixture = KernelFixture::shared();
    fixture.set_clients(PermittedClients::Only(BTreeSet::from(POD)));
    fixture.set_clients(PermittedClients::Any);
    fixture.set_clients(PermittedClients::Only(BTreeSet::from([POD[1]])));
    check_clients(&mut fixture, VETH, &|client| client == POD[1]);
    fixture.set_clients(PermittedClients::Any);
}

#[test]
fn without_allowed_networks_the_client_policy_applies_to_every_device() {
    let mut fixture = KernelFixture::answering_any_client();
    let programs = [HookProgram::Tc, HookProgram::TcPeer];
    check_clients(&mut fixture, programs, &|_| true);
    fixture.set_clients(PermittedClients::Only(BTreeSet::from([POD[0]])));
    check_clients(&mut fixture, programs, &|client| client == POD[0]);
}
