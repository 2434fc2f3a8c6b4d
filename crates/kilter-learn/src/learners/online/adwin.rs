//! A window of the newest values that grows while their mean stays and drops its older part when it has changed (ADWIN2: Bifet & Gavaldà 2007).
//!
//! Values are kept as buckets of 1, 2, 4, ... of them, at most five of a size, so that a window of a million values is some ninety buckets. A
//! window of `n` is cut in two between any two buckets, older and newer, of `n0` and `n1` values; their means are taken to differ when they are
//! farther apart than
//!
//! ```text
//! sqrt(2 / m * variance * ln(2 / d)) + 2 / (3 m) * ln(2 / d)        1 / m = 1 / n0 + 1 / n1,   d = delta / ln(n)
//! ```
//! Then the oldest bucket goes, until no cut differs. Cuts are looked at after every 32 values, and leave five values at least on either side.

use crate::LearnError;
use crate::format::{Reader, Writer};

/// Buckets of one size.
const MOST: usize = 5;
/// Values between two looks at the cuts.
const CLOCK: u64 = 32;
/// Values on either side of a cut.
const FEWEST: f64 = 5.0;

/// Values from 0 to 1, the newest of a stream.
#[derive(Clone, Debug, PartialEq)]
pub struct Adwin {
    delta: f64,
    /// Buckets of one size, at most.
    most: usize,
    /// Values since the start; the window may be shorter.
    seen: u64,
    /// The oldest first.
    buckets: Vec<Bucket>,
    whole: Bucket,
}

/// How the mean has changed, where it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Rise,
    Fall,
}

/// Some neighbouring values.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Bucket {
    count: f64,
    sum: f64,
    /// Squared deviations from their mean.
    m2: f64,
}

impl Bucket {
    fn mean(&self) -> f64 {
        self.sum / self.count
    }

    /// How far the means' distance adds to the squared deviations when the two are one.
    fn between(&self, other: &Bucket) -> f64 {
        let apart = self.mean() - other.mean();
        apart * apart * (self.count * other.count / (self.count + other.count))
    }

    fn with(&self, other: &Bucket) -> Bucket {
        if self.count == 0.0 {
            return *other;
        }
        Bucket { count: self.count + other.count, sum: self.sum + other.sum, m2: self.m2 + other.m2 + self.between(other) }
    }

    /// What is left of it without a part of it.
    fn without(&self, part: &Bucket) -> Bucket {
        let (count, sum) = (self.count - part.count, self.sum - part.sum);
        if count <= 0.0 {
            return Bucket::default();
        }
        let rest = Bucket { count, sum, m2: 0.0 };
        Bucket { m2: (self.m2 - part.m2 - rest.between(part)).max(0.0), ..rest }
    }
}

impl Adwin {
    /// A window that takes a steady mean for a changed one with a probability of about `delta`, above 0 and below 1.
    pub fn new(delta: f64) -> Self {
        Adwin::with_buckets(delta, MOST)
    }

    fn with_buckets(delta: f64, most: usize) -> Self {
        Adwin { delta, most, seen: 0, buckets: Vec::new(), whole: Bucket::default() }
    }

    /// Takes the next value, and says whether the mean has changed.
    pub fn add(&mut self, value: f64) -> Option<Change> {
        let one = Bucket { count: 1.0, sum: value, m2: 0.0 };
        self.buckets.push(one);
        self.whole = self.whole.with(&one);
        self.seen += 1;
        self.merge_buckets();
        if !self.seen.is_multiple_of(CLOCK) {
            return None;
        }
        let before = self.mean();
        let mut changed = false;
        while self.means_differ() {
            let oldest = self.buckets.remove(0);
            self.whole = self.whole.without(&oldest);
            changed = true;
        }
        changed.then(|| if self.mean() > before { Change::Rise } else { Change::Fall })
    }

    /// The mean of the window; 0 before the first value.
    pub fn mean(&self) -> f64 {
        if self.whole.count > 0.0 { self.whole.mean() } else { 0.0 }
    }

    /// Values in the window.
    pub fn width(&self) -> f64 {
        self.whole.count
    }

    /// Of too many buckets of one size, the two oldest become one of the next size.
    fn merge_buckets(&mut self) {
        let (mut end, mut size) = (self.buckets.len(), 1.0);
        loop {
            let start = self.buckets[..end].iter().rposition(|bucket| bucket.count != size).map_or(0, |before| before + 1);
            if end - start <= self.most {
                return;
            }
            self.buckets[start] = self.buckets[start].with(&self.buckets[start + 1]);
            self.buckets.remove(start + 1);
            (end, size) = (start + 1, 2.0 * size);
        }
    }

    fn means_differ(&self) -> bool {
        let n = self.whole.count;
        if n < 2.0 * FEWEST {
            return false;
        }
        let confidence = libm::log(2.0 * libm::log(n) / self.delta);
        let variance = self.whole.m2 / n;
        let mut older = Bucket::default();
        self.buckets[..self.buckets.len() - 1].iter().any(|bucket| {
            (older.count, older.sum) = (older.count + bucket.count, older.sum + bucket.sum);
            let (n1, sum1) = (n - older.count, self.whole.sum - older.sum);
            if older.count < FEWEST || n1 < FEWEST {
                return false;
            }
            let inverse = 1.0 / older.count + 1.0 / n1;
            let bound = libm::sqrt(2.0 * inverse * variance * confidence) + 2.0 / 3.0 * inverse * confidence;
            (older.mean() - sum1 / n1).abs() > bound
        })
    }

    pub(super) fn write(&self, to: &mut Writer) {
        to.u64(self.seen);
        to.u32(self.buckets.len() as u32);
        for bucket in self.buckets.iter().chain([&self.whole]) {
            to.f64s(&[bucket.count, bucket.sum, bucket.m2]);
        }
    }

    pub(super) fn read(from: &mut Reader<'_>, delta: f64) -> Result<Adwin, LearnError> {
        let (seen, count) = (from.u64()?, from.u32()? as usize);
        from.room_for(count + 1, 24)?;
        let mut bucket = || {
            let [count, sum, m2] = [from.f64()?, from.f64()?, from.f64()?];
            let sound = count.is_finite() && count.fract() == 0.0 && (0.0..=count).contains(&sum) && (0.0..=count).contains(&m2);
            if sound { Ok(Bucket { count, sum, m2 }) } else { Err(LearnError::corrupt("a bucket of values that are none")) }
        };
        let mut buckets = (0..count).map(|_| bucket()).collect::<Result<Vec<_>, _>>()?;
        let whole = bucket()?;
        // Sizes are powers of two and fall towards the newest; nothing else is relied on.
        let is_size = |count: f64| count >= 1.0 && count <= 2f64.powi(62) && (count as u64).is_power_of_two();
        let falling = buckets.windows(2).all(|pair| pair[0].count >= pair[1].count);
        let total: f64 = buckets.iter().map(|bucket| bucket.count).sum();
        if !(buckets.iter().all(|bucket| is_size(bucket.count)) && falling && total == whole.count) {
            return Err(LearnError::corrupt("a window whose buckets are not those of one"));
        }
        buckets.shrink_to_fit();
        Ok(Adwin { delta, most: MOST, seen, buckets, whole })
    }
}

#[cfg(test)]
#[path = "adwin_tests.rs"]
mod tests;
