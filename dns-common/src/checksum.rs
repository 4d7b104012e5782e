//! One's complement sums (RFC 1071).
//!
//! Sums are kept in 64 bits without folding and taken over words as they lie in
//! memory: the sum does not depend on byte order (RFC 1071 section 2 B), and moving
//! data by one octet swaps the octets of its sum, which is a shift by eight bits.

/// Adds a word of eight octets to a sum. 2³¹ words fit before it could overflow.
#[inline(always)]
#[must_use]
pub const fn add(sum: u64, word: u64) -> u64 {
    sum + (word & 0xffff_ffff) + (word >> 32)
}

/// The sum of octets that start at an even offset, for tables built in user space.
#[must_use]
pub fn sum(octets: &[u8]) -> u64 {
    octets.chunks(8).fold(0, |sum, chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        add(sum, u64::from_le_bytes(word))
    })
}

/// Folds a sum to 16 bits, not complemented.
#[inline(always)]
#[must_use]
pub const fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sum of RFC 1071, one big-endian 16-bit word at a time.
    fn by_the_book(octets: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in octets.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    proptest::proptest! {
        #[test]
        fn equals_the_textbook_sum(octets: [u8; 61], len in 0usize..61) {
            let octets = &octets[..len];
            proptest::prop_assert_eq!(fold(sum(octets)).swap_bytes(), by_the_book(octets));
        }

        #[test]
        fn an_odd_start_is_a_shift_by_eight(octets: [u8; 30], first: u8) {
            let mut moved = [0; 31];
            moved[0] = first;
            moved[1..].copy_from_slice(&octets);
            let shifted = u64::from(first) + (sum(&octets) << 8);
            // 0 and 0xffff are the same number in one's complement.
            proptest::prop_assert_eq!(fold(shifted) % 0xffff, fold(sum(&moved)) % 0xffff);
        }
    }
}
