use super::*;
use crate::learners::pipeline::{Step, fit};
use crate::logistic::{self, Logistic};
use crate::matrix::tests::training_set;
use crate::{LearnError, Linear, Model, linear, load};
use kilter_stats::Rng;

/// Three columns that hang together, and a label of either sign.
fn rows() -> TrainingSet {
    let rows = [[1.0, 2.0, 0.5], [2.0, 1.5, -1.0], [3.0, 5.0, 0.0], [4.0, 4.5, 2.0], [5.0, 9.0, 1.0], [7.0, 8.0, -0.5]];
    training_set(&rows.iter().enumerate().map(|(r, row)| [&row[..], &[(r % 2) as f64]].concat()).collect::<Vec<_>>())
}

fn pca(components: usize, standardise: bool) -> Step {
    Step::Pca { columns: Vec::new(), components, standardise }
}

#[test]
fn components_are_those_that_scikit_learn_finds() {
    // PCA(2) of scikit-learn 1.9.1, with and without StandardScaler before it.
    let plain = [
        [-3.96387962, 0.58333319],
        [-3.89962859, -1.26427971],
        [-0.39068306, -0.02182025],
        [-0.13730396, 1.22940821],
        [4.09096915, 0.92025475],
        [4.30052608, -1.44689618],
    ];
    let standardised = [
        [-1.6448491, 0.53929832],
        [-1.73504857, -1.04566643],
        [-0.30007382, -0.24956436],
        [0.33495453, 1.61191402],
        [1.60730198, 0.41845045],
        [1.73771497, -1.27443199],
    ];
    for (standardise, expected) in [(false, plain), (true, standardised)] {
        let model = fit(&rows(), &[pca(2, standardise)], |set| Ok(Box::new(logistic::fit(set, &Logistic::default())?))).unwrap();
        let made = model.prepare(&rows().matrix);
        assert_eq!(made.names(), ["x0:pca1", "x0:pca2"]);
        for (r, row) in expected.iter().enumerate() {
            assert!((made.value(r, 0) - row[0]).abs() < 1e-7 && (made.value(r, 1) - row[1]).abs() < 1e-7, "row {r}");
        }
    }
}

#[test]
fn directions_are_the_eigenvectors() {
    let mut rng = Rng::seeded(1);
    for width in [1, 2, 5, 30] {
        // Of a product with its own transpose, two of whose columns are one: an eigenvalue is 0.
        let b: Vec<f64> = (0..width * width).map(|i| if i % width == 1 { 0.5 } else { rng.normal() }).collect();
        let entry = |i: usize, j: usize| (0..width).map(|k| b[k * width + i] * b[k * width + j]).sum::<f64>();
        let a: Vec<f64> = (0..width * width).map(|at| entry(at / width, at % width)).collect();
        let found = eigenvectors(a.clone(), width);
        let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
        let mut last = f64::INFINITY;
        for (i, v) in found.iter().enumerate() {
            found.iter().enumerate().for_each(|(j, w)| assert!((dot(v, w) - f64::from(u8::from(i == j))).abs() < 1e-10));
            let av: Vec<f64> = (0..width).map(|row| dot(&a[row * width..][..width], v)).collect();
            let value = dot(&av, v);
            assert!(av.iter().zip(v).all(|(av, v)| (av - value * v).abs() < 1e-9 * (1.0 + value.abs())), "width {width}");
            assert!(value <= last + 1e-9);
            last = value;
        }
    }
}

/// Wide rows with holes, whose label is a line.
fn wide(count: usize, seed: u64) -> TrainingSet {
    let mut rng = Rng::seeded(seed);
    let rows: Vec<Vec<f64>> = (0..count)
        .map(|_| {
            let (a, b) = (rng.normal(), rng.normal());
            let hole = if rng.bernoulli(0.1) { f64::NAN } else { 1e3 * (a - b) + 50.0 * rng.normal() };
            vec![a + 0.1 * rng.normal(), 100.0 * b, hole, 7.0, rng.normal(), 3.0 * a - b + 0.1 * rng.normal()]
        })
        .collect();
    training_set(&rows)
}

#[test]
fn a_model_of_components_explains_its_inputs_to_the_last_bit_of_the_sum() {
    let (set, unseen) = (wide(2_000, 2), wide(300, 3));
    let first = Step::Pca { columns: vec!["x0".into(), "x1".into(), "x2".into(), "x3".into()], components: 3, standardise: true };
    // Components of components.
    let steps = [first, Step::Pca { columns: Vec::new(), components: 3, standardise: false }];
    let bytes = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| fit(&set, &steps, |set| Ok(Box::new(linear::fit(set, &Linear::default())?))).unwrap().to_bytes())
    };
    assert!(bytes(1) == bytes(2) && bytes(1) == bytes(8));
    let model = load(&bytes(1)).unwrap();
    let (mut row, mut contributions) = (Vec::new(), Vec::new());
    let all = model.explanations(&unseen.matrix);
    for r in 0..300 {
        unseen.matrix.row(r, &mut row);
        let base = model.explain(&row, &mut contributions);
        let margin = model.margin(&row);
        assert!((base + contributions.iter().sum::<f64>() - margin).abs() < 1e-9 && contributions.len() == 5);
        // What does not move adds nothing.
        assert!(contributions[3].abs() < 1e-12 && (row[2].is_finite() || contributions[2] == 0.0));
        contributions.push(base);
        assert!(contributions.iter().zip(&all[6 * r..]).all(|(a, b)| a.to_bits() == b.to_bits()));
    }
    let importance = model.importance();
    assert!(importance.len() == 5 && importance[3] == 0.0 && importance[0] > 0.0, "{importance:?}");
    let error = |r: usize| {
        unseen.matrix.row(r, &mut Vec::new());
        model.margins(&unseen.matrix)[r] - unseen.labels[r]
    };
    assert!((0..20).map(|r| error(r) * error(r)).sum::<f64>() / 20.0 < 2.0);
}

#[test]
fn weights_are_rows_and_too_many_components_are_refused() {
    let set = wide(200, 4);
    let twice: Vec<usize> = (0..200).flat_map(|r| std::iter::repeat_n(r, if r % 3 == 0 { 2 } else { 1 })).collect();
    let repeated = TrainingSet::new(set.matrix.select(&twice), twice.iter().map(|&r| set.labels[r]).collect());
    let weights = Some((0..200).map(|r| if r % 3 == 0 { 2.0 } else { 1.0 }).collect());
    let weighted = TrainingSet { weights, ..set.clone() };
    for (a, b) in principal(&repeated, &[0, 1, 2], 2, true).iter().zip(principal(&weighted, &[0, 1, 2], 2, true)) {
        assert!(a.terms.iter().zip(&b.terms).all(|(a, b)| (a.weight / b.weight - 1.0).abs() < 1e-9 && (a.mean - b.mean).abs() < 1e-9));
    }
    let learn = |set: &TrainingSet| -> Result<Box<dyn Model>, LearnError> { Ok(Box::new(linear::fit(set, &Linear::default())?)) };
    for components in [0, 6, 501] {
        let refused = fit(&set, &[pca(components, true)], learn).err();
        assert!(matches!(refused, Some(LearnError::BadParameter { name: "pca.components", .. })), "{components}");
    }
}
