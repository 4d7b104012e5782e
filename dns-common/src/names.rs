//! Names in wire form (RFC 1035 section 3.1) as the tables hold them: in lower case, with the root
//! label, at most [`MAX_NAME`] bytes.

use bytemuck::{Pod, Zeroable};

/// Bytes of the longest name, rounded up to whole words. RFC 1035 section 2.3.4 allows 255.
pub const MAX_NAME: usize = 256;

/// Bytes of the shortest name that the kernel looks up, root label included: one word, because
/// names are compared in whole words. Queries for shorter names pass.
pub const MIN_NAME: usize = 8;

/// Words of eight bytes in the longest name. The last word of a name is padded with zeros.
pub const MAX_WORDS: usize = MAX_NAME / 8;

const _: () = assert!(MAX_NAME.is_multiple_of(8));

/// The lowest bit of every byte.
const ONES: u64 = 0x0101_0101_0101_0101;
/// The highest bit of every byte.
const HIGHS: u64 = 0x8080_8080_8080_8080;
/// The bit of every byte that distinguishes lower-case from upper-case ASCII letters.
const CASE: u64 = 0x2020_2020_2020_2020;

/// The secret key of the name hash. Tenants choose names; without a secret they could choose names
/// that all fall into one bucket.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct HashKey {
    /// One key for each word of a name.
    pub words: [u64; MAX_WORDS],
    /// An odd factor that mixes the bits of the finished sum.
    pub finish: u64,
}

/// The state of the name hash while words are added.
///
/// This is NH of UMAC (Black et al., CRYPTO '99): the halves of each word are added to the halves
/// of its key and multiplied; the products are summed. For a random key two different sequences of
/// equally many words collide with a probability of at most 2⁻³². The multiplications are
/// independent, so the processor overlaps them.
///
/// First, bit 0x20 is set in every byte, so that letter case does not change the hash. Some other
/// bytes become equal too, such as `@` and `` ` ``. Such collisions do no harm, because every
/// look-up compares the whole name.
#[derive(Clone, Copy, Debug, Default)]
pub struct NameHasher(u64);

impl NameHasher {
    /// Adds the next word. `mask` selects its bytes that belong to the name, and `key` is the
    /// word's element of [`HashKey::words`].
    #[inline(always)]
    #[must_use]
    pub const fn add(self, word: u64, mask: u64, key: u64) -> Self {
        let word = (word | CASE) & mask;
        let low = (word as u32).wrapping_add(key as u32);
        let high = ((word >> 32) as u32).wrapping_add((key >> 32) as u32);
        Self(self.0.wrapping_add(low as u64 * high as u64))
    }

    /// The hash, after all words of the name have been added. `finish` is [`HashKey::finish`].
    #[inline(always)]
    #[must_use]
    pub const fn finish(self, finish: u64) -> NameHash {
        // Makes every bit of the sum affect both halves of the hash. The tag is the upper half, and
        // the bucket number comes from the lower half.
        let hash = self.0 ^ (self.0 >> 32);
        let hash = hash.wrapping_mul(finish);
        NameHash(hash ^ (hash >> 29))
    }
}

/// A finished hash. It selects two buckets and a tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameHash(pub u64);

impl NameHash {
    /// The part of the hash that a directory word stores.
    #[inline(always)]
    #[must_use]
    pub const fn tag(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// The number of the first bucket, in a directory of `mask + 1` buckets.
    #[inline(always)]
    #[must_use]
    pub const fn bucket(self, mask: u32) -> u32 {
        self.0 as u32 & mask
    }

    /// The number of the second bucket. [`other_bucket`] of the second bucket is the first one, so
    /// a word can move between them without its name.
    #[inline(always)]
    #[must_use]
    pub const fn second_bucket(self, mask: u32) -> u32 {
        other_bucket(self.bucket(mask), self.tag(), mask)
    }
}

/// The number of the other bucket in which a word with this tag may stand. `mask` is the number of
/// buckets minus 1.
#[inline(always)]
#[must_use]
pub const fn other_bucket(bucket: u32, tag: u32, mask: u32) -> u32 {
    // The odd factor of MurmurHash2, so that similar tags lead to different buckets.
    (bucket ^ tag.wrapping_mul(0x5bd1_e995)) & mask
}

/// Hashes a whole name in wire form. `None` if the name has more than [`MAX_NAME`] bytes.
#[must_use]
pub fn hash(name: &[u8], key: &HashKey) -> Option<NameHash> {
    if name.len() > MAX_NAME {
        return None;
    }
    let mut hasher = NameHasher::default();
    for (chunk, key) in name.chunks(8).zip(&key.words) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        let mask = u64::MAX >> (64 - 8 * chunk.len());
        hasher = hasher.add(u64::from_le_bytes(word), mask, *key);
    }
    Some(hasher.finish(key.finish))
}

/// Marks the first zero byte of a word: only the top bit of this byte is set in the result. 0 if no
/// byte is zero.
#[inline(always)]
#[must_use]
pub const fn first_zero(word: u64) -> u64 {
    // A borrow may also mark bytes above the first zero byte, so only the lowest mark counts.
    let zeros = word.wrapping_sub(ONES) & !word & HIGHS;
    zeros & zeros.wrapping_neg()
}

/// The number of bytes up to the zero byte that [`first_zero`] found, this byte included.
#[inline(always)]
#[must_use]
pub const fn bytes_to(first_zero: u64) -> u64 {
    // One bit for each byte up to the zero byte. The multiplication adds up the bits in the top
    // byte.
    ((first_zero - 1) & ONES).wrapping_mul(ONES) >> 56
}

/// A mask of the bytes up to the zero byte that [`first_zero`] found, this byte included.
#[inline(always)]
#[must_use]
pub const fn mask_to(first_zero: u64) -> u64 {
    (first_zero << 1).wrapping_sub(1)
}

/// Converts the ASCII letters of eight bytes to lower case. It may be applied to length bytes too:
/// they are at most 63 and letters start at 65.
#[inline(always)]
#[must_use]
pub const fn lower_case(word: u64) -> u64 {
    // Each byte's low seven bits are compared with 'A' and with the byte after 'Z' by a sum whose
    // top bit means "at least". Bytes with their top bit set are not letters.
    let low = word & !HIGHS;
    let at_least_a = low + (0x80 - b'A' as u64) * ONES;
    let after_z = low + (0x80 - b'Z' as u64 - 1) * ONES;
    let letters = at_least_a & !after_z & !word & HIGHS;
    // Shifted by two, the top bit becomes the case bit 0x20.
    word | (letters >> 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: HashKey = {
        let mut words = [0x0123_4567_89ab_cdef_u64; MAX_WORDS];
        let mut at = 1;
        while at < MAX_WORDS {
            words[at] = words[at - 1].wrapping_mul(0x9e37_79b9_7f4a_7c15);
            at += 1;
        }
        HashKey {
            words,
            finish: 0x9e37_79b9_7f4a_7c15,
        }
    };

    proptest::proptest! {
        #[test]
        fn lower_case_changes_ascii_letters_only(bytes: [u8; 8]) {
            let expected = bytes.map(|byte| byte.to_ascii_lowercase());
            let lower = lower_case(u64::from_le_bytes(bytes)).to_le_bytes();
            proptest::prop_assert_eq!(lower, expected);
        }

        #[test]
        fn first_zero_finds_the_first_zero_byte(bytes: [u8; 8]) {
            let found = first_zero(u64::from_le_bytes(bytes));
            match bytes.iter().position(|byte| *byte == 0) {
                None => proptest::prop_assert_eq!(found, 0),
                Some(at) => {
                    proptest::prop_assert_eq!(bytes_to(found), at as u64 + 1);
                    proptest::prop_assert_eq!(mask_to(found), u64::MAX >> (56 - 8 * at));
                }
            }
        }

        #[test]
        fn case_does_not_change_the_hash(bytes: [u8; 40]) {
            let upper = bytes.map(|byte| byte.to_ascii_uppercase());
            let lower = bytes.map(|byte| byte.to_ascii_lowercase());
            proptest::prop_assert_eq!(hash(&upper, &KEY), hash(&lower, &KEY));
        }

        #[test]
        fn the_other_bucket_of_the_second_is_the_first(hash: u64, bits in 0u32..24) {
            let (hash, mask) = (NameHash(hash), (1 << bits) - 1);
            let second = hash.second_bucket(mask);
            proptest::prop_assert_eq!(other_bucket(second, hash.tag(), mask), hash.bucket(mask));
        }
    }

    #[test]
    fn a_zero_byte_is_found_at_every_position() {
        for at in 0..8 {
            // The other bytes have only the highest bit, the one that marks a zero byte.
            let mut bytes = [0x80; 8];
            bytes[at] = 0;
            assert_eq!(
                bytes_to(first_zero(u64::from_le_bytes(bytes))),
                at as u64 + 1
            );
        }
    }

    #[test]
    fn long_names_have_no_hash() {
        assert_eq!(hash(&[b'a'; MAX_NAME + 1], &KEY), None);
        assert!(hash(&[b'a'; MAX_NAME], &KEY).is_some());
    }
}
