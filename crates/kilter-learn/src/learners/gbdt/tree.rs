//! A binary decision tree: its shape, its bytes, and the flat copy that scores.

use super::categories::BinSet;
use super::grow::MAX_DEPTH;
use crate::LearnError;
use crate::format::{Reader, Writer};

/// One tree. Nodes come before their children; the first node is the root; without nodes the first leaf is the whole tree.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Tree {
    pub nodes: Vec<Node>,
    /// Log-odds added by each leaf.
    pub leaves: Vec<f64>,
    /// Training rows that reached each leaf.
    pub leaf_rows: Vec<u32>,
    /// What nodes ask of categories.
    pub sets: Vec<BinSet>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Node {
    pub column: u32,
    /// Values up to this go left.
    pub threshold: f64,
    pub missing_left: bool,
    /// How much the split lowered the training loss (doubled, second order).
    pub gain: f64,
    /// Training rows that reached the node.
    pub rows: u32,
    left: i32,
    right: i32,
    /// Which of the tree's sets holds the bins that go left; [`NO_SET`] of a node with a threshold.
    set: u32,
}

const NO_SET: u32 = u32::MAX;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Child {
    Node(usize),
    Leaf(usize),
}

impl Node {
    pub fn new(column: usize, threshold: f64, missing_left: bool, gain: f64, rows: u32) -> Self {
        Node { column: column as u32, threshold, missing_left, gain, rows, left: 0, right: 0, set: NO_SET }
    }

    pub fn left(&self) -> Child {
        Child::unpack(self.left)
    }

    pub fn right(&self) -> Child {
        Child::unpack(self.right)
    }

    pub fn set_left(&mut self, child: Child) {
        self.left = child.pack();
    }

    pub fn set_right(&mut self, child: Child) {
        self.right = child.pack();
    }

    #[cfg(test)]
    pub fn goes_left(&self, value: f64) -> bool {
        assert_eq!(self.set, NO_SET);
        goes_left(value, self.threshold, self.missing_left)
    }
}

#[inline(always)]
fn goes_left(value: f64, threshold: f64, missing_left: bool) -> bool {
    (value <= threshold) | (value.is_nan() & missing_left)
}

impl Child {
    fn pack(self) -> i32 {
        match self {
            Child::Node(index) => index as i32,
            Child::Leaf(index) => !(index as i32),
        }
    }

    fn unpack(packed: i32) -> Self {
        if packed >= 0 { Child::Node(packed as usize) } else { Child::Leaf(!packed as usize) }
    }
}

impl Tree {
    pub fn root(&self) -> Child {
        if self.nodes.is_empty() { Child::Leaf(0) } else { Child::Node(0) }
    }

    pub fn rows(&self, child: Child) -> f64 {
        f64::from(match child {
            Child::Node(index) => self.nodes[index].rows,
            Child::Leaf(index) => self.leaf_rows[index],
        })
    }

    /// Says anew how many training rows reach each leaf.
    pub fn set_rows(&mut self, leaf_rows: Vec<u32>) {
        self.leaf_rows = leaf_rows;
        // Children come after their parents.
        for index in (0..self.nodes.len()).rev() {
            let [left, right] = [self.nodes[index].left(), self.nodes[index].right()].map(|child| match child {
                Child::Node(node) => self.nodes[node].rows,
                Child::Leaf(leaf) => self.leaf_rows[leaf],
            });
            self.nodes[index].rows = left + right;
        }
    }

    /// A node of this tree that asks for bins of categories.
    pub fn node_of_set(&mut self, column: usize, set: BinSet, gain: f64, rows: u32) -> Node {
        self.sets.push(set);
        Node { set: self.sets.len() as u32 - 1, ..Node::new(column, 0.0, set.has(super::binned::MISSING), gain, rows) }
    }

    /// The bins that a node sends left, of a node that asks for categories.
    pub fn set(&self, node: &Node) -> Option<&BinSet> {
        self.sets.get(node.set as usize)
    }

    pub fn has_sets(&self) -> bool {
        !self.sets.is_empty()
    }

    /// The leaf that a row reaches whose bin in a column is known; `bins` stand for the nodes' thresholds.
    pub fn leaf_of_bins(&self, bins: &[u8], bin_of: impl Fn(usize) -> u8) -> usize {
        let mut at = self.root();
        loop {
            match at {
                Child::Leaf(leaf) => return leaf,
                Child::Node(index) => {
                    let node = &self.nodes[index];
                    let bin = bin_of(node.column as usize);
                    let left = match self.set(node) {
                        Some(set) => set.has(bin),
                        None if bin == super::binned::MISSING => node.missing_left,
                        None => bin <= bins[index],
                    };
                    at = if left { node.left() } else { node.right() };
                }
            }
        }
    }

    /// The leaf that a row reaches whose values, as trees see them, are known.
    pub fn leaf_of_values(&self, value_of: impl Fn(usize) -> f64) -> usize {
        let mut at = self.root();
        loop {
            match at {
                Child::Leaf(leaf) => return leaf,
                Child::Node(index) => {
                    let node = &self.nodes[index];
                    let value = value_of(node.column as usize);
                    let left = match self.set(node) {
                        Some(set) => set.holds(value),
                        None => goes_left(value, node.threshold, node.missing_left),
                    };
                    at = if left { node.left() } else { node.right() };
                }
            }
        }
    }

    pub fn depth(&self) -> usize {
        let mut depths = vec![1; self.nodes.len()];
        for (index, node) in self.nodes.iter().enumerate() {
            for child in [node.left(), node.right()] {
                if let Child::Node(child) = child {
                    depths[child] = depths[index] + 1;
                }
            }
        }
        depths.into_iter().max().unwrap_or(0)
    }

    pub fn write(&self, to: &mut Writer) {
        to.u32(self.nodes.len() as u32);
        for node in &self.nodes {
            to.u32(node.column);
            to.u8(u8::from(node.missing_left));
            to.u32(node.left as u32);
            to.u32(node.right as u32);
            to.u32(node.rows);
            to.f64(node.threshold);
            to.f64(node.gain);
        }
        for (&value, &rows) in self.leaves.iter().zip(&self.leaf_rows) {
            to.f64(value);
            to.u32(rows);
        }
    }

    /// What `write` leaves out: nodes that ask for categories, and what they ask.
    pub fn write_sets(&self, to: &mut Writer) {
        to.u32(self.sets.len() as u32);
        for (index, node) in self.nodes.iter().enumerate() {
            if let Some(set) = self.set(node) {
                to.u32(index as u32);
                set.0.iter().for_each(|&word| to.u64(word));
            }
        }
    }

    /// Reads what `write_sets` wrote; `categories` says which columns hold bins.
    pub fn read_sets(&mut self, from: &mut Reader<'_>, categories: &[bool]) -> Result<(), LearnError> {
        let count = from.u32()? as usize;
        from.room_for(count, 36)?;
        for _ in 0..count {
            let node = from.u32()? as usize;
            let set = BinSet([from.u64()?, from.u64()?, from.u64()?, from.u64()?]);
            let node = self.nodes.get_mut(node).filter(|node| node.set == NO_SET);
            let node = node.ok_or_else(|| LearnError::corrupt("a set of categories without a node"))?;
            node.set = self.sets.len() as u32;
            node.missing_left = set.has(super::binned::MISSING);
            self.sets.push(set);
        }
        // A threshold on a column of bins, or bins of a column of numbers, would mean nothing.
        match self.nodes.iter().all(|node| categories[node.column as usize] == (node.set != NO_SET)) {
            true => Ok(()),
            false => Err(LearnError::corrupt("a node that asks for categories where there are numbers, or the reverse")),
        }
    }

    /// Reads a tree and checks that it is one: every child later than its parent and reached once, columns known, numbers usable.
    pub fn read(from: &mut Reader<'_>, columns: usize) -> Result<Self, LearnError> {
        let nodes = from.u32()? as usize;
        from.room_for(nodes, 33)?;
        let mut tree = Tree::default();
        for _ in 0..nodes {
            let column = from.u32()?;
            let missing_left = from.u8()? != 0;
            let (left, right) = (from.u32()? as i32, from.u32()? as i32);
            let rows = from.u32()?;
            let (threshold, gain) = (from.f64()?, from.f64()?);
            tree.nodes.push(Node { column, threshold, missing_left, gain, rows, left, right, set: NO_SET });
        }
        for _ in 0..=nodes {
            tree.leaves.push(from.f64()?);
            tree.leaf_rows.push(from.u32()?);
        }
        let fault = |what: &str| Err(LearnError::corrupt(format!("a tree has {what}")));
        let mut reached = vec![0u8; nodes];
        let mut leaf_reached = vec![0u8; nodes + 1];
        for (index, node) in tree.nodes.iter().enumerate() {
            if node.column as usize >= columns || node.threshold.is_nan() || !node.gain.is_finite() {
                return fault("a node of an unknown column, or a threshold or gain that is no number");
            }
            let mut rows = 0.0;
            for child in [node.left(), node.right()] {
                let reached = match child {
                    Child::Node(child) if child > index => reached.get_mut(child),
                    Child::Node(_) => None,
                    Child::Leaf(leaf) => leaf_reached.get_mut(leaf),
                };
                let Some(reached) = reached else { return fault("a child that does not exist") };
                *reached = reached.saturating_add(1);
                rows += tree.rows(child);
            }
            if rows != f64::from(node.rows) {
                return fault("a node whose rows are not its children's");
            }
        }
        let leaves_once = nodes == 0 || leaf_reached.iter().all(|&times| times == 1);
        if reached.iter().skip(1).any(|&times| times != 1) || !leaves_once {
            return fault("a part that is not reached exactly once");
        }
        if tree.leaf_rows.contains(&0) || tree.leaves.iter().any(|value| !value.is_finite()) {
            return fault("a leaf without rows or without a finite value");
        }
        if tree.depth() > MAX_DEPTH {
            return fault("too many levels");
        }
        Ok(tree)
    }
}

/// Trees walked together.
const LANES: usize = 8;

/// All trees in one array, walked eight at a time.
///
/// One walk is a chain of loads that each wait for the one before; eight chains wait side by side. A leaf points at itself, so walks of
/// unequal length need no branch: each group takes as many steps as its deepest tree. Leaf values are added in tree order.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::learners) struct Forest {
    nodes: Vec<FlatNode>,
    groups: Vec<Group>,
    sets: Vec<BinSet>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct FlatNode {
    /// The threshold, or a leaf's value.
    number: f64,
    column: u32,
    missing_left: bool,
    /// The number is that of a set.
    of_set: bool,
    left: u32,
    right: u32,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Group {
    roots: [u32; LANES],
    trees: usize,
    steps: usize,
}

impl Forest {
    pub fn new(trees: &[Tree]) -> Self {
        let mut forest = Forest { nodes: Vec::new(), groups: Vec::new(), sets: Vec::new() };
        for group in trees.chunks(LANES) {
            let mut roots = [0; LANES];
            let mut steps = 0;
            for (root, tree) in roots.iter_mut().zip(group) {
                *root = forest.push(tree);
                steps = steps.max(tree.depth());
            }
            // A group with fewer trees walks its first one again and does not count it.
            let first = roots[0];
            roots[group.len()..].fill(first);
            forest.groups.push(Group { roots, trees: group.len(), steps });
        }
        forest
    }

    fn push(&mut self, tree: &Tree) -> u32 {
        let root = self.nodes.len() as u32;
        let first_leaf = root + tree.nodes.len() as u32;
        let place = |child| match child {
            Child::Node(index) => root + index as u32,
            Child::Leaf(index) => first_leaf + index as u32,
        };
        let first_set = self.sets.len();
        self.sets.extend(&tree.sets);
        self.nodes.extend(tree.nodes.iter().map(|node| FlatNode {
            number: if node.set == NO_SET { node.threshold } else { (first_set + node.set as usize) as f64 },
            column: node.column,
            missing_left: node.missing_left,
            of_set: node.set != NO_SET,
            left: place(node.left()),
            right: place(node.right()),
        }));
        self.nodes.extend(tree.leaves.iter().zip(first_leaf..).map(|(&value, own)| FlatNode {
            number: value,
            column: 0,
            missing_left: false,
            of_set: false,
            left: own,
            right: own,
        }));
        root
    }

    pub fn sum(&self, base: f64, row: &[f64]) -> f64 {
        if self.sets.is_empty() { self.walk::<false>(base, row) } else { self.walk::<true>(base, row) }
    }

    fn walk<const SETS: bool>(&self, base: f64, row: &[f64]) -> f64 {
        let mut sum = base;
        for group in &self.groups {
            let mut at = group.roots;
            for _ in 0..group.steps {
                for at in &mut at {
                    let node = &self.nodes[*at as usize];
                    let value = row[node.column as usize];
                    let left = match SETS && node.of_set {
                        true => self.sets[node.number as usize].holds(value),
                        false => goes_left(value, node.number, node.missing_left),
                    };
                    *at = if left { node.left } else { node.right };
                }
            }
            for &at in &at[..group.trees] {
                sum += self.nodes[at as usize].number;
            }
        }
        sum
    }
}
