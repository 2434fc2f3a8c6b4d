use super::*;
use crate::format::tests::check_damage_is_noticed;
use crate::load;
use std::panic::{AssertUnwindSafe, catch_unwind};

fn matrix(rows: &[Vec<f64>]) -> Matrix {
    let mut matrix = Matrix::with_columns((0..rows[0].len()).map(|i| format!("x{i}")).collect());
    rows.iter().for_each(|row| matrix.push_row(row));
    matrix
}

/// Three clouds of very different units, some values missing.
fn clouds(rows: usize, seed: u64) -> Matrix {
    let mut rng = Rng::seeded(seed);
    let rows: Vec<Vec<f64>> = (0..rows)
        .map(|r| {
            let (a, b) = [(0.0, 0.0), (10.0, 0.0), (0.0, 2000.0)][r % 3];
            let hole = rng.bernoulli(0.02);
            vec![a + rng.normal(), if hole { f64::NAN } else { b + 200.0 * rng.normal() }, 5.0]
        })
        .collect();
    matrix(&rows)
}

#[test]
fn centres_are_those_that_scikit_learn_finds() {
    let rows = [[1.0, 10.0], [1.5, 12.0], [0.8, 11.0], [8.0, 40.0], [8.5, 42.0], [7.7, 39.0], [1.0, 41.0], [1.2, 39.0], [0.9, 43.0]];
    let model = fit(&matrix(&rows.map(Vec::from)), None, &KMeans { clusters: 3, ..KMeans::default() }).unwrap();
    // KMeans(3) of scikit-learn 1.9.1 after StandardScaler, and the distances that its `transform` gives.
    let mut centres = model.centres();
    centres.sort_by(|a, b| a[0].total_cmp(&b[0]));
    let expected = [[1.033_333_33, 41.0], [1.1, 11.0], [8.066_666_67, 40.333_333_33]];
    assert!(centres.iter().zip(expected).all(|(a, b)| (a[0] - b[0]).abs() < 1e-8 && (a[1] - b[1]).abs() < 1e-8), "{centres:?}");
    let distances = [0.07733851, 0.14024042, 0.09061831, 0.03112425, 0.17667232, 0.14587012, 0.0100687, 0.15102918, 0.14797772];
    for (row, expected) in rows.iter().zip(distances) {
        assert!((model.margin(row) - expected).abs() < 1e-7, "{row:?}: {}", model.margin(row));
    }
    assert!((model.report.inertia - 0.13212881673868476).abs() < 1e-12 && model.report.sizes == [3.0, 3.0, 3.0]);
    let segments: Vec<usize> = rows.iter().map(|row| model.segment(row).unwrap()).collect();
    assert!(segments.chunks(3).all(|three| three.iter().all(|segment| *segment == three[0])), "{segments:?}");
}

#[test]
fn no_centre_can_be_moved_and_no_row_given_away_to_advantage() {
    let matrix = clouds(900, 1);
    let model = fit(&matrix, None, &KMeans { clusters: 5, tolerance: 0.0, ..KMeans::default() }).unwrap();
    let mut rows = vec![Vec::new(); 5];
    let mut row = Vec::new();
    for r in 0..900 {
        matrix.row(r, &mut row);
        let place: Vec<f64> = (0..3).map(|at| measured(row[at], model.means[at], model.units[at])).collect();
        let distances: Vec<f64> = model.centres.chunks(3).map(|centre| squared(centre, &place)).collect();
        let least = distances.iter().copied().fold(f64::INFINITY, f64::min);
        let segment = model.segment(&row).unwrap();
        assert_eq!(distances[segment], least);
        assert!((model.margin(&row) - least.sqrt()).abs() < 1e-12);
        rows[segment].push(place);
    }
    for (centre, rows) in model.centres.chunks(3).zip(&rows) {
        for at in 0..3 {
            let mean = rows.iter().map(|row| row[at]).sum::<f64>() / rows.len() as f64;
            assert!((mean - centre[at]).abs() < 1e-9);
        }
    }
}

#[test]
fn weights_are_rows_and_rows_of_none_leave_no_trace() {
    let matrix = clouds(300, 2);
    let parameters = KMeans { clusters: 3, ..KMeans::default() };
    let twice: Vec<usize> = (0..300).flat_map(|r| std::iter::repeat_n(r, r % 3)).collect();
    let weights: Vec<f64> = (0..300).map(|r| (r % 3) as f64).collect();
    // Of two clouds only, since the first has no weight.
    let parameters = KMeans { clusters: 2, ..parameters };
    let (repeated, weighted) =
        (fit(&matrix.select(&twice), None, &parameters).unwrap(), fit(&matrix, Some(&weights), &parameters).unwrap());
    assert!((repeated.report.inertia / weighted.report.inertia - 1.0).abs() < 1e-9);
    let sorted = |model: &KMeansModel| {
        let mut centres = model.centres();
        centres.sort_by(|a, b| a[0].total_cmp(&b[0]));
        centres.concat()
    };
    assert!(sorted(&repeated).iter().zip(sorted(&weighted)).all(|(a, b)| (a - b).abs() < 1e-9));
}

#[test]
fn it_is_the_same_on_any_number_of_threads_and_after_loading() {
    let matrix = clouds(9_000, 3);
    let bytes = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| fit(&matrix, None, &KMeans { clusters: 4, restarts: 2, ..KMeans::default() }).unwrap().to_bytes())
    };
    assert!(bytes(1) == bytes(2) && bytes(1) == bytes(8));
    let (back, model) = (load(&bytes(1)).unwrap(), fit(&matrix, None, &KMeans { clusters: 4, restarts: 2, ..KMeans::default() }).unwrap());
    assert_eq!((back.to_bytes(), back.describe(), back.importance()), (model.to_bytes(), model.describe(), model.importance()));
    let mut contributions = Vec::new();
    for row in [[0.0, 100.0, 5.0], [f64::NAN, f64::INFINITY, -3.0], [1e99, 0.0, 0.0], [50.0, f64::NAN, f64::NAN]] {
        assert_eq!((back.margin(&row).to_bits(), back.segment(&row)), (model.margin(&row).to_bits(), model.segment(&row)));
        let base = model.explain(&row, &mut contributions);
        assert!(base == 0.0 && model.margin(&row).is_finite());
        assert!((contributions.iter().sum::<f64>() - model.margin(&row)).abs() < 1e-9 * (1.0 + model.margin(&row)), "{row:?}");
        assert_eq!(contributions[2], 0.0);
    }
    // Far from all of them is an anomaly, and its reason is the column that takes it there.
    assert!(model.margin(&[0.0, 30_000.0, 5.0]) > 10.0 * model.margin(&[0.0, 0.0, 5.0]));
    assert!(catch_unwind(AssertUnwindSafe(|| model.margin(&[1.0]))).is_err());
}

#[test]
fn more_centres_than_different_rows_and_nonsense() {
    let same = matrix(&vec![vec![1.0, 2.0]; 10]);
    let model = fit(&same, None, &KMeans { clusters: 3, ..KMeans::default() }).unwrap();
    assert_eq!((model.margin(&[1.0, 2.0]), model.report.inertia), (0.0, 0.0));
    let refused = |parameters: &KMeans| fit(&same, None, parameters).err().unwrap();
    assert_eq!(refused(&KMeans { clusters: 11, ..KMeans::default() }), LearnError::TooFewRows { rows: 10, needed: 11 });
    for (parameters, name) in [
        (KMeans { clusters: 0, ..KMeans::default() }, "clusters"),
        (KMeans { restarts: 0, ..KMeans::default() }, "restarts"),
        (KMeans { max_iterations: 0, ..KMeans::default() }, "max_iterations"),
        (KMeans { tolerance: f64::NAN, ..KMeans::default() }, "tolerance"),
    ] {
        assert!(matches!(refused(&parameters), LearnError::BadParameter { name: found, .. } if found == name));
    }
    assert_eq!(fit(&same.slice(0..0), None, &KMeans::default()).err(), Some(LearnError::NoRows));
    let of_one = KMeans { clusters: 1, ..KMeans::default() };
    assert!(matches!(fit(&same, Some(&[1.0; 9]), &of_one).err(), Some(LearnError::LengthMismatch { .. })));
    let weights = [vec![1.0; 9], vec![f64::NAN]].concat();
    assert!(matches!(fit(&same, Some(&weights), &of_one).err(), Some(LearnError::BadWeight { row: 9, .. })));
    assert_eq!(fit(&same, Some(&[0.0; 10]), &of_one).err(), Some(LearnError::TooFewRows { rows: 0, needed: 1 }));
}

#[test]
fn damage_is_noticed() {
    check_damage_is_noticed(&fit(&clouds(30, 4), None, &KMeans { clusters: 2, ..KMeans::default() }).unwrap());
}
