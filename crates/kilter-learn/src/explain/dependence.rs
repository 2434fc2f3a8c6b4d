//! How predictions follow an input.

use crate::Matrix;

/// Places to look at along a column: at most so many of its values, equally many rows apart, each once. Missing values are left out.
pub fn grid(matrix: &Matrix, column: usize, most: usize) -> Vec<f64> {
    let mut values: Vec<f64> = matrix.column(column).iter().copied().filter(|value| !value.is_nan()).collect();
    values.sort_unstable_by(f64::total_cmp);
    let Some(last) = values.len().checked_sub(1) else { return Vec::new() };
    let steps = most.saturating_sub(1).max(1);
    let mut places: Vec<f64> = (0..=steps).map(|step| values[(last * step + steps / 2) / steps] + 0.0).collect();
    places.dedup();
    places
}

/// The mean prediction (Friedman 2001) when the columns have the values of each point in all rows and the rest stays as it is. A point has one value for each column; NaN asks
/// for missing values.
///
/// Inputs that hang together are torn apart by it: rows are made up that nobody has seen. See [`accumulated_effects`].
pub fn partial_dependence(matrix: &Matrix, columns: &[usize], points: &[Vec<f64>], predict: impl Fn(&Matrix) -> Vec<f64>) -> Vec<f64> {
    let mut changed = matrix.clone();
    let mean_at = |point: &Vec<f64>| {
        assert_eq!(point.len(), columns.len(), "a point has one value for each column");
        columns.iter().zip(point).for_each(|(&column, &value)| changed.fill(column, |_| value));
        let predictions = predict(&changed);
        predictions.iter().sum::<f64>() / predictions.len() as f64
    };
    points.iter().map(mean_at).collect()
}

/// The effect of an input, gathered from step to step.
#[derive(Clone, Debug, PartialEq)]
pub struct AccumulatedEffects {
    /// Ends of the steps, ascending.
    pub at: Vec<f64>,
    /// The effect at each, over the rows 0 on average.
    pub effects: Vec<f64>,
    /// Rows of each step: between one end and the next.
    pub rows: Vec<usize>,
}

/// Accumulated local effects of a column (Apley and Zhu 2020): how much predictions change across each of at most so many steps, on average over the rows
/// that lie in it, summed up from step to step. Rows stay near to what they are, so inputs that hang together are not torn apart.
///
/// Rows without a value are left out; a column of one value has no steps and no effect.
pub fn accumulated_effects(matrix: &Matrix, column: usize, steps: usize, predict: impl Fn(&Matrix) -> Vec<f64>) -> AccumulatedEffects {
    let at = grid(matrix, column, steps.max(1) + 1);
    let known: Vec<usize> = (0..matrix.rows()).filter(|&row| !matrix.value(row, column).is_nan()).collect();
    let Some(steps) = at.len().checked_sub(1).filter(|&steps| steps > 0) else {
        return AccumulatedEffects { effects: vec![0.0; at.len()], at, rows: Vec::new() };
    };
    let mut moved = matrix.select(&known);
    // A step takes its upper end; the first one its lower end too.
    let step_of: Vec<usize> =
        moved.column(column).iter().map(|&value| at.partition_point(|&end| end < value).clamp(1, steps) - 1).collect();
    let mut at_ends = [0, 1].map(|end| {
        moved.fill(column, |row| at[step_of[row] + end]);
        predict(&moved).into_iter()
    });
    let (mut sums, mut rows) = (vec![0.0; steps], vec![0; steps]);
    let [lower, upper] = &mut at_ends;
    for (step, (lower, upper)) in step_of.into_iter().zip(lower.zip(upper)) {
        sums[step] += upper - lower;
        rows[step] += 1;
    }
    let mut effects = vec![0.0];
    for (sum, &rows) in sums.into_iter().zip(&rows) {
        let change = if rows == 0 { 0.0 } else { sum / f64::from(rows as u32) };
        effects.push(effects[effects.len() - 1] + change);
    }
    let of_row = |(step, &rows): (usize, &usize)| 0.5 * (effects[step] + effects[step + 1]) * rows as f64;
    let mean = rows.iter().enumerate().map(of_row).sum::<f64>() / known.len() as f64;
    effects.iter_mut().for_each(|effect| *effect -= mean);
    AccumulatedEffects { at, effects, rows }
}
