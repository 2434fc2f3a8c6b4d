//! Nodes: how a row passes through the tree, how leaves become splits, and how alternates come and go.

use super::leaf::{Candidate, Leaf, greatest};
use super::{Adwin, HoeffdingTree, LeafPrediction, Report, is_there};
use crate::learners::online::adwin::Change;

/// Errors that an alternate must have been watched for before it answers.
const FEWEST_ERRORS: f64 = 20.0;

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Node {
    /// Weight of rows by class: those that came by, and those the parent is thought to have had on this side.
    pub counts: Vec<f64>,
    /// 1 for a row that was predicted wrongly by what is below here, 0 for one that was not.
    pub errors: Adwin,
    pub part: Part,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Part {
    Leaf(Leaf),
    Split(Split),
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Split {
    pub column: usize,
    /// Values up to it go left.
    pub threshold: f64,
    pub missing_left: bool,
    /// Information that it told when it was made, in bits times the weight of rows.
    pub information: f64,
    pub children: Box<[Node; 2]>,
    /// What grows to take this node's place. Alternates have none themselves.
    pub alternate: Option<Box<Node>>,
}

/// A row to be learned from, and what is needed on its way.
pub(super) struct Lesson<'a> {
    pub parameters: &'a HoeffdingTree,
    pub row: &'a [f64],
    pub class: usize,
    pub weight: f64,
    pub report: &'a mut Report,
    pub logs: &'a mut Vec<f64>,
    pub column: &'a mut Vec<f64>,
}

/// A row to be answered for.
pub(super) struct Asked<'a> {
    pub parameters: &'a HoeffdingTree,
    pub row: &'a [f64],
    pub logs: &'a mut Vec<f64>,
    pub column: &'a mut Vec<f64>,
}

/// Of logarithms of shares one margin: of two classes the log-odds of class 1, otherwise that of a class.
pub(super) fn output(logs: &[f64], of: usize) -> f64 {
    if let [zero, one] = logs { one - zero } else { logs[of] }
}

impl Split {
    fn side(&self, row: &[f64]) -> usize {
        let value = row[self.column];
        let left = if is_there(value) { value <= self.threshold } else { self.missing_left };
        usize::from(!left)
    }
}

impl Node {
    pub fn empty(columns: usize, classes: usize, parameters: &HoeffdingTree) -> Node {
        Node::of(vec![0.0; classes], columns, parameters)
    }

    fn of(counts: Vec<f64>, columns: usize, parameters: &HoeffdingTree) -> Node {
        let leaf = Leaf::empty(columns, counts.len());
        Node { counts, errors: parameters.window(), part: Part::Leaf(leaf) }
    }

    /// Learns from the row, and says whether what is below here had predicted it wrongly.
    pub fn learn(&mut self, lesson: &mut Lesson<'_>, depth: usize, main: bool) -> bool {
        let wrong = match &mut self.part {
            Part::Split(split) => split.children[split.side(lesson.row)].learn(lesson, depth + 1, main),
            Part::Leaf(leaf) => learn_at(leaf, &self.counts, lesson),
        };
        self.counts[lesson.class] += lesson.weight;
        let adaptive = lesson.parameters.drift_delta.is_some();
        let change = if adaptive { self.errors.add(f64::from(u8::from(wrong))) } else { None };
        if let Part::Leaf(leaf) = &mut self.part {
            if leaf.since >= lesson.parameters.grace_period {
                leaf.since = 0.0;
                self.try_to_split(lesson, depth);
            }
        } else if main && adaptive {
            self.adapt(change, lesson, depth);
        }
        wrong
    }

    fn try_to_split(&mut self, lesson: &mut Lesson<'_>, depth: usize) {
        let Part::Leaf(leaf) = &self.part else { return };
        let parameters = lesson.parameters;
        if depth >= parameters.max_depth || lesson.report.leaves >= parameters.max_leaves {
            return;
        }
        let Some(Candidate { column, threshold, gain, missing_left, sides }) = worth_a_split(leaf, parameters) else { return };
        let columns = lesson.row.len();
        let children = sides.map(|counts| Node::of(counts, columns, parameters));
        let information = gain * leaf.seen.iter().sum::<f64>();
        self.part = Part::Split(Split { column, threshold, missing_left, information, children: Box::new(children), alternate: None });
        // The errors of a leaf say nothing about those of the tree below.
        self.errors = parameters.window();
        lesson.report.leaves += 1;
    }

    /// Begins an alternate where errors have risen, teaches the one there is, and lets it take over or go.
    fn adapt(&mut self, change: Option<Change>, lesson: &mut Lesson<'_>, depth: usize) {
        let Part::Split(split) = &mut self.part else { return };
        let parameters = lesson.parameters;
        let Some(alternate) = &mut split.alternate else {
            if change == Some(Change::Rise) && lesson.report.leaves < parameters.max_leaves {
                split.alternate = Some(Box::new(Node::empty(lesson.row.len(), self.counts.len(), parameters)));
                lesson.report.begun += 1;
                lesson.report.leaves += 1;
            }
            return;
        };
        alternate.learn(lesson, depth, false);
        let widths = [self.errors.width(), alternate.errors.width()];
        if widths.iter().any(|&width| width <= parameters.drift_window as f64) {
            return;
        }
        let (here, there) = (self.errors.mean(), alternate.errors.mean());
        let inverse = 1.0 / widths[0] + 1.0 / widths[1];
        let bound = libm::sqrt(2.0 * here * (1.0 - here) * libm::log(2.0 / parameters.switch_significance) * inverse);
        if here - there > bound {
            lesson.report.switched += 1;
            lesson.report.leaves -= split.children.iter().map(Node::leaves).sum::<usize>();
            if let Some(alternate) = split.alternate.take() {
                *self = *alternate;
            }
        } else if there - here > bound {
            lesson.report.dropped += 1;
            lesson.report.leaves -= alternate.leaves();
            split.alternate = None;
        }
    }

    /// The alternate, where it has erred less so far; it answers before it takes over.
    pub fn answering(&self) -> &Node {
        match &self.part {
            Part::Split(Split { alternate: Some(alternate), .. })
                if alternate.errors.width() >= FEWEST_ERRORS && alternate.errors.mean() < self.errors.mean() =>
            {
                alternate
            }
            _ => self,
        }
    }

    /// Which column a split looks at, and where the row goes from here; `None` at a leaf.
    pub fn next(&self, row: &[f64]) -> Option<(usize, &Node)> {
        match &self.part {
            Part::Leaf(_) => None,
            Part::Split(split) => Some((split.column, &split.children[split.side(row)])),
        }
    }

    /// The logarithms of the classes' shares, up to what they have in common, that the leaf of the row answers with.
    pub fn logs(&self, row: &[f64], parameters: &HoeffdingTree, out: &mut Vec<f64>, column: &mut Vec<f64>) {
        let mut node = self.answering();
        while let Some((_, child)) = node.next(row) {
            node = child.answering();
        }
        match &node.part {
            Part::Leaf(leaf) if leaf.answers_by_bayes(parameters) => {
                leaf.evidence(row, out, column);
            }
            _ => {
                out.clear();
                out.resize(node.counts.len(), 0.0);
            }
        }
        add_shares(&node.counts, out);
    }

    /// One margin of the classes' shares here; see [`output`].
    pub fn share(&self, of: usize) -> f64 {
        match self.counts[..] {
            [zero, one] => libm::log((one + 1.0) / (zero + 1.0)),
            _ => libm::log((self.counts[of] + 1.0) / (self.counts.iter().sum::<f64>() + self.counts.len() as f64)),
        }
    }

    /// Adds to contributions what naive Bayes takes from each value, where a leaf answers by it.
    pub fn add_evidence(&self, asked: &mut Asked<'_>, of: usize, contributions: &mut [f64]) {
        let Part::Leaf(leaf) = &self.part else { return };
        if !leaf.answers_by_bayes(asked.parameters) {
            return;
        }
        let damping = leaf.evidence(asked.row, asked.logs, asked.column);
        leaf.for_each_evidence(asked.row, asked.column, |column, evidence| contributions[column] += damping * output(evidence, of));
    }

    /// Leaves below here, those of alternates too.
    pub fn leaves(&self) -> usize {
        match &self.part {
            Part::Leaf(_) => 1,
            Part::Split(split) => {
                let alternate = split.alternate.as_ref().map_or(0, |alternate| alternate.leaves());
                split.children.iter().map(Node::leaves).sum::<usize>() + alternate
            }
        }
    }

    /// Levels of splits below here, without alternates.
    pub fn depth(&self) -> usize {
        match &self.part {
            Part::Leaf(_) => 0,
            Part::Split(split) => 1 + split.children.iter().map(Node::depth).max().unwrap_or(0),
        }
    }

    /// Of the splits made, and at leaves of the best one that each column would make.
    pub fn add_information(&self, to: &mut [f64]) {
        match &self.part {
            Part::Leaf(leaf) => {
                let seen: f64 = leaf.seen.iter().sum();
                leaf.candidates().for_each(|candidate| to[candidate.column] += candidate.gain * seen);
            }
            Part::Split(split) => {
                to[split.column] += split.information;
                split.children.iter().for_each(|child| child.add_information(to));
            }
        }
    }
}

/// Logarithms of shares in which every class has one row more: none is ruled out.
fn add_shares(counts: &[f64], out: &mut [f64]) {
    let total = counts.iter().sum::<f64>() + counts.len() as f64;
    out.iter_mut().zip(counts).for_each(|(out, count)| *out += libm::log((count + 1.0) / total));
}

/// Answers, then learns; whether the answer was wrong.
fn learn_at(leaf: &mut Leaf, counts: &[f64], lesson: &mut Lesson<'_>) -> bool {
    let majority = greatest(counts);
    let mut answer = majority;
    if lesson.parameters.leaf_prediction != LeafPrediction::Majority {
        leaf.evidence(lesson.row, lesson.logs, lesson.column);
        add_shares(counts, lesson.logs);
        let bayes = greatest(lesson.logs);
        if leaf.answers_by_bayes(lesson.parameters) {
            answer = bayes;
        }
        if bayes == lesson.class {
            leaf.bayes_right += lesson.weight;
        }
    }
    if majority == lesson.class {
        leaf.majority_right += lesson.weight;
    }
    leaf.observe(lesson.row, lesson.class, lesson.weight);
    answer != lesson.class
}

/// The split of most information, if it is sure enough to be the best one, and more than chance.
fn worth_a_split(leaf: &Leaf, parameters: &HoeffdingTree) -> Option<Candidate> {
    if leaf.seen.iter().filter(|&&weight| weight > 0.0).count() < 2 {
        return None;
    }
    let (mut best, mut second): (Option<Candidate>, f64) = (None, 0.0);
    for candidate in leaf.candidates() {
        match &best {
            Some(found) if candidate.gain <= found.gain => second = second.max(candidate.gain),
            found => {
                second = found.as_ref().map_or(0.0, |found| found.gain);
                best = Some(candidate);
            }
        }
    }
    let best = best?;
    let (seen, sure) = (leaf.seen.iter().sum::<f64>(), -libm::log(parameters.delta));
    let range = libm::log2(leaf.seen.len() as f64);
    let bound = range * libm::sqrt(sure / (2.0 * seen));
    // Twice the gain in nats times the rows is distributed as chi-squared where the column says nothing.
    let by_chance = seen * best.gain * std::f64::consts::LN_2 < sure;
    ((best.gain - second > bound || bound < parameters.tau) && !by_chance).then_some(best)
}
