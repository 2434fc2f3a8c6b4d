//! One call gives what the single ones give, and allocates nothing.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

use kilter_learn::{
    Explainable, Forest, Gbdt, Logistic, Matrix, Model, Reasons, Scorecard, TrainingSet, calibrate,
    calibration::{Calibration, Method},
    explainable, forest, gbdt, logistic, online,
    online::{logistic::OnlineLogistic, tree::HoeffdingTree},
    pipeline,
    pipeline::{Fill, Scaling, Step},
    scorecard,
};
use kilter_stats::Rng;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: the system's allocator does it all.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const COLUMNS: usize = 9;

fn training_set(rows: usize) -> TrainingSet {
    let mut rng = Rng::seeded(5);
    let mut matrix = Matrix::with_columns((0..COLUMNS).map(|i| format!("x{i}")).collect());
    let mut labels = Vec::new();
    for _ in 0..rows {
        let mut row: Vec<f64> = (0..COLUMNS).map(|_| rng.normal()).collect();
        let p = 1.0 / (1.0 + (row[0] * row[1] - row[2] + 0.5 * row[3]).exp());
        labels.push(f64::from(u8::from(rng.bernoulli(p))));
        if rng.bernoulli(0.2) {
            row[4] = f64::NAN;
        }
        matrix.push_row(&row);
    }
    TrainingSet::new(matrix, labels)
}

fn models() -> (Vec<Box<dyn Model>>, Matrix) {
    let set = training_set(3000);
    let trees = || gbdt::fit(&set, &Gbdt { trees: 30, early_stopping: None, ..Gbdt::default() }).unwrap();
    let fill = Step::Impute { columns: Vec::new(), fill: Fill::Median, indicator: true };
    let scale = Step::Scale { columns: Vec::new(), by: Scaling::Standard };
    let component = |components| Step::Pca { columns: Vec::new(), components, standardise: true };
    let components = [Step::Power { columns: Vec::new() }, component(7), component(5)];
    let models: Vec<Box<dyn Model>> = vec![
        Box::new(trees()),
        Box::new(calibrate(Box::new(trees()), &set, &Calibration { method: Method::Platt, target_rate: None }).unwrap()),
        Box::new(logistic::fit(&set, &Logistic::default()).unwrap()),
        Box::new(forest::fit(&set, &Forest { trees: 20, min_leaf_rows: 50, ..Forest::default() }).unwrap()),
        Box::new(explainable::fit(&set, &Explainable { bags: 2, rounds: 50, ..Explainable::default() }).unwrap()),
        Box::new(pipeline::fit(&set, &[fill, scale], |set| Ok(Box::new(logistic::fit(set, &Logistic::default())?))).unwrap()),
        Box::new(scorecard::fit(&set, &Scorecard::default()).unwrap()),
        Box::new(pipeline::fit(&set, &components, |set| Ok(Box::new(logistic::fit(set, &Logistic::default())?))).unwrap()),
        Box::new(online::logistic::fit(&set, &OnlineLogistic::default()).unwrap()),
        Box::new(online::tree::fit(&set, &HoeffdingTree { tau: 0.5, ..HoeffdingTree::default() }).unwrap()),
    ];
    (models, set.matrix.slice(0..200))
}

#[test]
fn one_call_gives_the_bits_of_the_single_ones() {
    let (models, matrix) = models();
    let (mut row, mut contributions, mut reasons) = (Vec::new(), Vec::new(), Reasons::default());
    for model in &models {
        let all = model.explanations(&matrix);
        for (r, most) in (0..matrix.rows()).zip([4, 0, 1, COLUMNS, 100].into_iter().cycle()) {
            matrix.row(r, &mut row);
            let score = model.score(&row, most, &mut reasons);
            assert_eq!(score.margin.to_bits(), model.margin(&row).to_bits());
            assert_eq!(score.prediction.to_bits(), model.probability(&row).to_bits());
            assert_eq!(score.prediction.to_bits(), model.predict(&row).to_bits());
            assert_eq!(score.points, model.points(&row));
            assert_eq!(score.points.is_some(), model.kind() == scorecard::KIND);
            let base = model.explain(&row, &mut contributions);
            let mut expected: Vec<(usize, f64)> = contributions.iter().copied().enumerate().filter(|(_, c)| *c > 0.0).collect();
            expected.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            expected.truncate(most);
            assert_eq!(reasons.iter().collect::<Vec<_>>(), expected, "{}, row {r}", model.kind());
            contributions.push(base);
            let told = &all[r * (COLUMNS + 1)..(r + 1) * (COLUMNS + 1)];
            assert!(told.iter().map(|x| x.to_bits()).eq(contributions.iter().map(|x| x.to_bits())), "{}, row {r}", model.kind());
        }
    }
}

/// Every group's sum, the strongest first; base and all sums are the margin, which single reasons add up to as well.
#[test]
fn a_reason_of_a_group_is_the_sum_of_its_inputs() {
    let (models, matrix) = models();
    let group_of: Arc<[usize]> = (0..COLUMNS).map(|column| if column == 1 { 0 } else { 1 + column % 2 }).collect();
    let (mut row, mut contributions) = (Vec::new(), Vec::new());
    let (mut grouped, mut single) = (Reasons::default(), Reasons::default());
    for model in &models {
        for r in 0..matrix.rows() {
            matrix.row(r, &mut row);
            grouped.of_groups(Some(&group_of));
            let score = model.score(&row, 2, &mut grouped);
            let base = model.explain(&row, &mut contributions);
            let mut sums = [0.0; 3];
            contributions.iter().zip(group_of.iter()).for_each(|(contribution, &group)| sums[group] += contribution);
            assert!((base + sums.iter().sum::<f64>() - score.margin).abs() < 1e-9);
            let mut expected: Vec<(usize, f64)> = sums.into_iter().enumerate().filter(|(_, sum)| *sum > 0.0).collect();
            expected.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            expected.truncate(2);
            assert_eq!(grouped.iter().collect::<Vec<_>>(), expected, "{}, row {r}", model.kind());
            // Without groups again, as if there never were any.
            grouped.of_groups(None);
            assert_eq!(model.score(&row, 4, &mut grouped), model.score(&row, 4, &mut single));
            assert!(grouped.iter().eq(single.iter()));
        }
    }
}

#[test]
fn scoring_allocates_nothing_after_the_first_row() {
    let (models, matrix) = models();
    let rows: Vec<Vec<f64>> = (0..matrix.rows())
        .map(|r| {
            let mut row = Vec::new();
            matrix.row(r, &mut row);
            row
        })
        .collect();
    for model in &models {
        let mut reasons = Reasons::default();
        let group_of: Arc<[usize]> = (0..COLUMNS).map(|column| column / 2).collect();
        reasons.of_groups(Some(&group_of));
        model.score(&rows[0], 4, &mut reasons);
        let before = ALLOCATIONS.get();
        let sum: f64 = rows.iter().map(|row| model.score(row, 4, &mut reasons).prediction).sum();
        assert_eq!(ALLOCATIONS.get() - before, 0, "{}", model.kind());
        assert!(sum > 0.0);
    }
}
