//! What a leaf has seen: each column by class as a normal distribution, from which come naive Bayes and the thresholds to split at.

use super::{HoeffdingTree, LeafPrediction, Spread, is_there};

/// Thresholds that are looked at between the least and the greatest value of a column.
const THRESHOLDS: usize = 10;
/// A side of a split has this share of the weight at least.
const LEAST_SIDE: f64 = 0.01;
/// A deviation counts as this share of the column's range at least: a class that had one value only must not rule out all others.
const LEAST_DEVIATION: f64 = 1e-3;
/// What naive Bayes makes of a row may always be so much, as a logarithm.
const LEAST_LIMIT: f64 = 0.5;

/// The values of one column in the rows of one class.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Observer {
    pub spread: Spread,
    pub least: f64,
    pub greatest: f64,
}

impl Default for Observer {
    fn default() -> Self {
        Observer { spread: Spread::default(), least: f64::INFINITY, greatest: f64::NEG_INFINITY }
    }
}

impl Observer {
    fn add(&mut self, value: f64, weight: f64) {
        self.spread.add(value, weight);
        self.least = self.least.min(value);
        self.greatest = self.greatest.max(value);
    }

    /// The weight of the values up to a threshold, by the normal distribution but for what least and greatest say for sure.
    fn weight_up_to(&self, threshold: f64) -> f64 {
        if threshold < self.least {
            return 0.0;
        }
        if threshold >= self.greatest {
            return self.spread.weight;
        }
        let deviations = (threshold - self.spread.mean) / libm::sqrt(self.spread.variance());
        self.spread.weight * 0.5 * libm::erfc(-deviations * std::f64::consts::FRAC_1_SQRT_2)
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Leaf {
    /// Weight of the rows learned from, by class.
    pub seen: Vec<f64>,
    /// One for each class of the first column, then of the second, and so on.
    pub observers: Vec<Observer>,
    /// Weight since the last look for a split.
    pub since: f64,
    /// Weight of the rows that the commonest class, and naive Bayes, were right about before they were learned from.
    pub majority_right: f64,
    pub bayes_right: f64,
}

/// A split that could be made.
pub(super) struct Candidate {
    pub column: usize,
    pub threshold: f64,
    /// Information about the class, in bits.
    pub gain: f64,
    pub missing_left: bool,
    /// Weight on either side, by class.
    pub sides: [Vec<f64>; 2],
}

/// The place of the greatest, the first of equals.
pub(super) fn greatest(values: &[f64]) -> usize {
    (1..values.len()).fold(0, |best, at| if values[at] > values[best] { at } else { best })
}

impl Leaf {
    pub fn empty(columns: usize, classes: usize) -> Leaf {
        Leaf {
            seen: vec![0.0; classes],
            observers: vec![Observer::default(); columns * classes],
            since: 0.0,
            majority_right: 0.0,
            bayes_right: 0.0,
        }
    }

    pub fn answers_by_bayes(&self, parameters: &HoeffdingTree) -> bool {
        match parameters.leaf_prediction {
            LeafPrediction::Majority => false,
            LeafPrediction::NaiveBayes => true,
            LeafPrediction::Adaptive => self.bayes_right > self.majority_right,
        }
    }

    pub fn observe(&mut self, row: &[f64], class: usize, weight: f64) {
        let classes = self.seen.len();
        self.seen[class] += weight;
        self.since += weight;
        for (column, &value) in row.iter().enumerate() {
            if is_there(value) {
                self.observers[column * classes + class].add(value, weight);
            }
        }
    }

    /// The logarithms of naive Bayes' likelihoods of the row, without what the classes have in common: one a class, damped to the limit. Returns what
    /// they were multiplied by.
    pub fn evidence(&self, row: &[f64], out: &mut Vec<f64>, column: &mut Vec<f64>) -> f64 {
        out.clear();
        out.resize(self.seen.len(), 0.0);
        self.for_each_evidence(row, column, |_, evidence| out.iter_mut().zip(evidence).for_each(|(sum, value)| *sum += value));
        let (limit, most) = (self.limit(), out.iter().fold(0.0f64, |most, value| most.max(value.abs())));
        let damping = if most > limit { limit / most } else { 1.0 };
        out.iter_mut().for_each(|evidence| *evidence *= damping);
        damping
    }

    /// Naive Bayes may be no surer than its record here allows: the odds of its being right so far. Columns that say the same must not make it certain.
    fn limit(&self) -> f64 {
        let wrong = (self.seen.iter().sum::<f64>() - self.bayes_right).max(0.0);
        libm::log((self.bayes_right + 1.0) / (wrong + 1.0)).max(LEAST_LIMIT)
    }

    /// The same column by column, before the limit.
    pub fn for_each_evidence(&self, row: &[f64], scratch: &mut Vec<f64>, mut each: impl FnMut(usize, &[f64])) {
        let classes = self.seen.len();
        scratch.clear();
        scratch.resize(classes, 0.0);
        for (column, (observers, &value)) in self.observers.chunks_exact(classes).zip(row).enumerate() {
            if is_there(value) && likelihoods(observers, value, scratch) {
                each(column, scratch);
            }
        }
    }

    /// The best split of each column that has one, in the order of columns.
    pub fn candidates(&self) -> impl Iterator<Item = Candidate> + '_ {
        let classes = self.seen.len();
        self.observers.chunks_exact(classes).enumerate().filter_map(|(column, observers)| self.best_of(column, observers))
    }

    fn best_of(&self, column: usize, observers: &[Observer]) -> Option<Candidate> {
        let (least, greatest) = range(observers);
        let there: Vec<f64> = observers.iter().map(|observer| observer.spread.weight).collect();
        let (present, seen): (f64, f64) = (there.iter().sum(), self.seen.iter().sum());
        if !(least < greatest && present > 0.0) {
            return None;
        }
        let before = entropy(&there);
        let mut best: Option<Candidate> = None;
        for step in 1..=THRESHOLDS {
            let threshold = least + (greatest - least) * (step as f64 / (THRESHOLDS + 1) as f64);
            let left: Vec<f64> = observers.iter().map(|observer| observer.weight_up_to(threshold)).collect();
            let right: Vec<f64> = there.iter().zip(&left).map(|(all, left)| all - left).collect();
            let share = left.iter().sum::<f64>() / present;
            if !(LEAST_SIDE..=1.0 - LEAST_SIDE).contains(&share) {
                continue;
            }
            // Rows in which the value is missing learn nothing from it.
            let gain = (before - share * entropy(&left) - (1.0 - share) * entropy(&right)) * (present / seen);
            if gain > best.as_ref().map_or(0.0, |best| best.gain) {
                best = Some(Candidate { column, threshold, gain, missing_left: share >= 0.5, sides: [left, right] });
            }
        }
        let mut best = best?;
        let side = usize::from(!best.missing_left);
        for (class, &there) in there.iter().enumerate() {
            best.sides[side][class] += (self.seen[class] - there).max(0.0);
        }
        Some(best)
    }
}

fn range(observers: &[Observer]) -> (f64, f64) {
    let least = observers.iter().fold(f64::INFINITY, |least, observer| least.min(observer.least));
    (least, observers.iter().fold(f64::NEG_INFINITY, |greatest, observer| greatest.max(observer.greatest)))
}

/// Logarithms of the normal densities of a value, less their mean over the classes; false for a column that says nothing.
fn likelihoods(observers: &[Observer], value: f64, out: &mut [f64]) -> bool {
    let (least, greatest) = range(observers);
    // A column that was never seen has its least value above its greatest.
    if least >= greatest {
        return false;
    }
    let deviation = LEAST_DEVIATION * (greatest - least);
    let (mut sum, mut known) = (0.0, 0.0);
    for (observer, out) in observers.iter().zip(out.iter_mut()) {
        if observer.spread.weight > 0.0 {
            let variance = observer.spread.variance().max(deviation * deviation);
            let away = value - observer.spread.mean;
            *out = -0.5 * (libm::log(variance) + away * away / variance);
            sum += *out;
            known += 1.0;
        }
    }
    // A class in which the column was never seen is neither helped nor harmed by it.
    let mean = sum / known;
    for (observer, out) in observers.iter().zip(out.iter_mut()) {
        *out = if observer.spread.weight > 0.0 { *out - mean } else { 0.0 };
    }
    true
}

/// Of weights by class, in bits.
fn entropy(weights: &[f64]) -> f64 {
    let total: f64 = weights.iter().sum();
    let term = |&weight: &f64| if weight > 0.0 { -(weight / total) * libm::log2(weight / total) } else { 0.0 };
    if total > 0.0 { weights.iter().map(term).sum() } else { 0.0 }
}
