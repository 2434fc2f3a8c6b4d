//! Trees that ask for categories, as models: what they learn, score, explain, save and export.

use kilter_stats::Rng;

use super::*;
use crate::exchange::{Format, export, import};
use crate::format::tests::check_damage_is_noticed;
use crate::math::sigmoid;
use crate::matrix::tests::training_set;
use crate::metrics::auc;
use crate::{Model, load};

/// A column of `categories` names without order whose effects differ, one of few names, and a number; some names are missing or rare.
fn shops(rows: usize, categories: u64, seed: u64, missing: bool) -> TrainingSet {
    let mut rng = Rng::seeded(seed);
    let effect = |category: u64| 1.5 * Rng::seeded(1).fork(category).normal();
    let rows: Vec<Vec<f64>> = (0..rows)
        .map(|_| {
            // Products of two uniform numbers make low categories frequent.
            let shop = (rng.uniform() * rng.uniform() * categories as f64) as u64;
            let (kind, x) = (rng.below(3), rng.normal());
            let gone = missing && rng.bernoulli(0.05);
            let margin = if gone { 1.0 } else { effect(shop) } + [0.5, -0.5, 0.2][kind as usize] * x;
            let shop = if gone { f64::NAN } else { shop as f64 };
            vec![shop, kind as f64, x, f64::from(u8::from(rng.bernoulli(sigmoid(margin))))]
        })
        .collect();
    training_set(&rows)
}

fn quick() -> Gbdt {
    let categorical = vec!["x0".to_string(), "x1".to_string()];
    Gbdt { trees: 40, learning_rate: 0.1, early_stopping: None, categorical, ..Gbdt::default() }
}

/// What may come in a row, and the odd things beside it.
fn odd_rows(set: &TrainingSet) -> Vec<Vec<f64>> {
    let mut rows = Vec::new();
    let mut row = Vec::new();
    for at in 0..set.rows().min(700) {
        set.matrix.row(at, &mut row);
        if let Some(odd) = [f64::NAN, -1.0, 1e9, 2.5, f64::INFINITY, f64::NEG_INFINITY, -0.0, 255.0, 256.0].get(at % 30) {
            row[at % 2] = *odd;
        }
        rows.push(row.clone());
    }
    rows
}

#[test]
fn categories_tell_more_than_their_numbers() {
    for (categories, groups) in [(40, 254), (40, 0), (3_000, 254)] {
        let (train, test) = (shops(20_000, categories, 1, false), shops(8_000, categories, 2, false));
        // Few leaves: cuts of an order that means nothing are not enough to part the names.
        let parameters = Gbdt { max_cat_groups: groups, trees: 12, leaves: 6, ..quick() };
        let of = |parameters: &Gbdt| auc(&fit(&train, parameters).unwrap().margins(&test.matrix), &test.labels);
        let (named, counted) = (of(&parameters), of(&Gbdt { categorical: Vec::new(), ..parameters.clone() }));
        assert!(named > counted + 0.01 && named > 0.7, "{categories} categories, {groups} groups: {named} against {counted}");
    }
}

#[test]
fn one_row_many_rows_and_a_loaded_model_have_the_same_bits() {
    for (categories, groups, missing) in [(60, 254, true), (60, 254, false), (500, 254, true), (60, 10, false)] {
        let set = shops(9_000, categories, 3, missing);
        let model = fit(&set, &Gbdt { max_cat_groups: groups, bagging_fraction: 0.8, early_stopping: Some(5), ..quick() }).unwrap();
        let back = load(&model.to_bytes()).unwrap();
        assert_eq!((back.to_bytes(), back.describe(), back.importance()), (model.to_bytes(), model.describe(), model.importance()));
        let rows = odd_rows(&set);
        let mut matrix = crate::Matrix::with_columns(model.inputs().to_vec());
        rows.iter().for_each(|row| matrix.push_row(row));
        let (margins, explanations) = (model.margins(&matrix), model.explanations(&matrix));
        let mut contributions = Vec::new();
        for (at, row) in rows.iter().enumerate() {
            let margin = model.margin(row);
            assert_eq!([margin.to_bits(), back.margin(row).to_bits()], [margins[at].to_bits(); 2], "{row:?}");
            let base = model.explain(row, &mut contributions);
            assert!((base + contributions.iter().sum::<f64>() - margin).abs() < 1e-9, "{row:?}");
            contributions.push(base);
            assert_eq!(explanations[4 * at..][..4], contributions);
            // The trees walked one by one.
            let mut seen = row.clone();
            model.encoders().encode(&mut seen);
            let walked = (0..model.trees()).fold(model.parts().0, |sum, index| {
                let tree = model.tree(index);
                let mut at = tree.root();
                loop {
                    match at {
                        Child::Leaf(leaf) => return sum + tree.leaves[leaf],
                        Child::Node(node) => {
                            let node = &tree.nodes[node];
                            let value = seen[node.column as usize];
                            let left = match tree.set(node) {
                                Some(set) => set.has(if value.is_nan() { 0 } else { value as u8 }),
                                None => value <= node.threshold || value.is_nan() && node.missing_left,
                            };
                            at = if left { node.left() } else { node.right() };
                        }
                    }
                }
            });
            assert_eq!(walked.to_bits(), margin.to_bits());
        }
    }
}

#[test]
fn explanations_are_shapley_values() {
    let set = shops(4_000, 30, 4, true);
    let model = fit(&set, &Gbdt { trees: 10, leaves: 9, ..quick() }).unwrap();
    /// The tree's mean output when only the inputs of a coalition are known.
    fn worth(tree: &Tree, row: &[f64], known: u32, at: Child) -> f64 {
        match at {
            Child::Leaf(leaf) => tree.leaves[leaf],
            Child::Node(index) => {
                let node = &tree.nodes[index];
                let value = row[node.column as usize];
                let left = tree.set(node).map_or(value <= node.threshold || value.is_nan() && node.missing_left, |set| set.holds(value));
                let share = tree.rows(node.left()) / f64::from(node.rows);
                let share = if known >> node.column & 1 == 1 { f64::from(u8::from(left)) } else { share };
                share * worth(tree, row, known, node.left()) + (1.0 - share) * worth(tree, row, known, node.right())
            }
        }
    }
    let mut contributions = Vec::new();
    assert!((0..model.trees()).any(|tree| model.tree(tree).has_sets()));
    for row in odd_rows(&set).iter().take(60) {
        model.explain(row, &mut contributions);
        let mut seen = row.clone();
        model.encoders().encode(&mut seen);
        let worth = |known: u32| (0..model.trees()).map(|at| worth(model.tree(at), &seen, known, model.tree(at).root())).sum::<f64>();
        for (own, contribution) in contributions.iter().enumerate() {
            let others: Vec<u32> = (0..3).filter(|&other| other != own).map(|other| 1 << other).collect();
            let gain = |known: u32| worth(known | 1 << own) - worth(known);
            let expected = (gain(0) + gain(others[0] | others[1])) / 3.0 + (gain(others[0]) + gain(others[1])) / 6.0;
            assert!((contribution - expected).abs() < 1e-9, "{row:?}, {own}");
        }
    }
}

#[test]
fn same_bytes_on_any_number_of_threads() {
    let set = shops(70_000, 700, 5, true);
    for groups in [254, 0] {
        let bytes = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| fit(&set, &Gbdt { trees: 5, max_cat_groups: groups, ..quick() }).unwrap().to_bytes())
        };
        assert!(bytes(1) == bytes(2) && bytes(1) == bytes(5));
    }
}

#[test]
fn what_training_did_not_see_is_defined_and_counted() {
    let set = shops(5_000, 40, 6, true);
    let model = fit(&set, &quick()).unwrap();
    assert_eq!(model.categorical_inputs(), [0, 1]);
    let unseen = [77.0, -5.0, 0.5, f64::INFINITY];
    assert!(unseen.iter().all(|&value| model.margin(&[value, 1.0, 0.3]) == model.margin(&[77.0, 1.0, 0.3])));
    assert_eq!(unseen.map(|value| model.unseen_categories(&[value, 9.0, 0.0])), [2; 4]);
    assert_eq!([0.0, f64::NAN].map(|value| model.unseen_categories(&[value, 2.0, f64::NAN])), [0, 0]);
    // The second column had nothing rare and nothing missing: both are one to it.
    assert_eq!(model.margin(&[3.0, 8.0, 0.0]), model.margin(&[3.0, f64::NAN, 0.0]));
}

#[test]
fn constraints_on_numbers_hold_beside_categories() {
    let set = shops(6_000, 50, 7, true);
    let model = fit(&set, &Gbdt { monotone: vec![0, 0, 1], min_leaf_rows: 1, ..quick() }).unwrap();
    assert!((0..model.trees()).any(|tree| model.tree(tree).has_sets()));
    for row in odd_rows(&set) {
        let walk: Vec<f64> = (-40..40).map(|x| model.margin(&[row[0], row[1], f64::from(x) * 0.1])).collect();
        assert!(walk.windows(2).all(|pair| pair[0] <= pair[1] + 1e-12), "{row:?}");
    }
    let error = fit(&set, &Gbdt { monotone: vec![1, 0, 0], ..quick() }).unwrap_err().to_string();
    assert!(error.contains("monotone") && error.contains("x0") && error.contains("categories"), "{error}");
}

#[test]
fn exported_sets_score_to_the_bit_in_lightgbms_text() {
    for (categories, groups) in [(60, 254), (60, 5), (600, 254)] {
        let set = shops(9_000, categories, 8, false);
        let model = fit(&set, &Gbdt { max_cat_groups: groups, ..quick() }).unwrap();
        let again = import(&export(&model.to_bytes(), Format::LightGbm).unwrap()).unwrap();
        assert_eq!(again.categorical_inputs(), [0, 1]);
        for row in odd_rows(&set).iter().filter(|row| row.iter().all(|value| value.is_nan() || *value == value.trunc())) {
            // Kilter takes a fraction for no category, LightGBM cuts it to one.
            assert_eq!(again.margin(row).to_bits(), model.margin(row).to_bits(), "{row:?}");
        }
    }
    // Missing values and rare categories may part: LightGBM has no node for that.
    let set = shops(9_000, 600, 9, true);
    let model = fit(&set, &Gbdt { max_cat_groups: 0, ..quick() }).unwrap();
    let error = export(&model.to_bytes(), Format::LightGbm).unwrap_err().to_string();
    assert!(error.contains("\"x0\"") && error.contains("missing values") && error.contains("hint"), "{error}");
    let negative: Vec<Vec<f64>> = (0..400).map(|i| vec![-f64::from(i % 5), f64::from(u8::from(i % 5 > 2))]).collect();
    let parameters = Gbdt { categorical: vec!["x0".into()], ..quick() };
    let model = fit(&training_set(&negative), &parameters).unwrap();
    let error = export(&model.to_bytes(), Format::LightGbm).unwrap_err().to_string();
    assert!(error.contains("the category -") && error.contains("from 0"), "{error}");
}

#[test]
fn every_damaged_byte_is_noticed() {
    let set = shops(400, 6, 10, true);
    for groups in [254, 1] {
        let parameters = Gbdt { trees: 2, leaves: 3, max_cat_groups: groups, min_group_rows: 5, ..quick() };
        check_damage_is_noticed(&fit(&set, &parameters).unwrap());
    }
}

#[test]
fn a_model_without_categories_is_a_file_that_earlier_builds_read() {
    let set = shops(500, 6, 11, false);
    let version = |parameters: &Gbdt| fit(&set, parameters).unwrap().to_bytes()[4];
    let plain = Gbdt { categorical: Vec::new(), ..quick() };
    assert_eq!([version(&plain), version(&quick())], [2, 3]);
    let header = serde_json::to_string(&plain).unwrap();
    assert!(!header.contains("cat"), "{header}");
}

#[test]
fn nonsense_is_refused_with_its_name() {
    let set = shops(500, 6, 12, false);
    let name = |parameters: Gbdt| match fit(&set, &parameters) {
        Err(LearnError::BadParameter { name, .. }) => name,
        other => panic!("{:?}", other.map(|model| model.trees())),
    };
    assert_eq!(name(Gbdt { cat_smooth: -1.0, ..quick() }), "cat_smooth");
    assert_eq!(name(Gbdt { cat_l2: f64::NAN, ..quick() }), "cat_l2");
    assert_eq!(name(Gbdt { max_cat_threshold: 0, ..quick() }), "max_cat_threshold");
    assert_eq!(name(Gbdt { min_group_rows: 0, ..quick() }), "min_group_rows");
    assert_eq!(name(Gbdt { max_cat_groups: 255, ..quick() }), "max_cat_groups");
}
