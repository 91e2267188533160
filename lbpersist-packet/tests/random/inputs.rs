//! Inputs for readers: right ones changed at random, and such of nothing but chance. The same ones in every run. Tests of other
//! packages include this file.

/// One of so many inputs is nothing but chance.
const NOISE: usize = 12;
/// How long those are at most.
const LONGEST_NOISE: usize = 200;
/// What matters most is in the first bytes.
const BEGINNING: usize = 60;

/// An endless row of inputs.
pub(crate) struct Inputs<'a, Seed> {
    random: Random,
    seeds: &'a [Seed],
    /// What means something to the reader, to be put in anywhere.
    words: &'a [&'a [u8]],
}

impl<'a, Seed: AsRef<[u8]>> Inputs<'a, Seed> {
    /// `start` is any number but 0.
    pub(crate) fn new(start: u64, seeds: &'a [Seed], words: &'a [&'a [u8]]) -> Self {
        Self { random: Random(start), seeds, words }
    }

    fn changed(&mut self, bytes: &mut Vec<u8>) {
        let random = &mut self.random;
        if bytes.is_empty() {
            return;
        }
        let place = random.below(bytes.len());
        let word = self.words[random.below(self.words.len())];
        match random.below(7) {
            0 => bytes[place] = random.next() as u8,
            1 => bytes[place] ^= 1 << random.below(8),
            2 => bytes.truncate(place),
            3 => drop(bytes.remove(place)),
            4 => bytes.extend((0..random.below(20)).map(|number| number as u8)),
            5 => drop(bytes.splice(place..place, word.iter().copied())),
            _ => {
                let place = place % BEGINNING;
                let end = bytes.len().min(place + word.len());
                bytes[place..end].copy_from_slice(&word[..end - place]);
            }
        }
    }
}

impl<Seed: AsRef<[u8]>> Iterator for Inputs<'_, Seed> {
    /// Memory of exactly its size, so that a checker sees a byte beyond.
    type Item = Box<[u8]>;

    fn next(&mut self) -> Option<Box<[u8]>> {
        let random = &mut self.random;
        let mut bytes: Vec<u8> = if random.below(NOISE) == 0 {
            (0..random.below(LONGEST_NOISE)).map(|_| random.next() as u8).collect()
        } else {
            self.seeds[random.below(self.seeds.len())].as_ref().to_vec()
        };
        for _ in 0..self.random.below(4) {
            self.changed(&mut bytes);
        }
        Some(bytes.into_boxed_slice())
    }
}

/// Xorshift (Marsaglia 2003).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }
}
