//! Texts and codes as numbers by the hashing trick (Weinberger et al. 2009): each feature falls into one of a fixed number of buckets, with a sign, so
//! that what falls together by chance cancels out on average. Nothing is learned and no dictionary kept: the parameters are all.
//!
//! The hash is FNV-1a of 64 bits over the seed's eight bytes (the lowest first) and the feature's bytes, mixed by the finaliser of MurmurHash3
//! (`fmix64`). The bucket is the upper 32 bits times the number of buckets, divided by 2^32; the sign is minus where the lowest bit is 1.

use serde::{Deserialize, Serialize};

use crate::LearnError;

/// A hash function by its seed, into so many buckets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hashing {
    pub seed: u64,
    pub buckets: u32,
}

impl Hashing {
    /// The bucket of some bytes, and 1 or -1.
    pub fn place(&self, bytes: &[u8]) -> (u32, f64) {
        let fnv = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        let hash = self.seed.to_le_bytes().iter().chain(bytes).fold(0xcbf2_9ce4_8422_2325, fnv);
        let hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        let hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        let hash = hash ^ (hash >> 33);
        let bucket = ((hash >> 32) * u64::from(self.buckets)) >> 32;
        (bucket as u32, if hash & 1 == 1 { -1.0 } else { 1.0 })
    }
}

/// Turns a text into a row of numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TextHasher {
    pub columns: u32,
    pub seed: u64,
    pub by: Pieces,
    /// Pieces that stand next to each other are taken together, from so many to so many.
    pub shortest: usize,
    pub longest: usize,
    pub lowercase: bool,
    /// Add with the hash's sign. Without, values count.
    pub signed: bool,
    pub norm: Norm,
}

/// What a text is taken apart into.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pieces {
    /// Runs of letters, digits and underscores.
    #[default]
    Words,
    /// Characters; blanks that follow each other are one.
    Characters,
}

/// What a row is divided by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Norm {
    None,
    /// The sum of absolute values.
    L1,
    /// The root of the sum of squares.
    #[default]
    L2,
}

impl Default for TextHasher {
    fn default() -> Self {
        TextHasher { columns: 256, seed: 0, by: Pieces::Words, shortest: 1, longest: 1, lowercase: true, signed: true, norm: Norm::L2 }
    }
}

impl TextHasher {
    pub fn check(&self) -> Result<(), LearnError> {
        let require = |holds: bool, name, found: String, must| {
            if holds { Ok(()) } else { Err(LearnError::BadParameter { name, found, must }) }
        };
        require((1..=1 << 16).contains(&self.columns), "columns", self.columns.to_string(), "1 to 65536")?;
        let found = format!("{} to {}", self.shortest, self.longest);
        require(1 <= self.shortest && self.shortest <= self.longest && self.longest <= 20, "pieces together", found, "from 1 to 20")
    }

    /// Fills the row of a text. A text without pieces, as an empty one, is a row of zeros.
    pub fn row(&self, text: &str, out: &mut Vec<f64>) {
        out.clear();
        out.resize(self.columns as usize, 0.0);
        let lowered = if self.lowercase { text.to_lowercase() } else { text.to_string() };
        let hashing = Hashing { seed: self.seed, buckets: self.columns };
        let mut add = |piece: &str| {
            let (bucket, sign) = hashing.place(piece.as_bytes());
            out[bucket as usize] += if self.signed { sign } else { 1.0 };
        };
        // Where pieces begin and end within a text that has one blank between words.
        let (text, bounds) = match self.by {
            Pieces::Words => {
                let words = lowered.split(|c: char| !(c.is_alphanumeric() || c == '_')).filter(|word| !word.is_empty());
                joined(words)
            }
            Pieces::Characters => {
                let (text, _) = joined(lowered.split_whitespace());
                let bounds = text.char_indices().map(|(at, c)| (at, at + c.len_utf8())).collect();
                (text, bounds)
            }
        };
        for length in self.shortest..=self.longest {
            bounds.windows(length).for_each(|run| add(&text[run[0].0..run[length - 1].1]));
        }
        let norm = match self.norm {
            Norm::None => 1.0,
            Norm::L1 => out.iter().map(|value| value.abs()).sum(),
            Norm::L2 => libm::sqrt(out.iter().map(|value| value * value).sum()),
        };
        if norm > 0.0 {
            out.iter_mut().for_each(|value| *value /= norm);
        }
    }
}

/// Words with one blank between, and where each begins and ends.
fn joined<'a>(words: impl Iterator<Item = &'a str>) -> (String, Vec<(usize, usize)>) {
    let (mut text, mut bounds) = (String::new(), Vec::new());
    for word in words {
        if !text.is_empty() {
            text.push(' ');
        }
        bounds.push((text.len(), text.len() + word.len()));
        text.push_str(word);
    }
    (text, bounds)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// What each piece of the text counts, by the buckets that `Hashing` gives them.
    fn check(hasher: &TextHasher, text: &str, pieces: &[&str]) {
        let hashing = Hashing { seed: hasher.seed, buckets: hasher.columns };
        let mut expected: BTreeMap<u32, f64> = BTreeMap::new();
        for piece in pieces {
            let (bucket, sign) = hashing.place(piece.as_bytes());
            *expected.entry(bucket).or_default() += if hasher.signed { sign } else { 1.0 };
        }
        let mut found = Vec::new();
        hasher.row(text, &mut found);
        assert_eq!(found.len(), hasher.columns as usize);
        for (at, value) in found.iter().enumerate() {
            assert_eq!(*value, expected.get(&(at as u32)).copied().unwrap_or(0.0), "{text:?}, column {at}");
        }
    }

    #[test]
    fn texts_are_taken_apart_as_told() {
        let words = TextHasher { columns: 1000, norm: Norm::None, ..TextHasher::default() };
        check(&words, "Card PAYMENT, card: no_7 -- Müller's", &["card", "payment", "card", "no_7", "müller", "s"]);
        check(&TextHasher { lowercase: false, ..words.clone() }, "Card card", &["Card", "card"]);
        let pairs = TextHasher { shortest: 1, longest: 2, ..words.clone() };
        check(&pairs, "pay by  card", &["pay", "by", "card", "pay by", "by card"]);
        let characters = TextHasher { by: Pieces::Characters, shortest: 2, longest: 3, signed: false, ..words.clone() };
        check(&characters, " Aé \t b", &["aé", "é ", " b", "aé ", "é b"]);
        check(&words, " ,;", &[]);
        check(&TextHasher { seed: 5, ..words }, "a b", &["a", "b"]);
    }

    #[test]
    fn hashes_are_those_of_the_definition() {
        // Computed by the definition in another language.
        for (seed, text, expected) in HASHES {
            let place = Hashing { seed: *seed, buckets: 1 << 20 }.place(text.as_bytes());
            assert_eq!(place, *expected, "{seed} {text:?}");
        }
    }

    const HASHES: &[(u64, &str, (u32, f64))] = &[
        (0, "", (507185, 1.0)),
        (0, "card", (942641, -1.0)),
        (1, "card", (593086, 1.0)),
        (7, "pay by card", (944763, 1.0)),
        (9223372036854775813, "Müller", (778612, -1.0)),
    ];

    #[test]
    fn what_falls_together_cancels_out_on_average() {
        // The product of two texts' rows is, over seeds, what the words have in common: 2 of "a b c" and "b c d".
        let mut sum = 0.0;
        for seed in 0..2_000 {
            let hasher = TextHasher { columns: 4, seed, norm: Norm::None, ..TextHasher::default() };
            let (mut one, mut other) = (Vec::new(), Vec::new());
            hasher.row("a b c", &mut one);
            hasher.row("b c d", &mut other);
            sum += one.iter().zip(&other).map(|(a, b)| a * b).sum::<f64>();
        }
        assert!((sum / 2_000.0 - 2.0).abs() < 0.15, "{}", sum / 2_000.0);
    }

    #[test]
    fn norms_and_refusals() {
        for (norm, size) in [(Norm::L1, 1.0), (Norm::L2, 1.0)] {
            let mut row = Vec::new();
            TextHasher { norm, ..TextHasher::default() }.row("one two two three", &mut row);
            let found: f64 = if norm == Norm::L1 { row.iter().map(|x| x.abs()).sum() } else { row.iter().map(|x| x * x).sum() };
            assert!((found - size).abs() < 1e-12);
        }
        for bad in [
            TextHasher { columns: 0, ..TextHasher::default() },
            TextHasher { shortest: 0, ..TextHasher::default() },
            TextHasher { shortest: 3, longest: 2, ..TextHasher::default() },
            TextHasher { longest: 21, ..TextHasher::default() },
        ] {
            assert!(matches!(bad.check(), Err(LearnError::BadParameter { .. })));
        }
    }
}
