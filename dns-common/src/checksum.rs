//! One's complement sums (RFC 1071).
//!
//! A sum stays unfolded in 64 bits and adds up words as they lie in memory, because the sum does
//! not depend on byte order (RFC 1071 section 2 B). Data at an odd offset adds its sum with the two
//! bytes swapped, which is its unfolded sum shifted left by eight bits.

/// Adds a word of eight bytes to a sum. A sum of 2³¹ words cannot overflow.
#[inline(always)]
#[must_use]
pub const fn add(sum: u64, word: u64) -> u64 {
    sum + (word & 0xffff_ffff) + (word >> 32)
}

/// The unfolded sum of bytes that start at an even offset. User space sums table contents with it.
#[must_use]
pub fn sum(bytes: &[u8]) -> u64 {
    bytes.chunks(8).fold(0, |sum, chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        add(sum, u64::from_le_bytes(word))
    })
}

/// Folds a sum to 16 bits without complementing it.
#[inline(always)]
#[must_use]
pub const fn fold(sum: u64) -> u16 {
    // The steps leave at most 33, 18, 17 and 16 bits.
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The algorithm of RFC 1071 section 4.1: one big-endian 16-bit word at a time.
    fn textbook_sum(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    proptest::proptest! {
        #[test]
        fn the_sum_equals_the_textbook_sum(bytes: [u8; 61], length in 0usize..61) {
            let bytes = &bytes[..length];
            proptest::prop_assert_eq!(fold(sum(bytes)).swap_bytes(), textbook_sum(bytes));
        }

        #[test]
        fn an_odd_start_is_a_shift_by_eight_bits(bytes: [u8; 30], first: u8) {
            let mut moved = [0; 31];
            moved[0] = first;
            moved[1..].copy_from_slice(&bytes);
            let shifted = u64::from(first) + (sum(&bytes) << 8);
            // 0 and 0xffff are both zero in one's complement.
            proptest::prop_assert_eq!(fold(shifted) % 0xffff, fold(sum(&moved)) % 0xffff);
        }
    }
}
