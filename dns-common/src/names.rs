//! Names in wire form (RFC 1035 section 3.1) as the tables hold them: lower-cased, with
//! the root octet, at most [`MAX_NAME`] octets.

use bytemuck::{Pod, Zeroable};

/// Octets of the longest name, with the root (255: RFC 1035 section 2.3.4), in whole words.
pub const MAX_NAME: usize = 256;

/// The shortest name, in octets with the root, that the kernel looks up: one word. Shorter ones pass.
pub const MIN_NAME: usize = 8;

/// A name's words of eight octets, the last one filled up with zeros.
pub const MAX_WORDS: usize = MAX_NAME / 8;

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGHS: u64 = 0x8080_8080_8080_8080;
const CASE: u64 = 0x2020_2020_2020_2020;

/// The secret that picks buckets. Tenants choose names, so without it they could
/// choose them all into one bucket.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct HashKey {
    /// One word for each word of a name.
    pub words: [u64; MAX_WORDS],
    /// Mixes the sum; odd.
    pub finish: u64,
}

/// The hash of a name while its words go by.
///
/// This is NH of UMAC (Black et al., CRYPTO '99): halves of each word are added to
/// halves of its key and multiplied, the products are summed. For a random key two
/// names agree with a probability of 2⁻³², and no multiplication waits for another.
/// Bit 0x20 is set in every octet first, which makes upper and lower case equal, and a
/// few other octets besides; a comparison of the whole name decides.
#[derive(Clone, Copy, Debug, Default)]
pub struct Hasher(u64);

impl Hasher {
    /// Takes in the next word. `mask` covers the octets that belong to the name.
    #[inline(always)]
    #[must_use]
    pub const fn add(self, word: u64, mask: u64, key: u64) -> Self {
        let word = (word | CASE) & mask;
        let low = (word as u32).wrapping_add(key as u32);
        let high = ((word >> 32) as u32).wrapping_add((key >> 32) as u32);
        Self(self.0.wrapping_add(low as u64 * high as u64))
    }

    /// The hash of a name whose words have all been added.
    #[inline(always)]
    #[must_use]
    pub const fn finish(self, finish: u64) -> NameHash {
        let hash = self.0 ^ (self.0 >> 32);
        let hash = hash.wrapping_mul(finish);
        NameHash(hash ^ (hash >> 29))
    }
}

/// A finished hash: which buckets, which tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameHash(pub u64);

impl NameHash {
    /// What a directory word holds of the hash.
    #[inline(always)]
    #[must_use]
    pub const fn tag(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// The bucket tried first, in a directory of `mask + 1` buckets.
    #[inline(always)]
    #[must_use]
    pub const fn bucket(self, mask: u32) -> u32 {
        self.0 as u32 & mask
    }

    /// The bucket tried second; the first one's second is the first again, so that
    /// [`other_bucket`] needs no name to move a word.
    #[inline(always)]
    #[must_use]
    pub const fn second_bucket(self, mask: u32) -> u32 {
        other_bucket(self.bucket(mask), self.tag(), mask)
    }
}

/// The other one of the two buckets that a word with this tag may stand in.
#[inline(always)]
#[must_use]
pub const fn other_bucket(bucket: u32, tag: u32, mask: u32) -> u32 {
    (bucket ^ tag.wrapping_mul(0x5bd1_e995)) & mask
}

/// Hashes a whole name of at most [`MAX_NAME`] octets in wire form.
///
/// Longer names have no hash: `None`.
#[must_use]
pub fn hash(name: &[u8], key: &HashKey) -> Option<NameHash> {
    if name.len() > MAX_NAME {
        return None;
    }
    let mut hasher = Hasher::default();
    for (chunk, key) in name.chunks(8).zip(&key.words) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        let mask = u64::MAX >> (64 - 8 * chunk.len());
        hasher = hasher.add(u64::from_le_bytes(word), mask, *key);
    }
    Some(hasher.finish(key.finish))
}

/// The first zero octet of a word: a bit at its top if there is one, else 0.
#[inline(always)]
#[must_use]
pub const fn first_zero(word: u64) -> u64 {
    let zeros = word.wrapping_sub(ONES) & !word & HIGHS;
    zeros & zeros.wrapping_neg()
}

/// How many octets reach from the start of the word to the one [`first_zero`] found,
/// that one included.
#[inline(always)]
#[must_use]
pub const fn octets_to(first_zero: u64) -> u64 {
    ((first_zero - 1) & ONES).wrapping_mul(ONES) >> 56
}

/// A mask over those octets.
#[inline(always)]
#[must_use]
pub const fn mask_to(first_zero: u64) -> u64 {
    (first_zero << 1).wrapping_sub(1)
}

/// Lower-cases the ASCII letters of eight octets. Length octets are at most 63 and
/// letters start at 65, so a whole name in wire form can be lower-cased blindly.
#[inline(always)]
#[must_use]
pub const fn lower(word: u64) -> u64 {
    // Each octet's low seven bits are compared with 'A' and with the octet after 'Z' by
    // a sum whose top bit says "at least"; octets with their own top bit are no letters.
    let low = word & !HIGHS;
    let at_least_a = low + (0x80 - b'A' as u64) * ONES;
    let after_z = low + (0x80 - b'Z' as u64 - 1) * ONES;
    let letters = at_least_a & !after_z & !word & HIGHS;
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
        fn lower_is_ascii_lower_case(octets: [u8; 8]) {
            let expected = octets.map(|octet| octet.to_ascii_lowercase());
            proptest::prop_assert_eq!(lower(u64::from_le_bytes(octets)).to_le_bytes(), expected);
        }

        #[test]
        fn first_zero_finds_it(octets: [u8; 8]) {
            let found = first_zero(u64::from_le_bytes(octets));
            match octets.iter().position(|octet| *octet == 0) {
                None => proptest::prop_assert_eq!(found, 0),
                Some(at) => {
                    proptest::prop_assert_eq!(octets_to(found), at as u64 + 1);
                    proptest::prop_assert_eq!(mask_to(found), u64::MAX >> (56 - 8 * at));
                }
            }
        }

        #[test]
        fn case_does_not_change_the_hash(octets: [u8; 40]) {
            let upper = octets.map(|octet| octet.to_ascii_uppercase());
            let lower = octets.map(|octet| octet.to_ascii_lowercase());
            proptest::prop_assert_eq!(hash(&upper, &KEY), hash(&lower, &KEY));
        }

        #[test]
        fn the_second_bucket_leads_back(hash: u64, bits in 0u32..24) {
            let (hash, mask) = (NameHash(hash), (1 << bits) - 1);
            let second = hash.second_bucket(mask);
            proptest::prop_assert_eq!(other_bucket(second, hash.tag(), mask), hash.bucket(mask));
        }
    }

    #[test]
    fn a_zero_octet_in_every_place() {
        for at in 0..8 {
            let mut octets = [0x80; 8];
            octets[at] = 0;
            assert_eq!(
                octets_to(first_zero(u64::from_le_bytes(octets))),
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
