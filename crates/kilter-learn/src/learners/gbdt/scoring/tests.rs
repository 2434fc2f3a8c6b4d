//! Every way of scoring gives the bits of a plain walk, on random forests and on rows made of their thresholds.

use kilter_stats::Rng;

use super::super::tree::{Child, Forest, Node};
use super::*;

/// The levels this processor has.
fn levels() -> Vec<Level> {
    match Level::best() {
        Level::Avx512 => vec![Level::Portable, Level::Avx2, Level::Avx512],
        Level::Avx2 => vec![Level::Portable, Level::Avx2],
        Level::Portable => vec![Level::Portable],
    }
}

fn threshold(rng: &mut Rng) -> f64 {
    match rng.below(12) {
        0 => 0.0,
        1 => -0.0,
        2 => f64::INFINITY,
        3 => f64::NEG_INFINITY,
        4 => f64::MIN_POSITIVE,
        _ => rng.normal(),
    }
}

/// A tree of so many leaves, each split at a random leaf.
fn random_tree(rng: &mut Rng, columns: usize, leaves: usize) -> Tree {
    let mut tree = Tree { nodes: Vec::new(), leaves: vec![rng.normal()], leaf_rows: vec![1], ..Tree::default() };
    let mut above: Vec<Option<(usize, bool)>> = vec![None];
    for index in 0..leaves - 1 {
        let leaf = rng.below(tree.leaves.len() as u64) as usize;
        let mut node = Node::new(rng.below(columns as u64) as usize, threshold(rng), rng.bernoulli(0.5), 1.0, 2);
        node.set_left(Child::Leaf(leaf));
        node.set_right(Child::Leaf(tree.leaves.len()));
        if let Some((parent, left)) = above[leaf] {
            let parent: &mut Node = &mut tree.nodes[parent];
            if left { parent.set_left(Child::Node(index)) } else { parent.set_right(Child::Node(index)) }
        }
        tree.nodes.push(node);
        above[leaf] = Some((index, true));
        above.push(Some((index, false)));
        tree.leaves.push(rng.normal());
        tree.leaf_rows.push(1);
    }
    tree
}

fn value(rng: &mut Rng, trees: &[Tree]) -> f64 {
    let tree = &trees[rng.below(trees.len() as u64) as usize];
    let split = if tree.nodes.is_empty() { 0.5 } else { tree.nodes[rng.below(tree.nodes.len() as u64) as usize].threshold };
    match rng.below(9) {
        0 => f64::NAN,
        1 => f64::INFINITY,
        2 => f64::NEG_INFINITY,
        3 => -0.0,
        4 => split,
        5 => split.next_up(),
        6 => split.next_down(),
        7 => -f64::NAN,
        _ => rng.normal(),
    }
}

/// Scores rows in every way there is and compares with the walk; tells whether the forest had a plan, and one for single rows at the last level.
fn check(trees: &[Tree], columns: usize, rows: usize, rng: &mut Rng) -> (bool, bool) {
    let base = rng.normal();
    let mut matrix = Matrix::with_columns((0..columns).map(|i| format!("x{i}")).collect());
    let mut row = Vec::new();
    for _ in 0..rows {
        row.clear();
        row.extend((0..columns).map(|_| value(rng, trees)));
        matrix.push_row(&row);
    }
    let forest = Forest::new(trees);
    let mut walked = Vec::new();
    for r in 0..rows {
        matrix.row(r, &mut row);
        walked.push(forest.sum(base, &row).to_bits());
    }
    let mut had = (false, false);
    for level in levels() {
        let Some(plan) = Plan::new(trees, level) else { continue };
        had = (true, plan.row.is_some());
        for chunk in [1, 24, 25, 63, 128, 129, rows.max(1)] {
            let mut found = Vec::new();
            for start in (0..rows).step_by(chunk) {
                plan.margins(base, &matrix, start..rows.min(start + chunk), &mut found);
            }
            assert!(found.iter().map(|f| f.to_bits()).eq(walked.iter().copied()), "{level:?}, {chunk} rows at a time");
        }
        for (r, &expected) in walked.iter().enumerate() {
            matrix.row(r, &mut row);
            let found = plan.margin(base, &row);
            assert_eq!(found.is_some(), had.1, "{level:?}");
            assert!(found.is_none_or(|found| found.to_bits() == expected), "{level:?}, row {r} alone");
        }
    }
    had
}

#[test]
fn every_way_gives_the_bits_of_a_walk() {
    let mut rng = Rng::seeded(11);
    let shapes = [(1, 1, 1), (1, 1, 2), (3, 7, 31), (28, 9, 32), (28, 8, 33), (40, 5, 100), (300, 4, 256), (300, 3, 300)];
    // Single rows have a way of their own with the widest registers only.
    let wide = levels().contains(&Level::Avx512);
    let expected = [wide, wide, wide, wide, false, false, false, false];
    for ((columns, count, leaves), masks) in shapes.into_iter().zip(expected) {
        for _ in 0..6 {
            let trees: Vec<Tree> = (0..count).map(|_| random_tree(&mut rng, columns, leaves)).collect();
            assert_eq!(check(&trees, columns, 700, &mut rng), (leaves <= 256, masks), "{columns} columns, {count} trees of {leaves}");
        }
    }
    // Trees of unlike sizes, single leaves among them.
    for _ in 0..20 {
        let trees: Vec<Tree> = (0..7)
            .map(|_| {
                let leaves = 1 + rng.below(32) as usize;
                random_tree(&mut rng, 9, leaves)
            })
            .collect();
        assert_eq!(check(&trees, 9, 70, &mut rng), (true, wide));
    }
}

#[test]
fn more_thresholds_than_a_byte_counts() {
    let mut rng = Rng::seeded(12);
    let trees: Vec<Tree> = (0..60).map(|_| random_tree(&mut rng, 1, 32)).collect();
    let plan = Plan::new(&trees, Level::Portable).unwrap();
    assert!(plan.searches.len() > 2, "{}", plan.searches.len());
    assert_eq!(check(&trees, 1, 300, &mut rng), (true, levels().contains(&Level::Avx512)));
}

/// The codes of some values, in every way there is, are the numbers of thresholds below.
fn check_codes(thresholds: &[f64], values: &[f64]) {
    let search = Search::new(0, thresholds);
    for values in values.chunks(64) {
        let below = |&value: &f64| thresholds.iter().filter(|&&threshold| threshold < value).count() as u8;
        let expected: Vec<u8> = values.iter().map(below).collect();
        let absent = values.iter().rev().fold(0, |bits, value| 2 * bits + u64::from(value.is_nan()));
        let expect = |way: &str, codes: Bytes, missing: u64| {
            let wrong = codes.0.iter().zip(&expected).position(|(found, expected)| found != expected);
            assert!(wrong.is_none(), "{way}: {:?} has the code {} among {thresholds:?}", values[wrong.unwrap()], codes.0[wrong.unwrap()]);
            assert_eq!(missing, absent, "{way}");
        };
        let mut codes = Bytes([0; 64]);
        let missing = search.codes(values, &mut codes);
        expect("anywhere", codes, missing);
        #[cfg(target_arch = "x86_64")]
        if Level::best() >= Level::Avx2 {
            // SAFETY: the processor has just been asked.
            let missing = unsafe { search.codes_256(values, &mut codes) };
            expect("AVX2", Bytes(codes.0.map(|code| code ^ 128)), missing);
        }
        #[cfg(target_arch = "x86_64")]
        if Level::best() >= Level::Avx512 {
            // SAFETY: the processor has just been asked.
            let missing = unsafe { search.codes_512(values, &mut codes) };
            expect("AVX-512", codes, missing);
        }
    }
}

/// Numbers that lie around the given ones in 64 and in 32 bits, and those at the ends of what there is.
fn around(numbers: &[f64]) -> Vec<f64> {
    let near = |&x: &f64| {
        let narrow = x as f32;
        [x, x.next_up(), x.next_down(), f64::from(narrow), f64::from(narrow.next_up()), f64::from(narrow.next_down()), -x]
    };
    let ends = [0.0, 5e-324, 1e-320, 1e-45, 1e-40, f64::MIN_POSITIVE, 3.4028235677973366e38, 3.5e38, f64::MAX, f64::INFINITY];
    let ends = ends.iter().flat_map(|&x| [x, -x]);
    numbers.iter().flat_map(near).chain(ends).chain([f64::NAN, -f64::NAN]).collect()
}

#[test]
fn codes_count_the_thresholds_below_whatever_the_numbers() {
    let mut rng = Rng::seeded(13);
    let counts = [0, 1, 2, 3, 4, 7, 8, 15, 16, 17, 31, 32, 63, 64, 65, 127, 128, 200, 239, 240, 241, 253, 254];
    // Spread over all there is, over some orders of magnitude, whole, of 32 bits, and so near to each other that 32 bits cannot tell.
    type Draw = fn(&mut Rng) -> f64;
    let draws: [Draw; 6] = [
        |rng| f64::from_bits(rng.next_u64()),
        |rng| rng.normal().exp() * if rng.bernoulli(0.5) { 1.0 } else { -1.0 },
        |rng| rng.below(1000) as f64,
        |rng| f64::from(rng.normal() as f32),
        |rng| 1.7e12 + rng.below(40_000_000) as f64,
        |rng| 1.0 + rng.below(500) as f64 * f64::EPSILON,
    ];
    for draw in draws {
        for count in counts {
            let mut thresholds: Vec<f64> = (0..count).map(|_| draw(&mut rng)).filter(|x| !x.is_nan()).map(|x| x + 0.0).collect();
            if count % 3 == 1 {
                thresholds.extend([f64::INFINITY, f64::NEG_INFINITY, 0.0]);
            }
            thresholds.sort_by(f64::total_cmp);
            thresholds.dedup();
            thresholds.truncate(MOST_THRESHOLDS);
            let mut values = around(&thresholds);
            values.extend((0..97).map(|_| draw(&mut rng)));
            check_codes(&thresholds, &values);
        }
    }
}

#[test]
fn a_forest_without_trees_is_its_base() {
    let matrix = {
        let mut matrix = Matrix::with_columns(vec!["x".into()]);
        matrix.push_row(&[1.0]);
        matrix
    };
    let mut found = Vec::new();
    Plan::new(&[], Level::best()).unwrap().margins(0.25, &matrix, 0..1, &mut found);
    assert_eq!(found, [0.25]);
}
