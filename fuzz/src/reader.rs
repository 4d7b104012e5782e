//! An input of the fuzzer, read as the decisions of a script.

/// The octets that are left. An input that has ended decides everything by zeros.
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    /// The next octet.
    pub fn octet(&mut self) -> u8 {
        self.octets(1).first().copied().unwrap_or(0)
    }

    /// The next two octets, as on the wire.
    pub fn word(&mut self) -> u16 {
        u16::from_be_bytes([self.octet(), self.octet()])
    }

    /// The next octets, or as many as there are.
    pub fn octets(&mut self, count: usize) -> &'a [u8] {
        let (octets, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        octets
    }

    /// One of these.
    pub fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[usize::from(self.octet()) % choices.len()]
    }

    /// Changes a few octets, cuts some off, or adds some.
    pub fn bend(&mut self, octets: &mut Vec<u8>) {
        for _ in 0..=self.octet() % 4 {
            let what = self.octet();
            let at = usize::from(self.word()) % (octets.len() + 1);
            match what % 6 {
                0 => octets.truncate(at),
                1 => {
                    let count = usize::from(self.octet() % 32);
                    octets.splice(at..at, self.octets(count).iter().copied());
                }
                _ if at == octets.len() => octets.push(self.octet()),
                2 => octets[at] = self.octet(),
                3 => octets[at] ^= 1 << (self.octet() % 8),
                4 => octets[at] = octets[at].wrapping_add(1),
                _ => octets[at] = octets[at].wrapping_sub(1),
            }
        }
    }
}
