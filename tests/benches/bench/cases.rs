//! The measured questions, and their right answers, byte by byte.
//!
//! The right answers come from the user plane's renderer, and from a frame builder that shares no
//! code with the kernel program.

use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};
use zerohop_contract::{
    addresses::{POD, SERVED},
    packet::QueryPacket,
};
use zerohop_zone::{
    Answer, Model, ModelBuilder, Name, Rdata, Record, Rtype, ZoneData, render, reverse_name,
};

use crate::programs::{CaseFrames, ExpectedFrame, GeneratedQuery, VARIANTS, WORDS};

/// A question that is measured.
pub(crate) struct BenchCase {
    /// The name in the printed tables.
    pub(crate) name: &'static str,
    query: QueryPacket,
}

/// The case with a required rate.
pub(crate) const A: &str = "A";

const SERVICE: &str = "frontend-abcd.shop.svc.cluster.local";
const HEADLESS: &str = "db.shop.svc.cluster.local";
const ABSENT: &str = "absent-abcdef.shop.svc.cluster.local";
const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 96, 1, 1));

/// Every case. The names of the ClusterIP Service and of the absent one have 38 bytes in wire form,
/// as long names in real clusters have.
pub(crate) fn all() -> Vec<BenchCase> {
    let case = |name, query| BenchCase { name, query };
    let reverse = reverse_name(ADDRESS).to_string();
    vec![
        case(A, query(SERVICE, Rtype::A)),
        case("A, EDNS", query(SERVICE, Rtype::A).with_edns(1232, 0, &[])),
        case("A, over IPv6", query_over_ipv6(SERVICE, Rtype::A)),
        case("A, 4 rotated", query(HEADLESS, Rtype::A)),
        case("PTR", query(&reverse, Rtype::PTR)),
        case("AAAA, NODATA", query(SERVICE, Rtype::AAAA)),
        case("A, NXDOMAIN", query(ABSENT, Rtype::A)),
    ]
}

/// The zones and records that the cases query.
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

impl BenchCase {
    /// The frames of this case, with answers from `model`.
    pub(crate) fn frames(&self, model: &Model) -> Result<CaseFrames> {
        let name = Name::from_wire(&self.query.name).context("the name of the case is invalid")?;
        let answer = model.answer(&name, Rtype::from_int(self.query.rtype));
        let answers: Vec<Vec<u8>> = (0..VARIANTS)
            .map(|rotation| self.answer_frame(&name, &answer, model, rotation))
            .collect();
        let udp = udp_offset(&self.query);
        // The lowest two bits of the first record's address show the rotation, because the four
        // addresses end with 8 to 11. Before the address are the UDP header, the DNS header, the
        // question, and the fields of the record: a pointer, type, class, TTL and length.
        let rotates = answers.iter().any(|other| *other != answers[0]);
        let address = udp + 8 + 12 + self.query.name.len() + 4 + 12;
        let variant_bits = if rotates {
            (address + 3, VARIANTS - 1)
        } else {
            (0, 0)
        };

        let query = self.query.frame();
        let length = answers[0].len().next_multiple_of(8);
        ensure!(
            length <= 8 * WORDS,
            "{}: an answer of {length} bytes is longer than the {} bytes that the benchmark's \
             programs can hold",
            self.name,
            8 * WORDS
        );
        let mut reflected = query.clone();
        swap_macs(&mut reflected);
        reflected.resize(length, 0);
        Ok(CaseFrames {
            reflected: ExpectedFrame::new(&[reflected], udp, (0, 0)),
            answered: ExpectedFrame::new(&answers, udp, variant_bits),
            query: GeneratedQuery::new(&query, udp),
            length,
        })
    }

    /// The frame of the reply. Its addresses start with the one at index `rotation`, modulo their
    /// number.
    fn answer_frame(
        &self,
        name: &Name,
        answer: &Answer,
        model: &Model,
        rotation: usize,
    ) -> Vec<u8> {
        let query = &self.query;
        let sections = render(name, answer, model.zones(), rotation);
        let rcode = match answer {
            Answer::NxDomain { .. } => 3,
            _ => 0,
        };
        let mut message = Vec::new();
        for number in [
            query.id,
            // QR and AA; RD and CD are copied from the query.
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
            // An OPT record with a UDP payload size of 1232 bytes.
            message.extend([0, 0, 41, 0x04, 0xd0, 0, 0, 0, 0, 0, 0]);
        }
        let (server, port) = query.server;
        let back = QueryPacket {
            client: server,
            port,
            server: (query.client, query.port),
            ..query.clone()
        };
        let mut frame = back.frame_with(&message);
        // `frame_with` always writes the MAC addresses of a frame from the pod.
        swap_macs(&mut frame);
        frame
    }
}

/// A query with an ID of 0, which the generator replaces.
fn query(name: &str, rtype: Rtype) -> QueryPacket {
    QueryPacket {
        id: 0,
        ..QueryPacket::new(POD[0], SERVED[0], name, rtype.to_int())
    }
}

fn query_over_ipv6(name: &str, rtype: Rtype) -> QueryPacket {
    QueryPacket {
        client: POD[1],
        server: (SERVED[1], 53),
        ..query(name, rtype)
    }
}

fn udp_offset(query: &QueryPacket) -> usize {
    match query.client {
        IpAddr::V4(_) => 14 + 20,
        IpAddr::V6(_) => 14 + 40,
    }
}

fn swap_macs(frame: &mut [u8]) {
    let (destination, rest) = frame.split_at_mut(6);
    destination.swap_with_slice(&mut rest[..6]);
}
