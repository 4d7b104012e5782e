//! The header of DNS messages (RFC 1035 section 4.1.1): flags, and access to its words.

use domain::base::iana::Opcode;

/// The length of a message's header in bytes (RFC 1035 section 4.1.1).
pub(super) const HEADER_LEN: usize = 12;
/// AA: the answer comes from the zone's own data.
pub(super) const AUTHORITATIVE: u16 = 0x0400;
/// TC: the answer did not fit.
pub(super) const TRUNCATED: u16 = 0x0200;
/// RA: the server resolves names that it doesn't have.
pub(super) const RECURSION_AVAILABLE: u16 = 0x0080;
/// RD: the client wants recursion.
pub(super) const RECURSION_DESIRED: u16 = 0x0100;
/// Z: reserved, and zero in all messages (RFC 1035 section 4.1.1).
pub(super) const RESERVED: u16 = 0x0040;
/// AD: in a query, the client understands the bit (RFC 6840 section 5.7).
pub(super) const AUTHENTIC_DATA: u16 = 0x0020;
/// CD: the client checks signatures itself (RFC 4035 section 3.2.2).
pub(super) const CHECKING_DISABLED: u16 = 0x0010;

/// QR: the message is a response.
pub(super) const RESPONSE: u16 = 0x8000;
/// The bits of the opcode.
pub(super) const OPCODE: u16 = 0x7800;

/// The opcode in the second 16-bit word of a header.
pub(super) fn opcode_of_flags(flags: u16) -> Opcode {
    Opcode::from_int(((flags & OPCODE) >> 11) as u8)
}

/// Sets bits in the second 16-bit word of a message's header.
pub(super) fn set_flags(message: &mut [u8], bits: u16) {
    let flags = header_word(message, 2) | bits;
    set_header_word(message, 2, flags);
}

/// Clears bits in the second 16-bit word of a message's header.
pub(super) fn clear_flags(message: &mut [u8], bits: u16) {
    let flags = header_word(message, 2) & !bits;
    set_header_word(message, 2, flags);
}

/// The 16-bit word at a byte offset in the header.
pub(super) fn header_word(message: &[u8], offset: usize) -> u16 {
    u16::from_be_bytes([message[offset], message[offset + 1]])
}

/// Sets the 16-bit word at a byte offset in the header.
pub(super) fn set_header_word(message: &mut [u8], offset: usize, value: u16) {
    message[offset..offset + 2].copy_from_slice(&value.to_be_bytes());
}
