//! A fuzzer input, read as a sequence of decisions.

/// The unread rest of the input.
pub struct FuzzInput<'a>(pub &'a [u8]);

impl<'a> FuzzInput<'a> {
    /// The next byte, or 0 at the end.
    pub fn byte(&mut self) -> u8 {
        self.bytes(1).first().copied().unwrap_or(0)
    }

    /// The next two bytes, as a big-endian number. Zeros stand for bytes beyond the end.
    pub fn word(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    /// The next `count` bytes, or fewer at the end.
    pub fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (bytes, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        bytes
    }

    /// The element of `choices` that the next byte selects.
    pub fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[usize::from(self.byte()) % choices.len()]
    }

    /// Applies one to four mutations: truncates the bytes, inserts or appends some, or changes one.
    pub fn mutate(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.byte() % 4 {
            let operation = self.byte();
            let at = usize::from(self.word()) % (bytes.len() + 1);
            match operation % 6 {
                0 => bytes.truncate(at),
                1 => {
                    let count = usize::from(self.byte() % 32);
                    bytes.splice(at..at, self.bytes(count).iter().copied());
                }
                _ if at == bytes.len() => bytes.push(self.byte()),
                2 => bytes[at] = self.byte(),
                3 => bytes[at] ^= 1 << (self.byte() % 8),
                4 => bytes[at] = bytes[at].wrapping_add(1),
                _ => bytes[at] = bytes[at].wrapping_sub(1),
            }
        }
    }
}
