//! Runs the kernel's packet logic on the host. An answer must equal the user plane's answer, and a
//! passed packet must be unchanged.

use dns_common::{Outcome, checksum};
use dns_ebpf::{
    Frame,
    frame::{AnsweredClients, UdpChecksum},
};
use zerohop_contract::{
    addresses::{POD, SERVED},
    packet::{self, QueryPacket},
};
use zerohop_resolver::{
    message::{QueryAction, respond},
    query::Transport,
};

use super::{
    input::FuzzInput,
    model::{MODEL, NAMES},
    tables::TABLES,
};

/// Record types with data in the model, record types without, meta-types, and the reserved type 0.
const TYPES: [u16; 16] = [
    1, 28, 33, 12, 5, 6, 2, 16, 65, 255, 252, 41, 0, 128, 250, 257,
];
/// Second 16-bit words of common query headers: combinations of RD, AD and CD.
const BITS: [u16; 4] = [0x0100, 0x0000, 0x0120, 0x0110];
/// Length of an Ethernet header in bytes.
const ETHERNET: usize = 14;

/// Runs the packet logic on the Ethernet frame that the input describes.
///
/// # Panics
///
/// When a passed frame was changed, a reply can't be parsed, a reply differs from the user plane's,
/// or the packet logic gives the hook a wrong checksum of the query.
pub fn check(input: &[u8]) -> Outcome {
    let mut input = FuzzInput(input);
    let flags = input.byte();
    let bytes = frame(flags, &mut input);
    let mut packet = HostFrame {
        bytes: bytes.clone().into(),
        // Bits 0 to 5 are for `frame`, and bit 6 is unused. Bit 7 makes resizing fail.
        can_resize: flags & 0x80 == 0,
    };
    let outcome = dns_ebpf::respond(&mut packet, &*TABLES);
    if !outcome.is_answer() {
        assert_eq!(
            *packet.bytes, *bytes,
            "{outcome:?}, but the frame was changed"
        );
        return outcome;
    }
    // The UDP header starts after an IPv4 header (EtherType 0x0800) or an IPv6 header.
    let udp = if bytes[12] == 8 { 34 } else { 54 };
    let length = usize::from(u16::from_be_bytes([bytes[udp + 4], bytes[udp + 5]]));
    let query_message = &bytes[udp + 8..udp + length];
    // A wrong IPv4 header checksum stays wrong (RFC 1624), so the client drops the packet, as it
    // should.
    let reply = if udp == 34 && checksum::fold(checksum::sum(&bytes[ETHERNET..udp])) != 0xffff {
        packet.bytes[udp + 8..].to_vec()
    } else {
        packet::parse_reply(&bytes, &packet.bytes).unwrap()
    };
    check_reply(query_message, &reply);
    outcome
}

/// Checks that the user plane gives the same reply for some rotation. The user plane has a parser
/// of its own.
fn check_reply(query_message: &[u8], reply: &[u8]) {
    let answers = usize::from(u16::from_be_bytes([reply[6], reply[7]]));
    let matches_user_plane = (0..answers.max(1)).any(|rotation| {
        match respond(query_message, &*MODEL, Transport::Udp, rotation) {
            QueryAction::Send(expected) => expected == reply,
            _ => false,
        }
    });
    assert!(
        matches_user_plane,
        "the kernel plane's reply is\n{reply:02x?}, the user plane's is\n{:02x?}",
        respond(query_message, &*MODEL, Transport::Udp, 0)
    );
}

/// Builds an Ethernet frame with a query. The bits of `flags` mean, if they are set:
///
/// * Bit 0: The query is sent over IPv6.
/// * Bit 1: The query has EDNS.
/// * Bit 2: The DNS message consists of bytes from the input.
/// * Bit 3: The DNS message is mutated.
/// * Bit 4: The frame is padded to at least 60 bytes.
/// * Bit 5: The frame is mutated.
fn frame(flags: u8, input: &mut FuzzInput<'_>) -> Vec<u8> {
    let family = usize::from(flags & 1);
    let mut query = QueryPacket::new(POD[family], SERVED[family], "", 0);
    query.id = input.word();
    query.port = input.word();
    query.bits = input.one_of(&BITS);
    query.rtype = input.one_of(&TYPES);
    query.name = name(input);
    if flags & 2 != 0 {
        let size = input.word();
        // Bit 0 is the DO bit. The other bits, modulo 64, are the length of the options.
        let edns_flags = input.byte();
        let options = input.bytes(usize::from(edns_flags >> 1) % 64);
        query = query.with_edns(size, u32::from(edns_flags & 1), options);
    }
    let mut message = if flags & 4 == 0 {
        query.message()
    } else {
        let length = usize::from(input.word()) % 600;
        input.bytes(length).to_vec()
    };
    if flags & 8 != 0 {
        input.mutate(&mut message);
    }
    let mut frame = query.frame_with(&message);
    if flags & 16 != 0 {
        // Ethernet pads short frames to 60 bytes.
        frame.resize(frame.len().max(60), 0);
    }
    if flags & 32 != 0 {
        input.mutate(&mut frame);
    }
    frame
}

/// Picks one of [`NAMES`] and changes it up to three times.
fn name(input: &mut FuzzInput<'_>) -> Vec<u8> {
    let mut name = packet::wire_name(input.one_of(&NAMES));
    for _ in 0..input.byte() % 4 {
        match input.byte() % 6 {
            0 => {
                let length = usize::from(input.byte() % 64);
                let label = input.bytes(length);
                name = [&[label.len() as u8], label, &name].concat();
            }
            1 => {
                let first = usize::from(name[0]) + 1;
                name.drain(..first.min(name.len() - 1));
            }
            2 => name.make_ascii_uppercase(),
            3 => {
                let other = packet::wire_name(input.one_of(&NAMES));
                name.splice(..0, other[..other.len() - 1].iter().copied());
            }
            4 => {
                let at = usize::from(input.byte()) % name.len();
                name[at] = input.byte();
            }
            _ => {
                let at = usize::from(input.byte()) % name.len();
                name[at] ^= 0x20;
            }
        }
    }
    name
}

/// An Ethernet frame in an allocation of exactly its length, so that the address sanitizer detects
/// accesses past the frame's ends.
struct HostFrame {
    bytes: Box<[u8]>,
    /// Whether resizing succeeds.
    can_resize: bool,
}

impl Frame for HostFrame {
    const CLIENTS: AnsweredClients = AnsweredClients::Allowed;

    fn start(&self) -> usize {
        self.bytes.as_ptr() as usize
    }

    fn end(&self) -> usize {
        self.start() + self.bytes.len()
    }

    fn resize(&mut self, length: usize) -> bool {
        if !self.can_resize {
            return false;
        }
        let mut bytes = self.bytes.to_vec();
        bytes.resize(length, 0);
        self.bytes = bytes.into();
        true
    }

    /// Writes the full checksum, as the XDP program does. Also checks that `sum.old` is the
    /// checksum in the frame, because the tc program updates the checksum from it.
    fn set_udp_checksum(&mut self, header: usize, sum: UdpChecksum) {
        let field = header + 6..header + 8;
        assert_eq!(
            self.bytes[field.clone()],
            sum.old.to_ne_bytes(),
            "`sum.old` is not the checksum in the frame"
        );
        let full = match !checksum::fold(sum.full) {
            0 => 0xffff,
            sum => sum,
        };
        self.bytes[field].copy_from_slice(&full.to_ne_bytes());
    }
}
