//! Exact SHAP interaction values of trees (Lundberg et al. 2020): what two columns contribute together.
//!
//! For one leaf of value v the game is v times a product over the distinct columns j of its path, of o_j when j is known and of r_j when not
//! (see `shap`). Two columns' part of it is the integral over one variable of the second derivative of Owen's extension, half of it for each
//! order of the two:
//!
//! ```text
//! phi_ij = v (o_i - r_i) (o_j - r_j) / 2 * integral from 0 to 1 of  prod over k != i, j of (p o_k + (1 - p) r_k)  dp
//! ```
//! Leaf by leaf and pair by pair: a millisecond a row for a hundred trees. Quadrature with half as many points as columns is exact.

use super::shap::{Explained, Test, gauss_legendre};
use super::tree::Child;

/// What a path knows of one column: whether the row agrees with all its splits, and the product of the shares of training rows.
#[derive(Clone, Copy)]
struct Known {
    column: usize,
    agrees: f64,
    share: f64,
}

/// The parts of all pairs of two different columns, as a matrix row by row; 0 on its diagonal.
pub(crate) fn pairs<E: Explained>(trees: &[E], row: &[f64]) -> Vec<f64> {
    let mut sums = vec![0.0; row.len() * row.len()];
    // By number of points, made when they are asked for.
    let mut rules: Vec<Option<(Vec<f64>, Vec<f64>)>> = Vec::new();
    for tree in trees {
        let mut open = vec![(tree.root(), Vec::<Known>::new())];
        while let Some((at, path)) = open.pop() {
            match at {
                Child::Leaf(leaf) if path.len() > 1 => {
                    // The integrand has the degree of so many columns less two.
                    let points = path.len().div_ceil(2);
                    rules.resize(rules.len().max(points + 1), None);
                    let (at, weights) = rules[points].get_or_insert_with(|| gauss_legendre(points));
                    add_leaf(tree.leaves()[leaf], &path, at, weights, row.len(), &mut sums);
                }
                Child::Leaf(_) => {}
                Child::Node(node) => {
                    let goes_left = tree.test(node).goes_left(row);
                    for (child, goes) in tree.children(node).into_iter().zip([goes_left, !goes_left]) {
                        let share = tree.cover(child) / tree.cover(at);
                        open.push((child, longer(&path, tree.column(node) as usize, f64::from(u8::from(goes)), share)));
                    }
                }
            }
        }
    }
    sums
}

fn longer(path: &[Known], column: usize, agrees: f64, share: f64) -> Vec<Known> {
    let mut path = path.to_vec();
    match path.iter_mut().find(|known| known.column == column) {
        Some(known) => (known.agrees, known.share) = (known.agrees * agrees, known.share * share),
        None => path.push(Known { column, agrees, share }),
    }
    path
}

fn add_leaf(value: f64, path: &[Known], at: &[f64], weights: &[f64], columns: usize, sums: &mut [f64]) {
    for (first, a) in path.iter().enumerate() {
        for b in &path[..first] {
            let others = path.iter().filter(|known| known.column != a.column && known.column != b.column);
            let product = |p: f64| others.clone().map(|known| p * known.agrees + (1.0 - p) * known.share).product::<f64>();
            let integral: f64 = at.iter().zip(weights).map(|(&p, weight)| weight * product(p)).sum();
            let part = 0.5 * value * (a.agrees - a.share) * (b.agrees - b.share) * integral;
            sums[a.column * columns + b.column] += part;
            sums[b.column * columns + a.column] += part;
        }
    }
}

#[cfg(test)]
mod tests {
    use kilter_stats::Rng;

    use super::super::shap::tests::{random_row, random_tree, worth};
    use super::super::tree::Tree;
    use super::*;

    /// The definition, by enumeration of all coalitions without both columns.
    fn by_coalitions(tree: &Tree, row: &[f64], i: usize, j: usize) -> f64 {
        let n = row.len();
        let factorial = |k: usize| (1..=k).map(|i| i as f64).product::<f64>();
        let (i, j) = (1u32 << i, 1u32 << j);
        let of = |known: u32| worth(tree, row, known, tree.root());
        (0..1u32 << n)
            .filter(|known| known & (i | j) == 0)
            .map(|known| {
                let size = known.count_ones() as usize;
                let weight = factorial(size) * factorial(n - size - 2) / (2.0 * factorial(n - 1));
                weight * (of(known | i | j) - of(known | i) - of(known | j) + of(known))
            })
            .sum()
    }

    #[test]
    fn equals_the_definition_on_random_trees() {
        let mut rng = Rng::seeded(21);
        for round in 0..80 {
            let (columns, nodes) = (2 + round % 8, 1 + round % 29);
            let trees: Vec<Tree> = (0..2).map(|_| random_tree(&mut rng, columns, nodes, round % 4 == 0)).collect();
            let row = random_row(&mut rng, columns);
            let found = pairs(&trees, &row);
            for (at, found) in found.iter().enumerate() {
                let (i, j) = (at / columns, at % columns);
                let expected = if i == j { 0.0 } else { trees.iter().map(|tree| by_coalitions(tree, &row, i, j)).sum() };
                assert!((found - expected).abs() < 1e-9, "columns {i} and {j} of {columns}: {found} instead of {expected}");
            }
        }
    }
}
