use super::*;
use crate::format::tests::check_damage_is_noticed;
use crate::{load, metrics};

/// A cloud with some rows far off, which come last.
fn cloud(rows: usize, far: usize, columns: usize, seed: u64) -> Matrix {
    let mut rng = Rng::seeded(seed);
    let mut matrix = Matrix::with_columns((0..columns).map(|c| format!("x{c}")).collect());
    for row in 0..rows {
        let off = if row >= rows - far { 6.0 } else { 0.0 };
        let values: Vec<f64> = (0..columns).map(|c| rng.normal() + if c == 0 { off } else { 0.0 }).collect();
        matrix.push_row(&values);
    }
    matrix
}

#[test]
fn rows_far_off_score_higher_and_reasons_name_the_column() {
    let matrix = cloud(2_000, 20, 4, 1);
    let model = fit(&matrix, &Isolation::default()).unwrap();
    let labels: Vec<f64> = (0..2_000).map(|row| f64::from(u8::from(row >= 1_980))).collect();
    let scores: Vec<f64> = model.margins(&matrix).into_iter().map(|margin| model.link().inverse(margin)).collect();
    assert!(scores.iter().all(|score| (0.0..1.0).contains(score)));
    assert!(metrics::auc(&scores, &labels) > 0.98, "{}", metrics::auc(&scores, &labels));
    let mut contributions = Vec::new();
    let base = model.explain(&[8.0, 0.0, 0.0, 0.0], &mut contributions);
    assert!(contributions[1..].iter().all(|other| contributions[0] > 3.0 * other.abs()), "{contributions:?}");
    // Base and contributions are logarithms of the score.
    let score = model.predict(&[8.0, 0.0, 0.0, 0.0]);
    assert!((libm::exp(base + contributions.iter().sum::<f64>()) - score).abs() < 1e-9 && score > 0.6, "{score}");
}

/// The formula, on the tree as it stands.
#[test]
fn the_score_is_two_to_the_power_of_the_mean_depth() {
    let matrix = cloud(300, 3, 2, 2);
    let model = fit(&matrix, &Isolation { trees: 7, sample: 64, seed: 3 }).unwrap();
    let depth = |tree: &Tree, row: &[f64]| {
        let (mut at, mut depth) = (tree.root(), 0.0);
        loop {
            match at {
                Child::Leaf(leaf) => return depth + usual_depth(tree.leaf_rows[leaf] as usize),
                Child::Node(node) => {
                    let node = &tree.nodes[node];
                    at = if node.goes_left(row[node.column as usize]) { node.left() } else { node.right() };
                    depth += 1.0;
                }
            }
        }
    };
    for row in [[0.0, 0.0], [6.0, -1.0], [f64::NAN, 2.0], [f64::INFINITY, f64::NEG_INFINITY]] {
        let mean = model.trees.trees.iter().map(|tree| depth(tree, &row)).sum::<f64>() / 7.0;
        let expected = libm::exp2(-mean / usual_depth(64));
        assert!((model.predict(&row) - expected).abs() < 1e-12, "{row:?}");
    }
    assert!(model.trees.trees.iter().all(|tree| tree.depth() <= 6 && tree.leaf_rows.iter().sum::<u32>() == 64));
    assert!((usual_depth(256) - 10.244_770).abs() < 1e-5);
}

#[test]
fn samples_are_of_different_rows_and_any_row_is_as_likely() {
    let mut rng = Rng::seeded(4);
    let mut times = [0u32; 10];
    for _ in 0..20_000 {
        let chosen = choose(10, 3, &mut rng);
        assert!(chosen.windows(2).all(|pair| pair[0] < pair[1]) && chosen.len() == 3);
        chosen.iter().for_each(|&row| times[row] += 1);
    }
    assert!(times.iter().all(|&times| (f64::from(times) / 6_000.0 - 1.0).abs() < 0.05), "{times:?}");
    assert_eq!(choose(4, 4, &mut rng), [0, 1, 2, 3]);
}

#[test]
fn constants_holes_and_infinities_are_harmless() {
    let mut rng = Rng::seeded(5);
    let mut matrix = Matrix::with_columns(["constant", "missing", "endless", "holes"].map(String::from).to_vec());
    for row in 0..500 {
        let endless = [f64::NEG_INFINITY, f64::INFINITY, f64::MAX, -f64::MAX][row % 4];
        matrix.push_row(&[5.0, f64::NAN, endless, if rng.bernoulli(0.5) { f64::NAN } else { rng.normal() }]);
    }
    let model = fit(&matrix, &Isolation::default()).unwrap();
    let importance = model.importance();
    assert!(importance[..2] == [0.0, 0.0] && importance[2] > 0.0 && importance[3] > 0.0, "{importance:?}");
    for odd in [0.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        assert!((0.0..=1.0).contains(&model.predict(&[odd; 4])));
    }
    // Rows that nothing parts are as usual as can be.
    let same = Matrix::from_columns(vec!["x".into()], vec![vec![3.0; 50]]);
    assert!((fit(&same, &Isolation::default()).unwrap().predict(&[3.0]) - 0.5).abs() < 1e-12);
}

#[test]
fn same_bytes_on_any_number_of_threads_and_after_loading() {
    let matrix = cloud(3_000, 10, 5, 6);
    let bytes = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| fit(&matrix, &Isolation::default()).unwrap().to_bytes())
    };
    assert!(bytes(1) == bytes(2) && bytes(1) == bytes(8));
    let back = load(&bytes(1)).unwrap();
    let model = fit(&matrix, &Isolation::default()).unwrap();
    assert_eq!((back.to_bytes(), back.describe(), back.kind()), (model.to_bytes(), model.describe(), KIND));
    assert!(back.margins(&matrix).iter().zip(model.margins(&matrix)).all(|(a, b)| a.to_bits() == b.to_bits()));
    let mut row = Vec::new();
    for (r, margin) in model.margins(&matrix).into_iter().enumerate() {
        matrix.row(r, &mut row);
        assert_eq!(model.margin(&row).to_bits(), margin.to_bits());
    }
    check_damage_is_noticed(&fit(&cloud(20, 1, 2, 7), &Isolation { trees: 2, sample: 8, seed: 1 }).unwrap());
}

#[test]
fn nonsense_is_refused() {
    let matrix = cloud(10, 1, 2, 8);
    for (parameters, expected) in
        [(Isolation { trees: 0, ..Isolation::default() }, "trees"), (Isolation { sample: 1, ..Isolation::default() }, "sample")]
    {
        assert!(matches!(fit(&matrix, &parameters), Err(LearnError::BadParameter { name, .. }) if name == expected));
    }
    let refused = |matrix: &Matrix| fit(matrix, &Isolation::default()).err();
    assert_eq!(refused(&matrix.slice(0..0)), Some(LearnError::NoRows));
    assert_eq!(refused(&matrix.slice(0..1)), Some(LearnError::TooFewRows { rows: 1, needed: 2 }));
    assert_eq!(refused(&Matrix::with_columns(Vec::new())), Some(LearnError::NoColumns));
}
