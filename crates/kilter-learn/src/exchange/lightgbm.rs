//! LightGBM's text format, versions 2 to 4.
//!
//! ```text
//! tree                      head: objective, feature names, number of trees
//! version=v4
//! …
//! Tree=0                    for each tree its arrays; a negative child is a leaf
//! num_leaves=7
//! …
//! end of trees
//! ```
//! A number of `decision_type` holds bit 0: categories, bit 1: missing values go left, bits 2 and 3: what is missing (nothing, zeros, NaN).

use std::collections::BTreeMap;

use super::Imported;
use super::ensemble::{Arithmetic, Ensemble, Inputs, Origin, Output, Width};
use super::tree::{Missing, Part, Rule, Split, Tree};
use crate::{ClassLink, LearnError};

pub(crate) const KIND: &str = "lightgbm";

const CATEGORICAL: u8 = 1;
const DEFAULT_LEFT: u8 = 2;

/// One stretch of `key=value` lines, each with its number in the file.
#[derive(Default)]
struct Section<'a> {
    line: usize,
    entries: BTreeMap<&'a str, (usize, &'a str)>,
}

fn fault(line: usize, what: impl Into<String>, hint: &'static str) -> LearnError {
    let at = if line == 0 { String::new() } else { format!("line {line}") };
    LearnError::Foreign { format: "LightGBM", at, what: what.into(), hint }
}

const CUT: &str = "the file is cut or was edited: save the model again with booster.save_model";

impl<'a> Section<'a> {
    fn get(&self, key: &str) -> Result<(usize, &'a str), LearnError> {
        self.entries.get(key).copied().ok_or_else(|| fault(self.line, format!("`{key}=` is missing in what begins here"), CUT))
    }

    fn number<T: std::str::FromStr>(&self, key: &str) -> Result<T, LearnError> {
        let (line, text) = self.get(key)?;
        text.trim().parse().map_err(|_| fault(line, format!("`{key}={}` is no number of its kind", shortened(text)), CUT))
    }

    /// `count` numbers.
    fn numbers<T: std::str::FromStr>(&self, key: &str, count: usize) -> Result<Vec<T>, LearnError> {
        let (line, text) = self.get(key)?;
        let numbers = text
            .split_ascii_whitespace()
            .enumerate()
            .map(|(at, word)| {
                word.parse().map_err(|_| fault(line, format!("`{}`, number {at} of `{key}`, cannot be read", shortened(word)), CUT))
            })
            .collect::<Result<Vec<T>, _>>()?;
        if numbers.len() == count {
            return Ok(numbers);
        }
        Err(fault(line, format!("`{key}` has {} numbers for {count} expected", numbers.len()), CUT))
    }

    /// The same, where old files leave the line out.
    fn numbers_or(&self, key: &str, count: usize, otherwise: f64) -> Result<Vec<f64>, LearnError> {
        if self.entries.contains_key(key) { self.numbers(key, count) } else { Ok(vec![otherwise; count]) }
    }
}

fn shortened(text: &str) -> String {
    if text.chars().count() > 40 { text.chars().take(40).chain("…".chars()).collect() } else { text.to_string() }
}

/// Reads a model file: one ensemble, or one for each class.
pub fn read(bytes: &[u8]) -> Result<Imported, LearnError> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let line = 1 + bytes[..error.valid_up_to()].iter().filter(|&&byte| byte == b'\n').count();
        fault(line, "bytes that are no UTF-8", "the text format is meant, not a pickle of the Python object")
    })?;
    let (head, trees, pandas) = sections(text)?;
    let (line, version) = head.get("version")?;
    if !["v2", "v3", "v4"].contains(&version) {
        return Err(fault(line, format!("format version `{}` is unknown; v2, v3 and v4 are read", shortened(version)), ""));
    }
    let classes: usize = head.number("num_class")?;
    let a_round: usize = head.number("num_tree_per_iteration")?;
    let several = classes != 1 || a_round != 1;
    if several && !head.get("objective").is_ok_and(|(_, objective)| objective.starts_with("multiclass")) {
        let what = format!("`num_class={classes}` and `num_tree_per_iteration={a_round}`: several outputs that are no classes");
        let hint = "models with one output, or of the objectives multiclass and multiclassova, can be imported";
        return Err(fault(head.get("num_class")?.0, what, hint));
    }
    if classes == 0 || a_round != classes || trees.len() % classes != 0 {
        let what = format!("{classes} classes, {a_round} trees a round and {} trees", trees.len());
        return Err(fault(head.get("num_tree_per_iteration")?.0, what, CUT));
    }
    let columns = head.number::<usize>("max_feature_idx")?.saturating_add(1);
    let (line, names) = head.get("feature_names")?;
    let inputs: Vec<String> = names.split_ascii_whitespace().map(str::to_string).collect();
    if inputs.len() != columns {
        return Err(fault(line, format!("{} feature names for {columns} features", inputs.len()), CUT));
    }
    if let Some((line, sizes)) = head.entries.get("tree_sizes") {
        let expected = sizes.split_ascii_whitespace().count();
        if expected != trees.len() {
            return Err(fault(*line, format!("{expected} trees are announced, {} follow", trees.len()), CUT));
        }
    }
    let (objective, output) = objective(&head)?;
    let link = match objective.split_ascii_whitespace().next() {
        Some("multiclass") => Some(ClassLink::Softmax),
        Some("multiclassova") => Some(ClassLink::OneVsAll),
        _ => None,
    };
    // One class alone has nothing to be told from.
    let link = link.filter(|_| classes > 1);
    let rounds = trees.len() / classes;
    let divisor = if head.entries.contains_key("average_output") { rounds.max(1) as f64 } else { 1.0 };
    let mut notes = Vec::new();
    if pandas.is_some_and(|list| list.trim() != "[]" && list.trim() != "null") {
        notes
            .push("trained on pandas categories: inputs of that kind are the categories' codes, in the order of the training frame".into());
    }
    let trees = trees.iter().map(|section| tree(section, columns)).collect::<Result<Vec<_>, _>>()?;
    let origin = Origin { program: KIND.into(), version: version.into(), objective, notes };
    let arithmetic = Arithmetic { inputs: Inputs::DoubleTinyIsZero, sum: Width::Double, start: 0.0, divisor, offset: 0.0, output };
    // The trees of a round follow each other, one a class.
    let mut by_class: Vec<Vec<Tree>> = (0..classes).map(|_| Vec::with_capacity(rounds)).collect();
    trees.into_iter().enumerate().for_each(|(at, tree)| by_class[at % classes].push(tree));
    let member = |trees| Ensemble::new(KIND, inputs.clone(), origin.clone(), arithmetic.clone(), trees);
    Ok(Imported { members: by_class.into_iter().map(member).collect(), link })
}

/// The head, the trees, and what is said of pandas' categories at the very end.
fn sections(text: &str) -> Result<(Section<'_>, Vec<Section<'_>>, Option<&str>), LearnError> {
    let mut head = Section { line: 1, ..Section::default() };
    let mut trees: Vec<Section<'_>> = Vec::new();
    let mut lines = text.lines().enumerate().map(|(at, line)| (at + 1, line.trim_end()));
    let mut ended = false;
    for (number, line) in lines.by_ref() {
        if ["end of trees", "feature importances:", "feature_importances:", "parameters:"].contains(&line) {
            ended = true;
            break;
        }
        let (key, value) = line.split_once('=').unwrap_or((line, ""));
        if key == "Tree" {
            if value != trees.len().to_string() {
                return Err(fault(number, format!("tree {} is expected here, not `{}`", trees.len(), shortened(line)), CUT));
            }
            trees.push(Section { line: number, ..Section::default() });
        } else if !key.is_empty() {
            trees.last_mut().unwrap_or(&mut head).entries.insert(key, (number, value));
        }
    }
    if !ended {
        return Err(fault(text.lines().count(), "the file ends before `end of trees`", CUT));
    }
    let pandas = lines.find_map(|(_, line)| line.strip_prefix("pandas_categorical:"));
    Ok((head, trees, pandas))
}

fn objective(head: &Section<'_>) -> Result<(String, Output), LearnError> {
    // A model trained with an objective of one's own has no such line: its sums are what it predicts.
    let Some(&(line, text)) = head.entries.get("objective") else { return Ok(("custom".into(), Output::Value)) };
    let mut words = text.split_ascii_whitespace();
    let name = words.next().unwrap_or_default();
    let settings: BTreeMap<&str, &str> = words.clone().filter_map(|word| word.split_once(':')).collect();
    let refuse = |why: &str| {
        let hint = "these are read: binary, cross_entropy, multiclass, multiclassova, regression and its kin, poisson, gamma, tweedie, lambdarank, rank_xendcg";
        Err(fault(line, format!("objective `{}` {why}", shortened(text)), hint))
    };
    if words.any(|word| word == "sqrt") {
        return refuse("squares its sums (reg_sqrt), which is not supported");
    }
    let output = match name {
        "binary" | "multiclassova" => {
            let slope = settings.get("sigmoid").map_or(Ok(1.0), |slope| slope.parse::<f64>());
            match slope {
                Ok(slope) if slope.is_finite() && slope > 0.0 => Output::LogOdds(slope),
                _ => return refuse("has a slope that is no number above 0"),
            }
        }
        "cross_entropy" => Output::LogOdds(1.0),
        "multiclass" => Output::Value,
        "poisson" | "gamma" | "tweedie" => Output::Logarithm,
        "regression" | "regression_l1" | "huber" | "fair" | "quantile" | "mape" | "lambdarank" | "rank_xendcg" | "custom" | "none" => {
            Output::Value
        }
        _ => return refuse("is not supported"),
    };
    Ok((text.to_string(), output))
}

fn tree(section: &Section<'_>, columns: usize) -> Result<Tree, LearnError> {
    let leaves: usize = section.number("num_leaves")?;
    let nodes = leaves.checked_sub(1).ok_or_else(|| fault(section.line, "a tree without leaves", CUT))?;
    if section.entries.get("is_linear").is_some_and(|(_, value)| *value != "0") {
        let hint = "train with linear_tree=false: a leaf that is a formula of its own cannot be imported";
        return Err(fault(section.get("is_linear")?.0, "a tree with linear leaves", hint));
    }
    let values = section.numbers::<f64>("leaf_value", leaves)?;
    if nodes == 0 {
        let leaf = Part::Leaf { value: values[0], cover: 1.0 };
        return Tree::build(&[leaf], 0, Vec::new()).map_err(|what| fault(section.line, what, CUT));
    }
    let column = section.numbers::<u32>("split_feature", nodes)?;
    let threshold = section.numbers::<f64>("threshold", nodes)?;
    let decision = section.numbers::<u8>("decision_type", nodes)?;
    let (left, right) = (section.numbers::<i32>("left_child", nodes)?, section.numbers::<i32>("right_child", nodes)?);
    let gain = section.numbers_or("split_gain", nodes, 0.0)?;
    let cover = section.numbers_or("internal_count", nodes, 0.0)?;
    let leaf_cover = section.numbers_or("leaf_count", leaves, 0.0)?;
    let (categories, bounds) = categories(section)?;

    let place = |child: i32| if child >= 0 { child as usize } else { nodes + !child as usize };
    let mut parts = Vec::with_capacity(nodes + leaves);
    for node in 0..nodes {
        let line = || section.get("split_feature").map_or(section.line, |(line, _)| line);
        if column[node] as usize >= columns {
            return Err(fault(line(), format!("node {node} splits on feature {}, of {columns}", column[node]), CUT));
        }
        let (rule, missing) = if decision[node] & CATEGORICAL != 0 {
            let set = threshold[node] as usize;
            let range = bounds
                .get(set)
                .ok_or_else(|| fault(line(), format!("node {node} names set {set} of categories, of {}", bounds.len()), CUT))?;
            (Rule::OneOf { first: range.0, count: range.1 }, Missing::Right)
        } else {
            let left = decision[node] & DEFAULT_LEFT != 0;
            let missing = match (decision[node] >> 2 & 3, left) {
                (0, _) => Missing::IsZero,
                (1, true) => Missing::ZeroTooLeft,
                (1, false) => Missing::ZeroTooRight,
                (2, true) => Missing::Left,
                (2, false) => Missing::Right,
                _ => return Err(fault(section.get("decision_type")?.0, format!("`{}` is no decision type", decision[node]), CUT)),
            };
            (Rule::AtMost(threshold[node]), missing)
        };
        let split = Split { column: column[node], rule, missing };
        parts.push(Part::Split { split, left: place(left[node]), right: place(right[node]), cover: cover[node], gain: gain[node] });
    }
    parts.extend(values.iter().zip(leaf_cover).map(|(&value, cover)| Part::Leaf { value, cover }));
    Tree::build(&parts, 0, categories).map_err(|what| fault(section.line, what, CUT))
}

/// The categories of all sets one after the other, and where each set lies (first, count). The file has them as bits.
#[expect(clippy::type_complexity, reason = "a list and its parts")]
fn categories(section: &Section<'_>) -> Result<(Vec<u32>, Vec<(u32, u32)>), LearnError> {
    let (mut categories, mut bounds) = (Vec::new(), Vec::new());
    let sets: usize = if section.entries.contains_key("num_cat") { section.number("num_cat")? } else { 0 };
    if sets == 0 {
        return Ok((categories, bounds));
    }
    let (line, _) = section.get("cat_boundaries")?;
    let at = section.numbers::<usize>("cat_boundaries", sets.saturating_add(1))?;
    let count = section.get("cat_threshold")?.1.split_ascii_whitespace().count();
    let words = section.numbers::<u32>("cat_threshold", count)?;
    for set in at.windows(2) {
        // Beyond 2^26 words no number would be a category of LightGBM, which are of 32 bits with a sign.
        let bits = words.get(set[0]..set[1]).filter(|bits| bits.len() < 1 << 26);
        let bits = bits.ok_or_else(|| fault(line, format!("`cat_boundaries` names words {} to {} of {count}", set[0], set[1]), CUT))?;
        let first = categories.len() as u32;
        for (word, &bits) in (0u32..).zip(bits) {
            categories.extend((0..32).filter(|bit| bits >> bit & 1 == 1).map(|bit| 32 * word + bit));
        }
        bounds.push((first, categories.len() as u32 - first));
    }
    Ok((categories, bounds))
}
