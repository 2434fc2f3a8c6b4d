//! The whole state of a tree as bytes.

use super::leaf::{Leaf, Observer};
use super::node::{Node, Part, Split};
use super::{Adwin, DEEPEST, HoeffdingTree, HoeffdingTreeModel, KIND, MOST_CLASSES, Report, Spread};
use crate::format::{Header, Reader, Sealed, Writer, seal};
use crate::{LearnError, Model};

const LEAF: u8 = 0;
const SPLIT: u8 = 1;
const SPLIT_WITH_ALTERNATE: u8 = 2;

pub(super) fn write(tree: &HoeffdingTreeModel) -> Vec<u8> {
    let mut body = Writer::default();
    write_node(&tree.root, &mut body);
    let (inputs, parameters, report) = (tree.inputs.clone(), tree.parameters.clone(), tree.report.clone());
    seal(&Header { kind: KIND.into(), inputs, parameters, report }, body)
}

fn write_node(node: &Node, to: &mut Writer) {
    to.f64s(&node.counts);
    node.errors.write(to);
    match &node.part {
        Part::Leaf(leaf) => {
            to.u8(LEAF);
            to.f64s(&leaf.seen);
            to.f64s(&[leaf.since, leaf.majority_right, leaf.bayes_right]);
            for observer in &leaf.observers {
                observer.spread.write(to);
                to.f64s(&[observer.least, observer.greatest]);
            }
        }
        Part::Split(split) => {
            to.u8(if split.alternate.is_some() { SPLIT_WITH_ALTERNATE } else { SPLIT });
            to.u32(split.column as u32);
            to.u8(u8::from(split.missing_left));
            to.f64s(&[split.threshold, split.information]);
            split.children.iter().for_each(|child| write_node(child, to));
            split.alternate.iter().for_each(|alternate| write_node(alternate, to));
        }
    }
}

/// What `load` reads: a model of one output.
pub(crate) fn read(sealed: &Sealed<'_>) -> Result<Box<dyn Model>, LearnError> {
    let tree = read_online(sealed)?;
    match tree.report.classes {
        2 => Ok(Box::new(tree)),
        classes => Err(LearnError::SeveralClasses { classes }),
    }
}

pub(in crate::learners::online) fn read_online(sealed: &Sealed<'_>) -> Result<HoeffdingTreeModel, LearnError> {
    let Header { inputs, parameters, report, .. } = sealed.header::<HoeffdingTree, Report>()?;
    parameters.check().map_err(|error| LearnError::corrupt(error.to_string()))?;
    if inputs.is_empty() || !(2..=MOST_CLASSES).contains(&report.classes) {
        return Err(LearnError::corrupt("a tree of no columns, or of no classes"));
    }
    let mut body = sealed.body();
    let root = Reading { columns: inputs.len(), classes: report.classes, parameters: &parameters }.node(&mut body, 1, true)?;
    body.end()?;
    if root.leaves() != report.leaves {
        return Err(LearnError::corrupt("a tree of another number of leaves"));
    }
    Ok(HoeffdingTreeModel { inputs, parameters, report, root })
}

struct Reading<'a> {
    columns: usize,
    classes: usize,
    parameters: &'a HoeffdingTree,
}

impl Reading<'_> {
    /// The depth bounds the stack, whatever a file says.
    fn node(&self, from: &mut Reader<'_>, depth: usize, main: bool) -> Result<Node, LearnError> {
        if depth > DEEPEST {
            return Err(LearnError::corrupt("a tree that is too deep"));
        }
        let counts = weights(from, self.classes)?;
        let errors = Adwin::read(from, self.parameters.drift_delta.unwrap_or(0.5))?;
        let part = match from.u8()? {
            LEAF => Part::Leaf(self.leaf(from)?),
            tag @ (SPLIT | SPLIT_WITH_ALTERNATE) => {
                let (column, missing_left) = (from.u32()? as usize, from.u8()?);
                let (threshold, information) = (from.f64()?, from.f64()?);
                if column >= self.columns || missing_left > 1 || !threshold.is_finite() || !(information.is_finite() && information >= 0.0)
                {
                    return Err(LearnError::corrupt("a split that is none"));
                }
                let children = Box::new([self.node(from, depth + 1, main)?, self.node(from, depth + 1, main)?]);
                let alternate = match tag {
                    SPLIT => None,
                    _ if main => Some(Box::new(self.node(from, depth, false)?)),
                    _ => return Err(LearnError::corrupt("an alternate of an alternate")),
                };
                Part::Split(Split { column, threshold, missing_left: missing_left == 1, information, children, alternate })
            }
            _ => return Err(LearnError::corrupt("a node that is neither a leaf nor a split")),
        };
        Ok(Node { counts, errors, part })
    }

    fn leaf(&self, from: &mut Reader<'_>) -> Result<Leaf, LearnError> {
        let seen = weights(from, self.classes)?;
        let [since, majority_right, bayes_right] = weights(from, 3)?[..] else { return Err(LearnError::corrupt("it ends too early")) };
        let count = self.columns.saturating_mul(self.classes);
        from.room_for(count, 40)?;
        let observers = (0..count).map(|_| observer(from)).collect::<Result<Vec<_>, _>>()?;
        Ok(Leaf { seen, observers, since, majority_right, bayes_right })
    }
}

fn weights(from: &mut Reader<'_>, count: usize) -> Result<Vec<f64>, LearnError> {
    let weights = from.f64s(count)?;
    let sound = weights.iter().all(|weight| weight.is_finite() && *weight >= 0.0);
    if sound { Ok(weights) } else { Err(LearnError::corrupt("a weight that is none")) }
}

fn observer(from: &mut Reader<'_>) -> Result<Observer, LearnError> {
    let observer = Observer { spread: Spread::read(from)?, least: from.f64()?, greatest: from.f64()? };
    let sound = match observer.spread.weight > 0.0 {
        true => observer.least.abs() <= 1e100 && observer.greatest.abs() <= 1e100 && observer.least <= observer.greatest,
        false => observer == Observer::default(),
    };
    if sound { Ok(observer) } else { Err(LearnError::corrupt("a column's values that are none")) }
}
