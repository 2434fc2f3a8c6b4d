//! Samples against what they promise: how many rows, what they count, and what trees make of them.

use kilter_stats::Rng;

use super::super::histogram::Fields;
use super::super::{Gbdt, Objective, fit, fit_classes};
use super::*;
use crate::math::sigmoid;
use crate::matrix::tests::training_set;
use crate::{ClassLink, LearnError, Model, TrainingSet, metrics};

const KINDS: [Sampling; 3] = [Sampling::Uniform, Sampling::Mvs, Sampling::Goss];

fn sampler(sampling: Sampling, fraction: f64, rows: usize) -> Sampler {
    Sampler::new(&Gbdt { sampling, bagging_fraction: fraction, ..Gbdt::default() }, rows).unwrap().unwrap()
}

/// Gradients of very different sizes.
fn floats(rows: usize, seed: u64) -> Vec<[f32; 2]> {
    let mut rng = Rng::seeded(seed);
    let one = |_| {
        let p = sigmoid(3.0 * rng.normal() - 2.0);
        let label = f64::from(u8::from(rng.bernoulli(p)));
        [(p - label) as f32, (p * (1.0 - p)) as f32]
    };
    (0..rows).map(one).collect()
}

fn drawn(sampler: &mut Sampler, seed: u32, floats: &[[f32; 2]]) -> (Vec<Entry>, Vec<[f32; 2]>, Scale) {
    let mut entries: Vec<Entry> = (0..floats.len()).map(|row| Entry::new(row as u32, 0, 0)).collect();
    let mut floats = floats.to_vec();
    let scale = sampler.draw(seed, &mut entries, &mut floats, Scale::fitting(Fields::FINE, 1.0, 0.25));
    (entries, floats, scale)
}

#[test]
fn samples_have_the_wanted_size_and_sums_are_right_on_average() {
    let rows = 50_000;
    let floats = floats(rows, 1);
    // A part of the rows, as a bin of a histogram has.
    let part = |row: usize| row % 7 == 3;
    let sums = |floats: &[[f32; 2]], rows: &mut dyn Iterator<Item = usize>| {
        rows.filter(|&row| part(row)).fold([0.0; 2], |[g, h], row| [g + f64::from(floats[row][0]), h + f64::from(floats[row][1])])
    };
    let [all_g, all_h] = sums(&floats, &mut (0..rows));
    for (sampling, fraction) in
        [(Sampling::Mvs, 0.1), (Sampling::Mvs, 0.5), (Sampling::Mvs, 0.95), (Sampling::Goss, 0.3), (Sampling::Goss, 0.9)]
    {
        let mut sampler = sampler(sampling, fraction, rows);
        let (mut g_error, mut h_error) = (0.0, 0.0);
        for seed in 0..40 {
            let (entries, weighted, scale) = drawn(&mut sampler, 77 * seed, &floats);
            let share = entries.len() as f64 / rows as f64;
            assert!((share / fraction - 1.0).abs() < 0.03, "{sampling:?}: {share} instead of {fraction}");
            assert!(entries.windows(2).all(|pair| pair[0].row() < pair[1].row()));
            assert!((0..rows).filter(|&row| sampler.has(row)).eq(entries.iter().map(|entry| entry.row())));
            let [g, h] = sums(&weighted, &mut entries.iter().map(|entry| entry.row()));
            (g_error, h_error) = (g_error + (g - all_g) / 40.0, h_error + (h / all_h - 1.0) / 40.0);
            // Words say what floats say.
            let own = entries.iter().filter(|entry| part(entry.row()));
            let words = own
                .fold(super::super::histogram::Sums::default(), |sums, entry| sums.with(&scale.fields.unpack(scale.fields.word(*entry))));
            assert!((scale.gradient(&words) - g).abs() < 1.0 && (scale.hessian(&words) / h - 1.0).abs() < 0.01);
        }
        assert!(g_error.abs() < 12.0 && h_error.abs() < 0.02, "{sampling:?} {fraction}: {g_error} of {all_g}, {h_error}");
    }
}

/// What it is for: the sums of a part of the rows scatter less than those of as many rows taken alike.
#[test]
fn minimal_variance_is_less_variance() {
    let rows = 20_000;
    let floats = floats(rows, 2);
    let scatter = |sampling: Sampling| {
        let mut sampler = sampler(sampling, 0.2, rows);
        let of_seed = |seed: u32| {
            let (entries, weighted, _) = drawn(&mut sampler, 1_000 + 13 * seed, &floats);
            let factor = if sampling == Sampling::Uniform { 5.0 } else { 1.0 };
            entries.iter().filter(|entry| entry.row() % 5 == 0).map(|entry| factor * f64::from(weighted[entry.row()][0])).sum::<f64>()
        };
        let sums: Vec<f64> = (0..200).map(of_seed).collect();
        let mean = sums.iter().sum::<f64>() / 200.0;
        sums.iter().map(|sum| (sum - mean).powi(2)).sum::<f64>() / 200.0
    };
    let [uniform, mvs, goss] = KINDS.map(scatter);
    assert!(mvs < 0.5 * uniform && mvs < goss, "{uniform} {mvs} {goss}");
}

#[test]
fn odd_sizes_have_chances_too() {
    for sampling in [Sampling::Mvs, Sampling::Goss] {
        let mut sampler = sampler(sampling, 0.25, 4_000);
        // All alike: a uniform sample.
        let (entries, _, _) = drawn(&mut sampler, 5, &[[0.5, 0.25]; 4_000]);
        assert!(sampling == Sampling::Goss || (800..1_200).contains(&entries.len()), "{sampling:?}: {}", entries.len());
        // Rows without weight are never taken to count for others.
        let mut some = vec![[0.0, 0.0]; 4_000];
        (0..100).for_each(|row| some[40 * row] = [1.0, 0.1]);
        let (entries, weighted, _) = drawn(&mut sampler, 6, &some);
        assert_eq!(entries.iter().filter(|entry| entry.row() % 40 == 0).count(), 100);
        assert!((0..100).all(|row| weighted[40 * row] == [1.0, 0.1]));
        let (entries, _, _) = drawn(&mut sampler, 7, &[[0.0, 0.0]; 4_000]);
        assert!(entries.len() <= 4_000);
    }
}

fn rows(count: usize, seed: u64) -> TrainingSet {
    let mut rng = Rng::seeded(seed);
    let row = |_| {
        let x: Vec<f64> = (0..6).map(|_| rng.normal()).collect();
        let margin = 2.0 * x[0] * x[1] + x[2] - 0.5 * x[3] + if x[4] > 1.0 { 2.0 } else { -1.0 };
        let label = f64::from(u8::from(rng.bernoulli(sigmoid(margin))));
        x.into_iter().chain([label]).collect()
    };
    training_set(&(0..count).map(row).collect::<Vec<_>>())
}

fn parameters(sampling: Sampling) -> Gbdt {
    Gbdt { trees: 60, learning_rate: 0.1, early_stopping: None, bagging_fraction: 0.3, sampling, ..Gbdt::default() }
}

#[test]
fn models_of_samples_come_near_those_of_all_rows() {
    let (train, test) = (rows(12_000, 3), rows(6_000, 4));
    let loss = |parameters: &Gbdt| {
        let model = fit(&train, parameters).unwrap();
        metrics::log_loss(&model.probabilities(&test.matrix), &test.labels)
    };
    let all = loss(&Gbdt { bagging_fraction: 1.0, ..parameters(Sampling::Uniform) });
    for sampling in KINDS {
        let sampled = loss(&parameters(sampling));
        assert!(sampled < 1.03 * all, "{sampling:?}: {sampled}, of all rows {all}");
    }
}

#[test]
fn rows_of_leaves_are_those_of_all_training_rows() {
    let set = rows(5_000, 5);
    for sampling in [Sampling::Mvs, Sampling::Goss] {
        let model = fit(&set, &parameters(sampling)).unwrap();
        let margins = model.margins(&set.matrix);
        let base = model.explain(&[0.0; 6], &mut Vec::new());
        assert!((base - margins.iter().sum::<f64>() / 5_000.0).abs() < 1e-9, "{sampling:?}");
        let bytes = model.to_bytes();
        assert_eq!(super::super::open(&bytes).unwrap().to_bytes(), bytes);
    }
}

#[test]
fn every_objective_and_several_classes_may_be_sampled() {
    let mut set = rows(4_000, 6);
    let classes: Vec<String> = ["a", "b", "c"].map(String::from).to_vec();
    for sampling in [Sampling::Mvs, Sampling::Goss] {
        set.labels =
            (0..4_000).map(|row| f64::from(u8::from(set.matrix.value(row, 0) > 0.5) + u8::from(set.matrix.value(row, 2) > 0.0))).collect();
        let model = fit_classes(&set, &classes, ClassLink::Softmax, &parameters(sampling)).unwrap();
        let mut row = Vec::new();
        let right = (0..4_000).filter(|&r| {
            set.matrix.row(r, &mut row);
            model.predict(&row) as f64 == set.labels[r]
        });
        assert!(right.count() > 3_900, "{sampling:?}");
        // A quantile of what counts unequally is still the quantile.
        set.labels = (0..4_000).map(|row| set.matrix.value(row, 0) + 3.0 * set.matrix.value(row, 5).abs()).collect();
        for level in [0.1, 0.9] {
            let model = fit(&set, &Gbdt { objective: Objective::Quantile { level }, ..parameters(sampling) }).unwrap();
            let below = (0..4_000).zip(model.margins(&set.matrix)).filter(|&(row, margin)| set.labels[row] <= margin).count();
            assert!((below as f64 / 4_000.0 - level).abs() < 0.05, "{sampling:?}, {level}: {below}");
        }
    }
}

#[test]
fn the_number_of_threads_changes_no_byte() {
    let set = rows(60_000, 7);
    for sampling in [Sampling::Mvs, Sampling::Goss] {
        let bytes = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| fit(&set, &Gbdt { trees: 6, ..parameters(sampling) }).unwrap().to_bytes())
        };
        let one = bytes(1);
        assert!(one == bytes(2) && one == bytes(8), "{sampling:?}");
    }
}

#[test]
fn a_sample_of_all_rows_is_a_contradiction() {
    let refused = fit(&rows(300, 8), &Gbdt { bagging_fraction: 1.0, ..parameters(Sampling::Mvs) }).unwrap_err();
    assert!(matches!(&refused, LearnError::BadParameter { name: "sampling", found, .. } if found == "mvs"), "{refused}");
}
