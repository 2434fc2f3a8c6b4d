//! Model files of earlier format versions are read and score to the bit as they did when they were written. What they explain is the same
//! too, to 1e-12: the order of its additions has changed once (`docs/decisions/0021-explanations-by-split.md`).

use kilter_learn::load;

const ROWS: [[f64; 3]; 4] = [[0.3, 1.2, 20.0], [-2.0, f64::NAN, 3.5], [1.75, 0.01, f64::NAN], [f64::INFINITY, -1.0, 40.0]];

/// For each row the bits of margin, base and first contribution as it was then, and of the contribution today.
fn check(bytes: &[u8], expected: [[u64; 4]; 4]) {
    let model = load(bytes).unwrap();
    assert_eq!(model.inputs(), ["income", "burden", "age"]);
    // Written anew it has today's version, and is the same model.
    let anew = load(&model.to_bytes()).unwrap();
    for (row, expected) in ROWS.iter().zip(expected) {
        for model in [&model, &anew] {
            let mut contributions = Vec::new();
            let base = model.explain(row, &mut contributions);
            let [margin, then_base, then, today] = expected;
            assert_eq!([model.margin(row).to_bits(), base.to_bits(), contributions[0].to_bits()], [margin, then_base, today]);
            assert!((contributions[0] - f64::from_bits(then)).abs() < 1e-12);
        }
    }
}

#[test]
fn trees_of_version_1() {
    check(
        include_bytes!("golden/gbdt-v1.kltm"),
        [
            [0xbfe52270658601a2, 0xbfc9284761ff4cda, 0x3fb945d84b312158, 0x3fb945d84b312156],
            [0xbfc25f80e25cdbd6, 0xbfc9284761ff4cda, 0xbfe7df26d3916cf5, 0xbfe7df26d3916cf4],
            [0x3feb28adca2856fc, 0xbfc9284761ff4cda, 0x3fde4c1b4f4f19df, 0x3fde4c1b4f4f19e0],
            [0x3fee6eb94dea2ba2, 0xbfc9284761ff4cda, 0x3fdb3f48f8afbaba, 0x3fdb3f48f8afbaba],
        ],
    );
    let report = load(include_bytes!("golden/gbdt-v1.kltm")).unwrap().describe()["report"].clone();
    assert!(report["positives"].as_u64() > Some(0) && report["validation_loss"].as_array().is_some_and(|losses| !losses.is_empty()));
}

/// Two columns of categories, one read in sets and one by mean labels, and a number: for each row the bits of margin, base and contributions.
#[test]
fn trees_of_version_3() {
    let model = load(include_bytes!("golden/gbdt-v3.kltm")).unwrap();
    assert_eq!((model.inputs().join(" "), model.categorical_inputs()), ("shop city amount".to_string(), vec![0, 1]));
    let anew = load(&model.to_bytes()).unwrap();
    let rows = [[3.0, 11.0, 0.5], [0.0, 29.0, -1.0], [5.0, 400.0, f64::NAN], [77.0, f64::NAN, 2.0], [f64::NAN, 2.0, 0.0]];
    for (row, expected) in rows.iter().zip(VERSION_3) {
        for model in [&model, &anew] {
            let mut contributions = Vec::new();
            let base = model.explain(row, &mut contributions);
            let [shop, city, amount] = contributions[..] else { panic!("{contributions:?}") };
            assert_eq!([model.margin(row), base, shop, city, amount].map(f64::to_bits), expected, "{row:?}");
        }
    }
    assert_eq!(rows.map(|row| model.unseen_categories(&row)), [0, 0, 1, 1, 0]);
}

const VERSION_3: [[u64; 5]; 5] = [
    [0x3fd2c1af261029e1, 0x3fa44a7296e3f2de, 0xbf8633e7e4ce0abe, 0x3fad5447f4fc229d, 0x3fca7eee27752f0c],
    [0x3fe0aa817eac8ca9, 0x3fa44a7296e3f2de, 0x3fe3633db028b818, 0x3fc64f7b95fd569f, 0xbfd3228480d38088],
    [0x3fec9d169987f234, 0x3fa44a7296e3f2de, 0x3fe8b55535c3c8f6, 0x3fc5936611d1efd8, 0xbfb60dfa50f48f46],
    [0x3fecaeed39e872aa, 0x3fa44a7296e3f2de, 0x3fa5848aa0bc5132, 0x3fcaa1a32fc5788a, 0x3fe369949a7d1045],
    [0x3fc7a792528e8362, 0x3fa44a7296e3f2de, 0x3fc42b5df72f679e, 0x3f723e8d62d179d3, 0xbf9142e5ab83662d],
];

#[test]
fn a_line_of_version_1() {
    check(
        include_bytes!("golden/logistic-v1.kltm"),
        [
            [0xbfca8e3c9114370d, 0xbfd0e515f0c2b4c2, 0x3fcdae75e7f37592, 0x3fcdae75e7f37592],
            [0xc001be60692696aa, 0xbfd0e515f0c2b4c2, 0xbffbc63db16eb017, 0xbffbc63db16eb017],
            [0x40009d53a6dd693e, 0xbfd0e515f0c2b4c2, 0x3ff78f247d0b92cd, 0x3ff78f247d0b92cd],
            [0x3ffcc0402125bb3e, 0xbfd0e515f0c2b4c2, 0x0000000000000000, 0x0000000000000000],
        ],
    );
}
