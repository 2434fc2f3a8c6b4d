use super::*;
use crate::matrix::tests::training_set;

fn categorical(max_cat_groups: usize) -> Gbdt {
    Gbdt { categorical: vec!["x0".into()], max_cat_groups, cat_smooth: 2.0, ..Gbdt::default() }
}

fn set(values: &[f64], labels: &[f64]) -> TrainingSet {
    let rows: Vec<Vec<f64>> = values.iter().zip(labels).map(|(&value, &label)| vec![value, label]).collect();
    training_set(&rows)
}

#[test]
fn frequent_categories_have_a_bin_each_and_rare_ones_share_that_of_the_unseen() {
    let values = [7.0, 7.0, 7.0, -3.0, -3.0, -3.0, -3.0, 5.0, 0.0, f64::NAN];
    let set = set(&values, &[0.0; 10]);
    let encoders = Encoders::learn(&set, 0..10, &categorical(254)).unwrap();
    let encoder = encoders.of(0).unwrap();
    assert_eq!(encoder.bins, Some(3));
    assert_eq!(
        [-3.0, 7.0, 5.0, 0.0, -0.0, 99.0, 7.5, f64::INFINITY].map(|value| encoder.encode(value)),
        [1.0, 2.0, 3.0, 3.0, 3.0, 3.0, 3.0, 3.0]
    );
    assert!(encoder.encode(f64::NAN).is_nan());
    assert_eq!([-3.0, 5.0, f64::NAN, 99.0, 7.5].map(|value| encoder.knows(value)), [true, true, true, false, false]);
    // Without rare ones an unseen category is as a missing value; without missing values these are as an unseen one.
    let encoders = Encoders::learn(&set, 0..7, &categorical(254)).unwrap();
    assert!(encoders.of(0).unwrap().encode(99.0).is_nan());
    let encoders = Encoders::learn(&set, 0..9, &categorical(254)).unwrap();
    assert_eq!(encoders.of(0).unwrap().encode(f64::NAN), 3.0);
}

#[test]
fn many_categories_are_their_mean_labels_and_no_training_row_sees_its_own() {
    let values: Vec<f64> = (0..60).map(|i| f64::from(i % 4)).collect();
    let labels: Vec<f64> = (0..60).map(|i| f64::from(i % 7)).collect();
    let mut set = set(&values, &labels);
    set.weights = Some((0..60).map(|i| f64::from(1 + i % 3)).collect());
    let parameters = categorical(3);
    let (rows, encoders) = (4..56, Encoders::learn(&set, 4..56, &parameters).unwrap());
    let encoder = encoders.of(0).unwrap();
    assert_eq!(encoder.bins, None);
    let mean = |rows: &[usize], more: f64, of_all: f64| {
        let sums = rows.iter().fold([0.0, 0.0], |[s, w], &r| [s + set.weight(r) * labels[r], w + set.weight(r)]);
        (sums[0] + more * of_all) / (sums[1] + more)
    };
    let all = mean(&rows.clone().collect::<Vec<_>>(), 0.0, 0.0);
    assert!((encoder.unseen() - all).abs() < 1e-12 && encoder.encode(77.0) == encoder.unseen());
    for category in 0..4 {
        let own: Vec<usize> = rows.clone().filter(|row| row % 4 == category).collect();
        assert!((encoder.encode(category as f64) - mean(&own, 2.0, all)).abs() < 1e-12);
    }
    // In training: some order in which each row sees those of its category before it, whatever their number.
    let training = encoders.training(&set, rows.clone(), &parameters, &|input| input);
    let seen = training.column(0);
    for category in 0..4 {
        let own: Vec<usize> = rows.clone().filter(|row| row % 4 == category).collect();
        let mut before: Vec<usize> = Vec::new();
        let mut left = own.clone();
        while !left.is_empty() {
            let expected = mean(&before, 2.0, all);
            let next = left.iter().position(|&row| (seen[row - 4] - expected).abs() < 1e-12).expect("no row stands here in the order");
            before.push(left.remove(next));
        }
    }
    // A row's label changes what later rows see, and nothing of its own.
    let mut other = set.clone();
    other.labels[20] += 5.0;
    let again = Encoders::learn(&other, rows.clone(), &parameters).unwrap();
    let again = again.training(&other, rows, &parameters, &|input| input);
    let shift = 5.0 * set.weight(20) / (4..56).map(|row| set.weight(row)).sum::<f64>();
    let own = (again.column(0)[16] - seen[16]).abs();
    assert!(own <= shift + 1e-12, "{own}");
}

#[test]
fn a_text_has_its_number_for_ever_and_none_shares_it() {
    assert_eq!(["", "grocery", "größer"].map(category_of), [8437669077406501.0, 4987771761223477.0, 2461806226559299.0]);
    let all: std::collections::BTreeSet<u64> = (0..200_000).map(|n| category_of(&format!("shop-{n}")) as u64).collect();
    assert_eq!(all.len(), 200_000);
    // Neighbouring texts fill the whole range evenly.
    let upper = all.iter().filter(|&&category| category >= 1 << 52).count();
    assert!(upper.abs_diff(100_000) < 1_500 && all.last() < Some(&(1 << 53)), "{upper}");
    assert!(all.iter().all(|&category| is_category(category as f64)));
}

#[test]
fn what_is_no_category_is_refused_with_its_place() {
    for bad in [0.5, f64::INFINITY, 1e16] {
        let set = set(&[1.0, 2.0, bad], &[0.0; 3]);
        let error = Encoders::learn(&set, 0..3, &categorical(254)).unwrap_err();
        assert_eq!(error, LearnError::BadCategory { column: "x0".into(), row: 2, value: bad });
        assert!(error.to_string().contains("hint"), "{error}");
        // Rows that are not learned from may hold anything.
        assert!(Encoders::learn(&set, 0..2, &categorical(254)).is_ok());
    }
    let unknown = Gbdt { categorical: vec!["colour".into()], ..Gbdt::default() };
    let error = Encoders::learn(&set(&[1.0], &[0.0]), 0..1, &unknown).unwrap_err();
    assert_eq!(error, LearnError::UnknownColumn { parameter: "categorical", name: "colour".into() });
}

#[test]
fn more_categories_than_bins_are_read_as_statistics() {
    let values: Vec<f64> = (0..300).flat_map(|category| std::iter::repeat_n(f64::from(category), 4 + category as usize % 2)).collect();
    let set = set(&values, &vec![0.0; values.len()]);
    let parameters = categorical(254);
    assert!(parameters.has_statistics(300) && !parameters.has_statistics(254));
    let encoder = Encoders::learn(&set, 0..set.rows(), &parameters).unwrap();
    assert_eq!(encoder.of(0).unwrap().bins, None);
}
