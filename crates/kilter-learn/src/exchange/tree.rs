//! A tree of another program: any of their tests, any of their rules for missing values, and a weight for each place.

use crate::LearnError;
use crate::format::{Reader, Writer};
use crate::gbdt::{Child, Explained, MAX_DEPTH, Test};

use super::ensemble::Inputs;
use super::portable::PlainTree;

/// Share of a node's training rows that a child counts for in explanations at the least: with none at all there is no mean to speak of.
const LEAST_SHARE: f64 = 1e-9;

/// Where a value that is there goes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Rule {
    /// Left if value <= number.
    AtMost(f64),
    /// Left if value < number.
    Below(f64),
    /// Left if the value, cut to a whole number, is one of `count` categories from `first` in the tree's list.
    OneOf { first: u32, count: u32 },
    /// The same, but values below 0 are no category, not even -0.5.
    OneOfFromZero { first: u32, count: u32 },
}

/// Where a value that is not there goes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Missing {
    Left,
    Right,
    /// It counts as 0.
    IsZero,
    /// It goes left, and so does 0.
    ZeroTooLeft,
    /// It goes right, and so does 0.
    ZeroTooRight,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Split {
    pub column: u32,
    pub rule: Rule,
    pub missing: Missing,
}

/// A part of a tree as a file has it, in any order.
#[derive(Clone, Debug)]
pub(super) enum Part {
    Split { split: Split, left: usize, right: usize, cover: f64, gain: f64 },
    Leaf { value: f64, cover: f64 },
}

/// Nodes come before their children and the first is the root; without nodes the first leaf is the whole tree.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Tree {
    splits: Vec<Split>,
    children: Vec<[i32; 2]>,
    /// Weight of training rows and gain of each split.
    covers: Vec<f64>,
    gains: Vec<f64>,
    leaves: Vec<f64>,
    leaf_covers: Vec<f64>,
    /// Sorted categories of the tests that name some.
    categories: Vec<u32>,
}

impl Split {
    /// Whether a value of the split's column goes left.
    #[inline(always)]
    fn goes_left(&self, mut value: f64, categories: &[u32]) -> bool {
        match self.missing {
            Missing::Left if value.is_nan() => return true,
            Missing::Right if value.is_nan() => return false,
            Missing::IsZero if value.is_nan() => value = 0.0,
            Missing::ZeroTooLeft if value.is_nan() || value == 0.0 => return true,
            Missing::ZeroTooRight if value.is_nan() || value == 0.0 => return false,
            _ => {}
        }
        match self.rule {
            Rule::AtMost(number) => value <= number,
            Rule::Below(number) => value < number,
            Rule::OneOf { first, count } => value > -1.0 && holds(categories, first, count, value),
            Rule::OneOfFromZero { first, count } => value >= 0.0 && holds(categories, first, count, value),
        }
    }
}

fn holds(categories: &[u32], first: u32, count: u32, value: f64) -> bool {
    // Past u32 the cast stays at its largest value, which is no category: readers take them up to i32.
    categories[first as usize..(first + count) as usize].binary_search(&(value as u32)).is_ok()
}

fn child(packed: i32) -> Child {
    if packed >= 0 { Child::Node(packed as usize) } else { Child::Leaf(!packed as usize) }
}

impl Tree {
    /// A tree of another program's file. Parts that the root does not lead to are left out.
    pub fn build(parts: &[Part], root: usize, categories: Vec<u32>) -> Result<Self, String> {
        let mut tree = Tree::ordered(parts, root, categories)?;
        tree.even_out();
        Ok(tree)
    }

    /// The tree at a root among the parts of many. Memory is asked for by what the tree has, not by all there is.
    pub fn within(parts: &[Part], root: usize) -> Result<Self, String> {
        let mut own = Vec::new();
        let mut open = vec![(root, None::<(usize, bool)>)];
        while let Some((at, from)) = open.pop() {
            let mut part = parts.get(at).cloned().ok_or_else(|| format!("node {at} does not exist; there are {}", parts.len()))?;
            // A tree that comes back to its own nodes has more than there are.
            if own.len() >= parts.len() {
                return Err(format!("node {at} is reached twice"));
            }
            let place = own.len();
            if let Some((parent, is_left)) = from
                && let Part::Split { left, right, .. } = &mut own[parent]
            {
                *(if is_left { left } else { right }) = place;
            }
            if let Part::Split { left, right, .. } = &mut part {
                open.push((std::mem::replace(right, usize::MAX), Some((place, false))));
                open.push((std::mem::replace(left, usize::MAX), Some((place, true))));
            }
            own.push(part);
        }
        Tree::build(&own, 0, Vec::new())
    }

    /// Puts the parts in order, from the root down.
    fn ordered(parts: &[Part], root: usize, categories: Vec<u32>) -> Result<Self, String> {
        let mut tree = Tree { categories, ..Tree::default() };
        let mut reached = vec![false; parts.len()];
        /// A part to place, the node and side that lead to it, and its depth.
        struct Open {
            at: usize,
            from: Option<(usize, usize)>,
            depth: usize,
        }
        let mut open = vec![Open { at: root, from: None, depth: 0 }];
        while let Some(Open { at, from, depth }) = open.pop() {
            let part = parts.get(at).ok_or_else(|| format!("node {at} does not exist; there are {}", parts.len()))?;
            if std::mem::replace(&mut reached[at], true) {
                return Err(format!("node {at} is reached twice"));
            }
            let packed = match *part {
                Part::Leaf { value, cover } => {
                    if !value.is_finite() {
                        return Err(format!("the value of leaf {at} is {value}"));
                    }
                    tree.leaves.push(value);
                    tree.leaf_covers.push(cover);
                    !(tree.leaves.len() as i32 - 1)
                }
                Part::Split { split, left, right, cover, gain } => {
                    if depth == MAX_DEPTH {
                        return Err(format!("more than {MAX_DEPTH} splits lie above each other"));
                    }
                    if let Rule::AtMost(number) | Rule::Below(number) = split.rule
                        && number.is_nan()
                    {
                        return Err(format!("the threshold of node {at} is not a number"));
                    }
                    let node = tree.splits.len();
                    tree.splits.push(split);
                    tree.children.push([0; 2]);
                    tree.covers.push(cover);
                    tree.gains.push(if gain.is_finite() { gain } else { 0.0 });
                    open.push(Open { at: right, from: Some((node, 1)), depth: depth + 1 });
                    open.push(Open { at: left, from: Some((node, 0)), depth: depth + 1 });
                    node as i32
                }
            };
            if let Some((node, side)) = from {
                tree.children[node][side] = packed;
            }
        }
        Ok(tree)
    }

    /// Gives every place a weight above 0, the sum of the weights below it.
    ///
    /// Files round these numbers, and some leave them out: then each side of a split counts half.
    fn even_out(&mut self) {
        let usable = |cover: f64| cover.is_finite() && cover > 0.0;
        let known = self.leaf_covers.iter().chain(&self.covers).any(|&cover| usable(cover));
        let root = Tree::root(self);
        let total = if usable(self.cover(root)) { self.cover(root) } else { 1.0 };
        self.set_cover(root, total);
        for node in 0..self.splits.len() {
            let [left, right] = self.children[node].map(child);
            let (a, b) = (self.cover(left), self.cover(right));
            let (a, b) = if known { (if usable(a) { a } else { 0.0 }, if usable(b) { b } else { 0.0 }) } else { (1.0, 1.0) };
            let share = if a + b > 0.0 { (a / (a + b)).clamp(LEAST_SHARE, 1.0 - LEAST_SHARE) } else { 0.5 };
            let own = self.covers[node];
            self.set_cover(left, own * share);
            self.set_cover(right, own * (1.0 - share));
        }
    }

    fn set_cover(&mut self, at: Child, cover: f64) {
        // Below this a product of shares on a long path would end at 0, and a share of nothing is no number.
        let cover = cover.max(f64::MIN_POSITIVE * 1e60);
        match at {
            Child::Node(node) => self.covers[node] = cover,
            Child::Leaf(leaf) => self.leaf_covers[leaf] = cover,
        }
    }

    fn root(&self) -> Child {
        if self.splits.is_empty() { Child::Leaf(0) } else { Child::Node(0) }
    }

    fn cover(&self, at: Child) -> f64 {
        match at {
            Child::Node(node) => self.covers[node],
            Child::Leaf(leaf) => self.leaf_covers[leaf],
        }
    }

    #[inline(always)]
    pub fn leaf(&self, inputs: Inputs, row: &[f64]) -> f64 {
        if self.splits.is_empty() {
            return self.leaves[0];
        }
        let mut at = 0i32;
        while at >= 0 {
            let split = &self.splits[at as usize];
            let left = split.goes_left(inputs.take(row[split.column as usize]), &self.categories);
            at = self.children[at as usize][usize::from(!left)];
        }
        self.leaves[!at as usize]
    }

    /// The tree by columns, of one that asks for no categories.
    pub fn plain(&self) -> PlainTree {
        let threshold = |split: &Split| match split.rule {
            Rule::AtMost(number) | Rule::Below(number) => number,
            Rule::OneOf { .. } | Rule::OneOfFromZero { .. } => f64::NAN,
        };
        PlainTree {
            column: self.splits.iter().map(|split| split.column).collect(),
            threshold: self.splits.iter().map(|split| threshold(split).into()).collect(),
            at_most: self.splits.iter().map(|split| matches!(split.rule, Rule::AtMost(_))).collect(),
            missing: self.splits.iter().map(|split| split.missing as u8).collect(),
            left: self.children.iter().map(|children| children[0]).collect(),
            right: self.children.iter().map(|children| children[1]).collect(),
            leaf: self.leaves.clone(),
        }
    }

    pub fn leaf_count(&self) -> usize {
        self.leaves.len()
    }

    /// Columns that are split on, each with the split's gain.
    pub fn gains(&self) -> impl Iterator<Item = (usize, f64)> {
        self.splits.iter().map(|split| split.column as usize).zip(self.gains.iter().copied())
    }

    /// Columns whose values are looked up in a set of categories.
    pub fn categorical_columns(&self) -> impl Iterator<Item = usize> {
        let categorical = |split: &&Split| matches!(split.rule, Rule::OneOf { .. } | Rule::OneOfFromZero { .. });
        self.splits.iter().filter(categorical).map(|split| split.column as usize)
    }

    pub fn depth(&self) -> usize {
        let mut depths = vec![1; self.splits.len()];
        for (node, children) in self.children.iter().enumerate() {
            for &below in children.iter().filter(|&&below| below >= 0) {
                depths[below as usize] = depths[node] + 1;
            }
        }
        depths.into_iter().max().unwrap_or(0)
    }

    pub fn write(&self, to: &mut Writer) {
        to.u32(self.splits.len() as u32);
        to.u32(self.categories.len() as u32);
        for (node, split) in self.splits.iter().enumerate() {
            to.u32(split.column);
            to.u8(split.missing as u8);
            let (rule, number, first, count) = match split.rule {
                Rule::AtMost(number) => (0, number, 0, 0),
                Rule::Below(number) => (1, number, 0, 0),
                Rule::OneOf { first, count } => (2, 0.0, first, count),
                Rule::OneOfFromZero { first, count } => (3, 0.0, first, count),
            };
            to.u8(rule);
            to.f64(number);
            to.u32(first);
            to.u32(count);
            self.children[node].iter().for_each(|&below| to.u32(below as u32));
            to.f64(self.covers[node]);
            to.f64(self.gains[node]);
        }
        for (&value, &cover) in self.leaves.iter().zip(&self.leaf_covers) {
            to.f64(value);
            to.f64(cover);
        }
        self.categories.iter().for_each(|&category| to.u32(category));
    }

    /// Reads a tree and checks that it is one, by putting it in order once more.
    pub fn read(from: &mut Reader<'_>, columns: usize) -> Result<Self, LearnError> {
        let (nodes, categories) = (from.u32()? as usize, from.u32()? as usize);
        from.room_for(nodes, 46)?;
        from.room_for(categories, 4)?;
        let fault = |what: String| LearnError::corrupt(format!("a tree: {what}"));
        let mut parts = Vec::new();
        for _ in 0..nodes {
            let (column, missing, rule) = (from.u32()?, from.u8()?, from.u8()?);
            let (number, first, count) = (from.f64()?, from.u32()?, from.u32()?);
            let [left, right] = [from.u32()?, from.u32()?].map(|packed| match child(packed as i32) {
                Child::Node(node) => node,
                Child::Leaf(leaf) => nodes + leaf,
            });
            let (cover, gain) = (from.f64()?, from.f64()?);
            let missing = match missing {
                0 => Missing::Left,
                1 => Missing::Right,
                2 => Missing::IsZero,
                3 => Missing::ZeroTooLeft,
                4 => Missing::ZeroTooRight,
                _ => return Err(fault("an unknown rule for missing values".into())),
            };
            let rule = match rule {
                0 => Rule::AtMost(number),
                1 => Rule::Below(number),
                2 => Rule::OneOf { first, count },
                3 => Rule::OneOfFromZero { first, count },
                _ => return Err(fault("an unknown test".into())),
            };
            if first.checked_add(count).is_none_or(|end| end as usize > categories) || column as usize >= columns {
                return Err(fault("a split on unknown categories or an unknown column".into()));
            }
            parts.push(Part::Split { split: Split { column, rule, missing }, left, right, cover, gain });
        }
        from.room_for(nodes + 1, 16)?;
        for _ in 0..=nodes {
            parts.push(Part::Leaf { value: from.f64()?, cover: from.f64()? });
        }
        let categories = (0..categories).map(|_| from.u32()).collect::<Result<Vec<_>, _>>()?;
        let root = if nodes == 0 { nodes } else { 0 };
        let tree = Tree::ordered(&parts, root, categories).map_err(fault)?;
        if tree.splits.len() != nodes || tree.leaves.len() != nodes + 1 {
            return Err(fault("a part that the root does not lead to".into()));
        }
        let usable = |node: usize| {
            let below = tree.children[node].map(|packed| tree.cover(child(packed)));
            below.iter().all(|&cover| cover > 0.0 && cover <= tree.covers[node] * 1.001)
        };
        let root_cover = tree.cover(Tree::root(&tree));
        if !root_cover.is_finite() || root_cover <= 0.0 || !(0..nodes).all(usable) {
            return Err(fault("a place with less weight than those below it".into()));
        }
        Ok(tree)
    }
}

/// A split with all that it needs, for the tables of explanations.
#[derive(Debug)]
pub(super) struct OwnTest {
    split: Split,
    categories: Vec<u32>,
    inputs: Inputs,
}

impl Test for OwnTest {
    fn goes_left(&self, row: &[f64]) -> bool {
        self.split.goes_left(self.inputs.take(row[self.split.column as usize]), &self.categories)
    }
}

/// A tree and how its program takes inputs.
pub(super) struct Taken<'a>(pub &'a Tree, pub Inputs);

impl Explained for Taken<'_> {
    type Test = OwnTest;

    fn test(&self, node: usize) -> OwnTest {
        let mut split = self.0.splits[node];
        let mut categories = Vec::new();
        if let Rule::OneOf { first, count } | Rule::OneOfFromZero { first, count } = &mut split.rule {
            categories.extend_from_slice(&self.0.categories[*first as usize..(*first + *count) as usize]);
            *first = 0;
        }
        OwnTest { split, categories, inputs: self.1 }
    }
    fn root(&self) -> Child {
        Tree::root(self.0)
    }
    fn column(&self, node: usize) -> u32 {
        self.0.splits[node].column
    }
    fn children(&self, node: usize) -> [Child; 2] {
        self.0.children[node].map(child)
    }
    fn cover(&self, at: Child) -> f64 {
        self.0.cover(at)
    }
    fn leaves(&self) -> &[f64] {
        &self.0.leaves
    }
}
