//! What is asked, and what must come back, octet by octet.
//!
//! The right answers come from the user plane's renderer and from a frame builder that shares
//! nothing with the kernel program.

use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};
use dns_agent::zone::{
    Answer, Model, ModelBuilder, Name, Rdata, Record, Rtype, ZoneData, render, reverse_name,
};
use zerohop_tests::{
    packet::Query,
    topology::{POD, SERVED},
};

use crate::programs::{self, Expected, VARIANTS, WORDS};

/// A question that is measured.
pub(crate) struct Case {
    /// What the tables call it.
    pub(crate) name: &'static str,
    query: Query,
}

/// A case as the programs need it.
pub(crate) struct Frames {
    /// What the generator sends.
    pub(crate) query: programs::Query,
    /// What a reflector makes of it.
    pub(crate) reflected: Expected,
    /// What the kernel program makes of it.
    pub(crate) answered: Expected,
    /// Octets of the frames that go through the devices, a multiple of eight.
    pub(crate) length: usize,
}

/// The case that has a bar.
pub(crate) const A: &str = "A";

const SERVICE: &str = "frontend-abcd.shop.svc.cluster.local";
const HEADLESS: &str = "db.shop.svc.cluster.local";
const ABSENT: &str = "absent-abcdef.shop.svc.cluster.local";
const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 96, 1, 1));

/// Every case. Names of services have 38 octets, as long ones in clusters do.
pub(crate) fn all() -> Vec<Case> {
    let case = |name, query| Case { name, query };
    let reverse = reverse_name(ADDRESS).to_string();
    vec![
        case(A, ask(SERVICE, Rtype::A)),
        case("A, EDNS", ask(SERVICE, Rtype::A).with_edns(1232, 0, &[])),
        case("A, over IPv6", ask6(SERVICE, Rtype::A)),
        case("A, 4 rotated", ask(HEADLESS, Rtype::A)),
        case("PTR", ask(&reverse, Rtype::PTR)),
        case("AAAA, NODATA", ask(SERVICE, Rtype::AAAA)),
        case("A, NXDOMAIN", ask(ABSENT, Rtype::A)),
    ]
}

/// The zones and names that the cases ask for.
pub(crate) fn model() -> Result<Model> {
    let mut builder = ModelBuilder::new(1);
    for zone in ["cluster.local", "96.10.in-addr.arpa"] {
        builder.add_zone(Name::parse(zone)?, 5)?;
    }
    let mut add = |owner: Name, data| {
        builder.add(Record {
            owner,
            ttl: 5,
            data,
        });
    };
    let service = Name::parse(SERVICE)?;
    add(service.clone(), Rdata::A([10, 96, 1, 1].into()));
    add(reverse_name(ADDRESS), Rdata::Ptr(service));
    for last in 0..VARIANTS as u8 {
        add(
            Name::parse(HEADLESS)?,
            Rdata::A([10, 244, 0, 8 + last].into()),
        );
    }
    Ok(builder.build())
}

impl Case {
    /// The frames of this case, answered from a model.
    pub(crate) fn frames(&self, model: &Model) -> Result<Frames> {
        let name = Name::from_wire(&self.query.name).context("the case's name")?;
        let answer = model.answer(&name, Rtype::from_int(self.query.rtype));
        let answers: Vec<Vec<u8>> = (0..VARIANTS)
            .map(|rotation| self.answer(&name, &answer, model, rotation))
            .collect();
        let udp = udp_offset(&self.query);
        // The last octet of the first record's address tells which of them came first.
        let rotates = answers.iter().any(|other| *other != answers[0]);
        let address = udp + 8 + 12 + self.query.name.len() + 4 + 12;
        let which = if rotates {
            (address + 3, VARIANTS - 1)
        } else {
            (0, 0)
        };

        let query = self.query.frame();
        let length = answers[0].len().next_multiple_of(8);
        ensure!(
            length <= 8 * WORDS,
            "{}: an answer of {length} octets",
            self.name
        );
        let mut reflected = query.clone();
        swap_macs(&mut reflected);
        reflected.resize(length, 0);
        Ok(Frames {
            reflected: Expected::new(&[reflected], udp, (0, 0)),
            answered: Expected::new(&answers, udp, which),
            query: programs::Query::new(&query, udp),
            length,
        })
    }

    /// The frame that answers with some rotation.
    fn answer(&self, name: &Name, answer: &Answer, model: &Model, rotation: usize) -> Vec<u8> {
        let query = &self.query;
        let sections = render(name, answer, model.zones(), rotation);
        let rcode = match answer {
            Answer::NxDomain { .. } => 3,
            _ => 0,
        };
        let mut message = Vec::new();
        for number in [
            query.id,
            0x8400 | query.bits & 0x0110 | rcode,
            1,
            sections.answers,
            sections.authorities,
            sections.additionals + u16::from(query.edns.is_some()),
        ] {
            message.extend(number.to_be_bytes());
        }
        message.extend(&query.name);
        message.extend(query.rtype.to_be_bytes());
        message.extend(query.class.to_be_bytes());
        message.extend(&sections.bytes);
        if query.edns.is_some() {
            message.extend([0, 0, 41, 0x04, 0xd0, 0, 0, 0, 0, 0, 0]);
        }
        let (server, port) = query.server;
        let back = Query {
            client: server,
            port,
            server: (query.client, query.port),
            ..query.clone()
        };
        let mut frame = back.frame_of(&message);
        swap_macs(&mut frame);
        frame
    }
}

/// A query with an ID of 0, which the generator replaces.
fn ask(name: &str, rtype: Rtype) -> Query {
    Query {
        id: 0,
        ..Query::new(POD[0], SERVED[0], name, rtype.to_int())
    }
}

fn ask6(name: &str, rtype: Rtype) -> Query {
    Query {
        client: POD[1],
        server: (SERVED[1], 53),
        ..ask(name, rtype)
    }
}

fn udp_offset(query: &Query) -> usize {
    match query.client {
        IpAddr::V4(_) => 14 + 20,
        IpAddr::V6(_) => 14 + 40,
    }
}

fn swap_macs(frame: &mut [u8]) {
    let (destination, rest) = frame.split_at_mut(6);
    destination.swap_with_slice(&mut rest[..6]);
}
