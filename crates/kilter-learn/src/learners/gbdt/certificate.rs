//! Proof that trees keep the directions that were declared, by a walk over all of them.
//!
//! Two rows that differ in one column only part at a node that splits on it, the lower value to the left. So a tree keeps a column's direction exactly when,
//! at each such node, no leaf on the left is worth more than a leaf on the right (or the reverse) that a row with the same other values can
//! reach. Missing values are outside the order. Sums in floating point keep the order of what is summed, so a forest keeps what each of its trees keeps.

use serde::{Deserialize, Serialize};

use super::categories::BinSet;
use super::tree::{Child, Node, Tree};
use crate::LearnError;

/// What the walk has seen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// Columns with a direction.
    pub columns: usize,
    pub trees: usize,
    /// Splits on these columns.
    pub splits: usize,
    /// Pairs of leaves that were held against each other, where a split's sides overlap.
    pub pairs: u64,
}

/// `None` where no direction is declared; an error names the first tree that breaks one.
pub(super) fn certify(trees: &[Tree], monotone: &[i8], names: &[String]) -> Result<Option<Certificate>, LearnError> {
    let columns = monotone.iter().filter(|&&direction| direction != 0).count();
    if columns == 0 {
        return Ok(None);
    }
    let mut certificate = Certificate { columns, trees: trees.len(), ..Certificate::default() };
    for (index, tree) in trees.iter().enumerate() {
        let mut open = vec![(tree.root(), Path::new())];
        while let Some((at, path)) = open.pop() {
            let Child::Node(at) = at else { continue };
            let node = &tree.nodes[at];
            let sides = sides(tree, node, &path);
            open.extend(sides.clone());
            let direction = f64::from(monotone[node.column as usize]);
            if direction == 0.0 {
                continue;
            }
            certificate.splits += 1;
            let [left, right] = sides.map(|side| leaves(tree, side));
            let most = left.iter().map(|&(leaf, _)| direction * tree.leaves[leaf]).fold(f64::NEG_INFINITY, f64::max);
            let least = right.iter().map(|&(leaf, _)| direction * tree.leaves[leaf]).fold(f64::INFINITY, f64::min);
            if most <= least {
                continue;
            }
            for (low, low_box) in &left {
                for (high, high_box) in &right {
                    certificate.pairs += 1;
                    let kept = direction * tree.leaves[*low] <= direction * tree.leaves[*high];
                    if !kept && overlap(low_box, high_box, node.column) {
                        return Err(LearnError::NotMonotone { column: names[node.column as usize].clone(), tree: index });
                    }
                }
            }
        }
    }
    Ok(Some(certificate))
}

/// What a path says of one column.
#[derive(Clone, Debug)]
enum Side {
    /// Above the first and up to the second number; or missing.
    Values {
        above: f64,
        up_to: f64,
        missing: bool,
    },
    Bins(BinSet),
}

/// What the path from the root to a place says, by column.
type Path = Vec<(u32, Side)>;

/// The two places below a node, each with its path.
fn sides(tree: &Tree, node: &Node, path: &Path) -> [(Child, Path); 2] {
    let [left, right] = match tree.set(node) {
        Some(set) => [Side::Bins(*set), Side::Bins(BinSet(set.0.map(|word| !word)))],
        None => [
            Side::Values { above: f64::NEG_INFINITY, up_to: node.threshold, missing: node.missing_left },
            Side::Values { above: node.threshold, up_to: f64::INFINITY, missing: !node.missing_left },
        ],
    };
    [(node.left(), left), (node.right(), right)].map(|(child, side)| {
        let mut path = path.clone();
        match path.iter_mut().find(|(column, _)| *column == node.column) {
            Some((_, own)) => *own = both(own, &side),
            None => path.push((node.column, side)),
        }
        (child, path)
    })
}

/// All leaves below a place, each with its path.
fn leaves(tree: &Tree, from: (Child, Path)) -> Vec<(usize, Path)> {
    let mut found = Vec::new();
    let mut open = vec![from];
    while let Some((at, path)) = open.pop() {
        match at {
            Child::Leaf(leaf) => found.push((leaf, path)),
            Child::Node(index) => open.extend(sides(tree, &tree.nodes[index], &path)),
        }
    }
    found
}

fn both(a: &Side, b: &Side) -> Side {
    match (a, b) {
        (Side::Values { above, up_to, missing }, Side::Values { above: other_above, up_to: other_up_to, missing: other_missing }) => {
            Side::Values { above: above.max(*other_above), up_to: up_to.min(*other_up_to), missing: *missing && *other_missing }
        }
        (Side::Bins(a), Side::Bins(b)) => Side::Bins(BinSet(std::array::from_fn(|word| a.0[word] & b.0[word]))),
        // A column is one of numbers or one of bins.
        _ => a.clone(),
    }
}

/// Whether rows with the same values in all other columns can reach both leaves.
fn overlap(a: &Path, b: &Path, own: u32) -> bool {
    a.iter().filter(|(column, _)| *column != own).all(|(column, side)| match b.iter().find(|(other, _)| other == column) {
        Some((_, other)) => match both(side, other) {
            // Minus infinity is a value too, and above nothing.
            Side::Values { above, up_to, missing } => missing || above < up_to || above == f64::NEG_INFINITY,
            Side::Bins(set) => set != BinSet::default(),
        },
        None => true,
    })
}

#[cfg(test)]
mod tests {
    use super::super::{Gbdt, fit};
    use super::*;
    use crate::matrix::tests::training_set;
    use crate::{Model, load};
    use kilter_stats::Rng;

    /// x0 <= 0 ? (x1 <= a ? 1 : 5) : (x1 <= b ? 3 : 7), by values of the leaves.
    fn tree(a: f64, b: f64, leaves: [f64; 4]) -> Tree {
        let node = |column, threshold, missing_left, left, right| {
            let mut node = Node::new(column, threshold, missing_left, 1.0, 4);
            node.set_left(left);
            node.set_right(right);
            node
        };
        let nodes = vec![
            node(0, 0.0, true, Child::Node(1), Child::Node(2)),
            node(1, a, false, Child::Leaf(0), Child::Leaf(1)),
            node(1, b, false, Child::Leaf(2), Child::Leaf(3)),
        ];
        Tree { nodes, leaves: leaves.to_vec(), leaf_rows: vec![1; 4], ..Tree::default() }
    }

    fn check(tree: Tree, monotone: [i8; 2]) -> Result<Certificate, LearnError> {
        certify(&[tree], &monotone, &["a".into(), "b".into()]).map(|found| found.unwrap_or_default())
    }

    #[test]
    fn leaves_are_held_against_those_that_the_same_row_can_reach() {
        // The left's 5 is above the right's 3: no matter where x1 cannot be both above 2 and up to 1, nor missing.
        let apart = tree(2.0, 1.0, [1.0, 5.0, 3.0, 7.0]);
        assert_eq!(check(apart.clone(), [1, 0]), Ok(Certificate { columns: 1, trees: 1, splits: 1, pairs: 4 }));
        let mut by_missing = apart;
        by_missing.nodes[2].missing_left = true;
        assert_eq!(check(by_missing, [1, 0]), Err(LearnError::NotMonotone { column: "a".into(), tree: 0 }));
        // Where both can be, it is seen.
        let broken = check(tree(1.0, 2.0, [1.0, 5.0, 3.0, 7.0]), [1, 0]);
        assert_eq!(broken, Err(LearnError::NotMonotone { column: "a".into(), tree: 0 }));
        assert_eq!(check(tree(1.0, 2.0, [1.0, 2.0, 3.0, 7.0]), [1, 1]).map(|seen| (seen.splits, seen.pairs)), Ok((3, 0)));
        assert!(
            check(tree(1.0, 2.0, [1.0, 2.0, 3.0, 7.0]), [-1, 0]).is_err() && check(tree(1.0, 2.0, [7.0, 6.0, 3.0, 2.0]), [-1, -1]).is_ok()
        );
    }

    /// Against probes of random trees: what is certified is never broken, and what a probe breaks is never certified.
    #[test]
    fn a_certificate_agrees_with_random_probes() {
        let mut rng = Rng::seeded(3);
        let (mut certified, mut refused) = (0, 0);
        for _ in 0..3_000 {
            let leaves = std::array::from_fn(|_| rng.below(4) as f64);
            let mut tree = tree(rng.below(3) as f64, rng.below(3) as f64, leaves);
            tree.nodes[1].missing_left = rng.bernoulli(0.5);
            tree.nodes[2].missing_left = rng.bernoulli(0.5);
            let value = |x: &[f64; 2]| {
                let mut at = tree.root();
                loop {
                    match at {
                        Child::Leaf(leaf) => return tree.leaves[leaf],
                        Child::Node(node) => {
                            let node = &tree.nodes[node];
                            at = if node.goes_left(x[node.column as usize]) { node.left() } else { node.right() };
                        }
                    }
                }
            };
            let others = [f64::NAN, f64::NEG_INFINITY, -1.0, 0.0, 0.5, 1.0, 1.5, 2.0, 3.0];
            let breaks = |column: usize| {
                others.iter().any(|&other| {
                    let walk = others[1..].iter().map(|&x| value(&if column == 0 { [x, other] } else { [other, x] }));
                    walk.collect::<Vec<_>>().windows(2).any(|pair| pair[0] > pair[1])
                })
            };
            for (column, monotone) in [[1, 0], [0, 1]].into_iter().enumerate() {
                let broken = breaks(column);
                assert_eq!(check(tree.clone(), monotone).is_err(), broken, "{tree:?}");
                if broken { refused += 1 } else { certified += 1 }
            }
        }
        assert!(certified > 500 && refused > 500, "{certified} {refused}");
    }

    #[test]
    fn a_model_with_directions_holds_its_certificate() {
        let mut rng = Rng::seeded(4);
        let rows: Vec<Vec<f64>> = (0..3_000)
            .map(|_| {
                let x = [rng.normal(), rng.below(20) as f64, rng.normal()];
                vec![x[0], x[1], x[2], f64::from(u8::from(x[0] + (x[1] * 7.0).sin() - x[2] + rng.normal() > 0.0))]
            })
            .collect();
        let parameters =
            Gbdt { trees: 30, monotone: vec![1, 0, -1], categorical: vec!["x1".into()], early_stopping: Some(5), ..Gbdt::default() };
        let model = fit(&training_set(&rows), &parameters).unwrap();
        let held = model.report().certificate.clone().unwrap();
        assert!(held.columns == 2 && held.trees == model.trees() && held.splits > model.trees());
        assert_eq!(model.certify().unwrap(), Some(held));
        let back = load(&model.to_bytes()).unwrap();
        assert_eq!(back.describe(), model.describe());
        assert_eq!(fit(&training_set(&rows), &Gbdt::default()).unwrap().report().certificate, None);
    }
}
