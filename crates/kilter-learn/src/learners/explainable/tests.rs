use super::cuts::{self, Rules, Sums};
use super::*;
use crate::format::tests::check_damage_is_noticed;
use crate::matrix::tests::training_set;
use crate::{Matrix, Model, load, metrics};

/// A curve of the first, a step of the second (missing at times), a product of the third and the fourth; the last says nothing.
fn truth(row: &[f64]) -> f64 {
    let step = if row[1].is_nan() { 0.8 } else { f64::from(u8::from(row[1] > 0.3)) };
    row[0] * row[0] - 1.0 + step + 1.5 * row[2] * row[3]
}

fn rows(count: usize, seed: u64, target: Target) -> TrainingSet {
    let mut rng = Rng::seeded(seed);
    let rows: Vec<Vec<f64>> = (0..count)
        .map(|_| {
            let mut row: Vec<f64> = (0..5).map(|_| 2.0 * rng.uniform() - 1.0).collect();
            if rng.bernoulli(0.15) {
                row[1] = f64::NAN;
            }
            let margin = truth(&row);
            row.push(match target {
                Target::Binary => f64::from(u8::from(rng.bernoulli(crate::math::sigmoid(2.0 * margin)))),
                Target::Mean => margin + 0.2 * rng.normal(),
            });
            row
        })
        .collect();
    training_set(&rows)
}

fn mean_fit() -> Explainable {
    Explainable { target: Target::Mean, bags: 4, pairs: 2, learning_rate: 0.1, ..Explainable::default() }
}

#[test]
fn the_parts_that_made_the_data_are_found_again_and_told_apart() {
    let (set, unseen) = (rows(6_000, 1, Target::Mean), rows(3_000, 2, Target::Mean));
    let error = |model: &ExplainableModel| metrics::brier(&model.margins(&unseen.matrix), &unseen.labels);
    let model = fit(&set, &mean_fit()).unwrap();
    let without = fit(&set, &Explainable { pairs: 0, ..mean_fit() }).unwrap();
    assert_eq!(model.pairs()[0], [2, 3]);
    // The noise alone is 0.04; the product's variance is a quarter.
    assert!(error(&model) < 0.06 && error(&without) > 0.25, "{} {}", error(&model), error(&without));
    let value = |input: usize, x: f64| {
        let (bounds, values) = model.table(input);
        values[if x.is_nan() { 0 } else { 1 + bounds.partition_point(|&bound| bound < x) }]
    };
    // A curve is known but for its mean, which is the intercept's.
    for x in [-0.9, -0.5, 0.0, 0.5, 0.9f64] {
        assert!((value(0, x) - (x * x - 1.0 / 3.0)).abs() < 0.12, "at {x}: {}", value(0, x));
    }
    assert!((value(1, 0.9) - value(1, -0.9) - 1.0).abs() < 0.1);
    assert!((value(1, f64::NAN) - value(1, -0.9) - 0.8).abs() < 0.12);
    assert!(model.importance()[4] < 0.03, "{:?}", model.importance());
}

#[test]
fn every_term_is_nought_on_average_and_a_pair_for_each_of_its_columns_too() {
    for target in [Target::Binary, Target::Mean] {
        let set = rows(3_000, 3, target);
        let model = fit(&set, &Explainable { target, ..mean_fit() }).unwrap();
        let mut row = Vec::new();
        let mut sums = vec![0.0; 5 + model.pairs().len()];
        // The sum of the pair's value over the rows of each half of its first column.
        let mut halves = [0.0; 2];
        let mut margins = 0.0;
        let all: Vec<f64> = set.matrix.column(model.pairs()[0][0]).to_vec();
        let bounds = &model.tables.pairs[0].edges[0];
        let middle = bounds[bounds.len() / 2];
        for r in 0..set.rows() {
            set.matrix.row(r, &mut row);
            let terms = model.terms(&row);
            sums.iter_mut().zip(&terms).for_each(|(sum, term)| *sum += term.value);
            halves[usize::from(all[r] <= middle)] += terms[5].value;
            let sum = terms.iter().fold(model.intercept(), |sum, term| sum + term.value);
            assert_eq!(sum.to_bits(), model.margin(&row).to_bits());
            margins += sum;
        }
        assert!(sums.iter().chain(&halves).all(|sum| sum.abs() < 1e-8), "{sums:?} {halves:?}");
        assert!((margins / 3_000.0 - model.intercept()).abs() < 1e-10);
    }
}

/// Shapley's formula over all orders of the inputs, where an unknown input takes its values from the training rows by themselves: of a pair
/// whose means are nought both ways, half falls to each.
#[test]
fn contributions_are_halves_of_pairs_and_add_up() {
    let set = rows(2_000, 4, Target::Binary);
    let model = fit(&set, &Explainable { bags: 2, pairs: 3, rounds: 100, ..Explainable::default() }).unwrap();
    let row = [0.4, f64::NAN, -0.7, 0.9, 0.1];
    let mut contributions = Vec::new();
    let base = model.explain(&row, &mut contributions);
    let mut expected = vec![0.0; 5];
    for term in model.terms(&row) {
        term.inputs.iter().for_each(|&input| expected[input] += term.value / term.inputs.len() as f64);
    }
    assert!(model.pairs().len() == 3 && contributions.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-12));
    assert!((base + contributions.iter().sum::<f64>() - model.margin(&row)).abs() < 1e-12);
}

#[test]
fn what_training_never_missed_counts_as_average() {
    let set = rows(2_000, 5, Target::Mean);
    let model = fit(&set, &mean_fit()).unwrap();
    let terms = model.terms(&[f64::NAN; 5]);
    assert!(terms[0].value == 0.0 && terms[1].value != 0.0);
    assert!(terms[5..].iter().filter(|term| !term.inputs.contains(&1)).all(|term| term.value == 0.0));
}

#[test]
fn a_tree_takes_the_best_cut_and_a_crossing_the_best_quadrants() {
    let mut rng = Rng::seeded(6);
    let score = |parts: &[Sums]| parts.iter().map(|[g, h]| g * g / (h + 1e-6)).sum::<f64>();
    let sum = |sums: &[Sums]| sums.iter().fold([0.0; 2], |a: Sums, b| [a[0] + b[0], a[1] + b[1]]);
    for turn in 0..300 {
        let bins = 2 + rng.below(30) as usize;
        let sums: Vec<Sums> = (0..=bins).map(|_| [rng.normal(), 0.1 + rng.uniform()]).collect();
        let counts: Vec<f64> = (0..=bins).map(|_| rng.below(4) as f64).collect();
        let direction = [0, 1, -1][turn % 3];
        let rules = Rules { min_rows: 3.0, leaves: 2, direction, bounded: false };
        let mut add = vec![0.0; bins + 1];
        let grown = cuts::tree(&sums, &counts, rules, &mut add);
        let allowed = |at: &usize| {
            let (left, right) = (sum(&sums[1..*at]), sum(&sums[*at..]));
            let enough = counts[1..*at].iter().sum::<f64>() >= 3.0 && counts[*at..].iter().sum::<f64>() >= 3.0;
            enough && f64::from(direction) * (cuts::step(right, false) - cuts::step(left, false)) >= 0.0
        };
        let best = (2..=bins).filter(allowed).map(|at| score(&[sum(&sums[1..at]), sum(&sums[at..])])).fold(f64::NEG_INFINITY, f64::max);
        if grown {
            let changes: Vec<usize> = (2..=bins).filter(|&at| add[at] != add[at - 1]).collect();
            assert!(changes.len() <= 1);
            if let [at] = changes[..] {
                assert!((score(&[sum(&sums[1..at]), sum(&sums[at..])]) - best).abs() < 1e-9, "turn {turn}");
                assert!((add[at] - cuts::step(sum(&sums[at..]), false)).abs() < 1e-9);
            }
        }
        assert!(grown || best == f64::NEG_INFINITY || counts[1..].iter().sum::<f64>() < 6.0, "turn {turn}");

        let (height, width) = (2 + rng.below(6) as usize, 2 + rng.below(6) as usize);
        let cells: Vec<Sums> = (0..height * width).map(|_| [rng.normal(), 0.1 + rng.uniform()]).collect();
        let rows: Vec<f64> = cells.iter().map(|_| rng.below(3) as f64).collect();
        let mut best = f64::NEG_INFINITY;
        for (row, column) in (0..height - 1).flat_map(|row| (0..width - 1).map(move |column| (row, column))) {
            let (mut parts, mut counts) = ([[0.0; 2]; 4], [0.0; 4]);
            for (at, cell) in cells.iter().enumerate() {
                let part = 2 * usize::from(at / width > row) + usize::from(at % width > column);
                parts[part] = [parts[part][0] + cell[0], parts[part][1] + cell[1]];
                counts[part] += rows[at];
            }
            if counts.iter().all(|&count| count >= 1.0) {
                best = best.max(score(&parts) - score(&[sum(&cells)]));
            }
        }
        match cuts::quadrants(&cells, &rows, width, 1.0) {
            Some(crossing) => {
                assert!((crossing.gain - best).abs() < 1e-9);
                let mut add = vec![0.0; cells.len()];
                crossing.fill(width, false, &mut add);
                let gain: f64 = add.iter().zip(&cells).map(|(w, [g, h])| -2.0 * g * w - h * w * w).sum();
                assert!((gain - best - score(&[sum(&cells)])).abs() < 1e-3, "{gain} {best}");
            }
            None => assert!(best <= 1e-9),
        }
    }
}

#[test]
fn rows_held_out_are_never_learned_from_and_each_class_is_on_both_sides() {
    let set = rows(500, 7, Target::Binary);
    let kept: Vec<usize> = (0..500).collect();
    let rows = Rows::new(&set, &kept, Target::Binary);
    let bag = Bag::draw(&rows, 0.15, &mut Rng::seeded(1)).unwrap();
    let positives = |rows: &[usize]| rows.iter().filter(|&&row| set.labels[row] == 1.0).count();
    let (learned, held_out) = bag.sides();
    let mut all: Vec<usize> = learned.iter().chain(held_out).copied().collect();
    all.sort_unstable();
    assert_eq!(all, kept);
    assert!(held_out.len() == 75 || held_out.len() == 76);
    assert!((positives(held_out) as f64 / positives(&kept) as f64 - 0.15).abs() < 0.01);
}

#[test]
fn a_weight_is_as_good_as_repetition_in_the_sums() {
    // Bags draw rows, so models differ by chance; with weights the base rate is the weighted one.
    let set = rows(2_000, 8, Target::Binary);
    let weights: Vec<f64> = set.labels.iter().map(|&label| if label == 1.0 { 3.0 } else { 1.0 }).collect();
    let rate = 3.0 * set.positives() as f64 / (2_000 + 2 * set.positives()) as f64;
    let model =
        fit(&TrainingSet { weights: Some(weights.clone()), ..set.clone() }, &Explainable { bags: 2, ..Explainable::default() }).unwrap();
    let predicted = model.probabilities(&set.matrix).iter().zip(&weights).map(|(p, w)| p * w).sum::<f64>() / weights.iter().sum::<f64>();
    assert!((predicted - rate).abs() < 0.01, "{predicted} {rate}");
}

#[test]
fn damage_is_noticed_and_what_is_loaded_tells_the_same() {
    let parameters = Explainable { bins: 4, pair_bins: 2, bags: 2, rounds: 5, pairs: 1, ..Explainable::default() };
    let model = fit(&rows(200, 9, Target::Binary), &parameters).unwrap();
    let back = load(&model.to_bytes()).unwrap();
    assert_eq!(back.describe(), model.describe());
    check_damage_is_noticed(&model);
}

#[test]
fn nonsense_is_refused() {
    let set = rows(100, 10, Target::Binary);
    for (parameters, expected) in [
        (Explainable { bins: 1, ..Explainable::default() }, "bins"),
        (Explainable { pair_bins: 65, ..Explainable::default() }, "pair_bins"),
        (Explainable { bags: 0, ..Explainable::default() }, "bags"),
        (Explainable { validation_fraction: 0.0, ..Explainable::default() }, "validation_fraction"),
        (Explainable { learning_rate: f64::NAN, ..Explainable::default() }, "learning_rate"),
        (Explainable { rounds: 0, ..Explainable::default() }, "rounds"),
        (Explainable { early_stopping: 0, ..Explainable::default() }, "early_stopping"),
        (Explainable { leaves: 4, ..Explainable::default() }, "leaves"),
        (Explainable { min_leaf_rows: 0, ..Explainable::default() }, "min_leaf_rows"),
        (Explainable { monotone: vec![2; 5], ..Explainable::default() }, "monotone"),
    ] {
        assert!(matches!(fit(&set, &parameters), Err(LearnError::BadParameter { name, .. }) if name == expected), "{expected}");
    }
    let wrong = Explainable { monotone: vec![1], ..Explainable::default() };
    assert!(matches!(fit(&set, &wrong), Err(LearnError::LengthMismatch { what: "monotone", .. })));
    let two = set.matrix.select(&[0, 1]);
    let two = TrainingSet::new(Matrix::clone(&two), vec![0.0, 1.0]);
    assert!(matches!(fit(&two, &Explainable::default()), Err(LearnError::EmptyValidation { .. })));
}
