//! Who is answered while policies restrict who may ask.

use std::{collections::BTreeSet, net::IpAddr};

use dns_agent::datapath::{Clients, object::Program};
use dns_common::Outcome;
use zerohop_tests::{packet::Query, topology::POD};

use super::{
    fixture::{Ended, Fixture},
    packets::A,
};

const WEB: &str = "web.shop.svc.cluster.local";

/// Programs for pods' veths.
const VETH: [Program; 2] = [Program::XdpVeth, Program::TcPeer];
/// Programs for cards, where the operator names the clients.
const CARD: [Program; 2] = [Program::Xdp, Program::Tc];

/// What is asked by a pod over IPv4, by the same over IPv6, and by others.
fn questions() -> [(IpAddr, Vec<u8>); 4] {
    let query = Fixture::query(WEB, A);
    let query6 = Fixture::query6(WEB, A);
    // These differ in the last octet, and in the first half alone.
    let other: IpAddr = "10.244.0.3".parse().unwrap();
    let other6: IpAddr = "fd00:10:244:0:0:0:1:2".parse().unwrap();
    [
        (POD[0], query.frame()),
        (POD[1], query6.frame()),
        (
            other,
            Query {
                client: other,
                ..query
            }
            .frame(),
        ),
        (
            other6,
            Query {
                client: other6,
                ..query6
            }
            .frame(),
        ),
    ]
}

/// Checks who is answered by these programs.
fn check(fixture: &mut Fixture, programs: [Program; 2], answered: &dyn Fn(IpAddr) -> bool) {
    for program in programs {
        for (client, frame) in questions() {
            let ended = fixture.run(program, &frame);
            match answered(client) {
                true => assert!(
                    matches!(ended, Ended::Answered(Outcome::Data, _)),
                    "{client} by {program:?}: {ended:?}"
                ),
                false => assert_eq!(
                    ended,
                    Ended::Passed(Outcome::NotPermitted),
                    "{client} by {program:?}"
                ),
            }
        }
    }
}

#[test]
fn only_known_clients_are_answered_on_veths_while_policies_restrict_who_asks() {
    let mut fixture = Fixture::shared();
    check(&mut fixture, VETH, &|_| true);

    for known in [
        BTreeSet::new(),
        BTreeSet::from([POD[0]]),
        BTreeSet::from([POD[1]]),
        BTreeSet::from(POD),
        // Who was known is not any more.
        BTreeSet::from(["10.244.0.3".parse().unwrap()]),
    ] {
        fixture.admit(Clients::Known(known.clone()));
        check(&mut fixture, VETH, &|client| known.contains(&client));
        // The operator's networks hold no pods of this node.
        check(&mut fixture, CARD, &|_| true);
    }

    fixture.admit(Clients::Any);
    check(&mut fixture, VETH, &|_| true);
}

#[test]
fn who_was_known_before_restrictions_ended_is_not_when_they_begin_again() {
    let mut fixture = Fixture::shared();
    fixture.admit(Clients::Known(BTreeSet::from(POD)));
    fixture.admit(Clients::Any);
    fixture.admit(Clients::Known(BTreeSet::from([POD[1]])));
    check(&mut fixture, VETH, &|client| client == POD[1]);
    fixture.admit(Clients::Any);
}

#[test]
fn a_device_without_allowed_networks_is_taken_for_one_of_pods() {
    let mut fixture = Fixture::without_networks();
    let programs = [Program::Tc, Program::TcPeer];
    check(&mut fixture, programs, &|_| true);
    fixture.admit(Clients::Known(BTreeSet::from([POD[0]])));
    check(&mut fixture, programs, &|client| client == POD[0]);
}
