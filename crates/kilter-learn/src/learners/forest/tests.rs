use super::scan::{self, Cut, LABEL, Look, ROWS, Scan, Sums, WEIGHT, add};
use super::*;
use crate::format::tests::check_damage_is_noticed;
use crate::matrix::tests::training_set;
use crate::{Link, Matrix, Model, load};

/// Rows of six columns, the last two of which say nothing; labels 0 and 1 when `classes`.
fn rows(count: usize, seed: u64, classes: bool) -> TrainingSet {
    let mut rng = Rng::seeded(seed);
    let rows: Vec<Vec<f64>> = (0..count)
        .map(|_| {
            let mut row: Vec<f64> = (0..6).map(|_| rng.normal()).collect();
            let margin = row[0] - 0.8 * row[1] + row[0] * row[2];
            if rng.bernoulli(0.1) {
                row[1] = f64::NAN;
            }
            row[3] = row[3].round();
            let noisy = margin + 0.5 * rng.normal();
            row.push(if classes { f64::from(u8::from(noisy > 0.0)) } else { 3.0 + noisy });
            row
        })
        .collect();
    training_set(&rows)
}

fn predictions(model: &ForestModel, set: &TrainingSet) -> Vec<f64> {
    model.margins(&set.matrix)
}

/// Every cut of a column, one by one, as one would write it down: the score, and how many rows go left.
fn naive(bins: &[u8], sums: &[Sums], min_rows: f64, last_bin: u8) -> Vec<(f64, u8, bool)> {
    let mut found = Vec::new();
    let has_missing = bins.contains(&0);
    for cut in 1..=last_bin {
        for missing_left in [false, true] {
            let (mut left, mut right) = ([0.0; 4], [0.0; 4]);
            for (&bin, sums) in bins.iter().zip(sums) {
                let goes_left = if bin == 0 { missing_left } else { bin <= cut };
                add(if goes_left { &mut left } else { &mut right }, sums);
            }
            let enough = left[ROWS] >= min_rows && right[ROWS] >= min_rows && left[ROWS] > 0.0 && right[ROWS] > 0.0;
            if enough && (has_missing || !missing_left) {
                let score = left[LABEL] * left[LABEL] / left[WEIGHT] + right[LABEL] * right[LABEL] / right[WEIGHT];
                found.push((score, cut, missing_left));
            }
        }
    }
    found
}

/// Whole numbers, so that sums are exact in any order.
fn column(rng: &mut Rng, count: usize, last_bin: u8, missing: f64) -> (Vec<u8>, Vec<Sums>) {
    (0..count)
        .map(|_| {
            let bin = if rng.bernoulli(missing) { 0 } else { 1 + rng.below(u64::from(last_bin)) as u8 };
            let (weight, label) = (1.0 + rng.below(4) as f64, rng.below(9) as f64 - 4.0);
            (bin, [weight, weight * label, 1.0 + rng.below(2) as f64, weight * label * label])
        })
        .unzip()
}

#[test]
fn the_best_cut_is_the_best_of_all_tried_one_by_one() {
    let mut rng = Rng::seeded(1);
    let mut scan = Scan::new();
    let mut splits = 0;
    for turn in 0..600 {
        let last_bin = [3, 40, 255][turn % 3];
        let (bins, sums) = column(&mut rng, [5, 60, 400][turn / 3 % 3], last_bin, [0.0, 0.2][turn % 2]);
        let rows: Vec<u32> = (0..bins.len() as u32).collect();
        let mut total = [0.0; 4];
        sums.iter().for_each(|sums| add(&mut total, sums));
        let min_rows = 1.0 + rng.below(6) as f64;
        scan.add_up(&bins, &rows, &sums);
        let Look { cut: found, varies } = scan.best(&total, min_rows, last_bin);
        assert_eq!(varies, bins.iter().any(|bin| *bin != bins[0]));
        let all = naive(&bins, &sums, min_rows, last_bin);
        let best = all.iter().map(|cut| cut.0).fold(f64::NEG_INFINITY, f64::max);
        match found {
            None => assert!(all.is_empty(), "turn {turn}: {all:?}"),
            Some(Cut { score, bin, missing_left }) => {
                splits += 1;
                assert!((score - best).abs() <= 1e-9 * best.abs().max(1.0), "turn {turn}: {score} {best}");
                let has_missing = bins.contains(&0);
                let own = all.iter().find(|(_, cut, left)| *cut == bin && (*left == missing_left || !has_missing)).unwrap();
                assert!((own.0 - score).abs() <= 1e-9 * score.abs().max(1.0), "turn {turn}");
            }
        }
    }
    assert!(splits > 400, "{splits}");
}

#[test]
fn a_random_cut_lies_between_the_values_of_the_node_and_is_any_of_them() {
    let mut rng = Rng::seeded(2);
    // Bins of the values 0, 1, 3 and 100, of which the node has not the last.
    let least = [f64::INFINITY, 0.0, 1.0, 3.0, 100.0];
    let sums: Vec<Sums> = [0.0, 1.0, 0.0, 1.0, 1.0].iter().map(|&y| [1.0, y, 1.0, y]).collect();
    let mut total = [0.0; 4];
    sums.iter().for_each(|sums| add(&mut total, sums));
    let mut look = |bins: &[u8; 5], least: &[f64]| scan::random(bins, &sums, &total, 1.0, least, &mut rng);
    let mut times = [0; 5];
    for _ in 0..30_000 {
        let bins = [1, 2, 3, 3, 0];
        let found = look(&bins, &least).cut.unwrap();
        times[usize::from(found.bin)] += 1;
        let all = naive(&bins, &sums, 1.0, 4);
        let own = |left: bool| all.iter().find(|(_, bin, missing_left)| *bin == found.bin && *missing_left == left).unwrap().0;
        assert!((found.score - own(found.missing_left)).abs() < 1e-12 && found.score >= own(!found.missing_left));
    }
    // A threshold below 1 comes a third of the time.
    assert_eq!([times[0], times[3], times[4]], [0, 0, 0]);
    assert!((f64::from(times[1]) / 30_000.0 - 1.0 / 3.0).abs() < 0.015, "{times:?}");
    // With one value and missing ones, these are parted from each other.
    assert_eq!(look(&[2, 2, 0, 2, 0], &least).cut.map(|cut| (cut.bin, cut.missing_left)), Some((4, false)));
    assert_eq!((look(&[2; 5], &least), look(&[0; 5], &least)), (Look::default(), Look::default()));
    // Between infinities there is no middle to draw: any bound will do.
    let endless = [f64::INFINITY, f64::NEG_INFINITY, 1.0, 3.0, f64::INFINITY];
    for _ in 0..100 {
        assert!((1..4).contains(&look(&[1, 2, 3, 4, 4], &endless).cut.unwrap().bin));
    }
}

#[test]
fn one_tree_without_chance_is_the_tree_one_would_draw() {
    let set = training_set(&[vec![1.0, 0.0], vec![2.0, 0.0], vec![3.0, 1.0], vec![f64::NAN, 1.0], vec![4.0, 0.0], vec![f64::NAN, 1.0]]);
    let plain = Forest { trees: 1, bootstrap: false, min_leaf_rows: 1, ..Forest::default() };
    let model = fit(&set, &plain).unwrap();
    let probability = |x: f64| model.probability(&[x]);
    assert_eq!([1.0, 2.4, 2.6, 3.4, 3.6, f64::NAN].map(probability), [0.0, 0.0, 1.0, 1.0, 0.0, 1.0]);
    assert_eq!((model.link(), model.report().out_of_bag.is_none()), (Link::Probability, true));
    // At least two rows to a leaf: missing values apart, then the values as best they can be.
    let model = fit(&set, &Forest { min_leaf_rows: 2, ..plain.clone() }).unwrap();
    assert_eq!([1.5, 3.5, f64::NAN].map(|x| model.probability(&[x])), [0.0, 0.5, 1.0]);
    let stump = fit(&set, &Forest { max_depth: Some(1), ..plain }).unwrap();
    assert_eq!([1.0, 4.0, f64::NAN].map(|x| stump.probability(&[x])), [0.0, 0.75, 0.75]);
}

#[test]
fn many_trees_know_more_than_one_and_their_own_rows_judge_them_fairly() {
    for (classes, target) in [(true, Target::Binary), (false, Target::Mean)] {
        let (set, unseen) = (rows(3_000, 3, classes), rows(3_000, 4, classes));
        let error = |model: &ForestModel| metrics::brier(&predictions(model, &unseen), &unseen.labels);
        for thresholds in [Thresholds::Best, Thresholds::Random] {
            let many = fit(&set, &Forest { target, thresholds, ..Forest::default() }).unwrap();
            let one = fit(&set, &Forest { target, thresholds, trees: 1, ..Forest::default() }).unwrap();
            assert!(error(&many) < 0.75 * error(&one), "{target:?} {thresholds:?}: {} {}", error(&many), error(&one));
            let judged = many.report().out_of_bag.clone().unwrap();
            assert_eq!(judged.rows, 3_000);
            assert!((judged.mean_squared_error / error(&many) - 1.0).abs() < 0.2, "{} {}", judged.mean_squared_error, error(&many));
            let auc = metrics::auc(&predictions(&many, &unseen), &unseen.labels);
            assert_eq!(judged.auc.is_some(), classes);
            assert!(judged.auc.is_none_or(|own| (own - auc).abs() < 0.02));
        }
    }
}

#[test]
fn what_a_row_is_judged_by_has_not_seen_it() {
    // Labels that only a tree which has seen the row can know.
    let mut rng = Rng::seeded(5);
    let set = training_set(
        &(0..2_000).map(|_| (0..9).map(|c| if c < 8 { rng.uniform() } else { rng.below(2) as f64 }).collect()).collect::<Vec<_>>(),
    );
    let model = fit(&set, &Forest { min_leaf_rows: 1, ..Forest::default() }).unwrap();
    assert!(metrics::auc(&predictions(&model, &set), &set.labels) > 0.99);
    let judged = model.report().out_of_bag.clone().unwrap();
    assert!((0.45..0.55).contains(&judged.auc.unwrap()) && judged.mean_squared_error > 0.24, "{judged:?}");
}

#[test]
fn large_forests_score_and_explain_the_same_one_by_one_and_in_blocks() {
    // Too many leaves for byte codes, too many splits to keep tables of.
    let mut set = rows(6_000, 6, true);
    let more: Vec<String> = (6..400).map(|c| format!("x{c}")).collect();
    let names = set.matrix.names().iter().cloned().chain(more).collect();
    let mut rng = Rng::seeded(7);
    let columns = (0..400).map(|c| if c < 6 { set.matrix.column(c).to_vec() } else { (0..6_000).map(|_| rng.normal()).collect() });
    set.matrix = Matrix::from_columns(names, columns.collect());
    let model = fit(&set, &Forest { trees: 20, min_leaf_rows: 1, ..Forest::default() }).unwrap();
    let some = set.matrix.slice(0..300);
    let margins = model.margins(&some);
    let explained = model.matrix_agrees(&some.slice(0..2));
    let mut row = Vec::new();
    for (r, margin) in margins.iter().enumerate() {
        some.row(r, &mut row);
        assert_eq!(margin.to_bits(), model.margin(&row).to_bits());
    }
    assert!(explained > 0);
}

impl ForestModel {
    /// That explanations of a matrix are those of its rows, to the bit, and add up; how many there are.
    fn matrix_agrees(&self, matrix: &Matrix) -> usize {
        assert!(self.trees.goes_the_long_way());
        let (mut row, mut contributions) = (Vec::new(), Vec::new());
        let all = self.explanations(matrix);
        for (r, explained) in all.chunks(matrix.columns() + 1).enumerate() {
            matrix.row(r, &mut row);
            let base = self.explain(&row, &mut contributions);
            contributions.push(base);
            assert!(contributions.iter().zip(explained).all(|(a, b)| a.to_bits() == b.to_bits()), "row {r}");
            assert!((contributions.iter().sum::<f64>() - self.margin(&row)).abs() < 1e-9);
        }
        all.len()
    }
}

#[test]
fn rows_of_no_weight_teach_nothing_and_large_weights_are_no_infinity() {
    let set = rows(500, 8, true);
    let weights: Vec<f64> = (0..500).map(|row| if row % 50 == 0 { 1e308 } else { 0.0 }).collect();
    let few: Vec<usize> = (0..500).step_by(50).collect();
    let small = TrainingSet::new(set.matrix.select(&few), few.iter().map(|&row| set.labels[row]).collect());
    let weighted = TrainingSet { weights: Some(weights), ..set };
    let parameters = Forest { min_leaf_rows: 1, trees: 50, ..Forest::default() };
    let model = fit(&weighted, &parameters).unwrap();
    let classes = (0.0, 1.0);
    assert!(model.margins(&small.matrix).iter().all(|p| (classes.0..=classes.1).contains(p)));
    assert!(metrics::auc(&model.margins(&small.matrix), &small.labels) > 0.9);
    assert!(load(&model.to_bytes()).is_ok());
}

#[test]
fn damage_is_noticed() {
    let set = rows(60, 9, true);
    check_damage_is_noticed(&fit(&set, &Forest { trees: 2, ..Forest::default() }).unwrap());
}

#[test]
fn nonsense_is_refused() {
    let set = rows(50, 10, true);
    for (parameters, expected) in [
        (Forest { trees: 0, ..Forest::default() }, "trees"),
        (Forest { columns_per_split: Some(0), ..Forest::default() }, "columns_per_split"),
        (Forest { max_depth: Some(0), ..Forest::default() }, "max_depth"),
        (Forest { min_leaf_rows: 0, ..Forest::default() }, "min_leaf_rows"),
        (Forest { draw_fraction: f64::NAN, ..Forest::default() }, "draw_fraction"),
        (Forest { bins: 256, ..Forest::default() }, "bins"),
    ] {
        assert!(matches!(fit(&set, &parameters), Err(LearnError::BadParameter { name, .. }) if name == expected), "{expected}");
    }
}
