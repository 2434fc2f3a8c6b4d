//! Folds of cross-validation, as positions of rows. They are those of scikit-learn's splitters of the same semantics, to the row.

use crate::LearnError;

/// Rows to learn from and rows to be judged on, each in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fold {
    pub train: Vec<usize>,
    pub test: Vec<usize>,
}

/// Folds of rows that lie in time order: each is judged on a stretch, and learns from what lies before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeSplit {
    pub folds: usize,
    /// Rows of a test stretch; none: as many as make all stretches and the first training alike long.
    pub test_rows: Option<usize>,
    /// Rows left out between training and test.
    pub gap: usize,
    /// Most rows to learn from, the newest: a rolling window. None: all from the first one on, an expanding one.
    pub window: Option<usize>,
}

impl TimeSplit {
    pub fn expanding(folds: usize) -> TimeSplit {
        TimeSplit { folds, test_rows: None, gap: 0, window: None }
    }
}

/// The test stretches are the newest rows, the last fold's the very newest (scikit-learn's `TimeSeriesSplit`).
pub fn time_ordered(rows: usize, split: &TimeSplit) -> Result<Vec<Fold>, LearnError> {
    let TimeSplit { folds, gap, window, .. } = *split;
    let require = |holds: bool, name, found: usize, must| {
        if holds { Ok(()) } else { Err(LearnError::BadParameter { name, found: found.to_string(), must }) }
    };
    require(folds >= 1, "folds", folds, "at least 1")?;
    require(window != Some(0), "window", 0, "at least 1 row, or none")?;
    let test = split.test_rows.unwrap_or(rows / (folds + 1));
    require(test >= 1, "test_rows", test, "at least 1 row; there are fewer rows than folds")?;
    let room = folds.checked_mul(test).and_then(|tests| tests.checked_add(gap)).is_some_and(|taken| taken < rows);
    require(room, "folds", folds, "few enough to leave rows before the first test stretch and its gap")?;
    let fold = |k: usize| {
        let start = rows - (folds - k) * test;
        let end = start - gap;
        let first = window.map_or(0, |window| end.saturating_sub(window));
        Fold { train: (first..end).collect(), test: (start..start + test).collect() }
    };
    Ok((0..folds).map(fold).collect())
}

/// The same for rows at these times, which must not fall: what is learned from lies more than `embargo` before the first row of the test, as labels
/// need that long to be known. A fold may be left without rows to learn from.
pub fn time_ordered_at(times: &[i64], embargo: i64, split: &TimeSplit) -> Result<Vec<Fold>, LearnError> {
    if let Some(row) = times.windows(2).position(|pair| pair[1] < pair[0]) {
        let found = format!("a time at row {} before that of row {row}", row + 1);
        return Err(LearnError::BadParameter { name: "times", found, must: "in order" });
    }
    let folds = time_ordered(times.len(), &TimeSplit { window: None, ..*split })?;
    let held_back = |mut fold: Fold| {
        let start = times[fold.test[0]];
        let known = fold.train.partition_point(|&row| times[row].saturating_add(embargo) < start);
        fold.train.truncate(known);
        // The window counts from where training ends.
        let first = split.window.map_or(0, |window| known.saturating_sub(window));
        Fold { train: fold.train.split_off(first), ..fold }
    };
    Ok(folds.into_iter().map(held_back).collect())
}

/// All rows of a group are in one test (scikit-learn's `GroupKFold`): the largest group first, each to the fold that has the fewest rows.
pub fn grouped(groups: &[usize], folds: usize) -> Result<Vec<Fold>, LearnError> {
    let group_of = ranks(groups);
    let count = group_of.iter().max().map_or(0, |most| most + 1);
    check_folds(folds, count, "2 to the number of groups")?;
    let mut rows_of = vec![0usize; count];
    group_of.iter().for_each(|&group| rows_of[group] += 1);
    let mut order: Vec<usize> = (0..count).collect();
    order.sort_by_key(|&group| (std::cmp::Reverse(rows_of[group]), std::cmp::Reverse(group)));
    let (mut taken, mut fold_of) = (vec![0usize; folds], vec![0usize; count]);
    for group in order {
        let lightest = (0..folds).min_by_key(|&fold| taken[fold]).unwrap_or_default();
        taken[lightest] += rows_of[group];
        fold_of[group] = lightest;
    }
    Ok(by_fold(folds, group_of.len(), |row| fold_of[group_of[row]]))
}

/// Every fold's test has about the same shares of classes (scikit-learn's `StratifiedKFold` without shuffling).
pub fn stratified(classes: &[usize], folds: usize) -> Result<Vec<Fold>, LearnError> {
    let class_of = by_appearance(classes);
    let count = class_of.iter().max().map_or(0, |most| most + 1);
    let mut rows_of = vec![0usize; count];
    class_of.iter().for_each(|&class| rows_of[class] += 1);
    check_folds(folds, rows_of.iter().copied().min().unwrap_or(0), "2 to the number of rows of the rarest class")?;
    let mut sorted = class_of.clone();
    sorted.sort_unstable();
    // How many rows of a class each fold gets: every fold takes each `folds`-th of the rows by class.
    let mut left = vec![vec![0usize; folds]; count];
    sorted.iter().enumerate().for_each(|(place, &class)| left[class][place % folds] += 1);
    let mut next = vec![0usize; count];
    let fold_of: Vec<usize> = class_of
        .iter()
        .map(|&class| {
            while left[class][next[class]] == 0 {
                next[class] += 1;
            }
            left[class][next[class]] -= 1;
            next[class]
        })
        .collect();
    Ok(by_fold(folds, fold_of.len(), |row| fold_of[row]))
}

/// Groups stay together, and classes have about the same shares as far as that allows (scikit-learn's `StratifiedGroupKFold` without shuffling): the group whose
/// classes differ most first, each to the fold where it evens out the shares best.
pub fn stratified_grouped(classes: &[usize], groups: &[usize], folds: usize) -> Result<Vec<Fold>, LearnError> {
    if groups.len() != classes.len() {
        return Err(LearnError::LengthMismatch { what: "groups", expected: classes.len(), found: groups.len() });
    }
    let (class_of, group_of) = (ranks(classes), ranks(groups));
    let (class_count, group_count) = (class_of.iter().max().map_or(0, |m| m + 1), group_of.iter().max().map_or(0, |m| m + 1));
    check_folds(folds, group_count, "2 to the number of groups")?;
    let mut counts = vec![vec![0.0; class_count]; group_count];
    let mut totals = vec![0.0; class_count];
    for (&class, &group) in class_of.iter().zip(&group_of) {
        counts[group][class] += 1.0;
        totals[class] += 1.0;
    }
    let mut order: Vec<usize> = (0..group_count).collect();
    order.sort_by(|&a, &b| deviation(&counts[b]).total_cmp(&deviation(&counts[a])));
    let mut fold_of = vec![0usize; group_count];
    let mut in_fold = vec![vec![0.0; class_count]; folds];
    for group in order {
        let mut best = (f64::INFINITY, f64::INFINITY, 0);
        for fold in 0..folds {
            let rows: f64 = in_fold[fold].iter().sum();
            let with = |other: usize, class: usize| {
                let own = if other == fold { counts[group][class] } else { 0.0 };
                (in_fold[other][class] + own) / totals[class]
            };
            let uneven = |class: usize| deviation(&(0..folds).map(|other| with(other, class)).collect::<Vec<_>>());
            let mean = (0..class_count).map(uneven).sum::<f64>() / class_count as f64;
            let as_even = best.0.is_finite() && (mean - best.0).abs() <= 1e-8 + 1e-5 * best.0.abs();
            if mean < best.0 || as_even && rows < best.1 {
                best = (mean, rows, fold);
            }
        }
        fold_of[group] = best.2;
        in_fold[best.2].iter_mut().zip(&counts[group]).for_each(|(sum, own)| *sum += own);
    }
    Ok(by_fold(folds, group_of.len(), |row| fold_of[group_of[row]]))
}

fn check_folds(folds: usize, most: usize, must: &'static str) -> Result<(), LearnError> {
    match (2..=most).contains(&folds) {
        true => Ok(()),
        false => Err(LearnError::BadParameter { name: "folds", found: folds.to_string(), must }),
    }
}

/// Each value's place among the different ones, in their order.
fn ranks(values: &[usize]) -> Vec<usize> {
    let mut different = values.to_vec();
    different.sort_unstable();
    different.dedup();
    values.iter().map(|value| different.partition_point(|other| other < value)).collect()
}

/// The same in the order in which they come up.
fn by_appearance(values: &[usize]) -> Vec<usize> {
    let ranks = ranks(values);
    let mut place: Vec<Option<usize>> = vec![None; ranks.len()];
    let mut seen = 0;
    ranks
        .into_iter()
        .map(|rank| {
            *place[rank].get_or_insert_with(|| {
                seen += 1;
                seen - 1
            })
        })
        .collect()
}

fn by_fold(folds: usize, rows: usize, fold_of: impl Fn(usize) -> usize) -> Vec<Fold> {
    let of = |fold: usize| {
        let (test, train) = (0..rows).partition(|&row| fold_of(row) == fold);
        Fold { train, test }
    };
    (0..folds).map(of).collect()
}

/// Of a population.
fn deviation(values: &[f64]) -> f64 {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    libm::sqrt(values.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / values.len() as f64)
}

#[cfg(test)]
#[path = "split_tests.rs"]
mod tests;
