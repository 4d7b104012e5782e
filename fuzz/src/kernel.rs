//! The kernel's packet logic on the host: what it answers is what the user plane answers, what it passes is what
//! came.

use dns_agent::resolver::message::{Reply, Transport, respond};
use dns_common::{Outcome, checksum};
use dns_ebpf::{
    Frame,
    frame::{Clients, UdpChecksum},
};
use zerohop_tests::{
    packet::{self, Query},
    topology::{POD, SERVED},
};

use super::{
    model::{MODEL, NAMES},
    reader::Reader,
    tables::TABLES,
};

/// Types that have data somewhere, that have none, and that are no types of data.
const TYPES: [u16; 16] = [
    1, 28, 33, 12, 5, 6, 2, 16, 65, 255, 252, 41, 0, 128, 250, 257,
];
/// The header's second 16 bits of usual queries: RD, AD, CD.
const BITS: [u16; 4] = [0x0100, 0x0000, 0x0120, 0x0110];
/// Octets of an Ethernet header.
const ETHERNET: usize = 14;

/// Runs the logic over the frame that an input describes.
///
/// # Panics
///
/// When what becomes of the frame is not what must.
pub fn check(input: &[u8]) -> Outcome {
    let mut input = Reader(input);
    let how = input.octet();
    let octets = frame(how, &mut input);
    let mut packet = Packet {
        octets: octets.clone().into(),
        can_grow: how & 0x80 == 0,
    };
    let outcome = dns_ebpf::respond(&mut packet, &*TABLES);
    if !outcome.is_answer() {
        assert_eq!(*packet.octets, *octets, "{outcome:?}, but changed");
        return outcome;
    }
    let udp = if octets[12] == 8 { 34 } else { 54 };
    let length = usize::from(u16::from_be_bytes([octets[udp + 4], octets[udp + 5]]));
    let asked = &octets[udp + 8..udp + length];
    // A sum that was wrong stays wrong (RFC 1624), so that the client drops the packet, as it should.
    let reply = if udp == 34 && checksum::fold(checksum::sum(&octets[ETHERNET..udp])) != 0xffff {
        packet.octets[udp + 8..].to_vec()
    } else {
        packet::reply(&octets, &packet.octets).unwrap()
    };
    check_reply(asked, &reply);
    outcome
}

/// The reply must be the user plane's, whose parser is another.
fn check_reply(asked: &[u8], reply: &[u8]) {
    let addresses = usize::from(u16::from_be_bytes([reply[6], reply[7]]));
    let is_right = (0..addresses.max(1)).any(|rotation| {
        match respond(asked, &*MODEL, Transport::Udp, rotation) {
            Reply::Message(expected) => expected == reply,
            _ => false,
        }
    });
    assert!(
        is_right,
        "the kernel says\n{reply:02x?}, the user plane\n{:02x?}",
        respond(asked, &*MODEL, Transport::Udp, 0)
    );
}

/// A query as the input wants it, bent as the input wants it.
fn frame(how: u8, input: &mut Reader<'_>) -> Vec<u8> {
    let family = usize::from(how & 1);
    let mut query = Query::new(POD[family], SERVED[family], "", 0);
    query.id = input.word();
    query.port = input.word();
    query.bits = input.one_of(&BITS);
    query.rtype = input.one_of(&TYPES);
    query.name = name(input);
    if how & 2 != 0 {
        let size = input.word();
        let dnssec_ok = input.octet();
        let options = input.octets(usize::from(dnssec_ok >> 1) % 64);
        query = query.with_edns(size, u32::from(dnssec_ok & 1), options);
    }
    let mut message = if how & 4 == 0 {
        query.message()
    } else {
        // A message of the input's own.
        let length = usize::from(input.word()) % 600;
        input.octets(length).to_vec()
    };
    if how & 8 != 0 {
        input.bend(&mut message);
    }
    let mut frame = query.frame_of(&message);
    if how & 16 != 0 {
        // Ethernet fills up short frames.
        frame.resize(frame.len().max(60), 0);
    }
    if how & 32 != 0 {
        input.bend(&mut frame);
    }
    frame
}

/// One of the model's names, or a neighbour of one.
fn name(input: &mut Reader<'_>) -> Vec<u8> {
    let mut name = packet::wire(input.one_of(&NAMES));
    for _ in 0..input.octet() % 4 {
        match input.octet() % 6 {
            0 => {
                let length = usize::from(input.octet() % 64);
                let label = input.octets(length);
                name = [&[label.len() as u8], label, &name].concat();
            }
            1 => {
                let first = usize::from(name[0]) + 1;
                name.drain(..first.min(name.len() - 1));
            }
            2 => name.make_ascii_uppercase(),
            3 => {
                let other = packet::wire(input.one_of(&NAMES));
                name.splice(..0, other[..other.len() - 1].iter().copied());
            }
            4 => {
                let at = usize::from(input.octet()) % name.len();
                name[at] = input.octet();
            }
            _ => {
                let at = usize::from(input.octet()) % name.len();
                name[at] ^= 0x20;
            }
        }
    }
    name
}

/// A frame in an allocation of just its length.
struct Packet {
    octets: Box<[u8]>,
    can_grow: bool,
}

impl Frame for Packet {
    const CLIENTS: Clients = Clients::Allowed;

    fn start(&self) -> usize {
        self.octets.as_ptr() as usize
    }

    fn end(&self) -> usize {
        self.start() + self.octets.len()
    }

    fn resize(&mut self, length: usize) -> bool {
        if !self.can_grow {
            return false;
        }
        let mut octets = self.octets.to_vec();
        octets.resize(length, 0);
        self.octets = octets.into();
        true
    }

    /// As XDP does it; and checks what tc would rely on.
    fn set_udp_checksum(&mut self, header: usize, sum: UdpChecksum) {
        let field = header + 6..header + 8;
        assert_eq!(self.octets[field.clone()], sum.old.to_ne_bytes());
        let full = match !checksum::fold(sum.full) {
            0 => 0xffff,
            sum => sum,
        };
        self.octets[field].copy_from_slice(&full.to_ne_bytes());
    }
}
